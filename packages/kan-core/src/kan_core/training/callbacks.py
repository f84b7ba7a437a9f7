"""Callbacks that know KAN layers: adaptive grids, the KAN paper's penalty, and inputs that leave the grid."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from kan_core.errors import KANError
from kan_core.layers import KANLayer, kan_layers


@contextmanager
def watch_inputs(layers: list[KANLayer], see: Callable[[KANLayer, Tensor], None]) -> Iterator[None]:
    """Call ``see(layer, x)`` with the input of every forward pass of `layers` inside the block."""
    with ExitStack() as stack:
        for layer in layers:
            stack.callback(layer.register_forward_pre_hook(lambda part, args: see(part, args[0])).remove)
        yield


class GridUpdate(pl.Callback):
    """Move the grids of adaptive KAN layers to where their inputs are.

    In the epochs chosen, the inputs of every KAN layer with an adaptive basis are recorded in the first training batch.
    When that batch ends each layer moves its grid and refits its coefficients (``layer.update_grid``), so that the
    function it computes stays what it was on those inputs. Parameters are changed in place: the optimiser keeps its
    moments, although they belong to the old coefficients; they fade within some tens of steps. With several processes
    the grid of rank 0 is used everywhere.

    Args:
        every_n_epochs: Update in epochs 0, n, 2n, ...; at least 1.
        until_epoch: No update from this epoch on. ``None``: the first half of the training. A grid that moves until the
            end leaves the coefficients no time to settle.

    Raises:
        KANError: For values below 1; and when training starts, if the model has no adaptive KAN layer.
    """

    kan_only = True

    def __init__(self, every_n_epochs: int = 1, until_epoch: int | None = None) -> None:
        if every_n_epochs < 1:
            raise KANError(f"GridUpdate.every_n_epochs must be at least 1, got {every_n_epochs}")
        if until_epoch is not None and until_epoch < 1:
            raise KANError(f"GridUpdate.until_epoch must be at least 1, got {until_epoch}")
        self.every_n_epochs = every_n_epochs
        self.until_epoch = until_epoch
        self._watching = ExitStack()
        self._inputs: dict[KANLayer, Tensor] = {}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse a model that has no grid to update."""
        if not _adaptive(pl_module):
            raise KANError(
                f"the callback GridUpdate found no KAN layer with an adaptive basis in {type(pl_module).__name__}: "
                "leave it out of trainer.callbacks, or choose an adaptive basis such as bspline"
            )

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Start recording inputs in the first batch of a chosen epoch."""
        if batch_idx == 0 and self._due(trainer):
            self._watching.enter_context(watch_inputs(_adaptive(pl_module), self._record))

    def _record(self, layer: KANLayer, x: Tensor) -> None:
        if layer not in self._inputs:  # a layer that is used twice adapts to its first use
            self._inputs[layer] = x.detach().float()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Update the grids with what was recorded."""
        self._watching.close()
        inputs, self._inputs = self._inputs, {}
        with torch.no_grad():
            for layer, x in inputs.items():
                layer.update_grid(x)
                if trainer.world_size > 1:  # every rank has updated, so the shapes agree; the numbers are rank 0's
                    layer.load_state_dict(trainer.strategy.broadcast(layer.state_dict()))

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave no hook behind."""
        self._watching.close()
        self._inputs = {}

    def _due(self, trainer: pl.Trainer) -> bool:
        until = self.until_epoch
        if until is None:
            limit = trainer.max_epochs or 0
            until = (limit + 1) // 2 if limit > 0 else trainer.current_epoch + 1
        return trainer.current_epoch < until and trainer.current_epoch % self.every_n_epochs == 0


def _adaptive(module: pl.LightningModule) -> list[KANLayer]:
    return [layer for _, layer in kan_layers(module) if layer.basis.adaptive]


class Regularization(pl.Callback):
    """Add the KAN paper's penalty, the L1 norm and the entropy of the edges' outputs, to the training loss.

    The penalty of one step is the sum over KAN layers of ``l1 * L1 + entropy * S``, both computed by
    ``layer.regularization`` on the inputs that the layer saw in this step. It becomes part of the loss that
    ``training_step`` returns, before scaling, accumulation and gradient reduction, and is logged as ``train/penalty``.

    Args:
        l1: Weight of the L1 norm, not negative.
        entropy: Weight of the entropy, not negative.

    Raises:
        KANError: For negative weights, or when both are 0; and when training starts, if the model has no KAN layer.
    """

    kan_only = True

    def __init__(self, l1: float = 1e-3, entropy: float = 1e-3) -> None:
        if l1 < 0 or entropy < 0 or l1 + entropy == 0:
            raise KANError(f"Regularization: l1 and entropy must be at least 0 and not both 0, got {l1} and {entropy}")
        self.l1 = l1
        self.entropy = entropy

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Wrap ``training_step`` while fitting."""
        if stage != "fit":
            return
        layers = [layer for _, layer in kan_layers(pl_module)]
        if not layers:
            raise KANError(
                f"the callback Regularization found no KAN layer in {type(pl_module).__name__}: "
                "leave it out of trainer.callbacks"
            )
        step = pl_module.training_step
        if getattr(step, "kan_penalty", False):
            raise KANError("trainer.callbacks holds Regularization twice: keep one")

        @functools.wraps(step)
        def with_penalty(*args: Any, **kwargs: Any) -> Any:
            seen: list[tuple[KANLayer, Tensor]] = []
            with watch_inputs(layers, lambda layer, x: seen.append((layer, x))):
                output = step(*args, **kwargs)
            if output is None or not seen:
                return output
            penalty = torch.stack([self._penalty(layer, x) for layer, x in seen]).sum()
            pl_module.log("train/penalty", penalty.detach(), on_step=False, on_epoch=True, sync_dist=True)
            if isinstance(output, Mapping):
                return {**output, "loss": output["loss"] + penalty}
            return output + penalty

        with_penalty.kan_penalty = True  # type: ignore[attr-defined]
        pl_module.training_step = with_penalty  # type: ignore[method-assign]

    def _penalty(self, layer: KANLayer, x: Tensor) -> Tensor:
        l1, entropy = layer.regularization(x)
        return self.l1 * l1 + self.entropy * entropy

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Give the task its own ``training_step`` back."""
        if stage == "fit":
            pl_module.__dict__.pop("training_step", None)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """As :meth:`teardown`, which Lightning does not call after an error."""
        pl_module.__dict__.pop("training_step", None)


class OutsideGrid(pl.Callback):
    """Log ``val/outside_grid``: the fraction of inputs outside the grid on the validation set, mean over KAN layers.

    A model without KAN layers logs nothing.
    """

    kan_only = True

    def __init__(self) -> None:
        self._watching = ExitStack()
        self._outside: dict[KANLayer, Tensor] = {}
        self._inputs: dict[KANLayer, int] = {}

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start counting."""
        self._outside, self._inputs = {}, {}
        self._watching.enter_context(watch_inputs([layer for _, layer in kan_layers(pl_module)], self._count))

    def _count(self, layer: KANLayer, x: Tensor) -> None:
        # weighted by the number of values, so that a small last batch counts as what it is; no device is waited for
        self._outside[layer] = self._outside.get(layer, 0.0) + layer.outside_fraction(x.detach()) * x.numel()
        self._inputs[layer] = self._inputs.get(layer, 0) + x.numel()

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the mean over layers."""
        self._watching.close()
        fractions = [self._outside[layer] / count for layer, count in self._inputs.items() if count]
        if fractions:
            pl_module.log("val/outside_grid", torch.stack(fractions).mean(), sync_dist=True)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave no hook behind."""
        self._watching.close()
