"""Render the stored results into benchmarks/RESULTS.md.

    uv run benchmarks/render.py

Every table is made from one file in benchmarks/results; a file that is missing leaves its table out.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import combinations, groupby
from pathlib import Path
from typing import Any

from _functions import DOCS_EXAMPLE_1, SPECIAL, TOY
from _tabular_report import tabular
from _timeseries_report import forecasting, har, radar, recurrent

HERE = Path(__file__).parent
OUT = HERE / "RESULTS.md"


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table in Markdown; the first column is text, the others are numbers."""
    heads = list(heads)
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def commit(machine: dict[str, Any]) -> str:
    """In short, and whether the files differed from it."""
    name, changes, _ = (machine["commit"] or "").partition("+changes")
    return name[:7] + changes


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


def layers(result: dict[str, Any]) -> str:
    rows = []
    for r in result["results"]:
        shape, found = r["shape"], {row["layer"]: row for row in r["layers"]}
        ours, linear = found["KANLinear"], next(row for name, row in found.items() if name.startswith("Linear"))
        others = (found["KANLinear compiled"], found["Cox-de Boor"], found["RBF"], linear)
        rows.append(
            [
                "{batch}, {in} → {out}, G {grid_size}, k {order}".format(**shape),
                *(f"{ours[key]:.2f}" for key in ("forward_ms", "forward_backward_ms")),
                *(f"{ours[key]:.2f}" for key in ("forward_ratio", "forward_backward_ratio")),
                f"{100 / ours['forward_backward_ratio']:.0f} %",
                *(f"{row['forward_backward_ms'] / ours['forward_backward_ms']:.2f}" for row in others),
                f"{ours['memory_mib'] / found['gemm']['memory_mib']:.2f}",
            ]
        )
    heads = ["batch, in → out", "fwd ms", "fwd+bwd ms", "fwd/GEMM", "fwd+bwd/GEMM", "of the GEMM limit"]
    heads += ["compiled", "Cox-de Boor", "RBF", "Linear", "memory/GEMM"]
    return (
        f"The B-spline KANLinear, eager float32, medians of {result['repeats']} repetitions or more. GEMM: the matrix\n"
        "product of the expanded operand, with both backward products. The columns after the GEMM limit are times of\n"
        "others over ours, forward + backward: the same layer compiled, the textbook layer, as many Gaussians, and an\n"
        "`nn.Linear` of as many parameters.\n\n" + table(heads, rows)
    )


def group_rational(result: dict[str, Any]) -> str:
    rows = [
        [
            f"{' x '.join(map(str, r['shape']))}, {c['contender']}",
            *(f"{c[key]:.2f}" for key in ("forward_ms", "forward_backward_ms", "forward_ratio")),
            *(f"{c[key]:.2f}" for key in ("forward_backward_ratio", "memory_in_x")),
            ", ".join(f"{error:.1e}" for error in c.get("coefficient_gradient_errors", ())) or "-",
        ]
        for r in result["results"]
        for c in r["contenders"]
    ]
    heads = ["shape, contender", "fwd ms", "fwd+bwd ms", "fwd/GELU", "fwd+bwd/GELU", "memory/x", "errors of da, db"]
    return (
        "KAT's activation, float32; errors of the coefficient gradients are the largest difference to float64 over\n"
        f"the largest value. Medians of {result['repeats']} repetitions.\n\n" + table(heads, rows)
    )


def daruan(result: dict[str, Any]) -> str:
    keys = ("forward_ms", "forward_backward_ms", "peak_mib", "forward_times_gemm", "forward_backward_times_gemm")
    keys += ("forward_faster_than_simulation", "forward_backward_faster_than_simulation")
    rows = [
        [
            "{}, {} → {}, r {}, ".format(*r["shape"], r["reps"]) + name,
            *(f"{row[key]:.2f}" if key in row else "-" for key in keys),
        ]
        for r in result["results"]
        for name, row in r["contenders"].items()
    ]
    heads = ["shape, contender", "fwd ms", "fwd+bwd ms", "peak MiB", "fwd/GEMM", "fwd+bwd/GEMM"]
    heads += ["simulation/fwd", "simulation/fwd+bwd"]
    return (
        "DARUAN layers, float32, against the matrix product of the dense form and the simulation of every edge in\n"
        f"eager torch. Medians of {result['repeats']} repetitions, of the simulations fewer.\n\n" + table(heads, rows)
    )


