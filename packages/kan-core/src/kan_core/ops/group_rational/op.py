"""The public function, its custom ops, and their registration with torch.library."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from kan_core.errors import KANError
from kan_core.ops._common import differentiate_again
from kan_core.ops._dispatch import choose_backend
from kan_core.ops.group_rational import cpu, native
from kan_core.ops.group_rational.reference import DENOMINATORS, group_rational_reference


def group_rational(
    x: Tensor, numerator: Tensor, denominator: Tensor, *, form: str = "sum_of_abs", backend: str = "auto"
) -> Tensor:
    r"""F(x) = P(x) / Q(x) with coefficients per contiguous group of features, P = Σ_{i=0..m} a_i xⁱ.

    Q is by `form`: ``"sum_of_abs"`` 1 + Σ |b_i| |x|ⁱ, ``"abs_of_sum"`` 1 + |Σ b_i xⁱ|, ``"floor"``
    0.1 + |b_0 + Σ b_i xⁱ|, ``"free"`` 1 + Σ b_i xⁱ, sums over i = 1..n. The derivatives of |b_i| and of |Σ| at 0 are
    +1, that of |x| is 0, the mean of both sides.

    All backends give the same bits in every run: no sum depends on the order of threads. Only x and the coefficients
    are kept for the backward pass. Second and higher derivatives go through the reference. All work under
    `torch.vmap`; only "reference" does under `torch.func.grad` and its kin.

    Args:
        x: Inputs, shape (..., features). Half precision is computed in float32 and cast back, also under autocast.
        numerator: a_0 … a_m, m ≥ 1, shape (g, m + 1) or (1, m + 1), g a divisor of features.
        denominator: b_1 … b_n, n ≥ 1, shape (g, n) or (1, n); b_0 … b_n for ``"floor"``.
        form: The form of Q.
        backend: "auto", "reference", "cpu", "native" or "triton", see `kan_core.ops.BACKENDS`. "native" takes up to 64
            coefficients of P and Q together, their constants included.

    Returns:
        F(x), in the shape and dtype of x.

    Raises:
        KANError: Shapes, dtypes or devices that do not fit together, an unknown form or backend, or a backend that x
            rules out.
    """
    _check(x, numerator, denominator, form)
    refuses = _refuses(numerator, denominator, form)
    choice = choose_backend("group_rational", x, backend, fuses=True, refuses=refuses).name
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    numerator, denominator = numerator.to(dtype), denominator.to(dtype)
    if choice == "reference":
        return group_rational_reference(x.to(dtype), numerator, denominator, form=form).to(x.dtype)
    y: Tensor = group_rational_fwd(x.reshape(-1, x.shape[-1]), numerator, denominator, form, choice)
    return y.view(x.shape)


def _refuses(numerator: Tensor, denominator: Tensor, form: str) -> dict[str, str]:
    """Backends that cannot take this call, and why."""
    refuses = dict.fromkeys(("sparse", "expand"), "group_rational has no such kernel")
    count = numerator.shape[1] + denominator.shape[1] + (form != "floor")
    if count > native.MOST_COEFFICIENTS:
        refuses["native"] = f"its kernels take at most {native.MOST_COEFFICIENTS} coefficients, not {count}"
    return refuses


def _check(x: Tensor, numerator: Tensor, denominator: Tensor, form: str) -> None:
    if form not in DENOMINATORS:
        raise KANError(f"form is {form!r}; choose one of {', '.join(DENOMINATORS)}")
    if x.dim() < 1 or x.shape[-1] < 1:
        raise KANError(f"x must be (..., features), got shape {tuple(x.shape)}")
    fewest = {"numerator": 2, "denominator": 2 if form == "floor" else 1}
    for name, c in (("numerator", numerator), ("denominator", denominator)):
        if c.dim() != 2 or c.shape[0] < 1 or c.shape[1] < fewest[name]:
            raise KANError(
                f"{name} must be (groups, coefficients) with at least {fewest[name]} coefficients, "
                f"got shape {tuple(c.shape)}"
            )
        if not c.is_floating_point() or not x.is_floating_point():
            raise KANError(f"x and {name} must have floating dtypes, got {x.dtype} and {c.dtype}")
        if c.device != x.device:
            raise KANError(f"x and {name} must be on one device, got {x.device} and {c.device}")
    groups = {c.shape[0] for c in (numerator, denominator)} | {1}
    if len(groups) > 2 or x.shape[-1] % max(groups):
        raise KANError(
            f"numerator and denominator must have 1 row or g rows, g a divisor of the {x.shape[-1]} features, "
            f"got {numerator.shape[0]} and {denominator.shape[0]}"
        )


def _path(backend: str) -> ModuleType:
    if backend == "triton":
        from kan_core.ops.group_rational import triton_kernels  # imports triton: only when chosen

        return triton_kernels
    return native if backend == "native" else cpu


@torch.library.custom_op("kan::group_rational_fwd", mutates_args=())
def group_rational_fwd(x: Tensor, numerator: Tensor, denominator: Tensor, form: str, backend: str) -> Tensor:
    """The forward pass on a 2-D x; the coefficients have the dtype of the arithmetic."""
    y: Tensor = _path(backend).forward(x.contiguous(), numerator, denominator, form)
    return y


@torch.library.custom_op("kan::group_rational_bwd", mutates_args=())
def group_rational_bwd(
    grad: Tensor,
    x: Tensor,
    numerator: Tensor,
    denominator: Tensor,
    form: str,
    backend: str,
    need_dx: bool,
    need_coefficients: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x, in its dtype, and of the coefficients; those that are not needed come back empty."""
    dx, da, db = _path(backend).backward(
        grad.contiguous(), x.contiguous(), numerator, denominator, form, need_dx, need_coefficients
    )
    return dx, da, db


