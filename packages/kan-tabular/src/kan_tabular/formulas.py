"""An additive model (``hidden=()``) for readers and programs without Python: JSON, plain text, and SQL."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import BSpline as ScipySpline
from scipy.interpolate import PPoly

from kan_core.bases import BSpline
from kan_core.errors import KANError
from kan_core.layers import KANLinear
from kan_tabular.encoding import Column
from kan_tabular.explain import Scores, column_layer, column_places, numeric_places, scores_of

Floats = NDArray[np.float64]

FORMAT, VERSION = "kan_tabular.additive", 1
SCALING = "z = u / sqrt(1 + (u / 3)^2) with u = (x - center) * factor"
PREFIX = "kan_"
"""Of the columns that the SQL adds to those of the table."""

_CHECKED = 4000  # values per column at which a lookup is compared with the model
_BASES = {"silu", "identity", "relu", "tanh"}  # base functions that the text and the JSON name


@dataclass(frozen=True)
class Spline:
    """φ(z) = Σ_i C_i B_i(z) + w·base(z) + constant, of the scaled value z of one numeric column, for K outputs.

    Attributes:
        order: Degree of the B-splines.
        knots: t_0 ... t_{n+order}, the same for all outputs.
        coefficients: C, ``(K, n)``.
        outside: What holds beyond the grid t_order ... t_n: ``"decay"`` (the B-splines run out), ``"clamp"`` (their
            values at its end) or ``"linear"`` (their tangent there).
        base: Name of the base function, or None.
        base_weights: w, ``(K,)``.
        constant: ``(K,)``.
    """

    order: int
    knots: Floats
    coefficients: Floats
    outside: str
    base: str | None
    base_weights: Floats
    constant: Floats

    def polynomials(self, output: int) -> PPoly:
        """The B-spline part and the constant of one output as cubics on the intervals between knots."""
        k = self.order
        # k more knots and zero coefficients on either side: scipy's spline then covers the whole support
        first, last = self.knots[0], self.knots[-1]
        knots = np.concatenate([np.arange(-k, 0) + first, self.knots, np.arange(1, k + 1) + last])
        padded = np.pad(self.coefficients[output], k)
        pieces = PPoly.from_spline(ScipySpline(knots, padded, k))
        pieces.c[-1] += self.constant[output]
        return pieces


@dataclass(frozen=True)
class Lookup:
    """A curve as straight lines between breakpoints in original units.

    Attributes:
        x: Increasing breakpoints, ``(P,)``, from the least to the greatest training value.
        values: Contributions there, ``(P, K)``.
        error: Largest distance to the model between them, per output, ``(K,)``.
    """

    x: Floats
    values: Floats
    error: Floats


def to_json(est: Any, points: int = 64) -> str:
    """An additive model as JSON, complete: the model itself, and a table for programs that only interpolate.

    ``score_k = intercept_k + Σ contribution_k of each column``; a score is the decision function (logit) of a
    classifier or the prediction of a regressor in its units. A numeric column has ``spline``, the exact function of the
    scaled value (see `Spline`; null for layers that are not made of B-splines), and ``lookup``: breakpoints in original
    units with contributions, to be joined by straight lines and held beyond the ends, and ``max_error``. Contributions
    have mean 0 over the training rows.

    Args:
        est: A fitted additive `KANClassifier` or `KANRegressor`.
        points: At most so many breakpoints per column.

    Raises:
        KANError: When the model is not additive.
    """
    model = additive_scores(est)
    columns = []
    for j, column in enumerate(model.encoder.columns):
        parts, z = column_places(model.encoder, j, 2)
        values = _column_values(model, j, z)
        entry: dict[str, Any] = {"name": column.name, "kind": column.kind, "missing": _of(parts, values, "missing")}
        if column.kind == "categorical":
            known = zip(column.categories, values.tolist(), strict=False)
            entry["categories"] = [{"value": category, "contribution": value} for category, value in known]
            entry["unknown"] = _of(parts, values, "unknown")
        else:
            entry |= {"center": column.center, "factor": column.scale, "low": column.low, "high": column.high}
            spline, table = spline_of(model, j), lookup(model, j, points)
            entry["spline"] = None if spline is None else _plain(vars(spline))
            entry["lookup"] = {"x": table.x.tolist(), "contributions": table.values.tolist()}
            entry["max_error"] = table.error.tolist()
        columns.append(entry)
    stored = {
        "format": FORMAT,
        "version": VERSION,
        "score": "decision_function" if hasattr(est, "classes_") else "prediction",
        "classes": np.asarray(est.classes_).tolist() if hasattr(est, "classes_") else None,
        "outputs": _plain(model.outputs),
        "intercept": model.intercept.tolist(),
        "scaling": SCALING,
        "columns": columns,
    }
    return json.dumps(stored, indent=2, allow_nan=False)


def to_text(est: Any, digits: int = 4) -> str:
    """An additive model as formulas to read, valid on the training range.

    Args:
        est: A fitted additive `KANClassifier` or `KANRegressor`.
        digits: Significant digits of every number.

    Raises:
        KANError: When the model is not additive.
    """
    model = additive_scores(est)
    number = f"{{:.{digits}g}}".format
    names = [column.name for column in model.encoder.columns]
    lines: list[str] = []
    for k, output in enumerate(model.outputs):
        number_of = f" {output}" if len(model.outputs) > 1 else ""
        what = f"logit of {output!r}" if hasattr(est, "classes_") else f"prediction{number_of}"
        lines += [f"{what} = {number(model.intercept[k])} + " + " + ".join(f"f({name})" for name in names)]
        for j, column in enumerate(model.encoder.columns):
            parts, z = column_places(model.encoder, j, 12)
            values = _column_values(model, j, z)[:, k]
            lines += ["", f"f({column.name})" + (_range(column, number) if column.kind == "numeric" else "")]
            spline = spline_of(model, j) if column.low < column.high else None
            if spline is None:
                shown = zip(parts["part"], parts["x"], values, strict=True)
                lines += [f"    {_place(part, x, number)}: {number(value)}" for part, x, value in shown]
            else:
                low, high = model.encoder.scaled(j, [column.low, column.high])
                lines += [f"    {line}" for line in _spline_lines(spline, k, column, low, high, number)]
                lines += [f"    missing: {number(values[-1])}"]
        lines += ["", ""]
    return "\n".join(lines).rstrip() + "\n"


def to_sql(est: Any, table: str = "t", points: int = 32, probabilities: bool = False) -> str:
    """An additive model as one SELECT statement in standard SQL: the table's columns, and what the model answers.

    Numeric columns are looked up between breakpoints and held beyond the training range, categories by CASE; NULL is
    missing, and a category that training never saw is unknown. The statement begins with a comment that states the
    largest error of a score on the training range: the sum over the columns of each one's own, measured at 4,000
    values.

    Columns added: ``kan_prediction``; of a classifier also ``kan_score`` (decision function; with more than two
    classes ``kan_score_<class>``); with `probabilities` ``kan_probability`` (of the second class; or one per class). A
    regressor of several targets has ``kan_prediction_0``, ``kan_prediction_1``, ...

    Args:
        est: A fitted additive `KANClassifier` or `KANRegressor`.
        table: To read from; ``schema.table`` is understood.
        points: At most so many breakpoints per numeric column.
        probabilities: Add them; they need the function EXP, which not every SQLite has.

    Raises:
        KANError: When the model is not additive, or a column's name begins with ``kan_``.
    """
    model = additive_scores(est)
    columns = model.encoder.columns
    taken = [column.name for column in columns if column.name.lower().startswith(PREFIX)]
    if taken:
        raise KANError(f"to_sql adds columns called {PREFIX}...: rename the column {taken[0]!r}")
    errors = np.zeros(len(model.outputs))
    terms: list[list[str]] = [[_float(value)] for value in model.intercept]
    for j, column in enumerate(columns):
        if column.kind == "categorical":
            cases = _category_cases(model, j)
        else:
            found = lookup(model, j, points)
            errors += found.error
            cases = _numeric_cases(column, found, _column_values(model, j, np.array([np.nan]))[0])
        for own, case in zip(terms, cases, strict=True):
            own.append(case)
    classes = est.classes_.tolist() if hasattr(est, "classes_") else None
    names = _score_names(model.outputs, classes)
    scores = ",\n  ".join(
        " +\n    ".join(own) + f" AS {_identifier(name)}" for own, name in zip(terms, names, strict=True)
    )
    source = ".".join(_identifier(part) for part in table.split("."))
    statement = f"SELECT *,\n  {scores}\nFROM {source}"
    if classes is not None:
        statement = f"SELECT *,\n  {_answers(names, classes, probabilities)}\nFROM (\n{statement}\n) AS kan_scores"
    return f"-- largest error of a score against the model on the training range: {errors.max():.3g}\n{statement}"


def additive_scores(est: Any) -> Scores:
    """The model of a fitted additive estimator.

    Raises:
        KANError: When it has interactions.
    """
    model = scores_of(est)
    if not model.additive:
        raise KANError("formulas are for additive models: fit with hidden=(), or use to_onnx for this one")
    return model


def spline_of(model: Scores, j: int) -> Spline | None:
    """The exact curve of numeric column `j`; None where the layer's edges are not B-splines."""
    layer = column_layer(model.net)
    numeric = layer.numeric
    readable = isinstance(numeric, KANLinear) and isinstance(numeric.basis, BSpline) and numeric.norm is None
    if not readable or not (numeric.base is None or numeric.base in _BASES):
        return None
    assert model.means is not None
    i = layer.numeric_columns.index(j)
    scale = model.scale
    base = numeric.base_weight
    return Spline(
        order=numeric.basis.order,
        knots=_array(numeric.basis.knots[i]),
        coefficients=_array(numeric.coefficients[:, i]) * scale[:, None],
        outside=numeric.basis.edge,
        base=numeric.base,
        base_weights=np.zeros(len(scale)) if base is None else _array(base[:, i]) * scale,
        constant=-model.means[j],
    )