def kernels(result: dict[str, Any]) -> str:
    text = (
        'Forward, backward and peak memory of every backend; \\* marks the one of `backend="auto"`. Ratios are of\n'
        "forward + backward, in inference of forward: the contender's time over that of the column. Limits: the rate\n"
        "of a large matrix product, for group_rational the bandwidth of a copy, measured in the same run:\n"
    )
    for dtype, limit in result["ceilings"].items():
        rates = [limit[key] / 1e9 for key in ("product_flops_per_second", "copy_bytes_per_second")]
        text += "\n- {}: {:.0f} GFLOP/s, {:.1f} GB/s".format(dtype, *rates)
    groups: dict[str, list[dict[str, Any]]] = {}
    for r in result["records"]:
        groups.setdefault(f"{r['op']}, {r['dtype']}", []).append(r)
    return text + "".join(f"\n\n### {name}\n\n{kernel_table(group)}" for name, group in groups.items())


BASES = ("reference", "reference compiled", "Cox-de Boor", "FlashKAT style", "gemm", "linear")
BASES += ("linear, same parameters", "gelu", "copy")


def kernel_table(records: list[dict[str, Any]]) -> str:
    """Times of what computes one op, and below them what has none, and why."""
    timed = [r for r in records if "forward_ms" in r and "errors" in r]
    bases = [base for base in BASES if any(base in r["ratios"] for r in timed)]
    rows = [
        [
            r["title"] + ", " + r["contender"] + (r" \*" if r["auto"] else ""),
            *(f"{r[key]:.3f}" if key in r else "-" for key in ("forward_ms", "backward_ms")),
            *(f"{100 * r[key]:.0f} %" if key in r else "-" for key in ("forward_share", "backward_share")),
            f"{r['peak_mib']:.1f}",
            *(ratio(r, base) for base in bases),
        ]
        for r in timed
    ]
    heads = ["shape, contender", "fwd ms", "bwd ms", "fwd of limit", "bwd of limit", "peak MiB"]
    text = table([*heads, *(f"/{base}" for base in bases)], rows) if rows else ""
    without: dict[str, list[str]] = {}
    for r in records:
        for key in ("left_out", "wrong", "failed"):  # a backend that the op does not have is no news
            if key in r:
                without.setdefault(f"{r['contender']}: {r[key]}", []).append(r["title"])
    lines = [f"- {'; '.join(titles)}: {reason}" for reason, titles in without.items()]
    return "\n".join([text, *(["Without times:", "", *lines] if lines else [])]).rstrip("\n")


def ratio(record: dict[str, Any], base: str) -> str:
    """The time over that of `base`, by the widest measure there is."""
    found = record["ratios"].get(base)
    return f"{found.get('forward_backward', found['forward']):.2f}" if found else "-"


def seeds(result: dict[str, Any]) -> str:
    name = result["metric"].removeprefix("test/")
    baseline = result["baseline"].get(result["metric"])
    sides = result["result"]
    rows = [
        [
            f"{side}: `{r['model']}`",
            f"{r['parameters']:,}",
            mean_sd(r["per_seed"], ".4f"),
            ", ".join(f"{value:.4f}" for value in r["per_seed"]),
            "[{:+.4f}, {:+.4f}]: {}".format(*r["difference_interval"], r["verdict"]) if "verdict" in r else "",
            f"{r['train_seconds'] / 60:.1f}",
        ]
        for side, r in sides.items()
    ]
    heads = ["network", "parameters", f"test {name}", "by seed", "KAN minus it, 95 %", "training, min"]
    trivial = f"; the answer that looks at no input has {baseline:.4f}" if baseline is not None else ""
    ratio = result.get("epoch_time_ratio")
    twin = f" An epoch of the KAN takes {ratio:.2f} times its twin's." if ratio else ""
    text = [
        f"{result['dataset']}, configuration `{result['config']}`: the epoch is chosen on validation data, the test",
        f"split is used once{trivial}.{twin}",
        "",
        table(heads, rows),
    ]
    if result.get("vary"):
        by_value = [
            [side, *(f"{100 * value:.2f} %" for value in r["by_value"])] for side, r in sides.items() if "by_value" in r
        ]
        text += [
            "",
            f"By `{result['vary']}`, mean over the seeds:",
            "",
            table(["network", *result["values"]], by_value),
        ]
    names = list(dict.fromkeys(key for r in sides.values() for key in r.get("also", {})))
    ends = {f"{name}_{end}" for name in [*names, result["metric"]] for end in ("low", "high")}
    also = [
        [
            name.removeprefix("test/"),
            *(spread(r["also"], name) for r in sides.values()),
            f"{result['baseline'][name]:.4f}" if name in result["baseline"] else "",
        ]
        for name in names
        if name not in ends
    ]
    if also:
        text += ["", "Mean ± standard deviation over all runs [means of the ends of the runs' 95 % intervals]:", ""]
        text += [table(["metric", *sides, "trivial"], also)]
    return "\n".join(text)


