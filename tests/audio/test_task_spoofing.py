"""The spoofing task: what it calls a score, its weighted loss, its calibration and its trials."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from kan_audio.data.utterances import AudioBatch
from kan_audio.tasks import SpoofingTask
from kan_audio.tasks.spoofing import Trials, scores_of
from kan_core.errors import KANError

NET = {"n_mels": 12, "bridge_features": 9, "channels": (4, 4), "graph_dims": (4, 4), "branches": 2}


def task(**options):
    torch.manual_seed(0)
    made = SpoofingTask(model_kwargs=NET, num_samples=3200, **options)
    made.log = made.log_dict = lambda *args, **kwargs: None  # no trainer
    return made


def batch(labels):
    waves = 0.1 * torch.randn(len(labels), 3200)
    n = len(labels)
    return AudioBatch(waves, torch.full((n,), 3200), torch.tensor(labels)[:, None], torch.arange(n))


def test_a_score_is_the_difference_of_the_logits_and_grows_with_bona_fide():
    assert scores_of(torch.tensor([[1.0, 3.0], [2.0, -1.0]])).tolist() == [2.0, -3.0]


def test_the_loss_is_normalised_by_the_weights_of_the_batch():
    made = task(class_weights=(0.1, 0.9)).eval()
    given = batch([0, 1, 0, 0])
    with torch.no_grad():
        losses = F.cross_entropy(made(given.wave), given.label[:, 0], reduction="none")
        weights = torch.tensor([0.1, 0.9, 0.1, 0.1])
        torch.testing.assert_close(made.training_step(given, 0), (losses * weights).sum() / weights.sum())


def test_validation_fits_the_calibration_that_predictions_use():
    made = task(spoof_prior=0.5).eval()
    made.val_scores.update(torch.tensor([2.0, 3.0, 4.0, 9.0, 10.0, 8.0]))
    made.val_labels.update(torch.tensor([0, 0, 0, 1, 1, 1]))
    made.on_validation_epoch_end()
    calibration = made.calibrated
    # the middle between the classes tells nothing: likelihood ratio 1, probability a half
    assert calibration.llr([6.0])[0] == pytest.approx(0, abs=1e-3)
    assert calibration.probability([6.0], 0.5)[0] == pytest.approx(0.5, abs=1e-3)
    assert calibration.llr([10.0])[0] > 1 > -1 > calibration.llr([2.0])[0]
    assert calibration.probability([6.0], 0.9)[0] == pytest.approx(0.1, abs=1e-3)
    copy = task()
    copy.load_state_dict(made.state_dict())
    assert copy.calibrated == calibration


def test_scores_that_are_not_finite_leave_the_calibration_alone():
    made = task()
    made.val_scores.update(torch.tensor([1.0, torch.nan]))
    made.val_labels.update(torch.tensor([0, 1]))
    made.on_validation_epoch_end()
    assert (made.calibrated.scale, made.calibrated.offset) == (1, 0)


def test_predictions_are_in_words():
    made = task().eval()
    made._trainer = SimpleNamespace(datamodule=None)
    with torch.no_grad():
        outputs = made.predict_step(batch([0, 1, -1]), 0)
    rows = list(made.prediction_rows(outputs))
    assert [row["true"] for row in rows] == ["spoof", "bonafide", ""]
    for row, bonafide in zip(rows, outputs.probabilities.tolist(), strict=True):
        assert row["predicted"] == ("bonafide" if bonafide >= 0.5 else "spoof")
        assert row["probability"] == pytest.approx(max(bonafide, 1 - bonafide), abs=1e-6)


def test_an_attack_stands_against_all_bona_fide_speech():
    trials = Trials(np.arange(5.0), np.array([1, 0, 0, 1, 0]), ["-", "A1", "A2", "-", "A1"], ["s"] * 5)
    found = trials.per_attack()
    assert list(found) == ["all", "A1", "A2"]
    assert found["A1"][0].tolist() == [0, 1, 3, 4]
    assert found["A2"][1].tolist() == [1, 0, 1]


def test_the_twin_has_the_same_size_and_no_kan_layer():
    from kan_core.compare import count_parameters
    from kan_core.layers import kan_layers

    made = task()
    twin = made.make_twin("params")
    assert not kan_layers(twin.net)
    assert count_parameters(twin.net) == pytest.approx(count_parameters(made.net), rel=0.05)
    with pytest.raises(KANError, match="use --twin none"):
        twin.make_twin("params")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spoof_prior": 0.0}, "spoof_prior must lie between 0 and 1"),
        ({"class_weights": (0.0, 1.0)}, "two positive numbers"),
        ({"select_by": "accuracy"}, "select_by must be one of loss, eer"),
        ({"model": "asist"}, "did you mean aasist"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(KANError, match=message):
        SpoofingTask(**options)
