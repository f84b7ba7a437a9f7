"""Neighbourhood attention in plain torch: every pixel attends to the window of pixels around it.

Queries are cut into square tiles. The windows of one tile lie in one slightly larger square of keys, so that a tile is
a small dense attention whose bias is −∞ outside each query's own window: matrix products instead of one gather per
pixel, at most about four times the k² products per pixel and without k² copies of the keys. A map that is not much
larger than the window is one tile, which is ordinary masked attention.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kan_core.errors import KANError

__all__ = ["NeighborhoodAttention", "neighborhood_attention"]


class _AxisTiles(NamedTuple):
    """One axis of the map, cut into T tiles of t queries that share s keys.

    Attributes:
        queries: ``(T, t)`` positions; past the end of the axis the last one again.
        keys: ``(T, s)`` positions.
        offsets: ``(T, t, s)`` position of the key minus that of the query, in steps and counted from −(k − 1); the
            number 2 k − 1 where the key is not in the query's window.
        places: ``(length,)`` where each position stands in `queries`, flattened.
    """

    queries: Tensor
    keys: Tensor
    offsets: Tensor
    places: Tensor


def _axis_tiles(
    length: int, kernel: int, dilation: int | None, tile: int | None, device: torch.device | str | None
) -> _AxisTiles:
    """The tiles of an axis. They follow from its length alone, so numpy makes them: constants to an exported graph."""
    window = min(kernel, length)
    largest = length // window
    step = largest if dilation is None else min(dilation, largest)
    longest = -(-length // step)  # members of the longest of the `step` interleaved grids
    if tile is None:
        tile = longest if longest <= 2 * window else window
    tiles = -(-longest // tile)
    span = min(longest, tile + window - 1)

    grid = np.arange(step)[:, None, None]
    first = np.arange(tiles)[None, :, None] * tile
    members = (length - 1 - grid) // step + 1
    # Numbers within a grid, of shapes (step, tiles, t) and (step, tiles, s).
    query = np.minimum(first + np.arange(tile), members - 1)
    key = np.clip(first - window // 2, 0, np.maximum(members - span, 0)) + np.arange(span)
    opening = np.clip(query - window // 2, 0, members - window)[..., None]
    inside = (key[:, :, None] >= opening) & (key[:, :, None] < opening + window)
    offsets = np.where(inside, key[:, :, None] - query[..., None] + kernel - 1, 2 * kernel - 1)

    position = np.arange(length)
    tables = (
        (query * step + grid).reshape(-1, tile),
        np.minimum(key * step + grid, length - 1).reshape(-1, span),
        offsets.reshape(-1, tile, span),
        position % step * (tiles * tile) + position // step,
    )
    return _AxisTiles(*(torch.tensor(table, device=device) for table in tables))


def _cut(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The squares of ``(B, H, W, heads, d)`` at the tiles' positions: ``(B, tiles · heads, pixels of a tile, d)``."""
    squares = x.index_select(1, rows.flatten()).index_select(2, columns.flatten())
    squares = torch.unflatten(torch.unflatten(squares, 2, columns.shape), 1, rows.shape)
    # (B, Tr, r, Tc, c, heads, d)
    return squares.permute(0, 1, 3, 5, 2, 4, 6).flatten(4, 5).flatten(1, 3)


