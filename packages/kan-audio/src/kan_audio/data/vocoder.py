"""What the attacks take speech apart into: frames, pitch, envelopes and excitations.

Everything is on one grid of frames: frame k is centred at sample ``k * hop``. Signals are numpy arrays of float64.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft, next_fast_len, rfft
from scipy.ndimage import uniform_filter1d
from scipy.signal import medfilt

Array = NDArray[np.float64]

LOWEST_PITCH, HIGHEST_PITCH = 70.0, 400.0
_VOICED = 0.5


def frames(wave: Array, size: int, hop: int) -> Array:
    """``(frames, size)`` pieces under a periodic Hann window, with zeros before and after the recording."""
    count = -(-len(wave) // hop) + 1
    padded = np.pad(wave, (size // 2, (count - 1) * hop + size - size // 2 - len(wave)))
    pieces = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]
    return np.asarray(pieces * hann(size))


def overlap_add(pieces: Array, hop: int, length: int) -> Array:
    """The recording whose `frames` come closest to `pieces` (least squares; Griffin and Lim, 1984, equation 6)."""
    count, size = pieces.shape
    window = hann(size)
    total = np.zeros((count - 1) * hop + size)
    weight = np.full_like(total, 1e-12)
    for k in range(count):
        total[k * hop : k * hop + size] += window * pieces[k]
        weight[k * hop : k * hop + size] += window**2
    return (total / weight)[size // 2 : size // 2 + length]


def hann(size: int) -> Array:
    """The periodic Hann window."""
    return np.asarray(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size))


def pitch(wave: Array, rate: int, hop: int) -> Array:
    """``(frames,)`` fundamental frequency in Hz, 0 where unvoiced.

    The largest peak of the autocorrelation of 40 ms of speech, divided by that of the window (Boersma, 1993), between
    70 and 400 Hz; voiced where it exceeds 0.5 of the energy and the frame is no more than 40 dB below the loudest. A
    median over 5 frames removes outliers.
    """
    size = 2 * round(0.02 * rate)
    pieces = frames(wave, size, hop)
    correlation = _autocorrelation(pieces)
    window = _autocorrelation(hann(size)[None])[0]
    energy = correlation[:, 0]
    normal = correlation / (energy[:, None] + 1e-12) / (window / window[0] + 1e-3)
    shortest, longest = int(rate / HIGHEST_PITCH), min(int(rate / LOWEST_PITCH), size // 2 + size // 4)
    lag = shortest + normal[:, shortest:longest].argmax(axis=1)
    strength = normal[np.arange(len(lag)), lag]
    voiced = (strength > _VOICED) & (energy > 1e-4 * energy.max())
    found = np.where(voiced, rate / lag, 0.0)
    return np.asarray(medfilt(found, 5), dtype=np.float64)


def linear_prediction(pieces: Array, order: int) -> tuple[Array, Array]:
    """The all-pole envelope of every frame by the autocorrelation method (Makhoul, 1975).

    Args:
        pieces: ``(frames, size)``.
        order: How many coefficients.

    Returns:
        ``(frames, order + 1)`` coefficients of ``A(z) = 1 - sum_k a_k z^-k``; ``(frames,)`` energies of the residual.
    """
    r = _autocorrelation(pieces)[:, : order + 1]
    r[:, 0] = r[:, 0] * (1 + 1e-5) + 1e-12
    toeplitz = r[:, np.abs(np.subtract.outer(np.arange(order), np.arange(order)))]
    a = np.linalg.solve(toeplitz, r[:, 1:, None])[..., 0]
    residual = np.maximum(r[:, 0] - (a * r[:, 1:]).sum(axis=1), 0)
    return np.concatenate([np.ones((len(a), 1)), -a], axis=1), residual


def smooth_envelope(pieces: Array, rate: int) -> NDArray[np.complex128]:
    """``(frames, size // 2 + 1)`` minimum-phase spectra whose power is that of the frames, averaged over 300 Hz.

    That is wider than the distance of the harmonics, and keeps the energy of every band. The real cepstrum of the
    average, folded onto positive times, has the minimum phase (Oppenheim and Schafer, Discrete-Time Signal Processing,
    section 13.5).
    """
    size = pieces.shape[1]
    power = uniform_filter1d(np.abs(rfft(pieces)) ** 2, max(round(300 * size / rate), 1), axis=1)
    cepstrum = irfft(0.5 * np.log(power + 1e-12 * power.max() + 1e-24), n=size)
    fold = np.zeros(size)
    fold[0], fold[1 : size // 2], fold[size // 2] = 1, 2, 1
    return np.asarray(np.exp(rfft(cepstrum * fold)))


def excitation(f0: Array, hop: int, length: int, rate: int, random: np.random.Generator) -> tuple[Array, Array]:
    """Pulses at the pitch and white noise, each of power 1.

    Args:
        f0: ``(frames,)`` pitch in Hz, 0 where unvoiced.
        hop: Samples between frames.
        length: Samples wanted.
        rate: Samples per second.
        random: Where the noise is drawn from.

    Returns:
        ``(length,)`` pulses, 0 where unvoiced, and ``(length,)`` noise.
    """
    at_samples = f0[np.minimum((np.arange(length) + hop // 2) // hop, len(f0) - 1)]
    cycle = np.floor(np.cumsum(at_samples) / rate)
    starts = np.diff(cycle, prepend=0) > 0
    pulses = np.zeros(length)
    pulses[starts] = np.sqrt(rate / at_samples[starts])
    return pulses, random.standard_normal(length)


def _autocorrelation(pieces: Array) -> Array:
    """``(frames, size)`` autocorrelation at lags from 0."""
    size = pieces.shape[1]
    spectrum = rfft(pieces, n=next_fast_len(2 * size, real=True))
    return np.asarray(irfft(np.abs(spectrum) ** 2, n=next_fast_len(2 * size, real=True))[:, :size])
