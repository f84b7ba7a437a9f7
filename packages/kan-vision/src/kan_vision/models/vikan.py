"""ViKAN: a vision transformer whose feed-forward part is a KAN.

Patches, class token and position, then pre-norm blocks of attention and two KAN layers, normalisation and a linear
classifier. It is timm's VisionTransformer with another `mlp_layer`, so everything that works on a ViT of timm works
here. With ``layer="linear"`` the same code is the ordinary ViT, which is the twin that comparisons use.

Paper: ViKANformer (arXiv 2503.01124). Its released code is another model: attention without feed-forward parts,
residuals or norms, KAN layers as patch embedding and as queries, keys and values, and a softmax before the
cross-entropy. This is the architecture that the paper describes.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import torch
from timm.layers.attention import Attention
from timm.models import generate_default_cfgs, register_model, vision_transformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from kan_core import KANError
from kan_vision.layers.feed_forward_hook import FeedForwardHook, LayerChoice, layer_pair
from kan_vision.layers.mimetic_attention import MimeticAttention
from kan_vision.layers.patch_embed import PaddedPatchEmbed
from kan_vision.models._staged import build_net, net_cfg

__all__ = ["ViKAN", "checkpoint_filter_fn"]

_ATTENTION = {"mimetic": MimeticAttention, "timm": Attention}
_POSITIONS = ("learn", "sincos", "none")
_COEFFICIENTS = (".activation.numerator", ".activation.denominator")


class ViKAN(VisionTransformer):
    r"""timm's VisionTransformer with two layers of any kind as the feed-forward part of every block.

    x ← x + DropPath(Attention(LN(x))); x ← x + DropPath(L₂(L₁(LN(x)))), with no activation between KAN layers: their
    edge functions are the nonlinearity.

    The inputs of L₁ have about unit variance, as a LayerNorm leaves them, and the hidden values less. The default, four
    Gaussians on [−2, 2], has fused kernels, still sees inputs out to ±3.5, of which there are 0.05 %, and starts as its
    base branch, ``Linear(SiLU(x))``. A grid on [−1, 1], the default of other libraries, would lose a third of them.

    Args:
        layer: A layer spec for both layers, see :func:`kan_core.layers.get`, or one for each.
        layer_kwargs: More arguments for both layers, such as ``{"norm": "layer"}`` for KAN layers.
        width: Factor on the hidden width of the feed-forward parts (rounded), for parameter- or FLOP-matched twins.
        pos_embed: "learn" adds a learned vector to every token. "sincos" adds a fixed one: the token at place j, the
            class token at 0, gets sin(j / 10000^(i/d)) at even i, and cos(j / 10000^((i−1)/d)) at odd i. "none" adds
            nothing.
        attn_init: "mimetic" lets attention start as that of a trained transformer, see
            :class:`~kan_vision.layers.mimetic_attention.MimeticAttention`, the twin's too. "timm" draws its matrices
            with a standard deviation of 0.02, which on MNIST took about twice as many steps to the same accuracy.
        attn_layer: Another attention than timm's, with an initialisation of its own.
        **kwargs: Those of timm's VisionTransformer: img_size, patch_size, in_chans, num_classes, global_pool ("token",
            "avg", ...), embed_dim, depth, num_heads, mlp_ratio, drop_rate, drop_path_rate, act_layer (of the twin),
            and so on. Images whose sides are no multiples of the patch are padded with zeros.

    Raises:
        KANError: For an unknown layer, position or initialisation, or a norm inside the feed-forward part.

    Shape:
        - Input: ``(batch, in_chans, height, width)``
        - Output: ``(batch, num_classes)``
    """

    def __init__(
        self,
        layer: LayerChoice = "rbf(num_centers=4)",
        layer_kwargs: dict[str, Any] | None = None,
        width: float = 1.0,
        pos_embed: str = "learn",
        attn_init: str = "mimetic",
        attn_layer: type[nn.Module] | None = None,
        **kwargs: Any,
    ) -> None:
        if attn_init not in _ATTENTION:
            raise KANError(f"attn_init must be one of {', '.join(_ATTENTION)}, got {attn_init!r}")
        if attn_layer is not None and attn_init != "mimetic":
            raise KANError(f"attn_init={attn_init!r} is of timm's attention, but attn_layer is {attn_layer.__name__}")
        if pos_embed not in _POSITIONS:
            raise KANError(f"pos_embed must be one of {', '.join(_POSITIONS)}, got {pos_embed!r}")
        hook: Any = partial(FeedForwardHook, layer=layer_pair(layer), layer_kwargs=layer_kwargs, width=width)
        super().__init__(
            pos_embed="none" if pos_embed == "sincos" else pos_embed,
            embed_layer=PaddedPatchEmbed,
            dynamic_img_pad=True,
            mlp_layer=hook,
            attn_layer=attn_layer or _ATTENTION[attn_init],
            **kwargs,
        )
        if pos_embed == "sincos":
            self._fix_positions()

    @property
    def has_fixed_positions(self) -> bool:
        """Whether the positions are the fixed table, a buffer."""
        return "pos_embed" in self._buffers

    def _fix_positions(self) -> None:
        """The table of "sincos", for the present image size."""
        places = self.patch_embed.num_patches + (0 if self.no_embed_class else self.num_prefix_tokens)
        del self.pos_embed
        self.register_buffer("pos_embed", sincos_table(places, self.embed_dim).to(self.patch_embed.proj.weight)[None])

    def init_weights(self, mode: str = "", needs_reset: bool = True) -> None:
        """Draw all weights anew: ordinary layers as timm does, KAN layers by their own rule."""
        super().init_weights(mode, needs_reset)
        if self.has_fixed_positions:
            self._fix_positions()

    def set_input_size(
        self, img_size: tuple[int, int] | None = None, patch_size: tuple[int, int] | None = None
    ) -> None:
        """Change the size of images or patches: learned positions are interpolated, fixed ones made anew."""
        fixed = self.has_fixed_positions
        super().set_input_size(img_size, patch_size)
        if fixed:
            self._fix_positions()

    def no_weight_decay(self) -> set[str]:
        """Positions and class token, and the coefficients of rational functions: decay would pull them to 0."""
        exempt = super().no_weight_decay()
        return {name for name, _ in self.named_parameters() if name in exempt or name.endswith(_COEFFICIENTS)}


def sincos_table(places: int, dim: int) -> Tensor:
    """Fixed positions in float64: ``(places, dim)``, sines at even and cosines at odd columns, see :class:`ViKAN`."""
    column = torch.arange(dim)
    even = column - column % 2
    angle = torch.arange(places, dtype=torch.float64)[:, None] / 10000 ** (even / dim)
    return torch.where(column % 2 == 0, angle.sin(), angle.cos())


def checkpoint_filter_fn(state_dict: dict[str, Any], model: ViKAN) -> dict[str, Tensor]:
    """A checkpoint of this family or of a ViT of timm, as the state of `model`.

    timm's own filter unwraps it and resizes positions and patches. The matrices ``mlp.fc1`` and ``mlp.fc2`` of a ViT
    become those of "gr-kan" or "linear" layers. Rational coefficients, which a ViT does not have, and fixed positions
    stay as they are in `model`.

    Args:
        state_dict: What the checkpoint holds.
        model: What is to take it.

    Raises:
        KANError: For a ViT's checkpoint when `model` has layers without such matrices.

    Example:
        >>> vit = timm.create_model("vit_tiny_patch16_224", pretrained=True)
        >>> kat = timm.create_model("kat_tiny_patch16_224", rational_init=("identity", "gelu"))
        >>> kat.load_state_dict(checkpoint_filter_fn(vit.state_dict(), kat))
    """
    own: dict[str, Tensor] = model.state_dict()
    kept = {key: value for key, value in own.items() if key.endswith(_COEFFICIENTS)}
    found = vision_transformer.checkpoint_filter_fn(state_dict, model)
    renamed = {_own_name(key, model): value for key, value in found.items()}
    if model.has_fixed_positions:
        renamed["pos_embed"] = own["pos_embed"]
    return {**kept, **renamed}


def _own_name(key: str, model: ViKAN) -> str:
    """Our name for a ViT's `key`."""
    parts = re.fullmatch(r"blocks\.(\d+)\.mlp\.(fc[12])\.(weight|bias)", key)
    if parts is None or int(parts[1]) >= len(model.blocks):
        return key
    linear = getattr(model.blocks[int(parts[1])].mlp, parts[2])
    name = next(name for name, module in model.named_modules() if module is linear)
    return f"{name}.{parts[3]}"


