"""The sub-layers of TKAN: what may stand there, how it is made, and how it starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kan_core.bases import BSpline
from kan_core.errors import KANError
from kan_core.layers import KANLinear, LayerFactory
from kan_timeseries.layers._scan import MemoryScan, SplineBank, pieces_of

SubLayer = None | int | str | Mapping[str, Any] | LayerFactory
"""What a sub-layer is made from: None for a :class:`SplineSubLayer` with its defaults, a whole number for one of that
spline order, a mapping for its options, a name of :data:`DENSE` for a dense layer with that activation, or a factory
``factory(inputs, outputs)`` such as ``kan_core.layers.get("rbf")``."""

DENSE: dict[str, Callable[[], nn.Module]] = {
    "linear": nn.Identity,
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "elu": nn.ELU,
}
"""Activations of dense sub-layers."""

_OPTIONS = ("grid_size", "order", "grid_range", "base", "norm", "bias")


class SplineSubLayer(nn.Module):
    r"""A B-spline layer behind a LayerNorm, whose base branch sees the normalised input as well.

    Equation: y = b(n) W_b + B(n) W_s + bias, n = LayerNorm(s)

    The grid is fixed. Its last cell is closed, as in `kan_core`: that matters for order 0 at the grid's end alone.

    References: the KANLinear of TKAN (arXiv 2405.07344, section III).

    Args:
        inputs: Size of s.
        outputs: Size of y.
        grid_size: Number of intervals.
        order: Degree of the splines, 0 or more.
        grid_range: The grid's ends.
        base: The function b, see :class:`~kan_core.layers.KANLinear`, or None.
        norm: Whether there is a LayerNorm; without one, n = s.
        bias: Whether there is a bias.
        device: Where parameters and grid live.
        dtype: Type of parameters and grid.

    Raises:
        KANError: For one input with a LayerNorm, which makes a constant of it, or an option out of its range.

    Shape:
        - Input: ``(..., inputs)``
        - Output: ``(..., outputs)``

    Parameters: inputs · outputs (1 + grid_size + order) + outputs + 2 inputs.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        grid_size: int = 3,
        order: int = 3,
        grid_range: tuple[float, float] = (-1.0, 1.0),
        base: str | None = "relu",
        norm: bool = True,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if norm and inputs == 1:
            raise KANError(
                "a sub-layer of width 1 with LayerNorm has a constant output: give it 2 inputs or more (sub_inputs), "
                "or the option norm=False"
            )
        self.norm = nn.LayerNorm(inputs, device=device, dtype=dtype) if norm else None
        basis = BSpline(grid_size, order, grid_range)
        self.kan = KANLinear(inputs, outputs, basis, base=base, bias=bias, device=device, dtype=dtype)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Glorot uniform for W_b ``(p, q)`` and for W_s ``(p · K, q)``; biases zero."""
        if self.norm is not None:
            self.norm.reset_parameters()
        splines = self.kan.basis.num_functions
        glorot(self.kan.weight[:splines], splines * self.kan.in_features, self.kan.out_features)
        glorot(self.kan.weight[splines:], self.kan.in_features, self.kan.out_features)
        if self.kan.bias is not None:
            self.kan.bias.zero_()

    def forward(self, s: Tensor) -> Tensor:
        """``(..., inputs) -> (..., outputs)``."""
        y: Tensor = self.kan(s if self.norm is None else self.norm(s))
        return y

    @property
    def batches(self) -> bool:
        """Whether it can be one of a batch: the paper's form, on an even grid."""
        basis = self.kan.basis
        even = isinstance(basis, BSpline) and basis.uniform
        return even and self.norm is not None and self.kan.base == "relu" and self.kan.bias is not None


