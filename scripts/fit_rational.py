"""Fit the initial coefficients of rational activations and write layers/_rational_fits.py; takes about 15 s.

    uv run scripts/fit_rational.py            # write
    uv run scripts/fit_rational.py --check    # exit 1 when the file's errors are not those of a new fit

F = P/Q, P of degree 5, Q = 1 + b_2 x² + b_4 x⁴, closest in the maximum norm on [-3, 3]: least squares over b (for given
b the best a is linear), reweighted towards the points of largest error (Lawson), from several starts.

All targets are even, up to x/2 or a constant, or odd, so the best Q is even. With b_2, b_4 >= 0 it is the same Q in
every form of the denominator, and it has no pole. b_4 >= b_2/400 besides: beyond |x| = 20 at the latest F has its
linear tail. Only GELU meets this bound. Without it b_4 would be negative, with a smaller error (4.4e-4) on [-3, 3], but
then Q returns to 1 at |x| = 4.6, and F runs to the wrong side beyond it.
"""

from __future__ import annotations

import argparse
import re
import runpy
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares
from scipy.special import erf, expit

Array = NDArray[np.float64]
FILE = Path(__file__).parents[1] / "packages" / "kan-core" / "src" / "kan_core" / "layers" / "_rational_fits.py"
TARGETS: dict[str, Callable[[Array], Array]] = {
    "swish": lambda x: x * expit(x),
    "gelu": lambda x: x * (1 + erf(x / np.sqrt(2))) / 2,
    "relu": lambda x: np.maximum(x, 0),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "tanh": np.tanh,
    "sigmoid": expit,
}
LEAST_RATIO = 1 / 400
POINTS = -3 * np.cos(np.pi * (np.arange(400) + 0.5) / 400)
GRID = np.linspace(-3, 3, 20001)


def denominator(b: Sequence[float], x: Array) -> Array:
    """Q with b = (b_2, b_4 / b_2)."""
    return 1 + b[0] * x**2 + b[0] * b[1] * x**4


def best_numerator(b: Sequence[float], y: Array, weights: Array) -> tuple[Array, Array]:
    """The coefficients a that fit best for given b, and the errors at POINTS."""
    powers = np.vander(POINTS / 3, 6, increasing=True) / denominator(b, POINTS)[:, None]
    a = np.linalg.lstsq(weights[:, None] * powers, weights * y, rcond=None)[0]
    return a / 3.0 ** np.arange(6), powers @ a - y


def fit(target: Callable[[Array], Array], starts: int = 3, rounds: int = 30) -> tuple[float, Array, Array]:
    """Largest error on [-3, 3], a_0 … a_5 and b_1 … b_4."""
    rng = np.random.default_rng(0)
    y = target(POINTS)
    found = []
    for _ in range(starts):
        b, weights = rng.lognormal(-1, 1.5, 2) + np.array([0, LEAST_RATIO]), np.ones_like(POINTS)
        for _ in range(rounds):
            b = least_squares(
                lambda b, w=weights: w * best_numerator(b, y, w)[1],
                b,
                bounds=([0, LEAST_RATIO], np.inf),
                x_scale=np.maximum(b, 1e-3),
                xtol=1e-13,
                ftol=1e-13,
                gtol=1e-13,
                max_nfev=100,
            ).x
            a, errors = best_numerator(b, y, weights)
            found.append((largest_error(a, [0, b[0], 0, b[0] * b[1]], target), a, b))
            weights = weights * np.sqrt(np.abs(errors) / np.abs(errors).max() + 1e-3)
            weights = weights / weights.max()
    error, a, b = min(found, key=lambda item: item[0])
    return error, a, np.array([0, b[0], 0, b[0] * b[1]])


def largest_error(a: Sequence[float], b: Sequence[float], target: Callable[[Array], Array]) -> float:
    """The maximum of |P/Q − target| on [-3, 3]."""
    return float(np.abs(rational(a, b, GRID) - target(GRID)).max())


def rational(a: Sequence[float], b: Sequence[float], x: Array) -> Array:
    """P/Q in the form without absolute values."""
    return np.polyval(np.asarray(a)[::-1], x) / np.polyval([*np.asarray(b)[::-1], 1], x)


def rounded(values: Array) -> tuple[float, ...]:
    """Twelve digits, and zero for what is only rounding."""
    return tuple(float(f"{v:.12g}") if abs(v) > 1e-12 else 0.0 for v in values)


def main(arguments: Sequence[str] | None = None) -> int:
    """Fit all targets, print their errors, and write or compare the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    check = parser.parse_args(arguments).check
    present = runpy.run_path(str(FILE))["FITS"] if check else {}
    lines, worse = [], []
    far = np.array([-20.0, -10.0, -5.0, 5.0, 10.0, 20.0])
    for name, target in TARGETS.items():
        error, a, b = fit(target)
        a, b = rounded(a), rounded(b)
        lines.append(f'    "{name}": (\n        {a},\n        {b},\n    ),  # error {error:.1e}\n')
        tails = ", ".join(f"{x:g}: {e:.1e}" for x, e in zip(far, rational(a, b, far) - target(far), strict=True))
        print(f"{name:10s} max error on [-3, 3] {error:.2e}, slope at infinity {a[5] / b[3]:.4f}; errors at {tails}")
        if check and not largest_error(*present[name], target) <= 1.01 * error:
            worse.append(name)
    if check:
        print(f"worse than a new fit: {', '.join(worse) or 'none'}")
        return int(bool(worse))
    FILE.write_text(HEADER + "".join(lines) + "}\n")
    print(f"wrote {re.sub('.*packages', 'packages', str(FILE))}")
    return 0


HEADER = '''"""Coefficients of the initial rational functions; written by scripts/fit_rational.py, which says how."""

from __future__ import annotations

FITS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
'''

if __name__ == "__main__":
    sys.exit(main())
