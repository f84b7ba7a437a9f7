"""A network by name from timm's registry, with errors that help."""

from __future__ import annotations

import difflib
from typing import Any

import timm
from torch import nn

import kan_vision  # noqa: F401  (its import registers our models)
from kan_core.errors import KANError


def our_models() -> list[str]:
    """The names of this package's models in timm's registry."""
    return [name for name in timm.list_models() if timm.model_entrypoint(name).__module__.startswith("kan_vision.")]


def build_network(
    model: str, model_kwargs: dict[str, Any], num_classes: int, in_chans: int, img_size: int | tuple[int, int]
) -> nn.Module:
    """`timm.create_model`, untrained.

    Args:
        model: A registered name: ours or timm's.
        model_kwargs: More arguments of that model.
        num_classes: Outputs.
        in_chans: Channels of the images.
        img_size: Size of the images; given to our models only, for many of timm's take none.

    Raises:
        KANError: When the name is unknown or the arguments do not fit.
    """
    ours = our_models()
    if not timm.is_model(model):
        near = difflib.get_close_matches(model, ours, n=5) + difflib.get_close_matches(model, timm.list_models(), n=3)
        hint = f"did you mean {' or '.join(dict.fromkeys(near))}? " if near else ""
        raise KANError(f"unknown model {model!r}: {hint}kan_vision has {', '.join(ours)}; timm's are allowed too")
    size = {"img_size": img_size} if model in ours else {}
    try:
        return timm.create_model(model, **{"num_classes": num_classes, "in_chans": in_chans, **size, **model_kwargs})
    except TypeError as error:
        raise KANError(f"model {model!r} refuses its model_kwargs: {error}") from None
