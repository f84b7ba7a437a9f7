"""Nets of Kolmogorov-Arnold convolutions: plain rows of 4 and 8 layers, VGG and ResNet (Drokin, arXiv 2407.01092).

Every layer is a :class:`~kan_vision.layers.ka_conv.KAConv`, or with ``bottleneck`` a
:class:`~kan_vision.layers.ka_conv.BottleneckKAConv`: the functions, one convolution, normalisation and activation. With
``layer="linear"`` the same code is the ordinary net (convolution, normalisation, SiLU), the twin of comparisons.
Published nets have one more pair of recurrence weights in every Gram layer, which never get a gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate, pairwise
from operator import mul
from typing import Any

import torch
from timm.layers.classifier import ClassifierHead
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn
from torch.nn import functional as F

from kan_core import KANError
from kan_core.registry import parse_spec
from kan_vision.layers.ka_conv import BottleneckKAConv, KAConv
from kan_vision.models._staged import StagedNet, build_net, net_cfg

__all__ = ["KAConvNet", "KAConvResNet", "KAConvVGG"]

_NO_ACTIVATION = ("chebyshev", "wavelet")

MakeLayer = Callable[..., nn.Module]
"""Makes a layer: ``make(in_channels, out_channels, kernel_size=3, stride=1, groups=1)``."""


class _KAConvStages(StagedNet):
    """What the nets of this family share: which parameters are not to be decayed."""

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """The shapes and places of the functions, by name (timm's contract)."""
        layers = [(name, m) for name, m in self.named_modules() if isinstance(m, KAConv | BottleneckKAConv)]
        return {f"{name}.{part}" for name, module in layers for part in module.no_weight_decay()}


class KAConvNet(_KAConvStages):
    r"""A row of KA-convolutions, global average pooling and a linear classifier ("Simple-4" and "Simple-8").

    Equation: h_l = L_l(h_{l−1}) with L_l a 3 x 3 KA-convolution of stride s_l; logits = W Dropout(mean(h_last)) + b

    Args:
        in_chans: Channels of the images.
        num_classes: Outputs; 0 leaves the pooled features.
        channels: Output channels of each layer at ``width=1``.
        strides: Stride of each layer.
        width: Factor on the channels, rounded to multiples of `groups`.
        layer: A kind of :class:`~kan_vision.layers.ka_conv.KAConv` with its options, such as ``"gram(degree=5)"``.
        layer_kwargs: More arguments for the layers, such as ``{"norm": "batch", "dropout": 0.25}``;
            instance normalisation unless they say otherwise, batch normalisation for "chebyshev" and "wavelet".
        groups: Groups of every layer but the first.
        bottleneck: None for full layers, or the bottleneck's reduction of the channels.
        drop_rate: Dropout before the classifier.
        global_pool: Pooling before the classifier, as in timm.
        img_size: Accepted for the same call as fixed-size models. An image must be larger than the product of the
            strides, for an instance norm of one pixel is a constant.

    Raises:
        KANError: For an unknown layer or arguments that it refuses, `strides` of another length than `channels`, or
            images that are too small.

    Shape:
        - Input: ``(batch, in_chans, height, width)``
        - Output: ``(batch, num_classes)``

    Reference: Drokin, arXiv 2407.01092. The second net's stride 2 at layers 2, 3 and 6 is that of the published code;
    its report says dilation 2.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        channels: tuple[int, ...] = (32, 64, 128, 256),
        strides: tuple[int, ...] = (1, 2, 2, 1),
        width: float = 1.0,
        layer: str = "gram",
        layer_kwargs: dict[str, Any] | None = None,
        groups: int = 1,
        bottleneck: float | None = None,
        drop_rate: float = 0.0,
        global_pool: str = "avg",
        img_size: int | tuple[int, int] | None = None,
    ) -> None:
        if len(strides) != len(channels):
            raise KANError(f"strides must be as many as channels, {len(channels)}, got {strides!r}")
        make = layer_maker(layer, layer_kwargs, bottleneck)
        widths = scaled(channels, width, groups)
        stages = [
            make(n_in, n_out, stride=stride, groups=groups if index else 1)
            for index, ((n_in, n_out), stride) in enumerate(zip(pairwise([in_chans, *widths]), strides, strict=True))
        ]
        super().__init__(
            stages,
            channels=widths,
            reductions=list(accumulate(strides, mul)),
            num_classes=num_classes,
            drop_rate=drop_rate,
            global_pool=global_pool,
            img_size=img_size,
            smallest=math.prod(strides) + 1,
        )


# Layers in each stage; the sixth stage of the wider plans repeats the fifth's, as the published 11-layer net does.
_VGG_DEPTHS = {11: (1, 1, 2, 2, 2, 2), 13: (2, 2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3, 3), 19: (2, 2, 4, 4, 4, 4)}
# Channels of each stage: of its last layer and, where that differs, of the layers before.
_VGG_STAGES = ((16, 16), (32, 32), (64, 64), (128, 128), (128, 128))
_VGG_PLANS = {
    "v1": _VGG_STAGES,
    "v2": (*_VGG_STAGES, (128, 128)),
    "v3": (*_VGG_STAGES, (128, 256)),
    "v4": (*_VGG_STAGES, (256, 256)),
}


class KAConvVGG(_KAConvStages):
    r"""VGG of KA-convolutions: stages of 3 x 3 layers with a halving max-pool between, average pool, linear classifier.

    At ``width=1`` the stages have 16, 32, 64, 128, 128 channels (plan v1: four pools) and a sixth one of 128 (v2),
    128 then 256 (v3) or 256 (v4: five pools): a quarter of the ordinary VGG's or less. The 11-layer net has 1, 1, 2, 2,
    2 and 2 layers in them; 13, 16 and 19 repeat layers as in the ordinary VGG, and in v3 only the last layer of the
    sixth stage has 256 channels. Odd sizes are halved upwards, so that images of any size pass all pools.

    Args:
        in_chans: Channels of the images.
        num_classes: Outputs; 0 leaves the pooled features.
        depth: 11, 13, 16 or 19.
        plan: The channels of the stages, ``"v1"`` to ``"v4"``.
        width: Factor on the channels, rounded to multiples of `groups`.
        layer: A kind of :class:`~kan_vision.layers.ka_conv.KAConv` with its options, such as ``"gram(degree=5)"``.
        layer_kwargs: More arguments for the layers; batch normalisation unless they say otherwise. An instance norm
            refuses, in training, images of at most 2^pools pixels: they leave it one pixel.
        groups: Groups of every layer but the first.
        bottleneck: None for full layers, or the bottleneck's reduction of the channels (8 in the published nets).
        pool_grid: The maps are averaged to this many cells along each side, which the classifier sees separately. 1 as
            in the ImageNet runs; the published code's own default is 7.
        drop_rate: Dropout before the classifier.
        global_pool: Pooling before the classifier, as in timm; of the cells of one map only with ``pool_grid=1``.
        img_size: Accepted for the same call as fixed-size models; any size works.

    Raises:
        KANError: For an unknown depth, plan or layer, or arguments that the layer refuses.

    Shape:
        - Input: ``(batch, in_chans, height, width)``
        - Output: ``(batch, num_classes)``

    Reference: Drokin, arXiv 2407.01092 (VGG-KAGN).
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        depth: int = 11,
        plan: str = "v4",
        width: float = 1.0,
        layer: str = "gram",
        layer_kwargs: dict[str, Any] | None = None,
        groups: int = 1,
        bottleneck: float | None = None,
        pool_grid: int = 1,
        drop_rate: float = 0.0,
        global_pool: str = "avg",
        img_size: int | tuple[int, int] | None = None,
    ) -> None:
        if depth not in _VGG_DEPTHS:
            raise KANError(f"depth must be one of {', '.join(map(str, _VGG_DEPTHS))}, got {depth!r}")
        if plan not in _VGG_PLANS:
            raise KANError(f"plan must be one of {', '.join(_VGG_PLANS)}, got {plan!r}")
        if pool_grid < 1:
            raise KANError(f"pool_grid must be at least 1, got {pool_grid!r}")
        make = layer_maker(layer, {"norm": "batch", **(layer_kwargs or {})}, bottleneck)
        widths = _VGG_PLANS[plan]
        stages: list[nn.Module] = []
        n_in = in_chans
        for index, ((before, last), layers) in enumerate(zip(widths, _VGG_DEPTHS[depth], strict=False)):
            parts: list[nn.Module] = [nn.MaxPool2d(2, ceil_mode=True)] if index else []
            for n_out in scaled([before] * (layers - 1) + [last], width, groups):
                parts.append(make(n_in, n_out, groups=groups if index or parts else 1))
                n_in = n_out
            stages.append(nn.Sequential(*parts))
        super().__init__(
            stages,
            channels=scaled([last for _, last in widths], width, groups),
            reductions=[2**index for index in range(len(widths))],
            num_classes=num_classes,
            drop_rate=drop_rate,
            global_pool=global_pool,
            img_size=img_size,
        )
        self.pool_grid = pool_grid
        if pool_grid > 1:
            self.head_hidden_size = self.num_features * pool_grid**2
            self.head = ClassifierHead(self.head_hidden_size, num_classes, pool_type=global_pool, drop_rate=drop_rate)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool and classify: ``-> (batch, num_classes)``; with `pre_logits` the pooled features."""
        if self.pool_grid > 1:
            x = F.adaptive_avg_pool2d(x, self.pool_grid).flatten(1)[:, :, None, None]
        return super().forward_head(x, pre_logits)


class KAConvResBlock(nn.Module):
    r"""y = L₂(L₁(x)) + S(x): two 3 x 3 KA-convolutions beside a shortcut; nothing acts on the sum.

    S is the identity, or where the shape changes a 1 x 1 KA-convolution with the block's stride. In that one the
    coefficients of a constant function (degree 0 of a polynomial kind) add a constant, which its norm takes out again.

    Args:
        make: Makes the layers.
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        stride: Stride of the first layer.
        groups: Groups of all layers.

    Shape:
        - Input: ``(batch, in_channels, height, width)``
        - Output: ``(batch, out_channels, ceil(height / stride), ceil(width / stride))``
    """

    def __init__(self, make: MakeLayer, in_channels: int, out_channels: int, stride: int, groups: int) -> None:
        super().__init__()
        self.conv1 = make(in_channels, out_channels, stride=stride, groups=groups)
        self.conv2 = make(out_channels, out_channels, groups=groups)
        same = stride == 1 and in_channels == out_channels
        self.shortcut = (
            nn.Identity() if same else make(in_channels, out_channels, kernel_size=1, stride=stride, groups=groups)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, in_channels, height, width)`` to the output."""
        out: Tensor = self.conv2(self.conv1(x)) + self.shortcut(x)
        return out


