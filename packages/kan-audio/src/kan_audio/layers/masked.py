"""Convolution blocks for padded batches: what stands behind an utterance's end changes nothing."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kan_core.errors import KANError

__all__ = [
    "DynamicRange",
    "MaskedBatchNorm2d",
    "MaskedConvBlock",
    "TrimQuiet",
    "masked_mean",
    "masked_mean_max",
    "valid_frames",
]


def valid_frames(frames: Tensor, steps: int) -> Tensor:
    """``(batch, steps)`` booleans: which of `steps` frames belong to utterances of ``(batch,)`` `frames`."""
    return torch.arange(steps, device=frames.device) < frames[:, None]


class DynamicRange(nn.Module):
    r"""Log-mel features of the loudest `decibels` of an utterance, without the mean of each band.

    y = max(x, max x − decibels · ln(10) / 10) for features that are natural logarithms of power, minus each band's mean
    over the frames that are heard, which are those with a band above that floor. In a quiet room pauses and weak bands
    are far below the speech, in a noisy one they are not, and microphones colour the bands: both tell speakers apart,
    and are gone here. Ours; leaving one speaker of FSDD out, it is worth more than any augmentation we tried.

    Args:
        decibels: The range below the utterance's loudest value.

    Raises:
        KANError: When it is not positive.

    Shape:
        - x: ``(batch, mels, steps)``; frames: ``(batch,)``
        - Output: as `x`, 0 behind an utterance's last frame
    """

    def __init__(self, decibels: float) -> None:
        super().__init__()
        if not decibels > 0:
            raise KANError(f"dynamic_range must be positive, got {decibels}")
        self.range = decibels * math.log(10) / 10

    def forward(self, x: Tensor, frames: Tensor) -> Tensor:
        """The features above the floor."""
        valid = valid_frames(frames, x.shape[2])[:, None]
        sound = x.masked_fill(~valid, -torch.inf)
        floor = sound.amax(dim=(1, 2), keepdim=True) - self.range
        heard = sound.amax(dim=1, keepdim=True) > floor  # at least the loudest frame
        raised = torch.maximum(x, floor)
        mean = raised.masked_fill(~heard, 0.0).sum(dim=2, keepdim=True) / heard.sum(dim=2, keepdim=True)
        return (raised - mean) * valid


class TrimQuiet(nn.Module):
    """Cut the quiet before and behind an utterance: recordings differ in how much of it they keep.

    Quiet are frames of log-mel features whose loudest band lies more than `decibels` below the utterance's loudest.

    Args:
        decibels: Below the loudest.

    Raises:
        KANError: When it is not positive.

    Shape:
        - x: ``(batch, mels, steps)``; frames: ``(batch,)``
        - Output: as `x`, the frames that are kept first and 0 behind them; their numbers, at least 1
    """

    def __init__(self, decibels: float) -> None:
        super().__init__()
        if not decibels > 0:
            raise KANError(f"trim must be positive, got {decibels}")
        self.range = decibels * math.log(10) / 10

    def forward(self, x: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """What is left of the features, and of the frames."""
        steps = x.shape[2]
        loudest = x.amax(dim=1).masked_fill(~valid_frames(frames, steps), -torch.inf)
        heard = (loudest >= loudest.amax(dim=1, keepdim=True) - self.range).to(torch.int8)
        first = heard.argmax(dim=1)  # the first of the largest
        kept = steps - heard.flip(1).argmax(dim=1) - first
        place = (first[:, None] + torch.arange(steps, device=x.device)).clamp(max=steps - 1)
        shifted = x.gather(2, place[:, None].expand_as(x))
        return shifted * valid_frames(kept, steps)[:, None], kept


class MaskedBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation whose training statistics come from the frames that are sound.

    Shape:
        - x: ``(batch, channels, height, steps)``; valid: ``(batch, steps)`` booleans
        - Output: as `x`; in training 0 in the other frames
    """

    def forward(self, input: Tensor, valid: Tensor) -> Tensor:  # type: ignore[override]
        """Normalise each channel."""
        if not self.training:
            return super().forward(input)
        by_step = input.permute(0, 3, 1, 2)
        rows = super().forward(by_step[valid].unsqueeze(-1)).squeeze(-1)
        out = torch.zeros_like(by_step, dtype=rows.dtype)
        out[valid] = rows
        return out.permute(0, 2, 3, 1)


class MaskedConvBlock(nn.Module):
    """3x3 convolution, batch norm, GELU and 2x2 max-pooling of spectrograms of different lengths.

    Pooling rounds up, so that the shortest utterance keeps a frame. Pooled windows that cross an utterance's end see
    its frames only.

    Shape:
        - x: ``(batch, in_channels, height, steps)``, 0 behind an utterance's last frame; frames: ``(batch,)``
        - Output: ``(batch, out_channels, ceil(height / 2), ceil(steps / 2))``, 0 there as well; ceil(frames / 2)
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.norm = MaskedBatchNorm2d(out_channels)

    def forward(self, x: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Features and frames, half as many."""
        valid = valid_frames(frames, x.shape[3])
        x = F.gelu(self.norm(self.conv(x), valid))
        x = x.masked_fill(~valid[:, None, None], -torch.inf)  # never the maximum
        x = F.max_pool2d(x, 2, ceil_mode=True)
        frames = torch.div(frames + 1, 2, rounding_mode="floor")
        return x.masked_fill(~valid_frames(frames, x.shape[3])[:, None, None], 0.0), frames


def masked_mean(x: Tensor, frames: Tensor) -> Tensor:
    """Mean over each utterance's own frames, at least one: ``(batch, channels, steps)`` to ``(batch, channels)``."""
    valid = valid_frames(frames, x.shape[2])[:, None]
    return x.masked_fill(~valid, 0.0).sum(dim=2) / frames[:, None]


def masked_mean_max(x: Tensor, frames: Tensor) -> Tensor:
    """Mean and maximum over each utterance's own frames: ``(batch, channels, steps)`` to ``(batch, 2 · channels)``."""
    valid = valid_frames(frames, x.shape[2])[:, None]
    return torch.cat([masked_mean(x, frames), x.masked_fill(~valid, -torch.inf).amax(dim=2)], dim=1)