def lookup(model: Scores, j: int, points: int) -> Lookup:
    """Breakpoints of numeric column `j`, each put where the lines so far are farthest from the model.

    Args:
        model: Additive.
        j: The column.
        points: At most so many.
    """
    x = numeric_places(model.encoder, j, _CHECKED)
    values = _column_values(model, j, model.encoder.scaled(j, x))
    size = np.maximum(np.ptp(values, axis=0), 1e-300)
    kept = np.unique([0, len(x) - 1])
    while True:
        distance = np.abs(values - _interpolated(x, x[kept], values[kept]))
        worst = int((distance / size).max(axis=1).argmax())
        if len(kept) >= max(2, points) or worst in kept or (distance[worst] <= 1e-12 * size).all():
            return Lookup(x[kept], values[kept], distance.max(axis=0))
        kept = np.unique(np.append(kept, worst))


def _interpolated(x: Floats, at: Floats, values: Floats) -> Floats:
    return np.stack([np.interp(x, at, column) for column in values.T], axis=1)


def _column_values(model: Scores, j: int, z: Floats) -> Floats:
    """Centred contributions of column `j` alone at encoded values: ``(len(z), K)``."""
    rows = np.zeros((len(z), len(model.encoder.columns)))
    rows[:, j] = z
    return np.asarray(model.contributions(rows)[:, j])


