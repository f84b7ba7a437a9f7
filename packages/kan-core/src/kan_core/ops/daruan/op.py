"""The public function, its custom ops, and their registration with torch.library."""

from __future__ import annotations

from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from kan_core.errors import KANError
from kan_core.ops._common import differentiate_again, each_sample
from kan_core.ops._dispatch import choose_backend
from kan_core.ops.daruan.reference import daruan_linear_reference

READOUTS = ("exact", "fast")


def daruan_linear(
    x: Tensor,
    theta: Tensor,
    frequency: Tensor,
    phase: Tensor,
    factor: Tensor,
    *,
    readout: str = "exact",
    backend: str = "auto",
) -> Tensor:
    """y_o = Σ_i f_oi φ_oi(x_i): a circuit of r uploads on every edge, without a tensor over rows and edges.

    φ is ⟨Z⟩ (or the fast read-out of it) of a qubit that starts in H|0⟩ and is turned by Rz(θ_l) Ry(θ'_l)
    Rz(w_l x + b_l), l < r, then by Rz(θ_r) Ry(θ'_r); without the Rz(θ) when θ has one angle per repetition ("rpz").

    Only x and the parameters are kept for the backward pass, which runs every circuit again. All backends give the
    same bits in every run; those of "native" do not depend on the number of threads either. The product w x enters
    unrounded there. Second and higher derivatives go through the reference, which does make the (rows, out, in)
    values. All backends work under `torch.vmap`; only "reference" does under `torch.func.grad` and its kin.

    Args:
        x: Inputs ``(..., in)``.
        theta: Angles ``(out, in, r + 1, 2)``, or ``(out, in, r + 1, 1)`` for Ry alone.
        frequency: w, ``(out, in, r)``.
        phase: b, likewise.
        factor: f, ``(out, in)``.
        readout: ``"exact"`` for ⟨Z⟩ = |α|² − |β|², or ``"fast"`` for |α| − |β|.
        backend: "auto", "reference", "native" or "triton", see `kan_core.ops.BACKENDS`.

    Returns:
        y ``(..., out)`` in the type that x and theta promote to, computed in at least float32.

    Raises:
        KANError: Shapes, dtypes or devices that do not fit together, an unknown readout or backend, or a backend that
            x rules out.
    """
    _check(x, theta, frequency, phase, factor, readout)
    return run(choose(x, backend), x, theta, frequency, phase, factor, readout)


def choose(x: Tensor, backend: str) -> str:
    """The backend that computes `daruan_linear` of x when `backend` is asked for."""
    return choose_backend("daruan_linear", x, backend, refuses=_REFUSES).name


_REFUSES = dict.fromkeys(("cpu", "sparse", "expand"), "daruan_linear has no such kernel")


def run(
    backend: str, x: Tensor, theta: Tensor, frequency: Tensor, phase: Tensor, factor: Tensor, readout: str
) -> Tensor:
    """`daruan_linear` by a backend that has been chosen, of arguments that have been checked."""
    result = torch.promote_types(x.dtype, theta.dtype)
    dtype = torch.promote_types(result, torch.float32)
    theta, frequency, phase, factor = (t.to(dtype) for t in (theta, frequency, phase, factor))
    rows = x.reshape(-1, x.shape[-1])
    if backend == "reference":
        y = daruan_linear_reference(rows.to(dtype), theta, frequency, phase, factor, readout=readout)
    else:
        gates = _gates(theta, phase)
        y = daruan_fwd(rows, gates, frequency.permute(2, 1, 0), factor.T, readout == "fast", backend)
    return y.to(result).view(*x.shape[:-1], theta.shape[0])


def _gates(theta: Tensor, phase: Tensor) -> Tensor:
    """The angles about z and y, ``(r + 1, 2, in, out)``: an upload's phase joins the Rz after it."""
    angles, phases = theta.permute(2, 3, 1, 0), phase.permute(2, 1, 0)
    none = torch.zeros_like(angles[:1, 0])
    if angles.shape[1] == 1:
        return torch.stack([torch.cat([none, phases]), angles[:, 0]], dim=1)
    return torch.stack([angles[:, 0] + torch.cat([none, phases]), angles[:, 1]], dim=1)


def _reference(x: Tensor, gates: Tensor, frequency: Tensor, factor: Tensor, fast: bool) -> Tensor:
    """The definition in the arguments of the custom ops."""
    theta, weight = gates.permute(3, 2, 0, 1), frequency.permute(2, 1, 0)
    readout = "fast" if fast else "exact"
    none = torch.zeros_like(weight)
    return daruan_linear_reference(x.to(gates.dtype), theta, weight, none, factor.T, readout=readout)


