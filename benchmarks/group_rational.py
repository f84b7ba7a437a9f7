"""Speed and peak memory of the group-rational activation on the CPU, next to GELU and to a copy.

    uv run benchmarks/group_rational.py
    uv run benchmarks/group_rational.py --shapes 0 --repeats 30

KAT's activation in float32: degrees (5, 4), 8 groups with a denominator each, one numerator, "sum_of_abs", the
coefficients of swish. Every contender has the same input and upstream gradient; forward + backward has the gradients of
the input and of the coefficients:

- gelu: `torch.nn.functional.gelu`, what the activation replaces in a transformer
- native: `group_rational` with backend="native", where there is a C compiler
- cpu: `group_rational` with backend="cpu"
- reference: the definition in eager autograd
- copy: `Tensor.clone` forward and backward: each reads one tensor and writes another, the least that any of them can do

Times are medians; ratios to GELU and to the reference are medians of the ratios within one repetition. Memory is the
peak of what forward + backward allocates, in units of x (`_timing.peak_allocated`): 2 are the output and the gradient
of x. Errors are those of the coefficient gradients, largest difference over largest value, against float64.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from _timing import alternate, forward_backward, machine, median_ratio, peak_allocated, write_json
from kan_core.layers import Rational
from kan_core.ops import _native

SHAPES = [(64, 197, 768), (64, 197, 3072), (2048, 256)]
RATIONALS = [*([] if _native.unavailable() else ["native"]), "cpu", "reference"]
RESULTS = Path(__file__).parent / "results"


class Gelu(nn.Module):
    """GELU without parameters."""

    def forward(self, x: Tensor) -> Tensor:
        """Map any shape to the same."""
        return F.gelu(x)


class _Copying(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad.clone()


class Copy(nn.Module):
    """A copy of the input, and one of the gradient."""

    def forward(self, x: Tensor) -> Tensor:
        """Map any shape to the same."""
        y: Tensor = _Copying.apply(x)
        return y


def coefficient_gradients(layer: Rational, x: Tensor, grad: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(layer(x.detach()), list(layer.parameters()), grad))


def coefficient_errors(layer: Rational, x: Tensor, grad: Tensor) -> list[float]:
    """Largest difference over largest value of the numerator's and the denominators' gradients, against float64."""
    exact = Rational(x.shape[-1], dtype=torch.float64)
    exact.load_state_dict(layer.state_dict())
    parts = zip(x.detach().flatten(0, -2).split(1024), grad.flatten(0, -2).split(1024), strict=True)
    pieces = [coefficient_gradients(exact, a.double(), b.double()) for a, b in parts]
    want = [torch.stack(gradients).sum(0) for gradients in zip(*pieces, strict=True)]
    got = coefficient_gradients(layer, x, grad)
    return [float((g - w).abs().max() / w.abs().max()) for g, w in zip(got, want, strict=True)]


def measure(shape: tuple[int, ...], repeats: int) -> list[dict[str, Any]]:
    """One row per contender."""
    torch.manual_seed(0)
    x, grad = torch.randn(shape, requires_grad=True), torch.randn(shape)
    contenders: dict[str, nn.Module] = {
        "gelu": Gelu(),
        **{name: Rational(shape[-1], backend=name) for name in RATIONALS},
        "copy": Copy(),
    }
    with torch.no_grad():  # no speed claim without equality
        for name in RATIONALS:
            torch.testing.assert_close(contenders[name](x[:8]), contenders["reference"](x[:8]))
    calls = {name: forward_backward(layer, x, grad) for name, layer in contenders.items()}
    times = alternate(calls, repeats)
    rows = []
    for name, layer in contenders.items():
        for tensor in (x, *layer.parameters()):
            tensor.grad = None
        row = {
            "contender": name,
            "forward_ms": 1e3 * statistics.median(f for f, _ in times[name]),
            "forward_backward_ms": 1e3 * statistics.median(t for _, t in times[name]),
            "forward_ratio": median_ratio(times[name], times["gelu"], 0),
            "forward_backward_ratio": median_ratio(times[name], times["gelu"], 1),
            "forward_backward_ratio_to_reference": median_ratio(times[name], times["reference"], 1),
            "fastest_forward_backward_ms": 1e3 * min(t for _, t in times[name]),
            "memory_in_x": peak_allocated(calls[name]) / x.nbytes,
        }
        if isinstance(layer, Rational):
            row["coefficient_gradient_errors"] = coefficient_errors(layer, x, grad)
        rows.append(row)
    return rows


def show(shape: tuple[int, ...], rows: list[dict[str, Any]]) -> None:
    print(f"\n{' x '.join(map(str, shape))}, ratios to GELU, forward + backward also to the reference")
    titles = ("fwd ms", "ratio", "fwd+bwd ms", "ratio", "to ref.", "best ms", "memory / x", "da error", "db error")
    widths = (9, 8, 12, 8, 9, 9, 12, 11, 11)
    print("contender".ljust(12) + "".join(t.rjust(w) for t, w in zip(titles, widths, strict=True)))
    for row in rows:
        errors = "".join(f"{error:11.1e}" for error in row.get("coefficient_gradient_errors", ()))
        print(
            f"{row['contender']:12}{row['forward_ms']:9.2f}{row['forward_ratio']:8.2f}{row['forward_backward_ms']:12.2f}"
            f"{row['forward_backward_ratio']:8.2f}{row['forward_backward_ratio_to_reference']:9.3f}"
            f"{row['fastest_forward_backward_ms']:9.2f}{row['memory_in_x']:12.2f}"
            f"{errors}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    listing = ", ".join(f"{i}: {shape}" for i, shape in enumerate(SHAPES))
    parser.add_argument(
        "--shapes", type=int, nargs="+", choices=range(len(SHAPES)), default=list(range(len(SHAPES))), help=listing
    )
    parser.add_argument("--repeats", type=int, default=10, help="repetitions of every contender (default: 10)")
    parser.add_argument("--out", type=Path, default=RESULTS / "group-rational-cpu.json", help="result file")
    arguments = parser.parse_args()
    results = []
    for index in arguments.shapes:
        rows = measure(SHAPES[index], arguments.repeats)
        show(SHAPES[index], rows)
        results.append({"shape": SHAPES[index], "contenders": rows})
    write_json(arguments.out, {"machine": machine(), "repeats": arguments.repeats, "results": results})
    print(f"\nwritten to {arguments.out}")


if __name__ == "__main__":
    main()
