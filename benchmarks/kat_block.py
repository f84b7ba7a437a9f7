"""Step time and memory of one KAT-tiny block on the CPU, next to the same block of a ViT.

    uv run benchmarks/kat_block.py
    uv run benchmarks/kat_block.py --batches 8 --repeats 30

A step is forward + backward with the gradients of the input and of every parameter, in float32, on 197 tokens of width
192 (a 224 x 224 image). All blocks have the same attention, norms and matrices (the same weights), and differ in what
stands before the two matrices of the feed-forward part:

- vit: timm's block, nothing and GELU
- kat: two group-rational functions, the backend of "auto"
- kat reference: the same in eager autograd, the definition

Times are medians, ratios are medians of the ratios within one repetition. Memory is the peak of what forward + backward
allocates (`_timing.peak_allocated`). The aim is a step of at most 1.5 times the ViT's.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from _timing import alternate, forward_backward, machine, median_ratio, peak_allocated, write_json
from kan_vision.models.kat import checkpoint_filter_fn

TOKENS, WIDTH = 197, 192
RESULTS = Path(__file__).parent / "results"


def blocks() -> dict[str, nn.Module]:
    """One block per contender, in training mode, with the weights of one ViT."""
    torch.manual_seed(0)
    vit = timm.create_model("vit_tiny_patch16_224", depth=1)
    found = {"vit": vit.blocks[0]}
    for name, backend in (("kat", "auto"), ("kat reference", "reference")):
        kat = timm.create_model("kat_tiny_patch16_224", depth=1, layer_kwargs={"backend": backend})
        kat.load_state_dict(checkpoint_filter_fn(vit.state_dict(), kat))
        found[name] = kat.blocks[0]
    return found


def measure(batch: int, repeats: int) -> list[dict[str, Any]]:
    """One row per contender."""
    torch.manual_seed(0)
    x, grad = torch.randn(batch, TOKENS, WIDTH, requires_grad=True), torch.randn(batch, TOKENS, WIDTH)
    contenders = blocks()
    with torch.no_grad():  # no speed claim without equality
        torch.testing.assert_close(contenders["kat"](x), contenders["kat reference"](x))
    calls = {name: forward_backward(block, x, grad) for name, block in contenders.items()}
    times = alternate(calls, repeats)
    rows = []
    for name, block in contenders.items():
        for tensor in (x, *block.parameters()):
            tensor.grad = None
        rows.append(
            {
                "contender": name,
                "parameters": sum(p.numel() for p in block.parameters()),
                "forward_ms": 1e3 * statistics.median(f for f, _ in times[name]),
                "forward_backward_ms": 1e3 * statistics.median(t for _, t in times[name]),
                "forward_ratio": median_ratio(times[name], times["vit"], 0),
                "forward_backward_ratio": median_ratio(times[name], times["vit"], 1),
                "fastest_forward_backward_ms": 1e3 * min(t for _, t in times[name]),
                "memory_mib": peak_allocated(calls[name]) / 2**20,
            }
        )
    return rows


def show(batch: int, rows: list[dict[str, Any]]) -> None:
    print(f"\nbatch {batch}, {TOKENS} tokens of width {WIDTH}, ratios to the ViT's block")
    titles = ("parameters", "fwd ms", "ratio", "step ms", "ratio", "best ms", "memory MiB")
    widths = (12, 10, 8, 10, 8, 10, 12)
    print("contender".ljust(15) + "".join(t.rjust(w) for t, w in zip(titles, widths, strict=True)))
    for row in rows:
        print(
            f"{row['contender']:15}{row['parameters']:12,}{row['forward_ms']:10.2f}{row['forward_ratio']:8.2f}"
            f"{row['forward_backward_ms']:10.2f}{row['forward_backward_ratio']:8.2f}"
            f"{row['fastest_forward_backward_ms']:10.2f}{row['memory_mib']:12.1f}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 32], help="batch sizes (default: 8 32)")
    parser.add_argument("--repeats", type=int, default=20, help="repetitions of every contender (default: 20)")
    parser.add_argument("--out", type=Path, default=RESULTS / "kat-block-cpu.json", help="result file")
    arguments = parser.parse_args()
    results = []
    for batch in arguments.batches:
        rows = measure(batch, arguments.repeats)
        show(batch, rows)
        results.append({"batch": batch, "tokens": TOKENS, "width": WIDTH, "contenders": rows})
    write_json(arguments.out, {"machine": machine(), "repeats": arguments.repeats, "results": results})
    print(f"\nwritten to {arguments.out}")


if __name__ == "__main__":
    main()