def _check(x: Tensor, theta: Tensor, frequency: Tensor, phase: Tensor, factor: Tensor, readout: str) -> None:
    if readout not in READOUTS:
        raise KANError(f"readout is {readout!r}; choose one of {', '.join(READOUTS)}")
    if theta.dim() != 4 or theta.shape[2] < 2 or theta.shape[3] not in (1, 2) or 0 in theta.shape:
        raise KANError(f"theta must be (out, in, r + 1, 2 or 1) with r at least 1, got shape {tuple(theta.shape)}")
    outputs, features, repetitions, _ = theta.shape
    if x.dim() < 1 or x.shape[-1] != features:
        raise KANError(f"x must be (..., {features}) as theta has it, got shape {tuple(x.shape)}")
    uploads = (outputs, features, repetitions - 1)
    parameters = {"theta": theta, "frequency": frequency, "phase": phase, "factor": factor}
    shapes = dict(zip(parameters, (theta.shape, uploads, uploads, uploads[:2]), strict=True))
    for name, parameter in parameters.items():
        if parameter.shape != shapes[name]:
            raise KANError(f"{name} must have shape {shapes[name]} as theta has it, got {tuple(parameter.shape)}")
        if not parameter.is_floating_point() or not x.is_floating_point():
            raise KANError(f"x and {name} must have floating dtypes, got {x.dtype} and {parameter.dtype}")
        if parameter.device != x.device:
            raise KANError(f"x and {name} must be on one device, got {x.device} and {parameter.device}")


def _path(backend: str) -> ModuleType:
    if backend == "triton":
        from kan_core.ops.daruan import triton_kernels  # imports triton: only when chosen

        return triton_kernels
    from kan_core.ops.daruan import native

    return native


@torch.library.custom_op("kan::daruan_fwd", mutates_args=())
def daruan_fwd(x: Tensor, gates: Tensor, frequency: Tensor, factor: Tensor, fast: bool, backend: str) -> Tensor:
    """The forward pass of x (rows, in), gates (r + 1, 2, in, out), frequency (r, in, out) and factor (in, out)."""
    y: Tensor = _path(backend).forward(x, gates, frequency, factor, fast)
    return y


@torch.library.custom_op("kan::daruan_bwd", mutates_args=())
def daruan_bwd(
    grad: Tensor, x: Tensor, gates: Tensor, frequency: Tensor, factor: Tensor, fast: bool, backend: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of x, in its dtype, and of gates, frequency and factor."""
    dx, dgates, dfrequency, dfactor = _path(backend).backward(grad, x, gates, frequency, factor, fast)
    return dx, dgates, dfrequency, dfactor


@daruan_fwd.register_fake
def _(x: Tensor, gates: Tensor, frequency: Tensor, factor: Tensor, fast: bool, backend: str) -> Tensor:
    return gates.new_empty(x.shape[0], gates.shape[3])


@daruan_bwd.register_fake
def _(
    grad: Tensor, x: Tensor, gates: Tensor, frequency: Tensor, factor: Tensor, fast: bool, backend: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dx, dgates, dfrequency, dfactor = (t.new_empty(t.shape) for t in (x, gates, frequency, factor))
    return dx, dgates, dfrequency, dfactor


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.fast, ctx.backend = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    gradients = daruan_bwd(grad, *ctx.saved_tensors, ctx.fast, ctx.backend)
    return *(g if needed else None for g, needed in zip(gradients, ctx.needs_input_grad, strict=False)), None, None


def _differentiate_again(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
    """The derivative of the backward pass, through the reference."""
    second = differentiate_again(partial(_reference, fast=ctx.fast), ctx.saved_tensors, grads, [True] * 4)
    return *second, None, None


daruan_fwd.register_autograd(_differentiate, setup_context=_save)
daruan_bwd.register_autograd(_differentiate_again, setup_context=_save)


@daruan_fwd.register_vmap
def _(info: Any, in_dims: Any, *arguments: Any) -> tuple[Tensor, int]:
    return each_sample(daruan_fwd, info, in_dims, arguments)


@daruan_bwd.register_vmap
def _(info: Any, in_dims: Any, *arguments: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    return each_sample(daruan_bwd, info, in_dims, arguments)


def _edges_and_reps(x_shape: torch.Size, gates_shape: torch.Size) -> tuple[int, int]:
    """Rows times edges, and r."""
    return x_shape.numel() * gates_shape[3], gates_shape[0] - 1


@register_flop_formula(torch.ops.kan.daruan_fwd)
def _forward_flops(
    x_shape: torch.Size,
    gates_shape: torch.Size,
    frequency_shape: torch.Size,
    factor_shape: torch.Size,
    fast: bool,
    *args: Any,
    **kwargs: Any,
) -> int:
    """As `QKANLinear.elementwise_flops`: 21 for each edge and upload, less 9 in the first, the factor, the read-out."""
    count, reps = _edges_and_reps(x_shape, gates_shape)
    return count * (21 * reps - 9 + 2 + 7 * fast)


@register_flop_formula(torch.ops.kan.daruan_bwd)
def _backward_flops(
    grad_shape: torch.Size,
    x_shape: torch.Size,
    gates_shape: torch.Size,
    frequency_shape: torch.Size,
    factor_shape: torch.Size,
    fast: bool,
    *args: Any,
    **kwargs: Any,
) -> int:
    """The forward pass again; two rotations and two components, 18, and 6 for sums, for each edge and upload."""
    count, reps = _edges_and_reps(x_shape, gates_shape)
    return count * (21 * reps - 9 + 2 + 7 * fast + 24 * reps + 4 + 8 * fast)
