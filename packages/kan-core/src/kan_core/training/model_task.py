"""Tasks whose network is made by name: its optimiser, and the twin of the same architecture."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self, cast

import lightning.pytorch as pl
from torch import Tensor, nn

from kan_core.compare import count_flops, count_parameters, match_width
from kan_core.errors import KANError
from kan_core.training.task import Task


class ModelTask(Task):
    """A network chosen by name; a subclass saves its hyper-parameters, builds `net` and writes the steps.

    Its constructor takes at least ``model``, ``model_kwargs``, ``lr``, ``weight_decay`` and ``warmup_epochs``. Its
    networks take ``layer`` and ``width``, or say themselves in ``twin_kwargs(model_kwargs)`` which arguments make an
    ordinary network of them.

    Attributes:
        data_kind: The data modules whose batches the steps understand.
    """

    data_kind: ClassVar[type[Any]] = pl.LightningDataModule
    example_input_array: Tensor

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

    @property
    def named_net(self) -> nn.Module:
        """The network that was made by name: `net`, or what is inside it."""
        return self.net

    @property
    def model_name(self) -> str:
        """The model, and its kind of layer where that was chosen: ``kan_mlp_small[rbf]``."""
        layer = (self.hparams["model_kwargs"] or {}).get("layer")
        return f"{self.hparams['model']}[{layer}]" if layer else str(self.hparams["model"])

    def configure_optimizers(self) -> Any:
        """AdamW with warm-up and cosine."""
        return self.adamw(self.hparams["lr"], self.hparams["weight_decay"], self.hparams["warmup_epochs"])

    def make_twin(self, by: str) -> Self:
        """The same architecture with ordinary layers, as wide as it takes to have the same size.

        What ordinary means is the model's to say, in ``twin_kwargs``; by default it is ``layer="linear"``.
        """
        kwargs = dict(self.hparams["model_kwargs"] or {})
        ordinary = twin_kwargs(self.named_net, kwargs)
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
