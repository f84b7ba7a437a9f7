"""Layer factories by name: a model takes ``layer="rbf"`` or ``layer="linear"``, and has no KAN copy and MLP copy."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from kan_core import bases
from kan_core.errors import KANError
from kan_core.layers.conv import KANConv1d, KANConv2d, KANConv3d
from kan_core.layers.linear import KANLinear
from kan_core.registry import Registry, parse_spec

LayerFactory = Callable[..., nn.Module]
"""Makes a layer: ``factory(in_features, out_features, **kwargs)``; for a convolution also ``kernel_size``."""

REGISTRY: Registry[nn.Module] = Registry("layer", "kan_core.layers")
"""The layers that are not a :class:`KANLinear` with one of the bases."""

_LINEAR: tuple[type[nn.Module], ...] = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_KAN: tuple[type[nn.Module], ...] = (KANLinear, KANConv1d, KANConv2d, KANConv3d)

register = REGISTRY.register


def names() -> list[str]:
    """Names that :func:`get` understands: ``"linear"``, every basis, and the layers of another form."""
    return ["linear", *bases.names(), *REGISTRY.names()]


def get(layer: LayerFactory | str, *, conv: int = 0) -> LayerFactory:
    """A factory for layers of the kind that `layer` names.

    Args:
        layer: ``"linear"`` for ``nn.Linear`` / ``nn.Conv``; a basis spec such as ``"rbf(num_centers=5)"`` for the KAN
            layer with it; or a layer of another form, ``"gr-kan(groups=4)"``. A callable passes through.
        conv: 0 for fully connected layers, or the number of spatial dimensions of a convolution, 1 to 3: for
            ``"linear"`` and the bases.

    Raises:
        KANError: When the name or one of its arguments is not known, or the layer has no convolution.

    Example:
        >>> get("chebyshev(degree=3)")(16, 8)  # a KANLinear
        >>> get("linear", conv=2)(16, 8, kernel_size=3)  # an nn.Conv2d
        >>> get("gr-kan")(16, 8)  # a GroupRationalLinear
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
    if name in bases.names():
        return partial(_KAN[conv], basis=bases.get(layer))
    if name not in REGISTRY.names():
        raise KANError(f"unknown layer {name!r}: choose one of {', '.join(names())}")
    if conv:
        raise KANError(f"the layer {name!r} has no convolution: choose 'linear' or one of {', '.join(bases.names())}")
    return _with_arguments(name, arguments)


def _with_arguments(name: str, arguments: dict[str, Any]) -> LayerFactory:
    factory = REGISTRY.factory(name)
    try:
        inspect.signature(factory).bind(in_features=1, out_features=1, **arguments)
    except TypeError as error:
        raise KANError(f"layer {name!r}: {error}") from None
    return partial(factory, **arguments)


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
