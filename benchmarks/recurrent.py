"""Time of one training step of recurrent layers on the CPU: TKAN beside torch's LSTM and GRU.

    uv run benchmarks/recurrent.py
    uv run benchmarks/recurrent.py --threads 1 --repeats 30

Forward and backward over (batch 128, T 45, 19 inputs), 100 units, float32, all outputs returned, with the gradients of
the input and of all parameters. All contenders run once in every repetition, after a warm-up:

- LSTM, GRU: torch.nn.LSTM and torch.nn.GRU
- TKAN: ours, one cubic sub-layer of width 19
- TKAN 0-4: ours, five sub-layers of orders 0 to 4, the paper's bank
- TKAN by steps: the first TKAN with its cell called step by step, under plain autograd; it has the same weights, and
  outputs and gradients must agree before anything is timed

Times are medians; ratios are medians of the ratios to the LSTM within one repetition. The aim: TKAN takes at most 3
times as long as the LSTM.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from _timing import alternate, forward_backward, machine, median_ratio, peak_allocated, write_json
from kan_core.compare import count_parameters
from kan_timeseries.layers import TKAN

SHAPE = {"batch": 128, "steps": 45, "inputs": 19, "units": 100}
AIM = 3.0
RESULTS = Path(__file__).parent / "results"


class Outputs(nn.Module):
    """A layer of torch.nn without the state that it returns."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, steps, inputs) -> (batch, steps, units)``."""
        y: Tensor = self.layer(x)[0]
        return y


class BySteps(nn.Module):
    """The cell of a TKAN from step to step."""

    def __init__(self, layer: TKAN) -> None:
        super().__init__()
        (self.cell,) = layer.cells

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, steps, inputs) -> (batch, steps, units)``."""
        outputs, state = [], None
        for step in x.unbind(1):
            h, state = self.cell(step, state)
            outputs.append(h)
        return torch.stack(outputs, dim=1)


def contenders(inputs: int, units: int) -> dict[str, nn.Module]:
    """The layers; the first TKAN and the one by steps share their weights."""
    torch.manual_seed(0)
    tkan = TKAN(inputs, units)
    return {
        "LSTM": Outputs(nn.LSTM(inputs, units, batch_first=True)),
        "GRU": Outputs(nn.GRU(inputs, units, batch_first=True)),
        "TKAN": tkan,
        "TKAN 0-4": TKAN(inputs, units, sub_layers=range(5)),
        "TKAN by steps": BySteps(tkan),
    }


def check_equal(layer: nn.Module, other: nn.Module, x: Tensor, grad: Tensor) -> None:
    """No speed claim without equality.

    Raises:
        AssertionError: When outputs or gradients of the two differ, which have parameters in common.
    """
    results = []
    for module in (layer, other):
        y = module(x)
        results.append((y, *torch.autograd.grad(y, (x, *module.parameters()), grad)))
    for found, expected in zip(*results, strict=True):
        atol = 1e-4 * expected.detach().abs().max().item()
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=atol)


def measure(repeats: int, batch: int, steps: int, inputs: int, units: int) -> list[dict[str, Any]]:
    """One row per contender, with this process's number of threads."""
    layers = contenders(inputs, units)
    x, grad = torch.randn(batch, steps, inputs).requires_grad_(), torch.randn(batch, steps, units)
    check_equal(layers["TKAN"], layers["TKAN by steps"], x, grad)
    calls = {name: forward_backward(layer, x, grad) for name, layer in layers.items()}
    times = alternate(calls, repeats)
    rows = []
    for name, layer in layers.items():
        for tensor in (x, *layer.parameters()):
            tensor.grad = None
        rows.append(
            {
                "layer": name,
                "threads": torch.get_num_threads(),
                "parameters": count_parameters(layer),
                "forward_ms": 1e3 * statistics.median(f for f, _ in times[name]),
                "forward_backward_ms": 1e3 * statistics.median(t for _, t in times[name]),
                "fastest_forward_backward_ms": 1e3 * min(t for _, t in times[name]),
                "forward_ratio": median_ratio(times[name], times["LSTM"], 0),
                "forward_backward_ratio": median_ratio(times[name], times["LSTM"], 1),
                "peak_mib": peak_allocated(calls[name]) / 2**20,
            }
        )
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    titles = ("parameters", "fwd ms", "fwd+bwd ms", "best ms", "fwd/LSTM", "fwd+bwd/LSTM", "peak MiB")
    print(f"\n{rows[0]['threads']} threads".ljust(16) + "".join(title.rjust(14) for title in titles))
    for row in rows:
        print(
            f"{row['layer']:15}{row['parameters']:14}{row['forward_ms']:14.1f}{row['forward_backward_ms']:14.1f}"
            f"{row['fastest_forward_backward_ms']:14.1f}{row['forward_ratio']:14.2f}"
            f"{row['forward_backward_ratio']:14.2f}{row['peak_mib']:14.1f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="numbers of threads (default: 1 2)")
    parser.add_argument("--repeats", type=int, default=20, help="repetitions of every contender (default: 20)")
    parser.add_argument("--out", type=Path, default=RESULTS / "recurrent.json", help="result file")
    arguments = parser.parse_args()
    rows = []
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        rows += measure(arguments.repeats, **SHAPE)
        show(rows[-5:])
    worst = max(row["forward_backward_ratio"] for row in rows if row["layer"] == "TKAN")
    print(f"\nTKAN takes {worst:.2f} times as long as the LSTM at most; the aim is {AIM:g}")
    write_json(arguments.out, {"machine": machine(), "repeats": arguments.repeats, "shape": SHAPE, "rows": rows})
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
