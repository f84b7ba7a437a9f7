"""TKAN: an LSTM whose output gate is made by small KAN layers, each with a memory of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kan_core.errors import KANError
from kan_timeseries.layers._scan import Candidate, GateScan
from kan_timeseries.layers.sub_layers import SubLayer, glorot, make_sub_layer, scan_sub_layers


class TKANState(NamedTuple):
    """What a TKAN cell carries from step to step.

    Attributes:
        h: Output, ``(B, hidden_size)``.
        c: Cell state, ``(B, hidden_size)``.
        m: Memories of the L sub-layers, ``(B, L, sub_outputs)``.
    """

    h: Tensor
    c: Tensor
    m: Tensor


States = TKANState | tuple[TKANState, TKANState]
"""The state of a layer; of a bidirectional one a pair, forwards first."""


class TKANCell(nn.Module):
    r"""One step of TKAN.

    Equations, for the L sub-layers KAN_l and row vectors:

    - [z_i, z_f, z_g] = x_t W_x + h_{t−1} W_h + b; i = σ(z_i), f = σ(z_f), c_t = f ⊙ c_{t−1} + i ⊙ c̃
    - o_l = KAN_l(x_t A_l + m_{l,t−1} R_l); m_{l,t} = α_l ⊙ o_l + β_l ⊙ m_{l,t−1}
    - h_t = σ(concat(o_1 … o_L) W_o + b_o) ⊙ tanh(c_t)

    The sub-layers see neither h nor c. Hence :meth:`scan` runs over a sequence in two recurrences, with everything
    else in large matrix products.

    References: TKAN (arXiv 2405.07344 v4, section III, equations 8 to 16). The paper leaves open how α and β start;
    here, as A and R, orthogonally.

    Args:
        input_size: Size d of x_t.
        hidden_size: Size u of h_t and c_t.
        sub_layers: One entry per sub-layer, see :data:`~kan_timeseries.layers.sub_layers.SubLayer`.
        sub_inputs: Width p of what a sub-layer sees; None for `input_size`.
        sub_outputs: Width q of its output and memory; None for `input_size`.
        candidate: c̃: ``"sigmoid"``, σ(z_g), of the paper; ``"tanh_sigmoid"``, tanh(σ(z_g)), of the authors' runs with
            other backends than TensorFlow; ``"tanh"``, tanh(z_g), of an LSTM.
        device: Where the parameters live.
        dtype: Type of the parameters.

    Raises:
        KANError: For a size below 1, no sub-layer, an unknown sub-layer or candidate, or a sub-layer of width 1 with
            LayerNorm, whose output would be constant.

    Shape:
        - Input: ``(B, input_size)``, and a :class:`TKANState` or None for zeros
        - Output: h ``(B, hidden_size)``, and the next state

    Parameters: 3u (d + u + 1) + Σ_l KAN_l + L (d p + q p + 2 q) + L q u + u, with
    p q (1 + grid_size + order) + q + 2 p for a spline.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        sub_layers: Sequence[SubLayer] = (None,),
        sub_inputs: int | None = None,
        sub_outputs: int | None = None,
        candidate: Candidate = "sigmoid",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        inputs = input_size if sub_inputs is None else sub_inputs
        outputs = input_size if sub_outputs is None else sub_outputs
        sizes = {"input_size": input_size, "hidden_size": hidden_size, "sub_inputs": inputs, "sub_outputs": outputs}
        for name, size in sizes.items():
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise KANError(f"{name} must be a whole number of at least 1, got {size!r}")
        if isinstance(sub_layers, str) or not len(sub_layers):
            raise KANError(f"sub_layers must be a list with one entry per sub-layer, at least one, got {sub_layers!r}")
        if candidate not in get_args(Candidate):
            raise KANError(f"candidate must be one of {', '.join(get_args(Candidate))}, got {candidate!r}")
        self.input_size, self.hidden_size = input_size, hidden_size
        self.sub_inputs, self.sub_outputs = inputs, outputs
        self.candidate: Candidate = candidate
        count = len(sub_layers)

        def empty(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape, device=device, dtype=dtype))

        self.weight_x = empty(input_size, 3 * hidden_size)  # gates in the order i, f, candidate
        self.weight_h = empty(hidden_size, 3 * hidden_size)
        self.bias = empty(3 * hidden_size)
        self.sub_weight_x = empty(count, input_size, inputs)  # A
        self.sub_weight_m = empty(count, outputs, inputs)  # R
        self.sub_mix = empty(count, 2 * outputs)  # α, then β
        self.weight_o = empty(count * outputs, hidden_size)
        self.bias_o = empty(hidden_size)
        self.sub_layers = nn.ModuleList(
            make_sub_layer(spec, inputs, outputs, device=device, dtype=dtype) for spec in sub_layers
        )
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the cell's own weights anew; the sub-layers drew theirs when they were made.

        W_x and W_o are Glorot uniform. W_h, α with β, A and R are orthogonal, a stack of matrices as one matrix with
        the last dimension as columns. Biases are zero, that of the forget gate one.
        """
        if self.weight_x.is_meta:
            return
        glorot(self.weight_x, *self.weight_x.shape)
        glorot(self.weight_o, *self.weight_o.shape)
        for weight in (self.weight_h, self.sub_mix, self.sub_weight_x, self.sub_weight_m):
            nn.init.orthogonal_(weight.view(-1, weight.shape[-1]))
        for bias in (self.bias, self.bias_o):
            bias.zero_()
        self.bias[self.hidden_size : 2 * self.hidden_size] = 1

    def zero_state(self, x: Tensor) -> TKANState:
        """The state before the first step, on the device and in the type of `x` ``(B, ...)``."""
        h = x.new_zeros(x.shape[0], self.hidden_size)
        return TKANState(h, h, x.new_zeros(x.shape[0], len(self.sub_layers), self.sub_outputs))

    def forward(
        self, x: Tensor, state: TKANState | None = None, keep: Tensor | None = None
    ) -> tuple[Tensor, TKANState]:
        """One step.

        Args:
            x: Input, ``(B, input_size)``.
            state: From the step before; None for zeros.
            keep: Factors on h_{t−1} where it feeds the gates, ``(B, hidden_size)``: recurrent dropout.
        """
        h, c, m = self.zero_state(x) if state is None else state
        z = x @ self.weight_x + (h if keep is None else h * keep) @ self.weight_h + self.bias
        z_i, z_f, z_g = z.chunk(3, dim=-1)
        c = z_f.sigmoid() * c + z_i.sigmoid() * self._candidate(z_g)

        sums = torch.einsum("bd,ldp->lbp", x, self.sub_weight_x) + torch.einsum("blq,lqp->lbp", m, self.sub_weight_m)
        r = torch.stack([layer(s) for layer, s in zip(self.sub_layers, sums, strict=True)], dim=1)
        alpha, beta = self.sub_mix.chunk(2, dim=-1)
        o = (r.flatten(1) @ self.weight_o + self.bias_o).sigmoid()
        h = o * c.tanh()
        return h, TKANState(h, c, alpha * r + beta * m)

    def _candidate(self, z: Tensor) -> Tensor:
        if self.candidate == "tanh":
            return z.tanh()
        return z.sigmoid().tanh() if self.candidate == "tanh_sigmoid" else z.sigmoid()

    def scan(
        self, x: Tensor, state: TKANState, mask: Tensor | None = None, keep: Tensor | None = None
    ) -> tuple[Tensor, TKANState]:
        """All steps of x ``(T, B, input_size)``, fast: h of every step ``(T, B, hidden_size)``, and the last state.

        Args:
            x: Inputs, time first.
            state: Before the first step.
            mask: Bool ``(T, B, 1)``: False copies the states. None for all True.
            keep: As in :meth:`forward`.
        """
        sums = torch.einsum("tbd,ldp->tlbp", x, self.sub_weight_x)
        alpha, beta = (v[None, :, None] for v in self.sub_mix.chunk(2, dim=-1))  # (1, L, 1, q)
        if mask is not None:  # these copy a memory
            live = mask.unsqueeze(1)
            alpha, beta = alpha * live, torch.where(live, beta, 1.0)
        memories = state.m.transpose(0, 1)
        r, memories = scan_sub_layers(self.sub_layers, sums, memories, self.sub_weight_m, alpha, beta)
        o = (r @ self.weight_o + self.bias_o).sigmoid()
        z = x @ self.weight_x + self.bias
        h, c = GateScan.apply(  # type: ignore[no-untyped-call]
            z, o, self.weight_h, state.h, state.c, mask, keep, self.candidate
        )
        return h, TKANState(h[-1], c, memories.transpose(0, 1))

    def unroll(
        self, x: Tensor, state: TKANState, mask: Tensor | None = None, keep: Tensor | None = None
    ) -> tuple[Tensor, TKANState]:
        """What :meth:`scan` computes, by its definition: this one can be compiled, exported and transformed."""
        outputs = []
        for t in range(len(x)):
            _, new = self(x[t], state, keep)
            if mask is not None:
                live = (mask[t], mask[t], mask[t].unsqueeze(1))
                new = TKANState(*(torch.where(*parts) for parts in zip(live, new, state, strict=True)))
            state = new
            outputs.append(state.h)
        return torch.stack(outputs), state

    def extra_repr(self) -> str:
        """The sizes, for ``repr``."""
        return (
            f"{self.input_size}, {self.hidden_size}, sub_inputs={self.sub_inputs}, sub_outputs={self.sub_outputs}, "
            f"candidate={self.candidate!r}"
        )


class TKAN(nn.Module):
    r"""TKAN over sequences: :class:`TKANCell` from step to step, fast.

    In ordinary use the recurrences run in autograd functions with a backward pass by hand (no second derivatives).
    Inside ``torch.compile``, ``torch.export``, ``torch.func`` and autocast they run step by step.

    References: TKAN (arXiv 2405.07344); a Keras layer there, whose options are named and set here as those of
    ``nn.LSTM`` where it has them.

    Args:
        input_size: Size d of a step's input.
        hidden_size: Size u of a step's output.
        sub_layers: One entry per sub-layer: ``(None,)`` for one cubic spline layer, ``range(5)`` for the five of the
            paper, see :data:`~kan_timeseries.layers.sub_layers.SubLayer`.
        sub_inputs: Width of what a sub-layer sees; None for `input_size`.
        sub_outputs: Width of its output and memory; None for `input_size`.
        candidate: See :class:`TKANCell`.
        return_sequences: Return the output of every step, or of the last step alone.
        return_state: Return the last state as well.
        go_backwards: Run from the last step to the first. Outputs stay where their inputs are.
        bidirectional: Run a second cell in the other direction; outputs are concatenated.
        dropout: Probability of a zero in an input, to gates and sub-layers alike, in training. One mask per sequence,
            which all steps share, from torch's generator.
        recurrent_dropout: Likewise in h_{t−1}, where it feeds the gates.
        device: Where the parameters live.
        dtype: Type of the parameters.

    Raises:
        KANError: As :class:`TKANCell`; for a probability outside [0, 1), go_backwards with bidirectional, no step, or
            an input, mask or state of another shape.

    Shape:
        - Input: ``(B, T, input_size)``, mask ``(B, T)`` bool
        - Output: ``(B, T, output_size)``, or ``(B, output_size)`` of the last step; output_size is hidden_size, twice
          that with bidirectional

    Example:
        >>> layer = TKAN(19, 100, return_state=True)
        >>> first, state = layer(torch.zeros(8, 20, 19))
        >>> second, _ = layer(torch.zeros(8, 25, 19), state)
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        sub_layers: Sequence[SubLayer] = (None,),
        sub_inputs: int | None = None,
        sub_outputs: int | None = None,
        candidate: Candidate = "sigmoid",
        return_sequences: bool = True,
        return_state: bool = False,
        go_backwards: bool = False,
        bidirectional: bool = False,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        for name, p in (("dropout", dropout), ("recurrent_dropout", recurrent_dropout)):
            if not 0 <= p < 1:
                raise KANError(f"{name} must lie in [0, 1), got {p!r}")
        if go_backwards and bidirectional:
            raise KANError("go_backwards and bidirectional exclude each other: a bidirectional layer runs both ways")
        self.backwards = (False, True) if bidirectional else (go_backwards,)
        self.cells = nn.ModuleList(
            TKANCell(
                input_size,
                hidden_size,
                sub_layers=sub_layers,
                sub_inputs=sub_inputs,
                sub_outputs=sub_outputs,
                candidate=candidate,
                device=device,
                dtype=dtype,
            )
            for _ in self.backwards
        )
        self.input_size, self.output_size = input_size, hidden_size * len(self.backwards)
        self.return_sequences, self.return_state = return_sequences, return_state
        self.dropout, self.recurrent_dropout = dropout, recurrent_dropout

    def forward(
        self, x: Tensor, state: States | None = None, mask: Tensor | None = None
    ) -> Tensor | tuple[Tensor, States]:
        """Run over sequences.

        Args:
            x: Inputs ``(B, T, input_size)``.
            state: Before the first step: what an earlier call returned with `return_state`, a :class:`TKANState`, or
                of a bidirectional layer a pair of them. None for zeros.
            mask: Bool ``(B, T)``: a step that is False copies output, state and memories of the step before, whatever
                its input is. None for all True.

        Returns:
            Outputs; with `return_state` a pair of outputs and the last state.
        """
        self._check(x, mask)
        starts = self._starts(state)
        steps = x.transpose(0, 1)
        live = None if mask is None else mask.t().unsqueeze(-1)
        if live is not None:  # so that NaN in a masked step cannot reach a gradient
            steps = steps.masked_fill(~live, 0.0)
        runs = [
            self._run(cell, steps, start, live, backwards)
            for cell, start, backwards in zip(self.cells, starts, self.backwards, strict=True)
        ]
        if self.return_sequences:
            y = torch.cat([h for h, _ in runs], dim=-1).transpose(0, 1)
        else:
            y = torch.cat([last.h for _, last in runs], dim=-1)
        if not self.return_state:
            return y
        return y, runs[0][1] if len(runs) == 1 else (runs[0][1], runs[1][1])

    def _run(
        self, cell: nn.Module, x: Tensor, state: TKANState | None, mask: Tensor | None, backwards: bool
    ) -> tuple[Tensor, TKANState]:
        """One direction over ``(T, B, input_size)``."""
        assert isinstance(cell, TKANCell)
        if backwards:
            x, mask = x.flip(0), None if mask is None else mask.flip(0)
        if self.training and self.dropout:
            x = x * F.dropout(torch.ones_like(x[0]), self.dropout)
        state = cell.zero_state(x[0]) if state is None else state
        keep = None
        if self.training and self.recurrent_dropout:
            keep = F.dropout(torch.ones_like(state.h), self.recurrent_dropout)
        h, last = (cell.unroll if _needs_definition(x) else cell.scan)(x, state, mask, keep)
        return (h.flip(0) if backwards else h), last

    def _check(self, x: Tensor, mask: Tensor | None) -> None:
        if x.dim() != 3 or x.shape[2] != self.input_size or x.shape[1] < 1:
            raise KANError(f"expected an input of shape (B, T, {self.input_size}) with T >= 1, got {tuple(x.shape)}")
        if mask is not None and (mask.shape != x.shape[:2] or mask.dtype != torch.bool):
            raise KANError(
                f"expected a bool mask of shape {tuple(x.shape[:2])}, got {mask.dtype} of shape {tuple(mask.shape)}"
            )

    def _starts(self, state: States | None) -> tuple[TKANState | None, ...]:
        """The state before the first step of each direction."""
        if state is None:
            return (None,) * len(self.cells)
        starts = (state,) if isinstance(state, TKANState) else tuple(state)
        if len(starts) != len(self.cells) or not all(isinstance(start, TKANState) for start in starts):
            raise KANError(
                f"state must be {'a pair of TKANState' if len(self.cells) == 2 else 'a TKANState'}, one per direction"
            )
        return starts

    def extra_repr(self) -> str:
        """The arguments that the cells do not show, for ``repr``."""
        return (
            f"return_sequences={self.return_sequences}, return_state={self.return_state}, "
            f"backwards={self.backwards}, dropout={self.dropout}, recurrent_dropout={self.recurrent_dropout}"
        )


