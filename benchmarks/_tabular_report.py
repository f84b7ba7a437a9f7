"""From rows to a report: means, paired verdicts, ranks over tables, the control; as JSON, Markdown and a figure."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from _tabular_rows import Row
from _tabular_scores import LOWER_IS_BETTER, VERDICTS, kind_of
from _tabular_statistics import (
    Difference,
    average_ranks,
    corrected_difference,
    critical_difference,
    fixed_split_difference,
    friedman,
    wilcoxon,
)
from kan_core.training.files import atomic_write

Table = Callable[[Iterable[str], Iterable[Iterable[str]]], str]
Group = dict[tuple[int, int], Row]
"""Rows of one model on one table and track, by seed and fold."""

OURS = "kan"
TRACKS = "DPFTB"
DIAGRAMS = {"untuned": ("D", "P"), "tuned": ("B",)}
MEDIANS = (
    "parameters",
    "parameters_total",
    "flops",
    "published_flops",
    "width",
    "residual",
    "step_ratio",
    "max_epochs",
    "n_iter",
    "fit_seconds",
    "refit_seconds",
    "us_per_row_1",
    "us_per_row_1024",
    "bytes",
    "step_peak_bytes",
    "outside",
)
SURE = 3.0
"""Standard errors from chance beyond which a control fails."""


def summarise(rows: Iterable[Row]) -> dict[str, Any]:
    """Everything that is said about finished fits: ``entries``, ``over_sets``, ``ranks`` and ``control``."""
    rows = list(rows)
    groups = grouped(row for row in rows if row["labels"] == "true")
    entries = [entry(key, groups) for key in sorted(groups, key=lambda key: TRACKS.index(key[1]))]
    return {
        "sets": sets_of(groups),
        "entries": entries,
        "over_sets": over_sets(groups),
        "ranks": {name: ranks for name, tracks in DIAGRAMS.items() if (ranks := ranked(groups, tracks))},
        "control": [control(key, group) for key, group in grouped(r for r in rows if r["labels"] != "true").items()],
        "commits": sorted({row["commit"] for row in rows if row.get("commit")}),
    }


def grouped(rows: Iterable[Row]) -> dict[tuple[str, str, str], Group]:
    """Rows by table, track and model."""
    groups: dict[tuple[str, str, str], Group] = defaultdict(dict)
    for row in rows:
        groups[row["set"], row["track"], row["model"]][row["seed"], row["fold"]] = row
    return dict(groups)


def sets_of(groups: dict[tuple[str, str, str], Group]) -> dict[str, Any]:
    """What the tables are."""
    found = {}
    for (name, _, _), group in groups.items():
        row = next(iter(group.values()))
        found[name] = {key: row[key] for key in ("task", "train_rows", "test_rows", "columns")} | {
            "official_test": "parts" in row,
            "outside": statistics.mean(row["outside"] for row in group.values()),
        }
    return found


def opponent_of(key: tuple[str, str, str]) -> tuple[str, str, str]:
    """The KAN that a model is compared with: tuned like it on track B, with its defaults on the others."""
    name, track, _ = key
    return name, "B" if track == "B" else "D", OURS


def entry(key: tuple[str, str, str], groups: dict[tuple[str, str, str], Group]) -> dict[str, Any]:
    """One model on one table and track: means and standard deviations over fits, medians of costs, verdicts."""
    group = groups[key]
    rows = list(group.values())
    name, track, model = key
    result: dict[str, Any] = {"set": name, "track": track, "model": model, "fits": len(rows)}
    result["metrics"] = {m: spread([row["metrics"][m] for row in rows]) for m in rows[0]["metrics"]}
    result |= {m: statistics.median(found) for m in MEDIANS if (found := values(rows, m))}
    ours = opponent_of(key)
    if key != ours and ours in groups:
        result["kan_minus_this"] = {
            metric: {**vars(difference), "verdict": difference.verdict(metric not in LOWER_IS_BETTER)}
            for metric in VERDICTS[kind_of(rows[0]["task"])]
            if (difference := compare(groups[ours], group, metric))
        }
    return result


def values(rows: Iterable[Row], name: str) -> list[float]:
    """What the rows have under a name."""
    return [row[name] for row in rows if row.get(name) is not None]


def spread(found: Sequence[float]) -> dict[str, float]:
    """Mean and sample standard deviation, 0 of one value."""
    return {"mean": statistics.mean(found), "sd": statistics.stdev(found) if len(found) > 1 else 0.0}


def compare(ours: Group, other: Group, metric: str) -> Difference | None:
    """The KAN less the other on the fits that both have; None for fewer than two."""
    pairs = list(zip(*(group.values() for group in common(ours, other)), strict=True))
    if len(pairs) < 2:
        return None
    if "parts" in pairs[0][0]:
        parts = [np.subtract(a["parts"][metric], b["parts"][metric]) for a, b in pairs]
        return fixed_split_difference(np.stack(parts))
    ratio = statistics.mean(a["test_rows"] / a["train_rows"] for a, _ in pairs)
    return corrected_difference([a["metrics"][metric] - b["metrics"][metric] for a, b in pairs], ratio)


def common(first: Group, second: Group) -> tuple[Group, Group]:
    """The fits that both have."""
    shared = sorted(first.keys() & second.keys())
    return {at: first[at] for at in shared}, {at: second[at] for at in shared}


def mean_score(group: Group) -> float:
    """Of the metric that ranks models over tables."""
    rows = list(group.values())
    metric = VERDICTS[kind_of(rows[0]["task"])][0]
    return statistics.mean(float(row["metrics"][metric]) for row in rows)


def over_sets(groups: dict[tuple[str, str, str], Group]) -> list[dict[str, Any]]:
    """Wilcoxon's test of the KAN against every model, over the tables that both have (AUC, or R² of regressions)."""
    found = []
    for track, model in sorted({(track, model) for _, track, model in groups}):
        keys = [key for key in groups if key[1:] == (track, model) and key != opponent_of(key)]
        keys = [key for key in keys if groups.get(opponent_of(key), {}).keys() & groups[key].keys()]
        if keys:
            pairs = [common(groups[opponent_of(key)], groups[key]) for key in keys]
            ours, other = ([mean_score(pair[side]) for pair in pairs] for side in (0, 1))
            found.append({"track": track, "model": model, **wilcoxon(ours, other)})
    return found


