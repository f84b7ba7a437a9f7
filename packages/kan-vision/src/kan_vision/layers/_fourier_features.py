r"""Φ̂(QKᵀ): sums of learned Fourier series of attention scores, which the backward pass computes again.

For scores x_kq of a query k and the keys q, y_kp = Σ_q [b(x_kq) + Σ_m a_pqm cos(m x_kq) + b_pqm sin(m x_kq)]. Neither
the scores (queries · keys numbers) nor their harmonics (2G times as many) are kept for the backward pass; both passes
work in blocks that stay in the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import register_flop_formula

from kan_core.ops._dispatch import wants_reference

BLOCK = 1 << 18
"""Scores that are computed at once, 1 MiB of float32: smaller blocks cost calls, larger ones leave the cache."""

BASES: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "identity": (lambda x: x, lambda grad, x: grad.expand_as(x)),
    "silu": (F.silu, lambda grad, x: torch.ops.aten.silu_backward(grad.expand_as(x), x)),
    "gelu": (F.gelu, lambda grad, x: torch.ops.aten.gelu_backward(grad.expand_as(x), x)),
}
"""The base functions b and their gradients."""

# The op runs on every device, so what chooses between it and its definition must not see the device of the scores.
_ANY_DEVICE = torch.empty(0, device="cpu")


def fourier_features(
    q: Tensor,
    k: Tensor,
    planes: Tensor,
    *,
    keep: Tensor | None = None,
    base: str | None = None,
    scale: float = 1.0,
) -> Tensor:
    """Φ̂ of the scores ``scale · q kᵀ``, for every head.

    Only the arguments are kept for the backward pass. First derivatives only, except under ``use_backend("reference")``
    and in `torch.func`, where autograd follows the definition and keeps everything; exported graphs hold it too.

    Args:
        q: Queries ``(batch, heads, queries, head_dim)``.
        k: Keys ``(batch, heads, keys, head_dim)``.
        planes: Coefficients ``(2G, heads, keys, rank)``, those of the cosines first, in the dtype to compute in.
        keep: Boolean, ``(batch, heads, queries, keys)`` by broadcasting; the score is 0 where it is False.
        base: None for b = 0, or a name of :data:`BASES`.
        scale: Factor on the scores.

    Returns:
        Shape ``(batch, heads, queries, rank)``, in the dtype of `planes`.
    """
    if keep is not None:
        keep = keep.expand(*q.shape[:3], k.shape[2])
    if wants_reference(_ANY_DEVICE, fuses=False):
        with full_precision(q.device.type):
            return features_of_scores(_scores(q, k, keep, scale, planes.dtype), planes, base)
    y: Tensor = fourier_features_fwd(q, k, planes, keep, scale, base or "")
    return y


def features_of_scores(scores: Tensor, planes: Tensor, base: str | None) -> Tensor:
    """The definition: ``(..., heads, queries, keys)`` and ``(2G, heads, keys, rank)`` to ``(..., queries, rank)``."""
    cosines, sines = planes.chunk(2)
    y = BASES[base][0](scores).sum(-1, keepdim=True) if base else scores.new_zeros(())
    for (cos, sin), a, b in zip(harmonics(scores, len(cosines)), cosines, sines, strict=True):
        y = y + cos @ a + sin @ b
    return y


def harmonics(x: Tensor, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """cos(mx) and sin(mx) for m = 1 … `count`, by angle addition from one cosine and one sine."""
    cos = first_cos = x.cos()
    sin = first_sin = x.sin()
    for m in range(1, count + 1):
        yield cos, sin
        if m < count:
            cos, sin = (
                torch.addcmul(cos * first_cos, sin, first_sin, value=-1),
                torch.addcmul(sin * first_cos, cos, first_sin),
            )


def full_precision(device: str) -> AbstractContextManager[object]:
    """Products in the dtypes of their operands, whatever autocast says; nothing in a graph where that says nothing."""
    autocast = device != "meta" and torch.is_autocast_enabled(device)  # which raises for meta
    return torch.autocast(device, enabled=False) if autocast else nullcontext()


def _scores(q: Tensor, k: Tensor, keep: Tensor | None, scale: float, dtype: torch.dtype) -> Tensor:
    scores = (q.to(dtype) * scale) @ k.to(dtype).mT
    return scores if keep is None else scores.masked_fill(~keep, 0)


def _blocks(q: Tensor, k: Tensor, keep: Tensor | None, block: int) -> Iterator[tuple[tuple[slice, ...], slice, Any]]:
    """Index of the queries, of the samples, and the mask, for `block` scores at a time: whole samples if they fit."""
    batch, heads, queries, _ = q.shape
    rows = max(1, block // (heads * k.shape[2]))
    samples, rows = max(1, rows // max(1, queries)), min(rows, queries)
    for first in range(0, batch, samples):
        sample = slice(first, first + samples)
        for row in range(0, queries, max(1, rows)):
            here = (sample, slice(None), slice(row, row + rows))
            yield here, sample, None if keep is None else keep[here]


@torch.library.custom_op("kan::fourier_features_fwd", mutates_args=())
def fourier_features_fwd(q: Tensor, k: Tensor, planes: Tensor, keep: Tensor | None, scale: float, base: str) -> Tensor:
    """The forward pass, block by block."""
    y = planes.new_empty(*q.shape[:3], planes.shape[3])
    with full_precision(q.device.type):
        for here, sample, kept in _blocks(q, k, keep, BLOCK):
            y[here] = features_of_scores(_scores(q[here], k[sample], kept, scale, planes.dtype), planes, base or None)
    return y


@torch.library.custom_op("kan::fourier_features_bwd", mutates_args=())
def fourier_features_bwd(
    grad: Tensor, q: Tensor, k: Tensor, planes: Tensor, keep: Tensor | None, scale: float, base: str
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of q and k, in their dtypes, and of the planes."""
    dtype = planes.dtype
    dq, dk = q.new_empty(q.shape), k.new_zeros(k.shape, dtype=dtype)
    dplanes = torch.zeros_like(planes, memory_format=torch.contiguous_format)
    with full_precision(q.device.type):
        for here, sample, kept in _blocks(q, k, keep, BLOCK):
            queries, keys = q[here].to(dtype), k[sample].to(dtype)
            scores = _scores(queries, keys, kept, scale, dtype)
            dscores = _differentiate_block(grad[here], scores, planes, base, dplanes).mul_(scale)
            if kept is not None:
                dscores = dscores.masked_fill_(~kept, 0)
            dq[here] = dscores @ keys
            dk[sample].add_(dscores.mT @ queries)
    return dq, dk.to(k.dtype), dplanes


