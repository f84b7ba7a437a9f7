"""Two smooth series on which recurrent cells are demonstrated, and the least-squares rows to show beside any result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
from scipy.integrate import solve_ivp
from scipy.special import jv
from sklearn.linear_model import LinearRegression
from sklearn.metrics import mean_squared_error, r2_score

from kan_core.errors import KANError

Array = npt.NDArray[np.float64]
ScaleBy = Literal["train", "full"]


def damped_pendulum() -> Array:
    """Angular velocity of a damped pendulum: ``(240,)``, evenly over [0, 20] s, in rad/s.

    Equation: θ'' = −0.15 θ' − 9.81 sin θ, θ(0) = 0, θ'(0) = 3 ("damped simple harmonic motion" of the quantum LSTMs)
    """

    def derivative(_: float, state: Array) -> list[float]:
        angle, velocity = state
        return [velocity, -0.15 * velocity - 9.81 * np.sin(angle)]

    times = np.linspace(0, 20, 240)
    solution = solve_ivp(derivative, (0, 20), [0.0, 3.0], "DOP853", t_eval=times, rtol=1e-9, atol=1e-12)
    return np.asarray(solution.y[1], dtype=np.float64)


def bessel_j2() -> Array:
    """The Bessel function J₂, evenly at 256 points on [2, 100]: ``(256,)``."""
    return np.asarray(jv(2, np.linspace(2, 100, 256)), dtype=np.float64)


TOYS: dict[str, Callable[[], Array]] = {"damped_pendulum": damped_pendulum, "bessel_j2": bessel_j2}
"""The series by name."""


class Pairs(NamedTuple):
    """Windows of a series and the values that follow them: ``(n, length)`` and ``(n,)``."""

    past: Array
    target: Array


class ToyData(NamedTuple):
    """Scaled pairs, the first for training and the rest for the test, and the range that was scaled to [-1, 1]."""

    train: Pairs
    test: Pairs
    low: float
    high: float


def toy_data(series: Array | str, length: int = 4, *, scale_by: ScaleBy = "train", train_share: float = 0.8) -> ToyData:
    """Pairs of a window and its next value, in order of time; all of them: the published generators lose the last.

    Args:
        series: ``(n,)``, or a name in :data:`TOYS`.
        length: Values in a window.
        scale_by: The range that becomes [-1, 1]: of the values in training pairs (``"train"``), or of the whole series
            (``"full"``, as published, which tells the training about the test).
        train_share: Share of the pairs that are for training.

    Raises:
        KANError: For an unknown name, a window that leaves a part without pairs, or a constant series.
    """
    if isinstance(series, str):
        if series not in TOYS:
            raise KANError(f"unknown toy series {series!r}: choose one of {', '.join(TOYS)}")
        series = TOYS[series]()
    if scale_by not in get_args(ScaleBy):
        raise KANError(f"scale_by must be one of {', '.join(get_args(ScaleBy))}, got {scale_by!r}")
    pairs = len(series) - length
    count = int(train_share * pairs)
    if length < 1 or not 0 < count < pairs:
        raise KANError(
            f"windows of {length} with a share of {train_share} for training leave a part of {len(series)} values "
            "without pairs: choose a shorter window or another share"
        )
    seen = series if scale_by == "full" else series[: count + length]
    low, high = float(seen.min()), float(seen.max())
    if low == high:
        raise KANError(f"the series is constant ({low:g}) where its range is taken: there is nothing to scale")
    scaled = 2 * (series - low) / (high - low) - 1
    windows = np.lib.stride_tricks.sliding_window_view(scaled, length + 1)
    past, target = windows[:, :-1].copy(), windows[:, -1].copy()
    return ToyData(Pairs(past[:count], target[:count]), Pairs(past[count:], target[count:]), low, high)


class Score(NamedTuple):
    """Mean squared error on the scaled values, and R²."""

    mse: float
    r2: float


def score(target: Array, forecast: Array) -> Score:
    """Score of a forecast ``(n,)``."""
    return Score(float(mean_squared_error(target, forecast)), float(r2_score(target, forecast)))


def last_value(data: ToyData) -> Score:
    """Test score of repeating the window's last value."""
    return score(data.test.target, data.test.past[:, -1])


def autoregression(data: ToyData) -> Score:
    """Test score of least squares on the windows of the training part, with an intercept: AR of the windows' length."""
    model = LinearRegression().fit(data.train.past, data.train.target)
    return score(data.test.target, model.predict(data.test.past))
