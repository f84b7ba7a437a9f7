"""Statistics of sensor windows: the twelve of KAN-HAR, and a richer set that knows that three axes are one sensor.

All functions take ``(B, T, C)`` windows and an optional ``(B, T)`` mask that is False on padding, and return one row of
numbers per window; padding changes nothing. What is undefined for a constant channel is 0.
"""

from __future__ import annotations

import math
from itertools import combinations, pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from kan_core.errors import KANError

KAN_HAR_STATISTICS = (
    "mean_abs",
    "std",
    "skewness",
    "kurtosis",
    "entropy",
    "rms",
    "max_abs",
    "peak_to_peak",
    "crest",
    "clearance",
    "shape",
    "impulse",
)
"""What :func:`kan_har_features` computes, in its order."""

LITERAL_BINS = 500
CORRECTED_BINS = 32

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
BANDS_HZ = (0.25, 0.8, 1.3, 2.0, 3.0, 5.0, 8.0, 16.0)
"""Edges of the frequency bands, in Hz: a slow gesture, a slow and a fast gait, its harmonics, tremor and impacts."""

FRAME_SECONDS = 4.0
LAGS_SECONDS = (0.3, 2.0)
_FLAT = 1e-5  # a channel whose deviation is below this share of its largest value is constant: float32 rounding


# The twelve statistics of KAN-HAR ---------------------------------------------------------------------------------


def kan_har_features(x: Tensor, mask: Tensor | None = None, *, corrected: bool = False) -> Tensor:
    r"""The twelve statistics of KAN-HAR of every channel.

    Mean |x|; standard deviation s (population); skewness m₃/s³; excess kurtosis m₄/s⁴ − 3; entropy −Σ p ln p of a
    histogram of equal bins between the window's extremes; root mean square; max |x|; peak-to-peak; crest max|x|/RMS;
    clearance (mean √|x|)²; shape RMS/mean|x|; impulse max|x|/mean|x|.

    The published code has 500 bins, as many as samples, so that its entropy measures ties and window length, and takes
    |max| + |min| for peak-to-peak, which is the range only of a window that crosses zero. `corrected` has 32 bins and
    max − min.

    Reference: KAN-HAR (arXiv 2508.11186).

    Args:
        x: ``(B, T, C)`` windows.
        mask: ``(B, T)``, False on padding; None: all samples count.
        corrected: Repair entropy and peak-to-peak.

    Returns:
        ``(B, 12 · C)``, all channels of the first statistic, then those of the second.

    Raises:
        KANError: For another shape, or a window without a sample.
    """
    view = _View.of(x, mask)
    x, n = view.x, view.samples
    size = x.abs() * view.weight
    mean = view.mean(x)
    centred = (x - mean[:, None]) * view.weight
    std = (centred.square().sum(dim=1) / n).sqrt()
    largest = size.amax(dim=1)
    varies = std > _FLAT * largest
    unit = centred / torch.where(varies, std, 1)[:, None]
    mean_abs = size.sum(dim=1) / n
    rms = (size.square().sum(dim=1) / n).sqrt()
    low, high = view.extremes(x)
    values = {
        "mean_abs": mean_abs,
        "std": std,
        "skewness": (unit.pow(3).sum(dim=1) / n) * varies,
        "kurtosis": (unit.pow(4).sum(dim=1) / n - 3) * varies,
        "entropy": _histogram_entropy(view, low, high, CORRECTED_BINS if corrected else LITERAL_BINS) * varies,
        "rms": rms,
        "max_abs": largest,
        "peak_to_peak": high - low if corrected else high.abs() + low.abs(),
        "crest": _ratio(largest, rms),
        "clearance": (size.sqrt().sum(dim=1) / n).square(),
        "shape": _ratio(rms, mean_abs),
        "impulse": _ratio(largest, mean_abs),
    }
    return torch.cat([values[name] for name in KAN_HAR_STATISTICS], dim=1)


