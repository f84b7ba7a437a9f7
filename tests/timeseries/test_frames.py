"""Long tables: what is read, and what is refused in one line that names the series and the time stamp."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from kan_core.errors import KANError
from kan_timeseries.data.frames import FrameReader, panel_from_frame
from kan_timeseries.data.frequency import Frequency


def table(freq: str = "h", lengths: tuple[int, ...] = (8, 5), start: str = "2024-01-01") -> pd.DataFrame:
    parts = [
        pd.DataFrame(
            {
                "unique_id": "AB"[s],
                "ds": pd.date_range(start, periods=n, freq=freq),
                "y": 10.0 * s + np.arange(n),
                "price": np.arange(n) + 0.5,
                "rain": -1.0 * np.arange(n),
            }
        )
        for s, n in enumerate(lengths)
    ]
    return pd.concat(parts, ignore_index=True)


def without(frame: pd.DataFrame, *rows: int) -> pd.DataFrame:
    return frame.drop(index=list(rows))


def refused(message: str, *args, **kwargs) -> None:
    with pytest.raises(KANError, match=message) as caught:
        panel_from_frame(*args, **kwargs)
    assert "\n" not in str(caught.value)


# Reading ------------------------------------------------------------------------------------------------------------


def test_a_table_becomes_series_one_after_the_other() -> None:
    panel = panel_from_frame(table(), known=["price"], observed=["rain"])
    assert panel.ids == ["A", "B"]
    assert panel.offsets.tolist() == [0, 8, 13]
    assert panel.values[:, 0].tolist() == [*range(8), *range(10, 15)]
    assert panel.known[:, 0].tolist() == [*np.arange(8) + 0.5, *np.arange(5) + 0.5]
    assert panel.observed[:, 0].tolist() == [*-np.arange(8), *-np.arange(5)]
    assert (panel.channel_names, panel.known_names, panel.observed_names) == (["y"], ["price"], ["rain"])
    assert panel.times[8] == np.datetime64("2024-01-01")
    assert panel.season == 24


def test_unsorted_rows_are_sorted_and_series_keep_their_order() -> None:
    mixed = table().sample(frac=1, random_state=1)
    panel = panel_from_frame(mixed)
    assert panel.ids == mixed.unique_id.drop_duplicates().tolist()
    straight = panel_from_frame(table())
    for name in panel.ids:
        mine, its = panel.rows(panel.ids.index(name)), straight.rows(straight.ids.index(name))
        np.testing.assert_array_equal(panel.values[mine], straight.values[its])
        np.testing.assert_array_equal(panel.times[mine], straight.times[its])


def test_columns_may_have_other_names_and_the_table_is_left_alone() -> None:
    frame = table().rename(columns={"unique_id": "shop", "ds": "day", "y": "sales"})
    before = frame.copy()
    panel = panel_from_frame(frame, id_col="shop", time_col="day", target_col="sales")
    assert panel.channel_names == ["sales"]
    pd.testing.assert_frame_equal(frame, before)


def test_what_has_to_pandas_is_a_table() -> None:
    class Polars:
        def to_pandas(self) -> pd.DataFrame:
            return table()

    assert panel_from_frame(Polars()).ids == ["A", "B"]


@pytest.mark.parametrize("kind", ["category", "object", "string", "int64", "Int64"])
def test_names_may_be_text_categories_or_whole_numbers(kind: str) -> None:
    frame = table()
    names = frame.unique_id.map({"A": "7", "B": "3"})
    frame["unique_id"] = names.astype(int).astype(kind) if "int" in kind.lower() else names.astype(kind)
    reader = FrameReader()
    panel = reader.fit(frame)
    assert panel.ids == ["7", "3"]
    answer = pd.Series(reader.names(panel, np.array([1, 0])))
    assert answer.tolist() == ([3, 7] if "int" in kind.lower() else ["3", "7"])
    assert frame.merge(answer.rename("unique_id").astype(frame.unique_id.dtype)).unique_id.nunique() == 2


@pytest.mark.parametrize(
    ("freq", "season"),
    [
        ("h", 24),
        ("D", 7),
        ("W-WED", 52),
        ("MS", 12),
        ("ME", 12),
        ("BME", 12),
        ("2MS", 6),
        ("QS", 4),
        ("QE", 4),
        ("YE", 1),
        ("B", 5),
        ("15min", 96),
        ("30min", 48),
        ("10min", 144),
        ("min", 60),
        ("s", 60),
        ("7h", 1),
        ("12h", 2),
    ],
)
def test_the_frequency_is_found_and_has_its_usual_season(freq: str, season: int) -> None:
    frame = table(freq, lengths=(30, 14))
    reader = FrameReader()
    panel = reader.fit(frame)
    assert panel.season == season
    following = pd.date_range(frame.ds.min(), periods=34, freq=freq)[30:]
    np.testing.assert_array_equal(reader.frequency.after(panel.times[29:30], 4)[0], following)
    assert FrameReader(freq=freq).fit(frame).season == season
    # a gap is still a gap on this calendar
    holed = without(frame, 4, 5, 20)
    refused(f"series 'A': 3 steps of .* are missing, the first at {frame.ds[4]}", holed)
    filled = panel_from_frame(holed, gaps="fill")
    np.testing.assert_array_equal(filled.times, panel.times)
    assert np.flatnonzero(np.isnan(filled.values[:, 0])).tolist() == [4, 5, 20]


def test_time_stamps_may_be_whole_numbers() -> None:
    frame = table().assign(ds=lambda t: t.groupby("unique_id").cumcount() * 3 + 100)
    reader = FrameReader()
    panel = reader.fit(frame)
    assert (reader.frequency, panel.season) == (Frequency(3), 1)
    assert reader.frequency.after(panel.times[7:8], 2).tolist() == [[124, 127]]
    refused("series 'A': 1 steps of 3 are missing, the first at 106", without(frame, 2))
    refused("at 107: the stamp is not on a step of 3", frame.assign(ds=frame.ds.where(frame.index != 2, 107)))


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_stamps_of_every_unit_are_exact(unit: str) -> None:
    frame = table().assign(ds=lambda t: t.ds.astype(f"datetime64[{unit}]"))
    np.testing.assert_array_equal(panel_from_frame(frame).times, table().ds.to_numpy())


def test_text_in_iso_format_is_read_as_in_a_csv() -> None:
    frame = table("D")
    np.testing.assert_array_equal(panel_from_frame(frame.astype({"ds": str})).times, frame.ds.to_numpy())


def test_a_season_of_ones_own() -> None:
    assert panel_from_frame(table(), season=168).season == 168


# Gaps ---------------------------------------------------------------------------------------------------------------


def test_filled_gaps_have_no_target_repeat_covariates_and_are_counted() -> None:
    frame = without(table(), 2, 3, 10)
    frame.loc[1, "y"] = np.nan
    reader = FrameReader(freq="h", known=["price"], observed=["rain"], gaps="fill")
    panel = reader.fit(frame)
    assert reader.inserted == 3
    assert panel.lengths.tolist() == [8, 5]
    assert np.flatnonzero(np.isnan(panel.values[:, 0])).tolist() == [1, 2, 3, 10]
    assert panel.known[:5, 0].tolist() == [0.5, 1.5, 1.5, 1.5, 4.5]
    assert panel.observed[9:12, 0].tolist() == [-1, -1, -3]
    np.testing.assert_array_equal(panel.times, table().ds.to_numpy())


def test_a_stamp_far_away_is_not_filled() -> None:
    frame = table()
    frame.loc[7, "ds"] = pd.Timestamp("2924-01-01")
    refused("series 'A' at 2024-01-01 06:00:00: .* too many to fill", frame, gaps="fill")


# Refused ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("column", ["unique_id", "ds", "y"])
def test_a_missing_column(column: str) -> None:
    refused(f"df has no column '{column}'", table().drop(columns=column))


def test_tables_that_are_none() -> None:
    refused("must be a pandas or polars table, got list", [1, 2])
    refused("df has no rows", table().iloc[:0])
    refused("df has 2 columns called 'y'", pd.concat([table(), table()[["y"]]], axis=1))
    refused("'y' is given two roles", table(), known=["y"])
    refused("known must be a list of column names", table(), known="price")
    refused("gaps must be", table(), gaps="drop")
    refused("season must be at least 1", table(), season=0)


def test_duplicate_stamps() -> None:
    frame = table()
    refused("series 'B' at 2024-01-01 03:00:00: df has more than one such row", pd.concat([frame, frame.iloc[[11]]]))


def test_mixed_frequencies() -> None:
    hourly, daily = table("h"), table("D")
    halved = pd.concat([hourly, table("2h")[:6].assign(unique_id="C")])
    refused("series 'C' has steps of 2 x h, but the table's are h: frequencies are mixed", halved)
    refused("series 'C' has steps of 2 x h", halved, gaps="fill")
    refused("series 'C' has steps of 24 x h", pd.concat([hourly, daily[:6].assign(unique_id="C")]))
    finer = pd.concat([table("D", (30, 20)), hourly[:6].assign(unique_id="C")])
    refused("series 'C' has steps of h, but the table's are D: frequencies are mixed", finer)
    monthly = pd.concat([table("MS", (30, 20)), daily[:6].assign(unique_id="C")])
    refused("series 'C' has steps of D, but the table's are MS: frequencies are mixed", monthly)


def test_irregular_steps() -> None:
    frame = table(lengths=(30, 20))
    frame.loc[4, "ds"] += pd.Timedelta(minutes=7)
    refused("series 'A' at 2024-01-01 04:07:00: the stamp is not on a step of h", frame)
    refused("series 'A' at 2024-01-01 04:07:00: the stamp is not on a step of h", frame, gaps="fill")
    months = table("MS")
    months.loc[3, "ds"] += pd.Timedelta(days=1)
    refused("series 'A' at 2024-04-02 00:00:00: the stamp is not on a step of MS", months, freq="MS")


def test_a_frequency_that_cannot_be_told() -> None:
    refused("the frequency cannot be told from column 'ds': the longest series has 2 rows", table(lengths=(2, 1)))
    assert panel_from_frame(table(lengths=(2, 1)), freq="h").lengths.tolist() == [2, 1]
    random = table(lengths=(20,)).assign(ds=pd.Timestamp("2024-01-01") + pd.to_timedelta(np.arange(20) ** 2 * 7, "min"))
    refused("the frequency cannot be told", random)
    refused("freq 'often' is no frequency", table(), freq="often")
    refused("freq must be positive", table(), freq="-1h")
    refused("freq must be positive", table(), freq=0)
    refused("freq is 1, but the time stamps are dates", table(), freq=1)
    refused("freq is 'h', but the time stamps are whole numbers", table().assign(ds=range(13)), freq="h")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_targets_that_are_no_number(bad: float) -> None:
    frame = table()
    frame.loc[9, "y"] = bad
    refused(f"series 'B' at 2024-01-01 01:00:00: y of df is {bad}", frame)
    if np.isnan(bad):
        assert np.isnan(panel_from_frame(frame, gaps="fill").values[9, 0])
        assert np.isnan(panel_from_frame(frame.astype({"y": "Float64"}), gaps="fill").values[9, 0])
    else:
        refused(f"series 'B' at 2024-01-01 01:00:00: y of df is {bad}", frame, gaps="fill")
    refused("series 'B': every y is missing", table().assign(y=[1.0] * 8 + [np.nan] * 5), gaps="fill")


@pytest.mark.parametrize("role", ["known", "observed"])
@pytest.mark.parametrize("gaps", ["error", "fill"])
def test_covariates_that_are_no_number(role: str, gaps: str) -> None:
    frame = table()
    frame.loc[9, "price"] = np.nan
    refused("series 'B' at 2024-01-01 01:00:00: price of df is nan", frame, gaps=gaps, **{role: ["price"]})
    refused("df has no column 'colour'", frame, **{role: ["colour"]})
    refused("df: colour must hold numbers, got str", frame.assign(colour="red"), **{role: ["colour"]})


def test_columns_of_another_type() -> None:
    refused("df: y must hold numbers, got str", table().assign(y="1"))
    refused("df: y must hold numbers, got complex128", table().assign(y=1j))
    refused("ds holds text that is no ISO date .*: use pd.to_datetime", table().assign(ds="January 5"))
    refused("ds must hold dates or whole numbers, got float64", table().assign(ds=np.arange(13.0)))
    refused("ds has time zone Europe/Zurich", table().assign(ds=lambda t: t.ds.dt.tz_localize("Europe/Zurich")))
    refused("unique_id must be text or whole numbers, got floating", table().assign(unique_id=1.5))
    mixed = table()
    mixed["unique_id"] = mixed.unique_id.astype(object).where(mixed.index < 8, 1)
    refused("unique_id must be text or whole numbers, got mixed-integer", mixed)


def test_missing_names_and_stamps() -> None:
    frame = table()
    frame.loc[3, "unique_id"] = None
    refused("df: unique_id is missing in row 3", frame)
    frame = table()
    frame.loc[9, "ds"] = pd.NaT
    refused("series 'B': ds is missing in row 9", frame)


# Constants of series ------------------------------------------------------------------------------------------------


def test_constants_are_repeated_as_known_columns() -> None:
    static = pd.DataFrame({"unique_id": ["B", "A", "X"], "size": [2, 1, 9], "kind": ["new", "old", "new"]})
    reader = FrameReader(known=["price"])
    panel = reader.fit(table(), static)
    assert panel.known_names == ["price", "size", "kind=new", "kind=old"]
    assert panel.known[7].tolist() == [7.5, 1, 0, 1]
    assert panel.known[8].tolist() == [0.5, 2, 1, 0]
    again = FrameReader.from_dict(reader.to_dict())
    np.testing.assert_array_equal(again.read(table(), static).known, panel.known)
    future = static.assign(kind=["newer", "old", "new"])
    with pytest.raises(KANError, match="kind of series 'B' is 'newer', unknown in training: use one of new, old"):
        reader.read(table(), future)
    with pytest.raises(KANError, match="static_df is missing: it must give size, kind"):
        reader.read(table())
    plain = FrameReader()
    plain.fit(table())
    with pytest.raises(KANError, match="fitted without"):
        plain.read(table(), static)


@pytest.mark.parametrize(
    ("message", "static"),
    [
        ("has no row for series 'B'", {"unique_id": ["A"], "size": [1]}),
        ("series 'A' has two rows", {"unique_id": ["A", "B", "A"], "size": [1, 2, 3]}),
        ("size of series 'B' is nan", {"unique_id": ["A", "B"], "size": [1, np.nan]}),
        ("kind is missing in row 1", {"unique_id": ["A", "B"], "kind": ["x", None]}),
        ("has no column besides", {"unique_id": ["A", "B"]}),
        ("has no column 'unique_id'", {"size": [1, 2]}),
    ],
)
def test_bad_constants(message: str, static: dict) -> None:
    refused(message, table(), static_df=pd.DataFrame(static))


# The horizon --------------------------------------------------------------------------------------------------------


@pytest.fixture
def reader() -> FrameReader:
    reader = FrameReader(known=["price"])
    reader.fit(table())
    return reader


def future(reader: FrameReader, steps: int = 3) -> pd.DataFrame:
    whole = table(lengths=(8 + steps, 5 + steps)).drop(columns=["y", "rain"])
    return whole.groupby("unique_id").tail(steps).sample(frac=1, random_state=0)


def test_the_horizon_is_appended_with_its_covariates(reader: FrameReader) -> None:
    static = pd.DataFrame({"unique_id": ["A", "B"], "size": [1, 2]})
    panel = reader.fit(table(), static)
    longer = reader.extend(panel, future(reader), 3)
    expected = reader.read(table(lengths=(11, 8)), static)
    assert longer.offsets.tolist() == expected.offsets.tolist() == [0, 11, 19]
    np.testing.assert_array_equal(longer.known, expected.known)
    np.testing.assert_array_equal(longer.times, expected.times)
    assert np.flatnonzero(np.isnan(longer.values[:, 0])).tolist() == [8, 9, 10, 16, 17, 18]


def test_constants_need_no_table_of_the_future() -> None:
    static = pd.DataFrame({"unique_id": ["A", "B"], "size": [1, 2]})
    reader = FrameReader()
    longer = reader.extend(reader.fit(table(), static), None, 2)
    assert longer.known[:, 0].tolist() == [1] * 10 + [2] * 7


def test_bad_tables_of_the_future(reader: FrameReader) -> None:
    panel = reader.read(table())
    good = future(reader)
    last = good.ds[good.unique_id == "A"].max()
    bad = {
        "futr_df is missing: it must give price for 3 steps": None,
        "futr_df has no column 'price'": good.drop(columns="price"),
        "series 'A': futr_df has 2 rows, and none at 2024-01-01 10:00:00": good[good.ds < last],
        "series 'B': futr_df has 0 rows, and none at 2024-01-01 05:00:00": good[good.unique_id == "A"],
        "futr_df: series 'C' is not in df": pd.concat([good, good[:1].assign(unique_id="C")]),
        "series 'A': futr_df has 4 rows, but the horizon is 3: remove 2024-01-01 11:00:00": future(reader).merge(
            pd.DataFrame({"unique_id": ["A"], "ds": [last + pd.Timedelta(hours=1)], "price": [0.0]}), how="outer"
        ),
        "price of futr_df is nan": good.assign(price=np.nan),
        "futr_df has more than one such row": pd.concat([good, good]),
        "futr_df has no rows": good[:0],
    }
    for message, frame in bad.items():
        with pytest.raises(KANError, match=message) as caught:
            reader.extend(panel, frame, 3)
        assert "\n" not in str(caught.value)
    plain = FrameReader()
    with pytest.raises(KANError, match="no covariate is declared as known"):
        plain.extend(plain.fit(table()), good, 3)
