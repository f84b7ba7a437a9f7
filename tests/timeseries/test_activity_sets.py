"""Readers: the sets that are here, and tiny folders in the formats of those that are not."""

from __future__ import annotations

import zipfile
from collections import Counter

import numpy as np
import pytest
from sklearn.linear_model import RidgeClassifier
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

from kan_core.errors import KANError
from kan_timeseries.data import activity
from kan_timeseries.data.activity import SETS
from kan_timeseries.data.activity.files import number_rows


@pytest.fixture(scope="module")
def hmp(repository):
    folder = repository.parent / "shared" / "data" / "hmp"
    if not folder.is_dir():
        pytest.skip("real data set 'hmp' is not beside this checkout")
    return activity.read_hmp(folder)


# HMP


def test_hmp_has_839_recordings_of_16_people(hmp):
    assert len(hmp.recordings) == 839
    assert {r.subject for r in hmp.recordings} == {f"f{i}" for i in range(1, 6)} | {f"m{i}" for i in range(1, 12)}
    lengths = [len(r.x) for r in hmp.recordings]
    assert (min(lengths), np.median(lengths), max(lengths)) == (125, 403, 9318)
    people = Counter(r.subject for r in hmp.recordings)
    assert (people["f1"], people["m8"]) == (347, 6)
    assert not +hmp.counts


def test_hmp_class_counts(hmp):
    assert Counter(r.label for r in hmp.recordings) == {
        "brush_teeth": 12,
        "climb_stairs": 102,
        "comb_hair": 31,
        "descend_stairs": 42,
        "drink_glass": 100,
        "eat_meat": 5,
        "eat_soup": 3,
        "getup_bed": 101,
        "liedown_bed": 28,
        "pour_water": 100,
        "sitdown_chair": 100,
        "standup_chair": 102,
        "use_telephone": 13,
        "walk": 100,
    }
    assert sum(SETS["hmp"].groupings["hmp7"](r.label) is not None for r in hmp.recordings) == 705


def write_hmp(folder, text, name="Accelerometer-2011-03-24-10-24-39-climb_stairs-f1.txt"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)


def test_hmp_codes_are_g_and_malformed_rows_are_counted(tmp_path):
    good = "0 21 63\n" * 30
    write_hmp(tmp_path / "Climb_stairs", good + "1 2\n" + good)
    write_hmp(tmp_path / "Walk", "0 0 0\n0 64 0\n" * 3, "Accelerometer-2011-03-24-10-24-40-walk-m2.txt")
    write_hmp(tmp_path / "Walk_MODEL", good, "Accelerometer-2011-03-24-10-24-41-walk-m2.txt")
    readings = activity.read_hmp(tmp_path)
    (only,) = readings.recordings
    np.testing.assert_allclose(only.x[0], [-1.5, -0.5, 1.5])
    assert np.isnan(only.x[30]).all()
    assert (only.subject, only.label, len(only.x)) == ("f1", "climb_stairs", 61)
    assert readings.counts == {
        "malformed rows (interpolated)": 4,
        "recordings with more than 5 % malformed rows (left out)": 1,
    }


def statistics(x):
    """37 numbers: of x, y, z and their norm, and the log of the length."""
    x = np.concatenate([x, np.linalg.norm(x, axis=1, keepdims=True)], axis=1).astype(np.float64)
    steps = np.diff(x, axis=0)
    thirds = [third.mean(axis=0) for third in np.array_split(x, 3)]
    parts = [x.mean(0), x.std(0), np.abs(steps).mean(0), steps.std(0), x.min(0), x.max(0), *thirds, [np.log(len(x))]]
    return np.concatenate(parts)


@pytest.mark.parametrize(("grouping", "expected"), [(None, (0.760, 0.518, 0.521)), ("hmp7", (0.864, 0.864, 0.862))])
def test_ridge_on_37_statistics_of_hmp_leaving_one_person_out(hmp, grouping, expected):
    group = SETS["hmp"].groupings.get(grouping, lambda label: label)
    recordings = [r for r in hmp.recordings if group(r.label)]
    x = np.array([statistics(r.x) for r in recordings])
    y, people = np.array([r.label for r in recordings]), np.array([r.subject for r in recordings])
    assert x.shape[1] == 37
    predicted = np.empty_like(y)
    for person in np.unique(people):
        test = people == person
        mean, std = x[~test].mean(axis=0), x[~test].std(axis=0)
        ridge = RidgeClassifier(alpha=1.0).fit((x[~test] - mean) / std, y[~test])
        predicted[test] = ridge.predict((x[test] - mean) / std)
    got = accuracy_score(y, predicted), balanced_accuracy_score(y, predicted), f1_score(y, predicted, average="macro")
    assert got == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("lines", [50, 8_000], ids=["small", "large"])
