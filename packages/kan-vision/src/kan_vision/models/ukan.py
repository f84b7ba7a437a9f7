"""U-KAN (arXiv 2406.02918): a U-Net whose low-resolution stages are KAN layers on tokens, with additive skips.

Three convolutional stages, two token stages at 1/16 and 1/32 of the resolution, and the mirrored decoder with two more
token stages. A KAN layer acts on each token alone; the depthwise convolution after it mixes neighbours. The same code
is the twins of comparisons: ``layer="linear"`` the U-Net with an MLP on the tokens, ``mixer="conv"`` the one in which
ordinary convolutions take the place of both.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any, Literal, get_args

import torch
from timm.layers.drop import DropPath
from torch import Tensor, nn
from torch.nn import functional as F

from kan_core import KANError, bases, layers
from kan_core.registry import parse_spec
from kan_vision.models._segmenter import Segmenter, register_segmenter

__all__ = ["UKAN"]

MixerKind = Literal["tokens", "conv"]
DEFAULT_LAYERS: dict[str, str] = {"tokens": "bspline(grid_size=5, order=3)", "conv": "linear"}
LAYERS_PER_BLOCK = 3


class DoubleConv(nn.Sequential):
    """Twice a 3 x 3 convolution, batch normalisation and ReLU: ``(B, a, H, W) -> (B, between, ...) -> (B, b, ...)``."""

    def __init__(self, a: int, between: int, b: int) -> None:
        super().__init__(
            *(
                module
                for n_in, n_out in ((a, between), (between, b))
                for module in (nn.Conv2d(n_in, n_out, 3, padding=1), nn.BatchNorm2d(n_out), nn.ReLU())
            )
        )


class PatchEmbed(nn.Module):
    """Half the resolution, as tokens: ``(B, a, H, W) -> (B, H/2, W/2, b)``; parameters 9ab + 3b."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(a, b, 3, stride=2, padding=1)
        self.norm = nn.LayerNorm(b)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, a, H, W) -> (B, H/2, W/2, b)``, halves rounded up."""
        tokens: Tensor = self.norm(_tokens(self.conv(x)))
        return tokens


class TokenLayer(nn.Module):
    """One layer on every token, then a convolution over neighbours, batch normalisation and ReLU.

    Args:
        on_tokens: ``(..., d) -> (..., d)``.
        conv: A 3 x 3 convolution of d channels that keeps the size.
        d: Channels.
    """

    def __init__(self, on_tokens: nn.Module, conv: nn.Module, d: int) -> None:
        super().__init__()
        self.on_tokens = on_tokens
        self.spatial = nn.Sequential(conv, nn.BatchNorm2d(d), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """``(B, H, W, d) -> (B, H, W, d)``."""
        return _tokens(self.spatial(_image(self.on_tokens(x))))


class TokenBlock(nn.Module):
    """x + DropPath(TokenLayers(LayerNorm(x))) on tokens ``(B, H, W, d)``; 30 d² + 38 d parameters with the defaults."""

    def __init__(self, d: int, make_layer: Callable[[int], TokenLayer], drop_path: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(d)
        self.layers = nn.Sequential(*(make_layer(d) for _ in range(LAYERS_PER_BLOCK)))
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """``(B, H, W, d) -> (B, H, W, d)``."""
        out: Tensor = x + self.drop_path(self.layers(self.norm(x)))
        return out


class TokenStage(nn.Module):
    """A block on tokens and a LayerNorm: ``(B, H, W, d)`` to the image ``(B, d, H, W)``."""

    def __init__(self, d: int, make_layer: Callable[[int], TokenLayer], drop_path: float) -> None:
        super().__init__()
        self.block = TokenBlock(d, make_layer, drop_path)
        self.norm = nn.LayerNorm(d)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, H, W, d) -> (B, d, H, W)``."""
        return _image(self.norm(self.block(x)))


