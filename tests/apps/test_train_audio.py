"""The audio app in process: the run without arguments (smaller), prediction of files, every shipped configuration."""

from __future__ import annotations

import csv
import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from kan_audio.cli import main
from kan_audio.data.attacks import resynthesise
from kan_audio.data.audio import write_audio
from kan_audio.data.synthetic import synthetic_speech

QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"]
REPOSITORY = Path(__file__).parents[2]
CONFIGS = sorted((REPOSITORY / "configs" / "audio").glob("*.yaml"))
SMALL = ["--data.max_utterances=40", "--data.num_samples=4000", "--trainer.max_epochs=2", "--name=small"]


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KAN_DATA", raising=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a small run of the default configuration; tests read from it."""
    output = tmp_path_factory.mktemp("audio")
    assert main([*SMALL, *QUIET, "--output", str(output)]) == 0
    return output / "audio" / "small"


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_the_default_run_trains_tests_and_reports_a_kan_and_its_twin(run):
    summary = json.loads((run / "summary.json").read_text())
    assert summary["dataset"].startswith("synthetic")
    assert summary["model"] == "aasist3_mel"
    assert summary["twin"]["parameters"] == pytest.approx(summary["parameters"], rel=0.05)
    assert summary["baseline"]["test/eer"] == 0.5
    for side in (summary, summary["twin"]):
        metrics = side["metrics"]
        assert 0 <= metrics["test/eer_low"] <= metrics["test/eer"] <= metrics["test/eer_high"] <= 1
        # the attacks that were held out are in the test
        assert {"test/eer_A08", "test/eer_A10", "test/min_dcf", "test/act_dcf", "test/cllr"} <= set(metrics)
    for name in ("det", "scores", "attribution", "edge_functions", "learning_curves"):
        with Image.open(run / "figures" / f"{name}.png") as image:
            assert min(image.size) > 250, name
    assert (run / "report.html").stat().st_size > 0


def test_the_calibration_is_in_the_checkpoint(run):
    state = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    scale, offset = state["calibration"].tolist()
    assert scale > 0
    assert (scale, offset) != (1.0, 0.0)


def test_predict_files_needs_no_training_data_and_speaks_in_words(run, tmp_path):
    """Mixed rates and channels, silence and a single sample: each is a row."""
    (utterance, *_) = synthetic_speech(2, 1, 1, 16_000, 3)
    wave = utterance.source
    write_audio(tmp_path / "a.wav", wave, 16_000)
    write_audio(tmp_path / "more" / "b.flac", resynthesise(wave, 16_000, "A01", 0), 16_000)
    write_audio(tmp_path / "more" / "c.wav", wave[::2], 8_000)
    write_audio(tmp_path / "silence.wav", torch.zeros(4000), 16_000)
    write_audio(tmp_path / "short.wav", torch.full((1,), 0.25), 16_000)
    files = ["a.wav", "more", "silence.wav", "short.wav"]
    code = main(["predict", *files, "--ckpt_path", str(run / "checkpoints" / "best.ckpt"), *QUIET])
    assert code == 0
    found = rows(run / "predictions.csv")
    assert [row["id"] for row in found] == ["a.wav", "more/b.flac", "more/c.wav", "silence.wav", "short.wav"]
    for row in found:
        assert row["predicted"] in ("bonafide", "spoof")
        assert 0.5 <= float(row["probability"]) <= 1
        assert float(row["score"]) == float(row["score"])  # no NaN
        assert row["true"] == ""


def test_predictions_of_the_test_set_can_be_evaluated_to_the_metrics_of_the_test(run, tmp_path, capsys):
    config = ["--config", str(run / "config.yaml"), "--output", str(run.parents[1])]
    assert main(["predict", *config, *QUIET]) == 0
    predictions = rows(run / "predictions.csv")
    protocol = tmp_path / "protocol.csv"
    lines = [f"{row['id']},{row['true']},{'-' if row['true'] == 'bonafide' else 'A00'}\n" for row in predictions]
    protocol.write_text("id,key,attack\n" + "".join(lines))
    out = tmp_path / "evaluation"
    assert main(["evaluate", str(run / "predictions.csv"), str(protocol), "--output", str(out), "--bootstrap=0"]) == 0
    detection = json.loads((out / "metrics.json").read_text())["metrics"]["detection"]
    metrics = json.loads((run / "summary.json").read_text())["metrics"]
    assert detection["eer"]["value"] == pytest.approx(metrics["test/eer"], abs=1e-6)
    assert detection["min_dcf"]["value"] == pytest.approx(metrics["test/min_dcf"], abs=1e-6)
    assert "EER" in capsys.readouterr().out