def _differentiate_block(grad: Tensor, scores: Tensor, planes: Tensor, base: str, dplanes: Tensor) -> Tensor:
    """The gradient of the scores of a block; that of the planes is added to `dplanes`."""
    cosines, sines = planes.chunk(2)
    dcosines, dsines = dplanes.chunk(2)
    dscores = torch.zeros_like(scores)
    if base:
        dscores += BASES[base][1](grad.sum(-1, keepdim=True), scores)
    for m, (cos, sin) in enumerate(harmonics(scores, len(cosines))):
        dscores.addcmul_(grad @ sines[m].mT, cos, value=m + 1)
        dscores.addcmul_(grad @ cosines[m].mT, sin, value=-m - 1)
        dcosines[m].add_((cos.mT @ grad).sum(0))
        dsines[m].add_((sin.mT @ grad).sum(0))
    return dscores


@fourier_features_fwd.register_fake
def _(q: Tensor, k: Tensor, planes: Tensor, keep: Tensor | None, scale: float, base: str) -> Tensor:
    return planes.new_empty(*q.shape[:3], planes.shape[3])


@fourier_features_bwd.register_fake
def _(
    grad: Tensor, q: Tensor, k: Tensor, planes: Tensor, keep: Tensor | None, scale: float, base: str
) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), planes.new_empty(planes.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.scale, ctx.base = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    dq, dk, dplanes = fourier_features_bwd(grad, *ctx.saved_tensors, ctx.scale, ctx.base)
    return dq, dk, dplanes, None, None, None


fourier_features_fwd.register_autograd(_differentiate, setup_context=_save)


@register_flop_formula(torch.ops.kan.fourier_features_fwd)
def _forward_flops(q: torch.Size, k: torch.Size, planes: torch.Size, *args: Any, **kwargs: Any) -> int:
    """The products for the scores, and one for each plane."""
    return 2 * q[:3].numel() * k[2] * (q[3] + planes[0] * planes[3])


@register_flop_formula(torch.ops.kan.fourier_features_bwd)
def _backward_flops(
    grad: torch.Size, q: torch.Size, k: torch.Size, planes: torch.Size, *args: Any, **kwargs: Any
) -> int:
    """The scores again and their two gradients, and two products for each plane."""
    return 2 * q[:3].numel() * k[2] * (3 * q[3] + 2 * planes[0] * planes[3])
