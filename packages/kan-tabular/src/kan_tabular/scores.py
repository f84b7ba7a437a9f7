"""How much a trained network relies on each column of a table: one number per original column, seven definitions.

The feature-selection paper (arXiv 2509.23366) and the notebooks published with it define two of their four scores
differently under one name. Here every definition has its own name, and none is called after the paper's:

===========  ==============================  =======================================================================
paper        what its text says              what its notebooks compute
===========  ==============================  =======================================================================
KAN-L1       `coef_l1` (spline part only)    `act_l1` without centring
KAN-L2       `coef_l2` (spline part only)    `act_l2` without centring
KAN-SI       `sensitivity`                   the same of Σ_c |f_c|, where logits of opposite sign cancel
KAN-KO       `knockout` with 0 for the mean  the same, clipped at 0
===========  ==============================  =======================================================================

`attribution` is KAN 2.0's (arXiv 2408.10205, section 4.1): the only one that weighs first-layer edges by what the
later layers make of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from kan_core.errors import KANError
from kan_core.layers import KANLinear
from kan_tabular.models.column_layer import FIRST, ColumnLayer, edges_of
from kan_tabular.models.kan import LIMIT, TabularKAN
from kan_tabular.tasks.tabular import Kind, row_losses

Score = Literal["coef_l1", "coef_l2", "act_l1", "act_l2", "sensitivity", "knockout", "attribution"]
SCORES: tuple[str, ...] = get_args(Score)
PAPER_NAMES = {"KAN-L1": "coef_l1", "KAN-L2": "coef_l2", "KAN-SI": "sensitivity", "KAN-KO": "knockout"}
"""The score of this module that follows the text of arXiv 2509.23366."""

_EDGE_VALUES = 1 << 22  # edge values held at once: rows are taken in pieces
_FEW_VALUES = 10  # numbers with so many values at most have differences in place of a derivative
_MOST_VALUES = 32  # values that `sensitivity` tries per column, the most frequent ones
_TINY = 1e-4  # attribution: keeps a node that does not vary from dividing by zero


def column_scores(
    net: nn.Module,
    x: ArrayLike | Tensor,
    *,
    score: str = "act_l2",
    y: ArrayLike | Tensor | None = None,
    weight: ArrayLike | Tensor | None = None,
    task: Kind = "regression",
    include_base: bool = False,
) -> NDArray[np.float64]:
    r"""Raw scores of the columns; `normalised` makes them comparable between tables.

    φ_{o,j} are the edges of column j in all first layers (`net.column_layers()`: in the default model those to the
    outputs and those to the hidden units), means are weighted means over the rows of `x`.

    - ``coef_l1``: Σ_o Σ_k |C[o,j,k]|; ``coef_l2``: (Σ_o Σ_k C[o,j,k]²)^½. Functions of the basis that are constant
      (a polynomial of degree 0) are left out. For a category C are the values of its table minus their mean over the
      categories. They know nothing of the data, and a curve may have large coefficients and hardly vary (B-splines
      with equal coefficients are a constant). Learned values of missing entries are not counted.
    - ``act_l1``: mean over rows and edges of |φ_{o,j}(x_j) - mean φ_{o,j}|; ``act_l2``: root of the mean square of the
      same. Centred, so that a constant counts for nothing.
    - ``sensitivity``: Σ_c mean |∂f_c/∂x_j| · std(x_j), the derivative by the standardised column; 0 at missing values.
      Between the values of a category, or of a number with at most 10 values, there are no rows that could have taught
      a slope; there it is the finite difference: the mean over rows of Σ_c std over the column's values of f_c with
      the row's value replaced (values as frequent as they are, the 32 most frequent, missing is one). For a linear
      function both are |slope| · std(x_j). Through the whole network.
    - ``knockout``: mean loss with φ_{o,j}(x_j) replaced by its mean, minus the mean loss; negative where the column
      harms, less than half for each of two equal columns. Loss: cross-entropy of logits, or the squared error summed
      over standardised targets. Through the whole network.
    - ``attribution``: backward from the outputs with score 1 each, an edge i -> o gets
      std(edge)·score(o)/(std(node o) + 1e-4), a node the sum of its edges; column scores are means over the outputs.

    A column that has one value only in `x` scores exactly 0, by every definition.

    Args:
        net: A model of this package with `column_layers()`, trained; used in evaluation mode, and left as it was.
        x: Encoded rows ``(rows, columns)``, as `TableEncoder.transform` gives them.
        score: One of `SCORES`.
        y: For ``"knockout"``: class indices ``(rows,)``, or standardised targets ``(rows,)`` or ``(rows, outputs)``.
        weight: Of the rows, ``(rows,)``; None for 1 each.
        task: For ``"knockout"``: what the outputs mean.
        include_base: For ``coef_l1`` and ``coef_l2``: count base-branch weights as well (the paper does not say;
            its text speaks of spline coefficients only).

    Returns:
        ``(columns,)``, finite; non-negative but for ``knockout``.

    Raises:
        KANError: For an unknown score, rows of another shape, weights that are no weights, a missing `y`, or a score
            that this model does not have: coefficients of a layer that is not one basis times coefficients, edges of
            a layer that mixes columns, attribution of a model other than ``"kan"``.
    """
    if score not in SCORES:
        raise KANError(f"score must be one of {', '.join(SCORES)}, got {score!r}")
    layers = _column_layers(net)
    rows = _rows(net, x, layers[0])
    share = _shares(weight, rows)
    training = net.training
    net.eval()
    try:
        with torch.no_grad():
            if score in ("coef_l1", "coef_l2"):
                values = _coefficients(layers, 1 if score == "coef_l1" else 2, include_base)
            elif score in ("act_l1", "act_l2"):
                values = _activity(layers, rows, share, 1 if score == "act_l1" else 2)
            elif score == "sensitivity":
                values = _sensitivity(net, layers[0], rows, share)
            elif score == "attribution":
                values = _attribution(net, rows, share)
            else:
                values = _knockout(net, layers, rows, share, _loss(task, y, rows))
    finally:
        net.train(training)
    values = torch.where(_varies(rows), values.double(), 0.0)
    if not bool(torch.isfinite(values).all()):
        raise KANError(f"{score} is not finite: the network or the rows hold infinite values or NaN")
    return np.asarray(values.cpu().numpy(), dtype=np.float64)


def normalised(scores: ArrayLike) -> NDArray[np.float64]:
    """Scores with negative ones at 0, divided by their sum; all 0 where none is positive.

    Args:
        scores: ``(columns,)``.
    """
    clipped = np.clip(np.asarray(scores, dtype=np.float64), 0, None)
    total = clipped.sum()
    return clipped / total if total > 0 else np.zeros_like(clipped)


# What goes in ---------------------------------------------------------------------------------------------------------


def _column_layers(net: nn.Module) -> list[ColumnLayer]:
    find = getattr(net, "column_layers", None)
    layers: list[ColumnLayer] = find() if callable(find) else []
    if not layers:
        raise KANError(f"{type(net).__name__} has no layer with an edge per column, so its columns have no scores")
    return layers


def _rows(net: nn.Module, x: ArrayLike | Tensor, layer: ColumnLayer) -> Tensor:
    """`x` as the network takes it."""
    parameter = next(net.parameters())
    rows = torch.as_tensor(x if isinstance(x, Tensor) else np.array(x)).to(parameter.device, parameter.dtype)
    columns = len(layer.cardinalities)
    if rows.dim() != 2 or rows.shape[1] != columns or len(rows) == 0:
        raise KANError(f"x must have shape (rows, {columns}) with at least one row, got {tuple(rows.shape)}")
    return rows.detach()


def _shares(weight: ArrayLike | Tensor | None, rows: Tensor) -> Tensor:
    """Weights that sum to 1, in float64."""
    if weight is None:
        return torch.full((len(rows),), 1 / len(rows), dtype=torch.float64, device=rows.device)
    share = torch.as_tensor(weight if isinstance(weight, Tensor) else np.array(weight)).to(rows.device, torch.float64)
    if share.shape != (len(rows),) or not bool((share >= 0).all()) or not 0 < float(share.sum()) < float("inf"):
        raise KANError(f"weight must be {len(rows)} non-negative numbers with a positive sum")
    return share / share.sum()


def _varies(rows: Tensor) -> Tensor:
    """Which columns have more than one value; missing is a value."""
    return ((rows != rows[0]) & ~(rows.isnan() & rows[0].isnan())).any(dim=0)


def _pieces(rows: Tensor, values_per_row: int) -> Iterator[slice]:
    """Slices of rows that hold few enough edge values at once."""
    size = max(1, _EDGE_VALUES // max(1, values_per_row))
    return (slice(start, start + size) for start in range(0, len(rows), size))


# Coefficients ---------------------------------------------------------------------------------------------------------


def _coefficients(layers: list[ColumnLayer], norm: int, include_base: bool) -> Tensor:
    columns = len(layers[0].cardinalities)
    sums = torch.zeros(columns, dtype=torch.float64, device=next(layers[0].parameters()).device)
    for layer in layers:
        if layer.numeric is not None:
            block = _numeric_block(layer.numeric, include_base)
            sums[layer.numeric_columns] += block.double().abs().pow(norm).sum(dim=(0, 2))
        for j in layer.categorical_columns:
            sums[j] += _table(layer, j).double().abs().pow(norm).sum()
    return sums.pow(1 / norm)


def _numeric_block(layer: nn.Module, include_base: bool) -> Tensor:
    """Coefficients ``(out, in, functions)`` without those of constant functions."""
    if isinstance(layer, nn.Linear):
        return layer.weight[..., None]
    if not isinstance(layer, KANLinear):
        raise KANError(
            f"coefficient scores are not defined for {type(layer).__name__}, whose edges are not a basis times "
            "coefficients; choose act_l1 or act_l2"
        )
    coefficients = layer.coefficients
    probe = torch.linspace(-LIMIT, LIMIT, 64).to(coefficients)[:, None].expand(-1, layer.in_features)
    planes = layer.basis.planes(probe)
    constant = planes.amax(dim=0) - planes.amin(dim=0) <= 1e-6 * planes.abs().amax(dim=0)
    block = torch.where(constant.T, 0.0, coefficients)
    if include_base and layer.base is not None:
        block = torch.cat([block, layer.effective_weight()[-1].T[..., None]], dim=-1)
    return block


def _table(layer: ColumnLayer, j: int) -> Tensor:
    """Values of a categorical column's edges ``(categories, out)``, minus their mean."""
    codes = torch.arange(FIRST, layer.cardinalities[j])
    x = torch.zeros(len(codes), len(layer.cardinalities)).to(next(layer.parameters()))
    x[:, j] = codes.to(x)
    values = layer.contributions(x)[:, j]
    return values - values.mean(dim=0) if len(codes) else values


