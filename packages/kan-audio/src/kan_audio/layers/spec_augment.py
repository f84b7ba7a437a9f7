"""Augmentation of log-mel features in training: masks, and speakers with other vocal tracts."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kan_core.errors import KANError

__all__ = ["MelWarp", "SpecAugment"]


class SpecAugment(nn.Module):
    """Blank random bands and stretches of each utterance while training (Park et al., arXiv 1904.08779, section 2).

    Blank is 0: each band's mean. Widths are uniform
    from 0 to the largest, positions uniform among those that fit; draws come from torch's global generator.

    Args:
        bands: Masks over mel bands.
        band_share: The largest, as a share of all bands.
        stretches: Masks over time.
        stretch_share: The largest, as a share of the utterance's frames.

    Raises:
        KANError: For a negative count or a share outside [0, 1].

    Shape:
        - x: ``(batch, mels, steps)``; frames: ``(batch,)``
        - Output: as `x`
    """

    def __init__(self, bands: int = 2, band_share: float = 0.2, stretches: int = 2, stretch_share: float = 0.2) -> None:
        super().__init__()
        if min(bands, stretches) < 0 or not 0 <= min(band_share, stretch_share) <= max(band_share, stretch_share) <= 1:
            raise KANError(
                "spec_augment needs counts of at least 0 and shares in [0, 1], got "
                f"bands={bands}, band_share={band_share}, stretches={stretches}, stretch_share={stretch_share}"
            )
        self.bands = bands
        self.band_share = band_share
        self.stretches = stretches
        self.stretch_share = stretch_share

    def forward(self, x: Tensor, frames: Tensor) -> Tensor:
        """The features, masked in training."""
        if not self.training:
            return x
        batch, mels, steps = x.shape
        all_bands = frames.new_full((batch,), mels)
        blank_band = _intervals(mels, all_bands, self.bands, self.band_share)
        blank_step = _intervals(steps, frames, self.stretches, self.stretch_share)
        return x.masked_fill(blank_band[:, :, None] | blank_step[:, None, :], 0.0)


def _intervals(size: int, extent: Tensor, count: int, share: float) -> Tensor:
    """``(batch, size)`` booleans: the union of `count` random intervals within the first `extent` places."""
    width = torch.rand(len(extent), count, 1, device=extent.device) * share * extent[:, None, None]
    start = torch.rand(len(extent), count, 1, device=extent.device) * (extent[:, None, None] - width)
    place = torch.arange(size, device=extent.device) + 0.5
    return ((place >= start) & (place < start + width)).any(dim=1)


class MelWarp(nn.Module):
    """Another speaker while training: stretch each utterance's mel axis as a vocal tract of another length would.

    Band m shows what was in band α · m, between bands linearly and beyond the last as the last; α is uniform in
    [1 − warp, 1 + warp] for each utterance, from torch's global generator. (Vocal tract length perturbation, Jaitly and
    Hinton, 2013, scales hertz piecewise linearly; on the mel axis we scale the bands themselves.)

    Args:
        warp: The largest change of the axis, 0 for none.

    Raises:
        KANError: For a `warp` outside [0, 0.5].

    Shape:
        - ``(batch, mels, steps)`` to the same
    """

    def __init__(self, warp: float = 0.1) -> None:
        super().__init__()
        if not 0 <= warp <= 0.5:
            raise KANError(f"mel_warp must lie in [0, 0.5], got {warp}")
        self.warp = warp

    def forward(self, x: Tensor) -> Tensor:
        """The features, warped in training."""
        if not self.training:
            return x
        batch, mels, steps = x.shape
        alpha = 1 + self.warp * (2 * torch.rand(batch, 1, device=x.device) - 1)
        place = (alpha * torch.arange(mels, device=x.device)).clamp(max=mels - 1)
        low = place.floor().long().clamp(max=max(mels - 2, 0))
        share = (place - low)[:, :, None]

        def band(index: Tensor) -> Tensor:
            return x.gather(1, index[:, :, None].expand(batch, mels, steps))

        return torch.lerp(band(low), band((low + 1).clamp(max=mels - 1)), share.to(x.dtype))