def kan_har_names(channels: list[str]) -> list[str]:
    """What the columns of :func:`kan_har_features` are, for these channels."""
    return [f"{statistic} {channel}" for statistic in KAN_HAR_STATISTICS for channel in channels]


def _histogram_entropy(view: _View, low: Tensor, high: Tensor, bins: int) -> Tensor:
    """Entropy in nats of the window's histogram; the last bin holds the maximum, as in ``numpy.histogram``."""
    place = (view.x - low[:, None]) / (high - low).clamp_min(1e-30)[:, None] * bins
    place = place.long().clamp(0, bins - 1)
    counts = view.x.new_zeros(view.x.shape[0], bins, view.x.shape[2])
    counts.scatter_add_(1, place, view.weight.expand_as(view.x).contiguous())
    share = counts / view.samples[:, None]
    entropy: Tensor = -torch.special.xlogy(share, share).sum(dim=1)
    return entropy


# Statistics that know about sensors --------------------------------------------------------------------------------


def physical_features(x: Tensor, mask: Tensor | None = None, *, rate: float) -> Tensor:
    r"""Statistics of tri-axial sensors in physical units: size, change, rhythm, course, posture and duration.

    Channels are taken in threes (x, y, z of one sensor); each three gets its magnitude |a| as a fourth channel, which
    no rotation of the device changes. The sensor is then described by

    - of each channel: mean, deviation, mean |Δ|, deviation of Δ, extremes, quantiles, skewness, kurtosis, logarithms of
      mean |Δ| and deviation, means of the thirds and log deviations of the fifths of the recording;
    - rhythm: log power in frequency bands and its dominant frequency and entropy (Welch frames of 4 s, Hann), highest
      autocorrelation at 0.3 to 2 s, its lag, and the lowest;
    - posture: the direction of gravity (a one-second mean, made a unit vector) at the start, at the end and between,
      its mean, deviation, extremes, the length of its path and its largest step; means of the tenths of each axis;
    - correlations between the channels, and when in the recording the motion happens.

    The log duration is the last column. Inputs should be in physical units: z-scores have no gravity and no |a|.

    Args:
        x: ``(B, T, C)``, C a multiple of 3.
        mask: ``(B, T)``, False on padding, which comes last.
        rate: Samples per second.

    Returns:
        ``(B, 205 · C/3 + 1)``, see :func:`physical_names`.

    Raises:
        KANError: For another shape, a window without a sample, or a rate of 2 Hz or less.
    """
    view = _View.of(x, mask)
    _check_sensors(x.shape[2], rate)
    parts = [_sensor(view.take(x[..., start : start + 3]), rate) for start in range(0, x.shape[2], 3)]
    return torch.cat([*parts, view.samples.log()], dim=1)


def physical_names(channels: list[str], rate: float) -> list[str]:
    """What the columns of :func:`physical_features` are, for these channels.

    Raises:
        KANError: When the channels do not come in threes.
    """
    _check_sensors(len(channels), rate)
    names = []
    for start in range(0, len(channels), 3):
        axes = channels[start : start + 3]
        four = [*axes, f"|{axes[0]}..{axes[2]}|"]
        names += [f"{statistic} {channel}" for statistic in _CHANNEL_STATISTICS for channel in four]
        names += [f"mean of tenth {i + 1} {axis}" for i in range(10) for axis in axes]
        names += [f"gravity {when} {axis}" for when in _GRAVITY for axis in axes]
        names += [f"gravity {what} {four[3]}" for what in ("path", "turn", "largest step")]
        names += [f"correlation {four[i]} {four[j]}" for i, j in combinations(range(4), 2)]
        names += [f"time of {share:.0%} of the motion {four[3]}" for share in _MOTION]
    return [*names, "log duration"]


