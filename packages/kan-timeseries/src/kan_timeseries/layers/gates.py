"""LSTM and GRU whose gate maps are any layer: KAN-LSTM, KAN-GRU, QKAN-LSTM, HQKAN-LSTM, and the plain ones."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kan_core.errors import KANError
from kan_core.layers import LayerFactory, QKANLinear, activation_before, get
from kan_core.layers.gated_residual import reset_children

Wiring = Literal["split", "joint", "bottleneck"]
Circuits = Literal["per_edge", "grouped", "bottleneck"]
State = tuple[Tensor, ...]
"""What a recurrent layer carries: ``(h, c)`` of an LSTM, ``(h,)`` of a GRU."""


class JHCG(nn.Module):
    r"""Encoder, small latent layer, decoder: with a QKAN as latent layer the HQKAN, any other layer will do.

    Equation: y = Dec(layer(Enc(x))), Enc: a → s ⌈log₂ a⌉ and Dec: s ⌈log₂ o⌉ → o linear

    Reference: QKAN-LSTM (arXiv 2512.05049), the Jiang-Huang-Chen-Goan net; sizes as in its library's examples.
    `kan_core.layers.HQKANLinear` is the form whose latent layer is square.

    Args:
        in_features: a.
        out_features: o.
        layer: The latent layer; ``"linear"`` follows a SiLU, which makes the MLP twin.
        scale: s, 1 or larger: the library's larger variant has 4.
        bias: Constants in encoder and decoder; the latent layer's would add to the decoder's.
        device: Where the parameters live.
        dtype: Type of the parameters.

    Raises:
        KANError: For a scale below 1 or an unknown layer.

    Shape:
        - Input: ``(..., in_features)``
        - Output: ``(..., out_features)``

    Parameters: with latent sizes a' and o', a a' + a' + (edges a' o') + o' o + o.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        layer: LayerFactory | str = "qkan(reps=1)",
        scale: int = 1,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if scale < 1:
            raise KANError(f"the scale of the latent sizes must be at least 1, got {scale}")
        # the bits of a - 1 are ⌈log₂ a⌉
        sizes = [scale * max(1, (size - 1).bit_length()) for size in (in_features, out_features)]
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        self.encode = nn.Linear(in_features, sizes[0], bias=bias, **options)
        self.activation = activation_before(layer)
        self.latent = get(layer)(*sizes, bias=False, **options)  # the decoder has the constants
        self.decode = nn.Linear(sizes[1], out_features, bias=bias, **options)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., in_features)`` to ``(..., out_features)``."""
        return self.after_encoder(self.encode(x))

    def after_encoder(self, z: Tensor) -> Tensor:
        """The rest, from the encoder's output."""
        y: Tensor = self.decode(self.latent(self.activation(z)))
        return y


class _GateMap(nn.Module):
    """From x and h to the pre-activations of gates; :meth:`prepare` does what needs x alone, for all steps at once."""

    def prepare(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, prepared: Tensor, h: Tensor) -> Tensor:
        raise NotImplementedError


class _Split(_GateMap):
    """One layer for x, called once for all steps, and one for h: the sum is one layer on [h, x] that adds over inputs.

    Every KAN layer that adds functions of single inputs is such a layer; one that mixes its inputs first (a norm,
    HQKAN) becomes the sum of two.
    """

    def __init__(self, input: nn.Module, recurrent: nn.Module) -> None:
        super().__init__()
        self.input = input
        self.recurrent = recurrent

    def prepare(self, x: Tensor) -> Tensor:
        y: Tensor = self.input(x)
        return y

    def forward(self, prepared: Tensor, h: Tensor) -> Tensor:
        y: Tensor = prepared + self.recurrent(h)
        return y

    def matrices(self) -> list[Tensor] | None:
        """Weights and biases in the order of ``nn.LSTM``, when both layers are ``nn.Linear``."""
        if not (isinstance(self.input, nn.Linear) and isinstance(self.recurrent, nn.Linear)):
            return None
        weights = [self.input.weight, self.recurrent.weight]
        biases = [self.input.bias, self.recurrent.bias]
        zero = weights[0].new_zeros(weights[0].shape[0])
        return weights + [zero if b is None else b for b in biases]


