"""Write the table of measured kernels into kan-core's README, from the files of `benchmarks/kernels.py`.

uv run scripts/kernel_table.py           # write
uv run scripts/kernel_table.py --check   # exit 1 when the README differs
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from kan_core.ops import BACKENDS

ROOT = Path(__file__).parents[1]
README = ROOT / "packages" / "kan-core" / "README.md"
RESULTS = ROOT / "benchmarks" / "results"
MARK = re.compile(r"(<!-- kernels:begin -->\n).*?(<!-- kernels:end -->)", re.DOTALL)

# What a reader looks for: op and shape, as `benchmarks/kernels.py --list` prints them.
ROWS = [
    ("bspline_linear", "2048, 256 -> 256, G 5, k 3"),
    ("bspline_linear", "1024, 784 -> 64, G 5, k 3"),
    ("bspline_linear", "1024, 64 -> 64, G 5, k 3"),
    ("bspline_linear", "100, 1000 -> 1000, G 5, k 3"),
    ("bspline_linear", "4096, 1024 -> 1024, G 5, k 3"),
    ("bspline_linear", "2048, 256 -> 256, G 5, k 3, inference"),
    ("bspline_linear", "2048, 256 -> 256, G 100, k 3, inference"),
    ("chebyshev_linear", "64, 256 -> 512, degree 15"),
    ("rbf KANLinear", "2048, 256 -> 256"),
    ("group_rational", "12608, 768"),
    ("daruan, frozen", "2048, 256 -> 256, r 3"),
    ("daruan, trainable", "2048, 256 -> 256, r 3"),
    ("daruan, trainable", "256, 64 -> 64, r 3"),
]
LIMITS = ("gelu", "gemm")


def load(device: str) -> dict[str, Any] | None:
    """The result file of a device, if there is one."""
    path = RESULTS / f"kernels-{device}.json"
    return json.loads(path.read_text()) if path.exists() else None


def dtype_of(result: dict[str, Any]) -> str:
    """The type that the table shows: bfloat16 where it was measured."""
    return "bfloat16" if "bfloat16" in result["ceilings"] else "float32"


def fastest(result: dict[str, Any], op: str, title: str) -> dict[str, Any] | None:
    """The record of our fastest backend."""
    key = {"op": op, "title": title, "dtype": dtype_of(result)}
    records = [r for r in result["records"] if key.items() <= r.items() and r["contender"] in BACKENDS]
    return min((r for r in records if "forward_ms" in r), key=milliseconds, default=None)


def milliseconds(record: dict[str, Any]) -> float:
    """Of forward + backward, or in inference of the forward pass."""
    return float(record.get("forward_backward_ms", record["forward_ms"]))


def ratio(record: dict[str, Any], base: str) -> float | None:
    """The record's time over that of `base`."""
    found = record["ratios"].get(base)
    return found.get("forward_backward", found["forward"]) if found else None


def cells(result: dict[str, Any] | None, op: str, title: str) -> list[str]:
    """Time, with its backend, and ratios on one device."""
    record = fastest(result, op, title) if result else None
    if record is None:
        return ["not measured"] * 4
    limit = next((f"{value:.2f}" for base in LIMITS if (value := ratio(record, base)) is not None), "-")
    speedups = [ratio(record, base) for base in ("reference", "Cox-de Boor")]
    backend = f"`{record['contender']}`{'' if record['auto'] else ' on request'}"
    return [f"{milliseconds(record):.3g}, {backend}", limit, *(f"{1 / s:.1f}" if s else "-" for s in speedups)]


def where(name: str, result: dict[str, Any] | None) -> str:
    """Device, date and commit of a file."""
    if result is None:
        return f"{name}: not measured"
    m = result["machine"]
    device = m["gpu"] if m["device"] == "cuda" else f"{m['cpu']}, {m['threads']} thread(s)"
    commit, changes, _ = (m["commit"] or "").partition("+changes")
    return f"{name}: {device}, {dtype_of(result)}, torch {m['torch']}, {m['time'][:10]}, commit `{commit[:7]}{changes}`"


def table() -> str:
    """The table in Markdown, below where it was measured."""
    cpu, gpu = load("cpu"), load("cuda")
    heads = ["ms, backend", "x GEMM or GELU", "eager /", "Cox-de Boor /"]
    lines = [
        ["op", "batch, in -> out", *(f"{device} {head}" for device in ("CPU", "GPU") for head in heads)],
        ["---", "---", *["---:"] * 8],
        *([op, title, *cells(cpu, op, title), *cells(gpu, op, title)] for op, title in ROWS),
    ]
    body = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"\n{where('CPU', cpu)}. {where('GPU', gpu)}.\n\n{body}\n\n"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when the README is not up to date")
    options = parser.parse_args(arguments)
    before = README.read_text()
    after = MARK.sub(lambda match: match[1] + table() + match[2], before)
    if after == before:
        return 0
    if options.check:
        print(f"{README.name} is not up to date: run scripts/kernel_table.py", file=sys.stderr)
        return 1
    README.write_text(after)
    return 0


if __name__ == "__main__":
    sys.exit(main())