def test_malformed_rows_are_found_in_files_of_any_size(lines):
    good = [f"{i};{i / 7:.3f};-1" for i in range(lines)]
    rows, malformed = number_rows("\n".join(good).encode(), 3, ";")
    assert (rows.shape, malformed) == ((lines, 3), 0)
    for bad in ("1.012.598;2;3", "1;2", "1;2;3;4", "1;;3", '1;"2;3', "1;inf;3"):
        text = "\n".join([*good[:10], bad, "  ", *good[10:]]) + "\n"
        rows, malformed = number_rows(text.encode(), 3, ";")
        assert (rows.shape, malformed) == ((lines + 1, 3), 1)
        assert np.flatnonzero(np.isnan(rows).any(axis=1)).tolist() == [10]
    assert number_rows(b"\n \n", 3, ";")[0].shape == (0, 3)


# UMAFall


def test_umafall_has_100_recordings_of_18_people(shared_data):
    readings = activity.read_umafall(shared_data("umafall"))
    assert len(readings.recordings) == 100
    assert len({r.subject for r in readings.recordings}) == 18
    assert Counter(r.label for r in readings.recordings) == {
        "Walking": 20,
        "Sitting_GettingUpOnAChair": 19,
        "Bending": 17,
        "LyingDown_OnABed": 16,
        "Hopping": 15,
        "forwardFall": 13,
    }
    assert len({(r.subject, r.trial) for r in readings.recordings}) == 100
    for r in readings.recordings:
        assert (np.diff(r.t) > 0).all()
        assert 13.5 < r.t[-1] - r.t[0] < 15.5
        assert 0.5 < np.median(np.linalg.norm(r.x, axis=1)) < 1.2  # g
    assert not +readings.counts