_MOTION = (0.1, 0.25, 0.5, 0.75, 0.9)
_GRAVITY = ("start", "end", "change", "mean", "deviation", "least", "largest")
_CHANNEL_STATISTICS = (
    *("mean", "std", "mean |delta|", "std delta", "min", "max", "skewness", "kurtosis", "log mean |delta|", "log std"),
    *(f"quantile {q}" for q in QUANTILES),
    *(f"mean of third {i}" for i in (1, 2, 3)),
    *(f"log std of fifth {i}" for i in (1, 2, 3, 4, 5)),
    *(f"log power {low} to {high} Hz" for low, high in pairwise(BANDS_HZ)),
    *("dominant frequency", "spectral entropy", "autocorrelation peak", "lag of the peak", "autocorrelation least"),
)


def _check_sensors(channels: int, rate: float) -> None:
    if channels % 3:
        raise KANError(f"physical features take channels in threes (x, y, z of a sensor), got {channels} channels")
    if rate <= 2:
        raise KANError(f"physical features need a rate above 2 Hz, got {rate:g}")


def _sensor(axes: _View, rate: float) -> Tensor:
    """All columns of one tri-axial sensor."""
    four = axes.take(torch.cat([axes.x, axes.x.norm(dim=2, keepdim=True)], dim=2))
    columns = [_channel_statistics(four, rate), axes.segments(10)[0].flatten(1)]
    return torch.cat([*columns, _gravity(axes, rate), _correlations(four), _timing(axes)], dim=1)


def _channel_statistics(four: _View, rate: float) -> Tensor:
    """``(B, statistics · 4)``, statistic by statistic."""
    mean, std = four.mean(four.x), four.std()
    steps = four.steps()
    delta = steps.mean(steps.x.abs())
    low, high = four.extremes(four.x)
    varies = std > _FLAT * torch.maximum(low.abs(), high.abs())
    unit = (four.x - mean[:, None]) * four.weight / torch.where(varies, std, 1)[:, None]
    skewness = (unit.pow(3).sum(dim=1) / four.samples) * varies
    kurtosis = (unit.pow(4).sum(dim=1) / four.samples - 3).clamp(max=10) * varies
    columns = [mean, std, delta, steps.std(), low, high, skewness, kurtosis, _log(delta), _log(std)]
    columns += [four.quantiles(QUANTILES).flatten(1), four.segments(3)[0].flatten(1)]
    columns += [_log(four.segments(5)[1]).flatten(1), _spectrum(four, rate), _rhythm(four, rate)]
    return torch.cat(columns, dim=1)


def _spectrum(view: _View, rate: float) -> Tensor:
    """Log power of the bands, dominant frequency in Hz and entropy of the Welch spectrum, ``(B, 9 · channels)``."""
    frame = round(FRAME_SECONDS * rate)
    hop = frame // 2
    moving = (view.x - view.moving_mean(round(1.5 * rate))) * view.weight
    short = max(0, frame - moving.shape[1])
    frames = F.pad(moving, (0, 0, 0, short)).unfold(1, frame, hop)  # (B, frames, channels, frame)
    whole = F.pad(view.weight, (0, 0, 0, short)).unfold(1, frame, hop).amin(dim=3)
    whole[:, 0] = 1  # a recording shorter than a frame has this one
    window = torch.hann_window(frame, dtype=moving.dtype, device=moving.device)
    power = torch.fft.rfft(frames * window, dim=3).abs().square() / (rate * window.square().sum())
    power = ((power * whole[..., None]).sum(dim=1) / whole.sum(dim=1)[..., None]).transpose(1, 2)  # (B, bins, channels)
    frequency = torch.fft.rfftfreq(frame, 1 / rate, dtype=moving.dtype, device=moving.device)
    columns = [
        (power * ((frequency >= low) & (frequency < high))[:, None]).sum(dim=1).add(1e-4).log()
        for low, high in pairwise(BANDS_HZ)
    ]
    share = power / power.sum(dim=1, keepdim=True).clamp_min(1e-9)
    columns += [frequency[power.argmax(dim=1)], -torch.special.xlogy(share, share).sum(dim=1)]
    return torch.cat(columns, dim=1)


