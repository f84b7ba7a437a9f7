"""Graph attention over the nodes of a spectrogram, with any kind of layer for its maps.

Attention between nodes i and j depends on x_i ⊙ x_j, which is symmetric: the map of pairs, by far the dearest of a
network of KAN layers, runs over the N(N + 1)/2 pairs i ≤ j alone, and its result is mirrored. Nothing is approximated.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from kan_core import layers
from kan_core.errors import KANError
from kan_core.layers import LayerFactory

__all__ = ["GraphAttention", "GraphPool", "HeterogeneousGraphAttention", "Layer"]

Activation = Literal["none", "selu"]
Layer = LayerFactory | str


class GraphAttention(nn.Module):
    r"""Every node attends to all nodes: y_i = K_1(Σ_j A_ij x_j) + K_2(x_i), then batch normalisation and SELU.

    A is the softmax over j of a_ij = w · tanh(K_a(x_i ⊙ x_j)) / τ. The K are maps of the kind that `layer` names:
    affine for "linear", learned functions for a KAN layer. In training, dropout 0.2 hits the nodes first. Normalisation
    is over the nodes of all samples.

    Args:
        in_features: Features d of a node.
        out_features: Features d' of a node afterwards.
        temperature: τ: the larger, the more equal the attention.
        layer: Kind of the maps, see :func:`kan_core.layers.get`.
        layer_kwargs: More arguments for the maps.
        dropout: Probability.
        checkpoint: Compute the map of pairs again in the backward pass instead of keeping what it needs: same result,
            less memory, more time.

    Raises:
        KANError: For an unknown layer or a temperature that is not positive.

    Shape:
        - Input: ``(batch, nodes, in_features)``
        - Output: ``(batch, nodes, out_features)``

    Parameters: 3 maps d → d', and 3 d'; with linear maps 3 (d d' + d') + 3 d'.

    Reference: AASIST (arXiv 2110.01200), section 2.2; with KAN maps AASIST3 (arXiv 2408.17352).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        temperature: float = 1.0,
        layer: Layer = "linear",
        layer_kwargs: dict[str, Any] | None = None,
        dropout: float = 0.2,
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        make = partial(layers.get(layer), **(layer_kwargs or {}))
        self.temperature = _check_temperature(temperature)
        self.checkpoint = checkpoint
        self.dropout = nn.Dropout(dropout)
        self.attention = make(in_features, out_features)
        self.attention_weight = _vector(out_features)
        self.with_attention = make(in_features, out_features)
        self.without_attention = make(in_features, out_features)
        self.norm = nn.BatchNorm1d(out_features)
        self.activation = nn.SELU()

    def forward(self, x: Tensor) -> Tensor:
        """The nodes after one round of attention."""
        x = self.dropout(x)
        y = self.with_attention(self.attention_matrix(x) @ x) + self.without_attention(x)
        return _flat(lambda rows: self.activation(self.norm(rows)), y)

    def attention_matrix(self, x: Tensor) -> Tensor:
        """A, shape ``(batch, nodes, nodes)``, with rows that sum to 1."""
        return (self.pair_logits(x) / self.temperature).softmax(dim=2)

    def pair_logits(self, x: Tensor) -> Tensor:
        """τ a_ij, shape ``(batch, nodes, nodes)``, exactly symmetric."""
        first, second, place = _pairs(x)
        scores = _run(self._scores, self.checkpoint, x, first, second)
        return _mirrored(scores.squeeze(2), place)

    def _scores(self, x: Tensor, first: Tensor, second: Tensor) -> Tensor:
        return _pair_scores(x, first, second, self.attention, self.attention_weight)


