"""The classification task: its numbers against independent ones, its twin, its errors."""

from __future__ import annotations

import math

import lightning.pytorch as pl
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, f1_score, roc_auc_score

from kan_core.compare import count_flops, count_parameters
from kan_core.errors import KANError
from kan_core.layers import KANLayer
from kan_vision.data import Digits, ImageBatch
from kan_vision.tasks import ClassificationTask
from kan_vision.tasks._network import our_models
from kan_vision.tasks.classification import PredictedBatch


def task(**options):
    return ClassificationTask(**{"img_size": 8, "model_kwargs": {"width": 0.25}, **options})


def trainer(tmp_path, **options):
    return pl.Trainer(
        **{
            "accelerator": "cpu", "max_epochs": 2, "logger": False, "enable_checkpointing": False,
            "enable_progress_bar": False, "enable_model_summary": False, "default_root_dir": tmp_path,
            **options,
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    torch.manual_seed(0)
    data = Digits()
    model = task(lr=1e-2)
    runner = trainer(tmp_path_factory.mktemp("trained"))
    runner.fit(model, data)
    metrics = runner.test(model, data, verbose=False)[0]
    return data, model, metrics, runner


def test_metrics_equal_scikit_learns(trained):
    data, model, metrics, _ = trained
    model.eval()
    with torch.no_grad():
        logits = torch.cat([model(batch.image) for batch in data.test_dataloader()])
    true, predicted, p = data.splits.test.labels.numpy(), logits.argmax(1).numpy(), logits.softmax(1).double()
    expected = {
        "accuracy": (true == predicted).mean(),
        "balanced_accuracy": balanced_accuracy_score(true, predicted),
        "macro_f1": f1_score(true, predicted, average="macro"),
        "auc": roc_auc_score(true, (p / p.sum(1, keepdim=True)).numpy(), multi_class="ovr", average="macro"),
        "loss": torch.nn.functional.cross_entropy(logits, data.splits.test.labels).item(),
    }
    assert 0.7 < expected["accuracy"] < 1
    for name, value in expected.items():
        assert metrics[f"test/{name}"] == pytest.approx(value, abs=1e-5), name
    assert 0 < metrics["test/ece"] < 0.5
    assert torch.equal(model.confusion.compute(), torch.from_numpy(confusion_matrix(true, predicted)))


def test_figures_after_the_test(trained):
    data, model, metrics, _ = trained
    figures = dict(model.figures(data))
    assert list(figures) == ["confusion_matrix", "predictions", "edge_functions"]
    right = round(metrics["test/accuracy"] * 360)
    assert figures["confusion_matrix"].axes[0].get_title() == f"Confusion matrix: {right} of 360 right"
    assert (
        figures["predictions"].subfigs[0].get_suptitle() == f"Most confident mistakes ({360 - right} of 360 are wrong)"
    )


def test_testing_twice_counts_once(trained):
    data, model, _, runner = trained
    runner.test(model, data, verbose=False)
    assert model.confusion.compute().sum() == 360 == len(model.tested)


def test_prediction_rows(trained):
    data, model, metrics, runner = trained
    rows = [row for batch in runner.predict(model, data) for row in model.prediction_rows(batch)]
    assert [row["image"] for row in rows] == [str(i) for i in range(360)]
    right = sum(row["predicted"] == row["true"] for row in rows) / 360
    assert right == pytest.approx(metrics["test/accuracy"], abs=1e-6)
    assert all(0.1 <= row["probability"] <= 1 for row in rows)


def test_prediction_rows_use_class_names_and_leave_unknown_classes_empty():
    model = task(num_classes=2, class_names=["cat", "dog"])
    batch = PredictedBatch(["a.png", "b.png"], torch.tensor([-1, 1]), torch.tensor([[0.75, 0.25], [0.0, 1.0]]))
    assert list(model.prediction_rows(batch)) == [
        {"image": "a.png", "predicted": "cat", "probability": 0.75, "true": ""},
        {"image": "b.png", "predicted": "dog", "probability": 1.0, "true": "dog"},
    ]


def test_figures_before_any_test_are_the_edge_functions():
    assert [name for name, _ in task().figures(Digits())] == ["edge_functions"]


def test_trivial_baseline_is_the_majority_of_train():
    data = Digits()
    data.splits.train.labels[:] = 3
    data.splits.train.labels[:5] = 7
    share = (data.splits.test.labels == 3).float().mean().item()
    baseline = task().trivial_baseline(data)
    assert baseline == {
        "test/accuracy": pytest.approx(share),
        "test/balanced_accuracy": pytest.approx(0.1),
        "test/macro_f1": pytest.approx(2 * share / (1 + share) / 10),
        "test/auc": 0.5,
    }


@pytest.mark.parametrize("model", ["kan_mlp_small", "kan_conv_small"])
def test_loss_at_the_start_is_that_of_guessing(model):
    data = Digits(batch_size=512)
    batch = next(iter(data.train_dataloader()))
    net = task(model=model, model_kwargs=None)
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(net(batch.image), batch.label).item()
    assert 0.8 * math.log(10) < loss < 1.3 * math.log(10)


@pytest.mark.parametrize("model", ["kan_mlp_small", "kan_conv_small"])
def test_one_batch_is_memorised(model):
    batch = next(iter(Digits(batch_size=32).train_dataloader()))
    net = task(model=model, model_kwargs=None).net.train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    for _ in range(100):
        loss = torch.nn.functional.cross_entropy(net(batch.image), batch.label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.02


@pytest.mark.parametrize("model", ["kan_mlp_small", "kan_conv_small"])
@pytest.mark.parametrize(("by", "tolerance"), [("params", 0.05), ("flops", 0.1)])
def test_twin_has_the_size_and_no_kan_layer(model, by, tolerance):
    kan = task(model=model, model_kwargs={"drop_rate": 0.1, "layer_kwargs": {"base": None}}, lr=0.5, img_size=12)
    twin = kan.make_twin(by)
    assert not [part for part in twin.net.modules() if isinstance(part, KANLayer)]
    sizes = [
        count_parameters(t.net) if by == "params" else count_flops(t.net, torch.zeros(1, 1, 12, 12))
        for t in (kan, twin)
    ]
    assert sizes[1] == pytest.approx(sizes[0], rel=tolerance)
    differing = {key for key in kan.hparams if kan.hparams[key] != twin.hparams[key]}
    assert differing == {"model_kwargs"}
    assert twin.hparams["model_kwargs"]["drop_rate"] == 0.1
    assert twin.model_name == f"{model}[linear]"


def test_a_linear_model_has_no_twin():
    with pytest.raises(KANError, match="--twin params: this model has ordinary layers already; use --twin none"):
        task(model_kwargs={"layer": "linear"}).make_twin("params")


def test_label_smoothing_is_for_training_only():
    smooth, plain = task(label_smoothing=0.2), task()
    smooth.load_state_dict(plain.state_dict())
    batch = ImageBatch(torch.randn(4, 1, 8, 8), torch.tensor([1, 2, 3, 4]), torch.arange(4))
    logged = {}
    for model in (smooth, plain):
        model.log = lambda name, value, **_: logged.setdefault(name, []).append(value.item())
        model.log_dict = lambda *_, **__: None
        model.training_step(batch, 0)
        model.validation_step(batch, 0)
    assert logged["train/loss"][0] != pytest.approx(logged["train/loss"][1], rel=1e-4)
    assert logged["val/loss"][0] == logged["val/loss"][1]


def test_checkpoint_loads_with_weights_only(tmp_path):
    data = Digits()
    model = task(class_names=data.class_names, model_kwargs={"width": 0.5, "layer": "rbf(num_centers=3)"})
    runner = trainer(tmp_path, max_epochs=1)
    runner.fit(model, data)
    runner.save_checkpoint(tmp_path / "a.ckpt")
    loaded = ClassificationTask.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    x = torch.randn(3, 1, 8, 8)
    assert torch.equal(loaded.eval()(x), model.eval()(x))


def test_other_models_of_timm_can_be_trained():
    model = ClassificationTask("resnet10t", num_classes=3, in_chans=3, img_size=32)
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 3)


def test_unknown_model_lists_ours_and_near_names():
    with pytest.raises(KANError) as error:
        task(model="resnet1", model_kwargs=None)
    text = str(error.value)
    assert text.startswith("unknown model 'resnet1': did you mean rkan_resnet")
    assert "resnet1" in text
    assert "kan_vision has " + ", ".join(our_models()) in text
    with pytest.raises(KANError, match="did you mean kan_mlp_small"):
        task(model="kan_mlp_smal", model_kwargs=None)


def test_unknown_model_argument_and_layer():
    with pytest.raises(KANError, match=r"model 'kan_mlp_small' refuses its model_kwargs: .*'depht'"):
        task(model_kwargs={"depht": 3})
    with pytest.raises(KANError, match=r"unknown .*'splines'"):
        task(model_kwargs={"layer": "splines"})
