"""Attention whose softmax is replaced by learned Fourier series of the scores (Fourier-KArAt, arXiv 2503.10632)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kan_core.errors import KANError
from kan_core.layers._common import ACTIVATION_FLOPS
from kan_vision.layers._fourier_features import BASES, features_of_scores, fourier_features, full_precision

__all__ = ["FourierAttentionMap", "KArAtAttention", "attention_maps", "project_to_simplex"]

PROJECTIONS = ("none", "simplex")


class FourierAttentionMap(nn.Module):
    r"""σ̂(a) = W Φ̂(a) for a row a of attention scores: what stands in the place of softmax, for all heads.

    Φ̂(a)_p = Σ_q φ_pq(a_q), p = 1 … r, with φ_pq(x) = b(x) + Σ_{m ≤ G} [a_pqm cos(mx) + b_pqm sin(mx)]. Every head has
    its own Φ̂ and W, the same for all queries. Rows need not sum to 1 and may be negative. The map has rank r at most.

    The functions belong to the positions of the keys, so the number of tokens is fixed, and permuting keys does not
    commute with the map. Everything is computed in at least float32, under autocast too.

    Args:
        heads: Attention heads h.
        tokens: Tokens N, the class token included.
        rank: r.
        harmonics: G.
        base: b: None for 0, or ``"identity"``, ``"silu"``, ``"gelu"``. It has no parameters.
        projection: ``"simplex"`` projects every row of the map onto the probability simplex; ``"none"`` is better by
            far in the paper.
        device: Where the parameters live.
        dtype: Type of the parameters.

    Attributes:
        coefficients: ``(h, r, N, 2G)``; the last dimension has a_1 … a_G, then b_1 … b_G.
        weight: W, ``(h, N, r)``.

    The (2G + 1) N r parameters per head are those of the equations; the paper reports (2G + 3) N r without saying what
    the others are. No names are exempt from weight decay: nothing else bounds a row of this map, and the paper's recipe
    treats its parameters as all others.

    Raises:
        KANError: For sizes below 1, or another base or projection.

    Shape:
        - Input: scores ``(batch, h, queries, N)``
        - Output: the same
    """

    def __init__(
        self,
        heads: int,
        tokens: int,
        rank: int = 12,
        harmonics: int = 3,
        base: str | None = None,
        projection: str = "none",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        for name, size in {"heads": heads, "tokens": tokens, "rank": rank, "harmonics": harmonics}.items():
            if size < 1:
                raise KANError(f"{name} must be at least 1, got {size}")
        if base is not None and base not in BASES:
            raise KANError(f"base must be None or one of {', '.join(BASES)}, got {base!r}")
        if projection not in PROJECTIONS:
            raise KANError(f"projection must be one of {', '.join(PROJECTIONS)}, got {projection!r}")
        self.heads, self.tokens, self.rank, self.harmonics = heads, tokens, rank, harmonics
        self.base, self.projection = base, projection
        self.coefficients = nn.Parameter(torch.empty(heads, rank, tokens, 2 * harmonics, device=device, dtype=dtype))
        self.weight = nn.Parameter(torch.empty(heads, tokens, rank, device=device, dtype=dtype))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """a, b ~ N(0, 1) as in the paper, and W ~ N(0, 1/(r N G)), our choice: the map's entries have unit variance."""
        self.coefficients.normal_()
        self.weight.normal_(0.0, 1 / math.sqrt(self.rank * self.tokens * self.harmonics))

    def extra_repr(self) -> str:
        """The arguments, for ``repr``."""
        return (
            f"heads={self.heads}, tokens={self.tokens}, rank={self.rank}, harmonics={self.harmonics}, "
            f"base={self.base!r}, projection={self.projection!r}"
        )

    def forward(self, scores: Tensor, keep: Tensor | None = None) -> Tensor:
        """The map of given scores, by the definition: autograd keeps every harmonic. To train, use :meth:`attend`.

        Args:
            scores: ``(batch, h, queries, N)``.
            keep: Boolean, of that shape by broadcasting. Where it is False the score is taken as 0 and the map is 0.
        """
        planes = self._planes(scores)
        scores = scores.to(planes.dtype)
        with full_precision(scores.device.type):
            kept = scores if keep is None else scores.masked_fill(~keep, 0)
            return self._map(features_of_scores(kept, planes, self.base), keep)

    def map(self, q: Tensor, k: Tensor, keep: Tensor | None = None, scale: float = 1.0) -> Tensor:
        """The map of the scores ``scale · q kᵀ``, ``(batch, h, queries, N)``; arguments as in :meth:`attend`."""
        features = fourier_features(q, k, self._planes(q), keep=keep, base=self.base, scale=scale)
        with full_precision(q.device.type):
            return self._map(features, keep)

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        keep: Tensor | None = None,
        scale: float = 1.0,
        dropout: float = 0.0,
    ) -> Tensor:
        """σ̂(scale · q kᵀ) v, without a tensor over queries and keys: it is Φ̂(scale · q kᵀ) (Wᵀ v).

        A mask, dropout and a projection act on single entries of the map; with any of them it is made after all.

        Args:
            q: Queries ``(batch, h, queries, head_dim)``.
            k: Keys ``(batch, h, N, head_dim)``.
            v: Values ``(batch, h, N, value_dim)``.
            keep: Boolean, ``(batch, h, queries, N)`` by broadcasting: as in :meth:`forward`.
            scale: Factor on the scores.
            dropout: Probability of a zero for the entries of the map.

        Returns:
            ``(batch, h, queries, value_dim)`` in the dtype of v.

        Raises:
            KANError: When the number of keys is not N.
        """
        if k.shape[2] != self.tokens:
            raise KANError(f"the attention map is made for {self.tokens} tokens, got {k.shape[2]}: N is fixed")
        with full_precision(q.device.type):
            if keep is not None or dropout or self.projection != "none":
                entries = F.dropout(self.map(q, k, keep, scale), dropout)
                return (entries @ v.to(entries.dtype)).to(v.dtype)
            features = fourier_features(q, k, self._planes(q), base=self.base, scale=scale)
            return (features @ (self.weight.to(features.dtype).mT @ v.to(features.dtype))).to(v.dtype)

    def _planes(self, x: Tensor) -> Tensor:
        """The coefficients ``(2G, h, N, r)``, in the dtype to compute in for an input `x`."""
        dtype = torch.promote_types(torch.promote_types(x.dtype, self.coefficients.dtype), torch.float32)
        return self.coefficients.permute(3, 0, 2, 1).to(dtype).contiguous()

    def _map(self, features: Tensor, keep: Tensor | None) -> Tensor:
        entries = features @ self.weight.to(features.dtype).mT
        if self.projection == "simplex":
            # far below every other entry, a masked one gets nothing and takes nothing
            entries = project_to_simplex(entries if keep is None else entries.masked_fill(~keep, -1e30))
        return entries if keep is None else entries.masked_fill(~keep, 0)


