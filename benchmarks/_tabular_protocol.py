"""One fit of the benchmark: rows for training, an estimator for the track, one look at the test rows, one line."""

from __future__ import annotations

import copy
import pickle
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.model_selection import RandomizedSearchCV
from sklearn.pipeline import Pipeline

import _tabular_scores as scores
from _tabular_matching import (
    cost,
    flops,
    matched_width,
    published_flops,
    residual,
    step_seconds,
    target_network,
    widened,
)
from _tabular_models import SPACES, TWINS, applies, make, tuned
from _tabular_rows import Row
from _tabular_sets import Part, Problem, folds_of, share_outside, split
from _timing import peak_allocated
from kan_core.errors import KANError
from kan_tabular.encoding import TableEncoder

Array = NDArray[Any]

TRACKS = ("D", "P", "F", "T", "B")
BATCH = 1024
PARTS = 5
"""Parts of an official test file whose spread says what another test sample would give."""


@dataclass(frozen=True)
class Plan:
    """What all fits of a run share.

    Attributes:
        folds: Of the cross-validation.
        trials: Of the random search of track B.
        shuffled: Whether targets are permuted before the split.
        options: More arguments of every network's estimator.
    """

    folds: int = 5
    trials: int = 8
    shuffled: bool = False
    options: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Job:
    """One fit.

    Attributes:
        set: Name of the table.
        model: Name of the model.
        track: One of `TRACKS`.
        seed: Of the split and of the model.
        fold: Which rows test.
    """

    set: str
    model: str
    track: str
    seed: int
    fold: int

    def key(self, plan: Plan) -> Row:
        """What the row of this fit is known by."""
        trials = plan.trials if self.track == "B" else 0
        labels = "shuffled" if plan.shuffled else "true"
        return {**vars(self), "folds": plan.folds, "trials": trials, "labels": labels}


def jobs(
    problems: Sequence[Problem], models: Sequence[str], tracks: Sequence[str], seeds: Sequence[int], folds: int
) -> Iterator[Job]:
    """All fits: twins on the matched tracks, other models on D, and on B what has a search space."""
    for seed in seeds:
        for problem in problems:
            for fold in range(folds_of(problem, folds)):
                for track in tracks:
                    for model in models:
                        if belongs(model, track) and applies(model, problem.task):
                            yield Job(problem.name, model, track, seed, fold)


def belongs(model: str, track: str) -> bool:
    """Whether a model is fitted on a track."""
    if track == "B":
        return model == "linear" or model in SPACES
    return (model in TWINS) == (track in ("P", "F", "T"))


def run(job: Job, plan: Plan, problem: Problem) -> Row:
    """Fit one model and measure it; on shuffled labels only how far it is from chance, and nothing of its costs.

    Raises:
        KANError: When no twin of equal cost exists, or a model gives no probabilities.
    """
    data = problem.shuffled(job.seed) if plan.shuffled else problem
    train, test = split(data, job.seed, job.fold, plan.folds)
    estimator, notes = prepare(job, plan, train, problem)
    fitted, seconds = fit(estimator, train)
    prediction = predict(fitted, test.X, problem)
    score = scores.regression if problem.task == "regression" else scores.classification
    metrics = score(test.y, prediction)
    costs = {} if plan.shuffled else {**sizes(job, notes, fitted, train), **speed(fitted, test.X, problem)}
    return {
        **job.key(plan),
        "task": problem.task,
        "train_rows": len(train.y),
        "test_rows": len(test.y),
        "columns": problem.X.shape[1],
        "metrics": metrics,
        "chance": scores.against_chance(problem.task, test.y, prediction),
        **({"parts": scores.by_parts(problem.task, test.y, prediction, PARTS)} if problem.test is not None else {}),
        "fit_seconds": seconds,
        **notes,
        **costs,
        "outside": share_outside(train.X, test.X),
    }


def fit(estimator: Any, train: Part) -> tuple[Any, float]:
    """The fitted estimator, and seconds; the test rows are not in this function's reach."""
    start = time.perf_counter()
    fitted = estimator.fit(train.X, train.y)
    return fitted, time.perf_counter() - start


def predict(fitted: Any, X: pd.DataFrame, problem: Problem) -> Array:
    """Probabilities of all classes, or predicted targets.

    Raises:
        KANError: When the model does not know all classes.
    """
    if problem.task == "regression":
        return np.asarray(fitted.predict(X), dtype=np.float64)
    classes = np.unique(problem.y)
    if not np.array_equal(fitted.classes_, classes):
        raise KANError(f"{problem.name}: the training rows have the classes {fitted.classes_}, not all {len(classes)}")
    return np.asarray(fitted.predict_proba(X), dtype=np.float64)


