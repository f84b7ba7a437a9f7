"""What a trained network made of the columns, as figures of a run."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from kan_tabular.figures import importances_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ROWS = 1000


def network_figures(task: Any, datamodule: Any) -> Iterator[tuple[str, Figure]]:
    """Importances of the columns, measured on training rows."""
    from kan_tabular.scores import column_scores, normalised  # which knows tasks

    rows = datamodule.parts["train"]
    x = rows.x[:: max(1, len(rows.x) // _ROWS)].double()
    net = copy.deepcopy(task.net).cpu().double()
    share = normalised(column_scores(net, x, score="sensitivity", task=task.kind))
    names = [column.name for column in datamodule.known.encoder.columns]
    table = pd.DataFrame({"feature": names, "importance": share, "spread": np.nan})
    yield "importances", importances_figure(table.sort_values("importance", ascending=False, ignore_index=True))