class UKAN(Segmenter):
    r"""U-Net with tokenized KAN stages (arXiv 2406.02918).

    A token stage on x of shape (B, H, W, d) is LayerNorm(x + L₃(L₂(L₁(LayerNorm(x))))), where
    L(z) = ReLU(BN(DWConv₃ₓ₃(Φ(z)))) and Φ is a KAN layer on each token: y_o = Σ_i φ_{o,i}(z_i). A decoder stage is
    upsample₂(DoubleConv(x)) + skip: skips are added.

    With (e₀, e₁, e₂) = dims, the encoder has e₀/8, e₀/4, e₀ channels at 1/2, 1/4, 1/8 of the resolution and e₁, e₂ on
    tokens at 1/16, 1/32; the decoder mirrors it, and its last stage works on e₀/8 channels at full resolution.

    Args:
        in_chans: Channels of the images.
        num_classes: Channels of the logits: 1 for a binary mask, else one per class.
        dims: (e₀, e₁, e₂) at ``width=1``.
        layer: The kind of the layers in the token stages, see :func:`kan_core.layers.get`; None is
            ``"bspline(grid_size=5, order=3)"`` on tokens and ``"linear"`` for convolutions. On tokens, ``"linear"`` is
            the MLP twin: an ordinary linear layer with nothing else changed, so ReLU is its only activation.
        layer_kwargs: More arguments for these layers. Where `layer` is a basis they come on top of
            ``{"edge_scale": True, "bias": False}``, the form of the paper's layers.
        mixer: ``"tokens"``: a `layer` on each token, then a depthwise 3 x 3 convolution. ``"conv"``: one 3 x 3
            convolution of the kind `layer` in place of both; with ordinary convolutions it is the convolutional twin.
        width: Factor on all of `dims` (rounded), for parameter-matched twins: every stage's width follows from them.
        drop_path: Probability of leaving out a token block's residual branch for a sample in training.

    Raises:
        KANError: For dims that are not three positive numbers, another mixer, an unknown layer, or as
            :class:`Segmenter`.

    Shape:
        - Input: ``(batch, in_chans, height, width)``, any size (padded inside to a multiple of 32)
        - Output: ``(batch, num_classes, height, width)``, raw logits

    Note:
        Initialisation: KAN layers have kan_core's own (spline part near 0, base weights uniform in ±1/√d, as in the
        paper but for the edge scales, which start at 1). In the token stages and patch embeddings linear layers are
        truncated normal with standard deviation 0.02, convolutions normal with variance 2 / fan_out, biases 0.
        Elsewhere torch's defaults stay.

        The inputs of the second and third layer of a block are ReLU's, so the splines there that live below 0 are never
        used (2 of 8 on the default grid). They are kept for the published parameter counts;
        :meth:`kan_core.KANLinear.update_grid` moves a layer's grid to where its inputs are.

    Example:
        >>> UKAN(num_classes=4)(torch.zeros(2, 3, 250, 256)).shape
        torch.Size([2, 4, 250, 256])
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1,
        dims: tuple[int, int, int] = (128, 160, 256),
        layer: str | None = None,
        layer_kwargs: dict[str, Any] | None = None,
        mixer: MixerKind = "tokens",
        width: float = 1.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__(in_chans=in_chans, num_classes=num_classes, multiple=32)
        if len(dims) != 3 or min(dims) < 1:
            raise KANError(f"dims must be three positive widths, got {dims!r}")
        make_layer = _token_layer_factory(mixer, layer, layer_kwargs or {})
        e0, e1, e2 = (max(1, round(d * width)) for d in dims)
        narrow = [max(1, round(e0 / 8)), max(1, round(e0 / 4)), e0]
        self.encoder = nn.ModuleList(DoubleConv(a, b, b) for a, b in pairwise([in_chans, *narrow]))
        self.embed = nn.ModuleList(PatchEmbed(a, b) for a, b in pairwise([e0, e1, e2]))
        self.encoder_tokens = nn.ModuleList(TokenStage(d, make_layer, drop_path) for d in (e1, e2))
        up = [e2, e1, *reversed(narrow)]
        self.decoder = nn.ModuleList(DoubleConv(a, a, b) for a, b in pairwise([*up, up[-1]]))
        self.decoder_tokens = nn.ModuleList(TokenStage(d, make_layer, drop_path) for d in (e1, e0))
        self.head = nn.Conv2d(up[-1], num_classes, 1)
        for part in (self.embed, self.encoder_tokens, self.decoder_tokens):
            part.apply(_init)

    @staticmethod
    def twin_kwargs(model_kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments of the twin: the net with ordinary convolutions in place of the layers on tokens."""
        return {**model_kwargs, "mixer": "conv", "layer": None, "layer_kwargs": None}

    def forward_logits(self, x: Tensor) -> Tensor:
        """``(batch, in_chans, H, W) -> (batch, num_classes, H, W)`` for multiples of 32."""
        # Channels last throughout: tokens and images are then views of each other, and nothing is copied between them.
        x = x.contiguous(memory_format=torch.channels_last)
        skips = []
        for conv in self.encoder:
            x = F.max_pool2d(conv(x), 2)
            skips.append(x)
        for embed, stage in zip(self.embed, self.encoder_tokens, strict=True):
            x = stage(embed(x))
            skips.append(x)
        skips.pop()  # the bottleneck goes on as x
        for index, conv in enumerate(self.decoder):
            # The paper's ReLU after the upsampling would change nothing: the convolutions' own comes before it.
            x = F.interpolate(conv(x), scale_factor=2.0, mode="bilinear", align_corners=False)
            if skips:
                x = x + skips.pop()
            if index < len(self.decoder_tokens):
                x = self.decoder_tokens[index](_tokens(x))
        logits: Tensor = self.head(x)
        return logits


