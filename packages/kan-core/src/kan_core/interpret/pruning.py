"""Taking the parts out of a trained KAN that carry nothing (KAN paper, section 2.5.1)."""

from __future__ import annotations

import copy
from itertools import chain

import torch
from torch import Tensor, nn

from kan_core.errors import KANError
from kan_core.layers import KANLinear
from kan_core.layers.product import MultKANLinear, edges_and_owners
from kan_core.models import KAN


@torch.no_grad()
def mask_edges(model: KAN, x: Tensor, threshold: float = 3e-2) -> KAN:
    """A copy of `model` in which the edges that carry little are zero.

    Their weights are set to zero, no more: training can bring them back.

    Args:
        model: A trained KAN.
        x: Samples ``(samples, n_0)``.
        threshold: Edges with |φ|_1, the mean of |φ| over the samples, up to this become zero.
    """
    masked = copy.deepcopy(model)
    for layer, magnitudes in zip(masked._kan_layers(), _magnitudes(model, x), strict=True):
        edges = edges_and_owners(layer)[0]
        edges.weight.mul_((magnitudes > threshold).T)
    return masked


@torch.no_grad()
def prune(model: KAN, x: Tensor, threshold: float = 1e-2) -> KAN:
    """A smaller KAN without the hidden nodes that carry little.

    A node stays when the strongest of its incoming edges (for a product node: of all its factors) and the strongest of
    its outgoing edges both have |φ|_1, the mean of |φ| over the samples, above `threshold`. The result equals `model`
    with the edges of the other nodes set to zero, and keeps every option: grids, edge policy, base branch, norm, type,
    frozen parameters. The parameters are new objects: make the optimiser afterwards.

    Args:
        model: A trained KAN; left as it is.
        x: Samples ``(samples, n_0)``.
        threshold: θ of the paper.

    Returns:
        The smaller net; a copy when there is nothing to prune.

    Raises:
        KANError: When a hidden layer would lose all its nodes, or a layer norm some of its features: it would give
            other values to the rest.
    """
    magnitudes = _magnitudes(model, x)
    pruned = copy.deepcopy(model)
    layers = pruned._kan_layers()
    kept = list(range(layers[0].in_features))
    for index, layer in enumerate(layers):
        if index + 1 < len(layers):
            nodes = _strong_nodes(index, layer, magnitudes[index], magnitudes[index + 1], threshold)
        else:
            nodes = list(range(layer.out_features))
        _keep(layer, kept, nodes)
        if isinstance(layer, MultKANLinear):
            pruned.widths[index + 1] = [layer.sums, layer.products]
        else:
            pruned.widths[index + 1] = layer.out_features
        kept = nodes
    return pruned


def _magnitudes(model: KAN, x: Tensor) -> list[Tensor]:
    """|φ|_1 of the edges of every layer, ``(sub-nodes, nodes below)``, over all samples."""
    if x.dim() != 2 or len(x) < 1:
        raise KANError(f"x must have shape (samples, inputs) with at least one sample, got {tuple(x.shape)}")
    magnitudes = []
    for layer in copy.deepcopy(model).eval()._kan_layers():
        magnitudes.append(edges_and_owners(layer)[0].edge_magnitudes(x, max_samples=len(x)))
        x = layer(x)
    return magnitudes


def _strong_nodes(
    index: int, layer: KANLinear | MultKANLinear, into: Tensor, out_of: Tensor, threshold: float
) -> list[int]:
    owners = torch.tensor(edges_and_owners(layer)[1], device=into.device)
    incoming = into.new_zeros(layer.out_features).scatter_reduce(0, owners, into.amax(dim=1), "amax")
    strength = torch.minimum(incoming, out_of.amax(dim=0))
    nodes: list[int] = (strength > threshold).nonzero().flatten().tolist()
    if not nodes:
        raise KANError(
            f"threshold {threshold:g} leaves no node of hidden layer {index + 1}: the strongest of its "
            f"{layer.out_features} has {strength.max().item():.3g}"
        )
    return nodes


def _keep(layer: KANLinear | MultKANLinear, inputs: list[int], nodes: list[int]) -> None:
    """Leave a layer with some of its inputs and nodes."""
    edges, owners = edges_and_owners(layer)
    outputs = [subnode for subnode, node in enumerate(owners) if node in nodes]
    if isinstance(layer, MultKANLinear):
        layer.arities = tuple(arity for m, arity in enumerate(layer.arities) if layer.sums + m in nodes)
        layer.subnode_affine = _selected(layer.subnode_affine, 1, outputs)
        layer.node_affine = _selected(layer.node_affine, 1, nodes)
        layer.in_features, layer.out_features = len(inputs), len(nodes)
    if len(inputs) < edges.in_features:
        _keep_inputs(edges, inputs)
    weight = _selected(edges.weight, 2, outputs)
    assert weight is not None
    edges.weight = weight
    edges.scale = _selected(edges.scale, 2, outputs)
    edges.bias = _selected(edges.bias, 0, outputs)
    edges.out_features = len(outputs)


def _keep_inputs(layer: KANLinear, inputs: list[int]) -> None:
    if isinstance(layer.norm, nn.LayerNorm):
        raise KANError(
            "cannot prune nodes in front of a layer norm, which would give other values to the rest: train with "
            "norm=None or norm='batch'"
        )
    weight = _selected(layer.weight, 1, inputs)
    assert weight is not None
    layer.weight = weight
    layer.scale = _selected(layer.scale, 1, inputs)
    device, dtype = layer.weight.device, layer.weight.dtype
    basis = layer.basis.bind(len(inputs), device=device, dtype=dtype)
    _copy_state(layer.basis, basis, inputs)
    layer.basis = basis
    if isinstance(layer.norm, nn.BatchNorm1d):
        norm = type(layer.norm)(len(inputs), device=device, dtype=dtype).train(layer.norm.training)
        _copy_state(layer.norm, norm, inputs)
        layer.norm = norm
    layer.in_features = len(inputs)


def _selected(parameter: nn.Parameter | None, dim: int, index: list[int]) -> nn.Parameter | None:
    if parameter is None:
        return None
    return nn.Parameter(_rows(parameter, dim, index), requires_grad=parameter.requires_grad)


def _rows(tensor: Tensor, dim: int, index: list[int]) -> Tensor:
    return tensor.detach().index_select(dim, torch.tensor(index, device=tensor.device))


def _copy_state(source: nn.Module, target: nn.Module, inputs: list[int]) -> None:
    """Copy the tensors of a module to its twin for fewer inputs; a dimension that differs is the one of the inputs."""
    new = dict(chain(target.named_parameters(), target.named_buffers()))
    for name, old in chain(source.named_parameters(), source.named_buffers()):
        value = old
        for dim, (before, after) in enumerate(zip(old.shape, new[name].shape, strict=True)):
            if before != after:
                value = _rows(value, dim, inputs)
        new[name].copy_(value).requires_grad_(old.requires_grad)
