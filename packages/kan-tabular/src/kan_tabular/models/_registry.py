"""The models of this package by name; another package may add its own through the entry-point group."""

from __future__ import annotations

import difflib
from typing import Any

from torch import nn

from kan_core.errors import KANError
from kan_core.registry import Registry

REGISTRY: Registry[nn.Module] = Registry("model", "kan_tabular.models")

register = REGISTRY.register
names = REGISTRY.names


def create(name: str, **kwargs: Any) -> nn.Module:
    """A network, untrained.

    Args:
        name: One of `names`, such as ``"kan"``.
        **kwargs: Arguments of that model: ``cardinalities``, ``num_outputs``, ``hidden``, ...

    Raises:
        KANError: When the name is unknown or the arguments do not fit.
    """
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=3)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise KANError(f"unknown model {name!r}: {hint}choose one of {', '.join(names())}")
    try:
        return REGISTRY.factory(name)(**kwargs)
    except TypeError as error:
        raise KANError(f"model {name!r} refuses its arguments: {error}") from None
