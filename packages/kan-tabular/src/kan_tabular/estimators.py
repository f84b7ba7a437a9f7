"""KANs as scikit-learn estimators for tables with numbers, categories and gaps."""

from __future__ import annotations

import numbers
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self, cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.special import expit, log_softmax, softmax
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state, compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import (
    _check_sample_weight,
    check_array,
    check_consistent_length,
    check_is_fitted,
    column_or_1d,
    validate_data,
)

from kan_core.errors import KANError
from kan_tabular.batches import TableBatch, batch_size_for
from kan_tabular.calibration import fit_temperature
from kan_tabular.encoding import CategoricalFeatures, TableEncoder
from kan_tabular.merging import merge_rows
from kan_tabular.scores import column_scores, normalised
from kan_tabular.tasks.tabular import Kind, TabularTask
from kan_tabular.training import FitOptions, fit_task

Floats = NDArray[np.float64]

EARLY_STOPPING_FROM = 10_000
"""Rows from which ``early_stopping="auto"`` holds some out, as scikit-learn's histogram boosting does."""

LBFGS_UP_TO = 1000
"""Distinct training rows up to which ``optimizer="auto"`` is LBFGS."""

_ONE_FIT = threading.RLock()
"""Torch has one generator for all threads of a process: their fits take turns, so that a seed means the same there."""

_IMPORTANCE_ROWS = 2000
_PREDICT_ROWS = 16_384


