"""What the tasks of this package share: their example and their export."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from kan_core.training import ModelTask


class AudioTask(ModelTask):
    """A network on waveforms; a subclass saves its hyper-parameters, builds `net` and writes the steps.

    Its constructor takes at least ``model``, ``model_kwargs``, ``sample_rate``, ``lr``, ``weight_decay`` and
    ``warmup_epochs``.
    """

    def set_example(self, num_samples: int) -> None:
        """Make `example_input_array` one silent utterance of `num_samples` samples."""
        self.example_input_array = torch.zeros(1, num_samples)

    def forward(self, wave: Tensor, length: Tensor | None = None) -> Tensor:
        """Logits of ``(batch, samples)`` waveforms.

        Args:
            wave: In [-1, 1], at the task's sample rate.
            length: ``(batch,)`` samples of each row that are sound, for networks that take it; None: all.
        """
        logits: Tensor = self.net(wave) if length is None else self.net(wave, length)
        return logits

    def export_metadata(self, datamodule: pl.LightningDataModule) -> dict[str, Any]:
        """The rate at which the exported network takes mono samples in [-1, 1]; a subclass adds its classes."""
        return {**super().export_metadata(datamodule), "sample_rate": self.hparams["sample_rate"]}
