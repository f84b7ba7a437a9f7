"""RawBoost: noise of telephone channels, drawn rather than recorded (Tak et al., ICASSP 2022, arXiv 2111.04433)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from scipy.fft import next_fast_len
from torch import Tensor

from kan_audio.augment._base import REGISTRY, Augmentation, add_at_snr, checked, log, uniform
from kan_core.errors import KANError

_MAX_TAPS = 101
_CENTRE, _WIDTH = (20.0, 8000.0), (100.0, 1000.0)
_GRID = 512
"""Frequencies are sampled finely enough for five notch filters in series, 5 * 100 + 1 taps."""

_MAX_NOTCHES = (_GRID - 1) // (_MAX_TAPS - 1)


@REGISTRY.register("rawboost")
class RawBoost(Augmentation):
    """One of the eight combinations of three kinds of noise.

    - LnL, linear and non-linear convolutive noise: ``y = sum_{i=1..powers} FIR_i * x^i``. Every FIR is the product of
      random notch filters (centre 20 to 8000 Hz, width 100 to 1000 Hz, 10 to 100 taps forced odd, Hamming window) with
      its largest gain at 0 dB for i = 1 and at a random `gain` above; the mean is removed.
    - ISD, impulsive signal-dependent noise: a random share of the samples, up to `impulses` percent, gets
      ``x + 2 x u_1 u_2`` with u uniform in (-1, 1).
    - SSI, stationary signal-independent noise: white noise through one such FIR, added at a random `snr`.

    LnL and ISD are scaled down only where their peak exceeds 1; SSI keeps the level of the speech.

    Choices of ours: the filters have no delay (zero phase), centres are drawn below half the sample rate and the edges
    of a notch are clipped to 0 and half the sample rate.

    Args:
        algo: 1 LnL, 2 ISD, 3 SSI, 4 all three in series, 5 LnL then ISD, 6 LnL then SSI, 7 ISD then SSI, 8 LnL and ISD
            in parallel, summed and scaled down where the peak exceeds 1.
        powers: Highest power of the samples in LnL.
        notches: Notch filters in series per FIR, 0 (flat) to 5.
        gain: Range of the gain of the powers from 2 on, in dB.
        impulses: Largest share of samples with impulsive noise, in percent.
        snr: Range of the signal-to-noise ratio of SSI, in dB.
        p: Probability that a recording is changed.
    """

    def __init__(
        self,
        algo: int = 5,
        powers: int = 5,
        notches: int = 5,
        gain: Sequence[float] = (-20, -5),
        impulses: float = 10,
        snr: Sequence[float] = (10, 40),
        p: float = 1.0,
    ) -> None:
        super().__init__(p)
        series: dict[int, tuple[Callable[[Tensor, int], Tensor], ...]] = {
            1: (self._convolutive,),
            2: (self._impulsive,),
            3: (self._stationary,),
            4: (self._convolutive, self._impulsive, self._stationary),
            5: (self._convolutive, self._impulsive),
            6: (self._convolutive, self._stationary),
            7: (self._impulsive, self._stationary),
            8: (self._parallel,),
        }
        if algo not in series:
            raise KANError(f"algo must be 1 to 8, got {algo!r}")
        if powers < 1 or not 0 <= notches <= _MAX_NOTCHES or not 0 <= impulses <= 100:
            raise KANError(
                f"rawboost needs powers >= 1, notches of 0 to {_MAX_NOTCHES} and impulses of 0 to 100 percent, got "
                f"{powers}, {notches} and {impulses}"
            )
        self.algo, self.powers, self.notches, self.impulses = algo, powers, notches, impulses
        self.gain, self.snr = checked("gain", gain), checked("snr", snr)
        self._series = series[algo]

    def change(self, wave: Tensor, sample_rate: int) -> Tensor:
        """The noises of the algorithm, in series."""
        for add_noise in self._series:
            wave = add_noise(wave, sample_rate)
        return wave

    def _convolutive(self, wave: Tensor, sample_rate: int) -> Tensor:
        gains = [0.0, *(uniform(self.gain) for _ in range(self.powers - 1))]
        log.debug("rawboost: LnL with gains %s dB", gains)
        taps = notch_filters(self.powers, self.notches, sample_rate) * 10 ** (torch.tensor(gains)[:, None] / 20)
        powers = torch.stack([wave**i for i in range(1, self.powers + 1)])
        filtered = _filtered(powers, taps).sum(dim=0)
        return _below_one(filtered - filtered.mean())

    def _impulsive(self, wave: Tensor, sample_rate: int) -> Tensor:
        share = uniform((0.0, self.impulses)) / 100
        log.debug("rawboost: ISD on %.2f of the samples", share)
        where = torch.randperm(len(wave))[: int(share * len(wave))]
        strength = (torch.rand(2, len(where)) * 2 - 1).prod(dim=0)
        return _below_one(wave.index_add(0, where, 2 * wave[where] * strength))

    def _stationary(self, wave: Tensor, sample_rate: int) -> Tensor:
        snr = uniform(self.snr)
        log.debug("rawboost: SSI at %.1f dB", snr)
        noise = _filtered(torch.randn(1, len(wave)), notch_filters(1, self.notches, sample_rate))[0]
        return add_at_snr(wave, noise, snr)

    def _parallel(self, wave: Tensor, sample_rate: int) -> Tensor:
        return _below_one(self._convolutive(wave, sample_rate) + self._impulsive(wave, sample_rate))


def notch_filters(count: int, notches: int, sample_rate: int) -> Tensor:
    """``(count, 512)`` taps of random zero-phase filters, each with its largest gain at 1.

    Tap t >= 0 stands at t, tap t < 0 at 512 + t. Each filter is the product of `notches` filters of the form
    ``delta - w * (2 f_2 sinc(2 f_2 t) - 2 f_1 sinc(2 f_1 t))`` with a Hamming window w.
    """
    if not notches:
        return torch.zeros(count, _GRID).index_fill_(1, torch.tensor([0]), 1.0)
    draw, nyquist = torch.rand(3, count, notches, 1), sample_rate / 2
    highest = min(_CENTRE[1], nyquist)
    centre = _CENTRE[0] + (highest - _CENTRE[0]) * draw[0]
    width = _WIDTH[0] + (_WIDTH[1] - _WIDTH[0]) * draw[1]
    low, high = ((centre + side * width / 2).clamp(0, nyquist) / sample_rate for side in (-1, 1))
    half = torch.floor((10 + 91 * draw[2]) / 2)  # 10 to 100 taps, made odd: 5 to 50 on each side
    time = torch.arange(-(_MAX_TAPS // 2), _MAX_TAPS // 2 + 1)
    window = (0.54 + 0.46 * torch.cos(torch.pi * time / half)) * (time.abs() <= half)
    stop = window * (2 * high * torch.sinc(2 * high * time) - 2 * low * torch.sinc(2 * low * time))
    spectrum = (1 - _zero_phase(stop, time)).prod(dim=1)
    taps: Tensor = torch.fft.irfft(spectrum / spectrum.abs().amax(dim=-1, keepdim=True), n=_GRID)
    return taps


def _zero_phase(taps: Tensor, time: Tensor) -> Tensor:
    """The real spectrum of symmetric taps at `time`, on the grid."""
    placed = torch.zeros(*taps.shape[:-1], _GRID).index_copy_(-1, time % _GRID, taps)
    spectrum: Tensor = torch.fft.rfft(placed).real
    return spectrum


def _filtered(waves: Tensor, taps: Tensor) -> Tensor:
    """``(n, frames)`` recordings, each through its own zero-phase filter; as long as before."""
    frames = waves.shape[-1]
    size = next_fast_len(frames + _GRID, real=True)
    placed = torch.zeros(len(taps), size)
    placed[:, : _GRID // 2] = taps[:, : _GRID // 2]
    placed[:, -_GRID // 2 :] = taps[:, _GRID // 2 :]
    filtered: Tensor = torch.fft.irfft(torch.fft.rfft(waves, n=size) * torch.fft.rfft(placed), n=size)
    return filtered[:, :frames]


def _below_one(wave: Tensor) -> Tensor:
    return wave / wave.abs().max().clamp_min(1)
