"""Every network of kan_vision as an ONNX file in ONNX Runtime, against the network itself.

    uv run benchmarks/export.py
    uv run benchmarks/export.py --models kat_tiny_patch16_224 ukan_small

Untrained networks in evaluation mode, on random images: classifiers on 28 x 28 pixels of one channel, segmentation
networks on 64 x 64 of three. The file is made as the app's command `export` makes it, with a free batch where the
network allows one, and run on batches of 1, 2 and 3. The largest absolute difference must be at most 1e-4. Every
finished network is written to the results at once: name the missing ones to go on after an interruption.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from _timing import machine, write_json
from kan_core.compare import count_parameters
from kan_core.training.export import TOLERANCE, onnx_module, trace, write_onnx
from kan_vision.models import SEGMENTERS, create_segmenter
from kan_vision.tasks._network import our_models

OUT = Path(__file__).parent / "results" / "export-cpu.json"


def network(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    """The network and the shape of one of its images."""
    torch.manual_seed(0)
    if name in SEGMENTERS.names():
        return create_segmenter(name, in_chans=3, num_classes=1).eval(), (3, 64, 64)
    return timm.create_model(name, in_chans=1, num_classes=5, img_size=28).eval(), (1, 28, 28)


def check(name: str) -> dict[str, Any]:
    """One row: the largest difference, whether the batch is free, and what the file costs."""
    net, shape = network(name)
    generator = torch.Generator().manual_seed(0)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        program = trace(net, torch.randn(2, *shape, generator=generator))
        write_onnx(program, path, {"model": name})
        seconds, size = time.perf_counter() - start, path.stat().st_size
        exported = onnx_module(path)
        (node,) = (node for node in program.graph.nodes if node.name == program.graph_signature.user_inputs[0])
        free = not isinstance(node.meta["val"].shape[0], int)
        difference = 0.0
        for batch in (1, 2, 3) if free else (2,):
            x = torch.randn(batch, *shape, generator=generator)
            with torch.no_grad():
                difference = max(difference, float((exported(x) - net(x)).abs().max()))
    return {
        "model": name,
        "parameters": count_parameters(net),
        "free_batch": free,
        "max_abs_difference": difference,
        "export_seconds": seconds,
        "mebibytes": size / 2**20,
    }


def main() -> None:
    every = [*our_models(), *SEGMENTERS.names()]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=every, choices=every)
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    rows = (
        {row["model"]: row for row in json.loads(arguments.out.read_text())["results"]}
        if arguments.out.exists()
        else {}
    )
    for name in arguments.models:
        rows[name] = row = check(name)
        print(
            f"{name:28s} {row['max_abs_difference']:.1e}  free batch: {row['free_batch']}  "
            f"{row['export_seconds']:.0f} s  {row['mebibytes']:.1f} MiB",
            flush=True,
        )
        write_json(arguments.out, {"machine": machine(), "results": [rows[n] for n in every if n in rows]})
    worst = max(rows.values(), key=lambda row: float(row["max_abs_difference"]))
    found = f"{worst['max_abs_difference']:.1e} ({worst['model']})"
    print(f"largest difference {found}, of {len(rows)} of {len(every)} networks")
    if worst["max_abs_difference"] > TOLERANCE:
        raise SystemExit(f"{worst['model']} differs by more than {TOLERANCE:g}")


if __name__ == "__main__":
    main()
