"""The Fourier feature block of KAF: a GELU and random Fourier features before one linear layer."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kan_core.bases._base import check_at_least
from kan_core.layers._common import ACTIVATION_FLOPS, at_least_float32, check_input, check_sizes, matmul
from kan_core.layers._norm import make_norm
from kan_core.layers._registry import register

_SIGMA = 1.64  # √(0.168 / 0.062), where the features' second moment meets the GELU's


@register("kaf")
class KAFLinear(nn.Module):
    r"""A linear layer on GELU(x) plus a learned share of Fourier features of a projection of all inputs.

    The features see every input at once, so there is no function per edge: the layer belongs to the MLP blocks. With b
    small at the start it begins as a GELU MLP and learns how much of the high frequencies to add.

    Equation: y = W (a GELU(x) + b V [cos(LN(x) W_f + β), sin(LN(x) W_f + β)]) + c

    Reference: KAF (arXiv 2502.06018), the form of its code: a and b are scalars, the norm is on the Fourier branch.

    Avoids: angles in half precision, where a large argument of cos loses all digits: here they are computed in at
    least float32 whatever autocast says.

    Args:
        in_features: Size of each input sample.
        out_features: Size of each output sample.
        num_frequencies: M, columns of W_f.
        per_channel: Learn a and b per input (the paper's vectors) instead of one scalar each (its code).
        norm: ``"layer"`` before the Fourier branch, or None; one input is never normalised.
        dropout: Probability of a zero in the Fourier features.
        bias: Add one constant c per output.
        device: Where the parameters live.
        dtype: Type of the parameters.

    Raises:
        KANError: For sizes or `num_frequencies` below 1, an unknown norm or an input of another size.

    Shape:
        - Input: ``(..., in_features)``
        - Output: ``(..., out_features)``

    Parameters: in · M + M + (2M · in + in) + 2 + in · out, + out with bias, + 2 in with norm.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        num_frequencies: int = 8,
        per_channel: bool = False,
        norm: str | None = "layer",
        dropout: float = 0.0,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_sizes(in_features, out_features)
        check_at_least("num_frequencies", num_frequencies, 1)
        self.in_features = in_features
        self.out_features = out_features
        self.num_frequencies = num_frequencies

        def parameter(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape, device=device, dtype=dtype))

        channels = in_features if per_channel else 1  # (1,), not (): sharded training takes no 0-dimensional tensors
        self.gelu_scale = parameter(channels)
        self.fourier_scale = parameter(channels)
        self.norm = make_norm(norm, in_features, device, dtype)
        self.frequencies = parameter(in_features, num_frequencies)
        self.phases = parameter(num_frequencies)
        self.dropout = nn.Dropout(dropout)
        self.mix = nn.Linear(2 * num_frequencies, in_features, device=device, dtype=dtype)
        self.linear = nn.Linear(in_features, out_features, bias=bias, device=device, dtype=dtype)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Set a = 1, b = 0.01, c = 0; W_f normal with variance 1 / (1.64 in), β uniform in [0, 2π); Glorot matrices."""
        self.gelu_scale.fill_(1.0)
        self.fourier_scale.fill_(1e-2)
        self.frequencies.normal_(0.0, 1 / math.sqrt(_SIGMA * self.in_features))
        self.phases.uniform_(0.0, 2 * math.pi)
        self.mix.reset_parameters()  # its bias is uniform in ±1/√(2M)
        self.linear.reset_parameters()
        for layer in (self.mix, self.linear):
            nn.init.xavier_uniform_(layer.weight)
        if self.linear.bias is not None:
            self.linear.bias.zero_()
        if isinstance(self.norm, nn.LayerNorm):
            self.norm.reset_parameters()

    def fourier_features(self, x: Tensor) -> Tensor:
        """[cos θ, sin θ] of the angles θ = norm(x) W_f + β: ``(..., in_features) -> (..., 2 M)``."""
        z = at_least_float32(x if self.norm is None else self.norm(x))
        with torch.autocast(x.device.type, enabled=False):
            angles = matmul(z, at_least_float32(self.frequencies)) + at_least_float32(self.phases)
        return torch.cat([angles.cos(), angles.sin()], dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., in_features)`` to ``(..., out_features)``."""
        check_input(x, self.in_features)
        features = self.dropout(self.fourier_features(x)).to(self.mix.weight.dtype)
        mixed = self.gelu_scale * F.gelu(at_least_float32(x)) + self.fourier_scale * self.mix(features)
        y: Tensor = self.linear(mixed.to(self.linear.weight.dtype))
        return y

    def elementwise_flops(self, numel: int) -> int:
        """Operations outside matrix products: GELU, two scales and a sum per number; cos, sin and a phase per row."""
        rows = numel // self.in_features
        return numel * (ACTIVATION_FLOPS["gelu"] + 3) + rows * 3 * self.num_frequencies

    def extra_repr(self) -> str:
        """The arguments, for ``repr``."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"num_frequencies={self.num_frequencies}, per_channel={self.gelu_scale.numel() > 1}"
        )