def project_to_simplex(y: Tensor) -> Tensor:
    """The nearest points of the probability simplex: x ≥ 0, Σ x = 1, along the last dimension.

    x = max(y − λ, 0) with λ from the sorted values, in O(n log n). Differentiable almost everywhere.

    Args:
        y: ``(..., n)``, floating.
    """
    y = y - y.amax(dim=-1, keepdim=True)  # changes nothing but the rounding
    descending = y.sort(dim=-1, descending=True).values
    count = torch.arange(1, y.shape[-1] + 1, device=y.device, dtype=y.dtype)
    thresholds = (descending.cumsum(dim=-1) - 1) / count
    last = (descending > thresholds).sum(dim=-1, keepdim=True) - 1
    return (y - thresholds.gather(-1, last)).clamp_min(0)


class KArAtAttention(nn.Module):
    r"""Multi-head self-attention y = W_O [σ̂(Q Kᵀ/√d_h) V] with the learned map σ̂ in the place of softmax.

    For timm's ``attn_layer``, which must be a class, see :meth:`with_options`. Parameters are named as in
    `timm.layers.Attention`, so weights of a ViT fit; the map's are in ``attention_map``.

    Args:
        dim: Width of the tokens.
        num_heads: Attention heads.
        shared: A map that somebody else owns and registers; None for an own one.
        qkv_bias: Whether queries, keys and values have a bias.
        qk_norm: Normalise queries and keys.
        scale_norm: Normalise the output before the last layer.
        proj_bias: Whether the last layer has a bias.
        attn_drop: Dropout of the entries of the map.
        proj_drop: Dropout of the output.
        norm_layer: The norm of `qk_norm` and `scale_norm`.
        device: Where the parameters live.
        dtype: Type of the parameters.
        **own: Arguments of the own :class:`FourierAttentionMap`: `tokens` at least.

    Raises:
        KANError: When `dim` is no multiple of `num_heads`, a norm is missing, the map refuses its arguments, or there
            are some beside a shared map.

    Shape:
        - Input: ``(batch, tokens, dim)``
        - Output: the same
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        *,
        shared: FourierAttentionMap | None = None,
        qkv_bias: bool = False,
        qk_norm: bool = False,
        scale_norm: bool = False,
        proj_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        norm_layer: Callable[..., nn.Module] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **own: Any,
    ) -> None:
        super().__init__()
        if dim % num_heads:
            raise KANError(f"dim must be a multiple of num_heads, got {dim} and {num_heads}")
        if (qk_norm or scale_norm) and norm_layer is None:
            raise KANError("qk_norm and scale_norm need a norm_layer, got None")
        if shared is not None and own:
            raise KANError(f"a shared attention map takes no arguments of an own one, got {', '.join(own)}")
        make_norm: Callable[..., nn.Module] = norm_layer or nn.Identity
        self.dim, self.num_heads = dim, num_heads
        self.head_dim = dim // num_heads
        self.scale = self.head_dim**-0.5
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias, device=device, dtype=dtype)
        self.q_norm = make_norm(self.head_dim, device=device, dtype=dtype) if qk_norm else nn.Identity()
        self.k_norm = make_norm(self.head_dim, device=device, dtype=dtype) if qk_norm else nn.Identity()
        # in a tuple, for a module is registered, saved and counted by its owner alone
        self._borrowed = () if shared is None else (shared,)
        if shared is None:
            self.attention_map = FourierAttentionMap(num_heads, **own, device=device, dtype=dtype)
        self.attn_drop = nn.Dropout(attn_drop)
        self.norm = make_norm(dim, device=device, dtype=dtype) if scale_norm else nn.Identity()
        self.proj = nn.Linear(dim, dim, bias=proj_bias, device=device, dtype=dtype)
        self.proj_drop = nn.Dropout(proj_drop)

    @classmethod
    def with_options(cls, **options: Any) -> type[nn.Module]:
        """A class for timm's ``attn_layer``: makes this layer with `options` in addition to what timm passes.

        Example:
            >>> VisionTransformer(attn_layer=KArAtAttention.with_options(tokens=197, harmonics=3))
        """

        class Maker(nn.Module):
            def __new__(maker, dim: int, **kwargs: Any) -> Any:
                return cls(dim, **kwargs, **options)

        return Maker

    @property
    def operator(self) -> FourierAttentionMap:
        """The map that is used, own or shared."""
        return self._borrowed[0] if self._borrowed else self.attention_map

    def elementwise_flops(self, numel: int) -> int:
        """Operations outside matrix products for an input of `numel` numbers: the harmonics of the scores, and b."""
        operator = self.operator
        scores = numel // self.dim * operator.tokens * self.num_heads
        # a cosine and a sine, then two of two products and a sum each; b is added to the sum
        per_score = 2 + 6 * (operator.harmonics - 1)
        return scores * (per_score + (1 + ACTIVATION_FLOPS[operator.base] if operator.base else 0))

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """``(batch, tokens, dim)`` to the same.

        Args:
            x: Tokens.
            attn_mask: Boolean, ``(batch, heads, tokens, tokens)`` by broadcasting: False where a query must not see a
                key. Such a score counts as 0 in the map, whose entry is then set to 0.
            is_causal: Queries see no later keys; in addition to `attn_mask`.

        Raises:
            KANError: For another number of tokens, or a mask that is not boolean: a learned map has no use for a
                number that is added to a score.
        """
        q, k, v = self._qkv(x)
        keep = self._keep(x, attn_mask, is_causal)
        dropout = self.attn_drop.p if self.training else 0.0
        y = self.operator.attend(q, k, v, keep, self.scale, dropout)
        out: Tensor = self.proj_drop(self.proj(self.norm(y.transpose(1, 2).flatten(2))))
        return out

    def attention(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """The map for tokens `x`, ``(batch, heads, tokens, tokens)``, without dropout; arguments as in forward."""
        q, k, _ = self._qkv(x)
        return self.operator.map(q, k, self._keep(x, attn_mask, is_causal), self.scale)

    def _qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Three times ``(batch, heads, tokens, head_dim)``."""
        if x.shape[1] != self.operator.tokens:
            raise KANError(
                f"expected {self.operator.tokens} tokens, got {x.shape[1]}: the learned attention map is made for one "
                "image size and patch size"
            )
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_dim)).permute(2, 0, 3, 1, 4).unbind(0)
        return self.q_norm(q), self.k_norm(k), v

    def _keep(self, x: Tensor, attn_mask: Tensor | None, is_causal: bool) -> Tensor | None:
        if attn_mask is not None and attn_mask.dtype != torch.bool:
            raise KANError(f"attn_mask must be boolean (True where a query sees a key), got {attn_mask.dtype}")
        if not is_causal:
            return attn_mask
        earlier = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril()
        return earlier if attn_mask is None else attn_mask & earlier


@torch.no_grad()
def attention_maps(model: nn.Module, x: Tensor) -> list[Tensor]:
    """The learned attention maps of a model for a batch, for figures.

    Args:
        model: A model with :class:`KArAtAttention` in it; run once, in evaluation mode.
        x: Its input.

    Returns:
        ``(batch, heads, tokens, tokens)`` for each attention layer, in the order in which they run.

    Raises:
        KANError: When there is no such layer.
    """
    layers = [module for module in model.modules() if isinstance(module, KArAtAttention)]
    if not layers:
        raise KANError(f"{type(model).__name__} has no learned attention maps: its attention is not KArAt's")
    maps: list[Tensor] = []

    def record(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        assert isinstance(layer, KArAtAttention)
        maps.append(layer.attention(*args, **kwargs))

    training = [module for module in model.modules() if module.training]
    handles = [layer.register_forward_pre_hook(record, with_kwargs=True) for layer in layers]
    try:
        model.eval()
        model(x)
    finally:
        for handle in handles:
            handle.remove()
        for module in training:
            module.training = True
    return maps
