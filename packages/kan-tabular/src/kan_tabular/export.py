"""A fitted estimator as an ONNX file that takes a table in original units; needs the extra ``kan-tabular[export]``."""

from __future__ import annotations

import copy
import json
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim

from kan_core.errors import KANError
from kan_core.ops import use_backend
from kan_core.training.files import atomic_write
from kan_tabular.encoding import LIMIT, TableEncoder
from kan_tabular.explain import Scores, scores_of
from kan_tabular.models.column_layer import FIRST, UNKNOWN

FORMAT, VERSION = "kan_tabular.onnx", 1
TOLERANCE = 1e-5
"""The largest difference to the estimator that a file may have: of probabilities, or in deviations of a target."""

_LARGEST = 1e15  # scaled values beyond are held here, where the clip is at its limit: their squares would overflow


def to_onnx(est: Any, path: str | Path) -> dict[str, Any]:
    """Write a fitted estimator as ``path`` (ONNX) and, beside it, what a caller must know as JSON (``model.json``).

    The graph holds the scaling of columns and, for classifiers, the probabilities. Its inputs, with a free number of
    rows, are those that the table has of:

    - ``numeric``: float64 ``(rows, numeric columns)`` in original units and the table's order; NaN is missing;
    - ``categories``: int64 ``(rows, categorical columns)``, the code of each category in the vocabulary that the JSON
      and the file's metadata hold (`category_codes` makes them): 0 for one that is not there, 1 for missing.

    Its output is float64: ``probabilities`` ``(rows, classes)`` in the order of ``classes_``, or ``predictions``
    ``(rows, targets)`` in original units. The network is in float64, too, but for operators that ONNX Runtime only has
    in float32 (GELU's); the JSON says which it is. The file is run and compared with the estimator before it appears.

    Args:
        est: A fitted `KANClassifier` or `KANRegressor`.
        path: Ending in ``.onnx``.

    Returns:
        What the JSON holds: columns with vocabularies, classes, shapes, precision, largest difference to the estimator.

    Raises:
        KANError: When the packages of the extra are missing, `path` has another ending, the network has an operator
            that ONNX lacks, or the file differs from the estimator by more than 1e-5.
    """
    _check_packages()
    path = Path(path)
    if path.suffix != ".onnx":
        raise KANError(f"to_onnx writes files that end in .onnx, got {path}")
    model = scores_of(est)
    classifier = hasattr(est, "classes_")
    report = _describe(est, model)
    samples = [_sample(model.encoder, rows) for rows in (2, 1, 33)]
    with atomic_write(path) as temporary:
        for precision in (torch.float64, torch.float32):
            graph = Graph(model, classifier, precision).eval()
            report["precision"] = str(precision).removeprefix("torch.")
            _write(graph, samples[0], temporary, report)
            difference = _difference(graph, temporary, samples, model)
            if difference is not None:
                break
        else:
            raise KANError(f"to_onnx: ONNX Runtime lacks an operator of {type(model.net).__name__}")
        if not difference <= TOLERANCE:
            raise KANError(f"{path} would differ from the estimator by {difference:.3g}, more than {TOLERANCE:g}")
    report["max_difference"] = difference
    with atomic_write(path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def category_codes(est: Any, X: Any) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The input ``categories`` of a table: ``(rows, categorical columns)`` codes, int64."""
    encoder = scores_of(est).encoder
    categorical = [j for j, column in enumerate(encoder.columns) if column.kind == "categorical"]
    return encoder.transform(X)[:, categorical].astype(np.int64)


class Graph(nn.Module):
    """From a table in original units to answers: the inputs of `to_onnx` to its output.

    Args:
        model: The fitted network.
        classifier: Answer with probabilities.
        precision: Of the network; scaling and answers are in float64.
    """

    center: Tensor
    factor: Tensor
    out_scale: Tensor
    out_center: Tensor
    codes: Tensor

    def __init__(self, model: Scores, classifier: bool, precision: torch.dtype) -> None:
        super().__init__()
        columns = model.encoder.columns
        numeric = [j for j, column in enumerate(columns) if column.kind == "numeric"]
        categorical = [j for j, column in enumerate(columns) if column.kind == "categorical"]
        self.net = copy.deepcopy(model.net).cpu().to(precision)
        self.classifier, self.precision = classifier, precision
        self.has = (bool(numeric), bool(categorical))
        self.order = np.argsort(numeric + categorical).tolist()
        constants = {
            "center": [columns[j].center for j in numeric],
            "factor": [columns[j].scale for j in numeric],
            "out_scale": model.scale,
            "out_center": model.center,
        }
        for name, values in constants.items():
            self.register_buffer(name, torch.as_tensor(np.asarray(values, dtype=np.float64)))
        self.register_buffer("codes", torch.tensor([columns[j].cardinality for j in categorical], dtype=torch.int64))

    def forward(self, *inputs: Tensor) -> Tensor:
        """Numbers ``(rows, numeric)`` and codes ``(rows, categorical)``, those that there are, to answers."""
        left = list(inputs)
        parts = []
        if self.has[0]:
            u = (left.pop(0) - self.center) * self.factor
            # not clamp, which loses NaN in ONNX Runtime
            u = torch.where(u.abs() > _LARGEST, torch.sign(u) * _LARGEST, u)
            parts.append(LIMIT * u / torch.sqrt(LIMIT**2 + u * u))
        if self.has[1]:
            codes = left.pop(0)
            parts.append(torch.where((codes < 0) | (codes >= self.codes), UNKNOWN, codes).double())
        x = torch.cat(parts, dim=1)[:, self.order]
        scores: Tensor = self.net(x.to(self.precision)).double() * self.out_scale + self.out_center
        if not self.classifier:
            return scores
        if scores.shape[1] > 1:
            return torch.softmax(scores, dim=1)
        return torch.cat([torch.sigmoid(-scores), torch.sigmoid(scores)], dim=1)


def _describe(est: Any, model: Scores) -> dict[str, Any]:
    columns = []
    for column in model.encoder.columns:
        entry: dict[str, Any] = {"name": column.name, "kind": column.kind}
        if column.kind == "categorical":
            codes = range(FIRST, column.cardinality)
            entry["codes"] = [{"value": value, "code": c} for value, c in zip(column.categories, codes, strict=True)]
        columns.append(entry)
    classifier = hasattr(est, "classes_")
    return {
        "format": FORMAT,
        "version": VERSION,
        "inputs": [name for name, there in zip(("numeric", "categories"), _kinds(model.encoder), strict=True) if there],
        "output": "probabilities" if classifier else "predictions",
        "classes": est.classes_.tolist() if classifier else None,
        "columns": columns,
    }


def _kinds(encoder: TableEncoder) -> tuple[bool, bool]:
    kinds = {column.kind for column in encoder.columns}
    return "numeric" in kinds, "categorical" in kinds


def _sample(encoder: TableEncoder, rows: int) -> tuple[Tensor, ...]:
    """Random inputs over and beyond the training range, with missing values and codes that there are not."""
    rng = np.random.default_rng(rows)
    numeric, codes = [], []
    for column in encoder.columns:
        if column.kind == "categorical":
            codes.append(rng.integers(0, column.cardinality + 1, rows))
        else:
            reach = column.high - column.low
            values = rng.uniform(column.low - 0.2 * reach, column.high + 0.2 * reach, rows)
            numeric.append(np.where(rng.random(rows) < 0.1, np.nan, values))
    return tuple(torch.as_tensor(np.stack(part, axis=1)) for part in (numeric, codes) if part)


def _write(graph: Graph, example: tuple[Tensor, ...], path: Path, report: dict[str, Any]) -> None:
    rows = Dim("rows")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own, about operators that it does not find
        try:
            with use_backend("reference"), torch.no_grad():
                program = torch.export.export(graph, example, dynamic_shapes=(tuple({0: rows} for _ in example),))
            converted = torch.onnx.export(
                program, dynamo=True, verbose=False, input_names=report["inputs"], output_names=[report["output"]]
            )
        except torch.onnx.OnnxExporterError as error:
            operator = re.search(r"torch\.ops\.([\w.]+)", str(error))
            what = f"the operator {operator[1]}" if operator else type(error).__name__
            raise KANError(f"to_onnx: torch's ONNX exporter does not convert this network ({what})") from error
        except (RuntimeError, ValueError, TypeError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise KANError(f"to_onnx: {type(graph.net).__name__} cannot be traced: {reason}") from error
    assert converted is not None
    converted.model.metadata_props.update({key: json.dumps(value) for key, value in report.items()})
    converted.save(path, external_data=False)


def _difference(graph: Graph, path: Path, samples: list[tuple[Tensor, ...]], model: Scores) -> float | None:
    """Largest difference of a file's answers to those in float64; None when ONNX Runtime lacks an operator."""
    import onnxruntime
    from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as Lacking

    try:
        session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    except Lacking:
        return None
    names = [node.name for node in session.get_inputs()]
    exact = Graph(model, graph.classifier, torch.float64).eval()
    unit = 1.0 if graph.classifier else torch.as_tensor(model.scale)
    worst = 0.0
    for sample in samples:
        (found,) = session.run(None, {name: part.numpy() for name, part in zip(names, sample, strict=True)})
        with torch.no_grad(), use_backend("reference"):
            distance = (torch.from_numpy(found) - exact(*sample)).abs() / unit
        worst = max(worst, float(torch.nan_to_num(distance, nan=float("inf")).max()))
    return worst


def _check_packages() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        raise KANError(
            f'to_onnx needs {error.name}: install the extra with pip install "kan-tabular[export]"'
        ) from None
