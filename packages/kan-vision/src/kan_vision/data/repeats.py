"""Images that several splits hold: what is held out must not have been seen before."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from kan_core.errors import KANError


class Divisible(Protocol):
    """Images of which a part can be taken."""

    def __len__(self) -> int: ...

    def part(self, indices: Tensor, /) -> Any:
        """The images at `indices`, in that order."""
        ...


S = TypeVar("S", bound=Divisible)


def without_repeats(train: S, val: S, keys: Sequence[Sequence[bytes]], what: str) -> tuple[S, S, int]:
    """Leave out of `train` what validation or test holds too, and of `val` what the test holds.

    The test split stays whole, so that its figures can be compared.

    Args:
        train: The training images.
        val: The validation images.
        keys: What every image of train, val and test is recognised by: see `digest`.
        what: The name of the data, for the message.

    Returns:
        What remains of `train` and of `val`, and how many images were left out.

    Raises:
        KANError: When nothing remains of one of them.
    """
    tested = set(keys[2])
    remaining = []
    for split, images, own, later in (
        ("training", train, keys[0], tested.union(keys[1])),
        ("val", val, keys[1], tested),
    ):
        positions = [i for i, key in enumerate(own) if key not in later]
        if not positions:
            raise KANError(f"{what}: every image of the {split} split is also in a later one, pixel for pixel")
        remaining.append(images.part(torch.tensor(positions)))
    dropped = len(train) + len(val) - sum(map(len, remaining))
    return remaining[0], remaining[1], dropped


def digest(pixels: Tensor) -> bytes:
    """A short key of an image: equal for equal pixels of equal shape and type, else different."""
    return hashlib.sha256(f"{pixels.dtype}{tuple(pixels.shape)}".encode() + pixels.numpy().tobytes()).digest()


def described(name: str, repeats: int) -> str:
    """The name of a data set, and how many images `without_repeats` took from it."""
    return f"{name} ({repeats:,} left out that a later split repeats)" if repeats else name
