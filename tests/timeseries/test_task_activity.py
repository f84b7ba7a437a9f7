"""The activity task: scores of the card har-conventions, what it does to its input, what it refuses."""

from __future__ import annotations

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, f1_score

from kan_core.errors import KANError
from kan_core.training.optim import parameter_groups
from kan_timeseries.data.activity import ActivityBatch, ActivityData
from kan_timeseries.models import imu, kan_har, sensor_cnn  # noqa: F401
from kan_timeseries.tasks.activity import ActivityTask, people_figure, turned
from kan_timeseries.tasks.activity_scores import Evaluated, by_person, confusion, recordings, scores

CLASSES = ["rest", "shake", "turn"]


def make_task(**changes):
    options = {
        "num_samples": 32,
        "channels": ["x", "y", "z"],
        "classes": CLASSES,
        "rate": 16.0,
        "channel_mean": [0.0, 0.0, 1.0],
        "channel_std": [1.0, 2.0, 0.5],
    }
    return ActivityTask(**(options | changes))


@pytest.fixture
def table(tmp_path):
    """Six people who rest, shake and turn, two recordings each, as a file of one's own."""
    random = np.random.default_rng(0)
    rows = ["subject,trial,t,label,x,y,z"]
    t = np.arange(80) / 16
    for person in range(6):
        for trial in range(2):
            for label in CLASSES:
                x = 0.1 * random.standard_normal((80, 3)) + [0, 0, 1]
                x[:, 0] += (label == "shake") * np.sin(2 * np.pi * 3 * t)
                x[40:, 1] += label == "turn"
                rows += [
                    f"p{person},{label}{trial},{s:.4f},{label},{a:.4f},{b:.4f},{c:.4f}"
                    for s, (a, b, c) in zip(t, x, strict=True)
                ]
    path = tmp_path / "moves.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def evaluated(y, predicted, subject=None, trial=None, classes=3):
    y, predicted = torch.tensor(y), torch.tensor(predicted)
    said = torch.full((len(y), classes), 0.1).scatter_(1, predicted[:, None], 0.8).log()
    subject = torch.zeros(len(y), dtype=torch.long) if subject is None else torch.tensor(subject)
    return Evaluated(said, y, subject, torch.arange(len(y)) if trial is None else torch.tensor(trial))


# Scores -----------------------------------------------------------------------------------------------------------


def test_scores_are_those_of_scikit_learn():
    y, predicted = torch.randint(0, 4, (200,)), torch.randint(0, 4, (200,))
    found = scores(confusion(y, predicted, 4))
    assert found["accuracy"].item() == pytest.approx((y == predicted).float().mean().item())
    assert found["macro_f1"].item() == pytest.approx(f1_score(y, predicted, average="macro"))
    assert found["balanced_accuracy"].item() == pytest.approx(balanced_accuracy_score(y, predicted))


def test_macro_f1_is_over_classes_in_truth_or_prediction():
    only_true = scores(confusion(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 0, 1, 1]), 5))
    assert only_true["macro_f1"] == 1
    said_too = scores(confusion(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 0, 1, 2]), 5))
    assert said_too["macro_f1"].item() == pytest.approx((1 + 2 / 3 + 0) / 3)


def test_macro_f1_is_global_and_not_a_mean_over_batches():
    y, predicted = [0] * 8 + [1, 2], [0] * 8 + [1, 1]
    whole = scores(evaluated(y, predicted).confusion)["macro_f1"].item()
    batches = [scores(evaluated(y[i : i + 5], predicted[i : i + 5]).confusion)["macro_f1"].item() for i in (0, 5)]
    task = make_task()
    for i in (0, 5):
        task.test_windows.update(evaluated(y[i : i + 5], predicted[i : i + 5]))
    logged = task.metrics(task.test_windows.compute())["macro_f1"].item()
    assert logged == pytest.approx(whole) == pytest.approx(f1_score(y, predicted, average="macro", zero_division=0))
    assert abs(logged - np.mean(batches)) > 0.01


def test_windows_vote_by_their_mean_log_probability():
    said = torch.tensor([[0.6, 0.4], [0.6, 0.4], [0.01, 0.99], [0.3, 0.7]]).log()
    windows = Evaluated(said, torch.tensor([1, 1, 1, 0]), torch.tensor([0, 0, 0, 1]), torch.tensor([4, 4, 4, 2]))
    whole = recordings(windows)
    assert (whole.trial.tolist(), whole.y.tolist(), whole.subject.tolist()) == ([2, 4], [0, 1], [1, 0])
    assert whole.log_probabilities.argmax(dim=1).tolist() == [1, 1]
    torch.testing.assert_close(whole.log_probabilities[0].exp(), torch.tensor([0.3, 0.7]))


def test_a_recording_within_which_the_activity_changes_has_no_class():
    whole = recordings(evaluated([0, 1, 2], [0, 1, 2], trial=[5, 5, 6]))
    assert whole.trial.tolist() == [6]


def test_unknown_classes_do_not_count():
    windows = evaluated([0, -1, 1], [0, 2, 1], subject=[0, 1, 1])
    assert scores(windows.confusion)["accuracy"] == 1
    assert by_person(windows) == {0: 1.0, 1: 1.0}


def test_accuracy_of_each_person():
    assert by_person(evaluated([0, 0, 1, 1], [0, 1, 1, 1], subject=[3, 3, 1, 1])) == {1: 1.0, 3: 0.5}


# The task ---------------------------------------------------------------------------------------------------------


