"""What layers of every kind check and cast alike."""

from __future__ import annotations

from torch import Tensor

from kan_core.errors import KANError
from kan_core.ops._common import at_least_float32 as at_least_float32

ACTIVATION_FLOPS = {
    "zero": 0,
    "identity": 0,
    "relu": 1,
    "relu2": 2,
    "sigmoid": 4,
    "elu": 4,  # ours: the source has none
    "silu": 5,
    "tanh": 6,
    "gelu": 14,
}
"""FLOPs per element that a comparison charges for an activation (arXiv 2407.16674)."""


def check_sizes(in_features: int, out_features: int) -> None:
    """Refuse sizes below 1.

    Raises:
        KANError: When one is.
    """
    if in_features < 1 or out_features < 1:
        raise KANError(f"in_features and out_features must be at least 1, got {in_features} and {out_features}")


def check_input(x: Tensor, in_features: int) -> None:
    """Refuse an input whose last dimension is not `in_features`.

    Raises:
        KANError: When it is not.
    """
    if x.shape[-1:] != (in_features,):
        raise KANError(f"expected an input of shape (..., {in_features}), got {tuple(x.shape)}")


def check_edge(output: int, input: int, out_features: int, in_features: int) -> None:
    """Refuse an edge that does not exist.

    Raises:
        KANError: When it does not.
    """
    if not (0 <= output < out_features and 0 <= input < in_features):
        raise KANError(f"edge ({output}, {input}) does not exist: the layer has {out_features} x {in_features} edges")


def matmul(features: Tensor, weight: Tensor) -> Tensor:
    """The product in the weight's precision, or in autocast's where that is on."""
    return features.to(weight.dtype) @ weight