def umafall_file(folder, person, dots=0):
    """Two sensors: the phone in bursts of two, the wrist between them."""
    rows = []
    for i in range(100):
        stamp = f"1.{i:03d}.000" if i < dots else str(10 * (2 * (i // 2) + 2))
        rows.append(f"{stamp};{i};0.1;0.9;{i / 100};0;0")
        rows.append(f"{10 * i + 13};{i};1;2;3;0;3\n{10 * i + 14};{i};10;20;30;1;3")
    header = "% Universidad de Malaga\n% Age: 1\n   \n% TimeStamp; Sample No; X-Axis; Sensor Type; Sensor ID;\n"
    path = folder / f"UMAFall_Subject_{person}_Fall_forwardFall_1_2016-06-13_20-43-52.csv"
    path.write_text(header + "\n".join(rows) + "\n")


def test_umafall_sensors_by_type_and_place(tmp_path):
    umafall_file(tmp_path, "02")
    (phone,) = activity.read_umafall(tmp_path).recordings
    np.testing.assert_allclose(phone.t, 0.01 * np.arange(1, 101))
    np.testing.assert_allclose(phone.x[:, 2], np.arange(100) / 100, rtol=1e-6)
    both = activity.read_umafall(tmp_path, ["wrist_acc", "pocket_acc", "wrist_gyro"])
    assert both.channels[:4] == ["wrist_acc_x", "wrist_acc_y", "wrist_acc_z", "pocket_acc_x"]
    assert both.units == ["g"] * 6 + ["deg/s"] * 3
    (piece,) = activity.regular(both.recordings[0], 50.0, 1.0, Counter())
    np.testing.assert_allclose(piece.x[:, 6:], np.tile([10, 20, 30], (len(piece.x), 1)), rtol=1e-6)
    missing = activity.read_umafall(tmp_path, ["waist_mag"])
    assert (missing.recordings, missing.counts["recordings without waist_mag (left out)"]) == ([], 1)
    with pytest.raises(KANError, match="UMAFall has no 'pocket_gyro': choose from pocket_acc, chest_acc"):
        activity.read_umafall(tmp_path, ["pocket_gyro"])


def test_umafall_rows_with_dots_between_thousands_are_counted(tmp_path):
    umafall_file(tmp_path, "13", dots=100)
    umafall_file(tmp_path, "14", dots=5)
    readings = activity.read_umafall(tmp_path)
    assert [r.subject for r in readings.recordings] == ["14"]
    assert readings.counts["malformed rows (interpolated)"] == 105
    assert readings.counts["recordings with more than 5 % malformed rows (left out)"] == 1


# BasicMotions and .ts


def test_basicmotions(shared_data):
    readings = activity.read_basicmotions(shared_data("basicmotions"))
    assert [r.x.shape for r in readings.recordings] == [(100, 6)] * 80
    test = np.array([r.subject.startswith("test") for r in readings.recordings])
    y = np.array([r.label for r in readings.recordings])
    for part in (test, ~test):
        assert Counter(y[part]) == dict.fromkeys(["Standing", "Running", "Walking", "Badminton"], 10)
    x = np.stack([r.x for r in readings.recordings])
    features = np.concatenate([x.mean(1), x.std(1), np.abs(np.diff(x, axis=1)).mean(1)], axis=1)
    features = (features - features[~test].mean(axis=0)) / features[~test].std(axis=0)
    assert RidgeClassifier().fit(features[~test], y[~test]).score(features[test], y[test]) >= 0.95
    assert "does not name people" in readings.notes[0]


HEADER = "#made up\n@problemName Tiny\n@timeStamps false\n@univariate false\n@classLabel true a b\n@data\n"


def test_ts_files_may_have_gaps_and_unequal_lengths(tmp_path):
    (tmp_path / "Tiny_TRAIN.ts").write_text(HEADER + "1,2,?:4,5,6:a\n\n7,8:9,NaN:b\n")
    cases = activity.read_ts(tmp_path / "Tiny_TRAIN.ts")
    np.testing.assert_array_equal(cases.x[0], [[1, 4], [2, 5], [np.nan, 6]])
    np.testing.assert_array_equal(cases.x[1], [[7, 9], [8, np.nan]])
    assert cases.labels == ["a", "b"]
    (tmp_path / "Tiny_TEST.ts").write_text(HEADER + "1:4:b\n")
    readings = activity.read_ts_pair(tmp_path / "Tiny_TRAIN.ts")
    assert [r.subject for r in readings.recordings] == ["train 0", "train 1", "test 0"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEADER + "1,2:3:a\n", "line 7: its channels have 1 and 2 values"),
        (HEADER + "1:2:a\n1:a\n", "line 8: 1 channels, 2 in the first case"),
        (HEADER + "1:x:a\n", "line 7: could not convert string to float: 'x'"),
        (HEADER + "1:2:c\n", "class 'c' is not among a, b"),
        (HEADER, "has no case after @data"),
        ("1,2:a\n", "line 1: values come before @data"),
        (HEADER.replace("Stamps false", "Stamps true"), "time stamps are not read"),
    ],
)
def test_ts_files_that_cannot_be_read_name_the_line(tmp_path, text, message):
    (tmp_path / "a.ts").write_text(text)
    with pytest.raises(KANError, match=message) as error:
        activity.read_ts(tmp_path / "a.ts")
    assert "\n" not in str(error.value)


# Sets that are not here, in their formats


def write_uci_har(folder, people=((1, 3), (2,))):
    random = np.random.default_rng(0)
    for part, ids in zip(("train", "test"), people, strict=True):
        inertial = folder / "UCI HAR Dataset" / part / "Inertial Signals"
        inertial.mkdir(parents=True)
        n = 6 * len(ids)
        (inertial.parent / f"subject_{part}.txt").write_text("".join(f"{i}\n" for i in np.repeat(ids, 6)))
        (inertial.parent / f"y_{part}.txt").write_text("1\n2\n3\n4\n5\n6\n" * len(ids))
        np.savetxt(inertial.parent / f"X_{part}.txt", random.uniform(-1, 1, (n, 4)))
        for sensor in ("body_acc", "body_gyro", "total_acc"):
            for axis in "xyz":
                np.savetxt(inertial / f"{sensor}_{axis}_{part}.txt", random.normal(size=(n, 128)), fmt="%16.7e")
    (folder / "UCI HAR Dataset" / "features.txt").write_text("1 a-mean()-X\n2 b\n3 c\n4 c\n")
    return folder / "UCI HAR Dataset"


def test_uci_har(tmp_path):
    inner = write_uci_har(tmp_path)
    readings = activity.read_uci_har(tmp_path)
    assert [r.x.shape for r in readings.recordings] == [(128, 9)] * 18
    assert Counter(r.subject for r in readings.recordings) == {"1": 6, "3": 6, "2": 6}
    assert [r.label for r in readings.recordings[:3]] == ["walking", "upstairs", "downstairs"]
    gyro = np.loadtxt(inner / "train" / "Inertial Signals" / "body_gyro_y_train.txt")
    channel = readings.channels.index("body_gyro_y")
    assert readings.units[channel] == "rad/s"
    np.testing.assert_allclose(readings.recordings[4].x[:, channel], gyro[4], rtol=1e-6)
    official = SETS["uci-har"].test
    assert [i for i in range(1, 31) if official(str(i))] == [2, 4, 9, 10, 12, 13, 18, 20, 24]
    features = activity.read_uci_har_features(tmp_path)
    assert (features.x.shape, features.names[0], features.subject[-1]) == ((18, 4), "a-mean()-X", "2")
    path = inner / "test" / "Inertial Signals" / "total_acc_z_test.txt"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], "1 2 3", *lines[2:]]))
    counts = activity.read_uci_har(tmp_path).counts
    assert counts["windows with a malformed row (left out)"] == 1
    path.write_text("\n".join(lines[1:]))
    with pytest.raises(KANError, match=r"total_acc_z_test.txt has 5 rows, but there are 6 labels"):
        activity.read_uci_har(tmp_path)


