"""Models of equal size: the width at which a model costs what another one does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kan_core.compare._count import count_flops, count_parameters
from kan_core.errors import KANError
from kan_core.models import KAN

By = Literal["params", "flops"]
TOLERANCE = {"params": 0.05, "flops": 0.10}
_FINENESS = 1e-4  # relative width at which the search over real widths stops
_ACTIVATIONS = {"relu": nn.ReLU, "silu": nn.SiLU, "gelu": nn.GELU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}


@dataclass(frozen=True)
class Match:
    """A model whose cost is close to a target.

    Attributes:
        width: The width, or width multiplier, that was found.
        model: The model of that width, freshly initialised.
        count: Its trainable parameters, or its FLOPs for one sample.
        target: What it had to match.
    """

    width: float
    model: nn.Module
    count: int
    target: int

    @property
    def residual(self) -> float:
        """Relative difference to the target; positive when the match is the larger one."""
        return self.count / self.target - 1


def match_width(
    build: Callable[[Any], nn.Module],
    target: int,
    *,
    by: By = "params",
    sample: Tensor | None = None,
    tolerance: float | None = None,
    low: float | None = None,
    high: float = 4096.0,
    integer: bool = False,
) -> Match:
    """Find the width at which the model of `build` costs nearest to `target`.

    The search builds models on the way without advancing the caller's random numbers; the model returned is then built
    once more, exactly as the caller would have.

    Args:
        build: A width, or width multiplier, to a model whose cost grows with it; it may round the width.
        target: Trainable parameters, or FLOPs of one sample.
        by: What is to be equal.
        sample: Input with batch dimension for counting FLOPs; needed for ``by="flops"`` only.
        tolerance: Largest relative difference to accept: 0.05 for parameters, 0.10 for FLOPs by default.
        low: Smallest width to try: 1 for integer widths, 1/16 otherwise.
        high: Largest width to try. Widths are tried upwards, so a generous bound costs nothing.
        integer: Whether `build` takes a whole number of units.

    Raises:
        KANError: When no width within the bounds comes close enough; the message has the nearest count.
    """
    if by not in TOLERANCE:
        raise KANError(f"`by` must be one of {', '.join(TOLERANCE)}, got {by!r}")
    if target < 1:
        raise KANError(f"`target` must be a positive count, got {target}")
    if by == "flops" and sample is None:
        raise KANError('matching by="flops" needs a `sample` input to count with')

    counts: dict[float, int] = {}

    def count(width: float) -> int:
        if width not in counts:
            with _random_state_kept():
                model = build(width)
                counts[width] = (
                    count_parameters(model) if sample is None or by == "params" else _per_sample(model, sample)
                )
        return counts[width]

    start = low if low is not None else (1 if integer else 1 / 16)
    _search(count, target, int(start) if integer else start, int(high) if integer else high, integer)
    width = min(counts, key=lambda w: (abs(counts[w] - target), w))
    accepted = TOLERANCE[by] if tolerance is None else tolerance
    if abs(counts[width] / target - 1) > accepted:
        raise KANError(
            f"no width from {start:g} to {high:g} costs {target} {by} within {accepted:.0%}: "
            f"the nearest is {counts[width]} at width {width:g}; widen the bounds or the tolerance"
        )
    return Match(width, build(width), counts[width], target)


def match_mlp(kan: nn.Module, by: By = "params", act: str = "silu", tolerance: float | None = None) -> Match:
    """Find the plain MLP, as deep as `kan` and with equal hidden layers, that costs what `kan` does.

    Args:
        kan: A plain stack with the attribute ``widths``, such as `kan_core.KAN`, with one hidden layer or more.
        by: What is to be equal: trainable parameters or FLOPs.
        act: Activation of the MLP: relu, silu, gelu, tanh or sigmoid.
        tolerance: Largest relative difference to accept: 0.05 for parameters, 0.10 for FLOPs by default.

    Raises:
        KANError: When `kan` has no hidden layer or no width fits.
    """
    widths: Sequence[int] | None = getattr(kan, "widths", None)
    if widths is None or len(widths) < 3:
        raise KANError(
            f"match_mlp needs a plain stack with a hidden layer, got {type(kan).__name__} of widths {widths}"
        )
    first, *hidden, last = widths
    return _match_stack(lambda h: mlp([first, *[h] * len(hidden), last], act), kan, first, by, tolerance)


def match_kan(
    mlp: nn.Module,
    widths: Sequence[int],
    by: By = "params",
    tolerance: float | None = None,
    **options: Any,
) -> Match:
    """Find the KAN, with equal hidden layers, that costs what `mlp` does.

    Args:
        mlp: Any module over the same inputs.
        widths: Widths that give the inputs, the outputs and the depth; the hidden ones are replaced.
        by: What is to be equal: trainable parameters or FLOPs.
        tolerance: Largest relative difference to accept: 0.05 for parameters, 0.10 for FLOPs by default.
        options: Further arguments of `kan_core.KAN`, such as ``basis="rbf"``.

    Raises:
        KANError: When there is no hidden layer or no width fits.
    """
    if len(widths) < 3:
        raise KANError(f"match_kan needs a hidden layer to adapt, got widths {list(widths)}")
    first, *hidden, last = widths
    return _match_stack(lambda h: KAN([first, *[h] * len(hidden), last], **options), mlp, first, by, tolerance)


def mlp(widths: Sequence[int], act: str = "silu") -> nn.Sequential:
    """An MLP: linear layers with an activation between them, none after the last.

    Args:
        widths: Layer widths, inputs first.
        act: relu, silu, gelu, tanh or sigmoid.

    Shape:
        - Input: ``(*, widths[0])``
        - Output: ``(*, widths[-1])``
    """
    if act not in _ACTIVATIONS:
        raise KANError(f"`act` must be one of {', '.join(_ACTIVATIONS)}, got {act!r}")
    layers: list[nn.Module] = []
    for i, o in pairwise(widths):
        layers += [nn.Linear(i, o), _ACTIVATIONS[act]()]
    return nn.Sequential(*layers[:-1])


def _match_stack(
    build: Callable[[int], nn.Module], model: nn.Module, inputs: int, by: By, tolerance: float | None
) -> Match:
    sample = torch.zeros(1, inputs)
    if by == "flops":
        like = next(model.parameters())
        target = count_flops(model, sample.to(device=like.device, dtype=like.dtype))
    else:
        target = count_parameters(model)
    return match_width(build, target, by=by, sample=sample, tolerance=tolerance, high=2.0**20, integer=True)


def _search(count: Callable[[float], int], target: int, low: float, high: float, integer: bool) -> None:
    """Bracket the target by doubling, so that models stay small, then halve the bracket."""
    if low > high or low <= 0:
        raise KANError(f"widths to try must satisfy 0 < low <= high, got low={low:g}, high={high:g}")
    below, above = low, low
    while count(above) < target:
        if above == high:
            return
        below, above = above, min(2 * above, high)
    while above - below > (1 if integer else _FINENESS * above):
        middle = (below + above) // 2 if integer else (below + above) / 2
        if count(middle) < target:
            below = middle
        else:
            above = middle


def _per_sample(model: nn.Module, sample: Tensor) -> int:
    return round(count_flops(model, sample) / len(sample))


@contextmanager
def _random_state_kept() -> Iterator[None]:
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        yield