# Edge values ----------------------------------------------------------------------------------------------------------


def _edge_deviation(
    edges: Callable[[slice], Tensor], pieces: Callable[[], Iterator[slice]], share: Tensor, norm: int
) -> tuple[Tensor, Tensor]:
    """Weighted mean of every edge, and of |edge - its mean|^norm: both of the shape of one row of edges.

    Two passes: the difference of two large sums would leave rounding where a constant has 0.
    """
    mean, deviation = torch.zeros((), device=share.device), torch.zeros((), device=share.device)
    for piece in pieces():
        mean = mean + torch.tensordot(share[piece], edges(piece).double(), dims=1)
    for piece in pieces():
        centred = (edges(piece).double() - mean).abs().pow(norm)
        deviation = deviation + torch.tensordot(share[piece], centred, dims=1)
    return mean, deviation


def _activity(layers: list[ColumnLayer], rows: Tensor, share: Tensor, norm: int) -> Tensor:
    total = torch.zeros(rows.shape[1], dtype=torch.float64, device=rows.device)
    for layer in layers:
        edges, pieces = _first_layer(layer, rows)
        total += _edge_deviation(edges, pieces, share, norm)[1].sum(dim=1)
    return (total / sum(layer.out_features for layer in layers)).pow(1 / norm)


