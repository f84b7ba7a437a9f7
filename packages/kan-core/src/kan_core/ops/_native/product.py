"""planes(x) @ weight on the CPU: the planes of a chunk of rows by a C kernel, then the GEMM.

Nothing but x and the weights is kept for the backward pass; the planes are computed again there, in the place of their
gradients.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch
from torch import Tensor

# Numbers in the planes of a chunk of rows, at most: as many as the GEMM wants (it streams the weights once per chunk),
# as few as stay in the last cache. A bound on the numbers, not on the rows, keeps the memory flat in the number of
# functions. Forward + backward over the bare GEMM's, two threads of an AMD EPYC (Zen 3), 32 MiB of cache, medians of
# 25, at (2048, 256, 256, G 5, k 3) and (1024, 784, 64, G 5, k 3): 1.27 and 1.25 in chunks of 2^20, 1.18 and 1.21 in
# 2^21, 1.20 and 1.19 in 2^22, 1.13 and 1.12 in 2^23.
CHUNK_ELEMENTS = 1 << 23

# Every thread keeps its buffer for the next call: the system takes the pages of a freed one back, and touching new ones
# costs as much as the arithmetic (with fresh buffers the second shape above had 1.33 in chunks of 2^22, 1.56 in 2^23).
_kept = threading.local()


def _workspace(like: Tensor, rows: int, columns: int) -> Tensor:
    """A (rows, columns) tensor of the thread's own memory; what it held before is lost."""
    size = rows * columns
    buffer: Tensor | None = getattr(_kept, "buffer", None)
    if buffer is None or buffer.numel() < size or buffer.dtype != like.dtype:
        with torch.inference_mode(False):  # it outlives the call: a tensor made in inference mode cannot train later
            buffer = _kept.buffer = like.new_empty(size)
    return buffer[:size].view(rows, columns)


def release_workspace() -> None:
    """Give back what this thread keeps between calls: at most 32 MiB for float32, or one row of planes."""
    _kept.__dict__.clear()


Expand = Callable[[Tensor, Tensor], None]
"""Writes the planes (rows, P, in) of x (rows, in) into the second argument."""
Contract = Callable[[Tensor, Tensor, Tensor], None]
"""Writes dx (rows, in), the last argument, from the gradient of the planes, and the planes in the place of that."""


def _chunk_rows(batch: int, columns: int) -> int:
    chunks = max(-(-batch // max(CHUNK_ELEMENTS // max(columns, 1), 1)), 1)
    return max(-(-batch // chunks), 1)  # of equal size


def forward(x: Tensor, weight: Tensor, expand: Expand) -> Tensor:
    """Return y (batch, out) of contiguous x (batch, in) and weight (P, in, out)."""
    batch, features = x.shape
    columns, outputs = weight.shape[0] * features, weight.shape[2]
    matrix = weight.view(columns, outputs)
    y = x.new_empty(batch, outputs)
    rows = _chunk_rows(batch, columns)
    buffer = _workspace(x, min(rows, batch), columns)
    for start in range(0, batch, rows):
        part = x[start : start + rows]
        planes = buffer[: part.shape[0]]
        expand(part, planes)
        torch.mm(planes, matrix, out=y[start : start + rows])
    return y


def backward(
    grad: Tensor, x: Tensor, weight: Tensor, expand: Expand, contract: Contract, need_dx: bool, need_dw: bool
) -> tuple[Tensor, Tensor]:
    """The gradients of x and of weight; one that is not needed is an empty tensor."""
    batch, features = x.shape
    columns, outputs = weight.shape[0] * features, weight.shape[2]
    matrix = weight.view(columns, outputs)
    dx = torch.empty_like(x) if need_dx else x.new_empty(0)
    dw = x.new_empty(weight.shape if need_dw else 0)
    if not batch:
        return dx, dw.zero_()
    rows = _chunk_rows(batch, columns)
    buffer = _workspace(x, min(rows, batch), columns)
    for start in range(0, batch, rows):
        part, g = x[start : start + rows], grad[start : start + rows]
        planes = buffer[: part.shape[0]]
        if need_dx:
            torch.mm(g, matrix.t(), out=planes)
            contract(part, planes, dx[start : start + rows])
        else:
            expand(part, planes)
        if need_dw:
            target = dw.view(columns, outputs)
            torch.addmm(target, planes.t(), g, beta=int(start > 0), out=target)
    return dx, dw
