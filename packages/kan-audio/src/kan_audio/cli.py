"""The command line of the audio package: ``kan-audio``, and ``apps/train_audio.py`` in a checkout."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from kan_audio import evaluate, make_spoofs
from kan_audio.data.base import AudioDataModule
from kan_audio.tasks import AudioTask
from kan_core.training import run
from kan_core.training.checkpoints import read_checkpoint
from kan_core.training.parsing import option_value

DEFAULTS = Path(__file__).parent / "configs" / "default.yaml"
# What a model must know about its data is read from the data, never typed twice.
LINKS = [(f"data.{fact}", f"model.init_args.{fact}", "instantiate") for fact in ("sample_rate", "num_samples", "slots")]
COMMANDS = {"evaluate": evaluate.command, "spoof": make_spoofs.command}


def main(args: Sequence[str] | None = None) -> int:
    """Train, validate, test, predict or export; evaluate scores; make spoofs.

    ``predict FILE...`` takes files and folders of sound; without any it predicts the test set. The rest is
    `kan_core.training.run`: see there for the options and the exit code.

    Args:
        args: The command line without the program's name; by default that of this process.
    """
    words = list(sys.argv[1:] if args is None else args)
    if words[:1] == ["predict"]:
        words = files_as_option(words)
    return run(AudioTask, AudioDataModule, app="audio", defaults=DEFAULTS, args=words, links=LINKS, commands=COMMANDS)


def files_as_option(words: Sequence[str]) -> list[str]:
    """``predict a.wav b.wav --x y`` as ``predict --x y --data.predict_files ["a.wav", "b.wav"]``.

    A checkpoint that knows what its outputs mean (the slots of `SlotTask`) says so to the data, which is then not read.
    """
    command, *rest = words
    count = next((at for at, word in enumerate(rest) if word.startswith("-")), len(rest))
    files, options = rest[:count], rest[count:]
    if not files:
        return [command, *options]
    slots = slots_of_checkpoint(options)
    known = ["--data.vocabulary", json.dumps(slots)] if slots else []
    return [command, *options, *known, "--data.predict_files", json.dumps(files)]


def slots_of_checkpoint(options: Sequence[str]) -> dict[str, list[str]] | None:
    """What the task stored with the checkpoint of ``--ckpt_path`` says about its outputs."""
    path = option_value(options, "--ckpt_path")
    if not path:
        return None
    checkpoint = read_checkpoint(Path(path))
    slots: dict[str, list[str]] | None = checkpoint.get("hyper_parameters", {}).get("slots")
    return slots
