"""From one table to another: columns matched by name, a fresh scaler, most of the network kept (TabKAN, section 7)."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any, Literal, TypeVar, cast, get_args

from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from kan_core.errors import KANError
from kan_tabular.encoding import TableEncoder, as_frame
from kan_tabular.models.kan import TabularKAN
from kan_tabular.tasks.tabular import TabularTask

Freeze = Literal["all but last", "nothing"]
Estimator = TypeVar("Estimator")

_SHAPE = ("model", "hidden", "layer", "model_kwargs", "categorical_features", "monotone")


def transfer(
    source: Estimator,
    X: Any,
    y: Any,
    sample_weight: Any = None,
    *,
    eval_set: tuple[Any, Any] | None = None,
    freeze: Freeze = "all but last",
    **params: Any,
) -> Estimator:
    """A new estimator for another table, which starts from the network of a fitted one and is trained on.

    Columns are matched by name, see `align`. Numeric columns are scaled by the statistics of the new table's rows,
    and knots stay where they are in scaled values; a column that is not there enters as missing, so with the answer
    that the source learned for gaps. Categories keep their numbers, so those that only the new table has are unknown.
    Where the new task has another number of outputs, the parts that depend on it are drawn anew.

    ``optimizer="auto"`` is Adam here, also for few rows: its small steps stay near the source, where LBFGS would go all
    the way to what the new rows want.

    The source is left as it is, and every call starts from its weights: results of several seeds are independent given
    the source.

    Args:
        source: A fitted `KANClassifier` or `KANRegressor`.
        X: The new table: a data frame, or an array in which columns are matched by position.
        y: Its labels or targets; labels need not be those of the source.
        sample_weight: Weight of each row, not negative.
        eval_set: Held-out ``(X, y)`` that choose the epoch.
        freeze: ``"all but last"``: only what ends in the outputs is trained, see `last_layers`; ``"nothing"``: all is.
        **params: Parameters of the estimator that are not the source's, such as ``lr``, ``max_epochs`` and
            ``random_state``.

    Returns:
        A fitted estimator of the source's class. Its columns are those of the source: give it tables by `align`.

    Raises:
        KANError: When no column is in both tables, for another `freeze`, for `params` that make another network, and as
            ``fit``.
        NotFittedError: When the source is not fitted.

    Reference: TabKAN (arXiv 2504.06559), whose fine-tuning keeps training one and the same network over its seeds.
    """
    check_is_fitted(source)
    if freeze not in get_args(Freeze):
        raise KANError(f"freeze must be one of {', '.join(map(repr, get_args(Freeze)))}, got {freeze!r}")
    changed = sorted(set(params) & set(_SHAPE))
    if changed:
        raise KANError(f"transfer keeps the source's network: {changed[0]} cannot be another one")
    if cast(Any, source).optimizer == "auto":
        params = {"optimizer": "adam", **params}
    target: Any = clone(source).set_params(**params)
    frame = align(X, source)
    rows = None if eval_set is None else (_quietly_aligned(eval_set[0], source), eval_set[1])
    # where `fit` makes an encoder and a new network, the source's come in
    target._make_encoder = partial(_encoder, cast(Any, source).encoder_)
    target._prepare = partial(_start_from, source, freeze)
    try:
        target.fit(frame, y, sample_weight, eval_set=rows)
    finally:
        del target._make_encoder, target._prepare
    return cast(Estimator, target)


def align(X: Any, estimator: Any) -> Any:
    """A table with the columns that an estimator was fitted on, by name and in its order.

    Args:
        X: A data frame, or an array whose columns are called x0, x1, ...
        estimator: A fitted estimator.

    Returns:
        Its columns, as a data frame if it was fitted on names and as an array otherwise. Those that `X` has not are
        missing in every row, and those that only `X` has are left out; a warning tells both.

    Raises:
        KANError: When no column is in both, or a name occurs more than once.
    """
    frame = as_frame(X)
    frame = frame.set_axis([str(name) for name in frame.columns], axis=1)
    twice = frame.columns[frame.columns.duplicated()]
    if len(twice):
        raise KANError(f"the column name {twice[0]!r} occurs more than once: columns need names of their own")
    names = [column.name for column in estimator.encoder_.columns]
    absent = [name for name in names if name not in frame.columns]
    extra = [name for name in frame.columns if name not in names]
    if len(absent) == len(names):
        raise KANError(
            f"no column is in both tables: the source has {_shown(names)}, the other one {_shown(list(frame.columns))}"
        )
    if absent:
        warnings.warn(f"columns that the table has not enter as missing: {_shown(absent)}", stacklevel=2)
    if extra:
        warnings.warn(f"columns that the source has not are left out: {_shown(extra)}", stacklevel=2)
    aligned = frame.reindex(columns=names)
    return aligned if hasattr(estimator, "feature_names_in_") else aligned.to_numpy()


def last_layers(net: nn.Module) -> list[nn.Module]:
    """The layers that end in the outputs: of the model ``"kan"`` the additive part too; other models name their own.

    Raises:
        KANError: When a model does not say.
    """
    if isinstance(net, TabularKAN):
        return [net.additive, *net.rest[-1:]]
    own = getattr(net, "last_layers", None)
    if own is None:
        raise KANError(f"{type(net).__name__} does not name its last layers: use freeze='nothing'")
    return list(own())


def _shown(names: list[str]) -> str:
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")


def _quietly_aligned(X: Any, estimator: Any) -> Any:
    """Held-out rows of a table of which the training rows have told the differences already."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return align(X, estimator)


def _encoder(source: TableEncoder, X: Any, weight: Any) -> TableEncoder:
    """The source's categories, and the scale of the new rows for columns that hold numbers there."""
    frame = as_frame(X)
    categorical = [j for j, column in enumerate(source.columns) if column.kind == "categorical"]
    encoder = TableEncoder(categorical).fit(frame, weight)
    for j, (old, new) in enumerate(zip(source.columns, encoder.columns, strict=True)):
        if old.kind == "categorical" or frame.iloc[:, j].isna().all():
            encoder.columns[j] = old
        unknown = [repr(category) for category in new.categories if category not in old.categories]
        if unknown:
            warnings.warn(
                f"column {old.name!r} has categories that the source never saw: {_shown(unknown)}", stacklevel=2
            )
    return encoder


def _start_from(source: Any, freeze: Freeze, task: TabularTask, x: Tensor) -> None:
    """The source's numbers for a new network, knots included, and what of it is trained."""
    anew = _load(task.net, source.module_)
    if freeze == "all but last":
        trained = {id(parameter) for layer in last_layers(task.net) for parameter in layer.parameters()}
        for name, parameter in task.net.named_parameters():
            parameter.requires_grad_(id(parameter) in trained or name in anew)


def _load(net: nn.Module, source: nn.Module) -> set[str]:
    """The source's numbers into `net`; the names of those that have another shape there, and stay."""
    own, pretrained = net.state_dict(), source.state_dict()
    anew = {name for name, value in own.items() if pretrained[name].shape != value.shape}
    net.load_state_dict({**pretrained, **{name: own[name] for name in anew}})
    return anew