class HeterogeneousGraphAttention(nn.Module):
    r"""Attention over two kinds of nodes at once, and a stack node that gathers both.

    With X = [K_t X1; K_s X2]:

    - nodes: as :class:`GraphAttention`, with one K_a for all pairs but three vectors w: for pairs inside X1, inside X2
      and across; the softmax runs over all nodes jointly;
    - stack node m: m' = K_1M(Σ_n α_n x_n) + K_2M(m), α_n = softmax_n(w_M · tanh(K_aM(x_n ⊙ m)) / τ), without norm or
      activation. It reads X, and the nodes do not see it.

    Args:
        in_features: Features d of a node.
        out_features: Features d' of a node afterwards.
        temperature: τ.
        activation: After the batch normalisation of the nodes: "selu" (AASIST) or "none" (AASIST3).
        layer: Kind of the maps, see :func:`kan_core.layers.get`.
        layer_kwargs: More arguments for the maps.
        dropout: Probability, on X.
        checkpoint: As in :class:`GraphAttention`.

    Raises:
        KANError: For an unknown layer or activation, or a temperature that is not positive.

    Shape:
        - Input: X1 ``(batch, n1, in_features)``, X2 ``(batch, n2, in_features)``, m ``(1 or batch, 1, in_features)`` or
          None for the mean of X
        - Output: the same three with `out_features`, m' ``(batch, 1, out_features)``

    Parameters: 2 maps d → d, 6 maps d → d', and 6 d'; with linear maps 2 (d² + d) + 6 (d d' + d') + 6 d'.

    Reference: AASIST (arXiv 2110.01200), section 2.3; with KAN maps AASIST3 (arXiv 2408.17352).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        temperature: float = 1.0,
        activation: Activation = "selu",
        layer: Layer = "linear",
        layer_kwargs: dict[str, Any] | None = None,
        dropout: float = 0.2,
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        if activation not in get_args(Activation):
            raise KANError(f"activation must be one of {', '.join(get_args(Activation))}, got {activation!r}")
        make = partial(layers.get(layer), **(layer_kwargs or {}))
        self.temperature = _check_temperature(temperature)
        self.checkpoint = checkpoint
        self.project_first = make(in_features, in_features)
        self.project_second = make(in_features, in_features)
        self.dropout = nn.Dropout(dropout)
        self.attention = make(in_features, out_features)
        self.attention_stack = make(in_features, out_features)
        self.attention_weight_first = _vector(out_features)
        self.attention_weight_second = _vector(out_features)
        self.attention_weight_across = _vector(out_features)
        self.attention_weight_stack = _vector(out_features)
        self.with_attention = make(in_features, out_features)
        self.without_attention = make(in_features, out_features)
        self.with_attention_stack = make(in_features, out_features)
        self.without_attention_stack = make(in_features, out_features)
        self.norm = nn.BatchNorm1d(out_features)
        self.activation = nn.SELU() if activation == "selu" else nn.Identity()

    def forward(self, first: Tensor, second: Tensor, stack: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Both kinds of nodes and the stack node after one round of attention."""
        n1 = first.shape[1]
        x = torch.cat([self.project_first(first), self.project_second(second)], dim=1)
        if stack is None:
            stack = x.mean(dim=1, keepdim=True)
        x = self.dropout(x)
        y = self.with_attention(self.attention_matrix(x, n1) @ x) + self.without_attention(x)
        y = _flat(lambda rows: self.activation(self.norm(rows)), y)
        return y[:, :n1], y[:, n1:], self._updated(stack, x)

    def attention_matrix(self, x: Tensor, n1: int) -> Tensor:
        """A of projected nodes, shape ``(batch, nodes, nodes)``, with rows that sum to 1.

        Args:
            x: ``(batch, nodes, in_features)``, those of the first kind before those of the second.
            n1: Nodes of the first kind.
        """
        return (self.pair_logits(x, n1) / self.temperature).softmax(dim=2)

    def pair_logits(self, x: Tensor, n1: int) -> Tensor:
        """τ a_ij of projected nodes, shape ``(batch, nodes, nodes)``, exactly symmetric."""
        first, second, place = _pairs(x)
        scores = _run(self._scores, self.checkpoint, x, first, second)  # by all three vectors
        kind = (first >= n1).long() + (second >= n1).long()  # of a pair i <= j: inside 1, across, inside 2
        chosen = scores.gather(2, kind[None, :, None].expand(x.shape[0], -1, 1))
        return _mirrored(chosen.squeeze(2), place)

    def _scores(self, x: Tensor, first: Tensor, second: Tensor) -> Tensor:
        vectors = (self.attention_weight_first, self.attention_weight_across, self.attention_weight_second)
        return _pair_scores(x, first, second, self.attention, torch.cat(vectors, dim=1))

    def _updated(self, stack: Tensor, x: Tensor) -> Tensor:
        scores = torch.tanh(self.attention_stack(x * stack)) @ self.attention_weight_stack
        shares = (scores / self.temperature).softmax(dim=1).transpose(1, 2)  # (batch, 1, nodes)
        y: Tensor = self.with_attention_stack(shares @ x) + self.without_attention_stack(stack)
        return y


