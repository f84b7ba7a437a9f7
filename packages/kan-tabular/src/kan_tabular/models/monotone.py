"""Monotone columns, guaranteed by construction: edges that cannot fall, and hidden units that keep them apart."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from kan_core import bases
from kan_core.bases import Basis, BSpline
from kan_core.errors import KANError
from kan_core.layers import KANLinear, LayerFactory
from kan_core.registry import parse_spec

LEAST_STEP = 1e-4
"""The smallest step between two coefficients after a refit: at 0 a square would not learn any more."""

BLOCKED = 2
"""An edge that is not there, beside 1 (never falls), -1 (never rises) and 0 (free)."""


class MonotoneKANLinear(KANLinear):
    r"""A layer of B-spline edges of which each never falls, never rises, is free, or is not there.

    Where the sign s of an edge is 1 or -1, what is learned is r, and the edge's coefficients and base weight are

    c_k = s (r_0 + Σ_{1≤l≤k} r_l²), W_b = s r_K², φ(x) = Σ_{0≤k<K} c_k B_k(x) + W_b x.

    The derivative of a B-spline is a sum, with non-negative factors, of the differences of its neighbouring
    coefficients, on any knots, so s φ' ≥ 0 on the grid for every r. Beyond it the spline goes on along its tangent
    (edge ``"linear"``, which takes the place of ``"decay"``) or stays (``"clamp"``). A penalty on r² is one on how much
    the edge rises. Free edges are those of a `KANLinear` with the same base.

    Args:
        in_features: Size of each input sample.
        out_features: Size of each output sample.
        basis: A B-spline.
        signs: 1, -1, 0 or `BLOCKED` for every edge, shape ``(in_features, out_features)``.
        bias: Add one constant per output.
        init_scale: Of the free edges, see `KANLinear`.
        device: Where parameters and grids live.
        dtype: Type of parameters and grids.

    Raises:
        KANError: For another basis than a B-spline.

    Parameters: in · out · (K + 1), + out with bias, as a `KANLinear` with a base branch; those of blocked edges have no
    effect.
    """

    signs: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        basis: Basis | str = "bspline",
        *,
        signs: Tensor,
        bias: bool = True,
        init_scale: float | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        spline = copy.deepcopy(bases.get(basis))
        if not isinstance(spline, BSpline):
            raise KANError(f"monotone columns need the basis 'bspline', got {type(spline).__name__}")
        if spline.edge == "decay":
            spline.edge = "linear"
        super().__init__(
            in_features,
            out_features,
            spline,
            base="identity",
            bias=bias,
            init_scale=init_scale,
            device=device,
            dtype=dtype,
        )
        self.register_buffer("signs", signs.to(self.weight.device, torch.int8), persistent=False)
        self._reset_constrained()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """As in `KANLinear`; base weights of constrained edges are uniform in ±(0, 1/fan_in), with small even steps.

        Constrained edges of one sign add up where free ones cancel, so that they begin 1/√fan_in smaller.
        """
        super().reset_parameters()
        if "signs" in self._buffers:  # not yet there while the base class is made
            self._reset_constrained()

    @torch.no_grad()
    def _reset_constrained(self) -> None:
        if self.weight.is_meta:
            return
        slopes = torch.empty_like(self.weight[0]).uniform_(0, 1 / self.fan_in).clamp_min(LEAST_STEP)
        count = self.basis.num_functions
        steps = (slopes / 4).expand(count - 1, -1, -1)
        plain = torch.cat([-steps.sum(0, keepdim=True) / 2, steps]).cumsum(dim=0)
        raw = self._raw(self._sign() * torch.cat([plain, slopes[None]]))
        self.weight.copy_(torch.where(self._constrained(), raw, self.weight))

    def _constrained(self) -> Tensor:
        return self.signs.abs() == 1

    def _sign(self) -> Tensor:
        return self.signs.to(self.weight.dtype)

    def effective_weight(self) -> Tensor:
        """Coefficients and base weights as they act, shape of :attr:`weight`, which holds r for constrained edges."""
        never_negative = self.weight[1:].square()
        rising = torch.cat([torch.cat([self.weight[:1], never_negative[:-1]]).cumsum(dim=0), never_negative[-1:]])
        free = torch.where(self.signs == BLOCKED, torch.zeros_like(self.weight), self.weight)
        return torch.where(self._constrained(), self._sign() * rising, free)

    @property
    def base_weight(self) -> Tensor:
        """W_b as ``(out_features, in_features)``."""
        return self.effective_weight()[-1].T

    def _raw(self, plain: Tensor) -> Tensor:
        """What to learn from for constrained edges of these coefficients, as far as those are monotone."""
        rising = self._sign() * plain
        steps, base = rising[:-1].diff(dim=0), rising[-1:]
        return torch.cat([rising[:1], torch.cat([steps, base]).clamp_min(LEAST_STEP).sqrt()])

    def _refit(self, before: Basis, samples: Tensor | None) -> None:
        """As in the base class, on what the edges are; a fit that falls somewhere stays level there."""
        self.weight.copy_(self.effective_weight())
        super()._refit(before, samples)
        self.weight.copy_(torch.where(self._constrained(), self._raw(self.weight), self.weight))


def check_monotone(monotone: Sequence[int], cardinalities: Sequence[int]) -> list[int]:
    """Constraints as a list, one for each column.

    Raises:
        KANError: For another number of entries, another value than -1, 0 and 1, or a constraint on categories.
    """
    if len(monotone) != len(cardinalities):
        raise KANError(f"monotone has {len(monotone)} entries for a table of {len(cardinalities)} columns")
    for j, (sign, count) in enumerate(zip(monotone, cardinalities, strict=True)):
        if sign not in (-1, 0, 1):
            raise KANError(f"monotone[{j}] must be 1, -1 or 0, got {sign!r}")
        if sign and count:
            raise KANError(f"monotone[{j}] is {sign}, but column {j} is categorical and has no order: make it 0")
    return [int(sign) for sign in monotone]


def monotone_factories(
    layer: LayerFactory | str, cardinalities: Sequence[int], monotone: Sequence[int], sizes: Sequence[int], outputs: int
) -> list[LayerFactory]:
    """Layer factories of a net whose outputs follow the constraints: of the additive part, then of every layer.

    The first half of each hidden layer's units, rounded up (all of them when no column is free), are monotone: they
    rise with the constrained columns' constraints, and see the other columns and units through free edges. The other
    units see no constrained column and no monotone unit. Edges out of monotone units never fall, so with anything
    increasing between the layers each output rises, or falls, with each constrained column, whatever the rest holds.
    A missing value has no place in the order: its learned answer is free.

    Args:
        layer: A B-spline spec, such as ``"bspline(grid_size=6)"``.
        cardinalities: Per column 0 when it is numeric, else the number of its codes.
        monotone: Per column 1, -1 or 0.
        sizes: Hidden sizes.
        outputs: Number of outputs.

    Returns:
        Factories ``(in_features, out_features, **kwargs)``: columns to outputs and, with hidden sizes, columns to the
        first hidden layer, then hidden layer to hidden layer and to the outputs. Those of columns are for a
        `ColumnLayer`, which makes its numeric columns' layer with them.

    Raises:
        KANError: For what `check_monotone` refuses, or another layer than a B-spline.
    """
    signs = check_monotone(monotone, cardinalities)
    if not isinstance(layer, str) or parse_spec(layer, kind="layer")[0] != "bspline":
        raise KANError(f"monotone columns need layer='bspline...', got {layer!r}")
    numeric = torch.tensor([sign for sign, count in zip(signs, cardinalities, strict=True) if count == 0])
    any_free = any(sign == 0 for sign in signs)
    # which units of each layer are monotone; all outputs are
    kinds = [torch.arange(size) < ((size + 1) // 2 if any_free else size) for size in sizes]
    kinds.append(torch.ones(outputs, dtype=torch.bool))
    edges = [_edges(numeric, kinds[-1])]
    if sizes:
        edges.append(_edges(numeric, kinds[0]))
        edges.extend(_edges(a.long(), b) for a, b in pairwise(kinds))
    return [partial(MonotoneKANLinear, basis=layer, signs=matrix) for matrix in edges]


def _edges(signs: Tensor, monotone: Tensor) -> Tensor:
    """Signs of the edges from inputs of these signs to units that are monotone or not, ``(in, out)``."""
    matrix = signs[:, None].expand(-1, len(monotone))
    return torch.where((matrix != 0) & ~monotone, BLOCKED, matrix)
