"""Any layer of kan_core as the feed-forward part of timm's transformer blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from kan_core import KANError, layers
from kan_core.layers import FeedForward, GroupRationalLinear, LayerFactory

LayerChoice = LayerFactory | str | Sequence[LayerFactory | str]
"""A layer of :func:`kan_core.layers.get` for both places, or one for each."""


def layer_pair(layer: LayerChoice) -> list[LayerFactory | str]:
    """Both layers as factories, "linear" by its name: looked up once here, not once in every block.

    Raises:
        KANError: For an unknown layer, or more or fewer than two.
    """
    choices = [layer, layer] if isinstance(layer, str) or callable(layer) else list(layer)
    if len(choices) != 2:
        raise KANError(f"layer must be one layer or two, got {len(choices)}: {layer!r}")
    return [choice if choice == "linear" else layers.get(choice) for choice in choices]


class FeedForwardHook(FeedForward):
    """:class:`kan_core.layers.FeedForward` with the call of timm's `mlp_layer`: one class, and no copy of a ViT.

    timm's initialisation draws every ``nn.Linear`` of a model anew, also those inside KAN layers. Afterwards it calls
    the ``init_weights`` of every module that has one: here, KAN layers then draw by their own rule again, and ordinary
    layers keep timm's.

    Args:
        in_features: Width of the tokens.
        hidden_features: Width between the layers at ``width=1``.
        act_layer: Activation before an ordinary second layer; a KAN layer brings its own nonlinearity.
        norm_layer: Of timm's call; there is no norm between the layers.
        bias: False adds ``bias=False`` to the arguments of both layers.
        drop: Probability of a zero behind the activation and behind the second layer; with two "gr-kan" layers between
            the activation and the matrix of each, as in KAT.
        device: Where the parameters live.
        dtype: Type of the parameters.
        layer: A layer spec for both layers, or one for each.
        layer_kwargs: More arguments for both layers.
        width: Factor on the hidden width (rounded), for parameter- or FLOP-matched twins.

    Raises:
        KANError: For an unknown layer, more or fewer than two of them, or a norm between them.

    Shape:
        - Input: ``(..., in_features)``
        - Output: ``(..., in_features)``
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        act_layer: Callable[[], nn.Module] = nn.GELU,
        norm_layer: Callable[..., nn.Module] | None = None,
        bias: bool = True,
        drop: float = 0.0,
        device: Any = None,
        dtype: Any = None,
        *,
        layer: LayerChoice = "gr-kan",
        layer_kwargs: dict[str, Any] | None = None,
        width: float = 1.0,
    ) -> None:
        if norm_layer is not None:
            raise KANError("scale_mlp_norm must be False: there is no norm between the feed-forward layers")
        choices = layer_pair(layer)
        arguments = {**({} if bias else {"bias": False}), **(layer_kwargs or {})}
        first, second = (partial(layers.get(choice), **arguments) for choice in choices)
        hidden = max(1, round(hidden_features * width))
        super().__init__(in_features, hidden, layer=(first, second), dropout=drop, device=device, dtype=dtype)
        if choices[1] == "linear":
            self.activation = act_layer()

    def init_weights(self) -> None:
        """Draw the weights of the KAN layers anew; timm calls this after its own draw."""
        for layer in (self.first, self.second):
            reset = getattr(layer, "reset_parameters", None)
            if reset is not None and not isinstance(layer, nn.Linear):
                reset()

    @property
    def fc1(self) -> nn.Linear:
        """The first layer's matrix and bias, under timm's name: where the weights of a ViT go."""
        return _linear_map(self.first)

    @property
    def fc2(self) -> nn.Linear:
        """The second layer's matrix and bias, under timm's name."""
        return _linear_map(self.second)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., in_features)`` to the same shape."""
        if not (self.training and self.dropout.p and _rational(self.first) and _rational(self.second)):
            return super().forward(x)
        for layer in (self.first, self.second):
            x = layer.linear(self.dropout(layer.activation(x)))  # type: ignore[operator]
        return x


def _rational(layer: nn.Module) -> bool:
    return isinstance(layer, GroupRationalLinear)


def _linear_map(layer: nn.Module) -> nn.Linear:
    """The ``nn.Linear`` that an ordinary or group-rational layer ends in."""
    if isinstance(layer, GroupRationalLinear):
        return layer.linear
    if isinstance(layer, nn.Linear):
        return layer
    raise KANError(
        f"a feed-forward layer of type {type(layer).__name__} has no matrix of an MLP: layer must be 'gr-kan' or "
        "'linear' to take the weights of a ViT"
    )
