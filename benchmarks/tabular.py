"""Tables: the KAN's defaults beside matched MLPs, linear models, boosting and forests, by one leak-free protocol.

    uv run benchmarks/tabular.py                                       # bundled tables, tracks D and P
    uv run benchmarks/tabular.py --sets credit-g adult --data.root ~/data --tracks D P F T B
    uv run benchmarks/tabular.py --sets wine iris --only 0 1           # a lane: these seeds now, and no report
    uv run benchmarks/tabular.py --control                             # shuffled labels, every path must be at chance

Every fit sees the training rows of one fold and nothing else: scaling, imputation, encoding, early stopping, tuning and
resampling happen inside it; the test rows are predicted once. A finished fit is one line of --rows and is not repeated,
so an interrupted benchmark goes on, and lanes may share the file (OMP_NUM_THREADS=1 for each). The report is made of
all rows of the chosen tables, tracks, seeds, folds and trials; the control's rows join it when they are there.

Tracks:
  D  every model with its defaults: the KAN, additive KAN, linear model, boosting, forest, majority or mean
  P  MLPs with the KAN's number of parameters, within 5 %: ReLU, SiLU, B-spline activations, piecewise-linear embedding
  F  the same with the KAN's FLOPs per row, within 10 %, counted on the network as it runs
  T  those of P with as many epochs as take the KAN's seconds: medians of training steps, measured in turns
  B  every model tuned by the same number of random trials on a fifth of the training rows, then refitted
A twin has the KAN's learning rate, prior and number of epochs, but for T and B.

Seconds of one fit of the KAN on one core (measured on the machine of the stored results): iris, wine and diabetes 1;
breast_cancer, credit-g and credit-approval 1.5; digits 7; telco-churn 15; california-housing 33; a twin takes 0.5 to
1.3 times that. Tracks D and P with five seeds and folds on one core: the bundled tables half an hour, both credit
tables ten minutes, telco-churn half an hour, california-housing an hour. F costs as much as P, T twice that, B with
eight trials seven times D and P together. By their rows, bank-marketing should take two hours and adult (five fits of
each model) a quarter of one; neither was measured.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path
from typing import Any

from _tabular_models import KANS, PATHS, REFERENCES, TWINS
from _tabular_protocol import TRACKS, Plan, jobs, run
from _tabular_report import save_figures, summarise, tabular
from _tabular_rows import Row, Rows, key_of
from _tabular_sets import BUNDLED, SETS, Problem, load
from _timing import machine, write_json
from kan_core.errors import KANError
from render import table

RESULTS = Path(__file__).parent / "results"
MODELS = tuple(name for name in (*KANS, *TWINS, *REFERENCES) if not name.endswith("-ensemble"))  # those cost five fits
CONTROL_SETS = ("breast_cancer", "wine", "diabetes")
CONTROL_MODELS = ("kan", "kan-additive", *PATHS, "mlp-silu", "linear", "boosting", "forest")


def arguments_of(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=SETS, metavar="SET", help=", ".join(SETS))
    parser.add_argument("--models", nargs="+", metavar="MODEL", help=f"{', '.join(MODELS)}, or any of kan_tabular")
    parser.add_argument("--tracks", nargs="+", choices=TRACKS, help="default D P; of the control D P B")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--only", type=int, nargs="+", help="fit these seeds now, and write no report")
    parser.add_argument("--report", action="store_true", help="of the finished fits, and fit nothing")
    parser.add_argument("--folds", type=int, default=5, help="where there is no official test file")
    parser.add_argument("--trials", type=int, default=8, help="of the random search of track B")
    parser.add_argument("--control", action="store_true", help="fit on shuffled labels, and fail if not at chance")
    parser.add_argument("--data.root", dest="root", help="folder of the tables from files; default $KAN_DATA")
    parser.add_argument("--rows", type=Path, default=Path("outputs/benchmarks/tabular.jsonl"), help="finished fits")
    parser.add_argument("--out", type=Path, default=RESULTS / "tabular.json", help="JSON file for the report")
    arguments = parser.parse_args(words)
    arguments.sets = arguments.sets or list(CONTROL_SETS if arguments.control else BUNDLED)
    arguments.models = arguments.models or list(CONTROL_MODELS if arguments.control else MODELS)
    arguments.tracks = arguments.tracks or (["D", "P", "B"] if arguments.control else ["D", "P"])
    if arguments.folds < 2 or arguments.trials < 1:
        parser.error("--folds must be at least 2 and --trials at least 1")
    return arguments


def fit_missing(arguments: argparse.Namespace, problems: list[Problem], plan: Plan, rows: Rows) -> None:
    """Every fit that has no row yet."""
    done, commit = rows.read(), machine()["commit"]
    if rows.unreadable:
        print(f"{rows.path}: {rows.unreadable} line(s) cannot be read, their fits are repeated", flush=True)
    if others := sum(row.get("commit") != commit for row in done.values()):
        print(f"{rows.path}: {others} fit(s) are of other commits; move the file away to repeat them", flush=True)
    by_name = {problem.name: problem for problem in problems}
    seeds = arguments.only or arguments.seeds
    for job in jobs(problems, arguments.models, arguments.tracks, seeds, plan.folds):
        if key_of(job.key(plan)) in done:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            row = run(job, plan, by_name[job.set])
        rows.append({**row, "commit": commit})
        print(line_of(row), flush=True)


def line_of(row: Row) -> str:
    """One fit in short."""
    metrics = "  ".join(f"{name} {value:.4f}" for name, value in row["metrics"].items())
    where = f"{row['set']} {row['track']} {row['model']} seed {row['seed']} fold {row['fold']}"
    return f"{where}: {metrics}  {row['fit_seconds']:.2f} s" + (" (shuffled)" if row["labels"] != "true" else "")


def report(arguments: argparse.Namespace, rows: Rows) -> dict[str, Any]:
    """The result of the rows that belong to the chosen settings."""
    trials = {"B": arguments.trials}

    def chosen(row: Row) -> bool:
        if row["labels"] == "shuffled" and not arguments.control:
            return True
        return (
            (row["labels"] == "shuffled") == arguments.control
            and row["set"] in arguments.sets
            and row["model"] in arguments.models
            and row["track"] in arguments.tracks
            and row["seed"] in arguments.seeds
            and row["folds"] == arguments.folds
            and row["trials"] == trials.get(row["track"], 0)
        )

    settings = {"seeds": arguments.seeds, "folds": arguments.folds, "trials": arguments.trials}
    return {"machine": machine(), "settings": settings, **summarise(filter(chosen, rows.read().values()))}


def main(words: list[str] | None = None) -> int:
    arguments = arguments_of(words)
    try:
        problems = [load(name, arguments.root) for name in arguments.sets]
        plan = Plan(arguments.folds, arguments.trials, arguments.control)
        rows = Rows(arguments.rows)
        if not arguments.report:
            fit_missing(arguments, problems, plan, rows)
    except KANError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if arguments.only:
        return 0
    result = report(arguments, rows)
    print(tabular(result, table))
    if arguments.control:
        return int(not all(control["passed"] for control in result["control"]))
    write_json(arguments.out, result)
    for path in (arguments.out, *save_figures(result, arguments.rows.parent)):
        print(f"written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