class _KANEstimator(BaseEstimator):
    """What both estimators share; see `KANClassifier`."""

    task_: Kind

    def __init__(
        self,
        *,
        model: str = "kan",
        hidden: Sequence[int] | None = None,
        layer: str | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
        categorical_features: CategoricalFeatures = "from_dtype",
        monotone: Mapping[str, int] | Sequence[int] | None = None,
        max_epochs: int = 40,
        optimizer: Literal["auto", "adam", "lbfgs"] = "auto",
        batch_size: int | Literal["auto"] = "auto",
        lr: float = 1e-2,
        alpha: float = 3.0,
        smoothness: float | Literal["auto"] = "auto",
        early_stopping: bool | Literal["auto"] = "auto",
        validation_fraction: float = 0.1,
        patience: int = 10,
        random_state: int | np.random.RandomState | None = None,
        accelerator: str = "cpu",
        verbose: bool = False,
    ) -> None:
        self.model = model
        self.hidden = hidden
        self.layer = layer
        self.model_kwargs = model_kwargs
        self.categorical_features = categorical_features
        self.monotone = monotone
        self.max_epochs = max_epochs
        self.optimizer = optimizer
        self.batch_size = batch_size
        self.lr = lr
        self.alpha = alpha
        self.smoothness = smoothness
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.random_state = random_state
        self.accelerator = accelerator
        self.verbose = verbose

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.categorical = True
        tags.input_tags.string = True
        return tags

    # Fitting ----------------------------------------------------------------------------------------------------

    def _fit(self, X: Any, y: Floats, weight: Floats, num_outputs: int, eval_rows: Any) -> Self:
        """Train on encoded classes, or on targets in original units, shape ``(rows, targets)``."""
        with _ONE_FIT:
            return self._fit_alone(X, y, weight, num_outputs, eval_rows)

    def _fit_alone(self, X: Any, y: Floats, weight: Floats, num_outputs: int, eval_rows: Any) -> Self:
        self._check_parameters()
        self.encoder_ = self._make_encoder(X, weight)
        x, y, weight = merge_rows(self.encoder_.transform(X), y, weight)
        self._standardise(y, weight)
        seeds = check_random_state(self.random_state).randint(2**31 - 1, size=3)
        train, val = self._split(x, y, weight, eval_rows, int(seeds[0]))
        few = len(train.x) <= LBFGS_UP_TO
        optimizer = ("lbfgs" if few else "adam") if self.optimizer == "auto" else self.optimizer
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(seeds[1]))
            task = TabularTask(
                self.task_,
                self.encoder_.cardinalities,
                num_outputs,
                num_rows=max(1, round(float(weight.sum()) * len(train.x) / len(x))),
                model=self.model,
                model_kwargs=self._model_kwargs(),
                lr=self.lr,
                alpha=self.alpha,
                smoothness=self._smoothness(len(x)),
                optimizer=optimizer,
            )
        self._prepare(task, train.x)
        batch_size = batch_size_for(len(train.x)) if self.batch_size == "auto" else int(self.batch_size)
        options = FitOptions(
            self.max_epochs, batch_size, self.patience, int(seeds[2]), self.accelerator, bool(self.verbose)
        )
        best = fit_task(task, train, val, options)
        self._keep(task, best.history, best.best_epoch, train, val)
        return self

    def _smoothness(self, rows: int) -> float:
        if self.smoothness == "auto":
            return 10.0 if rows < EARLY_STOPPING_FROM else 0.2
        return float(self.smoothness)

    def _make_encoder(self, X: Any, weight: Floats) -> TableEncoder:
        return TableEncoder(self.categorical_features).fit(X, weight)

    def _prepare(self, task: TabularTask, x: torch.Tensor) -> None:
        """What the new network is given before training: its knots."""
        cast(Any, task.net).fit_grid(x)

    def _keep(
        self,
        task: TabularTask,
        history: list[dict[str, float]],
        best_epoch: int,
        train: TableBatch,
        val: TableBatch | None,
    ) -> None:
        """The fitted state: the network in float64, so that a row's answer does not depend on the rows beside it."""
        self.module_ = task.net.double().eval().requires_grad_(False)
        self.history_ = history
        self.best_epoch_ = best_epoch
        self.n_iter_ = len(history)
        rows = TableBatch(*(tensor[:_IMPORTANCE_ROWS] for tensor in train))
        self.feature_importances_ = self._importances(rows)
        if self._is_additive:
            self.term_means_ = self._term_means(train)
        self._calibrate(val)

    def _calibrate(self, val: TableBatch | None) -> None:
        """A classifier learns its temperature here."""

    def _importances(self, rows: TableBatch) -> Floats:
        scores = column_scores(
            self.module_, rows.x.double(), score="sensitivity", weight=rows.weight.double(), task=self.task_
        )
        return normalised(scores)

    def _split(
        self, x: Floats, y: Floats, weight: Floats, eval_rows: Any, seed: int
    ) -> tuple[TableBatch, TableBatch | None]:
        rows = len(x)
        if eval_rows is not None:
            eval_x, eval_y = eval_rows
            return self._batch(x, y, weight), self._batch(eval_x, eval_y, np.ones(len(eval_x)))
        wanted = rows >= EARLY_STOPPING_FROM if self.early_stopping == "auto" else self.early_stopping
        if not wanted:
            return self._batch(x, y, weight), None
        held = max(1, round(self.validation_fraction * rows))
        if rows - held < 1:
            raise KANError(
                f"early_stopping holds {held} of {rows} distinct rows out: give more rows, or set it to False"
            )
        classes = None if self.task_ == "regression" else y[:, 0]
        if classes is not None:
            counts = np.unique(classes, return_counts=True)[1]
            if counts.min() < 2 or len(counts) > min(held, rows - held):
                classes = None  # too few of one class for a share of each
        kept, out = train_test_split(np.arange(rows), test_size=held, random_state=seed, stratify=classes)
        return self._batch(x[kept], y[kept], weight[kept]), self._batch(x[out], y[out], weight[out])

    def _batch(self, x: Floats, y: Floats, weight: Floats) -> TableBatch:
        targets: torch.Tensor
        if self.task_ == "multiclass":
            targets = torch.from_numpy(y[:, 0].astype(np.int64))
        else:
            targets = torch.from_numpy(self._to_standard(y).astype(np.float32))
        share = (weight / weight.mean()).astype(np.float32)
        return TableBatch(torch.from_numpy(x.astype(np.float32)), targets, torch.from_numpy(share))

    def _standardise(self, y: Floats, weight: Floats) -> None:
        """A regressor learns its targets' scale here."""

    def _to_standard(self, y: Floats) -> Floats:
        return y

    def _model_kwargs(self) -> dict[str, Any]:
        kwargs = dict(self.model_kwargs or {})
        if self.hidden is not None:
            kwargs["hidden"] = [int(size) for size in self.hidden]
        if self.layer is not None:
            kwargs["layer"] = self.layer
        signs = self._monotone_signs()
        if any(signs):
            if self.task_ == "multiclass":
                raise KANError("monotone needs two classes or a number to predict: several classes have no order")
            kwargs["monotone"] = signs
        return kwargs

    def _monotone_signs(self) -> list[int]:
        columns = [column.name for column in self.encoder_.columns]
        if self.monotone is None:
            return [0] * len(columns)
        if isinstance(self.monotone, Mapping):
            unknown = [str(name) for name in self.monotone if str(name) not in columns]
            if unknown:
                raise KANError(f"monotone: there is no column {unknown[0]!r}")
            return [int(self.monotone.get(name, 0)) for name in columns]
        if len(self.monotone) != len(columns):
            raise KANError(f"monotone has {len(self.monotone)} entries for a table of {len(columns)} columns")
        return [int(sign) for sign in self.monotone]

    def _check_parameters(self) -> None:
        counts = {name: getattr(self, name) for name in ("max_epochs", "patience", "batch_size")}
        for name, value in counts.items():
            if name == "batch_size" and value == "auto":
                continue
            if not isinstance(value, numbers.Integral) or value < 1:
                raise KANError(f"{name} must be a whole number of at least 1, got {value!r}")
        if not self.lr > 0:
            raise KANError(f"lr must be positive, got {self.lr!r}")
        for name in ("alpha", "smoothness"):
            value = getattr(self, name)
            if not (name == "smoothness" and value == "auto") and not value >= 0:
                raise KANError(f"{name} must not be negative, got {value!r}")
        if not 0 < self.validation_fraction < 1:
            raise KANError(f"validation_fraction must lie between 0 and 1, got {self.validation_fraction!r}")
        if self.optimizer not in ("auto", "adam", "lbfgs"):
            raise KANError(f"optimizer must be 'auto', 'adam' or 'lbfgs', got {self.optimizer!r}")
        if self.early_stopping not in ("auto", True, False):
            raise KANError(f"early_stopping must be 'auto', True or False, got {self.early_stopping!r}")

    # Prediction -------------------------------------------------------------------------------------------------

    def _encode(self, X: Any) -> torch.Tensor:
        check_is_fitted(self)
        return torch.from_numpy(self.encoder_.transform(_checked_table(self, X, reset=False)))

    @torch.no_grad()
    def _outputs(self, x: torch.Tensor) -> Floats:
        """Network outputs of encoded rows, ``(rows, outputs)``."""
        parts = [self.module_(part) for part in torch.split(x, _PREDICT_ROWS)]
        return np.asarray(torch.cat(parts).numpy())

    # Additive models --------------------------------------------------------------------------------------------

    @property
    def _is_additive(self) -> bool:
        return bool(self.model == "kan" and cast(Any, self.module_).first is None)

    @torch.no_grad()
    def _term_means(self, train: TableBatch) -> Floats:
        share = train.weight.double() / train.weight.double().sum()
        edges = self._terms(train.x.double())
        return np.asarray(torch.einsum("n,nco->co", share, edges).numpy())

    def _terms(self, x: torch.Tensor) -> torch.Tensor:
        return cast(Any, self.module_).additive.contributions(x)  # type: ignore[no-any-return]

    @torch.no_grad()
    def contributions(self, X: Any) -> Floats:
        """What each column adds to the answer of an additive model (``hidden=()``), centred on the training rows.

        With `intercept_` they sum to the decision function, or to the prediction in original units.

        Args:
            X: A table as in ``fit``.

        Returns:
            ``(rows, columns)``, and ``(rows, columns, outputs)`` for several classes or targets.

        Raises:
            KANError: For a model with hidden units, whose answer is no such sum.
        """
        x = self._encode(X)
        if not self._is_additive:
            raise KANError("contributions are those of an additive model: fit with model='kan' and hidden=()")
        terms = (self._terms(x).numpy() - self.term_means_) * self._output_scale
        return np.asarray(terms[..., 0] if terms.shape[2] == 1 else terms)

    @property
    def intercept_(self) -> Any:
        """The mean answer of an additive model: a number, or ``(outputs,)`` for several classes or targets."""
        check_is_fitted(self)
        if not self._is_additive:
            raise AttributeError("intercept_ is that of an additive model: fit with model='kan' and hidden=()")
        bias = cast(Any, self.module_).additive.bias.numpy()
        value = (bias + self.term_means_.sum(axis=0)) * self._output_scale + self._output_center
        return float(value[0]) if len(value) == 1 else value

    @property
    def _output_scale(self) -> Any:
        return 1.0

    @property
    def _output_center(self) -> Any:
        return 0.0

    # Storage ----------------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Store the fitted estimator as safetensors and JSON, see `kan_tabular.persistence.save`."""
        from kan_tabular.persistence import save

        save(self, path)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """A fitted estimator that `save` stored.

        Raises:
            KANError: When the file is not one of `save`, or holds another kind of estimator.
        """
        from kan_tabular.persistence import load

        estimator = load(path)
        if not isinstance(estimator, cls):
            raise KANError(f"{path} holds a {type(estimator).__name__}, not a {cls.__name__}")
        return estimator