def _of(parts: Any, values: Floats, part: str) -> list[float]:
    return list(values[parts["part"].to_numpy() == part][0].tolist())


def _array(tensor: Any) -> Floats:
    return np.asarray(tensor.detach().double().cpu().numpy())


def _plain(value: Any) -> Any:
    """Arrays and numpy's numbers as JSON has them."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


# Text ---------------------------------------------------------------------------------------------------------------


def _range(column: Column, number: Any) -> str:
    return f", {number(column.low)} <= {column.name} <= {number(column.high)}"


def _place(part: str, x: Any, number: Any) -> str:
    return part if x is None else number(x) if part == "value" else repr(x)


def _spline_lines(spline: Spline, output: int, column: Column, low: float, high: float, number: Any) -> list[str]:
    lines = [f"z = u / sqrt(1 + (u / 3)^2), u = ({column.name} - {number(column.center)}) * {number(column.scale)}"]
    pieces = spline.polynomials(output)
    for left, right, powers in zip(pieces.x[:-1], pieces.x[1:], pieces.c.T, strict=True):
        if right <= left or right < low or left > high:
            continue
        terms = [number(powers[-1])] + [_power(c, p, number) for p, c in enumerate(powers[-2::-1], start=1)]
        lines.append(f"{number(left)} <= z < {number(right)}: {' '.join(terms)}, t = z - ({number(left)})")
    if spline.base is not None:
        lines.append(f"everywhere: + ({number(spline.base_weights[output])}) {spline.base}(z)")
    return lines


def _power(coefficient: float, power: int, number: Any) -> str:
    sign = "-" if coefficient < 0 else "+"
    return f"{sign} {number(abs(coefficient))} t" + (f"^{power}" if power > 1 else "")


# SQL ----------------------------------------------------------------------------------------------------------------


def _numeric_cases(column: Column, table: Lookup, missing: Floats) -> list[str]:
    name = _identifier(column.name)
    cases = []
    for k, absent in enumerate(missing):
        x, y = table.x, table.values[:, k]
        parts = [f"WHEN {name} IS NULL THEN {_float(absent)}", f"WHEN {name} <= {_float(x[0])} THEN {_float(y[0])}"]
        for i in range(1, len(x)):
            slope = (y[i] - y[i - 1]) / (x[i] - x[i - 1])
            line = f"{_float(y[i - 1])} + ({name} - {_float(x[i - 1])}) * {_float(slope)}"
            parts.append(f"WHEN {name} < {_float(x[i])} THEN {line}")
        cases.append(f"CASE {' '.join(parts)} ELSE {_float(y[-1])} END")
    return cases


def _category_cases(model: Scores, j: int) -> list[str]:
    column = model.encoder.columns[j]
    name = _identifier(column.name)
    parts, z = column_places(model.encoder, j, 2)
    values = _column_values(model, j, z)
    missing, unknown = _of(parts, values, "missing"), _of(parts, values, "unknown")
    cases = []
    for k in range(values.shape[1]):
        whens = [f"WHEN {name} IS NULL THEN {_float(missing[k])}"]
        for category, value in zip(column.categories, values[:, k], strict=False):
            whens.append(f"WHEN {name} = {_literal(category)} THEN {_float(value)}")
        cases.append(f"CASE {' '.join(whens)} ELSE {_float(unknown[k])} END")
    return cases


def _score_names(outputs: Sequence[Any], classes: list[Any] | None) -> list[str]:
    what = "prediction" if classes is None else "score"
    return [f"{PREFIX}{what}" if len(outputs) == 1 else f"{PREFIX}{what}_{output}" for output in outputs]


def _answers(names: list[str], classes: list[Any], probabilities: bool) -> str:
    """The predicted class, and the probabilities, from columns of scores."""
    scores = [_identifier(name) for name in names]
    if len(scores) == 1:
        label = f"CASE WHEN {scores[0]} > 0 THEN {_literal(classes[1])} ELSE {_literal(classes[0])} END"
        shares = {f"{PREFIX}probability": f"1.0 / (1.0 + EXP(-{scores[0]}))"}
    else:
        whens = [
            f"WHEN {' AND '.join(f'{own} >= {other}' for other in scores if other != own)} THEN {_literal(name)}"
            for own, name in zip(scores, classes, strict=True)
        ]
        label = f"CASE {' '.join(whens)} END"
        # each over its own exponential: no sum overflows where the probability is not 0 anyway
        shares = {
            f"{PREFIX}probability_{name}": f"1.0 / ({' + '.join(f'EXP({other} - {own})' for other in scores)})"
            for own, name in zip(scores, classes, strict=True)
        }
    columns = {f"{PREFIX}prediction": label} | (shares if probabilities else {})
    return ",\n  ".join(f"{expression} AS {_identifier(name)}" for name, expression in columns.items())


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(value: Any) -> str:
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return repr(value) if value >= 0 else f"({value!r})"


def _float(value: float) -> str:
    """A number that round-trips, in parentheses when it is negative."""
    text = repr(float(value))
    return f"({text})" if text.startswith("-") else text
