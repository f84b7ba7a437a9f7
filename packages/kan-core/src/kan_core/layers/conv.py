"""Convolutions whose kernel entries are learned univariate functions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from kan_core.bases import Basis
from kan_core.errors import KANError
from kan_core.layers._base import KANLayer
from kan_core.layers._norm import Norm

PaddingMode = Literal["zeros", "input_zeros", "reflect", "replicate", "circular"]


class _KANConv(KANLayer):
    r"""y_c(u) = Σ_i Σ_a φ_{c,i,a}(x_i(u s + a d)) + bias_c: a convolution whose kernel entries are functions.

    Computed basis first: the basis of every pixel, then one ordinary convolution over in · K channels (and one of
    b(x) for the base branch). It takes the place of a convolution *and* of the activation before it.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Size of the kernel, one number or one per dimension.
        stride: Step s of the kernel.
        padding: Pixels added on each side, or ``"same"`` (stride 1) or ``"valid"``.
        dilation: Spacing d of the kernel's entries.
        groups: Blocks of channels that do not see each other.
        basis: A :class:`~kan_core.bases.Basis` or a spec such as ``"rbf(num_centers=5)"``.
        base: The base branch's function, or None (see :class:`KANLinear`).
        norm: Normalise the basis's input: ``"layer"`` over each pixel's channels, ``"batch"`` per channel, or None.
        bias: Add one constant per output channel.
        padding_mode: What a padded pixel contributes. ``"zeros"``: nothing, as a padded zero in an ordinary
            convolution. ``"input_zeros"``: φ(0), a pixel of value 0 (the order of Bodner et al., arXiv 2406.13155);
            with a norm, of value 0 before it. The others pad the input as ``nn.Conv2d`` does.
        edge_scale: Learn one more factor per edge on its basis part.
        init_scale: Standard deviation of the basis part of an output at the start, see :meth:`reset_parameters`.
        device: Where parameters and grids live.
        dtype: Type of parameters and grids.

    Raises:
        KANError: For an unknown basis, base, norm or padding mode, sizes that do not fit, or an input of another shape.

    Shape:
        - Input: ``(..., in_channels, *spatial)``
        - Output: ``(..., out_channels, *spatial_out)``, spatial_out as for ``nn.Conv``
        - weight: ``(out_channels, K + 1, in_channels / groups, *kernel_size)``, an ordinary convolution's weight whose
          input axis is plane-major; K planes without a base branch

    Parameters: out · in/groups · prod(kernel_size) · (K + 1) with a base branch, + out with a bias, + 1 with
    base "prelu".
    """

    spatial: ClassVar[int]
    plane_dim = 1

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] = 1,
        padding: int | tuple[int, ...] | str = 0,
        dilation: int | tuple[int, ...] = 1,
        groups: int = 1,
        basis: Basis | str = "bspline",
        *,
        base: str | None = "silu",
        norm: Norm | None = None,
        bias: bool = True,
        padding_mode: PaddingMode = "zeros",
        edge_scale: bool = False,
        init_scale: float | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if min(in_channels, out_channels, groups) < 1 or in_channels % groups or out_channels % groups:
            raise KANError(
                f"in_channels and out_channels must be positive multiples of groups, got in_channels={in_channels}, "
                f"out_channels={out_channels}, groups={groups}"
            )
        if padding_mode not in get_args(PaddingMode):
            raise KANError(f"padding_mode must be one of {', '.join(get_args(PaddingMode))}, got {padding_mode!r}")
        kernel = self._sizes("kernel_size", kernel_size, 1)
        super().__init__(
            in_channels,
            out_channels,
            basis=basis,
            base=base,
            norm=norm,
            bias=bias,
            edge_scale=edge_scale,
            init_scale=init_scale,
            weight_shape=lambda planes: (out_channels, planes, in_channels // groups, *kernel),
            device=device,
            dtype=dtype,
        )
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = kernel
        self.stride = self._sizes("stride", stride, 1)
        self.dilation = self._sizes("dilation", dilation, 1)
        self.groups = groups
        self.padding_mode = padding_mode
        self.padding = self._sides(padding)
        self.reset_parameters()

    def _sizes(self, name: str, value: int | tuple[int, ...], least: int) -> tuple[int, ...]:
        sizes = (value,) * self.spatial if isinstance(value, int) else tuple(value)
        if len(sizes) != self.spatial or min(sizes) < least:
            raise KANError(f"{name} must be one number or {self.spatial}, each at least {least}, got {value!r}")
        return sizes

    def _sides(self, padding: int | tuple[int, ...] | str) -> tuple[tuple[int, int], ...]:
        """Pixels before and after, per dimension; of "same"'s odd pixel, the larger half stands after as in torch."""
        if padding == "valid":
            return ((0, 0),) * self.spatial
        if padding == "same":
            if any(s != 1 for s in self.stride):
                raise KANError(f"padding 'same' needs stride 1, got stride {self.stride}")
            totals = [d * (k - 1) for d, k in zip(self.dilation, self.kernel_size, strict=True)]
            return tuple((total // 2, total - total // 2) for total in totals)
        if isinstance(padding, str):
            raise KANError(f"padding must be numbers, 'same' or 'valid', got {padding!r}")
        return tuple((p, p) for p in self._sizes("padding", padding, 0))

    @property
    def fan_in(self) -> int:
        """How many edges end in one output."""
        return self.in_channels // self.groups * math.prod(self.kernel_size)

    def as_planes(self, tensor: Tensor) -> Tensor:
        """``(out, P, in/groups, *kernel) -> (P, in, out/groups · prod(kernel))``."""
        planes, inputs = tensor.shape[1:3]
        by_group = tensor.reshape(self.groups, self.out_channels // self.groups, planes, inputs, -1)
        return by_group.permute(2, 0, 3, 1, 4).reshape(planes, self.in_channels, -1)

    def from_planes(self, planes: Tensor) -> Tensor:
        """``(P, in, out/groups · prod(kernel)) -> (out, P, in/groups, *kernel)``."""
        g, inputs = self.groups, self.in_channels // self.groups
        by_group = planes.reshape(len(planes), g, inputs, self.out_channels // g, math.prod(self.kernel_size))
        return by_group.permute(1, 3, 0, 2, 4).reshape(self.out_channels, len(planes), inputs, *self.kernel_size)

    def as_rows(self, x: Tensor) -> Tensor:
        """``(..., in_channels, *spatial) -> (pixels, in_channels)``."""
        return x.movedim(-1 - self.spatial, -1).reshape(-1, self.in_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., in_channels, *spatial)`` to ``(..., out_channels, *spatial_out)``."""
        lead = x.shape[: -1 - self.spatial]
        if x.dim() <= self.spatial or x.shape[-1 - self.spatial] != self.in_channels:
            dims = ", ".join("DHW"[-self.spatial :])
            raise KANError(f"expected an input of shape (..., {self.in_channels}, {dims}), got {tuple(x.shape)}")
        # Not reshaped when there is nothing to fold: torch 2.11 has wrong gradients of normalisations on the CPU for
        # batches of one whose stride of the batch was lost, as reshape does even where the shape stays.
        x = self._padded(x if len(lead) == 1 else x.reshape(-1, *x.shape[-1 - self.spatial :]))
        # Channels last: the basis then sees (..., in), and its planes are the convolution's channels without a copy.
        x = x.movedim(1, -1).contiguous()
        coefficients, base = self._split(self.effective_weight(), self.plane_dim)
        features = self._grouped(self._planes(self._normalised(x)))
        y = self._convolve(features, coefficients)
        if base is not None:
            y = y + self._convolve(self._base(x), base)
        if self.bias is not None:
            y = y + self.bias.to(y.dtype).view(-1, *(1,) * self.spatial)
        return y if len(lead) == 1 else y.reshape(*lead, *y.shape[1:])

    def _padded(self, x: Tensor) -> Tensor:
        """The input, padded; zeros that contribute nothing are left to :meth:`_convolve`."""
        sides = [side for pair in reversed(self.padding) for side in pair]
        if self.padding_mode == "zeros" or not any(sides):
            return x
        return F.pad(x, sides, mode="constant" if self.padding_mode == "input_zeros" else self.padding_mode)

    def _grouped(self, planes: Tensor) -> Tensor:
        """``(N, *spatial, K, in) -> (N, *spatial, channels)`` in the order of the weight: group, plane, input."""
        if self.groups > 1:
            planes = torch.unflatten(planes, -1, (self.groups, -1)).movedim(-2, -3).flatten(-3, -2)
        return planes.flatten(-2)

    def _convolve(self, features: Tensor, weight: Tensor) -> Tensor:
        """Ordinary convolution of channels-last features with planes of the weight."""
        padding: tuple[int, ...] = (0,) * self.spatial
        if self.padding_mode == "zeros":
            if all(before == after for before, after in self.padding):
                padding = tuple(before for before, _ in self.padding)
            else:
                features = F.pad(features, [0, 0, *(side for pair in reversed(self.padding) for side in pair)])
        convolution: Callable[..., Tensor] = getattr(F, f"conv{self.spatial}d")
        return convolution(
            features.to(weight.dtype).movedim(-1, 1),
            weight.flatten(1, 2),
            stride=self.stride,
            padding=padding,
            dilation=self.dilation,
            groups=self.groups,
        )

    def extra_repr(self) -> str:
        """The arguments, for ``repr``."""
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, dilation={self.dilation}, groups={self.groups}, "
            f"padding_mode={self.padding_mode!r}, base={self.base!r}, bias={self.bias is not None}"
        )


class KANConv1d(_KANConv):
    """KAN convolution over sequences, ``(..., channels, length)``."""

    spatial = 1


class KANConv2d(_KANConv):
    """KAN convolution over images, ``(..., channels, height, width)``."""

    spatial = 2


class KANConv3d(_KANConv):
    """KAN convolution over volumes, ``(..., channels, depth, height, width)``."""

    spatial = 3


for _layer in (KANConv1d, KANConv2d, KANConv3d):
    _layer.__doc__ = f"{_layer.__doc__}\n\n    {_KANConv.__doc__}"