def _first_layer(layer: ColumnLayer, rows: Tensor) -> tuple[Callable[[slice], Tensor], Callable[[], Iterator[slice]]]:
    """Edge values of a piece of the rows, and the pieces."""
    width = rows.shape[1] * layer.out_features
    return lambda piece: layer.contributions(rows[piece]), lambda: _pieces(rows, width)


# Through the network --------------------------------------------------------------------------------------------------


def _sensitivity(net: nn.Module, layer: ColumnLayer, rows: Tensor, share: Tensor) -> Tensor:
    scores = torch.zeros(rows.shape[1], dtype=torch.float64, device=rows.device)
    if layer.numeric_columns:
        for piece in _pieces(rows, 64 * rows.shape[1]):
            scores += torch.tensordot(share[piece], _derivatives(net, rows[piece]), dims=1)
    scores *= _spread(rows, share)
    for j in range(rows.shape[1]):
        values, index = torch.unique(rows[:, j].nan_to_num(nan=torch.inf), return_inverse=True)
        if j in layer.categorical_columns or len(values) <= _FEW_VALUES:
            values = torch.where(values.isinf(), torch.nan, values)
            scores[j] = _difference(net, rows, share, j, values, index)
    return scores


def _derivatives(net: nn.Module, rows: Tensor) -> Tensor:
    """Σ_c |∂f_c/∂x_j| at every row and column, 0 at missing values."""
    with torch.enable_grad():
        x = rows.clone().requires_grad_()
        total = torch.zeros_like(rows, dtype=torch.float64)
        outputs = net(x).sum(dim=0)
        for output in outputs:
            (gradient,) = torch.autograd.grad(output, x, retain_graph=True)
            total += gradient.double().abs()
    return torch.where(rows.isnan(), 0.0, total)


