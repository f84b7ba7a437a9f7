"""Which implementation of an op runs: its argument, else `use_backend`, else `KAN_BACKEND`, else the best one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kan_core.errors import KANError
from kan_core.ops import _native

BACKENDS = ("auto", "reference", "cpu", "native", "sparse", "triton", "expand")
"""The names; every op has some of them, "auto" and "reference" always.

- reference: the definition, in ordinary torch ops; any device, and the only one that can always be differentiated twice
- cpu: torch's own vector passes over blocks that stay in the cache
- native: C kernels, compiled on first use by the machine's C compiler (as Triton and Inductor do)
- sparse: C kernels that touch the order + 1 functions alone that are not zero
- triton: fused GPU kernels
- expand: a GPU kernel that writes the basis planes, then the vendor's matrix product
"""

_HAS_TRITON = find_spec("triton") is not None  # looked up, not imported: that happens when a kernel first runs

# Of the process, like the environment variable; plain globals so that torch.compile can guard on them.
_in_context: str | None = None
_record: list[BackendChoice] | None = None


class BackendChoice(NamedTuple):
    """The implementation of an op that runs, and why."""

    op: str
    name: str
    reason: str


def choose_backend(
    op: str,
    x: Tensor,
    requested: str = "auto",
    *,
    fuses: bool = False,
    refuses: Mapping[str, str] = MappingProxyType({}),
    prefer: Mapping[str, str] = MappingProxyType({}),
) -> BackendChoice:
    """The implementation of `op` for the input x; an explicit request is met or raises KANError, never replaced.

    Args:
        op: Name of the op, for messages and :func:`explain`.
        x: Its input.
        requested: The argument of the call.
        fuses: Whether a compiler makes one pass of the reference's elementwise part.
        refuses: Backends that cannot take this call, or that the op does not have, and why.
        prefer: Backends that "auto" tries before "native" and "cpu" on a CPU, and why.
    """
    name, source = _requested(requested)
    if name == "auto":
        choice = BackendChoice(op, *_automatic(x, fuses, refuses, prefer))
    else:
        reason = _unavailable(name, x) or refuses.get(name, "")
        if reason:
            raise KANError(f"{source} is {name!r}, but {reason}; use backend='auto' for {op}")
        choice = BackendChoice(op, name, f"requested by {source}")
    if _record is not None:
        _record.append(choice)
    return choice


def wants_reference(x: Tensor, *, fuses: bool) -> bool:
    """Whether planes of a basis on their own are best computed by the reference: asked for, or fused by a compiler."""
    name, _ = _requested("auto")
    return name == "reference" or (name == "auto" and _automatic(x, fuses, {}, {})[0] == "reference")


def _requested(argument: str) -> tuple[str, str]:
    """The name that is asked for, and by what."""
    name, source = argument, "the argument backend"
    if name == "auto" and _in_context is not None:
        name, source = _in_context, "use_backend"
    elif name == "auto" and os.environ.get("KAN_BACKEND"):
        name, source = os.environ["KAN_BACKEND"], "the environment variable KAN_BACKEND"
    if name not in BACKENDS:
        raise KANError(f"{source} is {name!r}; choose one of {', '.join(BACKENDS)}")
    return name, source


def _unavailable(name: str, x: Tensor) -> str:
    """Why no op can run `name` on x here, empty when one can."""
    device = x.device.type
    if name == "reference":
        return ""
    if name in ("triton", "expand"):
        if not _HAS_TRITON:
            return "triton is not installed"
        interpreted = device == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"
        return "" if device == "cuda" or interpreted else f"the input is on {device}"
    if device != "cpu":
        return f"the input is on {device}"
    return "" if name == "cpu" else _native.unavailable()


def _automatic(x: Tensor, fuses: bool, refuses: Mapping[str, str], prefer: Mapping[str, str]) -> tuple[str, str]:
    if fuses and torch.compiler.is_dynamo_compiling():
        return "reference", "compiling: the elementwise part becomes one fused pass, which beats any opaque kernel"
    # Dynamo (torch 2.11) takes is_exporting() for true in every torch.compile. Strict exports, which go through
    # it too, therefore keep the registered op as one node.
    if torch.compiler.is_exporting() and not torch.compiler.is_dynamo_compiling():
        return "reference", "exporting: a graph of ordinary ops converts to any format"
    if not torch.compiler.is_compiling() and torch._C._functorch.peek_interpreter_stack() is not None:
        return "reference", "inside a transform of torch.func, which differentiates ordinary ops only"
    if x.device.type == "cuda":
        # Proved in Triton's interpreter only, so far: what nobody has seen run on a GPU is not anyone's default.
        return "reference", "Triton kernels are not proved on a GPU yet: ask for them by name"
    if x.device.type != "cpu":
        return "reference", f"no kernel for {x.device.type} yet"
    why_not: list[str] = []
    for name, reason in {**prefer, "native": "the input is on the CPU", "cpu": "the input is on the CPU"}.items():
        obstacle = refuses.get(name, "") or _unavailable(name, x)
        if not obstacle:
            return name, "; ".join([reason, *why_not])
        why_not.append(f"not {name}: {obstacle}")
    return "reference", "; ".join(why_not)


def explain(function: Callable[[Tensor], Any], x: Tensor) -> list[BackendChoice]:
    """Which implementations `function` runs for the input x here and now, and why, in the order of its calls.

    Args:
        function: A layer, a whole model, or a function that calls ops, such as
            ``lambda x: group_rational(x, a, b)``. It is run once without gradients, modules in evaluation mode.
        x: Its input.

    Returns:
        One entry per call of an op with more than one implementation; none when everything is ordinary torch.

    Raises:
        KANError: As the call itself would: an unknown name, or a request that x does not allow.
    """
    global _record
    training = isinstance(function, nn.Module) and [m for m in function.modules() if m.training]
    before, _record = _record, []
    try:
        if isinstance(function, nn.Module):
            function.eval()
        with torch.no_grad():
            function(x)
        return _record
    finally:
        _record = before
        for module in training or []:
            module.training = True


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run the ops inside the block, in all threads of the process, with the backend `name` unless a call names another.

    Raises:
        KANError: The name is not one of :data:`BACKENDS`.
    """
    global _in_context
    if name not in BACKENDS:
        raise KANError(f"use_backend got {name!r}; choose one of {', '.join(BACKENDS)}")
    before, _in_context = _in_context, name
    try:
        yield
    finally:
        _in_context = before
