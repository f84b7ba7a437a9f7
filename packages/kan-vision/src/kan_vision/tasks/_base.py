"""What the tasks of this package share: their example and their export."""

from __future__ import annotations

from typing import Any, ClassVar, cast

import lightning.pytorch as pl
import torch
from torch import Tensor

from kan_core.training import ModelTask
from kan_vision.data.base import VisionDataModule


class VisionTask(ModelTask):
    """A network on images; a subclass saves its hyper-parameters, builds `net` and writes the steps.

    Its constructor takes at least ``model``, ``model_kwargs``, ``in_chans``, ``img_size``, ``lr``, ``weight_decay`` and
    ``warmup_epochs``.
    """

    class_names: list[str]
    data_kind: ClassVar[type[Any]] = VisionDataModule

    def set_example(self, in_chans: int, img_size: int | tuple[int, int]) -> None:
        """Make `example_input_array` one image of zeros."""
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        self.example_input_array = torch.zeros(1, in_chans, height, width)

    def forward(self, image: Tensor) -> Tensor:
        """``(batch, in_chans, height, width)`` normalised images to logits."""
        logits: Tensor = self.net(image)
        return logits

    def export_metadata(self, datamodule: pl.LightningDataModule) -> dict[str, Any]:
        """Classes, and how pixels in 0..1 become inputs: (pixel - mean) / std, per channel."""
        mean, std = cast(VisionDataModule[Any], datamodule).statistics
        named = {"class_names": self.class_names, "mean": list(mean), "std": list(std)}
        return {**super().export_metadata(datamodule), **named}
