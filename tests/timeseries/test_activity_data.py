"""The data module: what training people say, what is counted, and a user's own files."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch

from kan_core.errors import KANError
from kan_timeseries.data.activity import ActivityData, write_arrays

CHANNELS = {"channels": ["acc_x", "acc_y"], "units": ["g", "g"], "classes": ["sit", "walk"], "rate": 10.0}


def made_up(**options):
    return ActivityData("synthetic", **{"folds": 4, "window": 2.0, **options})


def arrays_file(path, noisy=(), seed=0):
    """Six people with twenty windows each; those in `noisy` give noise."""
    random = np.random.default_rng(seed)
    subject, y = np.repeat(np.arange(6), 20), np.tile([0, 1], 60)
    x = random.normal(size=(120, 16, 2)) + 3 * y[:, None, None] + subject[:, None, None]
    for person in noisy:
        x[subject == person] = 100 * np.random.default_rng(9).normal(size=(20, 16, 2))
    write_arrays(path, x, y, subject, **CHANNELS)
    return str(path)


def table_file(path, label=True, people=5, **changed):
    """Two trials of 3 s at 20 Hz per person."""
    frames = []
    for person in range(people):
        for trial, name in enumerate(("sit", "walk")):
            t = np.arange(60) / 20
            values = np.random.default_rng([person, trial]).normal(trial, 0.1, size=60)
            frames.append(pd.DataFrame({"subject": f"p{person}", "trial": trial, "t": t, "a": values, "label": name}))
    frame = pd.concat(frames, ignore_index=True).astype({"t": object, "a": object, "label": object})
    for column, (row, value) in changed.items():
        frame.loc[row, column] = value
    (frame if label else frame.drop(columns="label")).to_csv(path, index=False)
    return str(path)


def test_nobody_is_in_two_parts_and_everybody_is_in_one():
    seen = []
    for fold in range(4):
        data = made_up(fold=fold)
        train, val, test = (set(part) for part in data.people)
        assert sorted([*train, *val, *test]) == sorted(data.subjects)
        for part, people in (("train", train), ("val", val), ("test", test)):
            assert {data.subjects[i] for i in data.parts[part].subject.tolist()} == people
        seen += sorted(test)
    assert sorted(seen) == sorted(data.subjects)


def test_the_statistics_are_those_of_the_training_peoples_samples():
    data = made_up()
    x = np.concatenate([r.x for r in data.recordings if r.subject in data.people.train])
    np.testing.assert_allclose(data.channel_mean, x.mean(axis=0, dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(data.channel_std, x.std(axis=0, dtype=np.float64), rtol=1e-6)


def test_noise_in_place_of_test_people_does_not_change_the_statistics(tmp_path):
    options = {"dataset": "arrays", "folds": 3}
    before = ActivityData(file=arrays_file(tmp_path / "a.npz"), **options)
    others = [int(person) for person in (*before.people.test, *before.people.val)]
    after = ActivityData(file=arrays_file(tmp_path / "b.npz", noisy=others), **options)
    assert after.people == before.people
    assert (after.channel_mean, after.channel_std) == (before.channel_mean, before.channel_std)
    assert not torch.equal(after.parts["test"].x, before.parts["test"].x)


def test_windows_that_are_not_lost_have_a_mask_and_every_one_is_in_a_batch():
    data = made_up(window=30.0, batch_size=7)  # trials have 24 s
    batches = list(data.train_dataloader())
    assert sum(len(batch.x) for batch in batches) == len(data.parts["train"].x) == 12 * len(data.people.train)
    assert max(len(batch.x) for batch in batches) <= 7
    assert all(batch.mask.sum(dim=1).eq(768).all() for batch in batches)
    assert data.counts == {"recordings shorter than a window (padded)": 144}
    dropped = made_up(window=30.0, short="drop")
    with pytest.raises(KANError, match="the train part has no window"):
        _ = dropped.parts


def test_what_is_counted_is_said_once(tmp_path, capsys):
    file = table_file(tmp_path / "own.csv", a=(3, "broken"), t=(70, ""))
    data = ActivityData("table", file=file, window=1.0)
    data.setup("fit")
    data.setup("test")
    said = capsys.readouterr().out
    assert said.count("2 malformed rows (left out)") == 1
    assert (
        "own: 10 recordings of 5 people, 2 classes, 1 channels at 20 Hz; windows of 20 samples (1 s) every 10" in said
    )
    assert data.counts["malformed rows (left out)"] == 2


def test_folds_come_back_from_their_file(tmp_path):
    path = tmp_path / "folds.json"
    made_up(split_seed=5).save_folds(path)
    again = made_up(folds=str(path), fold=2)
    assert again.people.test == made_up(split_seed=5, fold=2).people.test
    assert len(json.loads(path.read_text())["folds"]) == 4


def test_leaving_one_person_out():
    data = made_up(folds="lopo", fold=11, val_people=["p0", "p10"])
    assert data.people.test == ["p11"]
    assert data.people.val == ["p0", "p10"]


def test_hmp7_leaving_one_person_out(shared_data):
    data = ActivityData("hmp", root=str(shared_data("hmp").parent), classes="hmp7", folds="lopo")
    assert (len(data.trials), len(data.classes), data.num_samples, data.rate) == (705, 7, 128, 32.0)
    kept = {i for batch in data.parts.values() for i in batch.trial.tolist()}
    assert len(kept) == 705  # padded, none is lost
    assert data.counts["recordings of other classes (left out)"] == 134
    assert data.people.test == ["f1"]
    assert data.name == "hmp (hmp7)"


def test_basicmotions_is_split_by_its_files(shared_data):
    data = ActivityData("basicmotions", root=str(shared_data("basicmotions").parent))
    assert data.people.test == [f"test {i}" for i in range(40)]
    assert (len(data.people.train), len(data.people.val)) == (32, 8)
    assert (data.num_samples, data.rate, len(data.channels)) == (100, 10.0, 6)


def test_the_literal_split_of_kan_har_validates_on_its_test_people(tmp_path, capsys):
    for person in (1, 2, 3, 6):
        for name in ("sit_5", "wlk_7"):
            folder = tmp_path / "motionsense" / "B_Accelerometer_data" / name
            folder.mkdir(parents=True, exist_ok=True)
            rows = "".join(f"{i},0.{i % 7},{i % 3},1\n" for i in range(60))
            (folder / f"sub_{person}.csv").write_text(",x,y,z\n" + rows)
    data = ActivityData("motionsense", root=str(tmp_path), window=1.0, folds="literal")
    data.setup("fit")
    assert data.people == (["2", "3"], ["1", "6"], ["1", "6"])
    assert "the validation people are the test people" in capsys.readouterr().out
    honest = ActivityData("motionsense", root=str(tmp_path), window=1.0, folds="official")
    assert (honest.people.test, len(honest.people.val)) == (["1", "6"], 1)


def test_a_file_to_predict_needs_no_labels_and_no_set_but_a_checkpoint(tmp_path, capsys):
    trained = ActivityData("table", file=table_file(tmp_path / "own.csv"), window=1.0, folds=5)
    checkpoint = tmp_path / "a.ckpt"
    torch.save({"ActivityData": trained.state_dict(), "state_dict": {}}, checkpoint)
    new = table_file(tmp_path / "new.csv", label=False, people=1)
    data = ActivityData("hmp", root=str(tmp_path), predict_file=new, checkpoint=str(checkpoint))
    data.setup("predict")
    (batch,) = data.predict_dataloader()
    assert (batch.x.shape, batch.y.unique().tolist()) == ((10, 20, 1), [-1])
    assert batch.start.tolist() == [0.0, 0.5, 1.0, 1.5, 2.0] * 2
    assert [data.predicted_trials[i] for i in batch.trial.tolist()] == [("p0", "0")] * 5 + [("p0", "1")] * 5
    assert (data.predicted_subjects, data.classes) == (["p0"], ["sit", "walk"])
    assert "10 windows of 2 trials" in capsys.readouterr().out
    trained.load_state_dict(trained.state_dict())
    with pytest.raises(KANError, match="not those that the checkpoint was trained with"):
        ActivityData("table", file=table_file(tmp_path / "own.csv"), window=0.5).load_state_dict(trained.state_dict())


def test_labels_of_a_file_to_predict_are_used_where_they_are_known(tmp_path):
    file = table_file(tmp_path / "own.csv")
    data = ActivityData("table", file=file, window=1.0, predict_file=file)
    assert data.predicted.y.tolist() == ([0] * 5 + [1] * 5) * 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": "hmpp"}, "unknown data set 'hmpp': did you mean hmp"),
        ({"file": "a.csv"}, "a file goes with dataset=table"),
        ({"dataset": "table"}, "give the path with --data.file"),
        ({"sensors": ["acc"]}, "this set has no choice of sensors"),
        ({"classes": "hmp7"}, "there is no grouping 'hmp7'"),
        ({"classes": ["walk", "fly"]}, "there is no label 'fly': synthetic has downstairs, jog"),
        ({"classes": ["walk"]}, "two are needed"),
        ({"folds": 13}, "folds must be 2 to the number of people, 12, or lopo: got 13"),
        ({"folds": "official"}, "synthetic has no such split"),
        ({"folds": "some"}, "folds must be a number, lopo"),
        ({"folds": "none.json"}, "there is no file none.json"),
        ({"fold": 4}, "fold must be 0 to 3, got 4"),
        ({"val_people": 9}, "leaves none to train or validate on"),
        ({"val_people": ["p99"]}, "'p99' is not among the training people"),
        ({"window": 0.0}, "window must be above 0"),
        ({"window": 0.01}, "is too small"),
        ({"window": "trial", "step": 1.0}, "needs a window in seconds"),
        ({"rate": -1.0}, "rate must be above 0"),
        ({"min_share": 1.5}, "min_share must be above 0 and at most 1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"checkpoint": "a.ckpt"}, "checkpoint is for predict_file"),
    ],
)
def test_options_that_cannot_be_are_refused_in_one_line(options, message):
    with pytest.raises(KANError, match=message) as error:
        made_up(**options).setup("fit") if "dataset" not in options else ActivityData(**options).setup("fit")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"t": (30, 0.2)}, "subject p0, trial 0: t=0.2 comes after a later time"),
        ({"drop": "trial"}, "has no column 'trial': its columns are subject, t, a, label"),
        ({"drop": "a"}, "has no channel"),
        ({"text": ""}, "cannot be read as CSV"),
        ({"text": "subject,trial,t,a\nx,y,z,w\n"}, "has no row of numbers"),
        ({"missing": True}, "there is no such file"),
    ],
)
def test_tables_that_cannot_be_used_are_refused_in_one_line(tmp_path, changed, message):
    path = tmp_path / "own.csv"
    table_file(path, **({"t": changed["t"]} if "t" in changed else {}))
    if "drop" in changed:
        pd.read_csv(path).drop(columns=changed["drop"]).to_csv(path, index=False)
    if "text" in changed:
        path.write_text(changed["text"])
    if "missing" in changed:
        path.unlink()
    with pytest.raises(KANError, match=message) as error:
        ActivityData("table", file=str(path), window=1.0).setup("fit")
    assert "\n" not in str(error.value)


def test_repeated_times_of_a_table_are_spread_and_counted(tmp_path):
    data = ActivityData("table", file=table_file(tmp_path / "own.csv", t=(31, 30 / 20)), window=1.0)
    assert data.counts["rows with the time of the row before (spread)"] == 1
    assert data.num_samples == 20


def test_a_table_says_how_long_its_windows_are(tmp_path):
    with pytest.raises(KANError, match=r"how long is a window of this table\?"):
        ActivityData("table", file=table_file(tmp_path / "own.csv")).setup("fit")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"y": np.full(120, 2)}, "y goes from 2 to 2, but 2 classes are named"),
        ({"X": np.zeros((120, 16))}, "X must hold finite numbers"),
        ({"subject": np.zeros(3, dtype=int)}, "subject must be 120 whole numbers"),
        ({"X": np.zeros((120, 16, 3))}, "X has 3 channels, but 2 channels are named"),
        ({"y": None}, "has no array 'y'"),
        ({"X": np.array([[["a"]]], dtype=object)}, "cannot be read as npz"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path, changed, message):
    path = tmp_path / "a.npz"
    arrays_file(path)
    with np.load(path) as file:
        arrays = {**dict(file), **changed}
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(KANError, match=message):
        ActivityData("arrays", file=str(path)).setup("fit")
