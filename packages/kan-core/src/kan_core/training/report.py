"""report.html: the table, the figures and the configuration on one page that needs no other file."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import lightning.pytorch as pl
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kan_core.training.files import atomic_write
from kan_core.training.history import read_metrics
from kan_core.training.task import Task

COLORS = {"KAN": "#1f6fb4", "twin": "#c8641e"}
MAX_PANELS = 3


def write_report(
    folder: Path,
    task: Task,
    datamodule: pl.LightningDataModule,
    summary: dict[str, Any],
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    verdict: str,
    tested: bool,
) -> None:
    """Draw the figures into `folder`/figures and write `folder`/report.html.

    Args:
        folder: The run folder, config.yaml and metrics.csv already in it.
        task: The trained task, best weights loaded.
        datamodule: Its data.
        summary: What summary.json holds.
        columns: Heads of the result table, without that of the labels.
        rows: Label and cells of the result table.
        verdict: The sentence under the title.
        tested: Whether the table shows test metrics; otherwise they are of the validation data.
    """
    figures = []
    curves = learning_curves(folder, first=task.monitor)
    if curves is not None:
        figures.append(("learning_curves", curves))
    figures.extend(task.figures(datamodule))
    images = [(name.replace("_", " "), _save(folder / "figures" / f"{name}.png", figure)) for name, figure in figures]
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(files("kan_core.training").joinpath("report.html.j2").read_text())
    page = template.render(
        summary=summary,
        columns=columns,
        rows=rows,
        verdict=verdict,
        tested=tested,
        images=images,
        config=(folder / "config.yaml").read_text(),
    )
    with atomic_write(folder / "report.html") as temporary:
        temporary.write_text(page, encoding="utf-8")


def _save(path: Path, figure: Figure) -> str:
    """Write a PNG and return it in base64."""
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=120, bbox_inches="tight", facecolor="white")
    return base64.b64encode(path.read_bytes()).decode("ascii")


def learning_curves(folder: Path, first: str) -> Figure | None:
    """Validation (solid) and training (dashed) metrics over epochs, of the KAN and of the twin when there is one.

    Args:
        folder: The run folder.
        first: The metric that gets the first panel, such as ``"val/loss"``.

    Returns:
        At most three panels; None when nothing was validated.
    """
    histories = {"KAN": read_metrics(folder), "twin": read_metrics(folder / "twin")}
    validated = {name for rows in histories.values() for row in rows for name in row if name.startswith("val/")}
    order = sorted(validated - {"val/outside_grid"}, key=lambda name: (name != first, name != "val/loss", name))
    if not order:
        return None
    names = [name.removeprefix("val/") for name in order[:MAX_PANELS]]
    figure = Figure(figsize=(4.2 * len(names), 3.2), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for model, rows in histories.items():
            for split, style in (("val", "-"), ("train", "--")):
                points = [(row["epoch"], float(row[f"{split}/{name}"])) for row in rows if f"{split}/{name}" in row]
                if points:
                    marker = "o" if len(points) < 20 else None
                    axes.plot(
                        *zip(*points, strict=True),
                        style,
                        color=COLORS[model],
                        marker=marker,
                        ms=3,
                        label=f"{model}, {split}",
                    )
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_title(name)
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    return figure