class KANClassifier(ClassifierMixin, _KANEstimator):
    r"""A KAN classifier for tables: numbers, booleans, categories, strings and gaps, as they are.

    Two classes have one logit, more have one each. Columns are encoded by `TableEncoder`, with what it learns from the
    training rows. Equal rows are merged, so that a weight of 2 is a row twice. Training minimises the cross-entropy
    and a prior on coefficients that fades as rows become more, see `TabularTask`. Where rows are held out for early
    stopping, they choose the epoch and then the temperature by which logits are divided, so that probabilities are
    calibrated.

    Args:
        model: Name of the network: ``"kan"``, one of TabKAN's variants, ``"mlp"``, ... (`kan_tabular.models.names`).
        hidden: Hidden sizes; ``()`` makes the model ``"kan"`` additive, a glass box; None: the model's own.
        layer: Kind of layer, any of kan_core by name, such as ``"chebyshev(degree=4)"``; ``"linear"`` makes the MLP of
            the same code; None: the model's own.
        model_kwargs: More arguments of the network.
        categorical_features: ``"from_dtype"`` (category, str and object columns), or the categorical columns by name,
            position or mask, or None.
        monotone: 1 (never falls with the column), -1 (never rises) or 0 for each column, or for named ones. For two
            classes it is the probability of the second.
        max_epochs: Passes over the rows at most.
        optimizer: ``"lbfgs"`` sees all rows at once and needs few passes, ``"adam"`` scales; ``"auto"``: LBFGS up to
            1000 distinct rows.
        batch_size: Rows per step of Adam; ``"auto"``: see `kan_tabular.batches.batch_size_for`.
        lr: The highest learning rate.
        alpha: Strength of the prior, as the L2 term of scikit-learn's networks divided by the number of rows.
        smoothness: Weight of second differences of spline coefficients in the prior; ``"auto"``: 10, and from 10,000
            distinct rows on 0.2, for many rows can tell jumps from noise.
        early_stopping: Hold rows out to choose the epoch; ``"auto"``: from 10,000 distinct rows on.
        validation_fraction: Share of rows held out.
        patience: Epochs without improvement after which training ends.
        class_weight: None, ``"balanced"`` or a weight for each class.
        random_state: Seed of split, initial weights and order of rows.
        accelerator: Lightning's: ``"cpu"``, ``"gpu"``, ``"auto"``.
        verbose: Show a progress bar.

    Attributes:
        classes_: Labels, sorted.
        encoder_: How the table is encoded.
        module_: The network: encoded rows to logits, float64, on the CPU.
        temperature_: What logits are divided by; 1 when no rows were held out.
        feature_importances_: Per column of the table, not negative, sum 1: mean size of the answer's derivative, see
            `kan_tabular.scores` (``"sensitivity"``).
        history_: Losses of each epoch.
        best_epoch_: The epoch whose weights are kept, from 1.
        n_iter_: Epochs trained.
        n_features_in_: Columns.
        feature_names_in_: Their names, when all are strings.

    Raises:
        ValueError: For one class only, infinite values, duplicate column names and other bad input: see `fit`.
    """

    def __init__(
        self,
        *,
        model: str = "kan",
        hidden: Sequence[int] | None = None,
        layer: str | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
        categorical_features: CategoricalFeatures = "from_dtype",
        monotone: Mapping[str, int] | Sequence[int] | None = None,
        max_epochs: int = 40,
        optimizer: Literal["auto", "adam", "lbfgs"] = "auto",
        batch_size: int | Literal["auto"] = "auto",
        lr: float = 1e-2,
        alpha: float = 3.0,
        smoothness: float | Literal["auto"] = "auto",
        early_stopping: bool | Literal["auto"] = "auto",
        validation_fraction: float = 0.1,
        patience: int = 10,
        class_weight: Mapping[Any, float] | Literal["balanced"] | None = None,
        random_state: int | np.random.RandomState | None = None,
        accelerator: str = "cpu",
        verbose: bool = False,
    ) -> None:
        super().__init__(
            model=model,
            hidden=hidden,
            layer=layer,
            model_kwargs=model_kwargs,
            categorical_features=categorical_features,
            monotone=monotone,
            max_epochs=max_epochs,
            optimizer=optimizer,
            batch_size=batch_size,
            lr=lr,
            alpha=alpha,
            smoothness=smoothness,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            patience=patience,
            random_state=random_state,
            accelerator=accelerator,
            verbose=verbose,
        )
        self.class_weight = class_weight

    def fit(self, X: Any, y: Any, sample_weight: Any = None, *, eval_set: tuple[Any, Any] | None = None) -> Self:
        """Learn from a table.

        Args:
            X: A data frame, or an array of shape ``(rows, columns)``.
            y: Labels, ``(rows,)``.
            sample_weight: Weight of each row, not negative.
            eval_set: Held-out ``(X, y)`` that choose the epoch, in place of a share of `X`.

        Raises:
            ValueError: For tables that cannot be used, missing labels, fewer than two classes, or a parameter out of
                its range.
        """
        X = _checked_table(self, X, reset=True)
        y = _checked_labels(y)
        check_consistent_length(X, y)
        weight = _checked_weight(sample_weight, X)
        self.classes_, codes = np.unique(y, return_inverse=True)
        present = np.unique(codes[weight > 0])
        if len(present) < 2:
            raise KANError(
                f"a classifier needs at least two classes, got one class: {[_plain(c) for c in self.classes_[present]]}"
            )
        if self.class_weight is not None:
            weight = weight * self._class_weights(codes, weight)[codes]
        self.task_: Kind = "binary" if len(self.classes_) == 2 else "multiclass"
        num_outputs = 1 if self.task_ == "binary" else len(self.classes_)
        return self._fit(X, codes[:, None].astype(np.float64), weight, num_outputs, self._eval_rows(eval_set))

    def _class_weights(self, codes: NDArray[np.int64], weight: Floats) -> Floats:
        if self.class_weight == "balanced":
            totals = np.bincount(codes, weights=weight)
            return np.asarray(weight.sum() / (len(totals) * np.where(totals > 0, totals, np.inf)))
        return np.asarray(compute_class_weight(self.class_weight, classes=self.classes_, y=self.classes_))

    def _eval_rows(self, eval_set: tuple[Any, Any] | None) -> Any:
        if eval_set is None:
            return None
        labels = _checked_labels(eval_set[1])
        unknown = sorted({repr(_plain(label)) for label in np.setdiff1d(labels, self.classes_)})
        if unknown:
            raise KANError(f"eval_set has labels that are not in y: {', '.join(unknown)}")
        codes = np.searchsorted(self.classes_, labels).astype(np.float64)
        return _Later(self, eval_set[0], codes[:, None])

    def _calibrate(self, val: TableBatch | None) -> None:
        self.temperature_ = 1.0
        if val is not None:
            self.temperature_ = fit_temperature(
                self._outputs(val.x.double()), val.y.numpy(), val.weight.double().numpy()
            )

    def decision_function(self, X: Any) -> Floats:
        """Calibrated logits: ``(rows,)`` of the second of two classes, else ``(rows, classes)``."""
        logits = self._outputs(self._encode(X)) * self._output_scale
        return np.asarray(logits[:, 0] if self.task_ == "binary" else logits)

    def predict_proba(self, X: Any) -> Floats:
        """Probabilities, ``(rows, classes)`` in the order of `classes_`."""
        logits = self.decision_function(X)
        if self.task_ == "binary":
            second = expit(logits)
            return np.column_stack([1 - second, second])
        return np.asarray(softmax(logits, axis=1))

    def predict_log_proba(self, X: Any) -> Floats:
        """Their logarithms, also where a probability is too small for its own number."""
        logits = self.decision_function(X)
        if self.task_ == "binary":
            return np.asarray(log_softmax(np.column_stack([np.zeros_like(logits), logits]), axis=1))
        return np.asarray(log_softmax(logits, axis=1))

    def predict(self, X: Any) -> NDArray[Any]:
        """Labels, ``(rows,)``."""
        logits = self.decision_function(X)
        codes = (logits > 0).astype(int) if self.task_ == "binary" else logits.argmax(axis=1)
        return np.asarray(self.classes_[codes])

    @property
    def _output_scale(self) -> Any:
        return 1 / self.temperature_


