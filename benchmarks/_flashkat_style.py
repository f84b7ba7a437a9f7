"""A group-rational activation the way FlashKAT's paper (arXiv 2505.13813) describes it: a baseline, not a product.

Written from the description of its kernels, so that anyone can run the comparison:

- forward: 128 numbers per program in one dimension; every number finds its group by division and gathers its ten
  coefficients
- backward: a program owns 64 rows of one group and walks it in tiles of 64 columns; the ten sums of a tile are reduced
  into scalars, and ten float32 atomic additions per program end it, so two runs need not agree in every bit
- float32 throughout: half precision is cast before, and the gradient of x is float32 too
- a numerator that all groups share is repeated before the call, by an operation that autograd differentiates

The function is 1/(1 + Σ |b_i| |x|ⁱ) Σ a_i xⁱ with six a and four b, the derivative of |b| at 0 being +1.
"""

# mypy: disable-error-code="import-untyped, no-untyped-def, no-untyped-call"

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

FORWARD_BLOCK = 128
BLOCK = 64  # rows of a program, and columns of its tiles


@triton.jit
def _forward(x_ptr, a_ptr, b_ptr, y_ptr, count, D: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    group = at % D // WIDTH
    x = tl.load(x_ptr + at, inside, other=0.0)
    z = tl.abs(x)
    p = tl.load(a_ptr + group * 6 + 5, inside, other=0.0)
    for i in tl.static_range(5):
        p = p * x + tl.load(a_ptr + group * 6 + 4 - i, inside, other=0.0)
    q = tl.abs(tl.load(b_ptr + group * 4 + 3, inside, other=0.0))
    for i in tl.static_range(3):
        q = q * z + tl.abs(tl.load(b_ptr + group * 4 + 2 - i, inside, other=0.0))
    tl.store(y_ptr + at, p / (1.0 + q * z), inside)


@triton.jit
def _backward(
    grad_ptr, x_ptr, a_ptr, b_ptr, dx_ptr, da_ptr, db_ptr, rows,
    D: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    group = tl.program_id(1)
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    a0, a1, a2 = tl.load(a_ptr + group * 6), tl.load(a_ptr + group * 6 + 1), tl.load(a_ptr + group * 6 + 2)
    a3, a4, a5 = tl.load(a_ptr + group * 6 + 3), tl.load(a_ptr + group * 6 + 4), tl.load(a_ptr + group * 6 + 5)
    b1, b2 = tl.load(b_ptr + group * 4), tl.load(b_ptr + group * 4 + 1)
    b3, b4 = tl.load(b_ptr + group * 4 + 2), tl.load(b_ptr + group * 4 + 3)
    c1, c2, c3, c4 = tl.abs(b1), tl.abs(b2), tl.abs(b3), tl.abs(b4)
    da0, da1, da2, da3, da4, da5 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    db1, db2, db3, db4 = 0.0, 0.0, 0.0, 0.0
    for tile in range(0, (WIDTH + BLOCK - 1) // BLOCK):
        column = tile * BLOCK + tl.arange(0, BLOCK)
        at = row[:, None] * D + group * WIDTH + column[None, :]
        inside = (row < rows)[:, None] & (column < WIDTH)[None, :]
        x = tl.load(x_ptr + at, inside, other=0.0)
        grad = tl.load(grad_ptr + at, inside, other=0.0)
        z = tl.abs(x)
        sign = tl.where(x < 0.0, -1.0, 1.0)
        p = ((((a5 * x + a4) * x + a3) * x + a2) * x + a1) * x + a0
        dp = (((5.0 * a5 * x + 4.0 * a4) * x + 3.0 * a3) * x + 2.0 * a2) * x + a1
        q = 1.0 + (((c4 * z + c3) * z + c2) * z + c1) * z
        dq = sign * (((4.0 * c4 * z + 3.0 * c3) * z + 2.0 * c2) * z + c1)
        tl.store(dx_ptr + at, grad * (dp / q - p * dq / (q * q)), inside)
        w = grad / q
        v = -grad * p / (q * q)
        da0 += tl.sum(w)
        da1 += tl.sum(w * x)
        da2 += tl.sum(w * x * x)
        da3 += tl.sum(w * x * x * x)
        da4 += tl.sum(w * x * x * x * x)
        da5 += tl.sum(w * x * x * x * x * x)
        db1 += tl.sum(v * z)
        db2 += tl.sum(v * z * z)
        db3 += tl.sum(v * z * z * z)
        db4 += tl.sum(v * z * z * z * z)
    tl.atomic_add(da_ptr + group * 6, da0)
    tl.atomic_add(da_ptr + group * 6 + 1, da1)
    tl.atomic_add(da_ptr + group * 6 + 2, da2)
    tl.atomic_add(da_ptr + group * 6 + 3, da3)
    tl.atomic_add(da_ptr + group * 6 + 4, da4)
    tl.atomic_add(da_ptr + group * 6 + 5, da5)
    tl.atomic_add(db_ptr + group * 4, tl.where(b1 < 0.0, -db1, db1))
    tl.atomic_add(db_ptr + group * 4 + 1, tl.where(b2 < 0.0, -db2, db2))
    tl.atomic_add(db_ptr + group * 4 + 2, tl.where(b3 < 0.0, -db3, db3))
    tl.atomic_add(db_ptr + group * 4 + 3, tl.where(b4 < 0.0, -db4, db4))


class _Activation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        y = torch.empty_like(x)
        grid = (triton.cdiv(x.numel(), FORWARD_BLOCK),)
        width = x.shape[1] // len(a)
        _forward[grid](x, a, b, y, x.numel(), D=x.shape[1], WIDTH=width, BLOCK=FORWARD_BLOCK)
        ctx.save_for_backward(x, a, b)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, a, b = ctx.saved_tensors
        dx, da, db = torch.empty_like(x), torch.zeros_like(a), torch.zeros_like(b)
        grid = (triton.cdiv(len(x), BLOCK), len(a))
        _backward[grid](
            grad.contiguous(), x, a, b, dx, da, db, len(x), D=x.shape[1], WIDTH=x.shape[1] // len(a), BLOCK=BLOCK
        )
        return dx, da, db


class FlashKATStyle(nn.Module):
    """The activation with given initial coefficients: numerator (1 or groups, 6), denominator (groups, 4)."""

    def __init__(self, numerator: Tensor, denominator: Tensor) -> None:
        super().__init__()
        self.numerator = nn.Parameter(numerator.detach().clone())
        self.denominator = nn.Parameter(denominator.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """(rows, features) of any floating type to float32, the features a multiple of the groups."""
        a = self.numerator.expand(len(self.denominator), -1).contiguous()
        y: Tensor = _Activation.apply(x.float().contiguous(), a, self.denominator)
        return y
