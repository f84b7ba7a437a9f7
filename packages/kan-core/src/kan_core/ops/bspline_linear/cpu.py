"""The CPU path: expand a chunk of rows into a reused buffer in a few vector passes, then one GEMM per chunk.

Nothing but x and the weights is kept for the backward pass; the planes are computed again there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from kan_core.ops.bspline_linear._expand import make_expander

# A chunk has the rows that the GEMM wants (it streams the weights once per chunk), a block what a vector pass wants:
# smaller blocks pay more for starting each pass than the cache gives back. Medians at (2048, 256, 256, G 5, k 3) on an
# idle AMD EPYC (Zen 3), two threads: forward 20.3 ms in chunks of 512 rows and blocks of 2^19, 18.5 ms in chunks of
# 1024 and blocks of 2^20. The backward pass has two chunk buffers to keep in the cache: 40.5 ms in chunks of 512 and
# blocks of 2^19, 52.4 ms in chunks of 2048.
BLOCK_ELEMENTS = 1 << 19
MIN_ROWS = 512
MAX_ELEMENTS = 1 << 24  # keeps the two chunk buffers of very wide layers at 128 MiB in float32


class _Chunks:
    """The expanded matrix of one chunk of rows after the other, in buffers that are allocated once per call."""

    def __init__(
        self, x: Tensor, planes: int, lo: Tensor, step: Tensor, order: int, edge: str, silu: bool, slopes: bool
    ) -> None:
        batch, features = x.shape
        columns = max(planes * features, 1)
        generous = 1 if slopes else 2
        block = max(generous * BLOCK_ELEMENTS // columns, 1)
        self.rows = min(max(block, min(generous * MIN_ROWS, MAX_ELEMENTS // columns), 1), batch)
        self.block = min(block, self.rows)
        self.x, self.silu, self.planes, self.num_functions = x, silu, planes, planes - silu
        self.expander = make_expander(lo, step, self.num_functions, order, edge, slopes=slopes)
        self.pad = self.expander.pad
        width = max(self.pad + planes, self.num_functions + 2 * self.pad)
        large, small = (self.rows, width, features), (self.block, self.num_functions, features)
        shapes = [large] * (1 + slopes) + [small] * self.expander.num_scratch
        # One allocation: the C library keeps one block of this size for the next call, but gives the pages of several
        # back to the system each time, and touching them anew costs as much as the arithmetic.
        workspace = x.new_empty(sum(map(math.prod, shapes))).split_with_sizes([math.prod(shape) for shape in shapes])
        buffers = [part.view(shape) for part, shape in zip(workspace, shapes, strict=True)]
        self.values, self.grad_values = buffers[0], buffers[1] if slopes else None
        self.expander.scratch = buffers[1 + slopes :]

    def matrix(self, buffer: Tensor, rows: int) -> Tensor:
        """The planes of a buffer, without its padding, as the (rows, planes * in) operand of the GEMM."""
        return buffer[:rows, self.pad : self.pad + self.planes].flatten(1)

    def spans(self) -> Iterator[slice]:
        for start in range(0, self.x.shape[0], max(self.rows, 1)):
            yield slice(start, min(start + self.rows, self.x.shape[0]))

    def expand(self, span: slice, dx: Tensor | None = None) -> Tensor:
        """Fill `values` for the rows of `span`; from `grad_values` also write dx (rows of span, in) if given."""
        basis = slice(0, self.num_functions + 2 * self.pad)
        last = self.pad + self.num_functions
        for start in range(span.start, span.stop, self.block):
            x = self.x[start : min(start + self.block, span.stop)]
            here = slice(start - span.start, start - span.start + x.shape[0])
            self.expander.expand(x, self.values[here, basis])
            if self.silu:
                torch.mul(F.silu(x), 1 / self.expander.scale, out=self.values[here, last])
            if dx is not None:
                assert self.grad_values is not None
                base = torch.ops.aten.silu_backward(self.grad_values[here, last], x) if self.silu else None
                self.expander.contract(self.grad_values[here, basis], dx[here])
                if base is not None:
                    dx[here].add_(base)
        return self.matrix(self.values, span.stop - span.start)


def forward(x: Tensor, weight: Tensor, lo: Tensor, step: Tensor, order: int, edge: str, silu: bool) -> Tensor:
    """Return y (batch, out) of x (batch, in) and weight (P, in, out), float32 or float64."""
    matrix = weight.reshape(-1, weight.shape[2])
    y = x.new_empty(x.shape[0], weight.shape[2])
    chunks = _Chunks(x, weight.shape[0], lo, step, order, edge, silu, slopes=False)
    for span in chunks.spans():
        out = y[span]
        torch.addmm(out, chunks.expand(span), matrix, beta=0, alpha=chunks.expander.scale, out=out)
    return y


def backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    lo: Tensor,
    step: Tensor,
    order: int,
    edge: str,
    silu: bool,
    need_dx: bool,
    need_dw: bool,
) -> tuple[Tensor, Tensor]:
    """The gradients of x and of weight; one that is not needed is an empty tensor."""
    matrix = weight.reshape(-1, weight.shape[2])
    dx = torch.empty_like(x) if need_dx else x.new_empty(0)
    dw = torch.zeros_like(weight, memory_format=torch.contiguous_format) if need_dw else x.new_empty(0)
    chunks = _Chunks(x, weight.shape[0], lo, step, order, edge, silu, slopes=need_dx)
    for span in chunks.spans():
        g = grad[span]
        if chunks.grad_values is not None:
            torch.mm(g, matrix.t(), out=chunks.matrix(chunks.grad_values, g.shape[0]))
        values = chunks.expand(span, dx[span] if need_dx else None)
        if need_dw:
            dw.view_as(matrix).addmm_(values.t(), g, alpha=chunks.expander.scale)
    return dx, dw