def _cfg(**kwargs: Any) -> dict[str, Any]:
    return net_cfg(**{"fixed_input_size": True, "first_conv": "patch_embed.proj", "classifier": "head", **kwargs})


default_cfgs = generate_default_cfgs(
    {
        "vikan_tiny_patch4_32": _cfg(),
        "vikan_small_patch4_32": _cfg(),
        "vikan_tiny_patch7_28": _cfg(input_size=(3, 28, 28)),
    }
)


def _create(variant: str, pretrained: bool, kwargs: dict[str, Any], **preset: Any) -> ViKAN:
    arguments = {"mlp_ratio": 1.0, **preset, **kwargs}
    return build_net(ViKAN, variant, pretrained, pretrained_filter_fn=checkpoint_filter_fn, **arguments)


@register_model
def vikan_tiny_patch4_32(pretrained: bool = False, **kwargs: Any) -> ViKAN:
    """Four blocks of width 64 with 4 heads, patches of 4 x 4.

    The hidden width is that of the tokens: with five planes of coefficients a layer, the feed-forward part is then a
    little larger than the MLP of hidden width 256 that is usual, and the model has 237,066 parameters for MNIST.
    """
    return _create("vikan_tiny_patch4_32", pretrained, kwargs, patch_size=4, embed_dim=64, depth=4, num_heads=4)


@register_model
def vikan_small_patch4_32(pretrained: bool = False, **kwargs: Any) -> ViKAN:
    """Six blocks of width 128 with 4 heads, patches of 4 x 4, hidden width 128."""
    return _create("vikan_small_patch4_32", pretrained, kwargs, patch_size=4, embed_dim=128, depth=6, num_heads=4)


@register_model
def vikan_tiny_patch7_28(pretrained: bool = False, **kwargs: Any) -> ViKAN:
    """As vikan_tiny_patch4_32 with patches of 7 x 7: 16 tokens for a 28 x 28 image, a third of the time."""
    return _create("vikan_tiny_patch7_28", pretrained, kwargs, patch_size=7, embed_dim=64, depth=4, num_heads=4)