@group_rational_fwd.register_fake
def _(x: Tensor, numerator: Tensor, denominator: Tensor, form: str, backend: str) -> Tensor:
    return x.new_empty(x.shape)


@group_rational_bwd.register_fake
def _(
    grad: Tensor,
    x: Tensor,
    numerator: Tensor,
    denominator: Tensor,
    form: str,
    backend: str,
    need_dx: bool,
    need_coefficients: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        x.new_empty(x.shape if need_dx else 0),
        numerator.new_empty(numerator.shape if need_coefficients else 0),
        denominator.new_empty(denominator.shape if need_coefficients else 0),
    )


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, numerator, denominator, *ctx.options = inputs
    ctx.save_for_backward(x, numerator, denominator)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    need_x, need_a, need_b = ctx.needs_input_grad[:3]
    dx, da, db = group_rational_bwd(grad, *ctx.saved_tensors, *ctx.options, need_x, need_a or need_b)
    return dx if need_x else None, da if need_a else None, db if need_b else None, None, None


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.form, _, need_dx, need_coefficients = inputs
    ctx.needed = (need_dx, need_coefficients, need_coefficients)
    ctx.save_for_backward(*tensors)


def _differentiate_again(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
    """The derivative of the backward pass, through the reference: exact, and differentiable again."""

    def reference(x: Tensor, numerator: Tensor, denominator: Tensor) -> Tensor:
        return group_rational_reference(x.to(numerator.dtype), numerator, denominator, form=ctx.form).to(x.dtype)

    return *differentiate_again(reference, ctx.saved_tensors, grads, ctx.needed), None, None, None, None


group_rational_fwd.register_autograd(_differentiate, setup_context=_save)
group_rational_bwd.register_autograd(_differentiate_again, setup_context=_save_backward)


def _batched(t: Tensor, dim: int | None, size: int) -> Tensor:
    """With vmap's dimension first."""
    return t.expand(size, *t.shape) if dim is None else t.movedim(dim, 0)


def _joined(size: int, dims: Any, *tensors: Tensor) -> tuple[list[Tensor], tuple[int, int]]:
    """A vmap's samples as further groups: (rows, features) tensors, then a and b; and the rows of a and b in one."""
    *planes, a, b = (_batched(t, dim, size) for t, dim in zip(tensors, dims, strict=False))
    groups = max(a.shape[1], b.shape[1])
    wide = [t.movedim(0, 1).flatten(1) for t in planes]
    return [*wide, *(c.expand(-1, groups, -1).flatten(0, 1) for c in (a, b))], (a.shape[1], b.shape[1])


@group_rational_fwd.register_vmap
def _(
    info: Any, in_dims: Any, x: Tensor, numerator: Tensor, denominator: Tensor, form: str, backend: str
) -> tuple[Tensor, int]:
    size = info.batch_size
    tensors, _ = _joined(size, in_dims, x, numerator, denominator)
    return group_rational_fwd(*tensors, form, backend).unflatten(1, (size, -1)), 1


@group_rational_bwd.register_vmap
def _(
    info: Any,
    in_dims: Any,
    grad: Tensor,
    x: Tensor,
    numerator: Tensor,
    denominator: Tensor,
    form: str,
    backend: str,
    need_dx: bool,
    need_coefficients: bool,
) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[int, int, int]]:
    size = info.batch_size
    tensors, rows = _joined(size, in_dims, grad, x, numerator, denominator)
    dx, *coefficients = group_rational_bwd(*tensors, form, backend, need_dx, need_coefficients)
    dx = dx.unflatten(1, (size, -1)) if need_dx else dx.expand(size, 0).t()
    if not need_coefficients:
        da, db = (c.expand(size, 0) for c in coefficients)
        return (dx, da, db), (1, 0, 0)
    samples = (c.unflatten(0, (size, -1)) for c in coefficients)
    da, db = (s.sum(1, keepdim=True) if count == 1 else s for s, count in zip(samples, rows, strict=True))
    return (dx, da, db), (1, 0, 0)


def _degrees(numerator_shape: torch.Size, denominator_shape: torch.Size, form: str) -> int:
    """The sum m + n."""
    return numerator_shape[1] - 1 + denominator_shape[1] - (form == "floor")


@register_flop_formula(torch.ops.kan.group_rational_fwd)
def _forward_flops(
    x_shape: torch.Size,
    numerator_shape: torch.Size,
    denominator_shape: torch.Size,
    form: str,
    *args: Any,
    **kwargs: Any,
) -> int:
    """KAT's count for each number: 2m + 2n + 3."""
    return x_shape.numel() * (2 * _degrees(numerator_shape, denominator_shape, form) + 3)


@register_flop_formula(torch.ops.kan.group_rational_bwd)
def _backward_flops(
    grad_shape: torch.Size,
    x_shape: torch.Size,
    numerator_shape: torch.Size,
    denominator_shape: torch.Size,
    form: str,
    *args: Any,
    **kwargs: Any,
) -> int:
    """6m + 6n + 3 for each number: P, Q and their derivatives, w, v and dx, and the terms of the sums."""
    return x_shape.numel() * (6 * _degrees(numerator_shape, denominator_shape, form) + 3)
