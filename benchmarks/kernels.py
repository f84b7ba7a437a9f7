"""Speed and peak memory of the kernels behind the layers, on a CPU or a GPU, next to everything they must beat.

    uv run benchmarks/kernels.py                                     # all ops and shapes on the CPU, float32
    uv run benchmarks/kernels.py --device cuda                       # float32 and bfloat16
    uv run benchmarks/kernels.py --ops bspline_linear --shapes "1024, 784" --dtypes float32
    uv run benchmarks/kernels.py --quick                             # small shapes, few repetitions: does it work?

Contenders of an op in a shape are all of its backends (`kan_core.ops.BACKENDS`; "reference" is the eager definition),
the compiled reference, and

- gemm: the bare matrix product of the expanded operand (batch, planes in) @ (planes in, out), with both backward ones
- linear: `nn.Linear` with the layer's inputs and outputs; and one of the same parameters, hence more outputs
- Cox-de Boor: the textbook B-spline layer of `layers.py`
- gelu, copy: the activation that a rational one replaces; reading one tensor and writing another, there and back
- FlashKAT style: a kernel written the way FlashKAT's paper describes, on a GPU (`_flashkat_style.py`)

Nothing is timed before its result and all its gradients agree with the float64 reference in some rows of the batch
(`_kernels.TOLERANCES`). Half precision is autocast with float32 parameters; the GEMM has no cast. Times are medians of
repetitions in which all contenders take turns; ratios are medians of the ratios within one repetition. Shares are the
fewest operations (bytes: each input and output once) over the time, in parts of the product rate (of the copy
bandwidth) measured at the start, in the same type. On a GPU the level-2 cache is emptied before every pass; `warm_ms`
is forward + backward without that. Memory is the peak of what a call allocates beside input and parameters.

A contender that would take more than 3 s or, on a CPU, 4 GiB per repetition is left out, and printed as such.
The result file is written during a run of everything, or to --out. One that is there already, of the same machine,
versions and commit, keeps the records that this run does not measure again: a run can be done in parts.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from _kernels import Case, Measurement, Setting
from _kernels_ops import cases
from _timing import ceilings, machine, write_json

RESULTS = Path(__file__).parent / "results"
KEY = ("op", "title", "dtype")
DTYPES = {"cpu": ["float32"], "cuda": ["float32", "bfloat16"]}


def selected(options: argparse.Namespace) -> list[Case]:
    """The cases that the command line asks for."""
    found = [
        case
        for case in cases()
        if (not options.ops or any(op in case.op for op in options.ops))
        and (not options.shapes or any(shape in case.title for shape in options.shapes))
        and (case.quick or not options.quick)
    ]
    if not found:
        raise SystemExit("no case has such an op and shape; --list shows all")
    return found


def show(record: dict[str, Any], bases: list[str]) -> None:
    """One line."""
    name = record["contender"] + (" *" if record.get("auto") else "")
    for key in ("refused", "left_out", "wrong", "failed"):
        if key in record:
            reason = record[key].rpartition(", but ")[2].partition("; use backend")[0]
            print(f"{name:25}{key.replace('_', ' ')}: {reason}", flush=True)
            return
    cells = [f"{record[key]:10.3f}" if key in record else " " * 10 for key in ("forward_ms", "backward_ms")]
    cells += [f"{100 * record[key]:8.0f}%" if key in record else " " * 9 for key in ("forward_share", "backward_share")]
    cells += [f"{record['peak_mib']:11.1f}"]
    for base in bases:
        ratio = record["ratios"].get(base, {})
        cells += [f"{ratio.get('forward_backward', ratio.get('forward', 1.0)):{max(8, len(base) + 2)}.2f}"]
    worst = max(record.get("errors", {"": 0.0}).values())
    print(f"{name:25}{''.join(cells)}" + (f"   {worst:.1e}" if worst else ""), flush=True)


def run(case: Case, setting: Setting) -> list[dict[str, Any]]:
    """Measure and print one case."""
    print(f"\n{case.op}: {case.title}, {str(setting.dtype).removeprefix('torch.')}", flush=True)
    records = list(Measurement(case, setting).records())
    timed = [record for record in records if "forward_ms" in record]
    bases = sorted({base for record in timed for base in record["ratios"]}, key=[r["contender"] for r in timed].index)
    if timed:
        heads = f"{'fwd ms':>10}{'bwd ms':>10}{'of limit':>9}{'of limit':>9}{'peak MiB':>11}"
        heads += "".join(f"{'/' + base:>{max(8, len(base) + 2)}}" for base in bases)
        print(" " * 25 + heads + "   error")
    for record in sorted(records, key=lambda r: "forward_ms" not in r):
        show(record, bases)
    return records


def round_all(value: Any) -> Any:
    """Floats with five digits: more would be noise."""
    if isinstance(value, dict):
        return {key: round_all(part) for key, part in value.items()}
    return float(f"{value:.5g}") if isinstance(value, float) else value


def store(out: Path, head: dict[str, Any], limits: dict[str, Any], records: list[dict[str, Any]]) -> None:
    """Write the records, beside those of other cases that the file has from the same machine, versions and commit."""
    old = json.loads(out.read_text()) if out.exists() else {"machine": {}, "ceilings": {}, "records": []}
    passing = ("time", "cpu_mhz", "clocks.sm", "clocks.mem")
    if {k: v for k, v in old["machine"].items() if k not in passing} == {
        k: v for k, v in head.items() if k not in passing
    }:
        new = {tuple(record[key] for key in KEY) for record in records}
        records = [record for record in old["records"] if tuple(record[key] for key in KEY) not in new] + records
        limits = old["ceilings"] | limits
    write_json(out, {"machine": head, "ceilings": limits, "records": [round_all(record) for record in records]})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--ops", nargs="+", metavar="TEXT", help="ops whose name contains one of these")
    parser.add_argument("--shapes", nargs="+", metavar="TEXT", help="shapes whose title contains one of these")
    parser.add_argument("--dtypes", nargs="+", choices=["float32", "bfloat16", "float16"], help="default: by device")
    parser.add_argument("--quick", action="store_true", help="small shapes, three repetitions, nothing compiled")
    parser.add_argument("--no-compile", action="store_true", help="leave the compiled reference out")
    parser.add_argument("--repeats", type=int, default=3, help="repetitions, at least (default: 3)")
    parser.add_argument("--seconds", type=float, default=3.0, help="more repetitions for this long (default: 3)")
    parser.add_argument("--list", action="store_true", help="show the ops and shapes and stop")
    parser.add_argument("--out", type=Path, help="result file; default, for a full run: results/kernels-<device>.json")
    options = parser.parse_args()
    chosen = selected(options)
    if options.list:
        print("\n".join(f"{case.op}: {case.title}" for case in chosen))
        return
    full = not (options.ops or options.shapes or options.dtypes or options.quick)
    out = options.out or (RESULTS / f"kernels-{options.device}.json" if full else None)
    repeats, seconds = (3, 0.0) if options.quick else (options.repeats, options.seconds)
    head = machine(options.device)
    records: list[dict[str, Any]] = []
    limits: dict[str, Any] = {}
    print("* is what backend='auto' takes; ratios are of forward + backward (inference: of forward)")
    for name in options.dtypes or DTYPES[options.device]:
        dtype = getattr(torch, name)
        limits[name] = ceilings(options.device, dtype)
        print("\n{}: copy {:.1f} GB/s, product {:.0f} GFLOP/s".format(name, *(v / 1e9 for v in limits[name].values())))
        setting = Setting(
            options.device, dtype, limits[name], repeats, seconds, not (options.quick or options.no_compile)
        )
        for case in chosen:
            records += run(case, setting)
            if out:
                store(out, head, limits, records)
    if out:
        print(f"\nwritten to {out}")


if __name__ == "__main__":
    main()
