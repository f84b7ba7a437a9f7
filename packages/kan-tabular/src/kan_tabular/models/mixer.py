"""TabKAN's mixer: columns as tokens, mixed over tokens and over channels by KAN layers in turn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kan_core import layers
from kan_core.bases._base import check_at_least
from kan_core.layers import KANLinear, activation_before
from kan_tabular.models._registry import register
from kan_tabular.models.column_layer import ColumnLayer
from kan_tabular.models.edgewise import layer_arguments
from kan_tabular.models.kan import scaled_sizes

__all__ = ["KANMixer"]


class KANNet(nn.Module):
    """One layer of a kind and a linear map; an activation between them when the first is ``"linear"``.

    Args:
        features: Width of the input and of the output.
        hidden: Width between.
        layer: Any layer of kan_core by name.
        layer_kwargs: More arguments of it.
    """

    def __init__(self, features: int, hidden: int, layer: str, layer_kwargs: dict[str, Any]) -> None:
        super().__init__()
        self.inner = layers.get(layer)(features, hidden, **layer_kwargs)
        self.between = activation_before(layer)
        self.outer = nn.Linear(hidden, features)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., features)`` to the same shape."""
        y: Tensor = self.outer(self.between(self.inner(x)))
        return y

    def fit_grid(self, x: Tensor) -> None:
        """Knots of an adaptive basis at the quantiles of `x`."""
        if isinstance(self.inner, KANLinear) and self.inner.basis.adaptive:
            self.inner.update_grid(self.inner.as_rows(x))


class MixerBlock(nn.Module):
    """h + T(norm(h)ᵀ)ᵀ, then h + C(norm(h)): a net over the tokens T and one over the channels C.

    Shape:
        - Input: ``(rows, tokens, channels)``
        - Output: the same
    """

    def __init__(self, tokens: int, channels: int, token_dim: int, layer: str, layer_kwargs: dict[str, Any]) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(2))
        self.over_tokens = KANNet(tokens, token_dim, layer, layer_kwargs)
        self.over_channels = KANNet(channels, 2 * channels, layer, layer_kwargs)

    def forward(self, h: Tensor) -> Tensor:
        """One block."""
        h = h + self.over_tokens(self.norms[0](h).transpose(1, 2)).transpose(1, 2)
        y: Tensor = h + self.over_channels(self.norms[1](h))
        return y

    def fit_grid(self, h: Tensor) -> Tensor:
        """Knots of both nets at the quantiles of what they see; the block's output."""
        tokens = self.norms[0](h).transpose(1, 2)
        self.over_tokens.fit_grid(tokens)
        h = h + self.over_tokens(tokens).transpose(1, 2)
        self.over_channels.fit_grid(self.norms[1](h))
        y: Tensor = h + self.over_channels(self.norms[1](h))
        return y


@register("kan-mixer")
class KANMixer(nn.Module):
    r"""Each column is a token of `channels` numbers; blocks mix over tokens, then over channels; their mean is read.

    TabKAN embeds all columns by one shared linear map of a number, so that only the weights over tokens tell columns
    apart. Here each column has an embedding of its own, the edges of a linear `ColumnLayer`, so that categories and
    missing values are treated as in every other model.

    Args:
        cardinalities: Per column 0 when it is numeric, else the number of its codes, see `ColumnLayer`.
        num_outputs: Outputs: logits, or targets.
        layer: Of the nets' KAN layers: any layer of kan_core by name.
        layer_kwargs: More arguments for them. None: neither a base branch nor a bias, as in TabKAN, unless `layer` is
            ``"linear"``.
        width: Factor on `token_dim` and `channels`, for a twin of a given size.
        depth: Blocks L.
        token_dim: Width t of the nets over tokens.
        channels: Width c of a token; nets over channels have 2 c between.

    Raises:
        KANError: For sizes below 1, or an argument that a layer refuses.

    Shape:
        - Input: ``(rows, columns)``
        - Output: ``(rows, num_outputs)``

    Parameters, for C numeric columns and K functions: C c + c of the embedding, + C c for missing values,
    + L (C t K + t C + C + 2 c² K + 2 c² + c + 4 c), + 2 c, + (c + 1) · outputs.

    Reference: TabKAN (arXiv 2504.06559), KAN-Mixer.
    """

    def __init__(
        self,
        cardinalities: Sequence[int],
        num_outputs: int,
        layer: str = "chebyshev(degree=3)",
        layer_kwargs: dict[str, Any] | None = None,
        width: float = 1.0,
        depth: int = 4,
        token_dim: int = 64,
        channels: int = 128,
    ) -> None:
        super().__init__()
        check_at_least("depth", depth, 1)
        t, c = scaled_sizes([token_dim, channels], width)
        kwargs = layer_arguments(layer, layer_kwargs, {"base": None, "bias": False})
        self.first = ColumnLayer(cardinalities, c, "linear")
        self.blocks = nn.ModuleList(MixerBlock(len(cardinalities), c, t, layer, kwargs) for _ in range(depth))
        self.norm = nn.LayerNorm(c)
        self.head = nn.Linear(c, num_outputs)

    def tokens(self, x: Tensor) -> Tensor:
        """``(rows, columns) -> (rows, columns, channels)``."""
        assert self.first.bias is not None
        return self.first.contributions(x) + self.first.bias

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(rows, columns)`` to ``(rows, num_outputs)``."""
        h = self.tokens(x)
        for block in self.blocks:
            h = block(h)
        y: Tensor = self.head(self.norm(h).mean(dim=1))
        return y

    def column_layers(self) -> list[ColumnLayer]:
        """The embedding, whose edges are the tokens."""
        return [self.first]

    def last_layers(self) -> list[nn.Module]:
        """The last normalisation and the head."""
        return [self.norm, self.head]

    @torch.no_grad()
    def fit_grid(self, x: Tensor) -> None:
        """Knots of adaptive bases at the quantiles of what each layer sees of encoded rows `x`, front to back."""
        h = self.tokens(x)
        for block in self.blocks:
            assert isinstance(block, MixerBlock)
            h = block.fit_grid(h)
