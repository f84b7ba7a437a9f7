"""The public function, its custom ops, and their registration with torch.library."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from kan_core.errors import KANError
from kan_core.ops import _native
from kan_core.ops._common import differentiate_again, each_sample, without_autocast
from kan_core.ops._dispatch import choose_backend
from kan_core.ops.basis_linear.custom import basis_linear_fwd
from kan_core.ops.bspline_linear import cpu, native
from kan_core.ops.bspline_linear.reference import EDGES, bspline_linear_reference, has_closed_form


def bspline_linear(
    x: Tensor,
    weight: Tensor,
    lo: Tensor,
    step: Tensor,
    *,
    order: int,
    edge: str = "decay",
    silu: bool = False,
    backend: str = "auto",
) -> Tensor:
    """Sum learned splines: y[..., o] = sum_i sum_c weight[c, i, o] B_c(x_i) (+ weight[K, i, o] silu(x_i) with `silu`).

    Every input feature i has a uniform grid of G cells from lo[i] to lo[i] + G step[i], hence K = G + order basis
    functions; G follows from the shape of `weight`.

    Args:
        x: Inputs, shape (..., in). Half precision is computed in float32 and cast back; "triton" computes the basis
            functions in float32 and multiplies in the dtype of the result.
        weight: Spline coefficients, plane-major: (K, in, out), or (K + 1, in, out) with `silu`, the base weights last.
        lo: Left ends of the grids, shape (in,). Grid state: it receives no gradient.
        step: Cell widths, shape (in,), positive. Grid state: it receives no gradient.
        order: Degree of the splines, >= 0.
        edge: Beyond the grid: "decay" (the functions run out, zero beyond the extended grid), "clamp" (the value of the
            end, zero gradient) or "linear" (continued with the slope of the end).
        silu: Whether the last plane of `weight` multiplies SiLU of the raw x.
        backend: "auto", "reference", "cpu", "native", "sparse", "triton" or "expand", see
            `kan_core.ops.BACKENDS`. Second derivatives go through the reference; `torch.func` differentiates only that.
            The C kernels take orders up to 9, the GPU's orders 1 to 5, not edge="linear" and not float64.

    Returns:
        Shape (..., out), in the dtype of x; under autocast in the dtype of autocast, computed in float32 ("triton": as
        for inputs of that dtype).

    Raises:
        KANError: Shapes, dtypes or devices that do not fit together, an unknown edge policy or backend, or a backend
            that x rules out.
    """
    refuses = _refuses(x, weight, order, edge)
    # C kernels beat what a compiler makes of the closed form
    fuses = has_closed_form(order, edge) and (x.device.type != "cpu" or bool(_native.unavailable()))
    choice = choose_backend(
        "bspline_linear", x, backend, fuses=fuses, refuses=refuses, prefer=_prefer(weight.shape[0] - int(silu), order)
    ).name
    _check(x, weight, lo, step, order, edge, silu)
    kind = x.device.type
    # Registered for autocast, an op gets all its arguments cast, coefficients too; here it only decides the dtype of y.
    autocast = _autocast_enabled(kind) and torch.float64 not in (x.dtype, weight.dtype)
    out_dtype = torch.get_autocast_dtype(kind) if autocast else x.dtype
    if choice in ("triton", "expand"):
        rows, a, b = x.reshape(-1, x.shape[-1]), lo.detach().float(), step.detach().float()
        result: Tensor = basis_linear_fwd(
            rows, weight, a, b, f"bspline-{edge}", order, 0.0, silu, out_dtype, None, choice
        )
        return result.view(*x.shape[:-1], weight.shape[2])
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    x, weight, lo, step = (t.to(dtype) for t in (x, weight, lo.detach(), step.detach()))
    if choice == "reference":
        if autocast:
            with torch.autocast(kind, enabled=False):
                y = bspline_linear_reference(x, weight, lo, step, order=order, edge=edge, silu=silu)
        else:
            y = bspline_linear_reference(x, weight, lo, step, order=order, edge=edge, silu=silu)
    else:
        y = bspline_linear_fwd(x.reshape(-1, x.shape[-1]), weight, lo, step, order, edge, silu, choice)
        y = y.view(*x.shape[:-1], weight.shape[2])
    return y.to(out_dtype)


# CPU time of the sparse kernels over that of the dense ones, forward / forward + backward, k = 3, 2048 rows, 256 to 256
# one thread of an AMD EPYC (Zen 3): 1.75 / 1.76 at K = 5, 1.10 / 1.01 at K = 8, 0.84 / 0.80 at K = 10, 0.69 / 0.64 at
# K = 13, 0.43 / 0.39 at K = 23.
SPARSE_FROM = 2.5


def _prefer(num_functions: int, order: int) -> dict[str, str]:
    """The sparse kernels, where so few functions are not zero that a dense product does more work."""
    if num_functions < SPARSE_FROM * (order + 1):
        return {}
    return {"sparse": f"only {order + 1} of {num_functions} functions are not zero"}


def _refuses(x: Tensor, weight: Tensor, order: int, edge: str) -> dict[str, str]:
    """Backends that cannot take this call, and why."""
    refuses: dict[str, str] = {}
    if order > native.MAX_ORDER:
        refuses |= dict.fromkeys(
            ("native", "sparse"), f"its C kernels know the orders 0 to {native.MAX_ORDER}, not {order}"
        )
    reason = ""
    if edge == "linear":
        reason = "its kernels know the edges 'decay' and 'clamp', not 'linear'"
    elif not 1 <= order <= 5:  # the sum of truncated powers loses digits as the order grows
        reason = f"its kernels know the orders 1 to 5, not {order}"
    elif torch.float64 in (x.dtype, weight.dtype):
        reason = "its kernels do not compute in float64"
    if reason:
        refuses |= {"triton": reason, "expand": reason}
    return refuses


def _autocast_enabled(device_type: str) -> bool:
    return device_type != "meta" and torch.is_autocast_enabled(device_type)  # which raises for meta


def _check(x: Tensor, weight: Tensor, lo: Tensor, step: Tensor, order: int, edge: str, silu: bool) -> None:
    if edge not in EDGES:
        raise KANError(f"edge is {edge!r}; choose one of {', '.join(EDGES)}")
    if order < 0:
        raise KANError(f"order must not be negative, got {order}")
    fewest = order + 1 + int(silu)
    if weight.dim() != 3 or weight.shape[0] < fewest:
        raise KANError(
            f"weight must be (planes, in, out) with at least {fewest} planes, got shape {tuple(weight.shape)}"
        )
    features = weight.shape[1]
    if x.dim() < 1 or x.shape[-1] != features:
        raise KANError(f"x must be (..., {features}) to fit the weight, got shape {tuple(x.shape)}")
    if lo.shape != (features,) or step.shape != (features,):
        raise KANError(f"lo and step must have shape ({features},), got {tuple(lo.shape)} and {tuple(step.shape)}")
    if not x.is_floating_point() or (x.dtype != weight.dtype and not _autocast_enabled(x.device.type)):
        raise KANError(f"x and weight must have one floating dtype, got {x.dtype} and {weight.dtype}; cast one of them")
    if not x.device == weight.device == lo.device == step.device:
        raise KANError(
            f"x, weight, lo and step must be on one device, got {x.device}, {weight.device}, {lo.device}, {step.device}"
        )


_FORWARD = {"cpu": cpu.forward, "native": native.forward, "sparse": native.sparse_forward}
_BACKWARD = {"cpu": cpu.backward, "native": native.backward, "sparse": native.sparse_backward}


@torch.library.custom_op("kan::bspline_linear_fwd", mutates_args=(), device_types="cpu")
def bspline_linear_fwd(
    x: Tensor, weight: Tensor, lo: Tensor, step: Tensor, order: int, edge: str, silu: bool, backend: str
) -> Tensor:
    """The forward pass on a 2-D x, float32 or float64."""
    with without_autocast():
        return _FORWARD[backend](x, weight, lo, step, order, edge, silu)


@torch.library.custom_op("kan::bspline_linear_bwd", mutates_args=(), device_types="cpu")
def bspline_linear_bwd(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    lo: Tensor,
    step: Tensor,
    order: int,
    edge: str,
    silu: bool,
    backend: str,
    need_dx: bool,
    need_dw: bool,
) -> tuple[Tensor, Tensor]:
    """The gradients of x and weight; one that is not needed comes back empty."""
    with without_autocast():
        return _BACKWARD[backend](grad.contiguous(), x, weight, lo, step, order, edge, silu, need_dx, need_dw)


@bspline_linear_fwd.register_fake
def _(x: Tensor, weight: Tensor, lo: Tensor, step: Tensor, order: int, edge: str, silu: bool, backend: str) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[2])


@bspline_linear_bwd.register_fake
def _(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    lo: Tensor,
    step: Tensor,
    order: int,
    edge: str,
    silu: bool,
    backend: str,
    need_dx: bool,
    need_dw: bool,
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape if need_dx else 0), x.new_empty(weight.shape if need_dw else 0)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, lo, step, *ctx.options = inputs
    ctx.save_for_backward(x, weight, lo, step)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    need_dx, need_dw = ctx.needs_input_grad[:2]
    dx, dw = bspline_linear_bwd(grad, *ctx.saved_tensors, *ctx.options, need_dx, need_dw)
    return dx if need_dx else None, dw if need_dw else None, *[None] * 6


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.order, ctx.edge, ctx.silu, _, need_dx, need_dw = inputs
    ctx.needed = (need_dx, need_dw)
    ctx.save_for_backward(*tensors)


def _differentiate_again(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
    """The derivative of the backward pass, through the reference."""
    *saved, lo, step = ctx.saved_tensors

    def reference(x: Tensor, weight: Tensor) -> Tensor:
        return bspline_linear_reference(x, weight, lo, step, order=ctx.order, edge=ctx.edge, silu=ctx.silu)

    return *differentiate_again(reference, saved, grads, ctx.needed), *[None] * 8


@bspline_linear_fwd.register_vmap
def _(
    info: Any, in_dims: Any, x: Tensor, weight: Tensor, lo: Tensor, step: Tensor, *options: Any
) -> tuple[Tensor, int]:
    if in_dims[0] is not None and not any(dim is not None for dim in in_dims[1:]):  # more rows
        rows = x.movedim(in_dims[0], 0)
        y: Tensor = bspline_linear_fwd(rows.reshape(-1, x.shape[-1]), weight, lo, step, *options)
        return y.view(*rows.shape[:2], -1), 0
    return each_sample(bspline_linear_fwd, info, in_dims, (x, weight, lo, step, *options))


@bspline_linear_bwd.register_vmap
def _(info: Any, in_dims: Any, *arguments: Any) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
    return each_sample(bspline_linear_bwd, info, in_dims, arguments)


bspline_linear_fwd.register_autograd(_differentiate, setup_context=_save)
bspline_linear_bwd.register_autograd(_differentiate_again, setup_context=_save_backward)


@register_flop_formula(torch.ops.kan.bspline_linear_fwd)
def _forward_flops(x_shape: torch.Size, weight_shape: torch.Size, *args: Any, **kwargs: Any) -> int:
    """The GEMM alone; the basis functions are elementwise."""
    return 2 * x_shape[0] * weight_shape.numel()


@register_flop_formula(torch.ops.kan.bspline_linear_bwd)
def _backward_flops(
    grad_shape: torch.Size,
    x_shape: torch.Size,
    weight_shape: torch.Size,
    lo: Any,
    step: Any,
    order: int,
    edge: str,
    silu: bool,
    backend: str,
    need_dx: bool,
    need_dw: bool,
    **kwargs: Any,
) -> int:
    return 2 * x_shape[0] * weight_shape.numel() * (need_dx + need_dw)