class KAConvResNet(_KAConvStages):
    """ResNet of KA-convolutions: a 3 x 3 stem, four stages of :class:`KAConvResBlock`, pooling, linear classifier.

    The reference does not state the channels. Here they are a quarter of the ordinary ResNet's, as those of its VGG
    are; ``width=4`` has the ordinary ones. There is no pooling in the stem: the nets were made for 32 and 64 pixels.

    Args:
        in_chans: Channels of the images.
        num_classes: Outputs; 0 leaves the pooled features.
        depths: Blocks in each stage.
        channels: Channels of each stage at ``width=1``; the stem has the first. Every stage but the first halves the
            resolution.
        width: Factor on the channels, rounded to multiples of `groups`.
        layer: A kind of :class:`~kan_vision.layers.ka_conv.KAConv` with its options, such as ``"legendre(degree=3)"``.
        layer_kwargs: More arguments for the layers, such as ``{"dropout": 0.05}``;
            instance normalisation unless they say otherwise, batch normalisation for "chebyshev" and "wavelet".
        groups: Groups of every layer but the stem.
        bottleneck: None for full layers, or the bottleneck's reduction of the channels.
        stem_stride: Stride of the stem: 1 for images up to 64 pixels, 4 for 224.
        drop_rate: Dropout before the classifier.
        global_pool: Pooling before the classifier, as in timm.
        img_size: Accepted for the same call as fixed-size models. An image must be larger than the product of the
            strides, for an instance norm of one pixel is a constant.

    Raises:
        KANError: For an unknown layer or arguments that it refuses, `depths` of another length than `channels`, or
            images that are too small.

    Shape:
        - Input: ``(batch, in_chans, height, width)``
        - Output: ``(batch, num_classes)``

    Reference: Drokin, arXiv 2407.01092 (ResKANet).
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        depths: tuple[int, ...] = (2, 2, 2, 2),
        channels: tuple[int, ...] = (16, 32, 64, 128),
        width: float = 1.0,
        layer: str = "gram",
        layer_kwargs: dict[str, Any] | None = None,
        groups: int = 1,
        bottleneck: float | None = None,
        stem_stride: int = 1,
        drop_rate: float = 0.0,
        global_pool: str = "avg",
        img_size: int | tuple[int, int] | None = None,
    ) -> None:
        if len(depths) != len(channels):
            raise KANError(f"depths must be as many as channels, {len(channels)}, got {depths!r}")
        make = layer_maker(layer, layer_kwargs, bottleneck)
        widths = scaled(channels, width, groups)
        stages = [make(in_chans, widths[0], stride=stem_stride)]
        n_in = widths[0]
        for index, (n_out, blocks) in enumerate(zip(widths, depths, strict=True)):
            strides = [2 if index else 1] + [1] * (blocks - 1)
            ends = pairwise([n_in] + [n_out] * blocks)
            pairs = zip(ends, strides, strict=True)
            stages.append(nn.Sequential(*(KAConvResBlock(make, *end, stride, groups) for end, stride in pairs)))
            n_in = n_out
        reductions = [stem_stride, *(stem_stride * 2**index for index in range(len(widths)))]
        super().__init__(
            stages,
            channels=[widths[0], *widths],
            reductions=reductions,
            num_classes=num_classes,
            drop_rate=drop_rate,
            global_pool=global_pool,
            img_size=img_size,
            smallest=reductions[-1] + 1,
        )


def layer_maker(layer: str, layer_kwargs: dict[str, Any] | None, bottleneck: float | None) -> MakeLayer:
    """A maker of the layers that the arguments `layer`, `layer_kwargs` and `bottleneck` of a net describe.

    Layers whose norm no activation follows get batch normalisation unless the arguments say otherwise: the mean of an
    instance-normalised map is its offset, so a pooling classifier behind one would see the same of every image.

    Raises:
        KANError: When `layer` cannot be read.
    """
    kind, options = parse_spec(layer, kind="layer")
    norm = "batch" if kind in _NO_ACTIVATION else "instance"
    arguments = {"kind": kind, "norm": norm, **options, **(layer_kwargs or {})}
    return (
        partial(KAConv, **arguments)
        if bottleneck is None
        else partial(BottleneckKAConv, reduction=bottleneck, **arguments)
    )


def scaled(channels: Sequence[int], width: float, groups: int) -> list[int]:
    """`channels` times `width`, each rounded to a multiple of `groups` and at least that."""
    return [groups * max(1, round(c * width / groups)) for c in channels]


_SMALL = {"input_size": (3, 28, 28), "pool_size": (7, 7)}
_LARGE = {"input_size": (3, 224, 224), "pool_size": (7, 7)}

default_cfgs = generate_default_cfgs(
    {
        "kaconv4_28": net_cfg(**_SMALL),
        "kaconv8_28": net_cfg(**{**_SMALL, "pool_size": (4, 4)}),
        **{f"kaconv_vgg{depth}": net_cfg(**_LARGE) for depth in _VGG_DEPTHS},
        "kaconv_resnet18": net_cfg(pool_size=(4, 4)),
        "kaconv_resnet34": net_cfg(pool_size=(4, 4)),
    }
)


@register_model
def kaconv4_28(pretrained: bool = False, **kwargs: Any) -> KAConvNet:
    """Four layers of 32 to 256 channels for images of about 28 pixels; 1.9 M parameters, 0.5 M with ``groups=4``."""
    return build_net(KAConvNet, "kaconv4_28", pretrained, **kwargs)


@register_model
def kaconv8_28(pretrained: bool = False, **kwargs: Any) -> KAConvNet:
    """Eight layers of 16 to 512 channels for images of about 28 pixels; 22.6 M parameters."""
    preset = {"channels": (16, 32, 64, 128, 256, 256, 512, 512), "strides": (1, 2, 2, 1, 1, 2, 1, 1)}
    return build_net(KAConvNet, "kaconv8_28", pretrained, **{**preset, **kwargs})


@register_model
def kaconv_vgg11(pretrained: bool = False, **kwargs: Any) -> KAConvVGG:
    """VGG-11 of KA-convolutions, plan v4."""
    return build_net(KAConvVGG, "kaconv_vgg11", pretrained, **kwargs)


@register_model
def kaconv_vgg13(pretrained: bool = False, **kwargs: Any) -> KAConvVGG:
    """VGG-13 of KA-convolutions, plan v4."""
    return build_net(KAConvVGG, "kaconv_vgg13", pretrained, **{"depth": 13, **kwargs})


@register_model
def kaconv_vgg16(pretrained: bool = False, **kwargs: Any) -> KAConvVGG:
    """VGG-16 of KA-convolutions, plan v4."""
    return build_net(KAConvVGG, "kaconv_vgg16", pretrained, **{"depth": 16, **kwargs})


@register_model
def kaconv_vgg19(pretrained: bool = False, **kwargs: Any) -> KAConvVGG:
    """VGG-19 of KA-convolutions, plan v4."""
    return build_net(KAConvVGG, "kaconv_vgg19", pretrained, **{"depth": 19, **kwargs})


@register_model
def kaconv_resnet18(pretrained: bool = False, **kwargs: Any) -> KAConvResNet:
    """Two blocks in each of the four stages."""
    return build_net(KAConvResNet, "kaconv_resnet18", pretrained, **kwargs)


@register_model
def kaconv_resnet34(pretrained: bool = False, **kwargs: Any) -> KAConvResNet:
    """Three, four, six and three blocks in the four stages."""
    return build_net(KAConvResNet, "kaconv_resnet34", pretrained, **{"depths": (3, 4, 6, 3), **kwargs})
