"""Time and memory of one training step of U-KAN on the CPU, next to its twins.

    uv run benchmarks/ukan.py
    uv run benchmarks/ukan.py --models ukan_small --repeats 30

A step is forward, binary cross-entropy, backward and an SGD update of every parameter, in float32, on eight crops of
128 x 128 pixels with three channels. The contenders are one code with other layers in the token stages:

- kan: KAN layers on tokens, and depthwise convolutions
- mlp: linear layers in place of the KAN layers, nothing else changed
- conv: 3 x 3 convolutions in place of both, nothing else changed
- mlp, equal size and conv, equal size: the same, as wide as it takes to have the parameters of "kan"

Times are medians; ratios to "mlp" are medians of the ratios within one repetition. Memory is the peak of what a step
allocates (`_timing.peak_allocated`), gradients included. The aim is a step of at most 1.5 times that of "mlp".
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from _timing import Call, alternate, machine, median_ratio, peak_allocated, write_json
from kan_core.compare import count_parameters, match_width
from kan_vision.models import create_segmenter

MODELS = ["ukan_small", "ukan_base"]
BATCH, SIZE = 8, 128
TWINS: dict[str, dict[str, Any]] = {"mlp": {"layer": "linear"}, "conv": {"mixer": "conv"}}
RESULTS = Path(__file__).parent / "results"


def equal_width(model: str, twin: dict[str, Any]) -> float:
    """The width at which the twin has the parameters of the U-KAN."""
    with torch.device("meta"):
        target = count_parameters(create_segmenter(model))
        return match_width(lambda width: create_segmenter(model, width=width, **twin), target).width


def contenders(model: str) -> dict[str, dict[str, Any]]:
    """Arguments of each net, by name."""
    wider = {f"{name}, equal size": {**twin, "width": equal_width(model, twin)} for name, twin in TWINS.items()}
    return {"kan": {}, **TWINS, **wider}


def training_step(net: nn.Module, x: Tensor, mask: Tensor) -> Call:
    """A call for `alternate`: seconds of the forward pass, and of the whole step."""
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)

    def step() -> tuple[float, float]:
        optimizer.zero_grad()
        start = time.perf_counter()
        loss = F.binary_cross_entropy_with_logits(net(x), mask)
        middle = time.perf_counter()
        loss.backward()
        optimizer.step()
        return middle - start, time.perf_counter() - start

    return step


def measure(model: str, repeats: int) -> list[dict[str, Any]]:
    """One row per contender."""
    torch.manual_seed(0)
    x, mask = torch.randn(BATCH, 3, SIZE, SIZE), torch.randint(0, 2, (BATCH, 1, SIZE, SIZE)).float()
    nets = {name: create_segmenter(model, **kwargs) for name, kwargs in contenders(model).items()}
    calls = {name: training_step(net, x, mask) for name, net in nets.items()}
    times = alternate(calls, repeats)
    rows = []
    for name, net in nets.items():
        net.zero_grad()
        rows.append(
            {
                "contender": name,
                "parameters": count_parameters(net),
                "forward_ms": 1e3 * statistics.median(f for f, _ in times[name]),
                "step_ms": 1e3 * statistics.median(t for _, t in times[name]),
                "forward_ratio": median_ratio(times[name], times["mlp"], 0),
                "step_ratio": median_ratio(times[name], times["mlp"], 1),
                "fastest_step_ms": 1e3 * min(t for _, t in times[name]),
                "memory_mib": peak_allocated(calls[name]) / 2**20,
            }
        )
    return rows


def show(model: str, rows: list[dict[str, Any]]) -> None:
    print(f"\n{model}, {BATCH} crops of {SIZE} x {SIZE} pixels, ratios to mlp")
    titles = ("parameters", "fwd ms", "ratio", "step ms", "ratio", "best ms", "memory MiB")
    widths = (12, 10, 8, 10, 8, 10, 12)
    print("contender".ljust(18) + "".join(t.rjust(w) for t, w in zip(titles, widths, strict=True)))
    for row in rows:
        print(
            f"{row['contender']:18}{row['parameters']:12,}{row['forward_ms']:10.1f}{row['forward_ratio']:8.2f}"
            f"{row['step_ms']:10.1f}{row['step_ratio']:8.2f}{row['fastest_step_ms']:10.1f}{row['memory_mib']:12.1f}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--models", nargs="+", choices=[*MODELS, "ukan_large"], default=MODELS, help="default: %(default)s"
    )
    parser.add_argument("--repeats", type=int, default=10, help="repetitions of every contender (default: 10)")
    parser.add_argument("--out", type=Path, default=RESULTS / "ukan-cpu.json", help="result file")
    arguments = parser.parse_args()
    results = []
    for model in arguments.models:
        rows = measure(model, arguments.repeats)
        show(model, rows)
        results.append({"model": model, "batch": BATCH, "size": SIZE, "contenders": rows})
    write_json(arguments.out, {"machine": machine(), "repeats": arguments.repeats, "results": results})
    print(f"\nwritten to {arguments.out}")


if __name__ == "__main__":
    main()
