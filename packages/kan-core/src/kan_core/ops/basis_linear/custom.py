"""The custom ops, one pair for all bases, registered without importing Triton."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from kan_core.ops._common import at_least_float32, differentiate_again, each_sample, without_autocast
from kan_core.ops.basis_linear import native
from kan_core.ops.basis_linear.form import PlaneForm
from kan_core.ops.basis_linear.reference import form_linear

if TYPE_CHECKING:
    from kan_core.ops._triton.launch import Planes

# The family's module is imported when it is first computed; there `PLANES[name]` holds the basis functions.
FAMILIES = {
    "bspline-decay": "kan_core.ops.bspline_linear.triton_kernels",
    "bspline-clamp": "kan_core.ops.bspline_linear.triton_kernels",
    "knots-decay": "kan_core.ops._triton.knots",
    "knots-clamp": "kan_core.ops._triton.knots",
    "rbf": "kan_core.ops._triton.families",
    "rswaf": "kan_core.ops._triton.families",
    "relu-kan": "kan_core.ops._triton.families",
    "polynomial": "kan_core.ops._triton.families",
    "polynomial-tanh": "kan_core.ops._triton.families",
    "fourier": "kan_core.ops._triton.families",
}


def planes_of(family: str) -> Planes:
    """The basis functions of a family; imports Triton."""
    planes: Planes = import_module(FAMILIES[family]).PLANES[family]
    return planes


@torch.library.custom_op("kan::basis_linear_fwd", mutates_args=())
def basis_linear_fwd(
    x: Tensor,
    weight: Tensor,
    a: Tensor | None,
    b: Tensor | None,
    family: str,
    order: int,
    offset: float,
    silu: bool,
    dtype: torch.dtype,
    table: Tensor | None = None,
    backend: str = "triton",
) -> Tensor:
    """Return y (batch, out) in `dtype`, in which the GPU's kernels multiply: float32, bfloat16 or float16.

    x is (batch, in), weight (K, in, out), or (K + 1, in, out) with `silu`; a and b (in,) and table (K, rows, in) or
    (K, rows, 1) have the dtype of the functions: float32, or in the backend "native" float64 for such x. What they and
    `order` and `offset` mean is the family's choice, see :class:`PlaneForm`.
    """
    if backend == "native":
        form, wide = PlaneForm(family, order, offset, a, b, table), torch.promote_types(dtype, torch.float32)
        with without_autocast():
            return native.forward(x.to(wide), weight.to(wide), form, silu).to(dtype)
    from kan_core.ops._triton import launch

    problem = launch.Problem(planes_of(family), order, offset, a, b, table, silu, dtype)
    return launch.forward(x, weight, problem, backend == "expand")


@torch.library.custom_op("kan::basis_linear_bwd", mutates_args=())
def basis_linear_bwd(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    a: Tensor | None,
    b: Tensor | None,
    family: str,
    order: int,
    offset: float,
    silu: bool,
    dtype: torch.dtype,
    table: Tensor | None,
    backend: str,
    need_dx: bool,
    need_dw: bool,
    need_dtable: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x, weight and table; one that is not needed comes back empty."""
    if backend == "native":
        form, wide = PlaneForm(family, order, offset, a, b, table), torch.promote_types(dtype, torch.float32)
        with without_autocast():
            rows = grad.to(wide).contiguous()
            dx, dw, dtable = native.backward(
                rows, x.to(wide), weight.to(wide), form, silu, need_dx, need_dw, need_dtable
            )
            return dx.to(x.dtype), dw.to(weight.dtype), dtable
    from kan_core.ops._triton import launch

    problem = launch.Problem(planes_of(family), order, offset, a, b, table, silu, dtype)
    return launch.backward(grad, x, weight, problem, backend == "expand", need_dx, need_dw, need_dtable)


@basis_linear_fwd.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    a: Tensor | None,
    b: Tensor | None,
    family: str,
    order: int,
    offset: float,
    silu: bool,
    dtype: torch.dtype,
    table: Tensor | None = None,
    backend: str = "triton",
) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[2], dtype=dtype)


@basis_linear_bwd.register_fake
def _(grad: Tensor, x: Tensor, weight: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
    table, _, need_dx, need_dw, need_dtable = args[-5:]
    return (
        x.new_empty(x.shape if need_dx else 0),
        weight.new_empty(weight.shape if need_dw else 0),
        table.new_empty(table.shape) if need_dtable else x.new_empty(0, dtype=torch.float32),
    )


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, a, b, *ctx.options, table, ctx.backend = inputs
    ctx.save_for_backward(x, weight, a, b, table)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    *given, table = ctx.saved_tensors
    # torch leaves out trailing arguments that have their default value
    needs = [*ctx.needs_input_grad[:2], table is not None and ctx.needs_input_grad[9]]
    gradients = basis_linear_bwd(grad, *given, *ctx.options, table, ctx.backend, *needs)
    dx, dw, dtable = (g if need else None for g, need in zip(gradients, needs, strict=True))
    return dx, dw, *[None] * 7, dtable, None


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    grad, x, weight, a, b, *ctx.options, table, _, need_dx, need_dw, need_dtable = inputs
    ctx.needed = (need_dx, need_dw, need_dtable)
    ctx.save_for_backward(grad, x, weight, a, b, table)


def _differentiate_again(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
    """The derivative of the backward pass, through the reference."""
    grad, x, weight, a, b, table = ctx.saved_tensors
    family, order, offset, silu, _ = ctx.options
    learned = ctx.needed[2]  # only then is the table one of the tensors to differentiate by

    def reference(x: Tensor, weight: Tensor, *tables: Tensor) -> Tensor:
        form = PlaneForm(family, order, offset, a, b, tables[0] if learned else table)
        return form_linear(at_least_float32(x), at_least_float32(weight), form, silu)

    saved = [at_least_float32(grad), x, weight] + [table] * learned
    count = 2 + learned
    second = differentiate_again(reference, saved, grads[:count], ctx.needed[:count])
    dgrad, dx, dw = second[:3]
    dgrad = None if dgrad is None else dgrad.to(grad.dtype)
    return dgrad, dx, dw, *[None] * 7, second[3] if learned else None, *[None] * 4


basis_linear_fwd.register_autograd(_differentiate, setup_context=_save)
basis_linear_bwd.register_autograd(_differentiate_again, setup_context=_save_backward)


@basis_linear_fwd.register_vmap
def _(info: Any, in_dims: Any, *arguments: Any, **keywords: Any) -> tuple[Tensor, int]:
    return each_sample(partial(basis_linear_fwd, **keywords), info, in_dims, arguments)


@basis_linear_bwd.register_vmap
def _(info: Any, in_dims: Any, *arguments: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    return each_sample(basis_linear_bwd, info, in_dims, arguments)


@register_flop_formula(torch.ops.kan.basis_linear_fwd)
def _forward_flops(x_shape: torch.Size, weight_shape: torch.Size, *args: Any, **kwargs: Any) -> int:
    """The matrix product alone; the basis functions are elementwise."""
    return 2 * x_shape[0] * weight_shape.numel()


@register_flop_formula(torch.ops.kan.basis_linear_bwd)
def _backward_flops(
    grad_shape: torch.Size, x_shape: torch.Size, weight_shape: torch.Size, *args: Any, **kwargs: Any
) -> int:
    need_dx, need_dw, need_dtable = args[-3:]
    return int(2 * x_shape[0] * weight_shape.numel() * ((need_dx or need_dtable) + need_dw))
