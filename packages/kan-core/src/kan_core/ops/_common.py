"""What the ops share besides dispatch: second derivatives through the reference, vmap, precision, autocast."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor


def differentiate_again(
    reference: Callable[..., Tensor], saved: Sequence[Tensor], grads: Sequence[Tensor], needed: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """The derivative of a backward pass through the reference: exact, and differentiable again.

    Args:
        reference: The op as a function of the tensors that the backward pass differentiates, in ordinary torch.
        saved: The backward pass's inputs: the gradient of the output, then those tensors.
        grads: The gradients of its results, one for each of those tensors.
        needed: Which of its results it computed.

    Returns:
        The gradients of `saved`.
    """
    further = torch.is_grad_enabled()
    with torch.enable_grad():
        # aliases: the gradient may itself depend on x, and that dependence is not this function's to follow
        inputs = [t.view_as(t) if t.requires_grad else t.detach().requires_grad_() for t in saved]
        grad, *arguments = inputs
        first = torch.autograd.grad(reference(*arguments), arguments, grad, create_graph=True)
        pairs = [(d, g) for d, g, need in zip(first, grads, needed, strict=True) if need]
        derivatives, weights = zip(*pairs, strict=True)
        return torch.autograd.grad(derivatives, inputs, weights, create_graph=further, allow_unused=True)


def each_sample(
    op: Callable[..., Tensor | tuple[Tensor, ...]], info: Any, in_dims: Sequence[int | None], arguments: Sequence[Any]
) -> tuple[Any, Any]:
    """A rule of vmap for any op: one call per sample, the results stacked along their first dimension."""
    dims = list(zip(arguments, in_dims, strict=True))
    results: list[Any] = [op(*(a if d is None else a.select(d, i) for a, d in dims)) for i in range(info.batch_size)]
    if isinstance(results[0], Tensor):
        return torch.stack(results), 0
    stacked = tuple(map(torch.stack, zip(*results, strict=True)))
    return stacked, (0,) * len(stacked)


def at_least_float32(x: Tensor) -> Tensor:
    """`x`, half precision widened."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def without_autocast() -> AbstractContextManager[object]:
    """Products on the CPU in the dtypes of their operands, whatever autocast says; free where that says nothing."""
    return torch.autocast("cpu", enabled=False) if torch.is_autocast_enabled("cpu") else nullcontext()
