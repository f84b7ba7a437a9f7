"""The models of the benchmark by name, all as estimators: what they learn of a table comes from the rows of fit."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import loguniform
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.compose import ColumnTransformer, make_column_selector, make_column_transformer
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
    VotingClassifier,
    VotingRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import RandomizedSearchCV, ShuffleSplit, StratifiedShuffleSplit
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

import kan_tabular.models.mlp  # noqa: F401  (registers itself)
from kan_core.errors import KANError
from kan_tabular import KANClassifier, KANRegressor
from kan_tabular.models import names as network_names

Array = NDArray[Any]

TWINS: dict[str, dict[str, Any]] = {
    "mlp-relu": {"layer": "linear", "optimizer": "adam", "model_kwargs": {"activation": "relu"}},
    "mlp-silu": {"layer": "linear", "optimizer": "adam", "model_kwargs": {"activation": "silu"}},
    "mlp-spline": {"model": "mlp-spline", "optimizer": "adam", "hidden": (32,)},
    "mlp-ple": {"model": "mlp-ple", "optimizer": "adam", "hidden": (32,)},
}
"""MLPs as deep as the KAN, by the arguments of the estimator; the first two are its own code with linear edges. They
keep Adam on small tables too, where the KAN takes LBFGS: in pilots LBFGS served the KAN better and the MLPs worse."""

KANS: dict[str, dict[str, Any]] = {
    "kan": {},
    "kan-additive": {"hidden": ()},
    "kan-ensemble": {},
}
"""The ensemble is the mean answer of `MEMBERS` KANs with their defaults, which differ in their seeds."""

MEMBERS = 5

ABLATIONS: dict[str, dict[str, Any]] = {
    "kan-no-base": {"model_kwargs": {"layer_kwargs": {"base": None}}},
    "kan-even-grid": {"layer": "bspline(grid_size=12, grid_range=(-3, 3), grid_eps=1.0)"},
    "kan-narrow-grid": {"layer": "bspline(grid_size=12, grid_range=(-1, 1), grid_eps=1.0)"},
}
"""The KAN without its base branch, and without knots at quantiles."""

PATHS: dict[str, dict[str, Any]] = {
    "kan-stopped": {"early_stopping": True},
    "kan-unstopped": {"early_stopping": False},
    "kan-balanced": {"class_weight": "balanced"},
    "kan-oversampled": {},
}
"""More ways through the KAN's fit, for the control with shuffled labels."""

NETWORKS = {**KANS, **ABLATIONS, **TWINS, **PATHS}
REFERENCES = ("linear", "boosting", "forest", "dummy")

NETWORK_SPACE = {"lr": loguniform(1e-3, 3e-2), "alpha": loguniform(0.03, 30)}
SPACES: dict[str, dict[str, Any]] = {
    "kan": {**NETWORK_SPACE, "hidden": [(), (8,), (32,), (64,)], "smoothness": loguniform(0.3, 300)},
    "kan-additive": {**NETWORK_SPACE, "smoothness": loguniform(0.3, 300)},
    **{twin: {**NETWORK_SPACE, "hidden": [(32,), (64,), (128,), (256,)]} for twin in TWINS},
    "boosting": {
        "model__learning_rate": loguniform(0.02, 0.3),
        "model__max_leaf_nodes": [7, 15, 31, 63],
        "model__min_samples_leaf": [5, 20, 50],
        "model__l2_regularization": loguniform(1e-3, 10),
    },
    "forest": {"model__max_features": ["sqrt", 0.3, 0.6, 1.0], "model__min_samples_leaf": [1, 2, 5, 10]},
}
"""What a random search draws from, by model; see `space_of` for the linear one."""


def make(name: str, task: str, seed: int, **options: Any) -> Any:
    """An estimator, unfitted.

    Args:
        name: A key of `NETWORKS`, one of `REFERENCES`, or a network of `kan_tabular.models`.
        task: ``"binary"``, ``"multiclass"`` or ``"regression"``.
        seed: Of all its random numbers.
        options: More arguments of a network's estimator; those in ``model_kwargs`` are added to its own.

    Raises:
        KANError: For an unknown name, or weights of classes where there are none.
    """
    if name in REFERENCES:
        return _reference(name, task, seed)
    own = NETWORKS.get(name)
    if own is None:
        if name not in network_names():
            known = sorted({*NETWORKS, *REFERENCES, *network_names()})
            raise KANError(f"unknown model {name!r}: choose one of {', '.join(known)}")
        own = {"model": name}
    if name.endswith("-ensemble"):
        options = {**own, **options}
        members = [(str(i), make("kan", task, MEMBERS * seed + i, **options)) for i in range(MEMBERS)]
        return VotingRegressor(members) if task == "regression" else VotingClassifier(members, voting="soft")
    if task == "regression" and name in ("kan-balanced", "kan-oversampled"):
        raise KANError(f"{name} is for classes only")
    inner = {**own.get("model_kwargs", {}), **options.pop("model_kwargs", {})}
    kind = KANRegressor if task == "regression" else KANClassifier
    estimator = kind(**{**own, **options, "model_kwargs": inner or None, "random_state": seed})
    return Oversampled(estimator, seed) if name == "kan-oversampled" else estimator