def spread(also: dict[str, Any], name: str) -> str:
    """One metric over all runs, with the means of its ends where it has an interval."""
    if name not in also:
        return "-"
    text = f"{also[name]['mean']:.4f} ± {also[name]['sd']:.4f}"
    ends = [also[f"{name}_{end}"]["mean"] for end in ("low", "high") if f"{name}_{end}" in also]
    return f"{text} [{ends[0]:.3f}, {ends[1]:.3f}]" if ends else text


def contender_rows(
    result: dict[str, Any], case: Callable[[dict[str, Any]], str], keys: Sequence[str]
) -> list[list[str]]:
    """Every contender of every case, with its parameters and its figures."""
    return [
        [f"{case(r)}, {c['contender']}", f"{c['parameters']:,}", *(f"{c[key]:.2f}" for key in keys)]
        for r in result["results"]
        for c in r["contenders"]
    ]


def kat_block(result: dict[str, Any]) -> str:
    keys = ("forward_ms", "forward_backward_ms", "forward_ratio", "forward_backward_ratio", "memory_mib")
    rows = contender_rows(result, lambda r: f"batch {r['batch']}", keys)
    heads = ["batch, block", "parameters", "fwd ms", "step ms", "fwd/ViT", "step/ViT", "memory MiB"]
    return (
        "One block of width 192 on 197 tokens, float32; a step is forward + backward. Medians of\n"
        f"{result['repeats']} repetitions.\n\n" + table(heads, rows)
    )


def karat_memory(result: dict[str, Any]) -> str:
    keys = ("forward_ms", "fused_forward_ratio", "forward_backward_ms", "fused_forward_backward_ratio")
    keys += ("memory_mib", "fused_memory_ratio", "memory_ratio")
    rows = [
        [f"{r['part']}, {c['contender']}", *(f"{c[key]:.2f}" for key in keys)]
        for r in result["results"]
        for c in r["contenders"]
    ]
    heads = ["part, attention", "fwd ms", "fwd/fused", "step ms", "step/fused", "memory MiB", "memory/fused"]
    return (
        "Learned Fourier attention and softmax, float32, batch 32, 197 tokens of width 192, 3 heads; a step is\n"
        f"forward + backward. Medians of {result['repeats']} repetitions.\n\n" + table([*heads, "memory/unfused"], rows)
    )


def audio_head(result: dict[str, Any]) -> str:
    rows = [
        [
            c["contender"],
            *(f"{c[key]:,.0f}" for key in ("forward_ms", "forward_backward_ms")),
            f"{c['dense_over_this']:.1f}",
            *(f"{c[key]:,.0f}" for key in ("resident_mib", "allocated_mib")),
            f"{c['memory_ratio']:.3f}",
            f"{c['largest_difference']:.1e}",
        ]
        for c in result["contenders"]
    ]
    heads = ["evaluation", "fwd ms", "step ms", "dense step/this", "resident MiB", "allocated MiB", "memory/dense"]
    shape = result["shape"]
    return (
        f"Batch {shape['batch']} of {shape['frames']} frames with {shape['features']} features, float32; a step is\n"
        f"forward + backward. Medians of {result['repeats']} repetitions. The splines' part has a standard deviation\n"
        "of 0.1; with 1 the float32 outputs of both evaluations are further from their float64 values than 1e-5.\n\n"
        + table([*heads, "difference"], rows)
    )


