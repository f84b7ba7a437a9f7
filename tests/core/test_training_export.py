"""`export`: an ONNX file and a torch.export program that say what the network says; and what `predict` writes."""

from __future__ import annotations

import importlib
import json
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from kan_core import layers
from kan_core.errors import KANError
from kan_core.training.export import export_task, onnx_module, trace
from kan_core.training.parsing import configuration_of_checkpoint
from kan_core.training.predictions import PredictionWriter

sys.path.insert(0, str(Path(__file__).parent))
toy = importlib.import_module("toy_training")


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    assert toy.main(folder, ["--twin", "none", "--trainer.max_epochs", "1", "--model.width", "6"]) == 0
    return folder / "outputs" / "toy" / "ring-kan"


def test_export_needs_only_the_checkpoint(run_folder, monkeypatch, capsys):
    """The run's own configuration says how wide the model is."""
    monkeypatch.chdir(run_folder.parents[2])
    checkpoint = run_folder / "checkpoints" / "best.ckpt"
    assert toy.main(run_folder.parents[2], ["export", "--ckpt_path", str(checkpoint)]) == 0
    assert {path.name for path in (run_folder / "export").iterdir()} == {"model.onnx", "model.pt2", "export.json"}
    report = json.loads((run_folder / "export" / "export.json").read_text())
    assert report["input_shape"] == [None, 2]
    assert report["model"] == "kan"
    assert set(report["max_abs_difference"]) == {"model.onnx", "model.pt2"}
    assert max(report["max_abs_difference"].values()) <= 1e-4
    assert "model.onnx" in capsys.readouterr().out


def test_exported_files_say_what_the_trained_network_says(run_folder):
    task = toy.ToyTask(width=6)
    if not (run_folder / "export").exists():
        assert (
            toy.main(run_folder.parents[2], ["export", "--ckpt_path", str(run_folder / "checkpoints/best.ckpt")]) == 0
        )
    task.load_state_dict(torch.load(run_folder / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"])
    x = torch.randn(5, 2)
    expected = task.eval().net(x).detach()
    session = onnxruntime.InferenceSession(run_folder / "export" / "model.onnx")
    (got,) = session.run(["output"], {"input": x.numpy()})
    np.testing.assert_allclose(got, expected.numpy(), atol=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, about bytes that it maps read-only
        program = torch.export.load(run_folder / "export" / "model.pt2").module()
    torch.testing.assert_close(program(x), expected, atol=1e-5, rtol=1e-5)
    metadata = {
        entry.key: json.loads(entry.value) for entry in onnx.load(run_folder / "export" / "model.onnx").metadata_props
    }
    assert (metadata["task"], metadata["model"]) == ("toy", "kan")


def test_the_graph_needs_no_kernels_of_ours(run_folder):
    program = trace(toy.ToyTask().eval().net, torch.zeros(2, 2))
    assert not [node for node in program.graph.nodes if "kan" in str(node.target)]


def test_an_export_that_differs_is_refused(tmp_path):
    """A network that draws random numbers has no faithful file."""

    class Noisy(torch.nn.Module):
        def forward(self, x):
            return x + torch.rand_like(x)

    task = toy.ToyTask()
    task.net = Noisy()
    with pytest.raises(KANError, match=r"model\.pt2 differs from the network by"):
        export_task(task, tmp_path, {})
    assert not list(tmp_path.iterdir())


def test_an_untraceable_network_is_one_line(tmp_path):
    class Branches(torch.nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    task = toy.ToyTask()
    task.net = Branches()
    with pytest.raises(KANError, match="export: Branches cannot be traced"):
        export_task(task, tmp_path, {})


def test_an_operator_that_onnx_lacks_is_one_line(tmp_path):
    task = toy.ToyTask()
    task.net = layers.get("rkan")(2, 2)
    with pytest.raises(KANError, match=r"ONNX exporter does not convert this network \(the operator [\w.]*hypot"):
        export_task(task, tmp_path, {})


def test_onnx_module_takes_and_gives_tensors(run_folder, tmp_path):
    report = export_task(toy.ToyTask(), tmp_path, {"names": ["a", "b"]})
    assert report["names"] == ["a", "b"]
    assert onnx_module(tmp_path / "model.onnx")(torch.zeros(3, 2)).shape == (3, 2)


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (["--ckpt_path", "RUN/checkpoints/best.ckpt"], True),
        (["--ckpt_path=RUN/checkpoints/best.ckpt", "--debug"], True),
        (["--ckpt_path", "RUN/checkpoints/best.ckpt", "--config", "other.yaml"], False),
        (["--ckpt_path", "elsewhere/best.ckpt"], False),
        (["--data.shift", "1"], False),
    ],
)
def test_the_configuration_of_a_checkpoint(run_folder, options, found):
    options = [option.replace("RUN", str(run_folder)) for option in options]
    expected = ["--config", str(run_folder / "config.yaml")] if found else []
    assert configuration_of_checkpoint(options) == expected


class WritingTask(toy.ToyTask):
    """Also writes a file per batch."""

    def write_predictions(self, batch_outputs, folder):
        (folder / f"{len(list(folder.iterdir()))}.txt").write_text(str(len(batch_outputs)))


def test_predictions_appear_when_all_are_written(tmp_path):
    task = WritingTask()
    outputs = torch.tensor([[0.2, 0.8], [0.9, 0.1]])
    with PredictionWriter(tmp_path) as writer:
        writer.on_predict_batch_end(None, task, outputs, None, 0)
        writer.on_predict_batch_end(None, task, outputs[:1], None, 1)
        assert not (tmp_path / "predictions").exists()
        assert not (tmp_path / "predictions.csv").exists()
    assert writer.count == 3
    assert writer.written == [tmp_path / "predictions.csv", tmp_path / "predictions"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["predictions", "predictions.csv"]
    assert [(tmp_path / "predictions" / f"{i}.txt").read_text() for i in range(2)] == ["2", "1"]
    assert len((tmp_path / "predictions.csv").read_text().splitlines()) == 4


def test_a_failed_prediction_leaves_the_earlier_one(tmp_path):
    task = WritingTask()
    outputs = torch.tensor([[0.2, 0.8]])
    with PredictionWriter(tmp_path) as writer:
        writer.on_predict_batch_end(None, task, outputs, None, 0)

    def fail_half_way():
        with PredictionWriter(tmp_path) as writer:
            writer.on_predict_batch_end(None, task, outputs[:0], None, 0)
            raise RuntimeError("disk")

    with pytest.raises(RuntimeError, match="disk"):
        fail_half_way()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["predictions", "predictions.csv"]
    assert len((tmp_path / "predictions.csv").read_text().splitlines()) == 2
