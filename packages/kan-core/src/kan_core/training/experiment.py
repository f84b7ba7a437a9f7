"""One run from its configuration to its report: train, train the twin, test both once, write everything down."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.seed import isolate_rng

from kan_core.errors import KANError
from kan_core.training.checkpoints import FOLDER as CHECKPOINTS
from kan_core.training.checkpoints import check_weights, load_weights, read_checkpoint
from kan_core.training.console import USER_ERRORS
from kan_core.training.export import export_task
from kan_core.training.files import atomic_write
from kan_core.training.parsing import AppCLI
from kan_core.training.predictions import PredictionWriter
from kan_core.training.report import write_report
from kan_core.training.run_folder import RunFolder, is_rank_zero, run_name
from kan_core.training.runtime import Stopwatch
from kan_core.training.summary import (
    MATCHED,
    Outcome,
    device_name,
    print_metrics,
    print_outcome,
    result_table,
    verdict,
    write_summary,
)
from kan_core.training.task import Task
from kan_core.training.trainers import evaluation_trainer, leave_process_group, normalised, train


class Experiment:
    """What a command does, once the configuration is parsed.

    Args:
        cli: The parsed and instantiated configuration.
        app: Folder of the app under ``--output``.

    Raises:
        KANError: For a name, checkpoint or output folder that cannot be used.
    """

    def __init__(self, cli: AppCLI, app: str) -> None:
        self.cli = cli
        self.config = cli.config
        self.task: Task = cli.model
        self.datamodule: pl.LightningDataModule = cli.datamodule
        self.dataset: str = self.datamodule.name or type(self.datamodule).__name__
        seed = self.config.seed_everything
        self.seed: int | None = None if seed is False else int(seed)
        self.options = normalised(cli.trainer_options())
        self.twin_options = self._options_for_twin()
        self.checkpoint = Path(self.config.ckpt_path) if self.config.ckpt_path else None
        name = run_name(self.config.name, self.dataset, self.task.model_name)
        self.folder = RunFolder(Path(self.config.output) / app / name)

    def _options_for_twin(self) -> dict[str, Any]:
        # callbacks keep state: the twin gets copies made before training, without those that need KAN layers
        callbacks = [c for c in self.options["callbacks"] if not getattr(c, "kan_only", False)]
        return {**self.options, "callbacks": copy.deepcopy(callbacks)}

    def run(self, command: str | None) -> None:
        """Carry out `command`; ``None``: train and test."""
        if command in (None, "fit"):
            self._use_folder_of_checkpoint(required=True)
            self._train_and_report(test=command is None)
        else:
            self._use_folder_of_checkpoint(required=False)
            self._evaluate_only(str(command))

    def how_to_resume(self) -> str:
        """What to tell someone who pressed Ctrl-C."""
        last = self.folder.path / CHECKPOINTS / "last.ckpt"
        if last.is_file():
            return f"resume with the same options and --ckpt_path {last}"
        return "no epoch was complete, there is nothing to resume from"

    def _use_folder_of_checkpoint(self, required: bool) -> None:
        """A run goes on in the folder that its checkpoint lies in."""
        if self.checkpoint is None:
            return
        if not self.checkpoint.is_file():
            raise KANError(f"--ckpt_path {self.checkpoint}: there is no such file")
        folder = RunFolder.of_checkpoint(self.checkpoint.absolute())
        if folder is None and required:
            raise KANError(
                f"--ckpt_path {self.checkpoint}: to resume, give the last.ckpt in the checkpoints folder of a run; "
                "metrics and the best weights so far are beside it"
            )
        if folder is not None:
            if required and self.config.name not in (None, folder.path.name):
                raise KANError(
                    f"--name {self.config.name}: a resumed run goes on in its folder {folder.path}; leave --name out"
                )
            self.folder = folder

    # Training ---------------------------------------------------------------------------------------------------

    def _train_and_report(self, test: bool) -> None:
        twin = self._make_twin()
        if self.checkpoint is not None:  # before the run's config.yaml is replaced by one that does not fit it
            check_weights(self.task, read_checkpoint(self.checkpoint), self.checkpoint)
        self.folder.create(resume=self.checkpoint is not None)
        try:
            if is_rank_zero():
                with atomic_write(self.folder.path / "config.yaml") as temporary:
                    temporary.write_text(self.cli.config_yaml())
            trainer, stopwatch = train(
                self.task, self.datamodule, self.options, self.folder.path, seed=self.seed, resume=self.checkpoint
            )
            stopwatches = [stopwatch]
            if twin is not None:
                stopwatches.append(self._train_twin(twin))
        except (*USER_ERRORS, KeyboardInterrupt):
            self.folder.abandon()
            raise
        if leave_process_group(trainer):
            self._report(twin, stopwatches, test, device_name(trainer.strategy.root_device))

    def _make_twin(self) -> Task | None:
        """The twin, made before training so that a task that has none says so at once."""
        if self.config.twin == "none":
            return None
        with isolate_rng():
            if self.seed is not None:
                pl.seed_everything(self.seed, workers=True, verbose=False)
            return self.task.make_twin(self.config.twin)

    def _train_twin(self, twin: Task) -> Stopwatch:
        folder = self.folder.path / "twin"
        last = folder / CHECKPOINTS / "last.ckpt"
        resume = last if self.checkpoint is not None and last.is_file() else None
        if is_rank_zero():
            print(f"training the twin, {twin.model_name}, with equal {MATCHED[self.config.twin]}")
        return train(
            twin, self.datamodule, self.twin_options, folder, seed=self.seed, resume=resume, own_loggers=False
        )[1]

    # Evaluation -------------------------------------------------------------------------------------------------

    def _report(self, twin: Task | None, stopwatches: list[Stopwatch], test: bool, device: str) -> None:
        stage = "test" if test and is_overridden("test_dataloader", self.datamodule) else "validate"
        path = self.folder.path
        outcome = self._outcome(self.task, path, stopwatches[0], stage)
        other = None if twin is None else self._outcome(twin, path / "twin", stopwatches[1], stage)
        baselines = self._baselines() if stage == "test" else {}
        summary = write_summary(path / "summary.json", outcome, other, baselines, self.task, device)
        heads, rows = result_table(outcome, other, baselines, self.config.twin)
        sentence = verdict(outcome, other)
        write_report(path, self.task, self.datamodule, summary, heads, rows, sentence, tested=stage == "test")
        title = f"{outcome.task} on {outcome.dataset}, seed {outcome.seed}"
        print_outcome(path, title, heads, rows, sentence)

    def _baselines(self) -> dict[str, dict[str, float]]:
        """Test metrics of what needs no training: the task's trivial answer first."""
        trivial = self.task.trivial_baseline(self.datamodule)
        return ({"trivial": trivial} if trivial else {}) | self.task.other_baselines(self.datamodule)

    def _outcome(self, task: Task, folder: Path, stopwatch: Stopwatch, stage: str) -> Outcome:
        best = folder / CHECKPOINTS / "best.ckpt"
        if best.is_file() and not self.options.get("fast_dev_run"):
            load_weights(task, best)
        options = self.options if task is self.task else {**self.twin_options, "logger": []}
        metrics = self._metrics(task, stage, options)
        task.cpu().float().eval()  # sizes are counted and figures drawn there, whatever the training's precision
        return Outcome.of(task, self.dataset, self.seed, stopwatch, metrics, stage)

    def _metrics(self, task: Task, stage: str, options: dict[str, Any]) -> dict[str, float]:
        trainer = evaluation_trainer(options)
        evaluate = trainer.test if stage == "test" else trainer.validate
        results = evaluate(task, datamodule=self.datamodule, verbose=False)
        return {name: float(value) for result in results for name, value in result.items()}

    def _evaluate_only(self, command: str) -> None:
        checkpoint = self.checkpoint or self.folder.path / CHECKPOINTS / "best.ckpt"
        if self.checkpoint is None and not checkpoint.is_file():
            raise KANError(f"{command}: no trained run at {self.folder.path}; train it first, or give --ckpt_path")
        load_weights(self.task, checkpoint)
        if not is_rank_zero():
            return
        self.folder.create(resume=True)
        if command == "predict":
            self._predict()
            return
        if command == "export":
            self._export()
            return
        metrics = self._metrics(self.task, command, self.options)
        path = self.folder.path / f"{command}.json"
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps({"checkpoint": str(checkpoint), "metrics": metrics}, indent=2) + "\n")
        print_metrics(f"{self.task.model_name} on {self.dataset}", metrics)
        print(f"written to {path}")

    def _predict(self) -> None:
        with PredictionWriter(self.folder.path) as writer:
            options = {**self.options, "callbacks": [*self.options["callbacks"], writer]}
            evaluation_trainer(options).predict(self.task, datamodule=self.datamodule, return_predictions=False)
        print(f"{writer.count} predictions written to {' and '.join(map(str, writer.written))}")

    def _export(self) -> None:
        self.datamodule.setup("fit")
        folder = self.folder.path / "export"
        report = export_task(self.task, folder, self.task.export_metadata(self.datamodule))
        for file, difference in report["max_abs_difference"].items():
            print(f"{folder / file}: differs from the network by at most {difference:.2g}")
        print(
            f"input shape {report['input_shape']} (null is any size), in {folder / 'export.json'}".replace(
                "None", "null"
            )
        )