class _Joint(_GateMap):
    """One layer on v = [h, x], called in every step."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def prepare(self, x: Tensor) -> Tensor:
        return x

    def forward(self, prepared: Tensor, h: Tensor) -> Tensor:
        y: Tensor = self.layer(torch.cat([h, prepared], dim=-1))
        return y


class _Bottleneck(_GateMap):
    """A `JHCG` net on v = [h, x]; the encoder's columns for x are applied to all steps at once."""

    def __init__(self, net: JHCG, h_size: int) -> None:
        super().__init__()
        self.net = net
        self.h_size = h_size

    def prepare(self, x: Tensor) -> Tensor:
        return F.linear(x, self.net.encode.weight[:, self.h_size :], self.net.encode.bias)

    def forward(self, prepared: Tensor, h: Tensor) -> Tensor:
        return self.net.after_encoder(prepared + F.linear(h, self.net.encode.weight[:, : self.h_size]))


def _biased(bias: bool) -> dict[str, bool]:
    """True leaves a layer at its own default, for not every factory takes `bias`."""
    return {} if bias else {"bias": False}


def _gate_map(
    x_size: int,
    h_size: int,
    out: int,
    *,
    wiring: Wiring,
    layer: LayerFactory | str,
    bias: bool,
    recurrent_bias: bool,
    latent_scale: int,
    **options: Any,
) -> _GateMap:
    if wiring == "bottleneck":
        net = JHCG(h_size + x_size, out, layer=layer, scale=latent_scale, bias=bias, **options)
        return _Bottleneck(net, h_size)
    make = partial(get(layer), **options)
    if wiring == "joint":
        return _Joint(make(h_size + x_size, out, **_biased(bias)))
    return _Split(make(x_size, out, **_biased(bias)), make(h_size, out, **_biased(recurrent_bias)))


class _Cell(nn.Module):
    """One step: ``forward(prepared, state) -> state``, where h is the first tensor of a state."""

    def prepare(self, x: Tensor) -> tuple[Tensor, ...]:
        raise NotImplementedError

    def forward(self, prepared: tuple[Tensor, ...], state: State) -> State:
        raise NotImplementedError

    def fused(self, x: Tensor, state: State) -> tuple[Tensor, State] | None:
        """All steps by torch's own kernel, where the maps are plain linear layers; None elsewhere."""
        raise NotImplementedError


def _matrices(gates: _GateMap, x: Tensor) -> list[Tensor] | None:
    """The matrices of linear maps, where torch's kernel can run: on a CPU without bfloat16, that fails in half."""
    kind = x.device.type
    if kind == "cpu":
        able = x.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled("cpu")
    else:
        able = kind == "cuda"
    return gates.matrices() if able and isinstance(gates, _Split) else None


