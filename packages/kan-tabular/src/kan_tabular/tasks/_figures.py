"""What a trained network made of the columns, as figures of a run."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from kan_tabular.figures import curves_figure, importances_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from kan_tabular.explain import Scores

_ROWS = 1000
_CURVES = 12


def network_figures(task: Any, datamodule: Any) -> Iterator[tuple[str, Figure]]:
    """Importances of the columns, and curves of the most important ones in original units, on training rows."""
    from kan_tabular.explain import feature_curves  # these know estimators, which know tasks
    from kan_tabular.scores import column_scores, normalised

    rows = datamodule.parts["train"].x
    rows = rows[:: max(1, len(rows) // _ROWS)].double()
    scores = _scores(task, datamodule.known.encoder, rows)
    share = normalised(column_scores(scores.net, rows, score="sensitivity", task=task.kind))
    names = [column.name for column in scores.encoder.columns]
    table = pd.DataFrame({"feature": names, "importance": share, "spread": np.nan})
    yield "importances", importances_figure(table.sort_values("importance", ascending=False, ignore_index=True))
    shown = np.argsort(-share, kind="stable")[:_CURVES].tolist()
    yield "curves", curves_figure(feature_curves(scores, rows.numpy(), features=shown, points=40, max_rows=100))


@torch.no_grad()
def _scores(task: Any, encoder: Any, rows: torch.Tensor) -> Scores:
    """The task's network with the units of its answers."""
    from kan_tabular.explain import Scores

    net = copy.deepcopy(task.net).cpu().double().eval()
    regression = task.kind == "regression"
    count = task.hparams["num_outputs"]
    outputs = list(range(count)) if regression else task.classes[-1:] if task.kind == "binary" else task.classes
    scale = np.array(task.target_scale) if regression else np.ones(count)
    center = np.array(task.target_center) if regression else np.zeros(count)
    layers = net.column_layers()
    additive = len(layers) == 1 and task.hparams["model"] == "kan"
    means = layers[0].contributions(rows).mean(dim=0).numpy() * scale if additive else None
    return Scores(net, encoder, outputs, scale, center, additive, means)