def test_channels_are_z_scored_by_training_statistics_and_padding_is_zero():
    task = make_task(model="imu_cnn")
    x, mask = torch.full((1, 32, 3), 3.0), torch.arange(32)[None] < 20
    z = task.normalised(x, mask)
    torch.testing.assert_close(z[0, 0], torch.tensor([3.0, 1.5, 4.0]))
    assert z[0, 20:].count_nonzero() == 0
    assert make_task(model="kan_har").normalised(x, mask) is x


def test_a_model_that_knows_about_time_is_told_the_rate():
    assert make_task(model="kan_har").net.rate == 16.0


def test_spline_coefficients_have_no_weight_decay():
    task = make_task(model="imu_kan", model_kwargs={"features": 4})
    decayed, kept = parameter_groups(task, 0.1)
    curves = task.net.extractor.stages[0].curves
    assert any(parameter is curves.weight for parameter in kept["params"])
    assert any(parameter is task.net.head.linear.weight for parameter in decayed["params"])


def test_rotation_keeps_lengths_and_angles_and_jitter_is_in_deviations():
    x = torch.randn(50, 20, 6)
    y = turned(x, 30.0)
    torch.testing.assert_close(y[..., 3:].norm(dim=2), x[..., 3:].norm(dim=2), rtol=1e-4, atol=1e-5)
    cosine = torch.cosine_similarity(x[..., :3], y[..., :3], dim=2)
    assert cosine.min() >= np.cos(np.deg2rad(30.0)) - 1e-4
    assert cosine.min() < 0.95
    noisy = make_task(jitter=0.1).augmented(torch.zeros(200, 32, 3))
    torch.testing.assert_close(noisy.std(dim=(0, 1)), torch.tensor([0.1, 0.2, 0.05]), rtol=0.05, atol=0)
    assert make_task().augmented(x) is x


def test_class_weights_balance_what_the_loss_sees():
    task = make_task(class_weights=True)
    y = torch.tensor([0] * 6 + [1] * 2)
    none = torch.zeros(8, dtype=torch.long)
    task.prepare(ActivityBatch(torch.randn(8, 32, 3), y, none, none, torch.ones(8, 32, dtype=torch.bool), none.float()))
    torch.testing.assert_close(task.class_weight, torch.tensor([8 / 12, 2.0, 0.0]))


def test_training_on_a_file_tells_the_activities_of_unseen_people(table, tmp_path, capsys):
    data = ActivityData("table", file=str(table), window=2.0, folds=3, val_people=1, batch_size=32)
    data.setup("fit")
    known = {name: getattr(data, name) for name in ("num_samples", "channels", "classes", "rate")}
    task = ActivityTask(**known, channel_mean=data.channel_mean, channel_std=data.channel_std, lr=0.02)
    trainer = pl.Trainer(
        max_epochs=4,
        accelerator="cpu",
        default_root_dir=tmp_path,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(task, datamodule=data)
    assert {"val/macro_f1", "val/recording_accuracy", "val/loss"} <= set(trainer.callback_metrics)
    found = trainer.test(task, datamodule=data, verbose=False)[0]
    assert found["test/recording_macro_f1"] > 0.9
    assert found["test/worst_person"] <= found["test/recording_accuracy"]
    trivial = task.trivial_baseline(data)
    assert trivial["test/recording_accuracy"] == pytest.approx(1 / 3)
    figures = dict(task.figures(data))
    assert {"confusion", "people"} <= set(figures)
    rows = [row for batch in trainer.predict(task, datamodule=data) for row in task.prediction_rows(batch)]
    assert len(rows) == len(data.parts["test"].y)
    assert set(rows[0]) >= {"subject", "trial", "start", "prediction", "true", "probability_rest"}
    assert sum(rows[0][f"probability_{name}"] for name in CLASSES) == pytest.approx(1, abs=1e-5)
    assert task.export_metadata(data)["classes"] == CLASSES
    capsys.readouterr()


@pytest.mark.parametrize(
    ("what", "stored"),
    [("classes", ["rest", "turn", "shake"]), ("channels", ["x", "y", "w"])],
    ids=["classes", "channels"],
)
def test_a_checkpoint_of_other_outputs_or_inputs_is_refused(what, stored):
    task = make_task()
    task.on_load_checkpoint({"hyper_parameters": dict(task.hparams)})
    with pytest.raises(KANError, match=f"with the {what} {', '.join(stored)}, but the data has"):
        task.on_load_checkpoint({"hyper_parameters": {**task.hparams, what: stored}})


def test_the_twin_is_of_the_same_size():
    task = make_task(model="kan_har", model_kwargs={"hidden": [8]})
    twin = task.make_twin("params")
    sizes = [sum(p.numel() for p in each.net.parameters()) for each in (task, twin)]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.05)
    with pytest.raises(KANError, match="ordinary layers already"):
        make_task(model="imu_cnn").make_twin("params")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"select_by": "f1"}, "select_by"),
        ({"jitter": -0.1}, "at least 0"),
        ({"model": "imu_can"}, "imu_cnn"),
        ({"rotation": 10.0, "channels": ["x"], "model": "imu_cnn"}, "threes"),
    ],
    ids=["select_by", "jitter", "model", "rotation"],
)
def test_the_task_refuses_what_does_not_fit(changes, said):
    with pytest.raises(KANError, match=said):
        make_task(**changes)


def test_people_figure_names_everyone():
    axes = people_figure({"f1": 0.8, "m2": 0.5}).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["m2", "f1"]
