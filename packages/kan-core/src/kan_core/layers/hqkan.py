"""HQKAN: a small QKAN between two linear layers, for the MLPs of large models."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kan_core.bases._base import check_at_least
from kan_core.layers._common import check_input, check_sizes
from kan_core.layers._registry import register
from kan_core.layers.qkan import QKANLinear


@register("hqkan")
class HQKANLinear(nn.Module):
    r"""A linear map to a few features, a QKAN on those, and a linear map to the outputs.

    Equation: y = W₂ QKAN(W₁ x + b₁) + b₂, with latent → latent = ⌈log₂ in⌉ in between

    Reference: HQKAN of QKAN (arXiv 2509.14026).

    Avoids: the constant base weight of the reference's QKAN, which starts all latent outputs with one base sum.

    Args:
        in_features: Size of each input sample.
        out_features: Size of each output sample.
        latent: Width between the linear layers; None for ⌈log₂ in_features⌉, at least 1.
        reps: Uploads of the QKAN's circuits, at least 1.
        bias: Whether the two linear layers have one; the QKAN between them needs none.
        device: Where the parameters live.
        dtype: Type of the parameters.

    Raises:
        KANError: For an argument out of its range, or an input of another size.

    Shape:
        - Input: ``(..., in_features)``
        - Output: ``(..., out_features)``

    Parameters: latent (in + out) + latent² (2 reps + 3), + latent + out with bias.

    Example:
        >>> HQKANLinear(768, 768).latent  # in place of the MLP of a transformer block
        10
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        latent: int | None = None,
        reps: int = 1,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_sizes(in_features, out_features)
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        # the bits of in - 1 are ⌈log₂ in⌉
        self.latent = max(1, (in_features - 1).bit_length()) if latent is None else check_at_least("latent", latent, 1)
        self.reduce = nn.Linear(in_features, self.latent, bias=bias, device=device, dtype=dtype)
        self.qkan = QKANLinear(self.latent, self.latent, reps=reps, bias=False, device=device, dtype=dtype)
        self.expand = nn.Linear(self.latent, out_features, bias=bias, device=device, dtype=dtype)

    def reset_parameters(self) -> None:
        """Draw the parameters of the three layers anew, each as it does itself."""
        for layer in (self.reduce, self.qkan, self.expand):
            layer.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., in_features)`` to ``(..., out_features)``."""
        check_input(x, self.in_features)
        y: Tensor = self.expand(self.qkan(self.reduce(x)))
        return y

    def extra_repr(self) -> str:
        """The arguments, for ``repr``."""
        return f"in_features={self.in_features}, out_features={self.out_features}, latent={self.latent}"
