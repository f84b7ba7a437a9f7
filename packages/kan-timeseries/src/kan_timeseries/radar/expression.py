"""A trained detector as one closed-form expression: text, Python, C and JSON that all hold the same numbers."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from kan_core.errors import KANError
from kan_core.interpret import attribute
from kan_core.layers import KANLinear
from kan_core.models import KAN
from kan_timeseries.radar.detector import RadarDetector, bce, class_weights, minimise
from kan_timeseries.radar.metrics import calibrate

Floats = NDArray[np.float64]

FORMAT = "kan_timeseries.radar.expression"
EPSILON = 1e-3
LARGEST_EXPONENT = 30.0
"""Of exp, so that an expression is finite everywhere."""

LIBRARY: dict[str, tuple[str, str, str]] = {
    "x": ("({u})", "({u})", "({u})"),
    "square": ("({u})**2", "({u})**2", "pow({u}, 2)"),
    "abs": ("abs({u})", "abs({u})", "fabs({u})"),
    "sqrt": ("sqrt(abs({u}) + {eps})", "math.sqrt(abs({u}) + {eps})", "sqrt(fabs({u}) + {eps})"),
    "log": ("log(abs({u}) + {eps})", "math.log(abs({u}) + {eps})", "log(fabs({u}) + {eps})"),
    "exp": ("exp(min({u}, {top}))", "math.exp(min({u}, {top}))", "exp(fmin({u}, {top}))"),
    "tanh": ("tanh({u})", "math.tanh({u})", "tanh({u})"),
}
"""The functions f in order of preference, as text, Python and C; |u| + ε keeps √ and log finite at 0 and below."""

_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "x": lambda u: u,
    "square": torch.square,
    "abs": torch.abs,
    "sqrt": lambda u: (u.abs() + EPSILON).sqrt(),
    "log": lambda u: (u.abs() + EPSILON).log(),
    "exp": lambda u: u.clamp_max(LARGEST_EXPONENT).exp(),
    "tanh": torch.tanh,
}
_TOLERANCE = 0.01  # of R²: a later function of the library must be better by so much
_POINTS = 256  # per edge
_ROUNDS = 60  # of L-BFGS
_DIGITS = 9


@dataclass(frozen=True)
class Term:
    """c f(a v + b) with v an input or another sum.

    Attributes:
        function: Name in `LIBRARY`.
        a: Inner factor.
        b: Inner shift.
        c: Outer factor.
        of: Name of an input, or a sum.
    """

    function: str
    a: float
    b: float
    c: float
    of: str | Sum


@dataclass(frozen=True)
class Sum:
    """constant + Σ terms."""

    constant: float
    terms: tuple[Term, ...]


@dataclass(frozen=True)
class Expression:
    """The score of a segment as a formula of its features; an alarm is a score above a threshold of its own.

    Attributes:
        inputs: Names of the features in order; see `SegmentFeatures.names`.
        root: The formula.
        epsilon: ε of √(|u| + ε) and log(|u| + ε).
    """

    inputs: tuple[str, ...]
    root: Sum
    epsilon: float = EPSILON

    @property
    def edges(self) -> int:
        """How many terms it has."""
        return _count(self.root)

    def __call__(self, features: Floats) -> Floats:
        """Scores of features ``(n, inputs)``: ``(n,)``.

        Raises:
            KANError: For another number of features.
        """
        if features.ndim != 2 or features.shape[1] != len(self.inputs):
            raise KANError(f"the expression takes {len(self.inputs)} features, got shape {features.shape}")
        values = dict(zip(self.inputs, torch.from_numpy(np.ascontiguousarray(features.T)), strict=True))
        return np.asarray(_evaluate(self.root, values, len(features)).numpy())

    def to_text(self) -> str:
        """One line to read, in the syntax of most calculators and of Python."""
        return self._written(self.root, 0)

    def to_python(self, name: str = "radar_score") -> str:
        """Source of a function of one sequence of features; it needs ``math`` alone."""
        lines = [f"    {own} = h[{at}]" for at, own in enumerate(self.inputs) if _uses(self.root, own)]
        body = "\n".join([*lines, f"    return {self._written(self.root, 1)}"])
        return f"import math\n\n\ndef {name}(h):\n{body}\n"

    def to_c(self, name: str = "radar_score") -> str:
        """Source of a C function of one array of features; link with the mathematics library."""
        lines = [f"    const double {own} = h[{at}];" for at, own in enumerate(self.inputs) if _uses(self.root, own)]
        body = "\n".join([*lines, f"    return {self._written(self.root, 2)};"])
        return f"#include <math.h>\n\ndouble {name}(const double *h) {{\n{body}\n}}\n"

    def to_json(self) -> str:
        """The formula as nested objects; `from_json` reads it back."""
        stored = {
            "format": FORMAT,
            "inputs": list(self.inputs),
            "epsilon": self.epsilon,
            "largest_exponent": LARGEST_EXPONENT,
            "score": _plain(self.root),
        }
        return json.dumps(stored, indent=1, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Expression:
        """Read what `to_json` wrote; nothing is executed.

        Raises:
            KANError: For other JSON, an unknown function or input, or another ε than this version computes with.
        """
        try:
            stored = json.loads(text)
            if stored["format"] != FORMAT:
                raise ValueError(f"format {stored['format']!r}")
            if (stored["epsilon"], stored["largest_exponent"]) != (EPSILON, LARGEST_EXPONENT):
                raise ValueError(f"epsilon {stored['epsilon']} and largest exponent {stored['largest_exponent']}")
            inputs = tuple(str(name) for name in stored["inputs"])
            return cls(inputs, _parsed(stored["score"], inputs))
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise KANError(f"this JSON holds no expression of a radar detector: {reason}") from error

    def _written(self, own: Sum, language: int) -> str:
        parts = [_number(own.constant)]
        for term in own.terms:
            inner = term.of if isinstance(term.of, str) else f"({self._written(term.of, language)})"
            u = inner if (term.a, term.b) == (1, 0) else f"{_number(term.a)}*{inner} + {_number(term.b)}"
            call = LIBRARY[term.function][language].format(u=u, eps=self.epsilon, top=LARGEST_EXPONENT)
            parts.append(f"{_number(term.c)}*{call}")
        return " + ".join(parts)


def to_expression(
    detector: RadarDetector, patches: Floats, is_target: NDArray[np.bool_], sparsity: float = 1e-3, keep: float = 0.01
) -> Expression:
    r"""Sparsify a KAN, prune it, replace every edge by c f(a x + b) + d with f of the `LIBRARY`, and refit all numbers.

    1. A copy is trained on with L1 + entropy of the edges in the loss (KAN paper, section 2.5.1).
    2. Edges whose attribution (KAN 2.0) is below a share of the output's become their mean, and hidden nodes without
       inputs go with them.
    3. For every other edge, a, b, c and d are fitted at its inputs for each f; the first of the library whose R² is
       within 0.01 of the best is taken.
    4. All a, b, c, d are refitted together to the logits of the detector itself, most weight near the threshold.

    Calibrate the expression apart from the network: its scores are not the same.

    Args:
        detector: Fitted and calibrated, with a KAN.
        patches: Segments, such as those of the training.
        is_target: ``(n,)``.
        sparsity: Weight of L1 + entropy.
        keep: Least share of the output's variation that an edge must carry.

    Raises:
        KANError: For a detector without a KAN or threshold, or when nothing would be left.
    """
    body = detector.network.body
    if not isinstance(body, KAN) or any(not isinstance(layer, KANLinear) for layer in body.layers):
        raise KANError(f"an expression is made from a KAN, got layer {detector.layer!r}")
    threshold = detector.calibrated().threshold
    features = torch.from_numpy(detector.features(patches))
    y = torch.from_numpy(np.asarray(is_target).astype(np.float64))
    x = detector.network.standardised(features)
    logits = detector.network(features)
    sparse = _sparsified(body, x, y, sparsity)
    symbolic = _snapped(sparse, x, keep)
    _refit(symbolic, x, logits, threshold)
    root = symbolic.sums()[0]
    mean, std = detector.network.mean.tolist(), detector.network.std.tolist()
    return Expression(detector.features.names, _unscaled(root, detector.features.names, mean, std))


@dataclass(frozen=True)
class Agreement:
    """How an expression compares with its network.

    Attributes:
        decisions: Share of the segments on which both decide alike, each with its own threshold.
        auc_drop: ROC area of the network minus that of the expression.
        edges: Terms of the expression.
    """

    decisions: float
    auc_drop: float
    edges: int

    @property
    def accepted(self) -> bool:
        """At least 99 % of the decisions, and at most 0.005 of the area."""
        return self.decisions >= 0.99 and self.auc_drop <= 0.005


def agreement(
    detector: RadarDetector, expression: Expression, calibration: Floats, patches: Floats, is_target: NDArray[np.bool_]
) -> Agreement:
    """Compare on held-out segments, with both thresholds made for the detector's rate on the same target-free ones.

    Args:
        detector: Calibrated.
        expression: Of it.
        calibration: Segments without targets.
        patches: Held-out segments of both classes.
        is_target: ``(n,)``.

    Raises:
        KANError: When there are too few calibration segments for the rate.
    """
    pfa = detector.calibrated().pfa
    held_out, features = detector.features(calibration), detector.features(patches)
    decisions, areas = [], []
    for scores in (detector.score_features, expression):
        own = scores(features)
        decisions.append(own > calibrate(scores(held_out), pfa).threshold)
        areas.append(float(roc_auc_score(is_target, own)))
    return Agreement(float((decisions[0] == decisions[1]).mean()), areas[0] - areas[1], expression.edges)


# Making it ----------------------------------------------------------------------------------------------------------


def _sparsified(body: KAN, x: Tensor, y: Tensor, sparsity: float) -> KAN:
    body = copy.deepcopy(body).requires_grad_(True)
    weights = class_weights(y)

    def loss() -> Tensor:
        l1, entropy = body.regularization(x)
        return bce(body(x).squeeze(-1), y, weights) + sparsity * (l1 + entropy)

    minimise(list(body.parameters()), loss, _ROUNDS)
    return body.requires_grad_(False)


class _SymbolicLayer(nn.Module):
    """y_o = d_o + Σ_e c_e f_e(a_e x_{source(e)} + b_e), the edges e sorted by function."""

    def __init__(self, edges: list[tuple[str, int, int, float, float, float]], constants: Tensor) -> None:
        super().__init__()
        edges = sorted(edges, key=lambda edge: list(LIBRARY).index(edge[0]))
        self.functions = [edge[0] for edge in edges]
        self.sources = torch.tensor([edge[1] for edge in edges], dtype=torch.long)
        self.targets = torch.tensor([edge[2] for edge in edges], dtype=torch.long)
        numbers = torch.tensor([edge[3:] for edge in edges], dtype=torch.float64).reshape(-1, 3)
        self.a, self.b, self.c = (nn.Parameter(column.clone()) for column in numbers.unbind(1))
        self.d = nn.Parameter(constants.clone())

    def forward(self, x: Tensor) -> Tensor:
        u = x[:, self.sources] * self.a + self.b
        counts = [self.functions.count(name) for name in LIBRARY]
        parts = [_FUNCTIONS[name](part) for name, part in zip(LIBRARY, torch.split(u, counts, dim=1), strict=True)]
        edges = self.c * torch.cat(parts, dim=1)
        sums: Tensor = self.d + x.new_zeros(len(x), len(self.d)).index_add(1, self.targets, edges)
        return sums


class _Symbolic(nn.Sequential):
    """The layers, and the nested sums that they stand for."""

    def sums(self) -> list[Sum]:
        """One for each output; inputs are called by their number."""
        below: list[str | Sum] = [str(index) for index in range(1 << 16)]
        for layer in self:
            assert isinstance(layer, _SymbolicLayer)
            terms: list[list[Term]] = [[] for _ in layer.d]
            numbers = zip(layer.functions, *(p.tolist() for p in (layer.a, layer.b, layer.c)), strict=True)
            ends = zip(layer.sources.tolist(), layer.targets.tolist(), strict=True)
            for (function, a, b, c), (source, target) in zip(numbers, ends, strict=True):
                terms[target].append(Term(function, a, b, c, below[source]))
            below = [Sum(d, tuple(own)) for d, own in zip(layer.d.tolist(), terms, strict=True)]
        return [own for own in below if isinstance(own, Sum)]


@torch.no_grad()
def _snapped(body: KAN, x: Tensor, keep: float) -> _Symbolic:
    shares = [edges[0] for edges in attribute(body, x).edges]
    least = keep * float(shares[-1].sum())
    layers: list[nn.Module] = []
    alive = set(range(x.shape[1]))
    for index, (layer, share) in enumerate(zip(body.layers, shares, strict=True)):
        assert isinstance(layer, KANLinear)
        edges, constants = [], torch.zeros(layer.out_features, dtype=x.dtype)
        for o in range(layer.out_features):
            for i in range(layer.in_features):
                own = layer.edge_function(o, i)(x[:, i])
                if i in alive and float(share[o, i]) >= least:
                    function, a, b, c, d = _best(x[:, i], own)
                    edges.append((function, i, o, a, b, c))
                    constants[o] += d
                else:
                    constants[o] += own.mean()
        if not edges:
            raise KANError(f"keep {keep:g} and the sparsity leave no edge of layer {index + 1}: lower them")
        layers.append(_SymbolicLayer(edges, constants))
        alive = {edge[2] for edge in edges}
        x = layer(x)
    return _Symbolic(*layers)


def _best(x: Tensor, y: Tensor) -> tuple[str, float, float, float, float]:
    """The function, and a, b, c, d of y ≈ c f(a x + b) + d, by trial of a and b on a grid in standard units of x."""
    order = x.argsort()[torch.linspace(0, len(x) - 1, min(_POINTS, len(x))).long()]
    x, y = x[order], y[order]
    middle, size = x.mean(), x.std().clamp_min(1e-12)
    z, centred = (x - middle) / size, y - y.mean()
    slopes = torch.tensor([-3, -2, -1, -0.5, -0.25, 0.25, 0.5, 1, 2, 3], dtype=x.dtype)
    shifts = torch.linspace(-4, 4, 33, dtype=x.dtype)
    a, b = (grid.flatten() for grid in torch.meshgrid(slopes, shifts, indexing="ij"))
    found: list[tuple[float, str, float, float, float, float]] = []
    for name in LIBRARY:
        values = _FUNCTIONS[name](a[:, None] * z + b[:, None])
        varied = values - values.mean(dim=1, keepdim=True)
        energy = varied.square().sum(dim=1).clamp_min(1e-300)
        product = varied @ centred
        at = int((product.square() / energy).argmax())
        fit = float(product[at].square() / energy[at] / centred.square().sum().clamp_min(1e-300))
        c = float(product[at] / energy[at])
        slope, shift = float(a[at] / size), float(b[at] - a[at] * middle / size)
        found.append((fit, name, slope, shift, c, float(y.mean() - c * values[at].mean())))
    best = max(own[0] for own in found)
    return next(own for own in found if own[0] >= best - _TOLERANCE)[1:]


def _refit(symbolic: _Symbolic, x: Tensor, logits: Tensor, threshold: float) -> None:
    weights = 1 / (1 + (logits - threshold).square() / 4)
    weights = weights / weights.sum()

    def loss() -> Tensor:
        error: Tensor = symbolic(x).squeeze(-1) - logits
        return (weights * error.square()).sum()

    for _ in range(3):
        minimise(list(symbolic.parameters()), loss, _ROUNDS)


def _unscaled(root: Sum, names: tuple[str, ...], mean: list[float], std: list[float]) -> Sum:
    """The same formula of raw features by their names, straight lines gathered in (1, 0), numbers rounded."""
    constant, terms = root.constant, []
    for term in root.terms:
        a, b, c = term.a, term.b, term.c
        of: str | Sum
        if isinstance(term.of, str):
            at = int(term.of)
            of, a, b = names[at], a / std[at], b - a * mean[at] / std[at]
        else:
            of = _unscaled(term.of, names, mean, std)
        if term.function == "x":
            constant, a, b, c = constant + c * b, 1.0, 0.0, c * a
        terms.append(Term(term.function, _rounded(a), _rounded(b), _rounded(c), of))
    return Sum(_rounded(constant), tuple(terms))


# Reading and writing it ---------------------------------------------------------------------------------------------


def _evaluate(own: Sum, values: dict[str, Tensor], count: int) -> Tensor:
    total = torch.full((count,), own.constant, dtype=torch.float64)
    for term in own.terms:
        inner = values[term.of] if isinstance(term.of, str) else _evaluate(term.of, values, count)
        total = total + term.c * _FUNCTIONS[term.function](term.a * inner + term.b)
    return total


def _plain(own: Sum) -> dict[str, Any]:
    terms = [
        {"c": term.c, "function": term.function, "a": term.a, "b": term.b}
        | ({"input": term.of} if isinstance(term.of, str) else {"sum": _plain(term.of)})
        for term in own.terms
    ]
    return {"constant": own.constant, "terms": terms}


def _parsed(stored: dict[str, Any], inputs: tuple[str, ...]) -> Sum:
    terms = []
    for term in stored["terms"]:
        if term["function"] not in LIBRARY:
            raise ValueError(f"unknown function {term['function']!r}")
        of = term["input"] if "input" in term else _parsed(term["sum"], inputs)
        if isinstance(of, str) and of not in inputs:
            raise ValueError(f"unknown input {of!r}")
        terms.append(Term(term["function"], _finite(term["a"]), _finite(term["b"]), _finite(term["c"]), of))
    return Sum(_finite(stored["constant"]), tuple(terms))


def _finite(value: Any) -> float:
    if not math.isfinite(float(value)):
        raise ValueError(f"number {value!r}")
    return float(value)


def _count(own: Sum) -> int:
    return sum(1 if isinstance(term.of, str) else 1 + _count(term.of) for term in own.terms)


def _uses(own: Sum, name: str) -> bool:
    return any(term.of == name if isinstance(term.of, str) else _uses(term.of, name) for term in own.terms)


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def _number(value: float) -> str:
    return repr(value) if value >= 0 else f"({value!r})"