def _spread(rows: Tensor, share: Tensor) -> Tensor:
    """Weighted standard deviation of every column over the values that are there."""
    there = ~rows.isnan()
    values = torch.where(there, rows.double(), 0.0)
    weights = there * share[:, None]
    total = weights.sum(dim=0).clamp_min(torch.finfo(torch.float64).tiny)
    centred = torch.where(there, values - (weights * values).sum(dim=0) / total, 0.0)
    return ((weights * centred.square()).sum(dim=0) / total).sqrt()


def _difference(net: nn.Module, rows: Tensor, share: Tensor, j: int, values: Tensor, index: Tensor) -> Tensor:
    """Mean over rows of Σ_c std of f_c over the column's values, each as frequent as in the rows."""
    frequency = torch.zeros(len(values), dtype=torch.float64, device=rows.device).index_add_(0, index, share)
    frequency, kept = frequency.sort(descending=True, stable=True)
    frequency, values = frequency[:_MOST_VALUES] / frequency[:_MOST_VALUES].sum(), values[kept[:_MOST_VALUES]]
    score = torch.zeros((), dtype=torch.float64, device=rows.device)
    for piece in _pieces(rows, 64 * rows.shape[1]):
        x = rows[piece].clone()
        outputs = []
        for value in values:
            x[:, j] = value
            outputs.append(net(x).double())
        answers = torch.stack(outputs)
        centred = answers - torch.tensordot(frequency, answers, dims=1)
        score += share[piece] @ torch.tensordot(frequency, centred.square(), dims=1).sqrt().sum(dim=1)
    return score


Loss = Callable[[slice, Tensor], Tensor]
"""Loss of every row of a piece, from the network's outputs."""


def _loss(task: Kind, y: ArrayLike | Tensor | None, rows: Tensor) -> Loss:
    if task not in get_args(Kind):
        raise KANError(f"task must be one of {', '.join(get_args(Kind))}, got {task!r}")
    if y is None:
        raise KANError("the score knockout measures a loss: pass y")
    target = torch.as_tensor(y if isinstance(y, Tensor) else np.array(y)).to(rows.device)
    if len(target) != len(rows):
        raise KANError(f"y has {len(target)} rows, but x has {len(rows)}")
    target = target.long() if task == "multiclass" else target.double().reshape(len(rows), -1)

    def loss(piece: slice, outputs: Tensor) -> Tensor:
        if task != "multiclass" and outputs.shape[1] != target.shape[1]:
            raise KANError(f"y has {target.shape[1]} columns, but the network {outputs.shape[1]} outputs")
        return row_losses(task, outputs.double(), target[piece])

    return loss


