"""KArAt: a ViT whose softmax is a learned map of the attention scores, in Fourier series (arXiv 2503.10632).

A :class:`~kan_vision.models.vikan.ViKAN` with another `attn_layer`. With ``attention="softmax"`` the same code has
ordinary attention, which is the twin that comparisons use.
"""

from __future__ import annotations

from math import prod
from typing import Any

from timm.layers.attention import Attention
from timm.layers.helpers import to_2tuple
from timm.models import generate_default_cfgs, register_model
from torch import nn

from kan_core import KANError
from kan_vision.layers.feed_forward_hook import LayerChoice
from kan_vision.layers.fourier_attention import FourierAttentionMap, KArAtAttention
from kan_vision.models._staged import build_net, net_cfg
from kan_vision.models.vikan import ViKAN, checkpoint_filter_fn

__all__ = ["KArAt"]

ATTENTIONS = ("fourier", "softmax")
MODES = ("blockwise", "universal")
OF_FOURIER = ("mode", "harmonics", "rank", "base", "projection")


class KArAt(ViKAN):
    r"""A ViT with learned attention: z ← z + W_O [σ̂(QKᵀ/√d_h) V], then z ← z + FFN(z), each of a LayerNorm of z.

    σ̂(a) = W Φ̂(a) for each row a of scores, Φ̂(a)_p = Σ_q φ_pq(a_q), with φ a Fourier series of G harmonics and W of
    rank r: (2G + 1) N r parameters per map, see :class:`~kan_vision.layers.fourier_attention.FourierAttentionMap`.

    The functions belong to the N tokens of one patch grid. So the image size is fixed when the model is made, N comes
    from its own grid and class token, and weights do not carry over to another N. The backward pass computes the scores
    again, so training keeps no more of the attention than with fused softmax.

    Args:
        img_size: Height and width of the images, one number or two; padded with zeros to multiples of the patch.
        patch_size: Side of the patches.
        num_heads: Heads of the attention.
        attention: ``"fourier"``, or ``"softmax"`` for ordinary attention; the next five are for ``"fourier"`` alone.
        mode: ``"blockwise"``: a map for every head of every block; ``"universal"``: the blocks share one map per head.
        harmonics: G. The paper has 3 for Tiny and Small, 1 for Base; many are unstable in large models.
        rank: r. In the paper 2 to 4 lose 2 points at most.
        base: b(x) in every φ: None for 0, or ``"identity"``, ``"silu"``, ``"gelu"``.
        projection: ``"simplex"`` projects the rows of the map, which costs 35 points in the paper; else ``"none"``.
        layer: Layers of the feed-forward part, as in :class:`~kan_vision.models.vikan.ViKAN`, like the next two.
        layer_kwargs: More arguments for those layers.
        width: Factor on the hidden width of the feed-forward part (rounded), for parameter- or FLOP-matched twins.
        **kwargs: Those of ViKAN and timm's VisionTransformer: in_chans, num_classes, global_pool, embed_dim, depth,
            drop_rate, drop_path_rate, qk_norm, and so on.

    Weight decay spares what it spares in a ViT: position, class token, norms and biases. The maps' parameters are
    decayed: nothing else bounds them, and the paper's recipe treats them as all others. With layer-wise learning rates
    a universal map gets the highest, that of the classifier.

    Raises:
        KANError: For an unknown option, or one that changes the number of tokens while the model runs.

    Shape:
        - Input: ``(batch, in_chans, height, width)``
        - Output: ``(batch, num_classes)``
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int | tuple[int, int] = 16,
        *,
        num_heads: int = 12,
        attention: str = "fourier",
        mode: str = "blockwise",
        harmonics: int = 3,
        rank: int = 12,
        base: str | None = None,
        projection: str = "none",
        layer: LayerChoice = "linear",
        layer_kwargs: dict[str, Any] | None = None,
        width: float = 1.0,
        **kwargs: Any,
    ) -> None:
        for name, value, allowed in (("attention", attention, ATTENTIONS), ("mode", mode, MODES)):
            if value not in allowed:
                raise KANError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
        attn_layer: type[nn.Module] = Attention
        shared = None
        if attention == "fourier":
            _refuse_changing_tokens(kwargs)
            operator: dict[str, Any] = {
                "tokens": _patches(img_size, patch_size) + _prefix_tokens(kwargs),
                "rank": rank,
                "harmonics": harmonics,
                "base": base,
                "projection": projection,
            }
            if mode == "universal":
                place: dict[str, Any] = {key: kwargs.get(key) for key in ("device", "dtype")}
                shared = FourierAttentionMap(num_heads, **operator, **place)
            attn_layer = KArAtAttention.with_options(**({"shared": shared} if shared else operator))
        super().__init__(
            img_size=img_size,
            patch_size=patch_size,
            num_heads=num_heads,
            attn_layer=attn_layer,
            layer=layer,
            layer_kwargs=layer_kwargs,
            width=width,
            **kwargs,
        )
        self.attention = attention
        if shared is not None:
            self.attention_map = shared

    @staticmethod
    def twin_kwargs(model_kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments of the twin: the same ViT with softmax."""
        return {**{k: v for k, v in model_kwargs.items() if k not in OF_FOURIER}, "attention": "softmax"}

    def set_input_size(
        self, img_size: tuple[int, int] | None = None, patch_size: tuple[int, int] | None = None
    ) -> None:
        """Change the size of images or patches; with learned maps, to one of as many patches.

        Raises:
            KANError: When the learned maps would not fit.
        """
        before = self.patch_embed
        patches = _patches(img_size or before.img_size, patch_size or before.patch_size)
        if self.attention == "fourier" and patches != before.num_patches:
            raise KANError(f"the learned attention maps are made for {before.num_patches} patches, got {patches}")
        super().set_input_size(img_size, patch_size)


