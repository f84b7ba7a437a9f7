"""Speed and peak memory of DARUAN layers (QKAN): frozen and trainable circuits, next to their simulation and a GEMM.

    uv run benchmarks/daruan.py
    uv run benchmarks/daruan.py --shapes 1 2 --repeats 10
    uv run benchmarks/daruan.py --device cuda

r = 3, "pz", exact read-out, float32, a SiLU branch in every layer. All contenders have the same input and upstream
gradient; forward + backward has the gradients of the input and of all parameters:

- gemm: the matrix product of the dense form alone, (batch, in 2r + in) by (in 2r + in, out), gradients of both
- frozen: the default layer (w = 1): coefficients from the angles, features cos nx, sin nx, SiLU, one matrix product
- frozen simulated: the same layer, every edge's circuit in eager torch, in pieces of bounded memory (`EdgeLinear`)
- trainable fused: w and b learned; sums over the inputs in the kernel (backend "native", on a GPU "triton")
- trainable reference: the same layer, simulated in eager torch as above

Times are medians, and ratios those of the medians: the simulations take up to a minute, so they run once in every
`--every` repetitions of the others. Memory is the peak of what forward + backward allocates
(`_timing.peak_allocated`), in MiB; the values of all edges at all rows alone would be batch x in x out numbers. No
speed claim without equality: outputs and gradients are compared first.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from _timing import alternate, forward_backward, machine, peak_allocated, write_json
from kan_core.layers import QKANLinear
from kan_core.layers._edges import EdgeLinear

SHAPES = [(2048, 256, 256), (256, 64, 64), (331, 97, 55)]
REPS = 3
RESULTS = Path(__file__).parent / "results"
SIMULATIONS = {"frozen": "frozen simulated", "trainable fused": "trainable reference"}


class Gemm(nn.Module):
    """The matrix product of the dense form: as many features per input as it has, made beforehand."""

    def __init__(self, x: Tensor, outputs: int) -> None:
        super().__init__()
        self.features = nn.Parameter(torch.randn(len(x), (2 * REPS + 1) * x.shape[1], device=x.device))
        self.weight = nn.Parameter(torch.randn(self.features.shape[1], outputs, device=x.device))

    def forward(self, x: Tensor) -> Tensor:
        """Whatever `x` is: ``(batch, out)``."""
        return self.features @ self.weight


class Simulated(nn.Module):
    """A layer's edges, simulated one by one in eager torch, whatever faster form the layer has."""

    def __init__(self, layer: QKANLinear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, in)`` to ``(batch, out)``."""
        return EdgeLinear.forward(self.layer, x)


def contenders(x: Tensor, outputs: int) -> dict[str, nn.Module]:
    sizes: dict[str, Any] = {"reps": REPS, "device": x.device}
    frozen = QKANLinear(x.shape[1], outputs, **sizes)
    fused = "triton" if x.is_cuda else "native"
    trainable = QKANLinear(x.shape[1], outputs, trainable_frequencies=True, backend=fused, **sizes)
    with torch.no_grad():
        for parameter in (frozen.theta, trainable.theta, trainable.frequency, trainable.phase):
            parameter += torch.randn_like(parameter)
    return {
        "gemm": Gemm(x, outputs),
        "frozen": frozen,
        "frozen simulated": Simulated(frozen),
        "trainable fused": trainable,
        "trainable reference": Simulated(trainable),
    }


def check(models: dict[str, nn.Module], x: Tensor) -> None:
    """Outputs and gradients of the fast forms are those of the simulations."""
    for fast, slow in SIMULATIONS.items():
        results = []
        for name in (fast, slow):
            rows = x[:16].detach().requires_grad_()
            y = models[name](rows)
            results.append([y, *torch.autograd.grad(y.sum(), [rows, *models[name].parameters()])])
        for got, want in zip(*results, strict=True):
            assert (got - want).norm() <= 1e-5 * want.norm(), fast


def measure(shape: tuple[int, int, int], device: str, repeats: int, every: int) -> dict[str, dict[str, float]]:
    """Times in ms, peak memory and ratios, by contender."""
    batch, features, outputs = shape
    torch.manual_seed(0)
    x = torch.randn(batch, features, device=device, requires_grad=True)
    grad = torch.randn(batch, outputs, device=device)
    models = contenders(x, outputs)
    check(models, x)
    calls = {name: forward_backward(model, x, grad) for name, model in models.items()}
    quick = {name: call for name, call in calls.items() if name not in SIMULATIONS.values()}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for _ in range(-(-repeats // every)):
        for name, values in alternate(quick, every).items():
            times[name] += values
        for name in SIMULATIONS.values():  # warmed up by the check
            times[name].append(calls[name]())
    rows: dict[str, dict[str, float]] = {}
    for name, call in calls.items():
        for tensor in (x, *models[name].parameters()):
            tensor.grad = None
        forward, both = (statistics.median(t[which] for t in times[name]) for which in (0, 1))
        rows[name] = {
            "forward_ms": 1e3 * forward,
            "forward_backward_ms": 1e3 * both,
            "fastest_forward_ms": 1e3 * min(f for f, _ in times[name]),
            "fastest_forward_backward_ms": 1e3 * min(t for _, t in times[name]),
            "peak_mib": peak_allocated(call, device) / 2**20,
        }
    for name, simulation in SIMULATIONS.items():
        for which in ("forward", "forward_backward"):
            own, gemm, slow = (rows[n][f"{which}_ms"] for n in (name, "gemm", simulation))
            rows[name] |= {f"{which}_times_gemm": own / gemm, f"{which}_faster_than_simulation": slow / own}
    return rows


def show(shape: tuple[int, ...], rows: dict[str, dict[str, float]]) -> None:
    print(f"\n{shape[0]} x ({shape[1]} -> {shape[2]}), r = {REPS}")
    titles = {
        "forward_ms": "fwd ms",
        "forward_backward_ms": "fwd+bwd ms",
        "peak_mib": "peak MiB",
        "forward_times_gemm": "fwd / gemm",
        "forward_backward_times_gemm": "f+b / gemm",
        "forward_faster_than_simulation": "fwd faster",
        "forward_backward_faster_than_simulation": "f+b faster",
    }
    print("contender".ljust(20) + "".join(title.rjust(12) for title in titles.values()))
    for name, row in rows.items():
        values = (f"{row[key]:12.2f}" if key in row else " " * 12 for key in titles)
        print(name.ljust(20) + "".join(values), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    listing = ", ".join(f"{i}: {shape}" for i, shape in enumerate(SHAPES))
    parser.add_argument(
        "--shapes", type=int, nargs="+", choices=range(len(SHAPES)), default=list(range(len(SHAPES))), help=listing
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to run (default: cpu)")
    parser.add_argument("--repeats", type=int, default=6, help="repetitions of every quick contender (default: 6)")
    parser.add_argument("--every", type=int, default=3, help="of them, per repetition of a simulation (default: 3)")
    parser.add_argument("--out", type=Path, help="result file (default: results/daruan-DEVICE.json beside this file)")
    arguments = parser.parse_args()
    out = arguments.out or RESULTS / f"daruan-{arguments.device}.json"
    results = []
    for index in arguments.shapes:
        rows = measure(SHAPES[index], arguments.device, arguments.repeats, arguments.every)
        show(SHAPES[index], rows)
        results.append({"shape": SHAPES[index], "reps": REPS, "contenders": rows})
    settings = {"repeats": arguments.repeats, "every": arguments.every}
    write_json(out, {"machine": machine(arguments.device), **settings, "results": results})
    print(f"\nwritten to {out}")


if __name__ == "__main__":
    main()