class _LSTMCell(_Cell):
    """c' = σ(f) ⊙ c + σ(i) ⊙ tanh(g), h' = σ(o) ⊙ tanh(c'); the maps to i, f, g and o are one layer."""

    def __init__(self, x_size: int, h_size: int, make: Callable[..., _GateMap]) -> None:
        super().__init__()
        self.gates = make(x_size, h_size, 4 * h_size)

    def prepare(self, x: Tensor) -> tuple[Tensor, ...]:
        return (self.gates.prepare(x),)

    def forward(self, prepared: tuple[Tensor, ...], state: State) -> State:
        h, c = state
        i, f, g, o = self.gates(prepared[0], h).chunk(4, dim=-1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c

    def fused(self, x: Tensor, state: State) -> tuple[Tensor, State] | None:
        weights = _matrices(self.gates, x)
        if weights is None:
            return None
        # has_biases, layers, dropout, train, bidirectional, batch_first
        out, h, c = torch.lstm(x, [s[None] for s in state], weights, True, 1, 0.0, False, False, False)
        return out, (h[0], c[0])


class _GRUCell(_Cell):
    """r, z and n from one map; the reset gate r scales what h's own layer gives to n, as in torch, cuDNN and keras."""

    def __init__(self, x_size: int, h_size: int, make: Callable[..., _GateMap]) -> None:
        super().__init__()
        self.gates = cast(_Split, make(x_size, h_size, 3 * h_size))
        self.sizes = [2 * h_size, h_size]

    def prepare(self, x: Tensor) -> tuple[Tensor, ...]:
        return torch.split(self.gates.prepare(x), self.sizes, dim=-1)

    def forward(self, prepared: tuple[Tensor, ...], state: State) -> State:
        (h,) = state
        gates, candidate = torch.split(self.gates.recurrent(h), self.sizes, dim=-1)
        r, z = (prepared[0] + gates).sigmoid().chunk(2, dim=-1)
        n = (prepared[1] + r * candidate).tanh()
        return (n + z * (h - n),)

    def fused(self, x: Tensor, state: State) -> tuple[Tensor, State] | None:
        weights = _matrices(self.gates, x)
        if weights is None:
            return None
        out, h = torch.gru(x, state[0][None], weights, True, 1, 0.0, False, False, False)
        return out, (h[0],)


class _ResetBeforeGRUCell(_Cell):
    """r and z from one map, n from a second one that sees [r ⊙ h, x]: the GRU as published (arXiv 1406.1078)."""

    def __init__(self, x_size: int, h_size: int, make: Callable[..., _GateMap]) -> None:
        super().__init__()
        self.gates = make(x_size, h_size, 2 * h_size)
        self.candidate = make(x_size, h_size, h_size)

    def prepare(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.gates.prepare(x), self.candidate.prepare(x)

    def forward(self, prepared: tuple[Tensor, ...], state: State) -> State:
        (h,) = state
        r, z = self.gates(prepared[0], h).sigmoid().chunk(2, dim=-1)
        n = self.candidate(prepared[1], r * h).tanh()
        return (n + z * (h - n),)

    def fused(self, x: Tensor, state: State) -> tuple[Tensor, State] | None:
        return None


class GatedRecurrent(nn.Module):
    """What `KANLSTM` and `KANGRU` share: wirings, stacked layers, directions, states and masks."""

    num_states: int
    has_recurrent_bias: bool

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        layer: LayerFactory | str = "bspline",
        wiring: Wiring = "split",
        num_layers: int = 1,
        bidirectional: bool = False,
        go_backwards: bool = False,
        return_sequences: bool = True,
        dropout: float = 0.0,
        bias: bool = True,
        recurrent_bias: bool | None = None,
        latent_scale: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("input_size", input_size), ("hidden_size", hidden_size), ("num_layers", num_layers)):
            if value < 1:
                raise KANError(f"{name} must be at least 1, got {value}")
        if wiring not in get_args(Wiring):
            raise KANError(f"wiring must be one of {', '.join(get_args(Wiring))}, got {wiring!r}")
        if recurrent_bias is not None and wiring != "split":
            raise KANError(f"recurrent_bias belongs to wiring='split', the other wirings have one map; got {wiring!r}")
        if latent_scale is not None and wiring != "bottleneck":
            raise KANError(f"latent_scale belongs to wiring='bottleneck', got {wiring!r}")
        if bidirectional and go_backwards:
            raise KANError("bidirectional runs backwards as well: leave out go_backwards")
        if dropout and num_layers == 1:
            raise KANError(f"dropout acts between layers, and there is one: set it to 0, got {dropout}")
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.return_sequences = return_sequences
        self.dropout = dropout
        self.reversed = [False, True] if bidirectional else [go_backwards]
        make = partial(
            _gate_map,
            wiring=wiring,
            layer=layer,
            bias=bias,
            recurrent_bias=bias and self.has_recurrent_bias if recurrent_bias is None else recurrent_bias,
            latent_scale=1 if latent_scale is None else latent_scale,
            device=device,
            dtype=dtype,
        )
        sizes = [input_size] + [self.output_size] * (num_layers - 1)
        self.cells = nn.ModuleList(self._cell(wiring)(size, hidden_size, make) for size in sizes for _ in self.reversed)

    @property
    def output_size(self) -> int:
        """Numbers per step that :meth:`forward` returns: hidden_size, twice that with both directions."""
        return self.hidden_size * len(self.reversed)

    def _cell(self, wiring: Wiring) -> Callable[..., _Cell]:
        raise NotImplementedError

    def reset_parameters(self) -> None:
        """Draw new weights in every layer of every gate."""
        reset_children(self)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The outputs of :meth:`forward_with_state`, from a state of zeros."""
        return self.forward_with_state(x, mask=mask)[0]

    def forward_with_state(
        self, x: Tensor, state: State | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Run over all steps.

        A sequence cut in two and run with the state handed on gives what the whole gives (forwards).

        Args:
            x: ``(B, T, input_size)``.
            state: To start from: tensors ``(num_layers * directions, B, hidden_size)`` as those returned; None for
                zeros.
            mask: ``(B, T)``, True where a step is present. Another step leaves the state as it is, and its output is
                the state's.

        Returns:
            ``(B, T, hidden_size * directions)``, each output at the time of its step in both directions, or with
            ``return_sequences=False`` ``(B, hidden_size * directions)``, the last layer's after its last step; and the
            state after the last step of every layer and direction.

        Raises:
            KANError: For an input, state or mask of another shape.
        """
        states = self._check(x, state, mask)
        x = x.transpose(0, 1)
        steps = None if mask is None else mask.bool().t().unsqueeze(-1)
        finals: list[State] = []
        for index in range(self.num_layers):
            outputs = []
            for reverse in self.reversed:
                cell = cast(_Cell, self.cells[len(finals)])
                out, final = _run(cell, x, states[len(finals)], steps, reverse)
                outputs.append(out)
                finals.append(final)
            x = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-1)
            if index + 1 < self.num_layers:
                x = F.dropout(x, self.dropout, self.training)
        last = [final[0] for final in finals[-len(self.reversed) :]]
        y = x.transpose(0, 1) if self.return_sequences else torch.cat(last, dim=-1)
        return y, tuple(torch.stack(tensors) for tensors in zip(*finals, strict=True))

    def _check(self, x: Tensor, state: State | None, mask: Tensor | None) -> list[State]:
        """The state to start from of every layer and direction."""
        if x.dim() != 3 or x.shape[1] == 0 or x.shape[2] != self.input_size:
            raise KANError(f"expected an input of shape (batch, steps, {self.input_size}), got {tuple(x.shape)}")
        if mask is not None and mask.shape != x.shape[:2]:
            raise KANError(f"mask must have shape {tuple(x.shape[:2])}, (batch, steps), got {tuple(mask.shape)}")
        shape = (len(self.cells), x.shape[0], self.hidden_size)  # len(x) would fix the batch of an export
        if state is None:
            state = (x.new_zeros(shape),) * self.num_states
        if len(state) != self.num_states or any(s.shape != shape for s in state):
            found = [tuple(s.shape) for s in state]
            raise KANError(f"state must be {self.num_states} tensors of shape {shape}, got {found}")
        return list(zip(*(s.unbind(0) for s in state), strict=True))

    def extra_repr(self) -> str:
        """The arguments, for ``repr``."""
        return (
            f"input_size={self.input_size}, hidden_size={self.hidden_size}, num_layers={self.num_layers}, "
            f"reversed={self.reversed}, return_sequences={self.return_sequences}"
        )