def _tile_bias(table: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The bias of every pair in a tile, −∞ outside the window: ``(tiles · heads, queries, keys)``."""
    padded = F.pad(table, (0, 1, 0, 1), value=-torch.inf)
    bias = padded.index_select(1, rows.flatten()).index_select(2, columns.flatten())
    bias = torch.unflatten(torch.unflatten(bias, 2, columns.shape), 1, rows.shape)
    # (heads, Tr, qr, kr, Tc, qc, kc)
    return bias.permute(1, 4, 0, 2, 5, 3, 6).flatten(5, 6).flatten(3, 4).flatten(0, 2)


def neighborhood_attention(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor, dilation: int | None = 1, tile: int | None = None
) -> Tensor:
    r"""y_p = Σ_{q ∈ N(p)} softmax_q(⟨query_p, key_q⟩ / √d + bias_{q − p}) value_q.

    N(p) is a k x k window around p, moved inside the map where it would stand out: every pixel attends to k² others,
    those in the corner too. With a dilation δ the map is δ x δ interleaved grids, and a window holds pixels of one
    grid. k is at most the map's side, per axis, and δ at most ⌊side / k⌋; larger ones are lowered to that.

    Args:
        query: Shape ``(batch, height, width, heads, d)``.
        key: As `query`.
        value: As `query`.
        bias: Shape ``(heads, 2 k − 1, 2 k − 1)``; the middle belongs to the pixel itself, later rows to keys below it
            and later columns to keys to its right, in steps of δ.
        dilation: δ; None for the largest that fits the map.
        tile: Side of the tiles in which it is computed; None for one tile where a grid is at most 2 k long, else k.
            The result does not depend on it.

    Returns:
        Shape of `query`. Cost: height · width · k² · d · heads, up to a factor of four.

    Reference: neighbourhood attention (arXiv 2204.07143), dilated (arXiv 2209.15001).
    """
    height, width, heads = query.shape[1:4]
    kernel = (bias.shape[-1] + 1) // 2
    rows = _axis_tiles(height, kernel, dilation, tile, query.device)
    columns = _axis_tiles(width, kernel, dilation, tile, query.device)
    tiled = F.scaled_dot_product_attention(
        _cut(query, rows.queries, columns.queries),
        _cut(key, rows.keys, columns.keys),
        _cut(value, rows.keys, columns.keys),
        attn_mask=_tile_bias(bias.to(query.dtype), rows.offsets, columns.offsets)[None],
    )
    (across, side), (along, breadth) = rows.queries.shape, columns.queries.shape
    y = torch.unflatten(torch.unflatten(tiled, 2, (side, breadth)), 1, (across, along, heads))
    y = y.permute(0, 1, 4, 2, 5, 3, 6).flatten(3, 4).flatten(1, 2)
    return y.index_select(1, rows.places).index_select(2, columns.places)


class NeighborhoodAttention(nn.Module):
    r"""Multi-head :func:`neighborhood_attention` of a map with itself, between two linear layers.

    Args:
        features: Channels of the map.
        num_heads: Heads, each of features / num_heads channels.
        kernel_size: k, odd: side of the window, lowered to the map's side where that is smaller.
        dilation: δ, lowered to what fits the map; None for the largest that fits.

    Raises:
        KANError: When `features` is no multiple of `num_heads`, k is even, δ is below 1, or the input has another
            shape.

    Shape:
        - Input: ``(batch, height, width, features)``
        - Output: the same

    Parameters: 4 features² + 4 features + heads (2 k − 1)², the bias table of each head.
    """

    def __init__(self, features: int, num_heads: int, kernel_size: int = 7, dilation: int | None = 1) -> None:
        super().__init__()
        if num_heads < 1 or features % num_heads:
            raise KANError(f"features must be a multiple of num_heads, got {features} features and {num_heads} heads")
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise KANError(f"kernel_size must be odd, got {kernel_size}")
        if dilation is not None and dilation < 1:
            raise KANError(f"dilation must be at least 1, or None for the largest that fits, got {dilation}")
        self.features = features
        self.num_heads = num_heads
        self.dilation = dilation
        self.qkv = nn.Linear(features, 3 * features)
        self.relative_bias = nn.Parameter(torch.empty(num_heads, 2 * kernel_size - 1, 2 * kernel_size - 1))
        self.proj = nn.Linear(features, features)
        nn.init.trunc_normal_(self.relative_bias, std=0.02)

    def no_weight_decay(self) -> set[str]:
        """The bias table: it decays no more than other biases do."""
        return {"relative_bias"}

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, height, width, features)`` to the same shape."""
        if x.dim() != 4 or x.shape[-1] != self.features:
            raise KANError(f"expected a map of shape (batch, height, width, {self.features}), got {tuple(x.shape)}")
        query, key, value = torch.unflatten(self.qkv(x), -1, (3, self.num_heads, -1)).unbind(-3)
        y = neighborhood_attention(query, key, value, self.relative_bias, self.dilation)
        out: Tensor = self.proj(y.flatten(-2))
        return out

    def extra_repr(self) -> str:
        """The arguments, for ``repr``."""
        kernel = (self.relative_bias.shape[-1] + 1) // 2
        return f"{self.features}, num_heads={self.num_heads}, kernel_size={kernel}, dilation={self.dilation}"
