"""Time and memory of one pass forward and backward through AASIST3's head on the CPU, next to a plain evaluation.

    uv run benchmarks/audio_head.py
    uv run benchmarks/audio_head.py --repeats 3 --batch 1

The head is everything behind the speech encoder: 6 183 188 parameters, input (batch, 201, 1024) float32, in training
mode with dropout. All contenders have the same weights:

- ours: fused splines, attention over the N (N + 1) / 2 symmetric pairs of nodes
- ours, checkpoint: the same, with the maps of pairs computed again in the backward pass
- dense: all N² pairs, and every KAN layer by the Cox-de Boor recursion over tensors (rows, in, functions) in ordinary
  torch, which autograd keeps

Times are medians; ratios are medians of the ratios within one repetition. Memory is what the process's peak resident
set rises by during one forward + backward, gradients included, each contender in a process of its own; beside it, the
peak of what torch allocates (`_timing.peak_allocated`). The aim: at least 8 times the speed of dense, at most a quarter
of its memory, and outputs within 1e-5.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from _timing import alternate, forward_backward, machine, median_ratio, peak_allocated, write_json
from kan_audio.layers.graph import GraphAttention, HeterogeneousGraphAttention
from kan_audio.models.aasist3 import AASIST3Head
from kan_core import KANLinear
from kan_core.compare import count_parameters

FEATURES, FRAMES = 1024, 201
NAMES = ("ours", "ours, checkpoint", "dense")
SPLINES = 0.1  # deviation of the spline part of an output: at the default of 0.001 a wrong spline would hardly show
RESULTS = Path(__file__).parent / "results"


class DenseKAN(nn.Module):
    """A KAN layer with the weights of `layer`, evaluated by the textbook."""

    def __init__(self, layer: KANLinear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """``(..., in) -> (..., out)``."""
        layer, basis = self.layer, self.layer.basis
        rows = x.reshape(-1, layer.in_features)
        functions = cox_de_boor(rows, basis.knots, basis.order)  # (rows, in, K)
        spline = layer.weight[:-1] * layer.scale
        y = functions.flatten(1) @ spline.transpose(0, 1).flatten(0, 1) + layer._base(rows) @ layer.weight[-1]
        return y.view(*x.shape[:-1], -1)


def cox_de_boor(x: Tensor, knots: Tensor, order: int) -> Tensor:
    """All B-splines of x (rows, in) on knots (in, n): (rows, in, n - 1 - order)."""
    x = x[..., None]
    values = ((x >= knots[:, :-1]) & (x < knots[:, 1:])).to(x.dtype)
    for k in range(1, order + 1):
        left = (x - knots[:, : -k - 1]) / (knots[:, k:-1] - knots[:, : -k - 1])
        right = (knots[:, k + 1 :] - x) / (knots[:, k + 1 :] - knots[:, 1:-k])
        values = left * values[..., :-1] + right * values[..., 1:]
    return values


def all_pairs(module: GraphAttention, x: Tensor) -> Tensor:
    """The logits of all N² ordered pairs."""
    projected = torch.tanh(module.attention(x[:, :, None] * x[:, None]))
    return (projected @ module.attention_weight).squeeze(3)


def all_pairs_of_two_kinds(module: HeterogeneousGraphAttention, x: Tensor, n1: int) -> Tensor:
    """The same with a vector for each of the four blocks."""
    projected = torch.tanh(module.attention(x[:, :, None] * x[:, None]))
    weights = (module.attention_weight_first, module.attention_weight_across, module.attention_weight_second)
    first, across, second = ((projected @ weight).squeeze(3) for weight in weights)
    above = torch.cat([first[:, :n1, :n1], across[:, :n1, n1:]], dim=2)
    below = torch.cat([across[:, n1:, :n1], second[:, n1:, n1:]], dim=2)
    return torch.cat([above, below], dim=1)


def make(name: str) -> AASIST3Head:
    """A contender; the same weights for every name."""
    torch.manual_seed(0)
    head = AASIST3Head(FEATURES, FRAMES, checkpoint=name == "ours, checkpoint")
    for layer in (m for m in head.modules() if isinstance(m, KANLinear)):
        layer.init_scale = SPLINES
        layer.reset_parameters()
    return dense(head) if name == "dense" else head


def dense(head: AASIST3Head) -> AASIST3Head:
    """The same head, evaluated as the definitions say."""
    head = copy.deepcopy(head)
    for parent in list(head.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, KANLinear):
                setattr(parent, name, DenseKAN(child))
    for module in head.modules():
        if isinstance(module, GraphAttention):
            module.pair_logits = partial(all_pairs, module)  # type: ignore[method-assign]
        elif isinstance(module, HeterogeneousGraphAttention):
            module.pair_logits = partial(all_pairs_of_two_kinds, module)  # type: ignore[method-assign]
    return head


def example(batch: int) -> tuple[Tensor, Tensor]:
    """Input, which wants a gradient as a speech encoder would, and the gradient of the logits."""
    torch.manual_seed(1)
    return torch.randn(batch, FRAMES, FEATURES, requires_grad=True), torch.randn(batch, 2)


def resident(field: str) -> int:
    """Bytes of this process that Linux reports under `field`: VmRSS now, VmHWM at the highest."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])


