"""The native CPU path: rows side by side, every edge's circuit run in the cache, nothing kept but the sums."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from kan_core.ops import _native
from kan_core.ops.daruan._table import edge_table, split_sums

KERNELS = _native.Kernels(Path(__file__).with_name("native.c"))

LANES = 64  # as in vector.h
PADDING = 8  # rows are rounded up to this: a multiple of the vector width, so that no loop has a rest
MAX_CHUNK = 8192  # rows whose terms are added one after the other; beyond them, partial sums
ENOUGH_ITEMS = 32  # work items of the backward pass: with fewer inputs than this, they share the rows too


def _columns(t: Tensor, dtype: torch.dtype) -> Tensor:
    """A (rows, features) tensor as (features, rows), zeros beyond its last row."""
    rows, features = t.shape
    columns = t.new_zeros(features, -(-rows // PADDING) * PADDING, dtype=dtype)
    columns[:, :rows] = t.T
    return columns


def forward(x: Tensor, gates: Tensor, frequency: Tensor, factor: Tensor, fast: bool) -> Tensor:
    """Return y (rows, out) in the type of the gates."""
    columns = _columns(x, gates.dtype)
    y = columns.new_empty(factor.shape[1], columns.shape[1])
    KERNELS.call(
        gates.dtype,
        "forward", columns, _table(gates, frequency, factor), y,
        *factor.shape, columns.shape[1], len(frequency), fast, torch.get_num_threads(),
    )  # fmt: skip
    return y[:, : len(x)].T.contiguous()


def backward(
    grad: Tensor, x: Tensor, gates: Tensor, frequency: Tensor, factor: Tensor, fast: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of x, gates, frequency and factor."""
    columns, upstream = _columns(x, gates.dtype), _columns(grad, gates.dtype)
    features, outputs = factor.shape
    rows, reps, threads = columns.shape[1], len(frequency), torch.get_num_threads()
    chunk_rows = _chunk_rows(rows, features)
    dx = torch.zeros_like(columns)
    sums = gates.new_zeros(max(-(-rows // chunk_rows), 1), features, outputs, 3 * reps + 4)
    scratch = gates.new_empty(threads, reps, 5, LANES)
    KERNELS.call(
        gates.dtype,
        "backward", upstream, columns, _table(gates, frequency, factor), dx, sums, scratch,
        features, outputs, rows, chunk_rows, reps, fast, threads,
    )  # fmt: skip
    total = sums.sum(0) if len(sums) > 1 else sums[0]
    return dx[:, : len(x)].T.to(x.dtype).contiguous(), *split_sums(total.permute(2, 0, 1), gates)


def _table(gates: Tensor, frequency: Tensor, factor: Tensor) -> Tensor:
    """An edge's numbers side by side: planes a power of two apart would share one set of the cache's lines."""
    return edge_table(gates, frequency, factor).permute(1, 2, 0).contiguous()


def _chunk_rows(rows: int, features: int) -> int:
    """A multiple of LANES that does not depend on the number of threads."""
    wanted = -(-rows * features // ENOUGH_ITEMS)
    return max(min(wanted, MAX_CHUNK) // LANES, 1) * LANES