def _patches(img_size: int | tuple[int, int], patch_size: int | tuple[int, int]) -> int:
    sides = zip(to_2tuple(img_size), to_2tuple(patch_size), strict=True)
    return prod(-(-side // patch) for side, patch in sides)


def _prefix_tokens(kwargs: dict[str, Any]) -> int:
    """The class token and register tokens."""
    return int(kwargs.get("class_token", True)) + int(kwargs.get("reg_tokens", 0))


def _refuse_changing_tokens(kwargs: dict[str, Any]) -> None:
    for name in ("dynamic_img_size", "patch_drop_rate"):
        if kwargs.get(name):
            raise KANError(
                f"{name} must stay off, got {kwargs[name]!r}: learned attention has a fixed number of tokens"
            )


def _cfg(**kwargs: Any) -> dict[str, Any]:
    return net_cfg(
        **{"fixed_input_size": True, "first_conv": "patch_embed.proj", "classifier": "head", "crop_pct": 0.9, **kwargs}
    )


default_cfgs = generate_default_cfgs(
    {
        "karat_tiny_patch16_224": _cfg(input_size=(3, 224, 224)),
        "karat_small_patch16_224": _cfg(input_size=(3, 224, 224)),
        "karat_base_patch16_224": _cfg(input_size=(3, 224, 224)),
        "karat_tiny_patch4_32": _cfg(input_size=(3, 32, 32), crop_pct=1.0),
    }
)


def _create(variant: str, pretrained: bool, **kwargs: Any) -> KArAt:
    return build_net(KArAt, variant, pretrained, pretrained_filter_fn=checkpoint_filter_fn, **kwargs)


@register_model
def karat_tiny_patch16_224(pretrained: bool = False, **kwargs: Any) -> KArAt:
    """ViT-Tiny (width 192, 3 heads, 12 blocks) with three harmonics."""
    preset = {"patch_size": 16, "embed_dim": 192, "depth": 12, "num_heads": 3, "harmonics": 3}
    return _create("karat_tiny_patch16_224", pretrained, **{**preset, **kwargs})


@register_model
def karat_small_patch16_224(pretrained: bool = False, **kwargs: Any) -> KArAt:
    """ViT-Small (width 384, 6 heads, 12 blocks) with three harmonics."""
    preset = {"patch_size": 16, "embed_dim": 384, "depth": 12, "num_heads": 6, "harmonics": 3}
    return _create("karat_small_patch16_224", pretrained, **{**preset, **kwargs})


@register_model
def karat_base_patch16_224(pretrained: bool = False, **kwargs: Any) -> KArAt:
    """ViT-Base (width 768, 12 heads, 12 blocks) with one harmonic, for more hurt."""
    preset = {"patch_size": 16, "embed_dim": 768, "depth": 12, "num_heads": 12, "harmonics": 1}
    return _create("karat_base_patch16_224", pretrained, **{**preset, **kwargs})


@register_model
def karat_tiny_patch4_32(pretrained: bool = False, **kwargs: Any) -> KArAt:
    """For images of 32 px as they are: width and heads of Tiny, four blocks, three harmonics.

    Our preset: the paper enlarges small images to 224 px. Twelve blocks would be too slow on a CPU for what they bring
    on such images.
    """
    preset = {"img_size": 32, "patch_size": 4, "embed_dim": 192, "depth": 4, "num_heads": 3, "harmonics": 3}
    return _create("karat_tiny_patch4_32", pretrained, **{**preset, **kwargs})
