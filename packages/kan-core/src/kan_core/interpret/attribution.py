"""Which inputs, nodes and edges a trained KAN's outputs depend on (KAN 2.0's attribution scores)."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from kan_core.errors import KANError
from kan_core.layers import KANLinear
from kan_core.layers.product import edges_and_owners
from kan_core.models import KAN

_TINY = 1e-4  # keeps a sub-node that does not vary from dividing by zero


@dataclass(frozen=True)
class Attribution:
    """Scores of a KAN with L layers; row k of each is the share of output k.

    Attributes:
        nodes: L + 1 tensors ``(outputs, nodes)``: the inputs, the nodes after each layer, the outputs.
        edges: L tensors ``(outputs, sub-nodes, nodes)``: from the nodes of one layer to the sub-nodes of the next,
            which are its nodes where it has no products.
    """

    nodes: list[Tensor]
    edges: list[Tensor]

    @property
    def features(self) -> Tensor:
        """Score of every input, mean over the outputs: shape ``(inputs,)``."""
        return self.nodes[0].mean(dim=0)


@torch.no_grad()
def attribute(model: KAN, x: Tensor, output_scores: Tensor | None = None) -> Attribution:
    r"""Propagate importance backward from the outputs, in proportion to how much each edge varies over `x`.

    A node passes its score to its sub-node, a product node to each factor. An edge from node i to sub-node j gets
    σ(φ_{j,i}) · score_j / (σ(sub-node j) + 1e-4), with standard deviations σ over the samples, and a node of the layer
    below the sum of its edges' scores. Measured without affines of sub-nodes, which scale both σ alike.

    Args:
        model: A trained KAN; used in evaluation mode, and left as it was.
        x: Samples ``(samples, n_0)``, at least two.
        output_scores: Importance of each output, shape ``(outputs,)``; None for 1 each.

    Returns:
        The scores, in float64.

    Raises:
        KANError: For fewer than two samples.
    """
    if x.dim() != 2 or len(x) < 2:
        raise KANError(f"x must have shape (samples, inputs) with at least two samples, got {tuple(x.shape)}")
    model = copy.deepcopy(model).eval()
    spreads = []
    for layer in model._kan_layers():
        spreads.append(_spreads(edges_and_owners(layer)[0], x))
        x = layer(x)
    start = torch.ones(x.shape[1]) if output_scores is None else output_scores
    nodes = [torch.diag(start.to(x.device, torch.float64))]
    edges: list[Tensor] = []
    for layer, (edge, subnode) in zip(reversed(model._kan_layers()), reversed(spreads), strict=True):
        subnode_scores = nodes[0][:, edges_and_owners(layer)[1]]
        edges.insert(0, torch.einsum("ji,kj,j->kji", edge, subnode_scores, 1 / (subnode + _TINY)))
        nodes.insert(0, edges[0].sum(dim=1))
    return Attribution(nodes, edges)


def _spreads(layer: KANLinear, x: Tensor) -> tuple[Tensor, Tensor]:
    """Standard deviations over the samples: of the edges' values ``(out, in)``, and of the outputs ``(out,)``."""
    features = layer._planes(layer._normalised(x))
    if layer.base is not None:
        features = torch.cat([features, layer._base(x).unsqueeze(-2)], dim=-2)
    centred = (features - features.mean(dim=0)).double()
    weight = layer.effective_weight().double()
    # Var[Σ_p w_p f_p] = wᵀ Cov(f) w, so that no tensor of samples x edges is made
    covariance = torch.einsum("npi,nqi->ipq", centred, centred) / (len(x) - 1)
    variance = torch.einsum("iqe,qie->ei", torch.einsum("pie,ipq->iqe", weight, covariance), weight)
    return variance.clamp_min(0).sqrt(), layer(x).double().std(dim=0)
