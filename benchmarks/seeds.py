"""One configuration of an app over several seeds: the KAN, its matched twin and the trivial baseline.

    uv run benchmarks/seeds.py vision --config configs/vision/kanconv_mnist.yaml --data.root ~/data
    uv run benchmarks/seeds.py vision --seeds 0 1 2 3 4          # the app's default: digits
    uv run benchmarks/seeds.py vision --config configs/vision/ukan_dsb2018.yaml --metric test/iou \
        --others configs/vision/unet_dsb2018.yaml --data.root ~/data                    # and a third network
    uv run benchmarks/seeds.py audio --config configs/audio/slu_fsdd_speaker.yaml --vary data.held_out \
        --values george jackson lucas nicolas theo yweweler --data.root ~/data          # leave one speaker out

Every seed (with --vary: every seed and value) is one run of the app, as a user would start it: the epoch is chosen on
validation data and the test data are used once. With --vary, a seed's figure is the mean over the values. A claim needs
the interval over seeds of the paired difference (Student's t, 95 %) to leave out 0; otherwise "on par". Times leave out
each run's first epoch. A run that is complete under --output is not repeated (remove its folder to repeat it), so an
interrupted benchmark goes on; --only runs a part of the seeds, for lanes side by side. --others names configurations
without a twin that are run with the same seeds and compared with the KAN. Options not named here go to the app.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import statistics
from pathlib import Path
from typing import Any

from scipy.stats import t as student

from _timing import machine, write_json

RESULTS = Path(__file__).parent / "results"


def run(app: str, name: str, seed: int, output: Path, options: list[str]) -> dict[str, Any]:
    """The summary.json of one run."""
    path = output / app / name / "summary.json"
    if path.exists():
        print(f"{name}: taken from {path}", flush=True)
    else:
        main = importlib.import_module(f"kan_{app}.cli").main
        # the seed comes last, so that it wins over the one in a --config file
        code = main([*options, "--output", str(output), "--name", name, "--seed_everything", str(seed)])
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


def row_of(seeds: list[list[dict[str, Any]]], metric: str, also: list[str]) -> dict[str, Any]:
    """One network: per seed, one run or one for each value."""
    runs = [run for seed in seeds for run in seed]
    per_seed = [statistics.mean(run["metrics"][metric] for run in seed) for seed in seeds]
    return {
        "model": runs[0]["model"],
        **mean_and_spread(per_seed),
        "per_seed": per_seed,
        "by_value": [statistics.mean(run["metrics"][metric] for run in column) for column in zip(*seeds, strict=True)],
        "also": {
            name: mean_and_spread([run["metrics"][name] for run in runs if name in run["metrics"]])
            for name in also
            if any(name in run["metrics"] for run in runs)
        },
        "parameters": runs[0]["parameters"],
        "flops_per_sample": runs[0]["flops_per_sample"],
        "samples_per_second": statistics.median(run["samples_per_second"] for run in runs),
        "train_seconds": statistics.median(run["train_seconds"] for run in runs),
    }


def compare(kan: list[float], other: list[float], lower_is_better: bool) -> dict[str, Any]:
    """The interval of the paired difference, and what it says; nothing where there is one seed."""
    if len(kan) < 2:
        return {}
    low, high = paired_interval([a - b for a, b in zip(kan, other, strict=True)])
    wins, loses = (high < 0, low > 0) if lower_is_better else (low > 0, high < 0)
    verdict = "the KAN wins" if wins else "the KAN loses" if loses else "on par"
    return {"difference_interval": [low, high], "verdict": verdict}


def mean_and_spread(values: list[float]) -> dict[str, float]:
    """Mean and sample standard deviation, 0 of one value."""
    return {"mean": statistics.mean(values), "sd": statistics.stdev(values) if len(values) > 1 else 0.0}


def paired_interval(differences: list[float]) -> tuple[float, float]:
    """95 % interval of the mean difference."""
    half = student.ppf(0.975, len(differences) - 1) * statistics.stdev(differences) / math.sqrt(len(differences))
    return statistics.mean(differences) - half, statistics.mean(differences) + half


def arguments_and_options() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("app", choices=("vision", "audio", "tabular", "timeseries"))
    parser.add_argument("--config", type=Path, help="configuration of the app; none: its default")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", type=int, nargs="+", help="run these seeds now, and write no result")
    parser.add_argument("--vary", help="an option of the app, such as data.held_out")
    parser.add_argument("--values", nargs="+", default=[], help="its values")
    parser.add_argument("--metric", default="test/accuracy")
    parser.add_argument("--lower-is-better", action="store_true", help="of the metric")
    parser.add_argument("--also", nargs="*", default=[], help="more metrics to store, without a comparison")
    parser.add_argument("--others", type=Path, nargs="*", default=[], help="configurations to compare with the KAN")
    parser.add_argument("--output", type=Path, default=Path("outputs/benchmarks"), help="folder for the runs")
    parser.add_argument("--out", type=Path, help="JSON file for the result")
    arguments, options = parser.parse_known_args()
    if bool(arguments.vary) != bool(arguments.values):
        parser.error("--vary and --values belong together")
    return arguments, options


def main() -> None:
    arguments, options = arguments_and_options()

    def runs_of(config: Path | None, seed: int) -> list[dict[str, Any]]:
        folder = arguments.output / (config.stem if config else "default")
        own = ["--config", str(config)] if config else []
        if not arguments.vary:
            return [run(arguments.app, f"seed-{seed}", seed, folder, [*own, *options])]
        return [
            run(
                arguments.app,
                f"{value}-seed-{seed}",
                seed,
                folder,
                [*own, *options, f"--{arguments.vary}", value],
            )
            for value in arguments.values
        ]

    label = arguments.config.stem if arguments.config else "default"
    seeds = arguments.only or arguments.seeds
    kan = [runs_of(arguments.config, seed) for seed in seeds]
    sides = {"kan": kan}
    if kan[0][0]["twin"]:
        sides["twin"] = [[run["twin"] for run in seed] for seed in kan]
    sides |= {other.stem: [runs_of(other, seed) for seed in seeds] for other in arguments.others}
    if arguments.only:
        return
    rows = {name: row_of(side, arguments.metric, arguments.also) for name, side in sides.items()}
    for name, row in rows.items():
        if name != "kan":
            row |= compare(rows["kan"]["per_seed"], row["per_seed"], arguments.lower_is_better)
    for name, row in rows.items():
        print(
            f"{name:5s} {arguments.metric} {row['mean']:.4f} ± {row['sd']:.4f}   {row['parameters']:,} parameters, "
            f"{row['flops_per_sample']:,} FLOPs/sample, {row['samples_per_second']:.0f} samples/s"
        )
        if arguments.vary:
            by_value = zip(arguments.values, row["by_value"], strict=True)
            print("      " + ", ".join(f"{value} {mean:.4f}" for value, mean in by_value))
        for also, spread in row["also"].items():
            print(f"      {also} {spread['mean']:.4f} ± {spread['sd']:.4f}")
    baselines = [run.get("baseline") or {} for seed in kan for run in seed]
    baseline = {key: statistics.mean(b[key] for b in baselines) for key in baselines[0]}
    print(f"trivial baseline {baseline}")
    for name, row in rows.items():
        if "verdict" in row:
            low, high = row["difference_interval"]
            verdict = row["verdict"]
            print(f"difference KAN - {name}: 95 % interval [{low:+.4f}, {high:+.4f}] over {len(kan)} seeds: {verdict}")
    result = {
        "machine": machine(),
        "dataset": kan[0][0]["dataset"],
        "model": kan[0][0]["model"],
        "metric": arguments.metric,
        "seeds": arguments.seeds,
        "vary": arguments.vary,
        "values": arguments.values,
        "config": label,
        "options": portable(options),
        "result": rows,
        "baseline": baseline,
    }
    if "twin" in sides:
        pairs = [(run, run["twin"]) for seed in kan for run in seed]
        result["epoch_time_ratio"] = statistics.median(
            b["samples_per_second"] / a["samples_per_second"] for a, b in pairs
        )
        print(f"epoch time of the KAN: {result['epoch_time_ratio']:.2f} x its twin's")
    out = arguments.out or RESULTS / f"{arguments.app}-{label}-cpu.json"
    write_json(out, result)
    print(f"written to {out}")


if __name__ == "__main__":
    main()
