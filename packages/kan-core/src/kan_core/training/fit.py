"""Fitting a function: an optimiser, grid extension, and the state that held-out points like best."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from kan_core.errors import KANError
from kan_core.layers import kan_layers
from kan_core.training.levenberg_marquardt import levenberg_marquardt

Optimizer = Literal["lbfgs", "adam", "lm"]
OPTIMIZERS: tuple[str, ...] = get_args(Optimizer)
_WALL = 1e6  # what LBFGS sees where the loss is not finite, in units of the loss at the beginning of the stage


@dataclass(frozen=True)
class FitRecord:
    """One evaluation during a fit.

    Attributes:
        grid_size: Grid of the stage, or None in a fit without grid extension.
        step: Optimiser steps taken in this stage; 0 is right after the grid was extended and updated.
        train_rmse: Root mean square error on the training points.
        validation_rmse: The same on the held-out points.
        seconds: Time since the fit began.
    """

    grid_size: int | None
    step: int
    train_rmse: float
    validation_rmse: float
    seconds: float


@dataclass(frozen=True)
class FitResult:
    """What a fit did.

    Attributes:
        best: The record of the state that the model is left in.
        history: All records, in order.
    """

    best: FitRecord
    history: list[FitRecord]


def fit(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    validation: tuple[Tensor, Tensor],
    grids: Sequence[int] | None = None,
    update_grid: bool | None = None,
    optimizer: Optimizer = "lbfgs",
    steps: int = 200,
    lr: float | None = None,
    batch_size: int | None = None,
    penalty: float = 0.0,
    patience: int | None = None,
    evaluate_every: int = 10,
    seed: int | None = None,
) -> FitResult:
    r"""Minimise the mean square error of `model` on `(x, y)`, and leave it in its best state on held-out points.

    With `grids` the fit has one stage per grid size: the grids are extended (functions on the grid are kept: exactly
    when the new size is a multiple of the old one, by least squares otherwise), moved to where the layers' inputs are,
    and a new optimiser takes `steps` steps from the best state so far. A stage that does not lower the error on the
    held-out points is the last one: more intervals would only fit the training points closer (KAN paper, section 2.4).
    A loss that is no longer finite ends its stage.

    Use float64 when errors below about 1e-4 of the target's size matter. Randomness, the order of Adam's batches, comes
    from a generator of this fit; the global one is neither used nor seeded.

    Args:
        model: A `kan_core.KAN`, or any module when `grids`, `update_grid` and `penalty` are left out.
        x: Inputs, shape ``(samples, ...)``.
        y: Targets, in the shape of ``model(x)``.
        validation: Held-out inputs and targets.
        grids: Grid sizes to go through, ascending, such as ``(3, 5, 10, 20, 50)``. None: one stage, grid size kept.
        update_grid: Whether every stage begins with ``model.update_grid(x)``. None: if the model has adaptive grids.
        optimizer: ``"lbfgs"`` (all points at once, strong Wolfe line search, history 10), ``"adam"`` (learning rate on
            a cosine to 0 in each stage) or ``"lm"`` (Levenberg-Marquardt, see the module of that name: all points at
            once, far lower errors in fewer, dearer steps; for up to some thousand parameters).
        steps: Steps per stage. One step of LBFGS is one search direction, about 1.1 evaluations of the gradient.
        lr: Learning rate of Adam. None: 0.01.
        batch_size: Samples per step, Adam only. None: all.
        penalty: λ of the KAN paper (section 2.5.1): λ (L1 + entropy) of ``model.regularization(x)`` joins the loss. Not
            for ``"lm"``, whose loss is a sum of squares.
        patience: End a stage after this many evaluations in a row that do not lower the held-out error. None: never.
        evaluate_every: Steps between two evaluations.
        seed: Seed of the order of Adam's batches. None: 0.

    Returns:
        The history and the record of the state that `model` is left in, its grid size included. Parameters are new
        objects after a fit with `grids`.

    Raises:
        KANError: For an option out of its range, or that the optimiser or the model cannot serve; for points that are
            empty, not finite, or of a shape that does not fit the model; when the loss is not finite at the start.
    """
    _check_options(optimizer, steps, lr, batch_size, seed, penalty, patience, evaluate_every, grids)
    _check_model(model, grids, update_grid, penalty)
    _check_points(model, x, y, "x, y")
    _check_points(model, *validation, "validation")
    if update_grid is None:
        update_grid = hasattr(model, "update_grid") and all(layer.basis.adaptive for _, layer in kan_layers(model))
    generator = torch.Generator().manual_seed(seed or 0)

    def objective(x: Tensor, y: Tensor) -> Tensor:
        loss = _mse(model, x, y)
        if penalty:
            l1, entropy = model.regularization(x)  # type: ignore[operator]
            loss = loss + penalty * (l1 + entropy)
        return loss

    def progress() -> Iterator[int]:
        if optimizer == "lbfgs":
            return _lbfgs(model, lambda: objective(x, y), steps, evaluate_every)
        if optimizer == "lm":
            return levenberg_marquardt(model, x, y, steps, evaluate_every)
        batches = _batches(x, y, batch_size, generator)
        return _adam(model, lambda: objective(*next(batches)), lr or 0.01, steps, evaluate_every)

    mode = model.training
    run = _Run(model, (x, y), validation)
    stages: Sequence[int | None] = grids or [None]
    for grid_size in stages:
        if grid_size is not None:
            model.refine(grid_size)  # type: ignore[operator]
        if update_grid:
            model.update_grid(x)  # type: ignore[operator]
        improved = run.stage(grid_size, progress(), patience)
        run.restore_best()
        if not improved:
            break
    model.train(mode)
    assert run.best is not None
    return FitResult(run.best, run.history)


class _Run:
    """The history of a fit and its best state."""

    def __init__(self, model: nn.Module, train: tuple[Tensor, Tensor], validation: tuple[Tensor, Tensor]) -> None:
        self.model = model
        self.train = train
        self.validation = validation
        self.history: list[FitRecord] = []
        self.best: FitRecord | None = None
        self._best_state: dict[str, Tensor] = {}
        self._began = time.perf_counter()

    def stage(self, grid_size: int | None, progress: Iterator[int], patience: int | None) -> bool:
        """Train one stage; whether it lowered the error on the held-out points."""
        before = self.best
        self._evaluate(grid_size, 0)
        last_better = 0
        for evaluations, step in enumerate(progress, start=1):
            better = self._evaluate(grid_size, step)
            if better:
                last_better = evaluations
            if not math.isfinite(self.history[-1].train_rmse):
                break
            if patience is not None and evaluations - last_better >= patience:
                break
        return self.best is not before

    def restore_best(self) -> None:
        """Put the model into its best state, whose grid may be another one than it has now."""
        if self.best is None:
            raise KANError("the loss is not finite at the start: look at the model's initial weights and the data")
        if self.best.grid_size != self.history[-1].grid_size:
            self.model.refine(self.best.grid_size)  # type: ignore[operator]
        self.model.load_state_dict(self._best_state)

    def _evaluate(self, grid_size: int | None, step: int) -> bool:
        self.model.eval()
        with torch.no_grad():
            train, validation = (_mse(self.model, *points).sqrt().item() for points in (self.train, self.validation))
        self.model.train()
        record = FitRecord(grid_size, step, train, validation, time.perf_counter() - self._began)
        self.history.append(record)
        lowest = math.inf if self.best is None else self.best.validation_rmse
        if not (math.isfinite(record.train_rmse) and record.validation_rmse < lowest):
            return False
        self.best = record
        self._best_state = {name: value.clone() for name, value in self.model.state_dict().items()}
        return True


def _lbfgs(model: nn.Module, objective: Callable[[], Tensor], steps: int, every: int) -> Iterator[int]:
    """Minimise `objective`, and yield the number of steps after every `every` of them."""
    optimizer = torch.optim.LBFGS(
        [p for p in model.parameters() if p.requires_grad],
        max_eval=25 * every,  # torch's default, 1.25 per iteration, cuts line searches short
        tolerance_grad=0,
        tolerance_change=0,
        history_size=10,
        line_search_fn="strong_wolfe",
    )
    # torch forgets every curvature pair with y·s below 1e-10, an absolute number: without a loss of order 1 at the
    # beginning of the stage, LBFGS would become steepest descent at an RMSE of about 1e-5.
    start = objective().item()
    scale = 1 / start if math.isfinite(start) and start > 0 else 1.0

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = scale * objective()
        if not torch.isfinite(loss):  # a step too long, which the line search shortens; NaN itself would confuse it
            return torch.full_like(loss, _WALL)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    before = math.nan
    for done in range(0, steps, every):
        now = min(every, steps - done)
        optimizer.param_groups[0]["max_iter"] = now
        loss = optimizer.step(closure).item()  # type: ignore[no-untyped-call]  # the value before these steps
        if loss == before:
            return  # the line search finds nothing lower any more
        before = loss
        yield done + now


def _adam(model: nn.Module, objective: Callable[[], Tensor], lr: float, steps: int, every: int) -> Iterator[int]:
    """Minimise `objective`, new batches at every call, and yield the number of steps after every `every` of them."""
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        objective().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        if step % every == 0 or step == steps:
            yield step


def _batches(
    x: Tensor, y: Tensor, batch_size: int | None, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches without end, in a new order each time round; the rest that fills no batch is left out of its round."""
    while batch_size is None or batch_size >= len(x):
        yield x, y
    while True:
        order = torch.randperm(len(x), generator=generator).to(x.device)
        for rows in torch.split(order[: len(x) - len(x) % batch_size], batch_size):
            yield x[rows], y[rows]


