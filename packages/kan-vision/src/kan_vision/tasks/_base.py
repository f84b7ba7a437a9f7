"""What the tasks of this package share: their model's name, optimiser, matched twin and export."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self, cast

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from kan_core.compare import count_flops, count_parameters, match_width
from kan_core.errors import KANError
from kan_core.training import Task
from kan_vision.data.base import VisionDataModule


class VisionTask(Task):
    """A network on images; a subclass saves its hyper-parameters, builds `net` and writes the steps.

    Its constructor takes at least ``model``, ``model_kwargs``, ``in_chans``, ``img_size``, ``lr``, ``weight_decay`` and
    ``warmup_epochs``.

    Attributes:
        data_kind: The data modules whose batches the steps understand.
    """

    class_names: list[str]
    data_kind: ClassVar[type[Any]] = VisionDataModule

    def setup(self, stage: str) -> None:
        """Refuse data of another kind than this task's.

        Raises:
            KANError: When the datamodule yields other batches.
        """
        data = getattr(self.trainer, "datamodule", None)
        if data is not None and not isinstance(data, self.data_kind):
            raise KANError(
                f"--data {type(data).__name__}: {type(self).__name__} needs a {self.data_kind.__name__}; "
                "choose data and --model that belong together"
            )

    def set_example(self, in_chans: int, img_size: int | tuple[int, int]) -> None:
        """Make `example_input_array` one image of zeros."""
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        self.example_input_array: Tensor = torch.zeros(1, in_chans, height, width)

    @property
    def model_name(self) -> str:
        """The model, and its kind of layer where that was chosen: ``kan_mlp_small[rbf]``."""
        layer = (self.hparams["model_kwargs"] or {}).get("layer")
        return f"{self.hparams['model']}[{layer}]" if layer else str(self.hparams["model"])

    def forward(self, image: Tensor) -> Tensor:
        """``(batch, in_chans, height, width)`` normalised images to logits."""
        logits: Tensor = self.net(image)
        return logits

    def configure_optimizers(self) -> Any:
        """AdamW with warm-up and cosine."""
        return self.adamw(self.hparams["lr"], self.hparams["weight_decay"], self.hparams["warmup_epochs"])

    def make_twin(self, by: str) -> Self:
        """The same architecture with ordinary layers, as wide as it takes to have the same size.

        What ordinary means is the model's to say, in ``twin_kwargs``; by default it is ``layer="linear"``.
        """
        kwargs = dict(self.hparams["model_kwargs"] or {})
        ordinary = twin_kwargs(self.net, kwargs)
        if _given(ordinary) == _given(kwargs):
            raise KANError(f"--twin {by}: this model has ordinary layers already; use --twin none")
        size = count_flops(self.net, self.example_input_array) if by == "flops" else count_parameters(self.net)
        match = match_width(
            lambda width: self._with_model_kwargs({**ordinary, "width": width}).net,
            size,
            by=cast(Literal["params", "flops"], by),
            sample=self.example_input_array,
        )
        return self._with_model_kwargs({**ordinary, "width": match.width})

    def _with_model_kwargs(self, model_kwargs: dict[str, Any]) -> Self:
        """A new task that differs from this one in its model's arguments only."""
        return type(self)(**{**self.hparams, "model_kwargs": model_kwargs})

    def export_metadata(self, datamodule: pl.LightningDataModule) -> dict[str, Any]:
        """Classes, and how pixels in 0..1 become inputs: (pixel - mean) / std, per channel."""
        mean, std = cast(VisionDataModule[Any], datamodule).statistics
        named = {"class_names": self.class_names, "mean": list(mean), "std": list(std)}
        return {**super().export_metadata(datamodule), **named}


def twin_kwargs(net: nn.Module, model_kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments that make an ordinary network of `net`'s architecture: `model_kwargs` themselves if they do."""
    own = getattr(net, "twin_kwargs", None)
    if own:
        return dict(own(model_kwargs))
    ordinary = {key: value for key, value in model_kwargs.items() if key != "layer_kwargs"}
    return model_kwargs if ordinary.get("layer") == "linear" else {**ordinary, "layer": "linear"}


def _given(model_kwargs: dict[str, Any]) -> dict[str, Any]:
    """Without the arguments that are None, which is as if they were not there."""
    return {key: value for key, value in model_kwargs.items() if value is not None}
