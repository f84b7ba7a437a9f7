"""Speed and peak memory of KAN layers on the CPU, next to the bare GEMM and to other layers.

    uv run benchmarks/layers.py                                # the B-spline layer in all shapes: some 6 minutes
    uv run benchmarks/layers.py --shapes 0 --repeats 30
    uv run benchmarks/layers.py --families                     # every registered layer at 256 -> 256
    uv run benchmarks/layers.py --families rbf gr-kan

A shape is (batch, in, out, G, k); P = G + k + 1 planes, the last one the SiLU base branch. All layers have the same
input, in float32, and every one is timed with the gradients of its input and of its parameters:

- gemm: A (batch, P in) @ W (P in, out) and both backward products, with A given: the same FLOPs, no basis at all
- KANLinear, and the same compiled: ours
- Cox-de Boor: a textbook layer, the recursion in plain autograd, basis index fastest (layout of efficient-kan)
- RBF: our KANLinear with as many Gaussians as the spline has functions
- Linear: `nn.Linear(in, P out)`: equal parameters (up to the bias) and FLOPs at the same batch, hence a wider output

With --families, every layer that `kan_core.layers.names()` lists, as its name alone makes it, is timed in alternation
with the GEMM of the floating-point operations of its own matrix products (batch, c) @ (c, out), where c is in x planes
for a basis, and with an `nn.Linear` of equal parameters. Layers with parameters inside every edge's function have no
matrix product; theirs is the GEMM (batch, in) @ (in, out).

Times are medians; ratios are medians of the ratios within one repetition. The share of the GEMM limit is the GEMM's
time of forward + backward over the layer's. Small shapes are repeated for a second at least. Memory is input +
parameters + the peak of what forward + backward allocates (see `_timing.peak_allocated`); for the GEMM, A is the input.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from _timing import alternate, forward_backward, machine, median_ratio, peak_allocated, write_json
from kan_core import KANLinear, layers
from kan_core.compare import count_parameters
from kan_core.ops import use_backend

SHAPES = [
    (2048, 256, 256, 5, 3),
    (4096, 1024, 1024, 5, 3),
    (65536, 64, 64, 5, 3),
    (2048, 256, 256, 20, 3),
    (1024, 784, 64, 5, 3),
    (1024, 64, 64, 5, 3),
    (100, 1000, 1000, 5, 3),
    (2048, 256, 256, 100, 3),
]
FAMILY_SHAPE = (2048, 256, 256)
RESULTS = Path(__file__).parent / "results"


class Gemm(nn.Module):
    """One matrix product with a parameter."""

    def __init__(self, columns: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(columns, outputs) / columns**0.5)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, columns) -> (batch, outputs)."""
        return x @ self.weight


