"""Rational Jacobi activations (rKAN), and the linear layer behind them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kan_core.bases._base import check_at_least
from kan_core.layers._activated import ActivatedLinear, Activation
from kan_core.layers._common import at_least_float32
from kan_core.layers._registry import register


class JacobiRKAN(Activation):
    r"""F(x) = P_d^(α,β)(x/√(x² + ι²)): one Jacobi polynomial of an algebraic map of the line to (−1, 1).

    Three numbers for the whole layer are learned: α and β through an ELU, which keeps them above −0.999 (at −1, −1
    the recurrence divides by 0), and ι through a softplus. They start at α = β = ι = 1.

    Args:
        degree: d, at least 1.
        device: Where the parameters live.
        dtype: Type of the parameters.

    Raises:
        KANError: When `degree` is below 1.

    Shape:
        - Input: any
        - Output: the same

    Parameters: 3.

    Reference: rKAN (arXiv 2406.14495), its Jacobi form. Its Padé form has no guard: see
    :class:`~kan_core.layers.Rational` instead.
    """

    def __init__(
        self, degree: int = 3, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.degree = check_at_least("degree", degree, 1)
        self.raw_alpha, self.raw_beta, self.raw_iota = (
            nn.Parameter(torch.empty((), device=device, dtype=dtype)) for _ in range(3)
        )
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """α = β = ι = 1; nothing is drawn."""
        self.raw_alpha.fill_(1.0)
        self.raw_beta.fill_(1.0)
        self.raw_iota.fill_(math.log(math.expm1(1.0)))

    def shape(self) -> tuple[Tensor, Tensor, Tensor]:
        """α, β and ι, in at least float32."""
        alpha, beta = (F.elu(at_least_float32(raw), alpha=0.999) for raw in (self.raw_alpha, self.raw_beta))
        return alpha, beta, F.softplus(at_least_float32(self.raw_iota))

    def evaluate(self, x: Tensor) -> Tensor:
        """F at `x`, float32 or float64, any shape."""
        alpha, beta, iota = self.shape()
        return jacobi(self.degree, alpha, beta, x / torch.hypot(x, iota))

    def elementwise_flops(self, numel: int) -> int:
        """The map (5) and the recurrence for each of `numel` numbers."""
        return numel * (7 + 6 * (self.degree - 1))

    def extra_repr(self) -> str:
        """The arguments, for ``repr``."""
        return f"degree={self.degree}"


def jacobi(degree: int, alpha: Tensor, beta: Tensor, u: Tensor) -> Tensor:
    """P_degree^(α,β)(u) for degree ≥ 1, differentiable in α and β (above −1, no dimensions) and in u (any shape)."""
    total = alpha + beta
    before, p = torch.ones_like(u), torch.addcmul((alpha - beta) / 2, u, (total + 2) / 2)
    for n in range(2, degree + 1):
        even = 2 * n + total
        divisor = 2 * n * (n + total) * (even - 2)
        a = (even - 1) * even * (even - 2) / divisor
        b = (even - 1) * (alpha - beta) * total / divisor
        c = 2 * (n + alpha - 1) * (n + beta - 1) * even / divisor
        before, p = p, torch.addcmul(torch.addcmul(b, u, a) * p, before, -c)
    return p


@register("rkan")
class RKANLinear(ActivatedLinear):
    r"""A rational Jacobi activation and then a linear map: one function for the whole layer.

    Equation: φ_{o,i}(x) = W[o,i] P_d^(α,β)(x/√(x² + ι²))

    Reference: rKAN (arXiv 2406.14495), its Jacobi form.

    Avoids: a polynomial of degree 1 that is off by the constant (α + β + 2)/2.

    Args:
        in_features: Size of each input sample.
        out_features: Size of each output sample.
        degree: d, at least 1.
        bias: Add one constant per output.
        device: Where the parameters live.
        dtype: Type of the parameters.

    Raises:
        KANError: For sizes or a degree below 1, or an input of another size.

    Shape:
        - Input: ``(..., in_features)``
        - Output: ``(..., out_features)``

    Parameters: in · out + 3, + out with bias.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        degree: int = 3,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        activation = JacobiRKAN(degree, device=device, dtype=dtype)
        super().__init__(activation, in_features, out_features, bias=bias, device=device, dtype=dtype)
