"""The native CPU path: planes by C kernels, then the GEMM; see `kan_core.ops._native.product`."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from kan_core.ops import _native
from kan_core.ops._native import product
from kan_core.ops.basis_linear.form import PlaneForm

KERNELS = _native.Kernels(Path(__file__).with_name("native.c"))

# as in native.c
FAMILIES = ("rbf", "rswaf", "relu-kan", "polynomial", "polynomial-tanh", "fourier", "knots-decay", "knots-clamp")
MAX_COUNT = 256
MAX_ORDER = 5


def refuses(form: PlaneForm, num_functions: int) -> str:
    """Why the kernels cannot take this form, empty when they can."""
    if form.family not in FAMILIES:
        return f"there is no C kernel for {form.family!r}"
    if num_functions > MAX_COUNT:
        return f"its C kernels take up to {MAX_COUNT} functions, not {num_functions}"
    if form.order > MAX_ORDER:
        return f"its C kernels know the orders up to {MAX_ORDER}, not {form.order}"
    return ""


class _Kernels:
    """The C functions for one form; the gradient of its table adds up in `table_gradient`, when there is one."""

    def __init__(self, x: Tensor, form: PlaneForm, count: int, silu: bool, need_table: bool = False) -> None:
        self.dtype = x.dtype
        table = form.table
        self.tensors = tuple(None if t is None else t.to(x.dtype).contiguous() for t in (form.a, form.b, table))
        lines, shared = (0, 0) if table is None else (table.shape[1], int(table.shape[2] == 1))
        self.numbers = (x.shape[1], count, lines, shared, form.order, float(form.offset), silu, torch.get_num_threads())
        self.family = FAMILIES.index(form.family)
        self.table_gradient = x.new_zeros(count, 2, x.shape[1]) if need_table else None

    def expand(self, x: Tensor, planes: Tensor) -> None:
        """Write the planes (rows, K (+ 1), in) of x (rows, in)."""
        KERNELS.call(self.dtype, "expand", x, *self.tensors, planes, self.family, x.shape[0], *self.numbers)

    def contract(self, x: Tensor, planes: Tensor, dx: Tensor) -> None:
        """Write dx from the gradient of the planes, and the planes in its place."""
        arguments = (planes, dx, self.table_gradient, self.family, x.shape[0], *self.numbers)
        KERNELS.call(self.dtype, "contract", x, *self.tensors, *arguments)


def forward(x: Tensor, weight: Tensor, form: PlaneForm, silu: bool) -> Tensor:
    """Return y (batch, out) of x (batch, in) and weight (P, in, out), float32 or float64."""
    kernels = _Kernels(x, form, weight.shape[0] - silu, silu)
    return product.forward(x.contiguous(), weight.contiguous(), kernels.expand)


def backward(
    grad: Tensor, x: Tensor, weight: Tensor, form: PlaneForm, silu: bool, need_dx: bool, need_dw: bool, need_table: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x, weight and the form's table; one that is not needed is an empty tensor."""
    kernels = _Kernels(x, form, weight.shape[0] - silu, silu, need_table)
    dx, dw = product.backward(
        grad, x.contiguous(), weight.contiguous(), kernels.expand, kernels.contract, need_dx or need_table, need_dw
    )
    table = kernels.table_gradient
    if table is None or form.table is None:
        return dx if need_dx else dx[:0], dw, x.new_empty(0)
    return dx if need_dx else x.new_empty(0), dw, table.sum_to_size(form.table.shape)
