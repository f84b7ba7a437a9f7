"""The three phases of training a net that chooses its bases (S-KAN, arXiv 2408.08338)."""

from __future__ import annotations

import lightning.pytorch as pl
import torch

from kan_core.errors import KANError
from kan_core.layers import Selection


class SelectionSchedule(pl.Callback):
    """Train all candidates, let them compete, keep the winners: for every :class:`kan_core.layers.Selection` of a net.

    1. Warm-up: temperature 1.
    2. Annealing: the temperature falls geometrically, from epoch to epoch, to `final_temperature`.
    3. The rest, at least one epoch: in each layer the largest gate is set to exactly 1 and the others to 0, and the
       winner trains on alone.

    No module is replaced while training: the losers stay, with gradients of exactly 0. So optimiser, checkpoints,
    resuming and distributed training need nothing special, and the temperature and the gates are in the checkpoint.
    After training :func:`kan_core.layers.select_all` removes the losers without changing an output, when the weights
    are those of an epoch of the third phase: a best epoch before it is a mixture, which it would cut. The learning
    rate is the task's own: the reference lowers it to a tenth in the third phase, which a cosine has done by then.

    Logged: ``train/gate_entropy``, mean over layers, 0 when all have decided.

    Args:
        warmup: First phase, as a fraction of the trainer's ``max_epochs``.
        anneal: Second phase, likewise; together below 1.
        final_temperature: Temperature at the end of the second phase, above 0 and at most 1.

    Raises:
        KANError: For values out of their range; and when training starts, if the model selects nothing or the trainer
            has no ``max_epochs``.
    """

    kan_only = True

    def __init__(self, warmup: float = 0.3, anneal: float = 0.4, final_temperature: float = 0.1) -> None:
        if warmup < 0 or anneal < 0 or warmup + anneal >= 1:
            raise KANError(
                "SelectionSchedule: warmup and anneal must be at least 0 and together below 1, "
                f"got {warmup} and {anneal}"
            )
        if not 0 < final_temperature <= 1:
            raise KANError(f"SelectionSchedule.final_temperature must lie in (0, 1], got {final_temperature}")
        self.warmup = warmup
        self.anneal = anneal
        self.final_temperature = final_temperature

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse a model that selects nothing, and a training without an end."""
        if not _selections(pl_module):
            raise KANError(
                f"the callback SelectionSchedule found no layer that selects in {type(pl_module).__name__}: "
                "leave it out of trainer.callbacks, or choose a model such as sconvkan_small"
            )
        if trainer.max_epochs is None or trainer.max_epochs < 1:
            raise KANError("the callback SelectionSchedule needs trainer.max_epochs: its phases are fractions of it")

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Set the temperature of this epoch, or decide."""
        assert trainer.max_epochs is not None
        temperature = self.temperature(trainer.current_epoch, trainer.max_epochs)
        for layer in _selections(pl_module):
            if temperature is None:
                layer.decide()
            else:
                layer.anneal(temperature)

    def temperature(self, epoch: int, max_epochs: int) -> float | None:
        """The temperature of an epoch; None in the third phase.

        Args:
            epoch: From 0.
            max_epochs: Length of the training.
        """
        begin = round(self.warmup * max_epochs)
        end = min(round((self.warmup + self.anneal) * max_epochs), max_epochs - 1)
        if epoch >= end:
            return None
        return 1.0 if epoch < begin else float(self.final_temperature ** ((epoch - begin + 1) / (end - begin)))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log how undecided the layers are."""
        with torch.no_grad():
            entropy = torch.stack([layer.gate_entropy() for layer in _selections(pl_module)]).mean()
        pl_module.log("train/gate_entropy", entropy, sync_dist=True)


def _selections(module: pl.LightningModule) -> list[Selection]:
    return [layer for layer in module.modules() if isinstance(layer, Selection)]
