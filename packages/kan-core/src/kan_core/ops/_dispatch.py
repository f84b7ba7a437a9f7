"""Which implementation of an op runs: its argument, else `use_backend`, else `KAN_BACKEND`, else the best one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import Tensor

from kan_core.errors import KANError

BACKENDS = ("auto", "reference", "cpu", "triton")

_HAS_TRITON = find_spec("triton") is not None  # looked up, not imported: that happens when a kernel first runs

_in_context: str | None = (
    None  # of the process, like the environment variable; a plain global so that torch.compile can guard on it
)


class BackendChoice(NamedTuple):
    """The implementation that runs, and why."""

    name: str
    reason: str


def choose_backend(
    x: Tensor, requested: str = "auto", *, fuses: bool = False, triton_refuses: str = ""
) -> BackendChoice:
    """The implementation for the input x; an explicit request is met or raises KANError, it never falls back.

    Args:
        x: The op's input.
        requested: The argument of the call.
        fuses: Whether a compiler makes one pass of the reference's elementwise part.
        triton_refuses: Why the op's Triton kernels cannot take this call, empty when they can.
    """
    name, source = requested, "the argument backend"
    if name == "auto" and _in_context is not None:
        name, source = _in_context, "use_backend"
    elif name == "auto" and os.environ.get("KAN_BACKEND"):
        name, source = os.environ["KAN_BACKEND"], "the environment variable KAN_BACKEND"
    if name not in BACKENDS:
        raise KANError(f"{source} is {name!r}; choose one of {', '.join(BACKENDS)}")
    if name == "auto":
        return _automatic(x, fuses)
    triton_refuses = _without_triton(x) or triton_refuses
    if name == "triton" and triton_refuses:
        raise KANError(f"{source} is 'triton', but {triton_refuses}; use backend='auto'")
    if name == "cpu" and x.device.type != "cpu":
        raise KANError(f"{source} is 'cpu', but the input is on {x.device.type}; move it, or use backend='auto'")
    return BackendChoice(name, f"requested by {source}")


def _without_triton(x: Tensor) -> str:
    """Why no Triton kernel can run on x, empty when one can: on CUDA, or anywhere in Triton's interpreter."""
    if not _HAS_TRITON:
        return "triton is not installed"
    if x.device.type == "cuda" or (x.device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"):
        return ""
    return f"the input is on {x.device.type}"


def _automatic(x: Tensor, fuses: bool) -> BackendChoice:
    if fuses and torch.compiler.is_dynamo_compiling():
        return BackendChoice(
            "reference", "compiling: the elementwise part becomes one fused pass, which beats any opaque kernel"
        )
    # Dynamo (torch 2.11) takes is_exporting() for true in every torch.compile. Strict exports, which go through
    # it too, therefore keep the registered op as one node.
    if torch.compiler.is_exporting() and not torch.compiler.is_dynamo_compiling():
        return BackendChoice("reference", "exporting: a graph of ordinary ops converts to any format")
    if x.device.type == "cpu":
        return BackendChoice("cpu", "the input is on the CPU")
    if x.device.type == "cuda":
        # Proved in Triton's interpreter only, so far: what nobody has seen run on a GPU is not anyone's default.
        return BackendChoice("reference", "Triton kernels are not proved on a GPU yet: ask for them by name")
    return BackendChoice("reference", f"no kernel for {x.device.type} yet")


def explain_backend(x: Tensor, *, backend: str = "auto") -> BackendChoice:
    """Which implementation a call with input x would run here and now, and why.

    Raises:
        KANError: As the call itself would: unknown name, or a request that x does not allow.
    """
    return choose_backend(x, backend)


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run the ops inside the block, in all threads of the process, with the backend `name` unless a call names another.

    Raises:
        KANError: The name is not one of "auto", "reference", "cpu", "triton".
    """
    global _in_context
    if name not in BACKENDS:
        raise KANError(f"use_backend got {name!r}; choose one of {', '.join(BACKENDS)}")
    before, _in_context = _in_context, name
    try:
        yield
    finally:
        _in_context = before