def ranked(groups: dict[tuple[str, str, str], Group], tracks: Sequence[str]) -> dict[str, Any] | None:
    """Mean ranks of the models that have all fits, with Nemenyi's critical difference; None for too few of them."""
    tables = sorted({name for name, track, _ in groups if track in tracks})
    contenders = sorted({(t, m) for _, t, m in groups if t in tracks and m != "dummy"})
    most = {name: max(len(g) for (n, t, _), g in groups.items() if n == name and t in tracks) for name in tables}
    complete = [c for c in contenders if all(len(groups.get((name, *c), {})) == most[name] for name in tables)]
    if len(tables) < 2 or len(complete) < 3:
        return None
    scores = [[mean_score(groups[(table, *c)]) for c in complete] for table in tables]
    return {
        "tables": tables,
        "models": [label(model, track) for track, model in complete],
        "mean_ranks": average_ranks(scores).tolist(),
        "friedman": friedman(scores),
        "critical_difference": critical_difference(len(complete), len(tables)),
    }


def label(model: str, track: str) -> str:
    """A model, and its track where that changes it."""
    return f"{model} ({track})" if track in ("P", "F", "T") else model


def control(key: tuple[str, str, str], group: Group) -> dict[str, Any]:
    """How far from chance a model is that was trained on shuffled labels, in standard errors.

    The statistic may be off to both sides, since a leak may turn a prediction round; accuracy must not exceed the share
    of the commonest class, and may well be below it.
    """
    chance = [row["chance"] for row in group.values()]
    z = standardised([c["statistic"] for c in chance], [c["error"] for c in chance])
    gain = None
    if "accuracy_gain" in chance[0]:
        gain = standardised([c["accuracy_gain"] for c in chance], [c["accuracy_error"] for c in chance])
    name, track, model = key
    return {
        "set": name,
        "track": track,
        "model": model,
        "fits": len(chance),
        "statistic": statistics.mean(c["statistic"] for c in chance),
        "z": z,
        "accuracy_z": gain,
        "passed": abs(z) <= SURE and (gain is None or gain <= SURE),
    }


def standardised(found: Sequence[float], errors: Sequence[float]) -> float:
    """The mean in units of its standard error, test rows of different fits being independent draws."""
    return statistics.mean(found) / (math.sqrt(sum(error**2 for error in errors)) / len(errors))


# Markdown ---------------------------------------------------------------------------------------------------------


