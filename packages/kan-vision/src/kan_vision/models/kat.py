"""KAT: the Kolmogorov-Arnold transformer, a ViT with group-rational KAN layers.

The feed-forward part of every block is two GR-KAN layers: a learned rational function per group of features, then a
matrix. It costs 912 parameters more than the ViT and starts from a trained ViT where one is at hand. Paper: KAT (arXiv
2409.10594). With ``layer="linear"`` the same code is the ordinary ViT, which is the twin that comparisons use.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import generate_default_cfgs, register_model

from kan_core import KANError, layers
from kan_core.registry import parse_spec
from kan_vision.layers.feed_forward_hook import LayerChoice
from kan_vision.models._staged import build_net, net_cfg
from kan_vision.models.vikan import ViKAN, checkpoint_filter_fn

__all__ = ["KAT", "checkpoint_filter_fn"]


class KAT(ViKAN):
    r"""x ← x + DropPath(Attention(LN(x))); x ← x + DropPath(W₂ F₂(W₁ F₁(LN(x)) + c₁) + c₂).

    F is a rational function per group of features, P/Q with P = Σ_{j≤5} a_j xʲ and Q = 1 + Σ_{1≤j≤4} |b_j| |x|ʲ: 8
    groups with a Q each and one P, 38 numbers. F₁ starts as the identity and F₂ as x · sigmoid(x). Dropout stands
    between F and W.

    W₁ and W₂ keep the variance of standard normal inputs at the start. The released code means to do so and then draws
    all matrices again with a standard deviation of 0.02; `mlp_init_std` repeats that.

    To start from a trained ViT, take ``rational_init=("identity", "gelu")`` and :func:`checkpoint_filter_fn`: the
    logits then are those of the ViT up to the error of the fit.

    Args:
        layer: "gr-kan", also with arguments, or any other spec of :func:`kan_core.layers.get`.
        layer_kwargs: More arguments for both layers, such as ``{"groups": 4}``.
        width: Factor on the hidden width of the feed-forward parts (rounded), for parameter- or FLOP-matched twins.
        rational_init: Initial F₁ and F₂, see :class:`kan_core.layers.Rational`. For "gr-kan", as is the next; `layer`
            and `layer_kwargs` may say otherwise with `init` and `std`.
        mlp_init_std: Standard deviation of W₁ and W₂ at the start: None keeps the variance, 0.02 is that of the
            released runs.
        **kwargs: Those of :class:`~kan_vision.models.vikan.ViKAN`, such as attn_init (its "mimetic" is the paper's),
            and of timm's VisionTransformer.

    Raises:
        KANError: For an unknown layer or initial function, and what ViKAN refuses.

    Shape:
        - Input: ``(batch, in_chans, height, width)``
        - Output: ``(batch, num_classes)``
    """

    def __init__(
        self,
        layer: str = "gr-kan",
        layer_kwargs: dict[str, Any] | None = None,
        width: float = 1.0,
        rational_init: Sequence[str] = ("identity", "swish"),
        mlp_init_std: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            layer=_initialised(layer, rational_init, mlp_init_std),
            layer_kwargs=layer_kwargs,
            width=width,
            **kwargs,
        )


def _initialised(layer: str, inits: Sequence[str], std: float | None) -> LayerChoice:
    """The two layers: for "gr-kan" with an initial function each, unless the spec has one."""
    name, arguments = parse_spec(layer, kind="layer")
    if name != "gr-kan":
        return layer
    if isinstance(inits, str) or len(inits) != 2:
        raise KANError(f"rational_init must be two names, of the first and the second function, got {inits!r}")
    return [partial(layers.get(layer), **{"init": init, "std": std, **arguments}) for init in inits]


default_cfgs = generate_default_cfgs(
    {
        f"kat_{size}_patch16_224": net_cfg(
            input_size=(3, 224, 224),
            fixed_input_size=True,
            crop_pct=0.875,
            mean=IMAGENET_DEFAULT_MEAN,
            std=IMAGENET_DEFAULT_STD,
            first_conv="patch_embed.proj",
            classifier="head",
        )
        for size in ("tiny", "small", "base")
    }
)


def _create(variant: str, pretrained: bool, kwargs: dict[str, Any], **preset: Any) -> KAT:
    arguments = {"patch_size": 16, "depth": 12, **preset, **kwargs}
    return build_net(KAT, variant, pretrained, pretrained_filter_fn=checkpoint_filter_fn, **arguments)


@register_model
def kat_tiny_patch16_224(pretrained: bool = False, **kwargs: Any) -> KAT:
    """KAT-T: 12 blocks of width 192 with 3 heads, 5,718,328 parameters; the paper trains with drop_path_rate 0.1."""
    return _create("kat_tiny_patch16_224", pretrained, kwargs, embed_dim=192, num_heads=3)


@register_model
def kat_small_patch16_224(pretrained: bool = False, **kwargs: Any) -> KAT:
    """KAT-S: 12 blocks of width 384 with 6 heads, 22,051,576 parameters; the paper trains with drop_path_rate 0.1."""
    return _create("kat_small_patch16_224", pretrained, kwargs, embed_dim=384, num_heads=6)


@register_model
def kat_base_patch16_224(pretrained: bool = False, **kwargs: Any) -> KAT:
    """KAT-B: 12 blocks of width 768 with 12 heads, 86,568,568 parameters; the paper trains with drop_path_rate 0.4."""
    return _create("kat_base_patch16_224", pretrained, kwargs, embed_dim=768, num_heads=12)