class KANRegressor(RegressorMixin, _KANEstimator):
    """A KAN regressor for tables; one target or several at once.

    Targets are standardised for training, which minimises the squared error. See `KANClassifier` for the parameters
    but `class_weight`, and for the attributes.

    Attributes:
        target_center_: What is taken from each target, ``(targets,)``.
        target_scale_: What it is divided by, ``(targets,)``.
    """

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def fit(self, X: Any, y: Any, sample_weight: Any = None, *, eval_set: tuple[Any, Any] | None = None) -> Self:
        """Learn from a table.

        Args:
            X: A data frame, or an array of shape ``(rows, columns)``.
            y: Targets, ``(rows,)`` or ``(rows, targets)``.
            sample_weight: Weight of each row, not negative.
            eval_set: Held-out ``(X, y)`` that choose the epoch, in place of a share of `X`.

        Raises:
            ValueError: For tables or targets that cannot be used, or a parameter out of its range.
        """
        X = _checked_table(self, X, reset=True, least_rows=2)
        y = _checked_targets(y)
        check_consistent_length(X, y)
        weight = _checked_weight(sample_weight, X)
        self.task_: Kind = "regression"
        self._one_target = y.ndim == 1
        y = y.reshape(len(y), -1)
        eval_rows = None
        if eval_set is not None:
            targets = _checked_targets(eval_set[1])
            eval_rows = _Later(self, eval_set[0], targets.reshape(len(targets), -1))
        return self._fit(X, y, weight, y.shape[1], eval_rows)

    def _standardise(self, y: Floats, weight: Floats) -> None:
        self.target_center_ = np.average(y, axis=0, weights=weight)
        spread = np.sqrt(np.average((y - self.target_center_) ** 2, axis=0, weights=weight))
        self.target_scale_ = np.where(spread > 0, spread, 1.0)

    def _to_standard(self, y: Floats) -> Floats:
        return np.asarray((y - self.target_center_) / self.target_scale_)

    def predict(self, X: Any) -> Floats:
        """Targets in original units, in the shape of `y`."""
        targets = self._outputs(self._encode(X)) * self.target_scale_ + self.target_center_
        return np.asarray(targets[:, 0] if self._one_target else targets)

    @property
    def _output_scale(self) -> Any:
        return self.target_scale_

    @property
    def _output_center(self) -> Any:
        return self.target_center_


