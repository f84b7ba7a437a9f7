"""The slot task: its numbers against independent ones, its twin, its checkpoints, its errors."""

from __future__ import annotations

import json
import math

import lightning.pytorch as pl
import pytest
import torch
from sklearn.metrics import f1_score

from kan_audio.data.base import PaddedDataModule
from kan_audio.data.utterances import AudioBatch, Splits, Utterance
from kan_audio.tasks.slots import PredictedSlots, SlotTask
from kan_core import KANLinear
from kan_core.compare import count_flops, count_parameters
from kan_core.errors import KANError
from kan_core.training.checkpoints import load_weights

RATE = 4000
PITCH = {"low": 200, "middle": 500, "high": 1200}
LENGTH = {"long": 2400, "short": 1200}
MODEL = {"channels": [4, 8], "hidden": [16, 8], "n_mels": 12, "layer": "rbf(num_centers=4)", "dropout": 0.0}


class Tones(PaddedDataModule):
    """Tones of three pitches and two lengths in noise."""

    name = "tones"

    def __init__(self, per_class=12, two_slots=True, shuffle=False, batch_size=16):
        super().__init__(sample_rate=RATE, batch_size=batch_size)
        self.per_class, self.two_slots, self.shuffle = per_class, two_slots, shuffle

    def load(self):
        generator = torch.Generator().manual_seed(0)
        parts = []
        for part, count in (("train", self.per_class), ("val", 3), ("test", 4)):
            utterances = []
            for pitch, hertz in PITCH.items():
                for length, samples in LENGTH.items():
                    for index in range(count + (pitch == "low") * (part == "train")):
                        tone = torch.sin(torch.arange(samples) * hertz * 2 * math.pi / RATE)
                        tone[: samples // 3] = 0  # the features have no mean, so a pitch must not last
                        wave = 0.4 * tone + 0.05 * torch.randn(samples, generator=generator)
                        labels = {"pitch": pitch} | ({"length": length} if self.two_slots else {})
                        name = f"{part}_{pitch}_{length}_{index}"
                        utterances.append(Utterance(name, wave, labels, sample_rate=RATE))
            order = torch.randperm(len(utterances), generator=generator) if self.shuffle else range(len(utterances))
            parts.append([utterances[i] for i in order])
        return Splits(*parts)


def task(data=None, **options):
    slots = data.slots if data else {"pitch": sorted(PITCH), "length": sorted(LENGTH)}
    return SlotTask(**{"slots": slots, "model_kwargs": MODEL, "sample_rate": RATE, **options})


def trainer(tmp_path, **options):
    return pl.Trainer(
        **{
            "accelerator": "cpu", "max_epochs": 8, "logger": False, "enable_checkpointing": False,
            "enable_progress_bar": False, "enable_model_summary": False, "default_root_dir": tmp_path,
            **options,
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    torch.manual_seed(0)
    data = Tones()
    model = task(data, lr=1e-2)
    runner = trainer(tmp_path_factory.mktemp("trained"))
    runner.fit(model, data)
    return data, model, runner.test(model, data, verbose=False)[0], runner


def outputs(model, data):
    model.eval()
    with torch.no_grad():
        batches = [(model(b.wave, b.length), b.label) for b in data.test_dataloader()]
    return (torch.cat(column) for column in zip(*batches, strict=True))


def test_metrics_equal_independent_ones(trained):
    data, model, metrics, _ = trained
    logits, label = outputs(model, data)
    parts = logits[:, :3], logits[:, 3:]
    predicted = torch.stack([part.argmax(1) for part in parts], 1)
    right = predicted == label
    expected = {
        "exact_match": right.all(1).float().mean().item(),
        "accuracy": right.float().mean().item(),
        "accuracy_pitch": right[:, 0].float().mean().item(),
        "accuracy_length": right[:, 1].float().mean().item(),
        "macro_f1_pitch": f1_score(label[:, 0], predicted[:, 0], average="macro"),
        "macro_f1_length": f1_score(label[:, 1], predicted[:, 1], average="macro"),
    }
    expected["macro_f1"] = (expected["macro_f1_pitch"] + expected["macro_f1_length"]) / 2
    assert expected["accuracy_pitch"] > 0.6  # it learned
    for name, value in expected.items():
        assert metrics[f"test/{name}"] == pytest.approx(value, abs=1e-6), name
    assert expected["exact_match"] <= min(expected["accuracy_pitch"], expected["accuracy_length"])
    assert set(metrics) == {f"test/{name}" for name in expected} | {"test/loss"}
    assert model.headline == "test/exact_match"


def test_loss_is_the_sum_of_the_slots_cross_entropies(trained):
    data, model, metrics, _ = trained
    logits, label = outputs(model, data)
    parts = logits[:, :3], logits[:, 3:]
    losses = [torch.nn.functional.cross_entropy(p, t).item() for p, t in zip(parts, label.T, strict=True)]
    assert metrics["test/loss"] == pytest.approx(sum(losses), rel=1e-4)


def test_unknown_labels_have_no_part_in_the_loss():
    model = task().eval()
    wave, length = torch.randn(3, 1200), torch.full((3,), 1200)
    model.log = lambda *_, **__: None

    def loss(label):
        return model.training_step(AudioBatch(wave, length, torch.tensor(label), torch.arange(3)), 0).item()

    logits = model(wave, length)
    only_first = torch.nn.functional.cross_entropy(logits[:1, :3], torch.tensor([2])).item()
    assert loss([[2, -1], [-1, -1], [-1, -1]]) == pytest.approx(only_first)
    assert loss([[-1, -1]] * 3) == 0


def test_one_slot_is_ordinary_classification(tmp_path):
    data = Tones(two_slots=False, per_class=4)
    model = task(data, select_by="macro_f1")
    runner = trainer(tmp_path, max_epochs=1)
    runner.fit(model, data)
    metrics = runner.test(model, data, verbose=False)[0]
    assert set(metrics) == {"test/loss", "test/accuracy", "test/macro_f1", "test/exact_match"}
    assert metrics["test/accuracy"] == metrics["test/exact_match"]
    assert model.headline == "test/accuracy"
    assert (model.monitor, model.monitor_mode, model.headline_mode) == ("val/macro_f1", "max", "max")


def test_figures_after_the_test(trained):
    data, model, metrics, _ = trained
    figures = dict(model.figures(data))
    assert list(figures) == ["confusion_pitch", "confusion_length", "attribution", "edge_functions"]
    right = round(metrics["test/accuracy_pitch"] * 24)
    assert figures["confusion_pitch"].axes[0].get_title() == f"pitch: {right} of 24 right"
    assert len(figures["attribution"].axes) == 3 * 2  # one utterance of each pitch, two slots


def test_explanations_are_leave_one_out_of_what_was_predicted(trained):
    data, model, _, _ = trained
    found = model.explanations(data, segments=5)
    assert [e.name for e in found] == ["test_high_long_0", "test_low_long_0", "test_middle_long_0"]
    first = found[0]
    assert first.importance.shape == (2, 5)
    silenced = first.wave.clone()
    silenced[first.spans[1].start : first.spans[1].end] = 0
    p = [model(w[None], torch.tensor([len(w)]))[:, :3].softmax(1).detach()[0] for w in (first.wave, silenced)]
    choice = p[0].argmax()
    assert first.importance[0, 1] == pytest.approx((p[0] - p[1])[choice].item(), abs=1e-5)
    assert first.titles[0].startswith(f"pitch: {data.slots['pitch'][choice]} ({p[0][choice]:.0%}")


def test_figures_before_any_test_are_the_edge_functions():
    assert [name for name, _ in task().figures(Tones())] == ["edge_functions"]


def test_testing_twice_counts_once(trained):
    data, model, metrics, runner = trained
    assert runner.test(model, data, verbose=False)[0] == metrics
    assert model.test_scores.confusion["pitch"].sum() == 24 == len(model.tested)


def test_prediction_rows_have_values_in_words(trained):
    data, model, metrics, runner = trained
    rows = [row for batch in runner.predict(model, data) for row in model.prediction_rows(batch)]
    assert list(rows[0]) == [
        "id", "pitch", "pitch_probability", "pitch_true", "length", "length_probability", "length_true",
    ]  # fmt: skip
    assert [row["id"] for row in rows] == [u.id for u in data.splits.test]
    assert [row["pitch_true"] for row in rows] == [u.labels["pitch"] for u in data.splits.test]
    right = sum(row["pitch"] == row["pitch_true"] for row in rows) / 24
    assert right == pytest.approx(metrics["test/accuracy_pitch"], abs=1e-6)


def test_files_without_labels_have_one_column_for_all_slots_and_no_true_value(tmp_path):
    model = task().eval()
    model._trainer = trainer(tmp_path)
    batch = AudioBatch(torch.randn(2, 1200), torch.tensor([1200, 900]), torch.full((2, 1), -1), torch.arange(2))
    with torch.no_grad():
        first, second = model.prediction_rows(model.predict_step(batch, 0))
    assert (first["id"], second["id"]) == ("0", "1")
    assert (first["pitch_true"], first["length_true"]) == ("", "")
    chosen = torch.tensor([[0.1, 0.7, 0.2]]), torch.tensor([[1.0, 0.0]])
    assert next(iter(model.prediction_rows(PredictedSlots(["a.wav"], torch.tensor([[1, -1]]), list(chosen))))) == {
        "id": "a.wav", "pitch": "low", "pitch_probability": 0.7, "pitch_true": "low", "length": "long",
        "length_probability": 1.0, "length_true": "",
    }  # fmt: skip


def test_trivial_baseline_is_the_majority_of_train():
    baseline = task(Tones()).trivial_baseline(Tones())
    assert baseline["test/accuracy_pitch"] == pytest.approx(1 / 3)  # always low, the most frequent in train
    assert baseline["test/accuracy_length"] == 0.5
    assert baseline["test/exact_match"] == pytest.approx(1 / 6)
    assert baseline["test/macro_f1_pitch"] == pytest.approx(0.5 / 3)


def test_label_maps_are_sorted_and_the_order_of_rows_does_not_change_them():
    assert (
        Tones().slots == Tones(shuffle=True).slots == {"pitch": ["high", "low", "middle"], "length": ["long", "short"]}
    )


@pytest.mark.parametrize(("by", "tolerance"), [("params", 0.05), ("flops", 0.1)])
def test_twin_has_the_size_and_no_kan_layer(by, tolerance):
    kan = task(lr=0.5)
    twin = kan.make_twin(by)
    assert not [part for part in twin.net.modules() if isinstance(part, KANLinear)]
    sizes = [
        count_parameters(t.net) if by == "params" else count_flops(t.net, torch.zeros(1, RATE)) for t in (kan, twin)
    ]
    assert sizes[1] == pytest.approx(sizes[0], rel=tolerance)
    assert {key for key in kan.hparams if kan.hparams[key] != twin.hparams[key]} == {"model_kwargs"}
    assert twin.hparams["model_kwargs"]["n_mels"] == 12
    assert twin.model_name == "slu_cnn_small[linear]"


@pytest.mark.parametrize("ordinary", [{"layer": "linear"}, {"placement": "FFF", "layer": "rbf"}])
def test_an_ordinary_model_has_no_twin(ordinary):
    with pytest.raises(KANError, match="--twin params: this model has ordinary layers already; use --twin none"):
        task(model_kwargs={**MODEL, **ordinary}).make_twin("params")


@pytest.mark.parametrize(
    ("chosen", "name"),
    [
        ({}, "slu_cnn_small"),
        ({"layer": "rbf"}, "slu_cnn_small[rbf]"),
        ({"placement": "FKK"}, "slu_cnn_small[FKK]"),
        ({"placement": "FK", "layer": "rbf"}, "slu_cnn_small[FK rbf]"),
    ],
)
def test_the_models_name_says_placement_and_layer(chosen, name):
    assert task(model_kwargs=chosen).model_name == name


def test_checkpoint_is_plain_holds_the_label_maps_and_refuses_others(tmp_path):
    data = Tones(per_class=3)
    model = task(data)
    runner = trainer(tmp_path, max_epochs=1)
    runner.fit(model, data)
    path = tmp_path / "a.ckpt"
    runner.save_checkpoint(path)
    stored = torch.load(path, weights_only=True)["hyper_parameters"]["slots"]
    assert stored == {"pitch": ["high", "low", "middle"], "length": ["long", "short"]}
    loaded = SlotTask.load_from_checkpoint(path, weights_only=True)
    wave = torch.randn(2, 1500)
    assert torch.equal(loaded.eval()(wave), model.eval()(wave))
    same = task(data)
    load_weights(same, path)
    assert torch.equal(same.eval()(wave), model(wave))
    renamed = task(slots={"pitch": ["high", "low", "top"], "length": ["long", "short"]})
    with pytest.raises(KANError, match="trained with pitch in high, low, middle, but the data has high, low, top"):
        load_weights(renamed, path)
    swapped = task(slots={"length": ["long", "short"], "pitch": ["high", "low", "middle"]})
    with pytest.raises(KANError, match="the checkpoint has the slots pitch, length, but the data length, pitch"):
        load_weights(swapped, path)


def test_export_metadata_are_json_with_the_slots():
    meta = json.loads(json.dumps(task().export_metadata(Tones())))
    assert meta["slots"] == {"pitch": ["high", "low", "middle"], "length": ["long", "short"]}
    assert meta["sample_rate"] == RATE


def test_label_smoothing_is_for_training_only():
    smooth, plain = task(label_smoothing=0.2), task()
    smooth.load_state_dict(plain.state_dict())
    batch = AudioBatch(torch.randn(4, 1200), torch.full((4,), 1200), torch.tensor([[0, 1]] * 4), torch.arange(4))
    logged = {}
    for model in (smooth.eval(), plain.eval()):
        model.log = lambda name, value, **_: logged.setdefault(name, []).append(value.item())
        model.training_step(batch, 0)
        model.validation_step(batch, 0)
    assert logged["train/loss"][0] != pytest.approx(logged["train/loss"][1], rel=1e-4)
    assert logged["val/loss"][0] == logged["val/loss"][1]


@pytest.mark.parametrize("placement", ["FKF", "K"])
def test_one_batch_is_memorised(placement):
    batch = next(iter(Tones(per_class=4).train_dataloader()))
    net = task(model_kwargs={**MODEL, "placement": placement}).net.train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    for _ in range(60):
        pitch, length = net(batch.wave, batch.length).split([3, 2], dim=1)
        loss = sum(torch.nn.functional.cross_entropy(p, t) for p, t in zip((pitch, length), batch.label.T, strict=True))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"select_by": "f1"}, "select_by must be one of loss, accuracy, macro_f1, exact_match, got 'f1'"),
        ({"slots": {"a": []}}, "slots must each have a class"),
        ({"slots": {}}, "slots must each have a class"),
        ({"model": "slu_cn"}, "unknown model 'slu_cn': did you mean slu_cnn"),
        ({"model_kwargs": {"depth": 3}}, "model 'slu_cnn_small' refuses its arguments"),
    ],
)
def test_bad_options_are_refused_in_one_line(options, message):
    with pytest.raises(KANError, match=message) as error:
        task(**options)
    assert "\n" not in str(error.value)
