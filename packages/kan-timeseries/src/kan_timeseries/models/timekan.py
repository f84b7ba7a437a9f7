"""TimeKAN: the window at several scales, split into frequency bands with Chebyshev functions of their own degrees."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kan_core import bases, layers
from kan_core.bases._base import check_at_least
from kan_core.bases._polynomial import Polynomial
from kan_core.layers import KANLinear, LayerFactory, activation_before
from kan_core.registry import parse_spec
from kan_timeseries.models._registry import FORECASTERS
from kan_timeseries.models._window import ChannelAffine, channels_as_rows, check_lengths, check_past, scaled_size

_EPS = 1e-5  # as in RevIN

__all__ = ["BandMixing", "FourierUpsample", "FrequencyBlock", "TimeKAN"]


@FORECASTERS.register("timekan")
class TimeKAN(nn.Module):
    r"""The window and its means over 2, 4, … steps: their differences are bands, and every band has its own KAN.

    Each scale is normalised by its own mean and size (the finest one by the caller, ``ForecastNetwork``), scaled per
    channel, and lifted to `features` values for each step by a circular convolution over 3 steps. Then come `blocks`
    times a :class:`FrequencyBlock`, and a map over time and one over the features read the forecast from the finest
    scale. All channels share everything but their scale.

    Reference: TimeKAN (ICLR 2025).

    Avoids: tanh applied twice; a lowest band that does not see its input (``begin_order=0`` has it); a spectrum whose
    highest frequency doubles when it is padded as it is. The release's linear map of time features is not here either:
    the effect of covariates is the network's around this model.

    Args:
        input_length: L.
        horizon: H.
        channels: C.
        num_outputs: Q, values for each step and channel.
        layer: The map over the features in each band. A polynomial basis named without a degree, such as
            ``"chebyshev"``, gets degree `begin_order` in the lowest band and one more in each band above it.
            ``"linear"`` has a SiLU before it.
        width: Factor on `features`, for a twin of a given size.
        features: d, values for each step inside.
        blocks: Frequency blocks.
        downsamplings: Scales besides the finest, each of half the length, rounded up.
        begin_order: Lowest degree, see `layer`; a polynomial of degree 0 is a learned constant.
        affine: Scale and shift every channel by learned numbers at each scale, and undo those of the finest at the end.

    Raises:
        KANError: For an argument out of its range, or windows of another shape.

    Shape:
        - Input: ``(B, L, C)``
        - Output: ``(B, H, C, Q)``

    Parameters: with s = downsamplings + 1, 2 C s + 3 d + blocks · Σ_{i<s} (d² (begin_order + i + 1) + 3 d) + (L + 1) H
    + (d + 1) Q. The published counts are 4 d more, the map of four time features: 12 843 for ETTh1, 96 → 96, with
    ``begin_order=0``, 12 779 here.
    """

    def __init__(
        self,
        input_length: int,
        horizon: int,
        channels: int = 1,
        *,
        num_outputs: int = 1,
        layer: LayerFactory | str = "chebyshev",
        width: float = 1.0,
        features: int = 16,
        blocks: int = 2,
        downsamplings: int = 2,
        begin_order: int = 1,
        affine: bool = True,
    ) -> None:
        super().__init__()
        check_lengths(input_length, horizon, channels, num_outputs)
        check_at_least("blocks", blocks, 1)
        check_at_least("begin_order", begin_order, 0)
        self.input_length, self.horizon, self.channels = input_length, horizon, channels
        size = scaled_size(features, width)
        lengths = [input_length]
        for _ in range(check_at_least("downsamplings", downsamplings, 0)):
            lengths.append((lengths[-1] + 1) // 2)
        self.num_scales = len(lengths)
        self.affines = nn.ModuleList(ChannelAffine(channels) for _ in lengths if affine)
        self.lift = nn.Conv1d(1, size, 3, padding=1, padding_mode="circular", bias=False)
        degrees = range(begin_order + downsamplings, begin_order - 1, -1)  # the finest scale holds the highest band
        self.blocks = nn.ModuleList(
            FrequencyBlock(lengths, [BandMixing(size, layer, degree) for degree in degrees]) for _ in range(blocks)
        )
        self.time_map = nn.Linear(input_length, horizon)
        self.head = nn.Linear(size, num_outputs)

    def forward(self, past: Tensor) -> Tensor:
        """Map ``(B, L, C)`` to ``(B, H, C, Q)``."""
        check_past(past, self.input_length, self.channels)
        scales = [self._lifted(past, 0)]
        for index in range(1, self.num_scales):
            past = halved(past)
            scales.append(self._lifted(standardised(past), index))
        for block in self.blocks:
            scales = block(scales)
        y = self._read(scales[0]).reshape(-1, self.channels, self.head.out_features, self.horizon).permute(0, 3, 1, 2)
        if not self.affines:
            return y
        finest = self.affines[0]
        assert isinstance(finest, ChannelAffine)
        return finest.inverse(y)

    def _read(self, x: Tensor) -> Tensor:
        """``head(time_map(x))`` as ``(N, Q, H)`` of ``(N, d, T)``; the maps commute, and d values become Q first."""
        weight = self.head.weight
        constant = torch.outer(weight.sum(dim=1), self.time_map.bias) + self.head.bias[:, None]
        return F.linear(weight @ x, self.time_map.weight) + constant

    def _lifted(self, x: Tensor, index: int) -> Tensor:
        """One scale, ``(B, T, C)``, as features ``(B · C, d, T)``."""
        if self.affines:
            x = self.affines[index](x)
        lifted: Tensor = self.lift(channels_as_rows(x).unsqueeze(1))
        return lifted


class FrequencyBlock(nn.Module):
    r"""Scales to bands, every band through its own map, bands back to scales.

    Equation: band_i = scale_i − up(scale_{i+1}), scale'_i = mix_i(band_i) + up(scale'_{i+1}); the coarsest scale is a
    band itself. With maps that change nothing the scales return as they were.

    Args:
        lengths: Steps of each scale, the finest first.
        mixings: A map ``(N, d, T) -> (N, d, T)`` for each scale.

    Shape:
        - Input and output: a list of ``(N, d, T_i)``, the finest first.
    """

    def __init__(self, lengths: Sequence[int], mixings: Sequence[nn.Module]) -> None:
        super().__init__()
        self.mixings = nn.ModuleList(mixings)
        self.upsamples = nn.ModuleList(FourierUpsample(coarse, fine) for fine, coarse in pairwise(lengths))

    def forward(self, scales: list[Tensor]) -> list[Tensor]:
        """Map the scales, the finest first, to new ones of the same shapes."""
        bands = [fine - up(coarse) for up, (fine, coarse) in zip(self.upsamples, pairwise(scales), strict=True)]
        mixed = [mixing(band) for mixing, band in zip(self.mixings, [*bands, scales[-1]], strict=True)]
        rebuilt = [mixed.pop()]
        for up, band in zip(reversed(self.upsamples), reversed(mixed), strict=True):
            rebuilt.insert(0, band + up(rebuilt[0]))
        return rebuilt


class BandMixing(nn.Module):
    r"""A KAN over the features of each step, plus a convolution over 3 steps of each feature (zeros beyond the ends).

    Args:
        features: d.
        layer: The KAN. A polynomial basis has neither base branch nor bias; a convolution with its own constants is
            beside it.
        degree: Of a polynomial basis that is named without one; 0 for a learned constant.

    Shape:
        - Input and output: ``(N, d, T)``
    """

    def __init__(self, features: int, layer: LayerFactory | str, degree: int) -> None:
        super().__init__()
        self.activation = activation_before(layer)
        self.kan = _of_degree(layer, degree)(features, features)
        self.convolution = nn.Conv1d(features, features, 3, padding=1, groups=features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, d, T)`` to the same shape."""
        functions = self.kan(self.activation(x.transpose(1, 2))).transpose(1, 2)
        y: Tensor = functions + self.convolution(x)
        return y


