"""KAN MLP: fully connected KAN layers on the pixels, the plain KAN of the MNIST tables.

Input pixels, flattened → hidden layers of the given kind → classifier of the same kind. With ``layer="linear"`` the
same code is the ordinary MLP (linear, activation, linear), which is the twin that comparisons use.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from kan_core import KANError, layers

__all__ = ["KANMLP"]


class KANMLP(nn.Module):
    """A stack of fully connected layers on flattened pixels.

    Args:
        img_size: Height and width of the images, one number or two; the size is fixed.
        in_chans: Channels of the images.
        num_classes: Outputs; 0 leaves the features.
        hidden: Hidden widths at ``width=1``.
        width: Factor on the hidden widths (rounded), for parameter- or FLOP-matched twins.
        layer: A layer spec, see :func:`kan_core.layers.get`. The default suits normalised pixels; on the few digits of
            scikit-learn it validated better than finer or cubic grids.
        layer_kwargs: More arguments for the layers, such as ``{"norm": "layer"}`` for KAN layers.
        act: Activation before the layers of the linear twin.
        drop_rate: Dropout before the classifier.
        global_pool: Accepted values are ``""`` and None: there is nothing to pool.

    Raises:
        KANError: For an unknown layer, arguments that it refuses, or images of another size.

    Shape:
        - Input: ``(batch, in_chans, height, width)``
        - Output: ``(batch, num_classes)``
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 28,
        in_chans: int = 3,
        num_classes: int = 1000,
        hidden: tuple[int, ...] = (64,),
        width: float = 1.0,
        layer: str = "bspline(grid_size=3, order=2, grid_range=(-2, 2))",
        layer_kwargs: dict[str, Any] | None = None,
        act: str = "silu",
        drop_rate: float = 0.0,
        global_pool: str | None = None,
    ) -> None:
        super().__init__()
        if global_pool:
            raise KANError(f"global_pool must be empty, there is nothing to pool in a KANMLP, got {global_pool!r}")
        size = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
        self.input_size = (in_chans, *size)
        self.num_classes = num_classes
        self.drop_rate = drop_rate
        self.grad_checkpointing = False
        self._make_layer: Callable[..., nn.Module] = layers.get(layer)
        self._layer_kwargs = dict(layer_kwargs or {})
        self._layer, self._act = layer, act
        widths = [in_chans * size[0] * size[1], *(max(1, round(h * width)) for h in hidden)]
        self.blocks = nn.ModuleList()
        for index, (n_in, n_out) in enumerate(pairwise(widths)):
            block = self._make_layer(n_in, n_out, **self._layer_kwargs)
            before = layers.activation_before(layer, act) if index else nn.Identity()
            self.blocks.append(nn.Sequential(before, block))
        self.num_features = self.head_hidden_size = widths[-1]
        self.feature_info = [
            {"num_chs": n, "reduction": 1, "module": f"blocks.{index}"} for index, n in enumerate(widths[1:])
        ]
        self.before_head = layers.activation_before(layer, act)
        self.head = self._make_head(num_classes)

    def _make_head(self, num_classes: int) -> nn.Module:
        return self._make_layer(self.num_features, num_classes, **self._layer_kwargs) if num_classes else nn.Identity()

    def get_classifier(self) -> nn.Module:
        """The last layer."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new classifier for `num_classes`; 0 leaves the features."""
        self.num_classes = num_classes
        self.head = self._make_head(num_classes).to(next(self.parameters()))

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the hidden layers in the backward pass instead of storing them."""
        self.grad_checkpointing = enable

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Parameter groups for layer-wise learning rates."""
        return {"stem": r"^blocks\.0", "blocks": r"^blocks\.(\d+)"}

    def forward_features(self, x: Tensor) -> Tensor:
        """``(batch, in_chans, height, width) -> (batch, num_features)``."""
        if x.shape[1:] != self.input_size:
            raise KANError(f"expected images of shape {self.input_size}, got {tuple(x.shape[1:])}")
        x = x.flatten(1)
        for block in self.blocks:
            recompute = self.grad_checkpointing and torch.is_grad_enabled()
            x = checkpoint(block, x, use_reentrant=False) if recompute else block(x)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """``(batch, num_features) -> (batch, num_classes)``; with `pre_logits` the features, after dropout."""
        x = F.dropout(x, self.drop_rate, self.training)
        if pre_logits or self.num_classes == 0:
            return x
        logits: Tensor = self.head(self.before_head(x))
        return logits

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, in_chans, height, width) -> (batch, num_classes)``."""
        return self.forward_head(self.forward_features(x))


def _cfg(**kwargs: Any) -> dict[str, Any]:
    return {
        "url": "",
        "input_size": (3, 28, 28),
        "fixed_input_size": True,
        "num_classes": 1000,
        "pool_size": None,
        "crop_pct": 1.0,
        "interpolation": "bicubic",
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "first_conv": None,
        "classifier": "head",
        "license": "apache-2.0",
        **kwargs,
    }


default_cfgs = generate_default_cfgs({"kan_mlp_small": _cfg(), "kan_mlp_base": _cfg()})


def _create(variant: str, pretrained: bool, **kwargs: Any) -> KANMLP:
    if kwargs.pop("features_only", False):
        raise RuntimeError("features_only is not available for KANMLP: it has no feature maps")
    model: KANMLP = build_model_with_cfg(KANMLP, variant, pretrained, **kwargs)
    return model


@register_model
def kan_mlp_small(pretrained: bool = False, **kwargs: Any) -> KANMLP:
    """One hidden layer of 64."""
    return _create("kan_mlp_small", pretrained, **{"hidden": (64,), **kwargs})


@register_model
def kan_mlp_base(pretrained: bool = False, **kwargs: Any) -> KANMLP:
    """Two hidden layers of 256."""
    return _create("kan_mlp_base", pretrained, **{"hidden": (256, 256), **kwargs})