def applies(name: str, task: str) -> bool:
    """Whether a model is for such a task."""
    return task != "regression" or name not in ("kan-balanced", "kan-oversampled")


def tuned(name: str, task: str, seed: int, trials: int, **options: Any) -> RandomizedSearchCV:
    """The model with the best of `trials` random settings on a fifth of the training rows, refitted on all of them.

    Raises:
        KANError: For a model without a search space.
    """
    regression = task == "regression"
    return RandomizedSearchCV(
        make(name, task, seed, **options),
        space_of(name, task),
        n_iter=trials,
        cv=(ShuffleSplit if regression else StratifiedShuffleSplit)(1, test_size=0.2, random_state=seed),
        scoring="neg_root_mean_squared_error" if regression else "neg_log_loss",
        random_state=seed,
        error_score="raise",
    )


def space_of(name: str, task: str) -> dict[str, Any]:
    """What a random search of a model draws from.

    Raises:
        KANError: For a model without a search space.
    """
    if name == "linear":
        return {"model__alpha" if task == "regression" else "model__C": loguniform(1e-3, 1e3)}
    if name not in SPACES:
        raise KANError(f"there is no search space for {name!r}: choose one of linear, {', '.join(SPACES)}")
    return SPACES[name]


def _reference(name: str, task: str, seed: int) -> Any:
    regression = task == "regression"
    if name == "dummy":
        return DummyRegressor() if regression else DummyClassifier(strategy="prior")
    before: Any = _numbers()
    if name == "linear":
        model = Ridge() if regression else LogisticRegression(max_iter=2000)
    elif name == "forest":
        model = (RandomForestRegressor if regression else RandomForestClassifier)(200, random_state=seed)
    else:
        before = FunctionTransformer(text_as_categories)
        kind = HistGradientBoostingRegressor if regression else HistGradientBoostingClassifier
        model = kind(categorical_features="from_dtype", random_state=seed)
    return Pipeline([("columns", before), ("model", model)])


def _numbers() -> ColumnTransformer:
    """Medians for missing numbers and a column that says so, unit variance; one column for each category."""
    numbers = make_pipeline(
        SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True), StandardScaler()
    )
    return make_column_transformer(
        (numbers, make_column_selector(dtype_include="number")),
        (OneHotEncoder(handle_unknown="ignore", sparse_output=False), make_column_selector(dtype_exclude="number")),
    )


def text_as_categories(X: pd.DataFrame) -> pd.DataFrame:
    """The table with dtype category where it is not numeric: what gradient boosting knows as categories."""
    return X.astype(dict.fromkeys(X.select_dtypes(exclude="number").columns, "category"))


class Oversampled(ClassifierMixin, BaseEstimator):
    """A classifier fitted on rows drawn again until all classes are as large as the largest: of the fold alone.

    Args:
        estimator: The classifier.
        seed: Of the draws.
    """

    def __init__(self, estimator: Any, seed: int) -> None:
        self.estimator = estimator
        self.seed = seed

    def fit(self, X: pd.DataFrame, y: Array) -> Self:
        """Resample, then fit."""
        generator = np.random.default_rng(self.seed)
        classes, counts = np.unique(y, return_counts=True)
        more = [
            generator.choice(np.flatnonzero(y == label), counts.max() - count)
            for label, count in zip(classes, counts, strict=True)
        ]
        rows = np.concatenate([np.arange(len(y)), *more])
        self.classes_ = classes
        self.estimator_ = clone(self.estimator).fit(X.iloc[rows].reset_index(drop=True), y[rows])
        return self

    def predict_proba(self, X: pd.DataFrame) -> Array:
        """Of the fitted classifier."""
        proba: Array = self.estimator_.predict_proba(X)
        return proba

    def predict(self, X: pd.DataFrame) -> Array:
        """Of the fitted classifier."""
        labels: Array = self.estimator_.predict(X)
        return labels
