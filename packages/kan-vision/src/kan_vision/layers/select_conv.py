"""Selection among candidate bases for convolutions (S-ConvKAN)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from kan_core import Basis, KANConv2d, KANError
from kan_core.layers import Selection
from kan_core.layers._base import BASE_FUNCTIONS
from kan_core.layers.conv import PaddingMode


class SelectKANConv2d(Selection):
    r"""A convolution that learns which basis it needs: candidate KAN convolutions under softmax gates.

    See :class:`kan_core.layers.Selection` for how it is trained; :meth:`select` then gives a plain
    :class:`kan_core.KANConv2d`. Every candidate starts with an output of variance about 1 for inputs of variance 1, so
    that none wins by its scale; the base branch is shared by all.

    Equation: y = Σ_m α_m f_m(x) + W_b * b(x) + bias, α = softmax(θ/T), f_m = one KAN convolution per basis

    Reference: S-ConvKAN (arXiv 2408.08338); one gate per layer and the stages' details are our reading of it.

    Avoids: leaving selection out, as the published code does, and its unfolded patches, which allow neither dilation
    nor groups.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Size of the kernel, one number or two.
        stride: Step of the kernel.
        padding: Pixels added on each side, or ``"same"`` (stride 1) or ``"valid"``.
        dilation: Spacing of the kernel's entries.
        groups: Blocks of channels that do not see each other.
        bases: The candidates: bases or their specs.
        base: The base branch's function b, as in :class:`kan_core.KANConv2d`; or None.
        bias: Add one constant per output channel.
        padding_mode: What a padded pixel contributes, as in :class:`kan_core.KANConv2d`.
        device: Where parameters and grids live.
        dtype: Type of parameters and grids.

    Raises:
        KANError: For no candidates, an unknown basis or base, sizes that do not fit, or an input of another shape.

    Attributes:
        members: One :class:`kan_core.KANConv2d` per candidate, without base branch and bias.
        base_conv: The convolution of b(x), or None.

    Shape:
        - Input: ``(batch, in_channels, height, width)``
        - Output: ``(batch, out_channels, height_out, width_out)``, as for ``nn.Conv2d``

    Parameters: out · in/groups · kernel² · Σ_m K_m + M for M candidates, + out · in/groups · kernel² with a base
    branch, + out with a bias. After selection: those of a KANConv2d.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        *,
        bases: Sequence[Basis | str] = ("bspline", "rbf", "chebyshev", "fourier"),
        base: str | None = "silu",
        bias: bool = True,
        padding_mode: PaddingMode = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if base is not None and base not in BASE_FUNCTIONS:
            raise KANError(f"base must be None or one of {', '.join(BASE_FUNCTIONS)}, got {base!r}")
        super().__init__(bases, device=device, dtype=dtype)
        self.base = base
        self.members = nn.ModuleList(
            KANConv2d(
                in_channels,
                out_channels,
                kernel_size,
                stride,
                padding,
                dilation,
                groups,
                basis,
                base=None,
                bias=False,
                padding_mode=padding_mode,
                init_scale=1.0,
                device=device,
                dtype=dtype,
            )
            for basis in bases
        )
        self.base_conv: nn.Conv2d | None = None
        if base is not None:
            self.base_conv = nn.Conv2d(
                in_channels,
                out_channels,
                kernel_size,
                stride,
                padding,
                dilation,
                groups,
                bias=False,
                padding_mode="zeros" if padding_mode == "input_zeros" else padding_mode,  # b(0) = 0 for every b
                device=device,
                dtype=dtype,
            )
        self.bias: nn.Parameter | None = None
        if bias:
            self.bias = nn.Parameter(torch.empty(out_channels, device=device, dtype=dtype))
        self._reset_bias()

    def reset_parameters(self) -> None:
        """Draw new weights from torch's global generator, as :class:`kan_core.KANConv2d` does; gates equal, T = 1."""
        for member in self._members():
            member.reset_parameters()
        if self.base_conv is not None:
            self.base_conv.reset_parameters()
        self._reset_bias()
        self._reset_gates()

    @torch.no_grad()
    def _reset_bias(self) -> None:
        if self.bias is not None:
            bound = self._members()[0].fan_in ** -0.5
            self.bias.uniform_(-bound, bound)

    def _members(self) -> list[KANConv2d]:
        return [cast(KANConv2d, member) for member in self.members]

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, in_channels, height, width) -> (batch, out_channels, height_out, width_out)``."""
        y = self._mix([member(x) for member in self.members])
        if self.base is not None and self.base_conv is not None:
            y = y + self.base_conv(BASE_FUNCTIONS[self.base](x))
        return y if self.bias is None else y + self.bias.to(y.dtype).view(-1, 1, 1)

    @torch.no_grad()
    def select(self) -> KANConv2d:
        """The winner as a plain layer with its own copy of the weights, its gate folded into its coefficients.

        It equals this layer with the other candidates taken away: exactly this layer once their gates are 0.
        """
        member = self._members()[self.winner]
        layer = copy.deepcopy(member)
        planes = [member.weight * self.gates[self.winner]]
        if self.base_conv is not None:
            planes.append(self.base_conv.weight.unsqueeze(layer.plane_dim))
        layer.weight = nn.Parameter(torch.cat(planes, dim=layer.plane_dim))
        layer.base = self.base
        layer.bias = copy.deepcopy(self.bias)
        return layer.train(self.training)

    def extra_repr(self) -> str:
        """The arguments, for ``repr``."""
        return f"base={self.base!r}, bias={self.bias is not None}"
