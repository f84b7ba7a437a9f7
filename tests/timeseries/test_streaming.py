"""A stream says what a batch says, whatever the size of the pieces that samples arrive in."""

from __future__ import annotations

import lightning.pytorch as pl
import pytest
import torch

from kan_core.errors import KANError
from kan_timeseries.models import imu, kan_har  # noqa: F401
from kan_timeseries.streaming import ActivityStream, load_task, real_time_factor
from kan_timeseries.tasks.activity import ActivityTask


@pytest.fixture(params=["imu_kan", "kan_har"])
def task(request):
    return ActivityTask(
        num_samples=32,
        channels=["x", "y", "z"],
        classes=["rest", "walk"],
        rate=16.0,
        channel_mean=[0.1, 0.0, 1.0],
        channel_std=[1.0, 2.0, 0.5],
        model=request.param,
    ).eval()


@pytest.mark.parametrize("piece", [1, 7, 32, 200])
def test_a_stream_equals_batch_prediction_on_the_same_windows(task, piece):
    signal = torch.randn(100, 3)
    stream = ActivityStream(task, step=10)
    found = [emission for part in signal.split(piece) for emission in stream.push(part)]
    ends = list(range(32, 101, 10))
    with torch.no_grad():
        batch = task(torch.stack([signal[end - 32 : end] for end in ends])).softmax(dim=1)
    assert [emission.time for emission in found] == [end / 16 for end in ends]
    torch.testing.assert_close(torch.tensor([list(e.probabilities.values()) for e in found]), batch)
    assert [e.label for e in found] == [task.classes[i] for i in batch.argmax(dim=1)]


def test_a_step_longer_than_the_window(task):
    signal = torch.randn(120, 3)
    found = ActivityStream(task, step=40).push(signal)
    with torch.no_grad():
        last = task(signal[None, 80:112]).softmax(dim=1)[0]
    assert [emission.time for emission in found] == [2.0, 4.5, 7.0]
    torch.testing.assert_close(torch.tensor(list(found[-1].probabilities.values())), last)


def test_nothing_is_said_before_the_first_window_and_after_a_reset(task):
    stream = ActivityStream(task)
    assert stream.push(torch.zeros(31, 3)) == []
    stream.reset()
    assert stream.push(torch.zeros(31, 3)) == []
    assert len(stream.push(torch.zeros(1, 3))) == 1


def test_a_checkpoint_streams_as_its_task(task, tmp_path):
    path = tmp_path / "best.ckpt"
    checkpoint = {
        "state_dict": task.state_dict(),
        "hyper_parameters": dict(task.hparams),
        "pytorch-lightning_version": pl.__version__,
    }
    torch.save(checkpoint, path)
    signal = torch.randn(40, 3)
    assert ActivityStream(path).push(signal) == ActivityStream(task).push(signal)


def test_real_time_factor_is_positive_and_needs_a_window(task):
    stream = ActivityStream(task, step=16)
    assert real_time_factor(stream, torch.randn(64, 3)) > 0
    assert stream.count == 0
    with pytest.raises(KANError, match="window of 32 samples, got 31"):
        real_time_factor(stream, torch.randn(31, 3))


@pytest.mark.parametrize(
    ("samples", "said"),
    [
        (torch.zeros(4, 2), r"shape \(n, 3\), got \(4, 2\)"),
        (torch.tensor([[0.0, 0.0, 0.0], [0.0, float("nan"), 0.0]]), "sample 1 of y is nan"),
    ],
    ids=["channels", "nan"],
)
def test_samples_that_do_not_fit_are_refused_and_not_stored(task, samples, said):
    stream = ActivityStream(task)
    with pytest.raises(KANError, match=said):
        stream.push(samples)
    assert stream.count == 0


def test_bad_steps_and_checkpoints_are_refused(task, tmp_path):
    with pytest.raises(KANError, match="at least 1 sample"):
        ActivityStream(task, step=0)
    with pytest.raises(KANError, match="no such file"):
        load_task(tmp_path / "none.ckpt")
    torch.save({"state_dict": {}, "hyper_parameters": {"lr": 1.0}}, tmp_path / "other.ckpt")
    with pytest.raises(KANError, match="not a checkpoint of an ActivityTask"):
        load_task(tmp_path / "other.ckpt")