class GraphPool(nn.Module):
    r"""Keep the nodes of the largest scores s_n = σ(K_p(h_n)), each multiplied by its score.

    max(⌊N · ratio⌋, 1) nodes stay, in the order of falling scores. In training, dropout 0.3 hits what the scores see.

    Args:
        features: Features of a node.
        ratio: Share of the nodes that stay.
        layer: Kind of the map, see :func:`kan_core.layers.get`.
        layer_kwargs: More arguments for the map.
        dropout: Probability.

    Raises:
        KANError: For an unknown layer, or a ratio outside (0, 1].

    Shape:
        - Input: ``(batch, nodes, features)``
        - Output: ``(batch, kept, features)``

    Parameters: one map features → 1; features + 1 when it is linear.

    Reference: AASIST (arXiv 2110.01200), section 2.2, after Graph U-Nets (arXiv 1905.05178).
    """

    def __init__(
        self,
        features: int,
        ratio: float,
        layer: Layer = "linear",
        layer_kwargs: dict[str, Any] | None = None,
        dropout: float = 0.3,
    ) -> None:
        super().__init__()
        if not 0 < ratio <= 1:
            raise KANError(f"the ratio of nodes to keep must lie in (0, 1], got {ratio!r}")
        self.ratio = ratio
        self.dropout = nn.Dropout(dropout)
        self.score = layers.get(layer)(features, 1, **(layer_kwargs or {}))

    def forward(self, x: Tensor) -> Tensor:
        """The nodes that stay."""
        scores = torch.sigmoid(self.score(self.dropout(x)))
        kept = max(int(x.shape[1] * self.ratio), 1)
        index = scores.topk(kept, dim=1).indices
        return (x * scores).gather(1, index.expand(-1, -1, x.shape[2]))


def _check_temperature(temperature: float) -> float:
    if not temperature > 0:
        raise KANError(f"the temperature of an attention must be positive, got {temperature!r}")
    return temperature


def _vector(features: int) -> nn.Parameter:
    """Attention weights (features, 1), Xavier-normal."""
    return nn.Parameter(nn.init.xavier_normal_(torch.empty(features, 1)))


def _flat(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`function` on ``(batch · nodes, features)``."""
    return function(x.flatten(0, 1)).view(*x.shape[:2], -1)


def _pairs(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The pairs i <= j of the nodes of `x`, row after row: i and j ``(pairs,)``, and which is (i, j) or (j, i)."""
    n = x.shape[1]
    first, second = torch.triu_indices(n, n, device=x.device)
    node = torch.arange(n, device=x.device)
    low, high = torch.minimum(node[:, None], node), torch.maximum(node[:, None], node)
    place = low * n - torch.div(low * (low - 1), 2, rounding_mode="floor") + high - low
    return first, second, place


def _pair_scores(x: Tensor, first: Tensor, second: Tensor, project: nn.Module, vectors: Tensor) -> Tensor:
    """tanh(K_a(x_i ⊙ x_j)) times every vector: ``(batch, pairs, vectors)``."""
    return torch.tanh(project(x.index_select(1, first) * x.index_select(1, second))) @ vectors


def _mirrored(scores: Tensor, place: Tensor) -> Tensor:
    """Scores of the pairs i <= j ``(batch, pairs)`` as a symmetric matrix of all nodes."""
    return scores.index_select(1, place.flatten()).view(-1, *place.shape)


def _run(function: Callable[..., Tensor], again: bool, *args: Tensor) -> Tensor:
    """Call `function`; with `again`, what its backward pass needs is computed again there."""
    if again and torch.is_grad_enabled():
        y: Tensor = recompute(function, *args, use_reentrant=False)
        return y
    return function(*args)
