"""Made-up people who walk, jog, climb, stand and sit: for tests, and where no real set is at hand."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from kan_timeseries.data.activity.recordings import Readings, Recording

RATE = 32.0
_ACTIVITIES = {
    # steps per second, swing in g, share of the second harmonic, tilt of the device in degrees
    "walk": (1.8, 0.25, 0.5, 0),
    "jog": (2.6, 0.8, 0.3, 0),
    "upstairs": (1.5, 0.22, 0.2, 15),
    "downstairs": (2.0, 0.35, 0.8, -10),
    "stand": (0.3, 0.01, 0.0, 0),
    "sit": (0.3, 0.01, 0.0, 60),
}


def synthetic_activity(
    people: int = 12, trials: int = 2, seconds: float = 24.0, rate: float = RATE, seed: int = 0
) -> Readings:
    """Acceleration of one device in g; figures on it say nothing about real people.

    Everyone has a step frequency, a strength and a way to wear the device (a rotation), drawn once: windows of one
    person are alike, and those of another are not. So windows that are split at random score far higher than people
    that are kept apart, and a leak shows. Gravity points down the device's z axis before tilt and rotation.

    Args:
        people: How many.
        trials: How often everyone does each of the six activities.
        seconds: Length of a trial.
        rate: Samples per second.
        seed: For all that is drawn; people do not depend on how many there are.
    """
    recordings = []
    for person in range(people):
        habit = np.random.default_rng([seed, person])
        tempo, strength = habit.normal(1, 0.12), np.exp(habit.normal(0, 0.35))
        worn = Rotation.from_rotvec(habit.normal(0, 0.6, 3))
        for number, (activity, (steps, swing, second, tilt)) in enumerate(_ACTIVITIES.items()):
            for trial in range(trials):
                random = np.random.default_rng([seed, person, number, trial])
                t = np.arange(round(seconds * rate)) / rate
                phase = 2 * np.pi * (steps * tempo * random.normal(1, 0.02) * t + random.random())
                moved = strength * swing * _step(phase, second)
                moved += np.array([0, 0, 1.0])
                x = (worn * Rotation.from_euler("x", tilt, degrees=True)).apply(moved)
                x += random.normal(0, 0.02, x.shape)
                recordings.append(
                    Recording(f"p{person}", f"{activity}-{trial}", activity, None, x.astype(np.float32), rate)
                )
    note = "these people are made up: figures on them say nothing about real ones"
    return Readings(recordings, ["acc_x", "acc_y", "acc_z"], ["g"] * 3, rate, notes=[note])


def _step(phase: NDArray[np.float64], second: float) -> NDArray[np.float64]:
    """``(n, 3)``: sideways at half the step frequency, forward and up at the step frequency and its double."""
    up = np.sin(phase) + second * np.sin(2 * phase + 0.7)
    return np.stack([0.3 * np.sin(phase / 2), 0.5 * np.cos(phase), up], axis=1)