def tkan_stack(
    input_size: int,
    hidden_sizes: Sequence[int],
    sub_widths: Sequence[int | None] | None = None,
    *,
    return_sequences: bool = False,
    **options: Any,
) -> nn.Sequential:
    """TKAN layers one after the other; all but the last return sequences.

    Args:
        input_size: Of the first layer.
        hidden_sizes: Of the layers.
        sub_widths: Of each layer's sub-layers, inputs and outputs alike; None for the size of the layer's input.
        return_sequences: Of the last layer.
        **options: Of every :class:`TKAN`.

    Raises:
        KANError: For no layer, another number of sub_widths, or as :class:`TKAN`.
    """
    widths = [None] * len(hidden_sizes) if sub_widths is None else list(sub_widths)
    if not hidden_sizes or len(widths) != len(hidden_sizes):
        raise KANError(f"a stack needs hidden sizes, each with its sub width: got {hidden_sizes!r} and {sub_widths!r}")
    layers: list[nn.Module] = []
    for number, (hidden, width) in enumerate(zip(hidden_sizes, widths, strict=True), start=1):
        sequences = return_sequences or number < len(hidden_sizes)
        layer = TKAN(input_size, hidden, sub_inputs=width, sub_outputs=width, return_sequences=sequences, **options)
        layers.append(layer)
        input_size = layer.output_size
    return nn.Sequential(*layers)


def _needs_definition(x: Tensor) -> bool:
    """Whether ordinary operations are needed: for a compiler, a tracer, a transform of functions, or autocast."""
    return (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch.is_autocast_enabled(x.device.type)
    )