def tabular(result: dict[str, Any], table: Table) -> str:
    """The section of `benchmarks/render.py`.

    Args:
        result: The stored result.
        table: Makes a table of heads and rows.
    """
    settings = result["settings"]
    text = (
        f"Mean ± standard deviation over {settings['folds']} folds and {len(settings['seeds'])} seeds\n"
        "(with an official test file: over the seeds). A verdict is about the KAN: better or worse where the 95 %\n"
        "interval of the paired difference leaves out 0 (corrected resampled t), else on par. Tracks: D every model\n"
        "with its defaults; P, F, T twins of the KAN in parameters (±5 %), in FLOPs (±10 %), in training seconds; B\n"
        f"the same number of random trials ({settings['trials']}) for each, whose seconds are in the fit. Costs are\n"
        "medians over fits; µs per row include the preparation of the columns; MB are those of one training step\n"
        "with up to 1024 rows. Published FLOPs charge a basis for every edge (arXiv 2407.16674); categories are free\n"
        "in both counts.\n"
    )
    if len(result["commits"]) > 1:
        text += f"\nThe fits are of several states of the code: {', '.join(c[:7] for c in result['commits'])}.\n"
    if totals := tally(result["entries"]):
        text += f"\n{totals}"
    for name, about in result["sets"].items():
        text += f"\n### {name}\n\n{set_line(about)}\n\n" + set_table(name, about, result["entries"], table)
    text += over_sets_text(result, table)
    return text + (control_text(result["control"], table) if result["control"] else "")


def tally(entries: Sequence[dict[str, Any]]) -> str:
    """How often each verdict was given, on the metric that ranks."""
    counts = {"better": 0, "on par": 0, "worse": 0}
    for e in entries:
        if e["model"] != "dummy" and e.get("kan_minus_this"):
            counts[next(iter(e["kan_minus_this"].values()))["verdict"]] += 1
    if not sum(counts.values()):
        return ""
    return (
        f"Over all tables, tracks and opponents the KAN is better {counts['better']} times, on par {counts['on par']} "
        f"times and worse {counts['worse']} times (AUC, R²).\n"
    )


def set_line(about: dict[str, Any]) -> str:
    """What a table is."""
    how = "official test file" if about["official_test"] else "cross-validated"
    return (
        f"{about['task'].capitalize()}, {about['columns']} columns, {about['train_rows']:,} training and "
        f"{about['test_rows']:,} test rows per fit, {how}; {about['outside']:.2%} of test values lie outside\n"
        "what training has seen (networks see numbers scaled and clipped smoothly into the range of the grids)."
    )


def set_table(name: str, about: dict[str, Any], entries: Sequence[dict[str, Any]], table: Table) -> str:
    """All models on one table."""
    first, second = VERDICTS[kind_of(about["task"])]
    also = "mae" if about["task"] == "regression" else "accuracy"
    heads = ["model", "track", "fits", first, "KAN is", second, "KAN is", also]
    heads += ["parameters", "FLOPs", "published", "iterations", "fit s", "µs/row at 1", "at 1024", "kB", "MB/step"]
    rows = []
    for e in (e for e in entries if e["set"] == name):
        verdicts = e.get("kan_minus_this", {})
        cells = [f"`{e['model']}`", e["track"], str(e["fits"])]
        for metric in (first, second):
            cells += [score(e, metric), verdicts.get(metric, {}).get("verdict", "-")]
        cells += [score(e, also), *(whole(e.get(key)) for key in ("parameters", "flops", "published_flops", "n_iter"))]
        cells += [f"{e['fit_seconds']:.2f}", f"{e['us_per_row_1']:.0f}", f"{e['us_per_row_1024']:.1f}"]
        peak = f"{e['step_peak_bytes'] / 1e6:.1f}" if "step_peak_bytes" in e else "-"
        rows.append([*cells, f"{e['bytes'] / 1000:,.0f}", peak])
    return table(heads, rows)


def score(e: dict[str, Any], metric: str) -> str:
    """Mean ± standard deviation, with digits for its size."""
    mean, sd = e["metrics"][metric]["mean"], e["metrics"][metric]["sd"]
    return f"{mean:,.0f} ± {sd:,.0f}" if abs(mean) >= 1000 else f"{mean:.4f} ± {sd:.4f}"


def whole(value: float | None) -> str:
    """A count, or a dash."""
    return "-" if value is None else f"{value:,.0f}"


