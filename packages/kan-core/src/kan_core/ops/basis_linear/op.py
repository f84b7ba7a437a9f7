"""The public function."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from kan_core.errors import KANError
from kan_core.ops import _native
from kan_core.ops._dispatch import choose_backend
from kan_core.ops.basis_linear import native
from kan_core.ops.basis_linear.custom import basis_linear_fwd
from kan_core.ops.basis_linear.form import PlaneForm

HALVES = (torch.float16, torch.bfloat16)


def basis_linear(
    x: Tensor,
    weight: Tensor,
    form: PlaneForm,
    *,
    planes: Callable[[Tensor], Tensor],
    silu: bool = False,
    backend: str = "auto",
) -> Tensor:
    """Sum learned functions: y[..., o] = sum_i sum_c weight[c, i, o] φ_c(x_i), + weight[K, i, o] silu(x_i) with `silu`.

    Args:
        x: Inputs, shape (..., in). Half precision is widened to float32 for the functions, not for the product.
        weight: Coefficients, plane-major: (K, in, out), or (K + 1, in, out) with `silu`, the base weights last.
        form: The functions φ as the kernels know them, see :meth:`kan_core.bases.Basis.plane_form`.
        planes: The same functions in torch, (..., in) -> (..., K, in): the definition, and what "reference" runs.
        silu: Whether the last plane of `weight` multiplies SiLU of the raw x.
        backend: "auto", "reference", "native", "triton" or "expand", see `kan_core.ops.BACKENDS`. Second derivatives go
            through the reference; `torch.func` differentiates only that. The GPU's kernels do not take float64.

    Returns:
        Shape (..., out), in the dtype of x; under autocast in the dtype of autocast.

    Raises:
        KANError: Shapes, dtypes or devices that do not fit together, an unknown backend, or one that x rules out.
    """
    kind = x.device.type
    autocast = kind != "meta" and torch.is_autocast_enabled(kind)  # which raises for meta
    _check(x, weight, form, silu, autocast)
    double = torch.float64 in (x.dtype, weight.dtype)
    refuses = dict.fromkeys(("cpu", "sparse"), "basis_linear has no such kernel")
    if reason := native.refuses(form, weight.shape[0] - int(silu)):
        refuses["native"] = reason
    if double:
        refuses |= dict.fromkeys(("triton", "expand"), "its kernels do not compute in float64")
    fuses = kind != "cpu" or bool(_native.unavailable())  # C kernels beat what a compiler makes of the planes
    choice = choose_backend("basis_linear", x, backend, fuses=fuses, refuses=refuses).name
    if choice == "reference":
        return basis_linear_reference(x, weight, planes, silu=silu)
    # Registered for autocast, an op gets all its arguments cast, tables too; here it only decides the dtype of y.
    dtype = torch.get_autocast_dtype(kind) if autocast and not double else x.dtype
    wide = torch.promote_types(dtype, torch.float32)
    a, b = (None if t is None else t.detach().to(wide) for t in (form.a, form.b))
    table = None if form.table is None else form.table.to(wide)
    rows = x.reshape(-1, x.shape[-1])
    y: Tensor = basis_linear_fwd(rows, weight, a, b, form.family, form.order, form.offset, silu, dtype, table, choice)
    return y.view(*x.shape[:-1], weight.shape[2])


def basis_linear_reference(
    x: Tensor, weight: Tensor, planes: Callable[[Tensor], Tensor], *, silu: bool = False
) -> Tensor:
    """What :func:`basis_linear` computes, by its definition; autograd keeps the planes."""
    coefficients = weight[:-1] if silu else weight
    features = planes(x.float() if x.dtype in HALVES else x)
    y = features.flatten(-2).to(weight.dtype) @ coefficients.flatten(0, 1)
    return y + F.silu(x).to(weight.dtype) @ weight[-1] if silu else y


def _check(x: Tensor, weight: Tensor, form: PlaneForm, silu: bool, autocast: bool) -> None:
    if weight.dim() != 3 or weight.shape[0] < 1 + int(silu):
        raise KANError(
            f"weight must be (planes, in, out) with at least {1 + silu} planes, got shape {tuple(weight.shape)}"
        )
    features = weight.shape[1]
    if x.dim() < 1 or x.shape[-1] != features:
        raise KANError(f"x must be (..., {features}) to fit the weight, got shape {tuple(x.shape)}")
    if not x.is_floating_point() or (x.dtype != weight.dtype and not autocast):
        raise KANError(f"x and weight must have one floating dtype, got {x.dtype} and {weight.dtype}; cast one of them")
    if x.device != weight.device:
        raise KANError(f"x and weight must be on one device, got {x.device} and {weight.device}")
    num_functions = weight.shape[0] - silu
    for name, tensor in {"a": form.a, "b": form.b}.items():
        if tensor is not None and tensor.shape != (features,):
            raise KANError(f"form.{name} must have shape ({features},), got {tuple(tensor.shape)}")
    table = form.table
    if table is not None and (table.shape[0] != num_functions or table.shape[-1] not in (1, features)):
        raise KANError(
            f"form.table must be ({num_functions}, rows, {features}), or (…, 1), to fit the weight, got shape "
            f"{tuple(table.shape)}"
        )