@pytest.mark.usefixtures("undrawn")
def test_make_spoofs_and_train_on_them(tmp_path, capsys):
    for utterance in synthetic_speech(6, 2, 1, 16_000, 0):
        write_audio(tmp_path / "speech" / utterance.speaker / f"{utterance.id}.wav", utterance.source, 16_000)
    assert main(["spoof", "speech", "made", "--attacks=A01,A05", "--per-utterance=1"]) == 0
    assert "12 bona fide copies and 12 spoofs are in made" in capsys.readouterr().out
    assert main(["spoof", "speech", "made"]) == 2
    assert "already holds something" in capsys.readouterr().err
    options = ["--data=kan_audio.data.ProtocolSpoof", f"--data.root={tmp_path}", "--data.folder=made"]
    options += ['--data.protocols=["protocol.txt"]', '--data.audio=["flac"]', "--data.num_samples=4000"]
    assert main([*options, "--trainer.max_epochs=1", "--twin=none", "--name=made", *QUIET]) == 0


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_trains_and_tests(path, shared_data, tmp_path, request):
    root = shared_data("fsdd").parent
    few = [f"--trainer.limit_{part}_batches=2" for part in ("train", "val", "test")]
    few += ["--data.max_utterances=60"] if "max_utterances" in path.read_text().partition("data:")[2] else []
    # one configuration of each task looks for the twin's width and draws, which takes most of the time
    twin = path.stem in ("spoof_fsdd", "slu_barista")
    request.getfixturevalue("sketched" if twin else "undrawn")
    few += [] if twin else ["--twin=none"]
    code = main(["--config", str(path), f"--data.root={root}", "--trainer.max_epochs=1", "--name=run", *few, *QUIET])
    assert code == 0
    summary = json.loads((tmp_path / "outputs" / "audio" / "run" / "summary.json").read_text())
    if twin:
        assert summary["twin"]["parameters"] == pytest.approx(summary["parameters"], rel=0.05)
    assert summary["parameters"] <= 500_000


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_says_what_to_prepare_and_how_to_run_it(path):
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert any(line.startswith("# Prepare:") for line in header)
    (command,) = [line for line in header if line.startswith("# Run:")]
    assert f"uv run apps/train_audio.py --config {path.relative_to(REPOSITORY)} --" in command
    assert len(command.split(" --")) >= 3  # one override


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_spoken_digits_are_learned(shared_data, tmp_path):
    """FSDD, the official test, two epochs of eight."""
    config = ["--config", str(REPOSITORY / "configs" / "audio" / "slu_fsdd.yaml")]
    root = [f"--data.root={shared_data('fsdd').parent}"]
    assert main([*config, *root, "--trainer.max_epochs=2", "--twin=none", "--name=digits", *QUIET]) == 0
    summary = json.loads((tmp_path / "outputs" / "audio" / "digits" / "summary.json").read_text())
    assert summary["metrics"]["test/accuracy"] >= 0.8
    assert summary["baseline"]["test/accuracy"] == pytest.approx(0.1)

    # on new files without the training data: the checkpoint knows what its outputs mean
    write_audio(tmp_path / "new.wav", 0.1 * torch.randn(8_000), 16_000)
    checkpoint = tmp_path / "outputs" / "audio" / "digits" / "checkpoints" / "best.ckpt"
    assert main(["predict", "new.wav", f"--ckpt_path={checkpoint}", "--data.root=none", *QUIET]) == 0
    [row] = rows(checkpoint.parents[1] / "predictions.csv")
    assert row["id"] == "new.wav"
    assert row["digit"] in "0123456789"
    assert row["digit_true"] == ""


def test_the_script_passes_the_exit_code_on(monkeypatch, capsys):
    """In this process; that of the vision app is started in one of its own."""
    script = REPOSITORY / "apps" / "train_audio.py"
    monkeypatch.setattr(sys, "argv", [str(script), "predict", "none.wav"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert ended.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
