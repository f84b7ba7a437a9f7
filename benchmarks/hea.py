"""High-entropy alloys (MPEA, Borg et al. 2020): KANs beside trees, linear models and the parameter-matched MLP.

    uv run benchmarks/hea.py --data.root ~/data
    uv run benchmarks/hea.py --data.root ~/data --only hardness phase --models kan mlp   # one lane of several

Yield strength and hardness are regressions (R2, RMSE), phase is a classification into BCC, FCC and other (macro F1: the
mean of the F1 of each class). Features: atomic fractions, nine descriptors, processing, and what was measured with the
property. Five folds, of three kinds:

- random: for scale only, since the same alloy at another temperature is often on the other side;
- formula: no alloy is on both sides (the figure to quote);
- system: no set of elements is.

A seed shuffles the folds and starts the models, so all models meet the same folds. Nothing is tuned and nothing is
selected: every model has its defaults (300 trees, 1 to 1e4 in six steps for ridge by its own leave-one-out), the KAN
trains all its epochs on all training rows. The MLP is the same network with layer="linear" and as many parameters, by
Adam, which served it better in pilots;
kan-bag is the mean of five KANs on bootstrap samples.

Every fit is one line in rows.jsonl of the output folder, and is not repeated by another call; several processes may
share the folder. Delete it to start anew.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.base import BaseEstimator
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import (
    BaggingClassifier,
    BaggingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import accuracy_score, f1_score, r2_score, root_mean_squared_error
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from _rows import Row, append_row, read_rows
from _timing import machine, write_json
from kan_core.compare import count_parameters, match_width
from kan_tabular import KANClassifier, KANRegressor, TableEncoder, models
from kan_tabular.alloys import element_symbols, grouped_folds
from kan_tabular.data.mpea import AlloyTable, load_mpea

RESULTS = Path(__file__).parent / "results" / "hea.json"
TARGETS = ("yield_strength", "hardness", "phase")
SPLITS = ("random", "formula", "system")
FOLDS = 5
HEADLINE = {"yield_strength": "r2", "hardness": "r2", "phase": "f1_macro"}


def numbers(scaled: bool) -> Any:
    """Categories as indicators, gaps as the median and an indicator of their own.

    Atomic fractions are never scaled: a rare element has a tiny deviation, and a linear model would explode on the fold
    that has it.
    """
    steps = [SimpleImputer(strategy="median", add_indicator=True), *([StandardScaler()] if scaled else [])]
    fractions = make_column_selector(pattern=f"^({'|'.join(element_symbols())})$")
    return make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore", sparse_output=False), make_column_selector(dtype_include="category")),
        ("passthrough", fractions),
        remainder=make_pipeline(*steps),
    )


def twin(X: pd.DataFrame, num_outputs: int) -> dict[str, Any]:
    """Arguments of the MLP that has as many parameters as the KAN on this table."""
    cardinalities = TableEncoder().fit(X).cardinalities
    kan = models.create("kan", cardinalities=cardinalities, num_outputs=num_outputs)
    match = match_width(
        lambda width: models.create(
            "kan", cardinalities=cardinalities, num_outputs=num_outputs, layer="linear", width=width
        ),
        count_parameters(kan),
    )
    return {"layer": "linear", "optimizer": "adam", "model_kwargs": {"width": match.width}}


def make(name: str, X: pd.DataFrame, y: pd.Series, seed: int) -> BaseEstimator:
    """The model called `name`, for training rows."""
    classes = y.nunique() if y.dtype == "str" else 0
    kan: type = KANClassifier if classes else KANRegressor
    forest: type = RandomForestClassifier if classes else RandomForestRegressor
    boosting: type = HistGradientBoostingClassifier if classes else HistGradientBoostingRegressor
    bagging: type = BaggingClassifier if classes else BaggingRegressor
    linear = LogisticRegression(max_iter=2000) if classes else RidgeCV(np.logspace(-1, 4, 6))
    builders: dict[str, Callable[[], BaseEstimator]] = {
        "kan": lambda: kan(random_state=seed),
        "kan-bag": lambda: bagging(kan(), n_estimators=5, random_state=seed),
        "kan-additive": lambda: kan(hidden=(), random_state=seed),
        "mlp": lambda: kan(random_state=seed, **twin(X, classes or 1)),
        "forest": lambda: make_pipeline(numbers(scaled=False), forest(300, random_state=seed)),
        "boosting": lambda: boosting(categorical_features="from_dtype", random_state=seed),
        "linear": lambda: make_pipeline(numbers(scaled=True), linear),
        "dummy": lambda: DummyClassifier() if classes else DummyRegressor(),
    }
    return builders[name]()


MODELS = ("kan", "kan-bag", "kan-additive", "mlp", "forest", "boosting", "linear", "dummy")


def folds(table: AlloyTable, split: str, seed: int) -> Iterator[Any]:
    """Positions of training and test rows."""
    classes = table.y if table.y.dtype == "str" else None
    if split != "random":
        return grouped_folds(table.groups[split], FOLDS, seed=seed, stratify=classes)
    kind = KFold if classes is None else StratifiedKFold
    found: Iterator[Any] = kind(FOLDS, shuffle=True, random_state=seed).split(table.X, table.y)
    return found


def scores(y: pd.Series, predicted: Any) -> dict[str, float]:
    if y.dtype == "str":
        f1 = f1_score(y, predicted, average="macro", zero_division=0.0)
        return {"f1_macro": float(f1), "accuracy": float(accuracy_score(y, predicted))}
    return {"r2": float(r2_score(y, predicted)), "rmse": float(root_mean_squared_error(y, predicted))}


def fit(table: AlloyTable, name: str, train: Any, test: Any, seed: int) -> Row:
    """One model on one fold; the test rows are looked at once."""
    X, y = table.X.iloc[train], table.y.iloc[train]
    model: Any = make(name, X, y, seed)
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of scikit-learn, about categories that a fold lacks
        model.fit(X, y)
        seconds = time.perf_counter() - start
        found = scores(table.y.iloc[test], model.predict(table.X.iloc[test]))
    network = getattr(model, "module_", None)
    size = None if network is None else sum(p.numel() for p in network.parameters())
    return {**found, "fit_seconds": seconds, "parameters": size, "train_rows": len(train), "test_rows": len(test)}


def key(row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("target", "split", "seed", "fold", "model"))


def summary(rows: list[Row]) -> list[Row]:
    """Per target, split and model: means over folds, then mean and deviation over seeds; the lead over the forest."""
    whole: dict[tuple[Any, ...], Row] = {key(row): row for row in rows}
    cases: dict[tuple[str, str, str], dict[int, list[Row]]] = {}
    for row in whole.values():
        by_seed = cases.setdefault((row["target"], row["split"], row["model"]), {})
        by_seed.setdefault(row["seed"], []).append(row)
    lines = []
    for (target, split, model), by_seed in sorted(cases.items()):
        line: Row = {"target": target, "split": split, "model": model}
        complete = {seed: found for seed, found in by_seed.items() if len(found) == FOLDS}
        if not complete:
            continue
        line["seeds"] = sorted(complete)
        for metric in ("r2", "rmse", "f1_macro", "accuracy", "fit_seconds"):
            if metric in next(iter(complete.values()))[0]:
                means = [statistics.fmean(row[metric] for row in found) for found in complete.values()]
                line[metric] = {"mean": statistics.fmean(means), "sd": statistics.stdev(means) if means[1:] else None}
        metric = HEADLINE[target]
        leads = [
            row[metric] - whole[(*key(row)[:4], "forest")][metric]
            for found in complete.values()
            for row in found
            if (*key(row)[:4], "forest") in whole
        ]
        if leads:
            won = sum(lead > 0 for lead in leads)
            line["over_forest"] = {"mean": statistics.fmean(leads), "folds_won": won, "of": len(leads)}
        sizes = [row["parameters"] for found in complete.values() for row in found]
        line["parameters"] = None if None in sizes else max(sizes)
        lines.append(line)
    return lines


def load(root: Path, target: str) -> AlloyTable:
    table = load_mpea(root, target)  # type: ignore[arg-type]
    text = table.X.columns[[dtype == "str" for dtype in table.X.dtypes]]
    return table._replace(X=table.X.astype(dict.fromkeys(text, "category")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data.root", dest="root", type=Path, required=True, help="the folder that holds mpea/")
    parser.add_argument("--only", nargs="+", choices=TARGETS, default=TARGETS, help="targets")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=SPLITS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=Path("outputs/benchmarks/hea"), help="folder of rows.jsonl")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the summary is written")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    path = options.output / "rows.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    done = {key(row) for row in read_rows(path)}
    for target in options.only:
        table = load(options.root, target)
        for split in options.splits:
            for seed in options.seeds:
                for fold, (train, test) in enumerate(folds(table, split, seed)):
                    for name in options.models:
                        row: Row = {"target": target, "split": split, "seed": seed, "fold": fold, "model": name}
                        if key(row) in done:
                            continue
                        row |= fit(table, name, train, test, seed)
                        append_row(path, row)
                        shown = f"{row[HEADLINE[target]]:.3f}, {row['fit_seconds']:.1f} s"
                        print(f"{target:15} {split:8} seed {seed} fold {fold} {name:13} {shown}", flush=True)
    lines = summary(read_rows(path))
    write_json(options.results, {"machine": machine(), "folds": FOLDS, "rows": lines})
    for line in lines:
        value = line[HEADLINE[line["target"]]]
        print(f"{line['target']:15} {line['split']:8} {line['model']:13} {value['mean']:.3f} {value['sd'] or 0:.3f}")
    print(f"written to {options.results}")


if __name__ == "__main__":
    main()
