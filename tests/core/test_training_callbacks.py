"""Callbacks about KAN layers, with a real trainer on a toy task."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor

from kan_core import KANError, KANLinear
from kan_core.layers import kan_layers
from kan_core.training import GridUpdate, OutsideGrid, Regularization
from kan_core.training.console import quiet

sys.path.insert(0, str(Path(__file__).parent))
toy = importlib.import_module("toy_training")


@pytest.fixture(autouse=True)
def _quiet():
    with quiet():
        yield


def trainer(*callbacks: pl.Callback, **options: object) -> pl.Trainer:
    plain = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return pl.Trainer(accelerator="cpu", callbacks=list(callbacks), **{"max_epochs": 1, **plain, **options})


def hooks(task: pl.LightningModule) -> int:
    return sum(len(layer._forward_pre_hooks) for _, layer in kan_layers(task))


def knots(task: pl.LightningModule) -> list[Tensor]:
    return [layer.basis.knots.clone() for _, layer in kan_layers(task)]


class Knots(pl.Callback):
    """Knots, first layer and network on all training samples at the end of every batch, before or after GridUpdate."""

    def __init__(self) -> None:
        self.seen: list[list[Tensor]] = []
        self.first: list[Tensor] = []
        self.outputs: list[Tensor] = []

    def on_train_batch_end(self, trainer: pl.Trainer, task: pl.LightningModule, *args: object) -> None:
        self.seen.append(knots(task))
        x = trainer.datamodule.parts[0].tensors[0]
        with torch.no_grad():
            self.first.append(task.net[0](x))
            self.outputs.append(task.net(x))


def test_grid_update_moves_the_knots_and_keeps_the_function() -> None:
    # one batch of all samples and no learning: what changes is the grid alone
    task, data = toy.ToyTask(dropout=0.0, lr=0.0), toy.ToyData(batch_size=96)
    before, after = Knots(), Knots()
    trainer(before, GridUpdate(every_n_epochs=2, until_epoch=3), after, max_epochs=5).fit(task, datamodule=data)
    moved = [not torch.equal(b[1], a[1]) for b, a in zip(before.seen, after.seen, strict=True)]
    assert moved == [True, False, True, False, False]
    torch.testing.assert_close(torch.stack(after.first), torch.stack(before.first), atol=1e-3, rtol=0)
    torch.testing.assert_close(torch.stack(after.outputs), torch.stack(before.outputs), atol=2e-3, rtol=0)
    assert hooks(task) == 0


def test_grid_update_defaults_to_the_first_half_of_training() -> None:
    before, after = Knots(), Knots()
    trainer(before, GridUpdate(), after, max_epochs=4).fit(toy.ToyTask(), datamodule=toy.ToyData(batch_size=96))
    assert [not torch.equal(b[1], a[1]) for b, a in zip(before.seen, after.seen, strict=True)] == [
        True,
        True,
        False,
        False,
    ]


def test_grid_update_keeps_the_optimisers_parameters() -> None:
    task = toy.ToyTask()
    run = trainer(GridUpdate())
    run.fit(task, datamodule=toy.ToyData())
    trained = {id(p) for group in run.optimizers[0].param_groups for p in group["params"]}
    assert trained == {id(p) for p in task.parameters()}


class Loss(pl.Callback):
    """The losses that the optimiser saw, and what was logged."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer: pl.Trainer, task: pl.LightningModule, outputs: dict, *args: object) -> None:
        self.values.append(float(outputs["loss"]))