class FourierUpsample(nn.Module):
    """More steps of the same periodic series: zeros behind its spectrum, as one product with a constant matrix.

    Of an even length the highest frequency is halved, for its conjugate is now in the spectrum too: values at steps
    that both lengths have stay as they were.

    Args:
        length: Steps given.
        new_length: Steps wanted, at least as many.

    Shape:
        - Input: ``(..., length)``
        - Output: ``(..., new_length)``
    """

    def __init__(self, length: int, new_length: int) -> None:
        super().__init__()
        spectrum = torch.fft.rfft(torch.eye(length, dtype=torch.float64))
        if length % 2 == 0 and new_length > length:
            spectrum[:, -1] *= 0.5
        matrix = torch.fft.irfft(spectrum, n=new_length) * (new_length / length)
        self.matrix: Tensor
        self.register_buffer("matrix", matrix.to(torch.get_default_dtype()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., length)`` to ``(..., new_length)``."""
        y: Tensor = x @ self.matrix
        return y


class _One(bases.Basis):
    """The polynomial of degree 0."""

    num_functions = 1

    def planes(self, x: Tensor) -> Tensor:
        return torch.ones_like(x).unsqueeze(-2)


def _of_degree(layer: LayerFactory | str, degree: int) -> LayerFactory:
    """The layer; with this degree when it is a polynomial basis that is named without one."""
    name, arguments = parse_spec(layer, kind="layer") if isinstance(layer, str) else ("", {})
    if not isinstance(layer, str) or name not in bases.names() or not isinstance(bases.get(layer), Polynomial):
        return layers.get(layer)
    basis: bases.Basis
    if "degree" in arguments:
        basis = bases.get(layer)
    elif degree == 0:
        basis = _One()
    else:
        stated = ", ".join(f"{key}={value!r}" for key, value in {**arguments, "degree": degree}.items())
        basis = bases.get(f"{name}({stated})")
    return partial(KANLinear, basis=basis, base=None, bias=False, init_scale=0.1)


def halved(x: Tensor) -> Tensor:
    """Means of two steps each of ``(B, T, C)``; a last step without a neighbour stays."""
    return F.avg_pool1d(x.transpose(1, 2), 2, ceil_mode=True).transpose(1, 2)


def standardised(x: Tensor) -> Tensor:
    """``(B, T, C)`` with mean 0 and, but for windows that hardly vary, variance 1 over time."""
    return (x - x.mean(dim=1, keepdim=True)) * torch.rsqrt(x.var(dim=1, keepdim=True, correction=0) + _EPS)
