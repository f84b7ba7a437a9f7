"""A fixed bank of band-pass filters, evenly spaced on the mel scale."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kan_core.errors import KANError

__all__ = ["SincFilters"]


class SincFilters(nn.Module):
    r"""h_i[n] = w[n] (2f₂/r sinc(2 f₂ n/r) − 2f₁/r sinc(2 f₁ n/r)): FIR filters over a waveform.

    Filter i passes the band from edge i to edge i + 1; the edges are evenly spaced in m = 2595 log₁₀(1 + f/700) from 0
    to half the sample rate r. w is a symmetric Hamming window, n = −64 … 64. Nothing is trained, and nothing is saved:
    the filters follow from the arguments.

    Args:
        sample_rate: r, of the waveforms in Hz.
        num_filters: Bands.
        taps: Length of each filter, odd.
        freq_aug: In training, silence 0 to 19 adjacent filters of every batch, where and how many at random.

    Raises:
        KANError: For sizes out of range, or a waveform shorter than a filter.

    Shape:
        - Input: ``(batch, samples)``
        - Output: ``(batch, num_filters, samples − taps + 1)``

    Reference: AASIST (arXiv 2110.01200), whose front end is that of RawNet2.
    """

    filters: Tensor

    def __init__(
        self, sample_rate: int = 16000, num_filters: int = 70, taps: int = 129, freq_aug: bool = False
    ) -> None:
        super().__init__()
        if sample_rate < 1 or num_filters < 1 or taps < 3 or taps % 2 == 0:
            raise KANError(
                f"sinc filters need a positive sample_rate and num_filters and an odd number of taps from 3 on, got "
                f"sample_rate={sample_rate}, num_filters={num_filters}, taps={taps}"
            )
        self.sample_rate = sample_rate
        self.freq_aug = freq_aug
        self.register_buffer("filters", _filters(sample_rate, num_filters, taps), persistent=False)

    def forward(self, wave: Tensor) -> Tensor:
        """The waveform of every band."""
        taps = self.filters.shape[1]
        if wave.shape[1] < taps:
            raise KANError(f"the sinc filters need at least {taps} samples, got {wave.shape[1]}")
        filters = self.filters
        if self.training and self.freq_aug:
            filters = filters * _band_mask(filters)
        return F.conv1d(wave[:, None], filters[:, None])


def mel_edges(sample_rate: int, num_filters: int) -> Tensor:
    """The ends of the bands in Hz, shape ``(num_filters + 1,)``, float64."""
    top = 2595 * math.log10(1 + sample_rate / 2 / 700)
    mels = torch.linspace(0, top, num_filters + 1, dtype=torch.float64)
    return 700 * (10 ** (mels / 2595) - 1)


def _filters(sample_rate: int, num_filters: int, taps: int) -> Tensor:
    edges = mel_edges(sample_rate, num_filters)[:, None] * 2 / sample_rate
    n = torch.arange(taps, dtype=torch.float64) - taps // 2
    low_pass = edges * torch.sinc(edges * n)
    window = torch.hamming_window(taps, periodic=False, dtype=torch.float64)
    return ((low_pass[1:] - low_pass[:-1]) * window).float()


def _band_mask(filters: Tensor) -> Tensor:
    """0 for a random run of at most 19 adjacent filters, 1 for the rest: shape ``(num_filters, 1)``."""
    count = len(filters)
    size, start = torch.rand(2, device=filters.device)
    silent = (size * min(20, count)).floor()
    first = (start * (count - silent)).floor()
    index = torch.arange(count, device=filters.device)
    audible: Tensor = (index < first) | (index >= first + silent)
    return audible.to(filters.dtype)[:, None]