def _tokens(x: Tensor) -> Tensor:
    """``(B, d, H, W) -> (B, H, W, d)``: a view, contiguous when `x` is in the channels-last format."""
    return x.permute(0, 2, 3, 1)


def _image(tokens: Tensor) -> Tensor:
    """``(B, H, W, d) -> (B, d, H, W)``: a view, in the channels-last format."""
    return tokens.permute(0, 3, 1, 2)


def _token_layer_factory(mixer: str, layer: str | None, layer_kwargs: dict[str, Any]) -> Callable[[int], TokenLayer]:
    """From a width d to one layer of a token block, as `mixer` and `layer` say."""
    if mixer not in get_args(MixerKind):
        raise KANError(f"mixer must be one of {', '.join(get_args(MixerKind))}, got {mixer!r}")
    layer = layer or DEFAULT_LAYERS[mixer]
    if parse_spec(layer, kind="layer")[0] in bases.names():
        layer_kwargs = {"edge_scale": True, "bias": False, **layer_kwargs}
    make = layers.get(layer, conv=2 if mixer == "conv" else 0)

    def token_layer(d: int) -> TokenLayer:
        if mixer == "conv":
            return TokenLayer(nn.Identity(), make(d, d, kernel_size=3, padding=1, **layer_kwargs), d)
        return TokenLayer(make(d, d, **layer_kwargs), nn.Conv2d(d, d, 3, padding=1, groups=d), d)

    return token_layer


def _init(module: nn.Module) -> None:
    """The paper's initialisation of ordinary layers; KAN layers and norms have their own."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
    elif isinstance(module, nn.Conv2d):
        fan_out = module.weight[0, 0].numel() * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
    if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
        nn.init.zeros_(module.bias)


@register_segmenter("ukan_small")
def ukan_small(**kwargs: Any) -> UKAN:
    """U-KAN with dims (64, 96, 128): 1.85 M parameters."""
    return UKAN(**{"dims": (64, 96, 128), **kwargs})


@register_segmenter("ukan_base")
def ukan_base(**kwargs: Any) -> UKAN:
    """U-KAN with dims (128, 160, 256), the published default: 6.36 M parameters."""
    return UKAN(**{"dims": (128, 160, 256), **kwargs})


@register_segmenter("ukan_large")
def ukan_large(**kwargs: Any) -> UKAN:
    """U-KAN with dims (256, 320, 512): 25.4 M parameters."""
    return UKAN(**{"dims": (256, 320, 512), **kwargs})