def _rhythm(view: _View, rate: float) -> Tensor:
    """Highest autocorrelation between the lags, its lag in seconds, and the lowest, ``(B, 3 · channels)``."""
    first, last = (round(seconds * rate) for seconds in LAGS_SECONDS)
    moving = (view.x - view.moving_mean(round(1.5 * rate))) * view.weight
    moving = (moving - view.mean(moving)[:, None]) * view.weight
    spectrum = torch.fft.rfft(moving, n=moving.shape[1] + last + 1, dim=1)
    correlation = torch.fft.irfft(spectrum.abs().square(), n=moving.shape[1] + last + 1, dim=1)
    correlation = correlation[:, : last + 1] / (correlation[:, :1] + 1e-3)
    lags = torch.arange(last + 1, device=moving.device)
    correlation = correlation * (lags < view.samples)[:, :, None]  # beyond the recording there is only rounding
    highest, lag = correlation[:, first:].max(dim=1)
    return torch.cat([highest, (lag + first).to(highest.dtype) / rate, correlation[:, first:].amin(dim=1)], dim=1)


def _gravity(axes: _View, rate: float) -> Tensor:
    """Course of the direction of gravity, ``(B, 24)``."""
    slow = axes.moving_mean(round(rate))
    direction = slow / slow.norm(dim=2, keepdim=True).clamp_min(1e-6)
    tilt = axes.take(direction)
    last = (axes.samples.long() - 1)[:, :, None].expand(-1, 1, 3)
    start, end = direction[:, 0], direction.gather(1, last)[:, 0]
    step = tilt.steps().x.norm(dim=2) * tilt.steps().weight[..., 0]
    lengths = torch.stack([step.sum(dim=1), (end - start).norm(dim=1), step.amax(dim=1)], dim=1)
    low, high = tilt.extremes(direction)
    floors = torch.tensor([0.01, 0.05, 0.001], dtype=lengths.dtype, device=lengths.device)
    posture = [start, end, end - start, tilt.mean(direction), tilt.std(), low, high]
    return torch.cat([*posture, (lengths + floors).log()], dim=1)


def _correlations(four: _View) -> Tensor:
    """Of each pair of channels, ``(B, 6)``."""
    centred = (four.x - four.mean(four.x)[:, None]) * four.weight
    covariance = centred.transpose(1, 2) @ centred / four.samples[:, :, None]
    std = (covariance.diagonal(dim1=1, dim2=2) + 1e-6).sqrt()
    correlation = covariance / (std[:, :, None] * std[:, None])
    return torch.stack([correlation[:, i, j] for i, j in combinations(range(4), 2)], dim=1)


def _timing(axes: _View) -> Tensor:
    """Where in the recording, from 0 to 1, shares of the whole motion Σ‖Δ‖ have passed, ``(B, 5)``."""
    motion = axes.steps().x.norm(dim=2).cumsum(dim=1)
    total = motion[:, -1:].clamp_min(1e-9)
    passed = [(motion < share * total).sum(dim=1, keepdim=True) for share in _MOTION]
    return torch.cat(passed, dim=1).to(motion.dtype) / axes.samples


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """The quotient, and 0 where b is 0."""
    return torch.where(b > 0, a / b.clamp_min(1e-30), 0)


def _log(x: Tensor) -> Tensor:
    """The logarithm of something about 0.01 to 1."""
    return (x + 0.01).log()