def _knockout(net: nn.Module, layers: list[ColumnLayer], rows: Tensor, share: Tensor, loss: Loss) -> Tensor:
    """Edges are replaced as they leave their layer, so no parameter is touched."""
    means = [_edge_deviation(*_first_layer(layer, rows), share, 1)[0] for layer in layers]
    increase = torch.zeros(rows.shape[1], dtype=torch.float64, device=rows.device)
    width = rows.shape[1] * sum(layer.out_features for layer in layers)
    columns = _varies(rows).nonzero().flatten().tolist()
    for piece in _pieces(rows, width):
        x = rows[piece]
        edges = [layer.contributions(x) for layer in layers]
        before = loss(piece, net(x))
        for j in columns:
            shifts = [(mean[j] - edge[:, j]).to(edge.dtype) for mean, edge in zip(means, edges, strict=True)]
            with _shifted(net, layers, shifts):
                increase[j] += share[piece] @ (loss(piece, net(x)) - before)
    return increase


@contextmanager
def _shifted(net: nn.Module, layers: list[ColumnLayer], shifts: list[Tensor]) -> Iterator[None]:
    """Add to the outputs of the layers while this lasts."""
    used = 0

    def add(shift: Tensor) -> Callable[[nn.Module, object, Tensor], Tensor]:
        def hook(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
            nonlocal used
            used += 1
            return output + shift

        return hook

    handles = [layer.register_forward_hook(add(shift)) for layer, shift in zip(layers, shifts, strict=True)]
    try:
        yield
        if used != len(layers):
            raise KANError(f"knockout is not defined for {type(net).__name__}, which does not sum its first edges")
    finally:
        for handle in handles:
            handle.remove()


def _attribution(net: nn.Module, rows: Tensor, share: Tensor) -> Tensor:
    if not isinstance(net, TabularKAN):
        raise KANError(f"attribution is defined for the model 'kan' only, not for {type(net).__name__}")
    output_spread = _deviation_of(net, rows, share)
    nodes = torch.eye(len(output_spread), dtype=torch.float64, device=rows.device)
    scores = _to_columns(net.additive, nodes / (output_spread + _TINY), rows, share)
    if net.first is None:
        return scores.mean(dim=0)
    stages = [net.first, *net.rest]
    # the last stage and the additive part end in the same nodes, the outputs
    for k in range(len(stages) - 1, 0, -1):
        node_spread = output_spread if k == len(stages) - 1 else _deviation_of(_upto(net, k), rows, share)
        edge_spread = _hidden_deviation(stages[k], _upto(net, k - 1, between=True), rows, share)
        nodes = (nodes / (node_spread + _TINY)) @ edge_spread.T
    scores += _to_columns(net.first, nodes / (_deviation_of(net.first, rows, share) + _TINY), rows, share)
    return scores.mean(dim=0)


def _upto(net: TabularKAN, stage: int, between: bool = False) -> Callable[[Tensor], Tensor]:
    """The hidden path up to the nodes after `stage` (0: the first layer), or to the values that leave these."""

    def function(x: Tensor) -> Tensor:
        assert net.first is not None
        hidden: Tensor = net.first(x)
        for layer in net.rest[:stage]:
            hidden = layer(net.between(hidden))
        return net.between(hidden) if between else hidden

    return function


def _deviation_of(function: Callable[[Tensor], Tensor], rows: Tensor, share: Tensor) -> Tensor:
    """Standard deviations of a function's outputs ``(outputs,)``."""
    values = function(rows).double()
    return (share @ (values - share @ values).square()).sqrt()


def _hidden_deviation(layer: nn.Module, before: Callable[[Tensor], Tensor], rows: Tensor, share: Tensor) -> Tensor:
    """Standard deviations of the edges of a hidden layer, ``(in, out)``."""
    z = before(rows)
    width = z.shape[1] * layer(z[:1]).shape[1]
    return _edge_deviation(lambda piece: edges_of(layer, z[piece]), lambda: _pieces(rows, width), share, 2)[1].sqrt()


def _to_columns(layer: ColumnLayer, nodes: Tensor, rows: Tensor, share: Tensor) -> Tensor:
    """Scores of the columns ``(outputs, columns)`` from those of the layer's nodes over their spreads."""
    deviation = _edge_deviation(*_first_layer(layer, rows), share, 2)[1].sqrt()
    return nodes @ deviation.T
