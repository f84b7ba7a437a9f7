"""Truncated Fourier series (FourierKAN)."""

from __future__ import annotations

import torch
from torch import Tensor

from kan_core.bases._base import REGISTRY, Basis, check_at_least
from kan_core.ops.basis_linear.form import PlaneForm


@REGISTRY.register("fourier")
class Fourier(Basis):
    r"""cos(kx) and sin(kx) for k = 1 … num_frequencies: K = 2 num_frequencies functions of period 2π.

    The squares of each pair sum to 1, so the layers' initialisation gives unit variance for any input.

    Equation: φ_k(x) = cos(kx), φ_{G+k}(x) = sin(kx), k = 1 … G

    Reference: FourierKAN (repository GistNoesis/FourierKAN).

    Avoids: the reference makes tensors of shape (batch, out, in, G), 1.96 GB where one product of features needs 0.1.

    Args:
        num_frequencies: Highest frequency G, at least 1.
        smooth: Divide the pair of frequency k by k², which starts training from smooth functions. Recommended for
            image inputs, where the plain family is known not to converge.

    Raises:
        KANError: When `num_frequencies` is below 1.
    """

    def __init__(self, num_frequencies: int = 5, smooth: bool = False) -> None:
        super().__init__()
        self.num_frequencies = check_at_least("num_frequencies", num_frequencies, 1)
        self.smooth = smooth
        self.num_functions = 2 * num_frequencies
        self.frequencies: Tensor
        self.register_buffer("frequencies", torch.arange(1.0, num_frequencies + 1))

    @property
    def flops_per_input(self) -> int:
        """A product for each frequency, and a cosine, a sine and their scale."""
        return self.num_frequencies * (5 if self.smooth else 3)

    def planes(self, x: Tensor) -> Tensor:
        """All functions at all inputs, cosines first: ``(..., in_features) -> (..., K, in_features)``."""
        k = self.frequencies[:, None].to(x.dtype)
        angle = x.unsqueeze(-2) * k
        waves = torch.stack([angle.cos(), angle.sin()], dim=-3)  # (..., 2, G, in)
        return (waves / k.square() if self.smooth else waves).flatten(-3, -2)

    def plane_form(self) -> PlaneForm:
        """Waves of whole frequencies, over k² when smooth."""
        return PlaneForm("fourier", order=2 if self.smooth else 0)

    def extra_repr(self) -> str:
        """The arguments, for ``repr``."""
        return f"num_frequencies={self.num_frequencies}, smooth={self.smooth}"
