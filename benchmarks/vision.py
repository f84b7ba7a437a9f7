"""One configuration of the vision app over several seeds: the KAN, its matched twin and the trivial baseline.

    uv run benchmarks/vision.py --config configs/vision/kanconv_mnist.yaml --data.root ~/data
    uv run benchmarks/vision.py --seeds 0 1 2 3 4                # the app's default: digits
    uv run benchmarks/vision.py --config configs/vision/ukan_dsb2018.yaml --metric test/iou \
        --others configs/vision/unet_dsb2018.yaml --data.root ~/data   # and a third network

Every seed is one run of the app, as a user would start it: the epoch is chosen on validation data and the test data are
used once. A claim needs the interval of the paired difference (Student's t, 95 %) to leave out 0; otherwise "on par".
Times leave out each run's first epoch. A run that is complete under --output is not repeated (remove its folder to
repeat it), so an interrupted benchmark goes on. --others names configurations without a twin that are run with the same
seeds and compared with the KAN. Options that are not named here go to the app.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from pathlib import Path
from typing import Any

from scipy.stats import t as student

from _timing import machine, write_json
from kan_vision.cli import main as app

RESULTS = Path(__file__).parent / "results"


def run_seed(seed: int, output: Path, options: list[str]) -> dict[str, Any]:
    """The summary.json of one run."""
    path = output / "vision" / f"seed-{seed}" / "summary.json"
    if path.exists():
        print(f"seed {seed}: taken from {path}")
    else:
        # the seed comes last, so that it wins over the one in a --config file
        code = app([*options, "--output", str(output), "--name", f"seed-{seed}", "--seed_everything", str(seed)])
        if code != 0:
            raise SystemExit(code)
    summary: dict[str, Any] = json.loads(path.read_text())
    if summary["seed"] != seed:
        raise SystemExit(f"{path} is of seed {summary['seed']}, not {seed}: remove that folder")
    return summary


def portable(options: list[str]) -> list[str]:
    """The options without where data and configuration lie on this machine."""
    local = ("--data.root", "--config")
    pairs = zip([None, *options], options, strict=False)
    return [word for before, word in pairs if before not in local and word not in local]


def row_of(runs: list[dict[str, Any]], metric: str) -> dict[str, Any]:
    """One network over all seeds."""
    return {
        "model": runs[0]["model"],
        **mean_and_spread([run["metrics"][metric] for run in runs]),
        "per_seed": [run["metrics"][metric] for run in runs],
        "parameters": runs[0]["parameters"],
        "flops_per_sample": runs[0]["flops_per_sample"],
        "samples_per_second": statistics.median(run["samples_per_second"] for run in runs),
        "train_seconds": statistics.median(run["train_seconds"] for run in runs),
    }


def compare(kan: list[float], other: list[float]) -> dict[str, Any]:
    """The interval of the paired difference, and what it says."""
    low, high = paired_interval([a - b for a, b in zip(kan, other, strict=True)])
    verdict = "the KAN wins" if low > 0 else "the KAN loses" if high < 0 else "on par"
    return {"difference_interval": [low, high], "verdict": verdict}


def mean_and_spread(values: list[float]) -> dict[str, float]:
    """Mean and sample standard deviation."""
    return {"mean": statistics.mean(values), "sd": statistics.stdev(values) if len(values) > 1 else math.nan}


def paired_interval(differences: list[float]) -> tuple[float, float]:
    """95 % interval of the mean difference."""
    if len(differences) < 2:
        return -math.inf, math.inf
    half = student.ppf(0.975, len(differences) - 1) * statistics.stdev(differences) / math.sqrt(len(differences))
    return statistics.mean(differences) - half, statistics.mean(differences) + half


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, help="configuration of the app; none: its default")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--metric", default="test/accuracy", help="one of which higher is better")
    parser.add_argument("--others", type=Path, nargs="*", default=[], help="configurations to compare with the KAN")
    parser.add_argument("--output", type=Path, default=Path("outputs/benchmarks"), help="folder for the runs")
    parser.add_argument("--out", type=Path, help="JSON file for the result")
    arguments, options = parser.parse_known_args()
    label = arguments.config.stem if arguments.config else "default"
    own = ["--config", str(arguments.config)] if arguments.config else []
    runs = [run_seed(seed, arguments.output / label, [*own, *options]) for seed in arguments.seeds]
    sides = {"kan": runs, "twin": [run["twin"] for run in runs]}
    for other in arguments.others:
        sides[other.stem] = [
            run_seed(seed, arguments.output / other.stem, ["--config", str(other), *options])
            for seed in arguments.seeds
        ]
    rows = {name: row_of(side, arguments.metric) for name, side in sides.items()}
    for name, row in rows.items():
        if name != "kan":
            row |= compare(rows["kan"]["per_seed"], row["per_seed"])
    ratio = statistics.median(
        b["samples_per_second"] / a["samples_per_second"] for a, b in zip(runs, sides["twin"], strict=True)
    )
    for name, row in rows.items():
        print(
            f"{name:5s} {arguments.metric} {row['mean']:.4f} ± {row['sd']:.4f}   {row['parameters']:,} parameters, "
            f"{row['flops_per_sample']:,} FLOPs/sample, {row['samples_per_second']:.0f} samples/s"
        )
    baseline = runs[0].get("baseline") or {}
    print(f"trivial baseline {baseline}")
    print(f"epoch time of the KAN: {ratio:.2f} x its twin's")
    for name, row in rows.items():
        if name != "kan":
            low, high = row["difference_interval"]
            verdict = row["verdict"]
            print(f"difference KAN - {name}: 95 % interval [{low:+.4f}, {high:+.4f}] over {len(runs)} seeds: {verdict}")
    out = arguments.out or RESULTS / f"vision-{label}-cpu.json"
    write_json(
        out,
        {
            "machine": machine(),
            "dataset": runs[0]["dataset"],
            "model": runs[0]["model"],
            "metric": arguments.metric,
            "seeds": arguments.seeds,
            "config": label,
            "options": portable(options),
            "result": rows,
            "baseline": baseline,
            "epoch_time_ratio": ratio,
        },
    )
    print(f"written to {out}")


if __name__ == "__main__":
    main()
