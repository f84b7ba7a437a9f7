"""The sets by name: how they are read, and what their recordings are cut into unless the user says otherwise."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from kan_core.errors import KANError
from kan_core.training.paths import data_root
from kan_timeseries.data.activity import hmp, motion_sense, pamap2, sisfall, uci_har, umafall
from kan_timeseries.data.activity.arrays import read_arrays
from kan_timeseries.data.activity.long_table import read_long_table
from kan_timeseries.data.activity.recordings import Readings
from kan_timeseries.data.activity.synthetic import synthetic_activity
from kan_timeseries.data.activity.ts_file import is_test, read_basicmotions, read_ts_pair
from kan_timeseries.data.activity.wisdm import read_wisdm

Grouping = Callable[[str], str | None]
"""From a label to the name of a class; None: no class."""


@dataclass(frozen=True)
class ActivitySet:
    """A public set below the data root, a kind of file that users have, or a set that is made up.

    Attributes:
        read: From the folder or the file; with ``sensors`` where there is a choice of them.
        source: The folder of a public set below the data root; ``"file"`` for a user's file; ``"none"``.
        window: Seconds, or ``"trial"``: each recording is one window; None: the user must say it.
        step: Seconds; None: half a window.
        folds: How people are split by default.
        test: Who is tested in the official split.
        literal: Whether the paper behind that split chose its epoch on the test.
        sensors: The default choice of sensors; None: there is none.
        groupings: Other classes than the labels, by name.
    """

    read: Callable[..., Readings]
    source: str
    window: float | Literal["trial"] | None
    step: float | None = None
    folds: int | str = 5
    test: Callable[[str], bool] | None = None
    literal: bool = False
    sensors: Sequence[str] | None = None
    groupings: Mapping[str, Grouping] = field(default_factory=dict)

    def readings(self, root: str | None, file: str | None, sensors: Sequence[str] | None) -> Readings:
        """Read the set.

        Args:
            root: The data root of public sets.
            file: The user's file.
            sensors: A choice of sensors.

        Raises:
            KANError: When a file is missing where it is needed or given where it is not, when sensors are chosen where
                there is no choice, or what the reader raises.
        """
        if (file is None) == (self.source == "file"):
            raise KANError(
                "give the path with --data.file"
                if file is None
                else f"file={file}: a file goes with dataset=table, arrays or ts"
            )
        if sensors and self.sensors is None:
            raise KANError(f"sensors={list(sensors)}: this set has no choice of sensors: leave the option out")
        options = {} if self.sensors is None else {"sensors": tuple(sensors or self.sensors)}
        if self.source == "none":
            return self.read(**options)
        return self.read(data_root(root) / self.source if file is None else Path(file).expanduser(), **options)


def _only(labels: Sequence[str]) -> Grouping:
    return lambda label: label if label in labels else None


def _fall_or_not(is_fall: Callable[[str], bool]) -> Grouping:
    return lambda label: "fall" if is_fall(label) else "no fall"


SETS: dict[str, ActivitySet] = {
    "hmp": ActivitySet(hmp.read_hmp, "hmp", 4.0, groupings={"hmp7": _only(hmp.SEVEN)}),
    "umafall": ActivitySet(
        umafall.read_umafall,
        "umafall",
        "trial",
        sensors=("pocket_acc",),
        groupings={"fall": _fall_or_not(umafall.is_fall)},
    ),
    "basicmotions": ActivitySet(read_basicmotions, "basicmotions", "trial", folds="official", test=is_test),
    "uci-har": ActivitySet(
        uci_har.read_uci_har,
        "uci-har",
        "trial",
        folds="official",
        test=uci_har.TEST_PEOPLE.__contains__,
        sensors=tuple(uci_har.SENSORS),
    ),
    "motionsense": ActivitySet(
        motion_sense.read_motion_sense,
        "motionsense",
        10.0,
        test=motion_sense.TEST_PEOPLE.__contains__,
        literal=True,
        sensors=("accelerometer",),
    ),
    "wisdm": ActivitySet(read_wisdm, "wisdm", 5.0),
    "pamap2": ActivitySet(
        pamap2.read_pamap2, "pamap2", 5.12, sensors=pamap2.DEFAULT, groupings={"pamap12": _only(pamap2.TWELVE)}
    ),
    "sisfall": ActivitySet(
        sisfall.read_sisfall,
        "sisfall",
        12.0,
        sensors=tuple(sisfall.SENSORS),
        groupings={"fall": _fall_or_not(sisfall.is_fall)},
    ),
    "synthetic": ActivitySet(synthetic_activity, "none", 4.0),
    "table": ActivitySet(read_long_table, "file", None),
    "arrays": ActivitySet(read_arrays, "file", "trial"),
    "ts": ActivitySet(read_ts_pair, "file", "trial", folds="official", test=is_test),
}
"""The sets by name."""
