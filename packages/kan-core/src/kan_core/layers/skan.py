"""SKAN: edges with a single parameter."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kan_core.errors import KANError
from kan_core.layers._common import at_least_float32, check_input, matmul
from kan_core.layers._edges import EdgeLinear
from kan_core.layers._norm import Norm, make_norm
from kan_core.layers._registry import register


class _Family(NamedTuple):
    """One f(x, k). `shared` is g when f(x, k) = k g(x); `slope` is E[(∂f/∂k)²] at k = 0 for x ~ N(0, 1)."""

    function: Callable[[Tensor, Tensor], Tensor]
    shared: Callable[[Tensor], Tensor] | None
    slope: float
    flops: int  # of g per number where it is shared, else of f per edge and number


def _softplus(x: Tensor, k: Tensor) -> Tensor:
    # torch's default threshold of 20 is right to 2e-9 only
    return F.softplus(k * x, threshold=40.0) - math.log(2)


_FAMILIES = {
    "softplus": _Family(_softplus, None, 1 / 4, 5),
    "swish": _Family(lambda x, k: x * torch.sigmoid(k * x), None, 3 / 16, 6),
    "arctan": _Family(lambda x, k: k * torch.atan(x), torch.atan, 0.44969, 1),
    "sin": _Family(lambda x, k: k * torch.sin(x), torch.sin, (1 - math.exp(-2)) / 2, 1),
}


@register("skan")
class SKANLinear(EdgeLinear):
    r"""Edges with one parameter each: y_o = Σ_i f(x_i, k[o,i]) + bias_o.

    `function` names f(x, k):

    - ``"softplus"``: log(1 + exp(kx)) − log 2
    - ``"swish"``: x sigmoid(kx); every output holds Σ_i x_i / 2 whatever k is, so give it few or normalised inputs
    - ``"arctan"``: k atan(x), and ``"sin"``: k sin(x); linear in k, hence computed as one matrix product

    The bias is a free constant; the paper's f(1, k) reaches fewer values with as many parameters.

    Equation: φ(x) = log(1 + exp(kx)) − log 2, x sigmoid(kx), k atan(x) or k sin(x)

    Reference: SKAN (arXiv 2410.14951).

    Avoids: exp(kx), which overflows, and a (batch, out, in) tensor where f is linear in k.

    Args:
        in_features: Size of each input sample.
        out_features: Size of each output sample.
        function: ``"softplus"``, ``"swish"``, ``"arctan"`` or ``"sin"``.
        norm: Normalise the input first: ``"layer"`` over the features (as All-KAN does), ``"batch"`` over the samples,
            or None.
        bias: Add one constant per output.
        device: Where the parameters live.
        dtype: Type of the parameters.

    Raises:
        KANError: For an unknown function or norm, a size below 1, or an input of another size.

    Shape:
        - Input: ``(..., in_features)``
        - Output: ``(..., out_features)``
        - weight: k, ``(out_features, in_features)``

    Parameters: in · out, + out with bias, + 2 in with norm.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        function: str = "softplus",
        norm: Norm | None = None,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if function not in _FAMILIES:
            raise KANError(f"function must be one of {', '.join(_FAMILIES)}, got {function!r}")
        super().__init__(in_features, out_features, bias=bias, device=device, dtype=dtype)
        self.function = function
        self.norm = make_norm(norm, in_features, device, dtype)
        self.weight = nn.Parameter(torch.empty(out_features, in_features, device=device, dtype=dtype))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Normal k with which what depends on k has variance about 1 in every output for x ~ N(0, 1)."""
        self.weight.normal_(0.0, 1 / math.sqrt(self.in_features * _FAMILIES[self.function].slope))
        if isinstance(self.norm, nn.LayerNorm | nn.BatchNorm1d):
            self.norm.reset_parameters()
        super().reset_parameters()

    @property
    def kept(self) -> int:
        """How many numbers :meth:`edges` leaves for its backward pass per edge and row."""
        return 2

    def edge_parameters(self) -> tuple[Tensor, ...]:
        """K."""
        return (self.weight,)

    def edges(self, x: Tensor, *parameters: Tensor) -> Tensor:
        """f(x, k): ``(rows, 1, in) -> (rows, out, in)``."""
        return _FAMILIES[self.function].function(x, *parameters)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., in_features)`` to ``(..., out_features)``."""
        check_input(x, self.in_features)
        z = x if self.norm is None else self.norm(x)
        shared = _FAMILIES[self.function].shared
        if shared is None:
            return super().forward(z)
        y = matmul(shared(at_least_float32(z)), self.weight.T)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def elementwise_flops(self, numel: int) -> int:
        """Operations outside matrix products for an input of `numel` numbers: f and the sum on each of their edges."""
        family = _FAMILIES[self.function]
        return numel * (family.flops if family.shared else self.out_features * (family.flops + 1))

    def extra_repr(self) -> str:
        """The arguments, for ``repr``."""
        return f"{super().extra_repr()}, function={self.function!r}"
