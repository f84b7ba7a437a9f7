"""Log-mel features with the number of frames of every utterance."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn
from torchaudio import functional as AF

from kan_audio.frontends._precision import without_autocast
from kan_core.errors import KANError

__all__ = ["LogMel"]

# At 16 kHz; another rate keeps the seconds of the window and the hop, and the share of the band.
_WINDOW, _HOP, _F_MAX = 400, 160, 7600.0
_F_MIN = 20.0


class LogMel(nn.Module):
    r"""log(M |STFT(x)|² + 10⁻⁶), less its mean over the utterance's own frames.

    At 16 kHz: Hann windows of 400 samples every 160, FFT of 512, 64 triangular filters between 20 and 7600 Hz, evenly
    spaced on the HTK mel scale m = 2595 log₁₀(1 + f/700) and of height 1. Frames are centred: frame t looks at samples
    160 t − 200 to 160 t + 199, and beyond its ends an utterance is continued with zeros, so that the features of a
    zero-padded utterance are those of the utterance alone. Mel scale, filter height and padding are our choice: the
    source states the other numbers only (spec card ``kan-slu.md``, section 6). Nothing is trained or saved.

    Args:
        sample_rate: Of the waveforms, in Hz. Window, hop and upper edge scale with it; the FFT has the next power of
            two of samples.
        n_mels: Filters.
        mean_norm: Subtract each filter's mean over the utterance's frames.

    Attributes:
        hop: Samples from one frame to the next.
        n_mels: Filters.

    Raises:
        KANError: For a sample rate so low, or filters so many, that a filter would contain no frequency of the FFT.

    Shape:
        - wave: ``(batch, samples)``; length: ``(batch,)`` samples that are sound, or None when all are
        - Output: features ``(batch, n_mels, 1 + samples // hop)``, 0 behind an utterance's last frame; frames
          ``(batch,)`` int64, 1 + length // hop

    Example:
        >>> features, frames = LogMel()(torch.zeros(2, 64000), torch.tensor([64000, 16000]))
        >>> features.shape, frames
        (torch.Size([2, 64, 401]), tensor([401, 101]))
    """

    window: Tensor
    filters: Tensor

    def __init__(self, sample_rate: int = 16000, n_mels: int = 64, mean_norm: bool = True) -> None:
        super().__init__()
        scale = sample_rate / 16000
        size = round(_WINDOW * scale)
        if n_mels < 1 or size < 2:
            raise KANError(
                f"log-mel features need n_mels of at least 1 and a sample_rate of at least 80 Hz, got {n_mels} "
                f"and {sample_rate}"
            )
        self.sample_rate = sample_rate
        self.n_mels = n_mels
        self.mean_norm = mean_norm
        self.hop = max(1, round(_HOP * scale))
        self.n_fft = 1 << (size - 1).bit_length()
        self.register_buffer("window", torch.hann_window(size), persistent=False)
        filters = _mel_filters(self.n_fft, n_mels, sample_rate, _F_MAX * scale)
        self.register_buffer("filters", filters, persistent=False)

    def forward(self, wave: Tensor, length: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Features and frames of every utterance."""
        with without_autocast(wave):
            power = AF.spectrogram(
                wave.to(self.window.dtype),
                pad=0,
                window=self.window,
                n_fft=self.n_fft,
                hop_length=self.hop,
                win_length=len(self.window),
                power=2.0,
                normalized=False,
                pad_mode="constant",
            )
            mels = self.filters @ power
        features = torch.log(mels + 1e-6)
        steps = features.shape[2]
        if length is None:
            frames = torch.full(wave.shape[:1], steps, dtype=torch.int64, device=wave.device)
        else:
            frames = 1 + torch.div(length, self.hop, rounding_mode="floor")
        valid = (torch.arange(steps, device=wave.device) < frames[:, None])[:, None]
        if self.mean_norm:
            mean = (features * valid).sum(dim=2, keepdim=True) / frames[:, None, None].clamp(max=steps)
            features = features - mean
        return features * valid, frames


def _mel_filters(n_fft: int, n_mels: int, sample_rate: int, f_max: float) -> Tensor:
    """Shape ``(n_mels, n_fft // 2 + 1)``."""
    with torch.device("cpu"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about empty filters: refused below, with what to do
        filters = AF.melscale_fbanks(n_fft // 2 + 1, _F_MIN, f_max, n_mels, sample_rate).T
    empty = int((filters.amax(dim=1) == 0).sum())
    if empty:
        raise KANError(
            f"{empty} of {n_mels} mel filters are empty at sample_rate={sample_rate}: lower n_mels or resample"
        )
    return torch.tensor(filters.tolist())  # where the caller makes tensors, which may be the meta device