def make_sub_layer(
    spec: SubLayer,
    inputs: int,
    outputs: int,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> nn.Module:
    """The sub-layer that `spec` asks for.

    Raises:
        KANError: When it is none of those that :data:`SubLayer` lists, or an option is unknown or refused.
    """
    if isinstance(spec, str):
        return _dense(spec, inputs, outputs).to(device=device, dtype=dtype)
    if callable(spec):
        return spec(inputs, outputs).to(device=device, dtype=dtype)
    if isinstance(spec, int) and not isinstance(spec, bool):
        spec = {"order": spec}
    if spec is not None and not isinstance(spec, Mapping):
        raise KANError(
            f"a sub-layer is None, a spline order, a mapping of options, an activation or a factory, got {spec!r}"
        )
    options = dict(spec or {})
    unknown = sorted(set(options) - set(_OPTIONS))
    if unknown:
        raise KANError(f"unknown option {unknown[0]!r} of a spline sub-layer: choose from {', '.join(_OPTIONS)}")
    return SplineSubLayer(inputs, outputs, **options, device=device, dtype=dtype)


def _dense(activation: str, inputs: int, outputs: int) -> nn.Module:
    if activation not in DENSE:
        raise KANError(
            f"unknown sub-layer {activation!r}: choose one of {', '.join(DENSE)} for a dense layer with that "
            "activation, or give a factory such as kan_core.layers.get('rbf')"
        )
    linear = nn.Linear(inputs, outputs)
    nn.init.xavier_uniform_(linear.weight)
    nn.init.zeros_(linear.bias)
    return nn.Sequential(linear, DENSE[activation]())


def scan_sub_layers(
    layers: nn.ModuleList, x: Tensor, m: Tensor, recurrent: Tensor, alpha: Tensor, beta: Tensor
) -> tuple[Tensor, Tensor]:
    """o_l = KAN_l(x_l + m_{l,t−1} R_l), m_{l,t} = α_l ⊙ o_l + β_l ⊙ m_{l,t−1} over all steps; splines as one batch.

    Args:
        layers: The L sub-layers.
        x: x_t A_l, ``(T, L, B, p)``.
        m: Memories before the first step, ``(L, B, q)``.
        recurrent: R, ``(L, q, p)``.
        alpha: ``(T or 1, L, B or 1, q)``.
        beta: Likewise.

    Returns:
        Outputs of all sub-layers, side by side, ``(T, B, L q)``, and the last memories ``(L, B, q)``.
    """
    numbers = range(len(layers))
    splines = {n: layer for n, layer in enumerate(layers) if isinstance(layer, SplineSubLayer) and layer.batches}
    found: dict[int, tuple[Tensor, Tensor]] = {}

    def pick(v: Tensor, dim: int) -> Tensor:
        every = len(splines) == len(layers)
        return v if every else v.index_select(dim, torch.tensor(list(splines), device=v.device))

    if splines:
        bank = spline_bank(list(splines.values()))
        outputs, last = MemoryScan.apply(  # type: ignore[no-untyped-call]
            pick(x, 1), pick(m, 0), pick(recurrent, 0), pick(alpha, 1), pick(beta, 1), *bank
        )
        found = {n: (outputs[:, i], last[i]) for i, n in enumerate(splines)}
    for n in set(numbers) - set(splines):
        found[n] = _scan_one(layers[n], x[:, n], m[n], recurrent[n], alpha[:, n], beta[:, n])
    return torch.cat([found[n][0] for n in numbers], dim=-1), torch.stack([found[n][1] for n in numbers])


def _scan_one(
    layer: nn.Module, x: Tensor, m: Tensor, recurrent: Tensor, alpha: Tensor, beta: Tensor
) -> tuple[Tensor, Tensor]:
    """The recurrence of any sub-layer, step by step: outputs ``(T, B, q)`` and the last memory."""
    outputs = []
    alpha, beta = (v.expand(len(x), -1, -1) for v in (alpha, beta))
    for x_t, a, b in zip(x.unbind(), alpha.unbind(), beta.unbind(), strict=True):
        o = layer(x_t + m @ recurrent)
        m = a * o + b * m
        outputs.append(o)
    return torch.stack(outputs), m


def spline_bank(layers: Sequence[SplineSubLayer]) -> SplineBank:
    """Weights and grids of spline sub-layers as one batch; gradients reach their parameters."""
    kans = [layer.kan for layer in layers]
    bases = [cast(BSpline, kan.basis) for kan in kans]
    norms = [cast(nn.LayerNorm, layer.norm) for layer in layers]
    most = max(basis.num_functions for basis in bases)
    weights = []
    for kan, basis in zip(kans, bases, strict=True):
        functions, base = torch.split(kan.weight, [basis.num_functions, 1])
        functions = F.pad(functions, (0, 0, 0, 0, 1, most + 1 - basis.num_functions))
        weights.append(torch.cat([functions, base]))
    weight = torch.stack(weights)  # (L, S, p, q)
    orders = [basis.order for basis in bases]
    return SplineBank(
        gain=torch.stack([norm.weight for norm in norms]).unsqueeze(1),
        shift=torch.stack([norm.bias for norm in norms]).unsqueeze(1),
        weight=weight.flatten(1, 2),
        bias=torch.stack([cast(Tensor, kan.bias) for kan in kans]).unsqueeze(1),
        low=torch.stack([basis.low for basis in bases]).unsqueeze(1),
        step=torch.stack([basis.step for basis in bases]).unsqueeze(1),
        cells=None if min(orders) > 1 else weight.new_tensor([basis.grid_size for basis in bases]).view(-1, 1, 1),
        pieces=pieces_of(orders, weight),
        eps=norms[0].eps,
    )


def glorot(weight: Tensor, fan_in: int, fan_out: int) -> None:
    """Fill with uniform numbers in ±√(6 / (fan_in + fan_out))."""
    bound = (6 / (fan_in + fan_out)) ** 0.5
    weight.uniform_(-bound, bound)