def test_motionsense(tmp_path):
    with zipfile.ZipFile(tmp_path / "B_Accelerometer_data.zip", "w") as archive:
        for person in (1, 2):
            archive.writestr(f"B_Accelerometer_data/dws_1/sub_{person}.csv", ",x,y,z\n0,1,2,3\n1,4,5,6\n")
            archive.writestr(f"__MACOSX/B_Accelerometer_data/dws_1/sub_{person}.csv", "junk")
    readings = activity.read_motion_sense(tmp_path)
    assert [(r.subject, r.trial, r.label) for r in readings.recordings] == [
        ("1", "dws_1", "dws"),
        ("2", "dws_1", "dws"),
    ]
    np.testing.assert_array_equal(readings.recordings[0].x, [[1, 2, 3], [4, 5, 6]])
    assert sorted(map(int, activity.motion_sense.TEST_PEOPLE)) == [1, 6, 14, 19, 23]
    folder = tmp_path / "A_DeviceMotion_data" / "jog_16"
    folder.mkdir(parents=True)
    names = [f"attitude.{a}" for a in ("roll", "pitch", "yaw")]
    names += [f"{s}.{a}" for s in ("gravity", "rotationRate", "userAcceleration") for a in "xyz"]
    (folder / "sub_3.csv").write_text(",".join(["", *names]) + "\n" + ",".join(map(str, range(13))) + "\n")
    moved = activity.read_motion_sense(tmp_path, ["userAcceleration", "attitude"])
    assert moved.recordings[0].x.tolist() == [[10, 11, 12, 1, 2, 3]]
    assert moved.channels[3:] == ["attitude_roll", "attitude_pitch", "attitude_yaw"]
    with pytest.raises(KANError, match="no two archives"):
        activity.read_motion_sense(tmp_path, ["gravity", "gyroscope"])


def test_wisdm_rows_are_parsed_or_counted(tmp_path):
    rows = [
        "33,Jogging,49105962326000,-0.69,12.68,0.50395286;",
        "33,Jogging,0,5.0,11.2,0.95;",
        "33,Jogging,49106112167000,4.9,10.8,;",  # no z
        "33,Walking,49106222305000,1,2,3;33,Walking,49106222405000,4,5,6;",
        "",
        "33,Walking,49106222305000,1,2,3,;",
        "12,Walking,49106222305000,1,2,3,4;",  # one too many
        "12,Walking,49106222305000,1,2,3,4,5,6;",
        "12,Flying,49106222305000,1,2,3;",
        "12,Walking,49106222305000,1,2,x;",
        "12,Walking,49106222305000,7,8,9;;",
    ]
    (tmp_path / "WISDM_ar_v1.1_raw.txt").write_text("\n".join(rows) + "\n")
    readings = activity.read_wisdm(tmp_path)
    parsed = sum(len(r.x) for r in readings.recordings)
    assert (parsed, readings.counts["malformed rows (left out)"]) == (6, 5)
    assert readings.counts["rows with a time stamp of 0 (kept: times are not used)"] == 1
    runs = [(r.subject, r.label, len(r.x)) for r in readings.recordings]
    assert runs == [("33", "Jogging", 2), ("33", "Walking", 3), ("12", "Walking", 1)]
    assert readings.recordings[1].x.tolist() == [[1, 2, 3], [4, 5, 6], [1, 2, 3]]


