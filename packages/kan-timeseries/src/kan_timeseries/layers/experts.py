"""KAMoE on sequences: a mixture of recurrent or other experts, weighted by a gated residual KAN."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from kan_core.bases._base import check_at_least
from kan_core.errors import KANError
from kan_core.layers import GatedResidualKAN, LayerFactory, MixtureOfExperts, Routing, get, kan_layers

GateMode = Literal["auto", "last", "flatten", "per_step", "mean"]


class KAMoE(MixtureOfExperts):
    r"""Copies of one expert on sequences, weighted by a gated residual KAN that sees the sequence or each step.

    Every expert runs on every sample. The gate's weights are the same for all outputs of an expert; where it sees more
    than one step, for all steps too.

    Equation: y = Σ_e w_e expert_e(A ⊙ x), w = φ(GRKAN(ReLU(W z + b))), z = the gate's view of A ⊙ x

    Reference: KAMoE (arXiv 2409.15161). `kan_core.layers.mixture.kamoe` is the form without a time axis.

    Avoids: the gate's view guessed from attributes alone, an input scale that always pins the length, and a single
    expert, whose gate would be a constant.

    The gate's KANs see ReLU outputs that nothing keeps on their grid: watch :meth:`gate_outside_fraction`, and give
    `gate_layer` a wider ``grid_range`` or a factory with ``norm="layer"`` where it is large.

    Args:
        in_features: a, features of a step.
        out_features: o, of an expert's output.
        expert: A layer factory ``(in_features, out_features, **kwargs)`` or its name, another mixture included; the
            module maps ``(B, T, a)`` to ``(B, T, o)`` or ``(B, o)``. Every copy has its own fresh weights.
        num_experts: At least 2.
        gate: z: ``"per_step"`` (every step has weights of its own; the experts must keep the steps), ``"last"`` (the
            last step), ``"mean"`` (over the steps) or ``"flatten"`` (all T · a numbers; needs `steps`). ``"auto"``:
            per_step where the experts keep the steps; else last where a part of the expert has ``return_sequences``
            False, else flatten.
        gating: φ: ``"sigmoid"`` (weights do not sum to 1) or ``"softmax"``.
        gate_layer: The layers of the gated residual network; ``"linear"`` for the GRN of a plain mixture.
        dropout: Probability of a zero in the gate.
        steps: T, to give A a factor for every step and feature, as published; inputs must then have this length. None:
            one factor per feature, for any length.
        device: Where the parameters live.
        dtype: Type of the parameters.

    Raises:
        KANError: For fewer than two experts, another option out of its range, experts whose outputs do not fit, or an
            input of another shape.

    Shape:
        - Input: ``(B, T, in_features)``
        - Output: ``(B, T, out_features)`` or ``(B, out_features)``, as the experts'

    Parameters: a, or T · a with steps, + experts + (size of z · o + o) + GRKAN(o → num_experts).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        expert: LayerFactory | str = "bspline",
        num_experts: int = 3,
        gate: GateMode = "auto",
        gating: str = "sigmoid",
        gate_layer: LayerFactory | str = "bspline(grid_size=3)",
        dropout: float = 0.0,
        steps: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_at_least("num_experts", num_experts, 2)
        if steps is not None:
            check_at_least("steps", steps, 1)
        if gate not in get_args(GateMode):
            raise KANError(f"gate must be one of {', '.join(get_args(GateMode))}, got {gate!r}")
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        experts = [get(expert)(in_features, out_features, **options) for _ in range(num_experts)]
        keeps_steps = _keeps_steps(experts[0], in_features, out_features, steps)
        mode = _mode(gate, experts[0], keeps_steps)
        network = partial(_SequenceGate, mode=mode, steps=steps, hidden=out_features, spread=keeps_steps)
        super().__init__(
            in_features,
            out_features,
            experts=[_given(module) for module in experts],
            gate=partial(network, layer=gate_layer, dropout=dropout),
            gating=gating,
            input_scale=True,
            **options,
        )
        self.gate_mode = mode
        self.steps = steps
        if steps is not None:
            self.input_scale = nn.Parameter(torch.ones(steps, in_features, **options))

    def forward_with_routing(self, x: Tensor) -> tuple[Tensor, Routing]:
        """The output, and the routing that it was made with: weights ``(B, T, E)``, or of sequences ``(B, E)``.

        Those of sequences have shape ``(B, 1, E)`` where the experts keep the steps.
        """
        if x.dim() < 3 and (self.steps is not None or self.gate_mode != "per_step"):
            raise KANError(f"expected an input of shape (batch, steps, {self.in_features}), got {tuple(x.shape)}")
        if self.steps is not None and x.shape[-2] != self.steps:
            raise KANError(f"the mixture was made for {self.steps} steps, got {x.shape[-2]}: leave out steps for any")
        return super().forward_with_routing(x)

    @torch.no_grad()
    def gate_outside_fraction(self, x: Tensor) -> float:
        """Share of the numbers entering the gate's first KAN that lie outside its grid, for the input x.

        Raises:
            KANError: When the gate has no KAN with a grid.
        """
        gate = self.gate
        assert isinstance(gate, _SequenceGate)
        assert self.input_scale is not None
        first = next((layer for _, layer in kan_layers(gate)), None)
        if first is None:
            raise KANError(f"the gate has no KAN layer with a basis, but {type(gate.network.first).__name__}")
        return float(first.outside_fraction(gate.hidden(x * self.input_scale)))

    def extra_repr(self) -> str:
        """The arguments, for ``repr``."""
        return f"{super().extra_repr()}, gate_mode={self.gate_mode!r}, steps={self.steps}"