def ukan(result: dict[str, Any]) -> str:
    keys = ("forward_ms", "step_ms", "forward_ratio", "step_ratio", "memory_mib")
    rows = contender_rows(result, lambda r: f"`{r['model']}`", keys)
    heads = ["model, layers", "parameters", "fwd ms", "step ms", "fwd/MLP", "step/MLP", "memory MiB"]
    return (
        "Eight crops of 128 x 128 pixels, float32; a step is forward, loss, backward and an SGD update. Medians of\n"
        f"{result['repeats']} repetitions.\n\n" + table(heads, rows)
    )


def export(result: dict[str, Any]) -> str:
    rows = [
        [
            f"`{r['model']}`",
            f"{r['parameters']:,}",
            f"{r['max_abs_difference']:.1e}",
            "yes" if r["free_batch"] else "no",
            f"{r['mebibytes']:.1f}",
        ]
        for r in result["results"]
    ]
    return (
        "Untrained networks in ONNX Runtime against torch: largest absolute difference over random images.\n\n"
        + table(["network", "parameters", "difference", "any batch", "file, MiB"], rows)
    )


def selection(result: dict[str, Any]) -> str:
    """What every selector keeps, and what it is worth; then how many of the columns that matter it finds."""
    groups = [
        (name, [row for _, row in rows])
        for name, rows in groupby(result["rows"].items(), key=lambda item: item[0].partition("|")[0])
    ]
    real = {name: rows for name, rows in groups if "kept" in rows[0]}
    synthetic = {name: rows for name, rows in groups if "found" in rows[0]}
    text = (
        "Selection inside each of 5 outer folds; R² (diabetes) or macro-F1 of ridge or logistic regression on the kept "
        "columns / of a forest / mean pairwise Jaccard index of what the folds keep. One training serves all KAN "
        "scores. The KANs' rows on diabetes are no clean test: see the head of `selection.py`.\n"
    )
    for name, rows in real.items():
        shares = list(dict.fromkeys(key.partition("|")[2] for key in rows[0]["kept"]))
        lines = [["all columns", " / ".join(f"{x:.4f}" for x in _means([row["all"] for row in rows])), "", ""]]
        for selector in dict.fromkeys(key.partition("|")[0] for key in rows[0]["kept"]):
            cells = [[row["kept"][f"{selector}|{share}"] for row in rows] for share in shares]
            lines.append([selector, *(_kept(cell) for cell in cells)])
        text += f"\n{name}:\n\n" + table(["selector", *(f"{100 * float(share):.0f} %" for share in shares)], lines)
    names = list(synthetic)
    lines = []
    for selector in next(iter(synthetic.values()))[0]["found"]:
        line = [selector]
        for rows in synthetic.values():
            found = [row["found"][selector] for row in rows]
            at_r = statistics.mean(cell["at_r"] for cell in found)
            shadow = [cell["shadow"] for cell in found if "shadow" in cell]
            line.append(f"{at_r:.2f}" + (" ({:.2f}, {:.2f})".format(*_means(shadow)[:2]) if shadow else ""))
        lines.append(line)
    chance = [f"{rows[0]['relevant'] / rows[0]['columns']:.2f}" for rows in synthetic.values()]
    return (
        text + "\nTables with known columns that matter, 3 draws each: precision among as many columns as matter, in "
        "brackets precision and recall of what scores above shuffled copies:\n\n"
        + table(["selector", *names], [*lines, ["random", *chance]])
    )


def _means(rows: Sequence[Sequence[float]]) -> list[float]:
    return [statistics.mean(column) for column in zip(*rows, strict=True)]


def _kept(folds: Sequence[dict[str, Any]]) -> str:
    """Mean scores on the kept columns, and how alike the folds' choices are."""
    pairs = [(set(a["columns"]), set(b["columns"])) for a, b in combinations(folds, 2)]
    jaccard = statistics.mean(len(a & b) / len(a | b) for a, b in pairs)
    return " / ".join([*(f"{x:.4f}" for x in _means([fold["score"] for fold in folds])), f"{jaccard:.2f}"])


