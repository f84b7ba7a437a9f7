"""The custom ops of the skeleton, one pair for all bases, registered without importing Triton."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from kan_core.errors import KANError

if TYPE_CHECKING:
    from kan_core.ops._triton.launch import Planes

# The family's module is imported when it is first computed; there `PLANES[name]` holds the basis functions.
FAMILIES = {
    "bspline-decay": "kan_core.ops.bspline_linear.triton_kernels",
    "bspline-clamp": "kan_core.ops.bspline_linear.triton_kernels",
    "rbf": "kan_core.ops._triton.families",
    "rswaf": "kan_core.ops._triton.families",
    "chebyshev": "kan_core.ops._triton.families",
}


def _planes(family: str) -> Planes:
    planes: Planes = import_module(FAMILIES[family]).PLANES[family]
    return planes


@torch.library.custom_op("kan::basis_linear_fwd", mutates_args=())
def basis_linear_fwd(
    x: Tensor,
    weight: Tensor,
    a: Tensor,
    b: Tensor,
    family: str,
    order: int,
    ratio: float,
    silu: bool,
    dtype: torch.dtype,
) -> Tensor:
    """Return y (batch, out) in `dtype`, in which the planes are multiplied: float32, bfloat16 or float16.

    x is (batch, in), weight (K, in, out), or (K + 1, in, out) with `silu`; a and b (in,) are float32. What they and
    `order` and `ratio` mean is the family's choice.
    """
    from kan_core.ops._triton import launch

    return launch.forward(x, weight, a, b, _planes(family), order, ratio, silu, dtype)


@torch.library.custom_op("kan::basis_linear_bwd", mutates_args=())
def basis_linear_bwd(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    a: Tensor,
    b: Tensor,
    family: str,
    order: int,
    ratio: float,
    silu: bool,
    dtype: torch.dtype,
    need_dx: bool,
    need_dw: bool,
) -> tuple[Tensor, Tensor]:
    """The gradients of x and weight; one that is not needed comes back empty."""
    from kan_core.ops._triton import launch

    return launch.backward(grad, x, weight, a, b, _planes(family), order, ratio, silu, dtype, need_dx, need_dw)


@basis_linear_fwd.register_fake
def _(x: Tensor, weight: Tensor, *args: Any) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[2], dtype=args[-1])


@basis_linear_bwd.register_fake
def _(grad: Tensor, x: Tensor, weight: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    need_dx, need_dw = args[-2:]
    return x.new_empty(x.shape if need_dx else 0), weight.new_empty(weight.shape if need_dw else 0)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, a, b, *ctx.options = inputs
    ctx.save_for_backward(x, weight, a, b)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    need_dx, need_dw = ctx.needs_input_grad[:2]
    dx, dw = basis_linear_bwd(grad, *ctx.saved_tensors, *ctx.options, need_dx, need_dw)
    return dx if need_dx else None, dw if need_dw else None, *[None] * 7


def _no_second_derivative(ctx: Any, *grads: Tensor) -> None:
    raise KANError("the 'triton' backend has no second derivative; use backend='reference' where one is needed")


basis_linear_fwd.register_autograd(_differentiate, setup_context=_save)
basis_linear_bwd.register_autograd(_no_second_derivative)


@register_flop_formula(torch.ops.kan.basis_linear_fwd)
def _forward_flops(x_shape: torch.Size, weight_shape: torch.Size, *args: Any, **kwargs: Any) -> int:
    """The matrix product alone; the basis functions are elementwise."""
    return 2 * x_shape[0] * weight_shape.numel()


@register_flop_formula(torch.ops.kan.basis_linear_bwd)
def _backward_flops(
    grad_shape: torch.Size, x_shape: torch.Size, weight_shape: torch.Size, *args: Any, **kwargs: Any
) -> int:
    need_dx, need_dw = args[-2:]
    return int(2 * x_shape[0] * weight_shape.numel() * (need_dx + need_dw))
