"""KAN convolutional net: stages of one KAN convolution, batch normalisation and pooling, then a linear classifier.

Basis first, then an ordinary convolution (see :class:`kan_core.KANConv2d`). Batch normalisation after every
convolution keeps the next basis's inputs on its grid. With ``layer="linear"`` the same code is the ordinary
convolutional net (convolution, normalisation, activation), which is the twin that comparisons use.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from timm.layers.classifier import ClassifierHead
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kan_core import KANError, layers

__all__ = ["KANConvNet"]


class KANConvNet(nn.Module):
    """A small convolutional net of one kind of layer.

    Args:
        in_chans: Channels of the images.
        num_classes: Outputs; 0 leaves the pooled features.
        channels: Output channels of each stage at ``width=1``. Every stage but the last halves the resolution.
        width: Factor on the channels (rounded), for parameter- or FLOP-matched twins.
        layer: A layer spec, see :func:`kan_core.layers.get`.
        layer_kwargs: More arguments for the convolutions, such as ``{"base": None}`` for KAN layers.
        act: Activation before the convolutions of the linear twin, except the first.
        drop_rate: Dropout before the classifier.
        global_pool: Pooling before the classifier, as in timm ("avg", "max", "avgmax", "" for none).
        img_size: Accepted for the same call as fixed-size models; any size from 2^(stages − 1) pixels works.

    Raises:
        KANError: For an unknown layer or arguments that it refuses, or for images too small to be pooled.

    Shape:
        - Input: ``(batch, in_chans, height, width)``
        - Output: ``(batch, num_classes)``
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        channels: tuple[int, ...] = (16, 32, 64),
        width: float = 1.0,
        layer: str = "rbf(num_centers=4)",
        layer_kwargs: dict[str, Any] | None = None,
        act: str = "silu",
        drop_rate: float = 0.0,
        global_pool: str = "avg",
        img_size: int | tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        make_conv = layers.get(layer, conv=2)
        self.num_classes = num_classes
        self.drop_rate = drop_rate
        self.grad_checkpointing = False
        widths = [in_chans, *(max(1, round(c * width)) for c in channels)]
        self.stages = nn.ModuleList()
        self.feature_info = []
        for index, (n_in, n_out) in enumerate(pairwise(widths)):
            self.stages.append(
                nn.Sequential(
                    layers.activation_before(layer, act) if index else nn.Identity(),
                    make_conv(n_in, n_out, kernel_size=3, padding=1, bias=False, **(layer_kwargs or {})),
                    nn.BatchNorm2d(n_out),
                    nn.MaxPool2d(2) if index < len(channels) - 1 else nn.Identity(),
                )
            )
            reduction = 2 ** min(index + 1, len(channels) - 1)
            self.feature_info.append({"num_chs": n_out, "reduction": reduction, "module": f"stages.{index}"})
        self.smallest = 2 ** (len(channels) - 1)
        if img_size is not None:
            self._check_size((img_size, img_size) if isinstance(img_size, int) else tuple(img_size))
        self.num_features = self.head_hidden_size = widths[-1]
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
        return {"stem": r"^stages\.0", "blocks": r"^stages\.(\d+)"}

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
            norm: Accepted for timm's contract; every stage's map is normalised already.
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


def _cfg(**kwargs: Any) -> dict[str, Any]:
    return {
        "url": "",
        "input_size": (3, 32, 32),
        "num_classes": 1000,
        "pool_size": (8, 8),
        "crop_pct": 1.0,
        "interpolation": "bicubic",
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "first_conv": None,  # not an ordinary convolution: timm must not adapt its weight to other channels
        "classifier": "head.fc",
        "license": "apache-2.0",
        **kwargs,
    }


default_cfgs = generate_default_cfgs({"kan_conv_small": _cfg(), "kan_conv_base": _cfg(pool_size=(4, 4))})


def _create(variant: str, pretrained: bool, **kwargs: Any) -> KANConvNet:
    feature_cfg = {"out_indices": 3, "feature_cls": "getter"}
    model: KANConvNet = build_model_with_cfg(KANConvNet, variant, pretrained, feature_cfg=feature_cfg, **kwargs)
    return model


@register_model
def kan_conv_small(pretrained: bool = False, **kwargs: Any) -> KANConvNet:
    """Three stages of 16, 32 and 64 channels."""
    return _create("kan_conv_small", pretrained, **{"channels": (16, 32, 64), **kwargs})


@register_model
def kan_conv_base(pretrained: bool = False, **kwargs: Any) -> KANConvNet:
    """Four stages of 32, 64, 128 and 256 channels."""
    return _create("kan_conv_base", pretrained, **{"channels": (32, 64, 128, 256), **kwargs})
