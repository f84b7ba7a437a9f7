"""Layer factories by name: a model takes ``layer="rbf"`` or ``layer="linear"``, and has no KAN copy and MLP copy."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from kan_core import bases
from kan_core.errors import KANError
from kan_core.layers.conv import KANConv1d, KANConv2d, KANConv3d
from kan_core.layers.linear import KANLinear
from kan_core.registry import parse_spec

LayerFactory = Callable[..., nn.Module]
"""Makes a layer: ``factory(in_features, out_features, **kwargs)``; for a convolution also ``kernel_size``."""

_LINEAR: tuple[type[nn.Module], ...] = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_KAN: tuple[type[nn.Module], ...] = (KANLinear, KANConv1d, KANConv2d, KANConv3d)


def names() -> list[str]:
    """Names that :func:`get` understands: ``"linear"`` and every basis."""
    return ["linear", *bases.names()]


def get(layer: LayerFactory | str, *, conv: int = 0) -> LayerFactory:
    """A factory for layers of the kind that `layer` names.

    Args:
        layer: ``"linear"`` for ``nn.Linear`` / ``nn.Conv``, or a basis spec such as ``"rbf(num_centers=5)"`` for
            the KAN layer with it. A callable passes through.
        conv: 0 for fully connected layers, or the number of spatial dimensions of a convolution, 1 to 3.

    Raises:
        KANError: When the name or one of its arguments is not known.

    Example:
        >>> get("chebyshev(degree=3)")(16, 8)  # a KANLinear
        >>> get("linear", conv=2)(16, 8, kernel_size=3)  # an nn.Conv2d
    """
    if callable(layer):
        return layer
    if conv not in range(4):
        raise KANError(f"conv must be 0, 1, 2 or 3, got {conv!r}")
    name, arguments = parse_spec(layer, kind="layer")
    if name == "linear":
        if arguments:
            raise KANError(f"the layer 'linear' takes no arguments in its name, got {layer!r}")
        return _LINEAR[conv]
    if name not in bases.names():
        raise KANError(f"unknown layer {name!r}: choose one of {', '.join(names())}")
    return partial(_KAN[conv], basis=bases.get(layer))


def activation_before(layer: LayerFactory | str, name: str = "silu") -> nn.Module:
    """What a model puts before a hidden layer of this kind: an activation for ``"linear"``, nothing for a KAN layer.

    Args:
        layer: As in :func:`get`. Any layer but ``"linear"`` is taken to bring its own nonlinearity.
        name: ``"silu"``, ``"relu"`` or ``"gelu"``.

    Raises:
        KANError: For another activation name.
    """
    activations: dict[str, Callable[[], Any]] = {"silu": nn.SiLU, "relu": nn.ReLU, "gelu": nn.GELU}
    if name not in activations:
        raise KANError(f"activation must be one of {', '.join(activations)}, got {name!r}")
    return activations[name]() if layer == "linear" else nn.Identity()
