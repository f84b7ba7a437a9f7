"""A convolutional net over log-mel features with a KAN in its dense head (spec card ``kan-slu.md``, section 6)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from kan_audio.frontends.log_mel import LogMel
from kan_audio.layers.dense_head import DenseHead, FinalActivation, head_twin
from kan_audio.layers.masked import DynamicRange, MaskedConvBlock, TrimQuiet, masked_mean_max
from kan_audio.layers.spec_augment import MelWarp, SpecAugment
from kan_audio.models._registry import register
from kan_core.errors import KANError

__all__ = ["SLUCNN"]


class SLUCNN(nn.Module):
    """Log-mel, blocks of 3x3 convolution, batch norm, GELU and pooling, mean and maximum over time, dense head.

    Lengths are respected throughout: the logits of an utterance are the same alone and zero-padded in a batch, and
    batch statistics see no padding. Depth, channels, pooling and mel settings are our choice: the paper states none.

    Args:
        num_classes: Classes of each slot.
        sample_rate: Of the waveforms, in Hz.
        placement: Where the head's KAN layers are, see `kan_audio.layers.dense_head.PLACEMENTS`.
        layer: What they are; ``"linear"`` for the ordinary twin.
        layer_kwargs: More arguments for them.
        width: Factor on the head's hidden widths.
        hidden: The head's widths after its first and second layer.
        channels: Of the convolutions.
        n_mels: Bands of the log-mel features.
        frame_step: Look at every so many-th frame of the features only; frames are 10 ms apart.
        trim: Cut the quiet at both ends, frames more than so many decibels below the loudest, see `TrimQuiet`; None
            keeps everything. Needs `dynamic_range`.
        dynamic_range: Keep so many decibels below an utterance's loudest value, and take each band's mean over what is
            left, see `DynamicRange`; None takes the mean over everything.
        dropout: In the head's F groups.
        norm: Normalise what the KAN layers see.
        final_activation: Behind a last F, see `DenseHead`.
        spec_augment: Arguments of `SpecAugment` in training, ``{}`` for its own values, None for no masks.
        mel_warp: The largest change of the mel axis in training, see `MelWarp`; 0 for none.

    Shape:
        - wave: ``(batch, samples)``; length: ``(batch,)`` samples that are sound, or None when all are
        - Output: ``(batch, sum(num_classes))`` logits, slot after slot

    Reference: "KAN you hear me?" (arXiv 2505.20176).
    """

    def __init__(
        self,
        num_classes: Sequence[int],
        sample_rate: int = 16000,
        placement: str = "FKF",
        layer: str = "bspline(grid_size=5, order=3)",
        layer_kwargs: dict[str, Any] | None = None,
        width: float = 1.0,
        hidden: tuple[int, int] = (256, 128),
        channels: Sequence[int] = (32, 64, 128, 256),
        n_mels: int = 64,
        frame_step: int = 1,
        trim: float | None = None,
        dynamic_range: float | None = None,
        dropout: float = 0.1,
        norm: bool = True,
        final_activation: FinalActivation = "none",
        spec_augment: dict[str, Any] | None = None,
        mel_warp: float = 0.0,
    ) -> None:
        super().__init__()
        if frame_step < 1:
            raise KANError(f"frame_step must be at least 1, got {frame_step}")
        if trim is not None and dynamic_range is None:
            raise KANError(
                "trim needs a dynamic_range as well: the mean that is subtracted otherwise hides what is quiet"
            )
        self.features = LogMel(sample_rate, n_mels, mean_norm=dynamic_range is None)
        self.frame_step = frame_step
        self.trim = None if trim is None else TrimQuiet(trim)
        self.floor = None if dynamic_range is None else DynamicRange(dynamic_range)
        self.warp = MelWarp(mel_warp) if mel_warp else None
        self.masks = None if spec_augment is None else SpecAugment(**spec_augment)
        self.blocks = nn.ModuleList(MaskedConvBlock(n_in, n_out) for n_in, n_out in pairwise((1, *channels)))
        self.head = DenseHead(
            2 * channels[-1], sum(num_classes), placement, hidden, layer, layer_kwargs, width, dropout, norm,
            final_activation,
        )  # fmt: skip

    twin_kwargs = staticmethod(head_twin)

    def embed(self, wave: Tensor, length: Tensor | None = None) -> Tensor:
        """``(batch, 2 · channels[-1])``: mean over bands, then mean and maximum over the utterance's frames."""
        x, frames = self.features(wave, length)
        if self.trim is not None:
            x, frames = self.trim(x, frames)
        x = x[:, :, :: self.frame_step]
        frames = torch.div(frames + self.frame_step - 1, self.frame_step, rounding_mode="floor")
        if self.floor is not None:
            x = self.floor(x, frames)
        if self.warp is not None:
            x = self.warp(x)
        if self.masks is not None:
            x = self.masks(x, frames)
        x = x.unsqueeze(1)
        for block in self.blocks:
            x, frames = block(x, frames)
        return masked_mean_max(x.mean(dim=2), frames)

    def forward(self, wave: Tensor, length: Tensor | None = None) -> Tensor:
        """Logits of waveforms."""
        logits: Tensor = self.head(self.embed(wave, length))
        return logits


@register("slu_cnn")
def slu_cnn(num_classes: Sequence[int], **kwargs: Any) -> SLUCNN:
    """The card's reference: 64 bands, channels 32-64-128-256, head 512-256-128."""
    return SLUCNN(num_classes, **kwargs)


@register("slu_cnn_small")
def slu_cnn_small(num_classes: Sequence[int], **kwargs: Any) -> SLUCNN:
    """For a processor, and words rather than sentences: less of everything, and features that forget the microphone.

    32 bands every 20 ms, quiet trimmed at 40 dB, a dynamic range of 30 dB, channels 16-32-64-64, head
    128-64-32.
    """
    small = {
        "n_mels": 32,
        "frame_step": 2,
        "trim": 40.0,
        "dynamic_range": 30.0,
        "channels": (16, 32, 64, 64),
        "hidden": (64, 32),
    }
    return SLUCNN(num_classes, **{**small, **kwargs})
