"""Render the stored results into benchmarks/RESULTS.md.

    uv run benchmarks/render.py

Every table is made from one file in benchmarks/results; a file that is missing leaves its table out.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable
from itertools import groupby
from pathlib import Path
from typing import Any

from _functions import DOCS_EXAMPLE_1, SPECIAL, TOY

HERE = Path(__file__).parent
OUT = HERE / "RESULTS.md"


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table in Markdown; the first column is text, the others are numbers."""
    heads = list(heads)
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def mean_sd(values: list[float], form: str) -> str:
    """Mean and, for several, standard deviation."""
    mean = format(statistics.mean(values), form)
    return f"{mean} ± {format(statistics.stdev(values), form.lstrip('+'))}" if len(values) > 1 else mean


def families(result: dict[str, Any]) -> str:
    shape, repeats = result["shape"], result["repeats"]
    rows = [
        [
            f"`{r['layer']}`",
            f"{r['gemm_columns'] / shape['in']:.2f}",
            *(f"{r[key]:.1f}" for key in ("forward_ms", "forward_backward_ms")),
            *(f"{r[key]:.2f}" for key in ("forward_ratio", "forward_backward_ratio", "memory_ratio")),
            *(f"{r['linear_' + key]:.2f}" for key in ("forward_ratio", "forward_backward_ratio", "memory_ratio")),
        ]
        for r in result["families"]
    ]
    heads = ["layer", "c/in", "fwd ms", "fwd+bwd ms", "fwd/GEMM", "fwd+bwd/GEMM", "memory/GEMM"]
    heads += ["fwd/Linear", "fwd+bwd/Linear", "memory/Linear"]
    return (
        f"Batch {shape['batch']}, {shape['in']} inputs, {shape['out']} outputs, eager float32, medians of {repeats}.\n"
        "GEMM: the matrix product (batch, c) @ (c, out) with the layer's own operations, and both backward\n"
        "products. Linear: an `nn.Linear` of as many parameters. `wav-kan` and `skan` have parameters inside every\n"
        "edge's function and no matrix product; `hqkan` has such circuits between two small ones.\n\n"
        + table(heads, rows)
    )


def families_mnist(result: dict[str, Any]) -> str:
    rows = []
    for name, group in groupby(sorted(result["runs"], key=lambda r: r["family"]), key=lambda r: r["family"]):
        runs = list(group)
        kan, twin = ([run[side] for run in runs] for side in ("kan", "twin"))
        gains = [100 * (k["accuracy"] - t["accuracy"]) for k, t in zip(kan, twin, strict=True)]
        rows.append(
            [
                f"`{name}`",
                str(len(runs)),
                mean_sd([100 * k["accuracy"] for k in kan], ".2f"),
                f"{kan[0]['parameters']:,}",
                f"{statistics.median(k['seconds'] for k in kan):.0f}",
                mean_sd([100 * t["accuracy"] for t in twin], ".2f"),
                f"{statistics.median(t['seconds'] for t in twin):.0f}",
                mean_sd(gains, "+.2f"),
            ]
        )
    epochs = {run["epochs"] for run in result["runs"]}
    heads = ["layer", "seeds", "test %", "parameters", "seconds", "MLP twin %", "twin's seconds", "difference"]
    return (
        f"[784, 64, 10] of every layer, {', '.join(map(str, sorted(epochs)))} epochs, one untuned recipe for all.\n"
        "Mean ± standard deviation over the seeds. The twin is the MLP of as many parameters. The majority\n"
        f"class has {100 * result['majority']:.2f} %. Seconds were taken beside other work: read them as orders of\n"
        "magnitude. A difference from one seed is no claim. mlp-kan has `hidden_features=64`.\n\n" + table(heads, rows)
    )