class CoxDeBoorLinear(nn.Module):
    """The textbook layer: Cox-de Boor recursion over all knots, every intermediate kept by autograd."""

    def __init__(self, source: KANLinear, grid_size: int, order: int) -> None:
        super().__init__()
        self.order = order
        step = 2 / grid_size
        knots = torch.arange(-order, grid_size + order + 1) * step - 1
        self.register_buffer("knots", knots.expand(source.in_features, -1).contiguous())
        planes = source.weight.detach()
        self.spline_weight = nn.Parameter(planes[:-1].permute(2, 1, 0).flatten(1).contiguous())  # (out, in * K)
        self.base_weight = nn.Parameter(planes[-1].t().contiguous())
        self.bias = nn.Parameter(source.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in) -> (batch, out)."""
        t, x_ = self.knots, x.unsqueeze(-1)
        bases = ((x_ >= t[:, :-1]) & (x_ < t[:, 1:])).to(x.dtype)
        for p in range(1, self.order + 1):
            rising = (x_ - t[:, : -p - 1]) / (t[:, p:-1] - t[:, : -p - 1]) * bases[..., :-1]
            falling = (t[:, p + 1 :] - x_) / (t[:, p + 1 :] - t[:, 1:-p]) * bases[..., 1:]
            bases = rising + falling
        return F.linear(F.silu(x), self.base_weight, self.bias) + F.linear(bases.flatten(-2), self.spline_weight)


def contenders(shape: tuple[int, ...]) -> dict[str, tuple[Callable[[Tensor], Tensor], Tensor, Tensor]]:
    """Name -> (layer, input, gradient of the output)."""
    batch, d_in, d_out, grid_size, order = shape
    planes = grid_size + order + 1
    torch.manual_seed(0)
    x = (2 * torch.rand(batch, d_in) - 1).requires_grad_()
    grad = torch.randn(batch, d_out)
    kan = KANLinear(d_in, d_out, basis=f"bspline(grid_size={grid_size}, order={order})")
    textbook = CoxDeBoorLinear(kan, grid_size, order)
    with torch.no_grad():  # no speed claim without equality
        torch.testing.assert_close(kan(x[:64]), textbook(x[:64]), rtol=1e-4, atol=1e-5)
    expanded = torch.rand(batch, planes * d_in).requires_grad_()
    return {
        "gemm": (Gemm(planes * d_in, d_out), expanded, grad),
        "KANLinear": (kan, x, grad),
        "KANLinear compiled": (torch.compile(kan), x, grad),
        "Cox-de Boor": (textbook, x, grad),
        "RBF": (KANLinear(d_in, d_out, basis=f"rbf(num_centers={grid_size + order})"), x, grad),
        f"Linear({d_in}, {planes * d_out})": (nn.Linear(d_in, planes * d_out), x, torch.randn(batch, planes * d_out)),
    }


def measure(shape: tuple[int, ...], repeats: int) -> list[dict[str, Any]]:
    """One row per contender."""
    return measure_all(contenders(shape), repeats)


def measure_all(
    contenders: dict[str, tuple[Callable[[Tensor], Tensor], Tensor, Tensor]], repeats: int
) -> list[dict[str, Any]]:
    """One row per contender, with ratios to the one called "gemm"."""
    calls = {name: forward_backward(*arguments) for name, arguments in contenders.items()}
    times = alternate(calls, repeats, seconds=1.0)
    rows = []
    for name, (layer, x, _) in contenders.items():
        assert isinstance(layer, nn.Module)
        parameters = sum(p.nbytes for p in layer.parameters())
        for tensor in (x, *layer.parameters()):
            tensor.grad = None
        rows.append(
            {
                "layer": name,
                "forward_ms": 1e3 * statistics.median(f for f, _ in times[name]),
                "forward_backward_ms": 1e3 * statistics.median(t for _, t in times[name]),
                "forward_ratio": median_ratio(times[name], times["gemm"], 0),
                "forward_backward_ratio": median_ratio(times[name], times["gemm"], 1),
                "gemm_share": median_ratio(times["gemm"], times[name], 1),
                "fastest_forward_backward_ms": 1e3 * min(t for _, t in times[name]),
                "memory_mib": (x.nbytes + parameters + peak_allocated(calls[name])) / 2**20,
                "parameters": sum(p.numel() for p in layer.parameters()),
            }
        )
    return rows


def gemm_columns(layer: nn.Module, x: Tensor, outputs: int) -> int:
    """Columns c of the product (batch, c) @ (c, out) with the FLOPs of the layer's own matrix products."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), use_backend("reference"), counter:
        layer(x[:64].detach())
    return round(counter.get_total_flops() / (2 * 64 * outputs)) or x.shape[1]


def measure_family(name: str, repeats: int) -> dict[str, Any]:
    """The layer called `name`, beside the GEMM of its own shape and nn.Linear of its own parameters."""
    batch, d_in, d_out = FAMILY_SHAPE
    torch.manual_seed(0)
    layer = layers.get(name)(d_in, d_out)
    x = (2 * torch.rand(batch, d_in) - 1).requires_grad_()
    columns = gemm_columns(layer, x, d_out)
    wide = max(1, round(count_parameters(layer) / (d_in + 1)))
    rows = measure_all(
        {
            "gemm": (Gemm(columns, d_out), torch.rand(batch, columns).requires_grad_(), torch.randn(batch, d_out)),
            name: (layer, x, torch.randn(batch, d_out)),
            "linear": (nn.Linear(d_in, wide), x, torch.randn(batch, wide)),
        },
        repeats,
    )
    gemm, family, linear = rows
    return {
        **family,
        "gemm_columns": columns,
        "linear_outputs": wide,
        "memory_ratio": family["memory_mib"] / gemm["memory_mib"],
        "linear_forward_ratio": family["forward_ms"] / linear["forward_ms"],
        "linear_forward_backward_ratio": family["forward_backward_ms"] / linear["forward_backward_ms"],
        "linear_memory_ratio": family["memory_mib"] / linear["memory_mib"],
    }