class _SequenceGate(nn.Module):
    """``(B, T, a)`` to logits ``(B, T, E)``, or ``(B, E)`` of the whole sequence, ``(B, 1, E)`` with `spread`."""

    def __init__(
        self,
        in_features: int,
        num_experts: int,
        *,
        mode: GateMode,
        steps: int | None,
        hidden: int,
        spread: bool,
        layer: LayerFactory | str,
        dropout: float,
        **options: Any,
    ) -> None:
        super().__init__()
        if mode == "flatten" and steps is None:
            raise KANError("gate='flatten' needs the length: give steps, or gate='last', 'mean' or 'per_step'")
        self.mode = mode
        self.spread = spread and mode != "per_step"
        size = in_features * (steps or 1) if mode == "flatten" else in_features
        self.reduce = nn.Linear(size, hidden, **options)
        self.network = GatedResidualKAN(hidden, num_experts, layer=layer, dropout=dropout, **options)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(self.hidden(x))
        return logits.unsqueeze(-2) if self.spread else logits

    def hidden(self, x: Tensor) -> Tensor:
        """What the gated residual network sees."""
        views: dict[str, Callable[[Tensor], Tensor]] = {
            "last": lambda x: x[..., -1, :],
            "mean": lambda x: x.mean(dim=-2),
            "flatten": lambda x: x.flatten(-2),
            "per_step": lambda x: x,
        }
        y: Tensor = self.reduce(views[self.mode](x)).relu()
        return y


def _given(module: nn.Module) -> LayerFactory:
    """A factory of what is made already."""
    return lambda *_, **__: module


@torch.no_grad()
def _keeps_steps(expert: nn.Module, in_features: int, out_features: int, steps: int | None) -> bool:
    """Whether an expert returns every step: it is tried on zeros."""
    training = [module for module in expert.modules() if module.training]
    parameter = next(expert.parameters(), torch.empty(0))
    x = torch.zeros(1, steps or 2, in_features, device=parameter.device, dtype=parameter.dtype)
    shape = tuple(expert.eval()(x).shape)
    for module in training:
        module.training = True
    if shape not in ((1, out_features), (1, x.shape[1], out_features)):
        raise KANError(
            f"an expert must map {tuple(x.shape)} to (1, {out_features}) or (1, {x.shape[1]}, {out_features}), but "
            f"{type(expert).__name__} gives {shape}"
        )
    return len(shape) == 3


def _mode(gate: GateMode, expert: nn.Module, keeps_steps: bool) -> GateMode:
    """What the gate sees, decided."""
    if gate == "per_step" and not keeps_steps:
        raise KANError("gate='per_step' needs experts that return every step: choose 'last', 'mean' or 'flatten'")
    if gate != "auto":
        return gate
    if keeps_steps:
        return "per_step"
    final = any(getattr(module, "return_sequences", None) is False for module in expert.modules())
    return "last" if final else "flatten"