def test_regularization_adds_exactly_the_penalty_to_the_loss() -> None:
    data, losses, penalty = toy.ToyData(batch_size=96), {}, 0.0
    for callbacks in ([], [Regularization(l1=0.01, entropy=0.3)]):
        torch.manual_seed(0)
        task = toy.ToyTask(dropout=0.0)
        loss, run = Loss(), trainer(*callbacks, max_steps=1)
        if callbacks:
            data.setup("fit")
            x = data.parts[0].tensors[0]
            first, second = (layer for _, layer in kan_layers(task))
            with torch.no_grad():
                for layer, seen in ((first, x), (second, first(x))):
                    l1, entropy = layer.regularization(seen)
                    penalty += float(0.01 * l1 + 0.3 * entropy)
        run.callbacks.append(loss)
        run.fit(task, datamodule=data)
        losses[bool(callbacks)] = loss.values[0]
    assert penalty > 0.1
    # the samples come in another order, so the sums are rounded differently
    assert losses[True] - losses[False] == pytest.approx(penalty, rel=1e-4)
    assert float(run.callback_metrics["train/penalty"]) == pytest.approx(penalty, rel=1e-4)
    assert float(run.callback_metrics["train/loss"]) == pytest.approx(losses[False], rel=1e-5)
    assert "training_step" not in task.__dict__
    assert hooks(task) == 0


def test_regularization_shrinks_the_edges() -> None:
    magnitudes = []
    for callbacks in ([], [Regularization(l1=0.1, entropy=0.0)]):
        torch.manual_seed(0)
        task, data = toy.ToyTask(dropout=0.0), toy.ToyData()
        trainer(*callbacks, max_epochs=8).fit(task, datamodule=data)
        layer = kan_layers(task)[0][1]
        magnitudes.append(layer.regularization(data.parts[0].tensors[0])[0].item())
    assert magnitudes[1] < 0.5 * magnitudes[0]


def test_callbacks_clean_up_after_an_error() -> None:
    task = toy.ToyTask()
    callbacks = (GridUpdate(), Regularization(), OutsideGrid(), toy.StopAt(0, "RuntimeError"))
    with pytest.raises(RuntimeError, match="stopped"):
        trainer(*callbacks).fit(task, datamodule=toy.ToyData())
    assert hooks(task) == 0
    assert "training_step" not in task.__dict__


@pytest.mark.parametrize("batch_size", [32, 20])
def test_outside_grid_is_the_mean_over_layers_of_the_fraction_on_the_validation_set(batch_size: int) -> None:
    task, data = toy.ToyTask(), toy.ToyData(batch_size=batch_size, shift=0.7)
    run = trainer(OutsideGrid())
    run.validate(task, datamodule=data, verbose=False)
    x = data.parts[1].tensors[0]
    first = kan_layers(task)[0][1]
    with torch.no_grad():
        hidden = first(x)
    low, high = first.basis.grid[0, 0], first.basis.grid[0, -1]  # uniform, the same for every input
    expected = [((v < low) | (v > high)).float().mean() for v in (x, hidden)]
    assert 0.1 < expected[0] < 0.9
    assert float(run.callback_metrics["val/outside_grid"]) == pytest.approx(float(sum(expected) / 2), abs=1e-6)
    assert hooks(task) == 0


def test_a_model_without_kan_layers() -> None:
    mlp = toy.ToyTask(model="mlp")
    run = trainer(OutsideGrid())
    run.validate(mlp, datamodule=toy.ToyData(), verbose=False)
    assert "val/outside_grid" not in run.callback_metrics
    for callback in (GridUpdate(), Regularization()):
        with pytest.raises(KANError, match="found no KAN layer"):
            trainer(callback).fit(mlp, datamodule=toy.ToyData())


def test_values_out_of_range() -> None:
    with pytest.raises(KANError, match="every_n_epochs must be at least 1, got 0"):
        GridUpdate(every_n_epochs=0)
    with pytest.raises(KANError, match="until_epoch must be at least 1, got 0"):
        GridUpdate(until_epoch=0)
    for weights in ({"l1": -1.0}, {"l1": 0.0, "entropy": 0.0}):
        with pytest.raises(KANError, match="not both 0"):
            Regularization(**weights)


def test_regularization_twice_is_refused() -> None:
    with pytest.raises(KANError, match="twice"):
        trainer(Regularization(), Regularization(l1=0.5)).fit(toy.ToyTask(), datamodule=toy.ToyData())


def test_the_layers_under_test_are_adaptive() -> None:
    assert all(isinstance(layer, KANLinear) and layer.basis.adaptive for _, layer in kan_layers(toy.ToyTask()))
