"""Peak memory and step time of KArAt's learned attention on the CPU, next to softmax attention.

    uv run benchmarks/karat_memory.py
    uv run benchmarks/karat_memory.py --batch 8 --repeats 30

Layers of ViT-Tiny at 224 px in float32: 197 tokens of width 192, 3 heads, three harmonics and rank 12; alone
("attention") and in a transformer block with norms and MLP ("block"). All contenders have the same input and upstream
gradient; forward + backward has the gradients of the input and of the parameters:

- softmax, fused: timm's Attention with `scaled_dot_product_attention`, timm's default
- softmax: the same with the map of every head written out
- KArAt: ours, which computes the scores again in the backward pass
- KArAt by definition: the same under ``use_backend("reference")``; autograd keeps every harmonic

Times are medians; ratios are medians of the ratios within one repetition, to both forms of softmax. Memory is the peak
of what forward + backward allocates (`_timing.peak_allocated`), with the gradients and without the input and the
parameters.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import torch
from timm.layers import Attention
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from _timing import alternate, forward_backward, machine, median_ratio, peak_allocated, write_json
from kan_core.ops import use_backend
from kan_vision.layers.fourier_attention import KArAtAttention

TOKENS, WIDTH, HEADS = 197, 192, 3
LEARNED = KArAtAttention.with_options(tokens=TOKENS)
RESULTS = Path(__file__).parent / "results"


class ByDefinition(nn.Module):
    """A module in which autograd follows the definitions of the ops."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        """As the module."""
        with use_backend("reference"):
            y: Tensor = self.module(x)
        return y


def contenders(part: str) -> dict[str, nn.Module]:
    """Name -> module, for "attention" or "block"."""

    def make(attention: type[nn.Module]) -> nn.Module:
        if part == "attention":
            return attention(WIDTH, num_heads=HEADS, qkv_bias=True)
        return Block(WIDTH, HEADS, qkv_bias=True, attn_layer=attention)

    plain, fused, learned = make(Attention), make(Attention), make(LEARNED)
    for module, value in ((plain, False), (fused, True)):
        for attention in (m for m in module.modules() if isinstance(m, Attention)):
            attention.fused_attn = value
    return {
        "softmax, fused": fused,
        "softmax": plain,
        "KArAt": learned,
        "KArAt by definition": ByDefinition(learned),
    }


def measure(part: str, batch: int, repeats: int) -> list[dict[str, Any]]:
    """One row per contender."""
    torch.manual_seed(0)
    x, grad = torch.randn(batch, TOKENS, WIDTH, requires_grad=True), torch.randn(batch, TOKENS, WIDTH)
    modules = contenders(part)
    with torch.no_grad():  # no claim without equality
        torch.testing.assert_close(modules["KArAt"](x), modules["KArAt by definition"](x), rtol=1e-4, atol=1e-4)
    calls = {name: forward_backward(module, x, grad) for name, module in modules.items()}
    times = alternate(calls, repeats)
    peaks = {}
    for name in modules:
        for tensor in (x, *(p for module in modules.values() for p in module.parameters())):
            tensor.grad = None
        peaks[name] = peak_allocated(calls[name])
    return [
        {
            "contender": name,
            "forward_ms": 1e3 * statistics.median(f for f, _ in times[name]),
            "forward_backward_ms": 1e3 * statistics.median(t for _, t in times[name]),
            "fused_forward_ratio": median_ratio(times[name], times["softmax, fused"], 0),
            "fused_forward_backward_ratio": median_ratio(times[name], times["softmax, fused"], 1),
            "forward_backward_ratio": median_ratio(times[name], times["softmax"], 1),
            "fastest_forward_backward_ms": 1e3 * min(t for _, t in times[name]),
            "memory_mib": peaks[name] / 2**20,
            "fused_memory_ratio": peaks[name] / peaks["softmax, fused"],
            "memory_ratio": peaks[name] / peaks["softmax"],
            "parameters": sum(p.numel() for p in modules[name].parameters()),
        }
        for name in modules
    ]


def show(part: str, rows: list[dict[str, Any]]) -> None:
    print(f"\n{part}; ratios to fused softmax, of forward + backward and memory also to softmax written out")
    titles = ("fwd ms", "ratio", "fwd+bwd ms", "ratio", "plain", "best ms", "memory MiB", "ratio", "plain")
    widths = (9, 8, 12, 8, 8, 9, 12, 8, 8)
    print("contender".ljust(20) + "".join(t.rjust(w) for t, w in zip(titles, widths, strict=True)))
    for row in rows:
        print(
            f"{row['contender']:20}{row['forward_ms']:9.1f}{row['fused_forward_ratio']:8.2f}"
            f"{row['forward_backward_ms']:12.1f}{row['fused_forward_backward_ratio']:8.2f}"
            f"{row['forward_backward_ratio']:8.2f}{row['fastest_forward_backward_ms']:9.1f}{row['memory_mib']:12.1f}"
            f"{row['fused_memory_ratio']:8.2f}{row['memory_ratio']:8.2f}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32, help="images (default: 32)")
    parser.add_argument("--repeats", type=int, default=10, help="repetitions of every contender (default: 10)")
    parser.add_argument("--out", type=Path, default=RESULTS / "karat-memory-cpu.json", help="result file")
    arguments = parser.parse_args()
    results = []
    for part in ("attention", "block"):
        rows = measure(part, arguments.batch, arguments.repeats)
        show(part, rows)
        results.append({"part": part, "contenders": rows})
    shape = {"batch": arguments.batch, "tokens": TOKENS, "width": WIDTH, "heads": HEADS}
    write_json(arguments.out, {"machine": machine(), "repeats": arguments.repeats, "shape": shape, "results": results})
    print(f"\nwritten to {arguments.out}")


if __name__ == "__main__":
    main()
