"""The native CPU paths: all planes, in chunks, and the GEMM; or the functions that are not zero alone.

Nothing but x and the weights is kept for the backward pass; everything else is computed again there.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from kan_core.ops import _native
from kan_core.ops._native import product
from kan_core.ops.bspline_linear.reference import EDGES, piece_coefficients

KERNELS = _native.Kernels(Path(__file__).with_name("native.c"))
MAX_ORDER = 9  # as in native.c

# Of the sparse paths: rows of a block, and outputs of a tile, such that their product stays in the second-level cache.
SPARSE_ROWS = 1024
SPARSE_ELEMENTS = 1 << 18
MIN_TILE = 64


@cache
def _coefficients(order: int, dtype: torch.dtype) -> Tensor:
    return torch.tensor(piece_coefficients(order), dtype=torch.float64).to(dtype).contiguous()


class _Kernels:
    """The C functions with what all calls share."""

    def __init__(self, x: Tensor, lo: Tensor, step: Tensor, count: int, order: int, edge: str, silu: bool) -> None:
        self.dtype = x.dtype
        self.grid = (lo.contiguous(), step.contiguous(), _coefficients(order, x.dtype))
        self.features, self.count, self.order, self.edge = x.shape[1], count, order, EDGES.index(edge)
        self.silu, self.threads = silu, torch.get_num_threads()

    def expand(self, x: Tensor, planes: Tensor) -> None:
        """Write the planes (rows, K (+ 1), in) of x (rows, in)."""
        KERNELS.call(
            self.dtype, "expand", x, *self.grid, planes,
            x.shape[0], self.features, self.count, self.order, self.edge, self.silu, self.threads,
        )  # fmt: skip

    def contract(self, x: Tensor, planes: Tensor, dx: Tensor) -> None:
        """Write dx from the gradient of the planes, and the planes in its place."""
        KERNELS.call(
            self.dtype, "contract", x, *self.grid, planes, dx,
            x.shape[0], self.features, self.count, self.order, self.edge, self.silu, self.threads,
        )  # fmt: skip


def forward(x: Tensor, weight: Tensor, lo: Tensor, step: Tensor, order: int, edge: str, silu: bool) -> Tensor:
    """Return y (batch, out) of x (batch, in) and weight (P, in, out), float32 or float64."""
    kernels = _Kernels(x, lo, step, weight.shape[0] - silu, order, edge, silu)
    return product.forward(x.contiguous(), weight.contiguous(), kernels.expand)


def backward(
    grad: Tensor, x: Tensor, weight: Tensor, lo: Tensor, step: Tensor, order: int, edge: str, silu: bool,
    need_dx: bool, need_dw: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The gradients of x and of weight; one that is not needed is an empty tensor."""
    kernels = _Kernels(x, lo, step, weight.shape[0] - silu, order, edge, silu)
    return product.backward(
        grad, x.contiguous(), weight.contiguous(), kernels.expand, kernels.contract, need_dx, need_dw
    )


def sparse_forward(x: Tensor, weight: Tensor, lo: Tensor, step: Tensor, order: int, edge: str, silu: bool) -> Tensor:
    """What `forward` returns, at a cost that does not grow with the number of functions."""
    weight = weight.contiguous()
    planes, features, outputs = weight.shape
    kernels = _Kernels(x, lo, step, planes - silu, order, edge, silu)
    y = F.silu(x) @ weight[-1] if silu else x.new_zeros(len(x), outputs)
    rows = max(1, min(SPARSE_ROWS, -(-len(x) // kernels.threads)))
    KERNELS.call(
        x.dtype, "sparse_forward", x.t().contiguous(), *kernels.grid, weight, y, _scratch(rows, kernels),
        len(x), features, kernels.count, outputs, order, kernels.edge, rows, _tile(rows), kernels.threads,
    )  # fmt: skip
    return y


def sparse_backward(
    grad: Tensor, x: Tensor, weight: Tensor, lo: Tensor, step: Tensor, order: int, edge: str, silu: bool,
    need_dx: bool, need_dw: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """What `backward` returns, likewise."""
    weight = weight.contiguous()
    planes, features, outputs = weight.shape
    kernels = _Kernels(x, lo, step, planes - silu, order, edge, silu)
    dx = torch.empty_like(x) if need_dx else x.new_empty(0)
    dw = torch.zeros_like(weight) if need_dw else x.new_empty(0)
    scratch = _scratch(min(SPARSE_ROWS, len(x)), kernels)
    for start in range(0, len(x), SPARSE_ROWS):
        here = slice(start, start + SPARSE_ROWS)
        columns = x[here].t().contiguous()
        sums = torch.zeros_like(columns) if need_dx else None
        KERNELS.call(
            x.dtype, "sparse_backward", grad[here], columns, *kernels.grid, weight, dw if need_dw else None, sums,
            scratch, columns.shape[1], features, kernels.count, outputs, order, kernels.edge,
            _tile(columns.shape[1]), kernels.threads,
        )  # fmt: skip
        if sums is not None:
            dx[here] = sums.t()
    if silu and need_dw:
        torch.mm(F.silu(x).t(), grad, out=dw[-1])
    if silu and need_dx:
        dx += torch.ops.aten.silu_backward(grad @ weight[-1].t(), x)
    return dx, dw


def _tile(rows: int) -> int:
    return max(SPARSE_ELEMENTS // max(rows, 1), MIN_TILE) // MIN_TILE * MIN_TILE


def _scratch(rows: int, kernels: _Kernels) -> Tensor:
    """Memory for the sorted rows of every thread."""
    size = KERNELS.call(kernels.dtype, "sorted_bytes", rows, kernels.count, kernels.order)
    return torch.empty(kernels.threads * size, dtype=torch.uint8)