def run_families(names: list[str], repeats: int, out: Path) -> None:
    print("batch {}, {} -> {}; ratios to the GEMM of the layer's own shape".format(*FAMILY_SHAPE), end="")
    print(", and to nn.Linear of as many parameters\n")
    print("layer".ljust(14) + "c/in  fwd ms  fwd+bwd   | gemm: fwd fwd+bwd memory | linear: fwd fwd+bwd memory")
    rows = []
    for name in names:
        row = measure_family(name, repeats)
        rows.append(row)
        print(
            f"{name:13}{row['gemm_columns'] / FAMILY_SHAPE[1]:5.2f}{row['forward_ms']:8.2f}"
            f"{row['forward_backward_ms']:9.2f}   |{row['forward_ratio']:10.2f}{row['forward_backward_ratio']:8.2f}"
            f"{row['memory_ratio']:7.2f} |{row['linear_forward_ratio']:12.2f}"
            f"{row['linear_forward_backward_ratio']:8.2f}{row['linear_memory_ratio']:7.2f}",
            flush=True,
        )
    shape = dict(zip(("batch", "in", "out"), FAMILY_SHAPE, strict=True))
    write_json(out, {"machine": machine(), "repeats": repeats, "shape": shape, "families": rows})
    print(f"\nwritten to {out}")


def show(shape: tuple[int, ...], rows: list[dict[str, Any]]) -> None:
    print(f"\nbatch {shape[0]}, {shape[1]} -> {shape[2]}, G {shape[3]}, k {shape[4]}")
    titles = ("fwd ms", "ratio", "fwd+bwd ms", "ratio", "of GEMM limit", "best ms", "memory MiB", "ratio")
    print("layer".ljust(24) + "".join(t.rjust(w) for t, w in zip(titles, (9, 8, 12, 8, 15, 9, 12, 8), strict=True)))
    for row in rows:
        print(
            f"{row['layer']:24}{row['forward_ms']:9.2f}{row['forward_ratio']:8.2f}{row['forward_backward_ms']:12.2f}"
            f"{row['forward_backward_ratio']:8.2f}{100 * row['gemm_share']:14.0f}%"
            f"{row['fastest_forward_backward_ms']:9.2f}{row['memory_mib']:12.1f}"
            f"{row['memory_mib'] / rows[0]['memory_mib']:8.2f}",
            flush=True,
        )
    ours, textbook = (next(row for row in rows if row["layer"] == name) for name in ("KANLinear", "Cox-de Boor"))
    print(f"Cox-de Boor / KANLinear, fwd+bwd: {textbook['forward_backward_ms'] / ours['forward_backward_ms']:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    listing = ", ".join(f"{i}: {shape}" for i, shape in enumerate(SHAPES))
    parser.add_argument(
        "--shapes", type=int, nargs="+", choices=range(len(SHAPES)), default=list(range(len(SHAPES))), help=listing
    )
    parser.add_argument("--repeats", type=int, default=10, help="repetitions of every contender (default: 10)")
    parser.add_argument(
        "--families", nargs="*", metavar="NAME", help="measure these registered layers, or all without a name"
    )
    parser.add_argument("--out", type=Path, help="result file (default: benchmarks/results/...-cpu.json)")
    arguments = parser.parse_args()
    if arguments.families is not None:
        names = arguments.families or [name for name in layers.names() if name != "linear"]
        run_families(names, arguments.repeats, arguments.out or RESULTS / "layers-families-cpu.json")
        return
    out = arguments.out or RESULTS / "layers-cpu.json"
    results = []
    for index in arguments.shapes:
        rows = measure(SHAPES[index], arguments.repeats)
        show(SHAPES[index], rows)
        shape = dict(zip(("batch", "in", "out", "grid_size", "order"), SHAPES[index], strict=True))
        results.append({"shape": shape, "layers": rows})
    fine, coarse = (
        next((r["layers"][1]["forward_ms"] for r in results if tuple(r["shape"].values()) == shape), None)
        for shape in ((2048, 256, 256, 100, 3), (2048, 256, 256, 5, 3))
    )
    if fine and coarse:
        print(f"\nforward of KANLinear at G = 100 / at G = 5: {fine / coarse:.2f}")
    write_json(out, {"machine": machine(), "repeats": arguments.repeats, "results": results})
    print(f"\nwritten to {out}")


if __name__ == "__main__":
    main()