def test_wisdm_features(tmp_path):
    path = tmp_path / "WISDM_ar_v1.1_transformed.arff"
    head = '@relation a\n@attribute "UNIQUE_ID" numeric\n@attribute "user" numeric\n@attribute "X0" numeric\n'
    head += '@attribute "XPEAK" numeric\n@attribute "class" { "Walking" , "Jogging" }\n\n@data\n'
    path.write_text(head + '1,33,0.04,?,"Jogging"\n2,17,0.1,350.0,"Walking"\n')
    table = activity.read_wisdm_features(tmp_path)
    assert (table.names, table.label.tolist(), table.subject.tolist()) == (
        ["X0", "XPEAK"],
        ["Jogging", "Walking"],
        ["33", "17"],
    )
    np.testing.assert_array_equal(table.x, [[0.04, np.nan], [0.1, 350]])
    path.write_text(head + "1,33,0.04\n")
    with pytest.raises(KANError, match="has 5 attributes and a row of 3 values"):
        activity.read_wisdm_features(tmp_path)


def test_pamap2(tmp_path):
    rows = np.arange(54) + np.zeros((300, 1))
    rows[:, 0] = 5 + np.arange(300) / 100
    rows[:, 1] = np.repeat([0, 4, 24], 100)
    rows[np.arange(300) % 10 > 0, 2] = np.nan  # heart rate
    rows[150, 4:7] = np.nan
    text = "\n".join(" ".join("NaN" if np.isnan(v) else f"{v:g}" for v in row) for row in rows)
    (tmp_path / "Protocol").mkdir()
    (tmp_path / "Optional").mkdir()
    (tmp_path / "Protocol" / "subject101.dat").write_text(text + "\n5.9 broken\n")
    (tmp_path / "Optional" / "subject101.dat").write_text(text)
    readings = activity.read_pamap2(tmp_path)
    assert [(r.subject, r.label, r.x.shape) for r in readings.recordings] == [
        ("101", "walking", (100, 27)),
        ("101", "rope jumping", (100, 27)),
    ]
    assert readings.counts == {"malformed rows (left out)": 1, "rows between activities (left out)": 100}
    # per unit the temperature comes first, then the accelerometer of 16 g, that of 6 g, gyroscope, magnetometer
    assert readings.recordings[0].x[0, :9].tolist() == [4, 5, 6, 10, 11, 12, 13, 14, 15]
    assert readings.recordings[0].x[0, 9] == 21
    heart = activity.read_pamap2(tmp_path, ["heart_rate"])
    (piece,) = activity.regular(heart.recordings[0], heart.rate, 1.0, Counter())
    assert (heart.units, set(piece.x.ravel().tolist())) == (["1/min"], {2.0})
    (gap, *_) = activity.regular(readings.recordings[0], readings.rate, 1.0, Counter())
    assert len(gap.x) == 34
    assert np.isfinite(gap.x).all()


def test_sisfall_codes_become_units(tmp_path):
    row = "4096,-2048,1,32768,-16384,1,8192,-4096,1;\n"
    (tmp_path / "SA01").mkdir()
    (tmp_path / "SA01" / "F05_SA01_R02.txt").write_text(row * 50 + "1,2;\n")
    (tmp_path / "SA01" / "D01_SE06_R01.txt").write_text(row * 2)
    readings = activity.read_sisfall(tmp_path)
    assert [(r.subject, r.label, r.trial) for r in readings.recordings] == [
        ("SE06", "D01", "D01_R01"),
        ("SA01", "F05", "F05_R02"),
    ]
    g13, dps, g14 = 2 * 16 / 2**13, 2 * 2000 / 2**16, 2 * 8 / 2**14
    np.testing.assert_allclose(readings.recordings[0].x[0], [16, -8, g13, 2000, -1000, dps, 8, -4, g14], rtol=1e-6)
    assert readings.counts["malformed rows (interpolated)"] == 1
    grouping = SETS["sisfall"].groupings["fall"]
    assert (grouping("F05"), grouping("D01")) == ("fall", "no fall")


@pytest.mark.parametrize("name", [name for name in SETS if SETS[name].source not in ("file", "none")])
def test_a_missing_set_names_the_path_and_where_it_is_to_be_had(name, tmp_path):
    for made in (False, True):
        if made:
            (tmp_path / SETS[name].source).mkdir()
        with pytest.raises(KANError, match=r"https?://.*licence") as error:
            SETS[name].readings(str(tmp_path), None, None)
        assert str(tmp_path) in str(error.value)
        assert "\n" not in str(error.value)


def test_a_damaged_archive_is_named(tmp_path):
    (tmp_path / "HMP_Dataset.zip").write_bytes(b"PK no")
    with pytest.raises(KANError, match=r"HMP_Dataset.zip is damaged"):
        activity.read_hmp(tmp_path)
