"""Time of the B-spline planes against the degree, for the three evaluators of `BSpline`, on the CPU.

    uv run benchmarks/spline_degree.py
    uv run benchmarks/spline_degree.py --degrees 3 9 --repeats 30
    OMP_NUM_THREADS=1 uv run benchmarks/spline_degree.py     # on a machine that others use too

The planes alone, (batch, in) -> (batch, K, in) in float32, with the gradient of the input; no layer around them:

- recursion: Cox-de Boor, which widens degree by degree over all functions
- auto: on a uniform grid, polynomials of the cell masked over all functions (of the cubic: a closed form); on uneven
  knots the recursion
- matrix: powers of the position in the cell times a constant matrix, k + 1 values put among zeros (MatrixKAN); on
  uneven knots one matrix for each interval

Times are medians; ratios are medians of the ratios to the recursion within one repetition.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import torch

from _timing import alternate, forward_backward, machine, median_ratio, write_json
from kan_core import BSpline

GRIDS = [(5, "uniform"), (20, "uniform"), (5, "uneven")]
EVALUATORS = ("recursion", "auto", "matrix")
RESULTS = Path(__file__).parent / "results"


def make(grid_size: int, knots: str, order: int, evaluator: str, inputs: int) -> BSpline:
    """A basis bound to `inputs`, on its first grid or on one that has followed skewed samples."""
    basis = BSpline(grid_size, order, evaluator=evaluator).bind(inputs)
    if knots == "uneven":
        samples = torch.rand(1000, inputs, generator=torch.Generator().manual_seed(0))
        basis.update_grid(2 * samples.square() - 1)
    return basis


def measure(grid_size: int, knots: str, order: int, batch: int, inputs: int, repeats: int) -> list[dict[str, Any]]:
    """One row for each evaluator."""
    torch.manual_seed(0)
    x = (2 * torch.rand(batch, inputs) - 1).requires_grad_()
    grad = torch.randn(batch, grid_size + order, inputs)
    bases = {name: make(grid_size, knots, order, name, inputs) for name in EVALUATORS}
    with torch.no_grad():  # no speed claim without equality
        expected = bases["recursion"].planes(x[:64])
        for basis in bases.values():
            torch.testing.assert_close(basis.planes(x[:64]), expected, rtol=1e-4, atol=5e-6)
    times = alternate({name: forward_backward(basis.planes, x, grad) for name, basis in bases.items()}, repeats)
    return [
        {
            "evaluator": name,
            "forward_ms": 1e3 * statistics.median(f for f, _ in times[name]),
            "forward_backward_ms": 1e3 * statistics.median(t for _, t in times[name]),
            "forward_ratio": median_ratio(times[name], times["recursion"], 0),
            "forward_backward_ratio": median_ratio(times[name], times["recursion"], 1),
            "fastest_forward_ms": 1e3 * min(f for f, _ in times[name]),
            "fastest_forward_backward_ms": 1e3 * min(t for _, t in times[name]),
        }
        for name in EVALUATORS
    ]


def show(order: int, rows: list[dict[str, Any]]) -> None:
    cells = "".join(
        f"{row['forward_ms']:9.2f}{row['forward_backward_ms']:9.2f}{row['fastest_forward_backward_ms']:9.2f}"
        f"{row['forward_ratio']:7.2f}{row['forward_backward_ratio']:7.2f}"
        for row in rows
    )
    print(f"{order:6}{cells}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--degrees", type=int, nargs="+", default=list(range(1, 10)), help="degrees (default: 1 to 9)")
    parser.add_argument("--batch", type=int, default=1024, help="rows of the input (default: 1024)")
    parser.add_argument("--inputs", type=int, default=64, help="columns of the input (default: 64)")
    parser.add_argument("--repeats", type=int, default=7, help="repetitions of every evaluator (default: 7)")
    parser.add_argument(
        "--out", type=Path, default=RESULTS / "spline-degree-cpu.json", help="result file (default: %(default)s)"
    )
    arguments = parser.parse_args()
    results = []
    for grid_size, knots in GRIDS:
        print(
            f"\nG {grid_size}, {knots} knots; each: fwd, fwd+bwd, fastest fwd+bwd in ms, both ratios to the recursion"
        )
        print("degree" + "".join(name.center(41) for name in EVALUATORS))
        for order in arguments.degrees:
            rows = measure(grid_size, knots, order, arguments.batch, arguments.inputs, arguments.repeats)
            show(order, rows)
            results.append({"grid_size": grid_size, "knots": knots, "order": order, "evaluators": rows})
    shape = {"batch": arguments.batch, "in": arguments.inputs}
    write_json(arguments.out, {"machine": machine(), "repeats": arguments.repeats, **shape, "results": results})
    print(f"\nwritten to {arguments.out}")


if __name__ == "__main__":
    main()