def _mse(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    prediction: Tensor = model(x)
    return (prediction - y).square().mean()


def _check_options(
    optimizer: str,
    steps: int,
    lr: float | None,
    batch_size: int | None,
    seed: int | None,
    penalty: float,
    patience: int | None,
    evaluate_every: int,
    grids: Sequence[int] | None,
) -> None:
    if optimizer not in OPTIMIZERS:
        raise KANError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, got {optimizer!r}")
    for name, value in {"lr": lr, "batch_size": batch_size, "seed": seed}.items():
        if value is not None and optimizer != "adam":
            raise KANError(f"{name} is for optimizer='adam' only, got {value} with optimizer={optimizer!r}")
    if penalty and optimizer == "lm":
        raise KANError(f"penalty is for optimizer='lbfgs' or 'adam' only, got {penalty} with optimizer='lm'")
    counts = {"steps": steps, "evaluate_every": evaluate_every, "batch_size": batch_size, "patience": patience}
    for name, count in counts.items():
        if count is not None and count < 1:
            raise KANError(f"{name} must be at least 1, got {count}")
    if lr is not None and not 0 < lr < math.inf:
        raise KANError(f"lr must be positive, got {lr}")
    if not 0 <= penalty < math.inf:
        raise KANError(f"penalty must be at least 0, got {penalty}")
    if grids is not None and (not grids or min(grids) < 1 or list(grids) != sorted(set(grids))):
        raise KANError(f"grids must be ascending grid sizes, such as (3, 5, 10), got {tuple(grids)}")


def _check_model(model: nn.Module, grids: Sequence[int] | None, update_grid: bool | None, penalty: float) -> None:
    needs: dict[str, tuple[Any, str]] = {
        "grids": (grids, "refine"),
        "update_grid": (update_grid, "update_grid"),
        "penalty": (penalty, "regularization"),
    }
    for option, (value, method) in needs.items():
        if value and not hasattr(model, method):
            raise KANError(
                f"{option}={value} needs a model with a method {method}(), such as KAN, got {type(model).__name__}"
            )


def _check_points(model: nn.Module, x: Tensor, y: Tensor, name: str) -> None:
    for tensor in (x, y):
        if tensor.numel() == 0 or not torch.isfinite(tensor).all():
            raise KANError(f"{name}: points must be finite, got shape {tuple(tensor.shape)} with NaN, infinity or none")
    mode = model.training
    with torch.no_grad():
        shape = model.eval()(x[:1]).shape[1:]
    model.train(mode)
    if len(x) != len(y) or y.shape[1:] != shape:
        raise KANError(
            f"{name}: targets must have shape {(len(x), *shape)} for inputs {tuple(x.shape)}, got {tuple(y.shape)}"
        )
