"""A small task and datamodule for the tests of kan_core.training, and the app around them (also run as a script)."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from pathlib import Path

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from kan_core import KANLinear
from kan_core.compare import count_flops, count_parameters
from kan_core.errors import KANError
from kan_core.training import Task, run

DEFAULTS = """\
model:
  class_path: toy_training.ToyTask
data:
  class_path: toy_training.ToyData
trainer:
  max_epochs: 4
  accelerator: cpu
  enable_progress_bar: false
"""


class ToyData(pl.LightningDataModule):
    """Two classes in the plane, inside and outside a ring; 96 training, 32 validation and 32 test points."""

    name = "Ring"

    def __init__(self, root: str | None = None, batch_size: int = 16, num_workers: int = 0, shift: float = 0.0) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.num_classes = 2

    def setup(self, stage: str) -> None:
        root = self.hparams["root"]
        if root is not None and not Path(root, "ring.csv").is_file():
            raise FileNotFoundError(2, "there is no such file; make it first", str(Path(root, "ring.csv")))
        generator = torch.Generator().manual_seed(7)
        x = torch.rand(160, 2, generator=generator) * 2 - 1
        y = (x.square().sum(dim=1) > 0.6).long()
        self.parts = (
            TensorDataset(x[:96], y[:96]),
            TensorDataset(x[96:128] + self.hparams["shift"], y[96:128]),
            TensorDataset(x[128:], y[128:]),
        )

    def _loader(self, part: int) -> DataLoader:
        workers = self.hparams["num_workers"]
        return DataLoader(
            self.parts[part], batch_size=self.hparams["batch_size"], shuffle=part == 0, num_workers=workers
        )

    def train_dataloader(self) -> DataLoader:
        return self._loader(0)

    def val_dataloader(self) -> DataLoader:
        return self._loader(1)

    def test_dataloader(self) -> DataLoader:
        return self._loader(2)

    def predict_dataloader(self) -> DataLoader:
        return self._loader(2)


class ToyTask(Task):
    """Classify points with a two-layer KAN, or with the MLP that is its twin."""

    monitor = "val/accuracy"
    monitor_mode = "max"

    def __init__(
        self,
        model: str = "kan",
        width: int = 4,
        lr: float = 0.02,
        basis: str = "bspline",
        dropout: float = 0.2,
        delay: float = 0.0,
        num_classes: int = 2,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.example_input_array = torch.zeros(1, 2)
        if model == "kan":
            self.net: nn.Module = nn.Sequential(
                KANLinear(2, width, basis=basis), nn.Dropout(dropout), KANLinear(width, num_classes, basis=basis)
            )
        elif model == "mlp":
            self.net = nn.Sequential(nn.Linear(2, width), nn.SiLU(), nn.Dropout(dropout), nn.Linear(width, num_classes))
        else:
            raise KANError(f"model.model: unknown model {model!r}, use kan or mlp")

    def make_twin(self, by: str) -> ToyTask:
        if self.hparams["model"] != "kan":
            return super().make_twin(by)
        count = count_parameters if by == "params" else lambda net: count_flops(net, self.example_input_array)
        target = count(self.net)
        build = lambda width: ToyTask(**{**self.hparams, "model": "mlp", "width": width})  # noqa: E731
        return min((build(width) for width in range(1, 60)), key=lambda twin: abs(count(twin.net) - target))

    def _step(self, batch: list[Tensor], stage: str) -> Tensor:
        x, y = batch
        logits = self.net(x)
        loss = F.cross_entropy(logits, y)
        accuracy = (logits.argmax(1) == y).float().mean()
        self.log_dict(
            {f"{stage}/loss": loss, f"{stage}/accuracy": accuracy},
            on_step=False,
            on_epoch=True,
            batch_size=len(x),
            sync_dist=True,
        )
        return loss

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        time.sleep(self.hparams["delay"])
        return self._step(batch, "train")

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self._step(batch, "val")

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self._step(batch, "test")

    def predict_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.net(batch[0]).softmax(dim=1)

    def prediction_rows(self, batch_outputs: Tensor) -> Iterable[dict[str, object]]:
        for probabilities in batch_outputs.tolist():
            yield {"class": int(probabilities[1] > probabilities[0]), "probability": max(probabilities)}

    def trivial_baseline(self, datamodule: pl.LightningDataModule) -> dict[str, float]:
        majority = datamodule.parts[0].tensors[1].mode().values
        return {"test/accuracy": float((datamodule.parts[2].tensors[1] == majority).float().mean())}

    def configure_optimizers(self) -> object:
        return self.adamw(lr=self.hparams["lr"], weight_decay=1e-3)


class StopAt(pl.Callback):
    """Stands for Ctrl-C in the middle of an epoch, or for a bug."""

    def __init__(self, epoch: int, error: str = "KeyboardInterrupt") -> None:
        self.epoch = epoch
        self.error = error

    def on_train_batch_end(self, trainer: pl.Trainer, *args: object) -> None:
        if trainer.current_epoch == self.epoch and args[-1] == 3:
            raise {"KeyboardInterrupt": KeyboardInterrupt, "RuntimeError": RuntimeError}[self.error]("stopped")


class RankWeights(pl.Callback):
    """Writes every process's final KAN weights beside the outputs, to be compared."""

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if pl_module.hparams["model"] == "kan":
            folder = Path(trainer.default_root_dir).parents[2]
            torch.save(pl_module.state_dict(), folder / f"rank{trainer.global_rank}.pt")


def main(folder: Path, args: list[str]) -> int:
    """Run the toy app with its outputs and default configuration in `folder`."""
    defaults = folder / "defaults.yaml"
    if not defaults.exists():
        defaults.write_text(DEFAULTS)
    word, rest = (args[:1], args[1:]) if args and not args[0].startswith("-") else ([], args)
    options = args if "--output" in args else [*word, "--output", str(folder / "outputs"), *rest]
    return run(
        Task,
        pl.LightningDataModule,
        app="toy",
        defaults=defaults,
        args=options,
        links=[("data.num_classes", "model.init_args.num_classes", "instantiate")],
    )


if __name__ == "__main__":
    import toy_training

    sys.exit(toy_training.main(Path(sys.argv[1]), sys.argv[2:]))