class _Later:
    """Held-out rows, which can be encoded only when the encoder is fitted."""

    def __init__(self, estimator: _KANEstimator, X: Any, y: Floats) -> None:
        self.estimator, self.X, self.y = estimator, X, y
        check_consistent_length(X, y)

    def __iter__(self) -> Any:
        yield self.estimator.encoder_.transform(_checked_table(self.estimator, self.X, reset=False))
        yield self.y


def _checked_table(estimator: BaseEstimator, X: Any, reset: bool, least_rows: int = 1) -> Any:
    """A data frame as it is, or an array; names and number of columns are learned, or compared."""
    if isinstance(X, pd.DataFrame):
        twice = X.columns[X.columns.duplicated()]
        if len(twice):
            raise KANError(f"the column name {twice[0]!r} occurs more than once: columns need names of their own")
        if len(X) < least_rows:
            raise KANError(f"found {len(X)} rows (n_samples={len(X)}), but at least {least_rows} are needed")
        validate_data(estimator, X, reset=reset, skip_check_array=True)
        return X
    return validate_data(
        estimator, X, reset=reset, dtype=None, ensure_all_finite="allow-nan", ensure_min_samples=least_rows
    )


def _checked_labels(y: Any) -> NDArray[Any]:
    if y is None:
        raise KANError("requires y to be passed, but the target y is None")
    labels = column_or_1d(y, warn=True)
    missing = pd.isna(labels)
    if missing.any():
        raise KANError(f"y has {int(missing.sum())} missing labels (NaN), the first in row {int(missing.argmax())}")
    labels = np.asarray(labels.astype(str) if isinstance(labels.dtype, pd.StringDtype) else labels)
    check_classification_targets(labels)
    return labels


def _checked_targets(y: Any) -> Floats:
    if y is None:
        raise KANError("requires y to be passed, but the target y is None")
    targets = check_array(y, ensure_2d=False, dtype=np.float64, input_name="y")
    if targets.ndim > 2:
        raise KANError(f"y must have shape (rows,) or (rows, targets), got {targets.shape}")
    return np.asarray(targets)


def _checked_weight(sample_weight: Any, X: Any) -> Floats:
    weight = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
    if not weight.sum() > 0:
        raise KANError("sample_weight is 0 in every row")
    return np.asarray(weight)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
