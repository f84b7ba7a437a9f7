"""RKAN's KAN convolution: one kernel of learned functions that all channels share."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from kan_core import KANConv2d, layers


class SharedKernelConv2d(nn.Module):
    r"""A depthwise convolution with the same KAN kernel for every channel: no channel sees another.

    Equation: y_c(p) = Σ_q [ w_q x_c(p+q) + s_q Σ_j a_{q,j} φ_j(x_c(p+q)) ] over the taps q of the kernel

    It is a :class:`kan_core.KANConv2d` of one channel, run over all channels as if they were samples. The polynomial
    families bring their tanh; other bases see x itself on their own grid. With ``layer="linear"`` only w_q is left.

    Reference: RKAN (arXiv 2410.05500), whose code unfolds the input, so that padded zeros go through the functions;
    here they do so too (``padding_mode="input_zeros"``), at 1/(kernel²) of the memory.

    Args:
        layer: ``"linear"`` or a basis spec, see :func:`kan_core.layers.get`.
        kernel_size: Height and width of the kernel.
        stride: Step of the kernel.
        padding: Pixels of value 0 added on each side.
        **kwargs: More arguments of the convolution, over the reference's: ``base="identity"``, ``edge_scale=True``
            (s_q) and ``padding_mode="input_zeros"`` for a basis, and ``bias=False``.

    Raises:
        KANError: For an unknown layer or arguments that it refuses.

    Shape:
        - Input: ``(batch, channels, height, width)``, any number of channels
        - Output: ``(batch, channels, height_out, width_out)``

    Parameters: kernel² · (K + 2) for K functions, whatever the channels; kernel² for ``"linear"``.
    """

    def __init__(
        self, layer: str = "chebyshev(degree=3)", kernel_size: int = 3, stride: int = 1, padding: int = 1, **kwargs: Any
    ) -> None:
        super().__init__()
        kan = {} if layer == "linear" else {"base": "identity", "edge_scale": True, "padding_mode": "input_zeros"}
        make = layers.get(layer, conv=2)
        self.conv = make(
            1, 1, kernel_size=kernel_size, stride=stride, padding=padding, **{"bias": False, **kan, **kwargs}
        )
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw new weights from torch's global generator, as the reference does.

        With t = kernel² taps: a ~ N(0, 1/(t K)) (variance), w Kaiming normal ~ N(0, 2/t), s = 1.
        """
        assert isinstance(self.conv, KANConv2d | nn.Conv2d)
        self.conv.reset_parameters()
        linear = self.conv.weight
        taps = math.prod(self.conv.kernel_size)
        if isinstance(self.conv, KANConv2d):
            functions = self.conv.basis.num_functions
            coefficients, linear = linear[:, :functions], linear[:, functions:]
            coefficients.normal_(0.0, 1 / math.sqrt(taps * functions))
        linear.normal_(0.0, math.sqrt(2 / taps))

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, channels, height, width) -> (batch, channels, height_out, width_out)``."""
        y: Tensor = self.conv(x.flatten(0, 1).unsqueeze(1))
        return y.reshape(x.shape[0], x.shape[1], *y.shape[-2:])
