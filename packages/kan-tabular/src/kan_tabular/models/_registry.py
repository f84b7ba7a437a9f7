"""The models of this package by name; another package may add its own through the entry-point group."""

from __future__ import annotations

from torch import nn

from kan_core.registry import Registry

REGISTRY: Registry[nn.Module] = Registry("model", "kan_tabular.models")

register = REGISTRY.register
names = REGISTRY.names
create = REGISTRY.create