def _run(cell: _Cell, x: Tensor, state: State, mask: Tensor | None, reverse: bool) -> tuple[Tensor, State]:
    """One layer in one direction: ``(T, B, size)`` and a state to ``(T, B, hidden)`` and the state after it."""
    if mask is None:
        fused = cell.fused(x.flip(0) if reverse else x, state)
        if fused is not None:
            return (fused[0].flip(0) if reverse else fused[0]), fused[1]
    prepared = list(zip(*(p.unbind(0) for p in cell.prepare(x)), strict=True))
    outputs: list[Tensor] = []
    for step in reversed(range(len(prepared))) if reverse else range(len(prepared)):
        after: State = cell(prepared[step], state)
        if mask is not None:
            after = tuple(torch.where(mask[step], new, old) for new, old in zip(after, state, strict=True))
        state = after
        outputs.append(state[0])
    return torch.stack(outputs[::-1] if reverse else outputs), state


class KANLSTM(GatedRecurrent):
    r"""LSTM whose gate maps are KAN layers, or any others: ``layer="linear"`` is the plain LSTM.

    h and c start at zero, so |h| < 1 always: inside the default grid of the B-spline. One layer gives all four gates.

    Equation: [i, f, g, o] = L([h, x]); c' = σ(f) ⊙ c + σ(i) ⊙ tanh(g); h' = σ(o) ⊙ tanh(c')

    Reference: QKAN-LSTM (arXiv 2512.05049) for gates made of learned functions; the exact wiring is not stated there.

    Avoids: the input's part of every gate in the time loop: in the default wiring one call serves all steps.

    Args:
        input_size: d, features of a step.
        hidden_size: n, size of h and c.
        layer: A layer factory or its name. With ``"linear"`` and the default wiring, torch's own kernel runs.
        wiring: What L is. ``"split"``: a layer on x, hoisted out of the loop, plus a layer on h; for layers that add
            functions of single inputs the same functions and parameters as ``"joint"``: one layer on [h, x].
            ``"bottleneck"``: a `JHCG` net on [h, x].
        num_layers: Stacked layers, each on the outputs of the one before it.
        bidirectional: A second set of layers that runs backwards in time, its outputs appended.
        go_backwards: Run backwards only. Outputs stay at the times of their steps (keras would return them reversed).
        return_sequences: Return all steps' outputs, or the last layer's after its last step.
        dropout: Probability of a zero between stacked layers.
        bias: False asks all layers for no constants; True leaves them at their own defaults.
        recurrent_bias: Whether the layer on h has constants beside those of the layer on x, in the wiring ``"split"``.
            None: not in an LSTM, where one would do the other's work (keras counts so; torch has both), but in a GRU,
            where the reset gate scales them (keras and torch alike).
        latent_scale: For ``"bottleneck"``, see `JHCG`; None for 1.
        device: Where the parameters live.
        dtype: Type of the parameters.

    Raises:
        KANError: For an option out of its range or one that the wiring does not have, or an input of another shape.

    Shape:
        - Input: ``(B, T, input_size)``, and a mask ``(B, T)``
        - Output: ``(B, T, hidden_size)``, or ``(B, hidden_size)`` with ``return_sequences=False``

    Parameters: 4n(d + n) edges of the layer, + 4n with bias, + 4n with recurrent_bias.

    Example:
        >>> KANLSTM(3, 8, layer="rbf(num_centers=5)")(torch.zeros(2, 10, 3)).shape
        torch.Size([2, 10, 8])
    """

    num_states = 2
    has_recurrent_bias = False

    def _cell(self, wiring: Wiring) -> Callable[..., _Cell]:
        return _LSTMCell


