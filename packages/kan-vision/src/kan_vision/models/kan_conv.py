"""KAN convolutional net: stages of one KAN convolution, batch normalisation and pooling, then a linear classifier.

Basis first, then an ordinary convolution (see :class:`kan_core.KANConv2d`). Batch normalisation after every
convolution keeps the next basis's inputs on its grid. With ``layer="linear"`` the same code is the ordinary
convolutional net (convolution, normalisation, activation), which is the twin that comparisons use.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from timm.models import generate_default_cfgs, register_model
from torch import nn

from kan_core import layers
from kan_vision.models._staged import StagedNet, build_net, net_cfg

__all__ = ["KANConvNet"]


class KANConvNet(StagedNet):
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
        make_conv = layers.get(layer, conv=2)
        widths = [in_chans, *(max(1, round(c * width)) for c in channels)]
        last = len(channels) - 1
        stages = [
            nn.Sequential(
                layers.activation_before(layer, act) if index else nn.Identity(),
                make_conv(n_in, n_out, kernel_size=3, padding=1, bias=False, **(layer_kwargs or {})),
                nn.BatchNorm2d(n_out),
                nn.MaxPool2d(2) if index < last else nn.Identity(),
            )
            for index, (n_in, n_out) in enumerate(pairwise(widths))
        ]
        super().__init__(
            stages,
            channels=widths[1:],
            reductions=[2 ** min(index + 1, last) for index in range(len(stages))],
            num_classes=num_classes,
            drop_rate=drop_rate,
            global_pool=global_pool,
            img_size=img_size,
            smallest=2**last,
        )


default_cfgs = generate_default_cfgs(
    {"kan_conv_small": net_cfg(pool_size=(8, 8)), "kan_conv_base": net_cfg(pool_size=(4, 4))}
)


@register_model
def kan_conv_small(pretrained: bool = False, **kwargs: Any) -> KANConvNet:
    """Three stages of 16, 32 and 64 channels."""
    return build_net(KANConvNet, "kan_conv_small", pretrained, **{"channels": (16, 32, 64), **kwargs})


@register_model
def kan_conv_base(pretrained: bool = False, **kwargs: Any) -> KANConvNet:
    """Four stages of 32, 64, 128 and 256 channels."""
    return build_net(KANConvNet, "kan_conv_base", pretrained, **{"channels": (32, 64, 128, 256), **kwargs})
