"""The mother wavelets of Wav-KAN, and a family of their translates that all outputs share."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from kan_core.bases._base import REGISTRY
from kan_core.bases.rbf import _Radial
from kan_core.errors import KANError

_HAT: float = 2 / (math.sqrt(3) * math.pi**0.25)
_WINDOW = 4 * math.pi  # half the length of the Shannon wavelet's window


def _mexican_hat(z: Tensor) -> Tensor:
    square = z.square()
    return torch.exp(-0.5 * square) * (square - 1) * _HAT


def _morlet(z: Tensor) -> Tensor:
    return torch.cos(5 * z) * torch.exp(-0.5 * z.square())


def _dog(z: Tensor) -> Tensor:
    return -z * torch.exp(-0.5 * z.square())


def _meyer(z: Tensor) -> Tensor:
    """sin(π|z|) a(|z|), a = cos(π/2 ν(2|z|−1)) falling from 1 to 0 on [1/2, 1]; as ν(1−t) = 1−ν(t), a = sin(π/2 ν)."""
    distance = z.abs()
    t = (2 - 2 * distance).clamp(0, 1)
    nu = t.square().square() * (35 + t * (-84 + t * (70 - 20 * t)))
    return torch.sin(math.pi * distance) * torch.sin(0.5 * math.pi * nu)


def _shannon(z: Tensor) -> Tensor:
    """sin(z)/z under the Hann window (1 + cos(z/4))/2 of |z| ≤ 4π."""
    inside = z.clamp(-_WINDOW, _WINDOW)
    return torch.sinc(inside / math.pi) * (0.5 + 0.5 * torch.cos(inside / 4))


MOTHERS: dict[str, Callable[[Tensor], Tensor]] = {
    "mexican-hat": _mexican_hat,
    "morlet": _morlet,
    "dog": _dog,
    "meyer": _meyer,
    "shannon": _shannon,
}
"""ψ of every mother wavelet, elementwise, with finite gradients for every finite z whose square is finite."""

_FLOPS = {"mexican-hat": 6, "morlet": 6, "dog": 5, "meyer": 16, "shannon": 10}


def check_mother(name: str) -> str:
    """`name` when :data:`MOTHERS` has it.

    Raises:
        KANError: Otherwise.
    """
    if name not in MOTHERS:
        raise KANError(f"mother must be one of {', '.join(MOTHERS)}, got {name!r}")
    return name


def mother_flops(name: str) -> int:
    """Elementwise operations of one value of ψ (exp, sin, cos and sinc count 1 each).

    Raises:
        KANError: When :data:`MOTHERS` has no such name.
    """
    return _FLOPS[check_mother(name)]


@REGISTRY.register("wavelet")
class Wavelet(_Radial):
    r"""Translates of one mother wavelet ψ on evenly spaced centres g.

    Wav-KAN's functions (translation and scale of their own on every edge) with the positions shared by all edges, which
    makes a layer one matrix product. ψ(z) of each `mother`:

    - ``"mexican-hat"``: 2/(√3 π^¼) (z² − 1) exp(−z²/2), with Wav-KAN's sign
    - ``"morlet"``: cos(5z) exp(−z²/2)
    - ``"dog"``, the derivative of a Gaussian: −z exp(−z²/2)
    - ``"meyer"``: sin(π|z|) a(|z|), a falling from 1 at ½ to 0 at 1; it has a kink at 0 and no zero mean
    - ``"shannon"``: sin(z)/z under a Hann window over |z| ≤ 4π, which makes it C²; no zero mean either

    Equation: φ_k(x) = ψ((x − g_k)/h)

    Reference: Wav-KAN (2405.12832).

    Avoids: the reference windows its Shannon wavelet over the input features instead of over z.

    Args:
        mother: Name of ψ.
        num_centers: K, at least 2.
        grid_range: First and last centre.
        width: h; None for the spacing of the centres.
        trainable: Learn the centres and the width (shared by all inputs) instead of keeping them as buffers.

    Raises:
        KANError: For an argument out of its range.
    """

    def __init__(
        self,
        mother: str = "mexican-hat",
        num_centers: int = 8,
        grid_range: tuple[float, float] = (-2.0, 2.0),
        width: float | None = None,
        trainable: bool = False,
    ) -> None:
        super().__init__(num_centers, grid_range, width, trainable)
        self.mother = check_mother(mother)

    @property
    def flops_per_input(self) -> int:
        """Difference, scale and ψ for each function."""
        return (2 + mother_flops(self.mother)) * self.num_functions

    def planes(self, x: Tensor) -> Tensor:
        """All functions at all inputs: ``(..., in_features) -> (..., K, in_features)``."""
        return MOTHERS[self.mother](self._scaled(x))

    def extra_repr(self) -> str:
        """The arguments, for ``repr``."""
        return f"mother={self.mother!r}, {super().extra_repr()}"