def over_sets_text(result: dict[str, Any], table: Table) -> str:
    """Wilcoxon's tests and mean ranks."""
    text = ""
    if result["over_sets"]:
        rows = [
            [f"`{o['model']}`", o["track"], str(o["tables"]), str(o["wins"]), str(o["losses"]), f"{o['p']:.3f}"]
            for o in result["over_sets"]
        ]
        text += (
            "\n### Over tables\n\nWilcoxon's signed-rank test of the KAN against each (AUC, R²); with fewer than six\n"
        )
        text += "tables p cannot be below 0.05.\n\n"
        text += table(["model", "track", "tables", "KAN wins", "loses", "p"], rows)
    for name, ranks in result["ranks"].items():
        order = sorted(zip(ranks["mean_ranks"], ranks["models"], strict=True))
        text += (
            f"\nMean ranks, {name}, over {len(ranks['tables'])} tables: "
            + ", ".join(f"`{model}` {rank:.2f}" for rank, model in order)
            + f". Friedman p = {ranks['friedman']['p']:.3g}; ranks differ beyond "
            + f"{ranks['critical_difference']:.2f} (Nemenyi, 5 %).\n"
        )
    return text


def control_text(controls: Sequence[dict[str, Any]], table: Table) -> str:
    """The control with shuffled labels."""
    rows = [
        [
            f"`{c['model']}`",
            c["track"],
            c["set"],
            str(c["fits"]),
            f"{c['statistic']:+.4f}",
            f"{c['z']:+.1f}",
            "-" if c["accuracy_z"] is None else f"{c['accuracy_z']:+.1f}",
            "chance" if c["passed"] else "NOT CHANCE",
        ]
        for c in controls
    ]
    heads = ["model", "track", "set", "fits", "AUC - 1/2, or r", "in standard errors", "accuracy gain, likewise", ""]
    return "\n### Shuffled labels\n\nEvery path must stay within three standard errors of chance.\n\n" + table(
        heads, rows
    )


# Figure -----------------------------------------------------------------------------------------------------------


def rank_figure(ranks: dict[str, Any], title: str) -> Figure:
    """Mean ranks on a line, best to the left; bars join models that do not differ by the critical difference."""
    order = sorted(zip(ranks["mean_ranks"], ranks["models"], strict=True))
    count, cd = len(order), ranks["critical_difference"]
    bars = cliques([rank for rank, _ in order], cd)
    figure = Figure(figsize=(8, 1.6 + 0.22 * count + 0.12 * len(bars)), layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(0.5, count + 0.5), ylim=(-count / 2 - 1.5 - 0.4 * len(bars), 1.6), title=title, xlabel="mean rank")
    axes.spines[["left", "right", "top"]].set_visible(False)
    axes.set_yticks([])
    axes.axhline(0, color="black", linewidth=1)
    axes.plot([1, min(1 + cd, count + 0.4)], [1, 1], color="black", linewidth=2)
    axes.text(1, 1.15, f"critical difference {cd:.2f}", fontsize=8)
    for at, (low, high) in enumerate(bars):
        axes.plot([low - 0.05, high + 0.05], [-0.3 - 0.4 * at] * 2, color="tab:red", linewidth=3)
    for place, (rank, name) in enumerate(order):
        left = place < count / 2
        depth = -0.8 - 0.4 * len(bars) - (place if left else count - 1 - place)
        end = 0.6 if left else count + 0.4
        axes.plot([rank, rank, end], [0, depth, depth], color="grey", linewidth=0.8)
        weight = "bold" if name == OURS else "normal"
        axes.text(end, depth + 0.08, f"{name} {rank:.2f}", ha="left" if left else "right", fontsize=8, weight=weight)
    return figure


def cliques(ranks: Sequence[float], cd: float) -> list[tuple[float, float]]:
    """Largest runs of sorted ranks whose ends are within `cd`."""
    runs = [(a, b) for a, b in combinations(ranks, 2) if b - a <= cd]
    return [r for r in runs if not any(o != r and o[0] <= r[0] and r[1] <= o[1] for o in runs)]


def save_figures(result: dict[str, Any], folder: Path) -> list[Path]:
    """One figure for each diagram there is."""
    paths = []
    for name, ranks in result["ranks"].items():
        path = folder / f"tabular-ranks-{name}.png"
        with atomic_write(path) as temporary:
            rank_figure(ranks, f"{name}, {len(ranks['tables'])} tables").savefig(temporary, dpi=150)
        paths.append(path)
    return paths