def report_memory(name: str, batch: int) -> None:
    """Print by how many bytes the peak resident set rises in one step; for a process of its own."""
    head = make(name)
    x, grad = example(batch)
    with torch.no_grad():
        make("ours").eval()(x[:1])  # loads libraries and compiled kernels
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = resident("VmRSS")
    forward_backward(head, x, grad)()
    print(resident("VmHWM") - before)


def peak_resident(name: str, batch: int) -> int:
    """What `report_memory` prints in a fresh process."""
    command = [sys.executable, __file__, "--memory-of", name, "--batch", str(batch)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def measure(batch: int, repeats: int) -> list[dict[str, Any]]:
    """One row per contender."""
    x, grad = example(batch)
    heads = {name: make(name) for name in NAMES}
    with torch.no_grad():
        outputs = {name: head.eval()(x) for name, head in heads.items()}
    for name in NAMES:  # no claim without equality
        torch.testing.assert_close(outputs[name], outputs["dense"], rtol=0, atol=1e-5)
    for head in heads.values():
        head.train()
    calls = {name: forward_backward(head, x, grad) for name, head in heads.items()}
    times = alternate(calls, repeats)
    rows = []
    for name, head in heads.items():
        for tensor in (x, *head.parameters()):
            tensor.grad = None
        rows.append(
            {
                "contender": name,
                "parameters": count_parameters(head, trainable_only=False),
                "forward_ms": 1e3 * statistics.median(f for f, _ in times[name]),
                "forward_backward_ms": 1e3 * statistics.median(t for _, t in times[name]),
                "dense_over_this": median_ratio(times["dense"], times[name], 1),
                "fastest_forward_backward_ms": 1e3 * min(t for _, t in times[name]),
                "resident_mib": peak_resident(name, batch) / 2**20,
                "allocated_mib": peak_allocated(calls[name]) / 2**20,
                "largest_difference": (outputs[name] - outputs["dense"]).abs().max().item(),
            }
        )
    for row in rows:
        row["memory_ratio"] = row["resident_mib"] / rows[-1]["resident_mib"]
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    titles = ("fwd ms", "fwd+bwd ms", "speed-up", "best ms", "RSS MiB", "ratio", "alloc. MiB", "difference")
    widths = (10, 12, 10, 10, 10, 8, 12, 12)
    print("contender".ljust(18) + "".join(t.rjust(w) for t, w in zip(titles, widths, strict=True)))
    for row in rows:
        print(
            f"{row['contender']:18}{row['forward_ms']:10.1f}{row['forward_backward_ms']:12.1f}"
            f"{row['dense_over_this']:10.2f}{row['fastest_forward_backward_ms']:10.1f}{row['resident_mib']:10.1f}"
            f"{row['memory_ratio']:8.3f}{row['allocated_mib']:12.1f}{row['largest_difference']:12.1e}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=2, help="utterances (default: 2)")
    parser.add_argument("--repeats", type=int, default=10, help="repetitions of every contender (default: 10)")
    parser.add_argument("--out", type=Path, default=RESULTS / "audio-head-cpu.json", help="result file")
    parser.add_argument("--memory-of", choices=NAMES, help="only print the bytes of one contender's step")
    arguments = parser.parse_args()
    if arguments.memory_of:
        report_memory(arguments.memory_of, arguments.batch)
        return
    rows = measure(arguments.batch, arguments.repeats)
    show(rows)
    shape = {"batch": arguments.batch, "frames": FRAMES, "features": FEATURES}
    write_json(arguments.out, {"machine": machine(), "repeats": arguments.repeats, "shape": shape, "contenders": rows})
    print(f"\nwritten to {arguments.out}")


if __name__ == "__main__":
    main()
