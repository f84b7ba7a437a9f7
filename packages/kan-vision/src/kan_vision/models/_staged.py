"""timm's contract, written once for every net that is a row of stages and a classifier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from timm.layers.classifier import ClassifierHead
from timm.models import build_model_with_cfg
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kan_core import KANError

FINE_STAGES = r"^stages\.(\d+)"


class StagedNet(nn.Module):
    """Images through ``stages``, one after another, into ``head``; a subclass builds the stages.

    Args:
        stages: What runs in order; the first may be a stem.
        channels: Output channels of each stage.
        reductions: How many input pixels one output pixel of each stage stands for, along one side; non-decreasing.
        num_classes: Outputs; 0 leaves the pooled features.
        drop_rate: Dropout before the classifier.
        global_pool: Pooling before the classifier, as in timm ("avg", "max", "avgmax", "" for none).
        img_size: Size of the images that the model will see, to be refused here when it is too small; else None.
        smallest: Least height and width of the images.

    Raises:
        KANError: For images that are too small.

    Shape:
        - Input: ``(batch, in_chans, height, width)``
        - Output: ``(batch, num_classes)``
    """

    def __init__(
        self,
        stages: Sequence[nn.Module],
        *,
        channels: Sequence[int],
        reductions: Sequence[int],
        num_classes: int,
        drop_rate: float = 0.0,
        global_pool: str = "avg",
        img_size: int | tuple[int, int] | None = None,
        smallest: int = 1,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.drop_rate = drop_rate
        self.grad_checkpointing = False
        self.smallest = smallest
        self.stages = nn.ModuleList(stages)
        self.feature_info = [
            {"num_chs": n, "reduction": reduction, "module": f"stages.{index}"}
            for index, (n, reduction) in enumerate(zip(channels, reductions, strict=True))
        ]
        if img_size is not None:
            self._check_size((img_size, img_size) if isinstance(img_size, int) else tuple(img_size))
        self.num_features = self.head_hidden_size = channels[-1]
        self.head = ClassifierHead(self.num_features, num_classes, pool_type=global_pool, drop_rate=drop_rate)

    def _check_size(self, size: Sequence[int]) -> None:
        if min(size) < self.smallest:
            raise KANError(f"images must have at least {self.smallest} x {self.smallest} pixels, got {tuple(size)}")

    def get_classifier(self) -> nn.Module:
        """The last layer."""
        classifier: nn.Module = self.head.fc
        return classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new classifier for `num_classes`; 0 leaves the pooled features."""
        self.num_classes = num_classes
        self.head.reset(num_classes, global_pool)
        self.head.to(next(self.stages.parameters()))

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the stages in the backward pass instead of storing their feature maps."""
        self.grad_checkpointing = enable

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Parameter groups for layer-wise learning rates."""
        return {"stem": r"^stages\.0", "blocks": FINE_STAGES}

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Feature maps after the stages, and the last one (timm's contract).

        Args:
            x: Images, ``(batch, in_chans, height, width)``.
            indices: Which stages: a list, the last n for an int, or all for None.
            norm: Part of timm's contract; there is no norm after the last stage.
            stop_early: Stop after the last stage asked for.
            output_fmt: "NCHW", the only format.
            intermediates_only: Leave out the last map.
        """
        if output_fmt != "NCHW":
            raise KANError(f"output_fmt must be NCHW, got {output_fmt!r}")
        chosen = self._chosen(indices)
        maps = []
        for index, stage in enumerate(self.stages[: max(chosen) + 1] if stop_early else self.stages):
            x = self._run(stage, x)
            if index in chosen:
                maps.append(x)
        return maps if intermediates_only else (x, maps)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop the stages after the last one asked for; returns the stages' indices."""
        chosen = self._chosen(indices)
        self.stages = self.stages[: max(chosen) + 1]
        if prune_head:
            self.reset_classifier(0, "")
        return chosen

    def _chosen(self, indices: int | list[int] | None) -> list[int]:
        """Stage numbers: those of a list, the last n for an int, all for None."""
        numbers = list(range(len(self.stages)))
        if indices is None:
            return numbers
        return numbers[-indices:] if isinstance(indices, int) else [numbers[i] for i in indices]

    def _run(self, stage: nn.Module, x: Tensor) -> Tensor:
        if self.grad_checkpointing and torch.is_grad_enabled():
            out: Tensor = checkpoint(stage, x, use_reentrant=False)
            return out
        out = stage(x)
        return out

    def forward_features(self, x: Tensor) -> Tensor:
        """``(batch, in_chans, height, width) -> (batch, num_features, height / r, width / r)``."""
        self._check_size(x.shape[-2:])
        for stage in self.stages:
            x = self._run(stage, x)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool and classify: ``-> (batch, num_classes)``; with `pre_logits` the pooled features."""
        out: Tensor = self.head(x, pre_logits=pre_logits)
        return out

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, in_chans, height, width) -> (batch, num_classes)``."""
        return self.forward_head(self.forward_features(x))


def net_cfg(**kwargs: Any) -> dict[str, Any]:
    """A `pretrained_cfg` without weights: what timm's data configuration reads, for a convolutional net."""
    return {
        "url": "",
        "input_size": (3, 32, 32),
        "num_classes": 1000,
        "pool_size": None,
        "crop_pct": 1.0,
        "interpolation": "bicubic",
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "first_conv": None,  # a KAN convolution: timm must not adapt its weight to other channels
        "classifier": "head.fc",
        "license": "apache-2.0",
        **kwargs,
    }


Net = TypeVar("Net", bound=nn.Module)


def build_net(cls: type[Net], variant: str, pretrained: bool, **kwargs: Any) -> Net:
    """`timm.models.build_model_with_cfg` for nets whose feature maps come from ``forward_intermediates``."""
    feature_cfg = {"out_indices": 3, "feature_cls": "getter"}
    model: Net = build_model_with_cfg(cls, variant, pretrained, feature_cfg=feature_cfg, **kwargs)
    return model