def prepare(job: Job, plan: Plan, train: Part, problem: Problem) -> tuple[Any, Row]:
    """The estimator of a track, unfitted, and what the track decided, from training rows."""
    options = dict(plan.options)
    seed = 1000 * job.seed + job.fold
    if job.track == "B":
        return tuned(job.model, problem.task, seed, plan.trials, **options), {}
    estimator = make(job.model, problem.task, seed, **options)
    if job.track == "D":
        return estimator, {}
    by = "F" if job.track == "F" else "P"
    kan = make("kan", problem.task, seed, **options)
    encoder = TableEncoder().fit(train.X)
    x = torch.from_numpy(encoder.transform(train.X)).float()
    target = cost(target_network(kan, encoder, x, problem), by)
    width = matched_width(target, estimator, encoder, problem, by)
    estimator = widened(estimator, width)
    notes = {"width": width, "target": target}
    if job.track == "T":
        estimator, found = on_time(kan, estimator, train)
        notes |= found
    return estimator, notes


def on_time(kan: Any, twin: Any, train: Part) -> tuple[Any, Row]:
    """The twin with as many epochs, and as much patience, as take the KAN's seconds at the measured step times."""
    ours, other = step_seconds([kan, twin], train)
    epochs, patience = (max(1, round(limit * ours / other)) for limit in (twin.max_epochs, twin.patience))
    notes = {"kan_step_ms": 1e3 * ours, "step_ms": 1e3 * other, "step_ratio": other / ours, "max_epochs": epochs}
    return twin.set_params(max_epochs=epochs, patience=patience), notes


def inner(fitted: Any) -> Any:
    """The model itself, inside a search, a pipeline or a wrapper."""
    if isinstance(fitted, RandomizedSearchCV):
        return inner(fitted.best_estimator_)
    if isinstance(fitted, Pipeline):
        return fitted[-1]
    return getattr(fitted, "estimator_", fitted)


def sizes(job: Job, notes: Row, fitted: Any, train: Part) -> Row:
    """What a fitted model weighs; of a network also its parameters, FLOPs and the memory of one training step.

    Raises:
        KANError: When a matched twin has turned out to be no match.
    """
    best = fitted.best_estimator_ if isinstance(fitted, RandomizedSearchCV) else fitted
    row: Row = {"bytes": len(pickle.dumps(best))}
    if isinstance(fitted, RandomizedSearchCV):
        row |= {"refit_seconds": fitted.refit_time_, "best": {k: plain(v) for k, v in fitted.best_params_.items()}}
    model = inner(fitted)
    if getattr(model, "n_iter_", None) is not None:  # Ridge has it as None
        row["n_iter"] = int(np.max(model.n_iter_))
    net = getattr(model, "module_", None)
    if net is None:
        return row
    if job.track in ("P", "F", "T"):
        row["residual"] = residual(net, notes["target"], "F" if job.track == "F" else "P")
    return {
        **row,
        "parameters": cost(net, "P"),
        "parameters_total": sum(tensor.numel() for tensor in [*net.parameters(), *net.buffers()]),
        "flops": flops(net),
        "published_flops": published_flops(net),
        "step_peak_bytes": step_peak(net, model.encoder_.transform(train.X.iloc[:BATCH])),
    }


def step_peak(net: torch.nn.Module, x: Array) -> int:
    """Most memory that a forward and a backward pass of some training rows take, in float32 as in training."""
    trained = copy.deepcopy(net).float().requires_grad_(True)
    rows = torch.from_numpy(x).float()
    return peak_allocated(lambda: trained(rows).square().mean().backward())


def plain(value: Any) -> Any:
    """A setting as JSON has it."""
    return value.item() if isinstance(value, np.generic) else value


def speed(fitted: Any, X: pd.DataFrame, problem: Problem) -> Row:
    """Microseconds per row of a prediction from the table as it is, one row at a time and many."""
    many = X.iloc[np.arange(BATCH) % len(X)].reset_index(drop=True)
    return {
        "us_per_row_1": 1e6 * median_seconds(lambda: predict(fitted, many.iloc[:1], problem), 20),
        f"us_per_row_{BATCH}": 1e6 * median_seconds(lambda: predict(fitted, many, problem), 5) / BATCH,
    }


def median_seconds(call: Callable[[], Any], repeats: int) -> float:
    """Of as many calls, after one to warm up."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)