class _View(NamedTuple):
    """Windows of which only some samples count.

    Attributes:
        x: ``(B, T, C)``, 0 on padding.
        weight: ``(B, T, 1)``, 1 or 0.
        samples: ``(B, 1)``, how many samples count.
    """

    x: Tensor
    weight: Tensor
    samples: Tensor

    @classmethod
    def of(cls, x: Tensor, mask: Tensor | None) -> _View:
        """Check shapes and forget what stands on padding."""
        if x.dim() != 3:
            raise KANError(f"expected windows of shape (B, T, C), got {tuple(x.shape)}")
        if mask is None:
            weight = torch.ones_like(x[..., :1])
            return cls(x, weight, weight.sum(dim=1))
        if mask.shape != x.shape[:2]:
            raise KANError(f"expected a mask of shape {tuple(x.shape[:2])}, got {tuple(mask.shape)}")
        if not bool(mask.any(dim=1).all()):
            raise KANError("a window has no sample: every row of the mask needs one True")
        weight = mask[:, :, None].to(x.dtype)
        return cls(torch.where(mask[:, :, None], x, 0), weight, weight.sum(dim=1))

    def take(self, x: Tensor) -> _View:
        """The same samples of other channels."""
        return _View(x * self.weight, self.weight, self.samples)

    def mean(self, values: Tensor) -> Tensor:
        """Over samples, ``(B, C)``."""
        return (values * self.weight).sum(dim=1) / self.samples

    def std(self) -> Tensor:
        """Population standard deviation over samples, ``(B, C)``."""
        centred = (self.x - self.mean(self.x)[:, None]) * self.weight
        return (centred.square().sum(dim=1) / self.samples).sqrt()

    def extremes(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Least and largest over samples, each ``(B, C)``."""
        outside = self.weight == 0
        return values.masked_fill(outside, math.inf).amin(dim=1), values.masked_fill(outside, -math.inf).amax(dim=1)

    def steps(self) -> _View:
        """Differences between neighbouring samples; a single sample has one step of 0."""
        weight = self.weight[:, 1:] * self.weight[:, :-1]
        x = self.x.diff(dim=1) * weight
        if not x.shape[1]:
            x, weight = torch.zeros_like(self.x), torch.zeros_like(self.weight)
        return _View(x, weight, weight.sum(dim=1).clamp_min(1))

    def quantiles(self, shares: tuple[float, ...]) -> Tensor:
        """``(B, shares, C)``, interpolated linearly between sorted samples as in ``numpy.quantile``."""
        ordered = self.x.masked_fill(self.weight == 0, math.inf).sort(dim=1).values
        place = torch.tensor(shares, dtype=self.x.dtype, device=self.x.device) * (self.samples - 1)  # (B, shares)
        below = place.floor()
        index = torch.stack([below, torch.minimum(below + 1, self.samples - 1)]).long()
        low, high = (ordered.gather(1, i[:, :, None].expand(-1, -1, self.x.shape[2])) for i in index)
        return torch.lerp(low, high, (place - below)[:, :, None])

    def segments(self, parts: int) -> tuple[Tensor, Tensor]:
        """Means and deviations of `parts` equal parts of the recording, each ``(B, parts, C)``; 0 for an empty part."""
        order = (self.weight.cumsum(dim=1) - 1).clamp_min(0)[..., 0]
        member = F.one_hot((order * parts / self.samples).long().clamp(max=parts - 1), parts).to(self.x.dtype)
        member = (member * self.weight).transpose(1, 2)  # (B, parts, T)
        count = member.sum(dim=2, keepdim=True).clamp_min(1)
        mean = member @ self.x / count
        centred = self.x - member.transpose(1, 2) @ mean
        return mean, (member @ centred.square() / count).sqrt()

    def moving_mean(self, width: int) -> Tensor:
        """Mean over the `width` samples around each, of those that exist, ``(B, T, C)``."""

        def pooled(values: Tensor) -> Tensor:
            padded = F.pad(values.transpose(1, 2), (width // 2, width - width // 2 - 1))
            return F.avg_pool1d(padded, width, stride=1).transpose(1, 2)

        return pooled(self.x) / pooled(self.weight).clamp_min(1e-9) * self.weight
