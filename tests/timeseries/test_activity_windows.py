"""One rate, windows and splits by person."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from kan_core.errors import KANError
from kan_timeseries.data.activity import (
    Recording,
    WindowRule,
    choose_validation,
    cut,
    on_one_clock,
    people_folds,
    read_folds,
    regular,
    spread_ties,
    synthetic_activity,
    window_count,
    write_folds,
)


def recording(x, t=None, rate=1.0, labels=None, subject="a", trial="1", label="walk"):
    x = np.asarray(x, dtype=np.float32)
    return Recording(subject, trial, label, t, x.reshape(len(x), -1), rate, labels)


def windows(recordings, counts=None, classes=("sit", "walk"), **rule):
    counts = Counter() if counts is None else counts
    people = sorted({r.subject for r in recordings})
    trials = list(dict.fromkeys((r.subject, r.trial) for r in recordings))
    return cut(recordings, WindowRule(**rule), classes, people, trials, counts)


# Resampling


def test_irregular_times_become_regular_by_straight_lines():
    t = np.array([10.0, 10.3, 11.0, 11.5])
    (piece,) = regular(recording(2 * t, t), 10.0, 1.0, Counter())
    np.testing.assert_allclose(piece.x[:, 0], 2 * (10 + np.arange(16) / 10), rtol=1e-6)
    assert (piece.t, piece.rate, piece.begin) == (None, 10.0, 0.0)


def test_what_is_at_the_declared_rate_stays_as_it_is():
    one = recording(np.arange(5), rate=32.0)
    assert regular(one, 32.0, 1.0, Counter()) == [one]


def test_gaps_longer_than_max_gap_split_the_trial():
    t = np.array([0, 0.1, 0.2, 2.0, 2.1, 2.2, 3.0])
    counts = Counter()
    pieces = regular(recording(t, t), 10.0, 1.0, counts)
    assert [(len(piece.x), piece.begin) for piece in pieces] == [(3, 0.0), (11, 2.0)]
    assert counts == {"gaps longer than 1 s (the trial is split)": 1}


def test_missing_values_are_interpolated_and_all_channels_must_be_known():
    x = [[np.nan, 0], [1, 1], [np.nan, 2], [3, 3], [4, np.nan]]
    (piece,) = regular(recording(x), 1.0, 2.0, Counter())
    np.testing.assert_array_equal(piece.x, [[1, 1], [2, 2], [3, 3]])
    assert piece.begin == 1.0


def test_a_label_holds_until_the_next_sample():
    labels = np.array(["sit", "walk", "sit"])
    (piece,) = regular(recording([0, 1, 2], np.array([0.0, 1.0, 2.0]), labels=labels), 2.0, 1.0, Counter())
    assert piece.labels.tolist() == ["sit", "sit", "walk", "walk", "sit"]


def test_times_that_descend_are_refused():
    with pytest.raises(KANError, match=r"subject a, trial 1: time 0[.]5 comes after a later one"):
        regular(recording([0, 1, 2], np.array([0.0, 1.0, 0.5])), 2.0, 1.0, Counter())


def test_samples_of_one_time_stamp_are_spread_over_the_time_before_it():
    np.testing.assert_allclose(spread_ties(np.array([0.0, 1, 1, 1, 1, 2])), [0, 0.25, 0.5, 0.75, 1, 2])
    first = spread_ties(np.array([1.0, 1, 2, 3]))  # the first burst at the spacing of the others
    np.testing.assert_allclose(first, [0, 1, 2, 3])


def test_sensors_that_are_not_synchronous_share_the_time_in_which_all_are_known():
    a, b = np.arange(0, 10, 0.1), np.arange(0.55, 9, 0.37)
    t, x = on_one_clock([(a, 2 * a[:, None]), (b, 3 * b[:, None])])
    (piece,) = regular(recording(x, t), 20.0, 1.0, Counter())
    now = 0.55 + np.arange(len(piece.x)) / 20
    np.testing.assert_allclose(piece.x, np.stack([2 * now, 3 * now], axis=1), rtol=1e-5)
    assert now[-1] <= b[-1] + 1e-9


# Windows


@pytest.mark.parametrize(("samples", "expected"), [(499, 0), (500, 1), (749, 1), (750, 2), (1000, 3)])
def test_window_count(samples, expected):
    assert window_count(samples, 500, 250) == expected
    if expected:
        assert len(windows([recording(np.zeros(samples))], length=500, step=250).x) == expected


def test_no_window_spans_two_trials():
    trials = [recording(np.full(n, i), subject=f"p{i % 3}", trial=str(i)) for i, n in enumerate([7, 30, 64, 5, 33])]
    batch = windows(trials, length=8, step=3)
    values = batch.x[..., 0]
    assert (values == values[:, :1]).all()
    assert (values[:, 0].long() == batch.trial).all()
    assert (batch.subject == batch.trial % 3).all()
    assert batch.mask.sum(dim=1).tolist()[0] == 7


def test_a_short_recording_repeats_its_last_sample_behind_the_mask_or_is_counted():
    counts = Counter()
    batch = windows([recording([1, 2, 3])], counts, length=5, step=2)
    assert batch.x[0, :, 0].tolist() == [1, 2, 3, 3, 3]
    assert batch.mask[0].tolist() == [True, True, True, False, False]
    assert windows([recording([1, 2, 3])], counts, length=5, step=2, short="drop").x.shape == (0, 5, 1)
    assert +counts == {
        "recordings shorter than a window (padded)": 1,
        "recordings shorter than a window (left out)": 1,
    }


def test_the_majority_labels_a_window_when_its_share_is_large_enough():
    labels = np.array(["walk"] * 8 + ["sit"] * 12)
    counts = Counter()
    batch = windows([recording(np.arange(20), labels=labels, label="")], counts, length=10, step=2)
    # walk has 8, 6, 4, 2, 0, 0 of ten samples
    assert batch.x[:, 0, 0].tolist() == [0, 6, 8, 10]
    assert batch.y.tolist() == [1, 0, 0, 0]
    assert counts["windows in which no label has a share of 0.8 (left out)"] == 2
    last = windows([recording(np.arange(20), labels=labels)], length=10, step=2, label="last")
    assert last.y.tolist() == [0] * 6


def test_windows_without_a_label_are_counted():
    labels = np.array(["walk"] * 10 + [""] * 10)
    counts = Counter()
    assert windows([recording(np.arange(20), labels=labels)], counts, length=10, step=10).y.tolist() == [1]
    assert counts["windows without a label (left out)"] == 1


# Splits


def test_every_person_is_tested_once():
    people = [f"p{i}" for i in range(17)]
    folds = people_folds(people, 5, seed=3)
    assert sorted(person for fold in folds for person in fold) == sorted(people)
    assert {len(fold) for fold in folds} == {3, 4}
    assert folds == people_folds(people, 5, seed=3)
    assert folds != people_folds(people, 5, seed=4)
    assert people_folds(people, 17) == [[person] for person in people]


def test_validation_people_leave_every_class_to_train_on():
    people = {f"p{i}": Counter(walk=10, sit=10) for i in range(9)}
    people["p4"]["eat"] = 5  # only one person eats
    for seed in range(20):
        chosen = choose_validation(people, 0.3, seed)
        assert len(chosen) == 3
        assert "p4" not in chosen
    assert choose_validation(people, ["p1", "p4"]) == ["p1", "p4"]
    for wrong in (0, 9, ["p9"]):
        with pytest.raises(KANError, match="val_people"):
            choose_validation(people, wrong)


def test_folds_survive_a_file_whose_hash_shows_changes(tmp_path):
    path, folds = tmp_path / "folds.json", [["a", "b"], ["c"]]
    digest = write_folds(path, "hmp", folds)
    assert read_folds(path, "hmp", ["a", "b", "c", "d"]) == folds
    stored = json.loads(path.read_text())
    assert stored["sha256"] == digest
    with pytest.raises(KANError, match="of hmp, not of wisdm"):
        read_folds(path, "wisdm", ["a", "b", "c"])
    with pytest.raises(KANError, match="'c' is not among the people"):
        read_folds(path, "hmp", ["a", "b"])
    path.write_text(json.dumps({**stored, "folds": [["a"], ["b", "c"]]}))
    with pytest.raises(KANError, match="was changed"):
        read_folds(path, "hmp", ["a", "b", "c"])


def test_windows_split_at_random_look_10_points_better_than_people_kept_apart():
    """Why people are split first: a nearest neighbour finds the same person."""
    readings = synthetic_activity()
    classes = sorted({r.label for r in readings.recordings})
    batch = windows(readings.recordings, classes=classes, length=128, step=64)
    x, y, people = batch.x.numpy(), batch.y.numpy(), batch.subject.numpy()
    features = np.concatenate([x.mean(1), x.std(1), np.abs(np.diff(x, axis=1)).mean(1)], axis=1)

    def accuracy(tests):
        scores = []
        for test in tests:
            scale = features[~test].std(axis=0)
            nearest = KNeighborsClassifier(1).fit(features[~test] / scale, y[~test])
            scores.append(nearest.score(features[test] / scale, y[test]))
        return np.mean(scores)

    parts = np.array_split(np.random.default_rng(0).permutation(len(y)), 4)
    at_random = accuracy([np.isin(np.arange(len(y)), part) for part in parts])
    by_person = accuracy(
        [np.isin(people, part) for part in np.array_split(np.random.default_rng(0).permutation(12), 4)]
    )
    assert at_random - by_person >= 0.10
    assert by_person > 2 / 6  # yet there is something to learn


def test_people_who_are_made_up_do_not_depend_on_how_many_there_are():
    few, many = synthetic_activity(people=2), synthetic_activity(people=4)
    for a, b in zip(few.recordings, many.recordings, strict=False):
        np.testing.assert_array_equal(a.x, b.x)


def test_the_recording_is_not_changed_by_resampling():
    one = recording([0.0, np.nan, 2.0])
    regular(one, 1.0, 5.0, Counter())
    assert np.isnan(one.x[1, 0])
    assert replace(one).x is one.x
