"""Closed-form costs, to print beside what is counted on the actual model.

The formulas are the accounting of "KAN or MLP: A Fairer Comparison" (arXiv 2407.16674), which charges a KAN one basis
evaluation per *edge*, and its correction for layers that evaluate the basis once per *input* and share it among the
outputs, as this library does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

from kan_core.compare._count import activation_flops


class Cost(NamedTuple):
    """Trainable parameters of a network, and the FLOPs of one forward of one sample."""

    parameters: int
    flops: int


def published_kan_cost(widths: Sequence[int], grid_size: int, order: int, shortcut: str = "silu") -> Cost:
    """What the paper charges for a B-spline KAN: the basis is evaluated anew on every edge.

    Args:
        widths: Layer widths, inputs first.
        grid_size: Grid intervals G.
        order: Spline order K; 3 is cubic.
        shortcut: Activation of the base branch; ``"zero"`` for none.

    Example:
        >>> published_kan_cost([784, 2, 10], grid_size=3, order=2)
        Cost(parameters=12716, flops=181786)
    """
    per_edge = _recursion(grid_size, order) + _contraction(grid_size, order)
    return _total(
        Cost(i * o * (grid_size + order + 2 + (shortcut != "zero")) + o, i * o * per_edge + _shortcut(i, o, shortcut))
        for i, o in pairwise(widths)
    )


def shared_kan_cost(widths: Sequence[int], grid_size: int, order: int, shortcut: str = "silu") -> Cost:
    """The same network in the efficient-kan layout: one basis evaluation per input, a scale per edge, no bias.

    Args:
        widths: Layer widths, inputs first.
        grid_size: Grid intervals G.
        order: Spline order K; 3 is cubic.
        shortcut: Activation of the base branch; ``"zero"`` for none.

    Example:
        >>> shared_kan_cost([2, 5, 5, 1], grid_size=10, order=3).parameters
        600
    """
    recursion, contraction = _recursion(grid_size, order), _contraction(grid_size, order)
    return _total(
        Cost(
            i * o * (grid_size + order + 1 + (shortcut != "zero")),
            i * recursion + i * o * contraction + _shortcut(i, o, shortcut),
        )
        for i, o in pairwise(widths)
    )


def published_mlp_cost(widths: Sequence[int], act: str = "relu", *, batch_norm: bool = False) -> Cost:
    """What the paper charges for an MLP; its accounting puts an activation after the last layer too.

    Args:
        widths: Layer widths, inputs first.
        act: Name of the activation, a key of `ACTIVATION_FLOPS`.
        batch_norm: Whether every layer is followed by a batch normalisation.

    Example:
        >>> published_mlp_cost([4, 3, 2])
        Cost(parameters=23, flops=41)
    """
    act_flops, norm = activation_flops(act), int(batch_norm)
    return _total(
        Cost(o * (i + 1) + 2 * o * norm, 2 * i * o + act_flops * o + 4 * o * norm) for i, o in pairwise(widths)
    )


def published_spline_mlp_cost(widths: Sequence[int], grid_size: int, order: int) -> Cost:
    """What the paper charges for an MLP whose activations are learned B-splines, one per unit of every layer.

    Args:
        widths: Layer widths, inputs first.
        grid_size: Grid intervals G.
        order: Spline order K; 3 is cubic.
    """
    per_unit = _recursion(grid_size, order) + _contraction(grid_size, order) - 2  # no scale and no sum over inputs
    return _total(Cost(o * (i + 1 + grid_size + order), 2 * i * o + o * per_unit) for i, o in pairwise(widths))


def _recursion(grid_size: int, order: int) -> int:
    """FLOPs of the Cox-de Boor recursion at one point: 9K(G + 1.5K) − 4.5K."""
    return 9 * order * grid_size + 9 * order * (3 * order - 1) // 2


def _contraction(grid_size: int, order: int) -> int:
    """FLOPs of summing the G+K weighted basis values of one edge, and of its scale: 2G + 2K + 1."""
    return 2 * grid_size + 2 * order + 1


def _shortcut(in_features: int, out_features: int, shortcut: str) -> int:
    """FLOPs of the base branch: the activation of every input, then a matrix product."""
    return 0 if shortcut == "zero" else activation_flops(shortcut) * in_features + 2 * in_features * out_features


def _total(layers: Iterable[Cost]) -> Cost:
    parameters, flops = zip(*layers, strict=True)
    return Cost(sum(parameters), sum(flops))
