"""The Cauchy activation of XNet, and the linear layer behind it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kan_core.bases._base import check_at_least, check_positive
from kan_core.layers._activated import ActivatedLinear, Activation
from kan_core.layers._common import at_least_float32, check_input
from kan_core.layers._registry import register


class Cauchy(Activation):
    r"""φ(x) = (λ₁ x + λ₂)/(x² + d²): the real part of a Cauchy kernel with its pole at i d, decaying at both ends.

    d² = softplus(ρ)² + eps, so the width cannot reach the singular 0. The function starts at λ₁ = λ₂ = d = 1 (the
    papers state none): scale inputs to order 1. Infinite inputs give 0, and so does what has a square beyond the type.

    Args:
        num_features: Size of the last dimension.
        per_feature: Learn λ₁, λ₂ and ρ for every feature, or (False) three numbers for all.
        eps: Least d², above zero: about 1e-6 of the square of the inputs' scale.
        device: Where the parameters live.
        dtype: Type of the parameters.

    Raises:
        KANError: For an argument out of its range, or an input of another size.

    Shape:
        - Input: ``(..., num_features)``
        - Output: the same

    Parameters: 3 · num_features, or 3.

    Reference: XNet (arXiv 2409.19221).
    """

    def __init__(
        self,
        num_features: int,
        per_feature: bool = True,
        *,
        eps: float = 1e-6,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.num_features = check_at_least("num_features", num_features, 1)
        self.eps = check_positive("eps", eps)

        def parameter() -> nn.Parameter:
            return nn.Parameter(torch.empty(num_features if per_feature else 1, device=device, dtype=dtype))

        self.lambda1, self.lambda2, self.rho = parameter(), parameter(), parameter()
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """λ₁ = λ₂ = 1 and softplus(ρ) = 1; nothing is drawn."""
        self.lambda1.fill_(1.0)
        self.lambda2.fill_(1.0)
        self.rho.fill_(math.log(math.expm1(1.0)))

    @property
    def squared_width(self) -> Tensor:
        """d², in at least float32."""
        return F.softplus(at_least_float32(self.rho)).square() + self.eps

    def evaluate(self, x: Tensor) -> Tensor:
        """φ at `x`, float32 or float64: ``(..., num_features)`` to the same shape."""
        check_input(x, self.num_features)
        limit = torch.finfo(x.dtype).max ** 0.75
        # beyond, x² is infinite and the quotient 0, but an infinite numerator would make it NaN
        x = x.clamp(-limit, limit)
        lambda1, lambda2 = at_least_float32(self.lambda1), at_least_float32(self.lambda2)
        return torch.addcmul(lambda2, lambda1, x) / torch.addcmul(self.squared_width, x, x)

    def elementwise_flops(self, numel: int) -> int:
        """Two products, two sums and a quotient for each of `numel` numbers."""
        return 5 * numel

    def extra_repr(self) -> str:
        """The arguments, for ``repr``."""
        per_feature = self.rho.numel() == self.num_features
        return f"num_features={self.num_features}, per_feature={per_feature}, eps={self.eps:g}"


@register("cauchy")
class CauchyLinear(ActivatedLinear):
    r"""The Cauchy activation and then a linear map.

    XNet, one hidden layer of Cauchy units, is a linear layer before it; that layer's bias moves the poles along the
    real axis: ``nn.Sequential(nn.Linear(1, 64), CauchyLinear(64, 1))``.

    Equation: φ_{o,i}(x) = W[o,i] (λ₁,i x + λ₂,i)/(x² + d_i²), d_i² = softplus(ρ_i)² + ε

    Reference: XNet (arXiv 2409.19221).

    Avoids: the NaN of infinite inputs, overflow of x² in half precision, and the singularity at d = 0.

    Args:
        in_features: Size of each input sample.
        out_features: Size of each output sample.
        per_feature: Learn λ₁, λ₂ and ρ for every input, or (False) three numbers for all.
        eps: Least d², see :class:`Cauchy`.
        bias: Add one constant per output.
        device: Where the parameters live.
        dtype: Type of the parameters.

    Raises:
        KANError: For what :class:`Cauchy` refuses, sizes below 1 or an input of another size.

    Shape:
        - Input: ``(..., in_features)``
        - Output: ``(..., out_features)``

    Parameters: in · out + 3 in (+ 3 when shared), + out with bias.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        per_feature: bool = True,
        eps: float = 1e-6,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        activation = Cauchy(in_features, per_feature, eps=eps, device=device, dtype=dtype)
        super().__init__(activation, in_features, out_features, bias=bias, device=device, dtype=dtype)