class KANGRU(GatedRecurrent):
    r"""GRU whose gate maps are KAN layers, or any others: ``layer="linear"`` is the plain GRU.

    Equation: [r, z] = σ(L([h, x])); h' = (1 − z) ⊙ n + z ⊙ h. In the wiring ``"split"``, n = tanh(L_x(x) + r ⊙ L_h(h))
    as in torch, and r, z and n are one layer; in the others n = tanh(L_n([r ⊙ h, x])) as published (arXiv 1406.1078),
    by a layer of its own.

    Args and shapes are those of `KANLSTM`.

    Parameters: 3n(d + n) edges of the layer, + 3n with bias, + 3n with recurrent_bias.
    """

    num_states = 1
    has_recurrent_bias = True

    def _cell(self, wiring: Wiring) -> Callable[..., _Cell]:
        return _GRUCell if wiring == "split" else _ResetBeforeGRUCell


def qkan_lstm(
    input_size: int, hidden_size: int, *, circuits: Circuits = "per_edge", reps: int = 1, **options: Any
) -> KANLSTM:
    r"""QKAN-LSTM: gates that are sums of simulated one-qubit circuits (DARUAN).

    With a circuit on every edge the gates have *more* parameters than affine gates of the same hidden size; the saving
    that the paper reports needs a smaller hidden size, shared circuits or a bottleneck. Publish both counts.

    Reference: QKAN-LSTM and HQKAN-LSTM (arXiv 2512.05049); where the circuits sit is our reading.

    Args:
        input_size: d.
        hidden_size: n.
        circuits: ``"per_edge"``: 4n(n + d) circuits. ``"grouped"``: one for every entry of h and x, which all gates
            share; a factor on every edge and the base branch tell the gates apart. ``"bottleneck"`` (HQKAN-LSTM): one
            per edge of a small QKAN between linear layers, see `JHCG`.
        reps: Uploads of a circuit.
        **options: Those of `KANLSTM`, but for layer and wiring.

    Raises:
        KANError: For other circuits, or an option out of its range.

    Parameters: without bias, per edge e = 4n(n + d): (2 reps + 3) e; grouped: 2 (reps + 1)(n + d) + 2 e; bottleneck
    with a = ⌈log₂(n + d)⌉, o = ⌈log₂ 4n⌉: a (n + d) + (2 reps + 3) a o + 4n o.
    """
    if circuits not in get_args(Circuits):
        raise KANError(f"circuits must be one of {', '.join(get_args(Circuits))}, got {circuits!r}")
    layer = partial(_shared_circuits if circuits == "grouped" else QKANLinear, reps=reps)
    wiring: Wiring = "bottleneck" if circuits == "bottleneck" else "split"
    return KANLSTM(input_size, hidden_size, layer=layer, wiring=wiring, **options)


def _shared_circuits(in_features: int, out_features: int, **options: Any) -> QKANLinear:
    return QKANLinear(in_features, out_features, groups=in_features, post_weight=True, **options)
