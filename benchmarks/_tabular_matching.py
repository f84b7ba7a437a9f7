"""Networks of equal cost: the width, or the number of epochs, at which one costs what the KAN does."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from sklearn.base import clone
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from _tabular_sets import Part, Problem
from kan_core.bases import BSpline
from kan_core.compare import count_flops, count_parameters, match_width, published_kan_cost
from kan_core.errors import KANError
from kan_core.layers import KANLinear
from kan_tabular import models
from kan_tabular.encoding import TableEncoder
from kan_tabular.tasks.tabular import TabularTask

TOLERANCE = {"P": 0.05, "F": 0.10}
WARM_UP, STEPS = 5, 30
"""Training steps before timing, and those whose median counts."""


def cost(net: nn.Module, track: str) -> int:
    """Parameters, also of a fitted network, whose parameters are frozen; of track F the FLOPs of one row."""
    return flops(net) if track == "F" else count_parameters(net, trainable_only=False)


def flops(net: nn.Module) -> int:
    """Of one row, counted on the network as it runs."""
    like = next(net.parameters())
    return count_flops(net, torch.zeros(1, columns_of(net), dtype=like.dtype, device=like.device))


def columns_of(net: Any) -> int:
    """How many columns a network takes."""
    return len(net.column_layers()[0].cardinalities)


def published_flops(net: nn.Module) -> int | None:
    """What the accounting of arXiv 2407.16674 charges for the B-spline layers and matrices: a basis for every edge.

    None where a network has layers that it has no formula for. Tables of categories are free in it.
    """
    total = 0
    for layer in net.modules():
        if isinstance(layer, KANLinear):
            if not isinstance(layer.basis, BSpline) or layer.base == "prelu":
                return None
            widths, basis = [layer.in_features, layer.out_features], layer.basis
            total += published_kan_cost(widths, basis.grid_size, basis.order, layer.base or "zero").flops
        elif isinstance(layer, nn.Linear):
            total += 2 * layer.in_features * layer.out_features
        elif hasattr(layer, "elementwise_flops"):
            return None
    return total


def network_kwargs(estimator: Any) -> dict[str, Any]:
    """What an estimator says of its network."""
    own = {name: getattr(estimator, name) for name in ("hidden", "layer")}
    return {**(estimator.model_kwargs or {}), **{name: value for name, value in own.items() if value is not None}}


def network(estimator: Any, encoder: TableEncoder, problem: Problem) -> nn.Module:
    """The network that an estimator would train on a table, before its grids see rows."""
    kwargs = network_kwargs(estimator)
    return models.create(estimator.model, cardinalities=encoder.cardinalities, num_outputs=problem.outputs, **kwargs)


def target_network(kan: Any, encoder: TableEncoder, x: Tensor, problem: Problem) -> nn.Module:
    """The KAN that twins are matched with, its knots at quantiles of training rows: uneven knots cost more FLOPs."""
    net: Any = network(kan, encoder, problem)
    net.fit_grid(x)
    return net  # type: ignore[no-any-return]


def matched_width(target: int, twin: Any, encoder: TableEncoder, problem: Problem, track: str) -> float:
    """The factor on the hidden sizes at which the network of `twin` costs `target`.

    Raises:
        KANError: When no width comes within the track's tolerance.
    """

    def build(width: float) -> nn.Module:
        return network(widened(clone(twin), width), encoder, problem)

    how: dict[str, Any] = {"by": "flops", "sample": torch.zeros(1, len(encoder.columns))} if track == "F" else {}
    try:
        return match_width(build, target, tolerance=TOLERANCE[track], low=1 / 64, **how).width
    except KANError as error:
        raise KANError(f"{problem.name}, track {track}: {error}") from None


def widened(estimator: Any, width: float) -> Any:
    """The estimator with a factor on its hidden sizes."""
    return estimator.set_params(model_kwargs={**(estimator.model_kwargs or {}), "width": width})


def residual(net: nn.Module, target: int, track: str) -> float:
    """Relative difference of a fitted twin's cost to `target`.

    Raises:
        KANError: When it is beyond the track's tolerance.
    """
    found = cost(net, track)
    if abs(found / target - 1) > TOLERANCE[track]:
        raise KANError(f"track {track}: the twin costs {found}, not {target} within {TOLERANCE[track]:.0%}")
    return found / target - 1


class Enough(Exception):
    """Ends a fit that has shown enough steps."""


def step_seconds(estimators: Sequence[Any], train: Part) -> list[float]:
    """Median seconds of a training step of each estimator: from one evaluation of loss and gradient to the next.

    These are steps of the fit itself, with its optimiser, its batches and its loop. The estimators take turns, twice or
    more, and are stopped after `WARM_UP` + `STEPS` steps.

    Args:
        estimators: Unfitted, and left so.
        train: Training rows.

    Raises:
        KANError: When a fit has no steps left after the warm-up.
    """
    times: list[list[float]] = [[] for _ in estimators]
    rounds = 0
    while rounds < 2 or min(map(len, times)) < STEPS:
        for found, estimator in zip(times, estimators, strict=True):
            steps = _steps(clone(estimator), train)
            if not steps:
                raise KANError(f"a fit of {estimator.max_epochs} epochs is over before its steps can be timed")
            found += steps
        rounds += 1
    return [statistics.median(found) for found in times]


def _steps(estimator: Any, train: Part) -> list[float]:
    stamps: list[float] = []

    def look_at_the_clock(module: nn.Module, inputs: Any) -> None:
        if isinstance(module, TabularTask) and module.training:
            stamps.append(time.perf_counter())
            if len(stamps) > WARM_UP + STEPS:
                raise Enough

    handle = register_module_forward_pre_hook(look_at_the_clock)
    try:
        estimator.fit(train.X, train.y)
    except Enough:
        pass
    finally:
        handle.remove()
    return [b - a for a, b in pairwise(stamps)][WARM_UP:]