def functions(result: dict[str, Any]) -> str:
    entries: dict[str, dict[str, Any]] = result["entries"]
    models = ("kan", "mlp", "spline-mlp", "kan-lbfgs")

    def of(suite: str, name: str, model: str) -> list[dict[str, Any]]:
        return [e for key, e in entries.items() if key.rsplit("/", 1)[0] == f"{suite}/{name}/{model}"]

    def error(found: list[dict[str, Any]]) -> str:
        errors = [e["test_rmse"] for e in found]
        return f"{statistics.mean(errors):.1e} ({statistics.median(errors):.1e})" if len(errors) > 2 else "-"

    text = (
        "Test RMSE, mean (median) over three seeds, 1000 training points, float64. kan: grid extension with\n"
        "Levenberg-Marquardt; kan-lbfgs: with LBFGS, 200 iterations per grid; mlp and spline-mlp: as many parameters,\n"
        "the optimiser and the steps of kan. The paper's own ranges are not known to us, and an error\n"
        "depends on them.\n"
    )
    for suite, targets in (("toy", TOY), ("special", SPECIAL)):
        rows = []
        for target in targets:
            kan = of(suite, target.name, "kan")
            std = f"{statistics.mean(e['target_std'] for e in kan):.1e}" if kan else "-"
            paper = [f"{v:.2e}" if v is not None else "-" for v in (target.paper, target.paper_mlp)]
            rows.append([target.name, std, *paper, *(error(of(suite, target.name, m)) for m in models)])
        text += "\n" + table([f"{suite} set", "mean predictor", "paper KAN", "paper MLP", *models], rows)
    by_grid: Callable[[str], str] = lambda grid: (  # noqa: E731
        f"{statistics.mean(e['test_rmse_by_grid'][grid] for e in of('toy', 'exp(sin(pi x)+y^2)', 'kan')):.2e}"
    )
    grids = ["3", "5", "10", "20", "50"]
    docs = [f"{DOCS_EXAMPLE_1[int(g)]:.2e}" if int(g) in DOCS_EXAMPLE_1 else "-" for g in grids]
    rows = [["ours", *map(by_grid, grids)], ["the paper's docs", *docs]]
    return text + "\n" + table(["exp(sin(pi x)+y^2), [2,1,1]", *(f"G = {g}" for g in grids)], rows)


def spline_degree(result: dict[str, Any]) -> str:
    rows = []
    for r in result["results"]:
        times = {e["evaluator"]: e for e in r["evaluators"]}
        cells = [f"{times[name]['forward_backward_ms']:.1f}" for name in ("recursion", "auto", "matrix")]
        ratio = f"{times['matrix']['forward_backward_ratio']:.2f}"
        rows.append([f"G = {r['grid_size']}, {r['knots']} knots", str(r["order"]), *cells, ratio])
    heads = ["grid", "degree", "recursion ms", "auto ms", "matrix ms", "matrix/recursion"]
    return (
        f"Planes of a B-spline basis, batch {result['batch']}, {result['in']} inputs, forward + backward, medians of "
        f"{result['repeats']}.\n\n" + table(heads, rows)
    )


SECTIONS: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
    "layers-families-cpu": ("Speed and memory of every layer (`layers.py --families`)", families),
    "families-mnist-cpu": ("MNIST with every layer (`families_mnist.py`)", families_mnist),
    "functions-cpu": ("Function fitting (`functions.py`)", functions),
    "spline-degree-cpu": ("Time against the degree of a spline (`spline_degree.py`)", spline_degree),
}


def render() -> str:
    """The page, from the files that exist."""
    text = "# Results\n\nMade by `render.py` from the files in `results`; each has its machine, versions and commit.\n"
    for stem, (title, section) in SECTIONS.items():
        path = HERE / "results" / f"{stem}.json"
        if path.exists():
            result = json.loads(path.read_text())
            m = result["machine"]
            where = f"{m['cpu']}, {m['capability']}, {m['threads']} thread(s), torch {m['torch']}, {m['time'][:10]}"
            text += f"\n## {title}\n\n{where}, commit `{(m['commit'] or '')[:7]}`.\n\n{section(result)}"
    return text


if __name__ == "__main__":
    OUT.write_text(render())
    print(f"written to {OUT}")