def hea(result: dict[str, Any]) -> str:
    """Alloys: every model, target and kind of fold, beside the forest."""
    rows = []
    for line in result["rows"]:
        metric = "f1_macro" if "f1_macro" in line else "r2"
        lead = line.get("over_forest")
        rows.append(
            [
                line["target"],
                line["split"],
                line["model"],
                f"{metric} {line[metric]['mean']:.3f} ± {line[metric]['sd'] or 0:.3f}",
                f"{line['rmse']['mean']:.1f}" if "rmse" in line else "",
                f"{lead['mean']:+.3f}, {lead['folds_won']} of {lead['of']}" if lead else "",
                f"{line['parameters']:,}" if line["parameters"] else "",
                f"{line['fit_seconds']['mean']:.1f}",
            ]
        )
    head = ["target", "folds", "model", "score", "RMSE", "lead over the forest, folds won", "parameters", "s per fit"]
    return (
        f"Seeds {result['rows'][0]['seeds']}, {result['folds']} folds each, spread over seeds. `formula`: no alloy on "
        "both sides; `random`: for scale. The MLP has Adam for pilots on these data; "
        "seconds were taken beside other work.\n\n" + table(head, rows)
    )


SECTIONS: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
    "layers-cpu": ("The B-spline layer and the matrix product (`layers.py`)", layers),
    "kernels-cpu": ("Kernels on the CPU (`kernels.py`)", kernels),
    "kernels-cuda": ("Kernels on a GPU (`kernels.py --device cuda`)", kernels),
    "group-rational-cpu": ("The group-rational activation (`group_rational.py`)", group_rational),
    "daruan-cpu": ("DARUAN layers (`daruan.py`)", daruan),
    "daruan-cuda": ("DARUAN layers on a GPU (`daruan.py --device cuda`)", daruan),
    "layers-families-cpu": ("Speed and memory of every layer (`layers.py --families`)", families),
    "families-mnist-cpu": ("MNIST with every layer (`families_mnist.py`)", families_mnist),
    "kat-block-cpu": ("A block of KAT-tiny and of ViT-tiny (`kat_block.py`)", kat_block),
    "karat-memory-cpu": ("Learned attention and softmax (`karat_memory.py`)", karat_memory),
    "ukan-cpu": ("A training step of U-KAN (`ukan.py`)", ukan),
    "audio-head-cpu": ("The head of AASIST3 (`audio_head.py`)", audio_head),
    "export-cpu": ("Every network of kan-vision as ONNX (`export.py`)", export),
    "vision-default-cpu": ("Digits, the app's default (`seeds.py`)", seeds),
    "vision-kanconv_mnist-cpu": ("MNIST with KAN convolutions (`seeds.py`)", seeds),
    "vision-vikan_mnist-cpu": ("MNIST with a KAN transformer (`seeds.py`)", seeds),
    "vision-kanconv_pneumoniamnist-cpu": ("PneumoniaMNIST (`seeds.py`)", seeds),
    "vision-ukan_dsb2018-cpu": ("Nuclei of the Data Science Bowl 2018 (`seeds.py`)", seeds),
    "audio-slu_fsdd-cpu": ("Spoken digits, the official split (`seeds.py`)", seeds),
    "audio-slu_fsdd_speaker-cpu": ("Spoken digits, one speaker left out (`seeds.py`)", seeds),
    "audio-slu_barista-cpu": ("Spoken coffee orders (`seeds.py`)", seeds),
    "audio-spoof_fsdd-cpu": ("Resynthesised digits against bona fide ones (`seeds.py`)", seeds),
    "audio-spoof_ljspeech-cpu": ("Vocoded speech, one vocoder left out (`seeds.py`)", seeds),
    "tabular": ("Tables (`tabular.py`)", partial(tabular, table=table)),
    "selection": ("Feature selection (`selection.py`)", selection),
    "hea": ("High-entropy alloys (`hea.py`)", hea),
    "forecasting": ("Forecasting (`forecasting.py`)", partial(forecasting, table=table)),
    "recurrent": ("Recurrent layers (`recurrent.py`)", partial(recurrent, table=table)),
    "har": ("Human activity recognition (`har.py`)", partial(har, table=table)),
    "radar": ("Large targets in radar segments (`radar.py`)", partial(radar, table=table)),
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
            device = m.get("gpu") or f"{m['cpu']}, {m['capability']}, {m['threads']} thread(s)"
            where = f"{device}, torch {m['torch']}, {m['time'][:10]}, commit `{commit(m)}`"
            text += f"\n## {title}\n\n{where}.\n\n{section(result).rstrip()}\n"
    return text


if __name__ == "__main__":
    OUT.write_text(render())
    print(f"written to {OUT}")
