"""Every family on MNIST: a net [784, 64, 10] of each registered layer, beside the MLP of as many parameters.

    uv run benchmarks/families_mnist.py --data.root ~/data
    uv run benchmarks/families_mnist.py --data.root ~/data --families gr-kan qkan --seeds 0 1 2

All nets are layer(784, 64), LayerNorm(64), layer(64, 10), with a SiLU before the second layer of the MLP, and share
one recipe, which was not tuned for any of them: AdamW, one cycle of learning rates up to 2e-3, batch 128, pixels in
[-1, 1]. The twin's hidden width is the one that gives it the KAN's parameters. Nothing is selected: all 60,000 training
images are used, and the test images once, after the last epoch. Seconds are those of training. A run that the result
file already holds, with the same epochs, is not repeated (delete the file to repeat it).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from _timing import machine, write_json
from kan_core import layers
from kan_core.compare import count_parameters, match_width
from kan_vision.data.idx import read_idx

RESULTS = Path(__file__).parent / "results" / "families-mnist-cpu.json"
BATCH, RATE = 128, 2e-3
# A family's default, but where its inner width would follow the 784 inputs: 13 million parameters for mlp-kan.
SPECS = {"mlp-kan": "mlp-kan(hidden_features=64)"}


def net(name: str, hidden: int = 64) -> nn.Sequential:
    """[784, hidden, 10] of the layer called `name`."""
    make = layers.get(SPECS.get(name, name))
    return nn.Sequential(
        make(784, hidden), nn.LayerNorm(hidden), layers.activation_before(name, "silu"), make(hidden, 10)
    )


def mnist(root: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Pixels in [-1, 1], shape (images, 784), and labels."""
    data = {}
    for split, prefix in (("train", "train"), ("test", "t10k")):
        images = read_idx(root / "mnist" / f"{prefix}-images-idx3-ubyte.gz", dimensions=3)
        labels = read_idx(root / "mnist" / f"{prefix}-labels-idx1-ubyte.gz", dimensions=1)
        pixels = torch.from_numpy(images).flatten(1).float() / 127.5 - 1
        data[split] = (pixels, torch.from_numpy(labels).long())
    return data


def train(model: nn.Module, data: dict[str, tuple[Tensor, Tensor]], epochs: int, seed: int) -> dict[str, Any]:
    """Train `model`, then test it once."""
    x, y = data["train"]
    shuffle = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=1e-4, fused=True)
    steps = epochs * (len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    start = time.perf_counter()
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=shuffle)[: len(x) // BATCH * BATCH].split(BATCH):
            loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    seconds = time.perf_counter() - start
    model.eval()
    with torch.no_grad():
        answers = torch.cat([model(part).argmax(1) for part in data["test"][0].split(1000)])
    accuracy = (answers == data["test"][1]).double().mean().item()
    return {"accuracy": accuracy, "parameters": count_parameters(model), "seconds": seconds}


def run(name: str, seed: int, data: dict[str, tuple[Tensor, Tensor]], epochs: int) -> dict[str, Any]:
    """The family and its twin, one seed."""
    torch.manual_seed(seed)
    model = net(name)
    row = {"family": name, "seed": seed, "epochs": epochs, "kan": train(model, data, epochs, seed)}
    torch.manual_seed(seed)
    twin = match_width(lambda width: net("linear", width), count_parameters(model), integer=True, high=1 << 16)
    row["twin"] = {"hidden": twin.width, **train(twin.model, data, epochs, seed)}
    return row


def show(name: str, rows: list[dict[str, Any]]) -> None:
    """One line: mean accuracies and seconds over the seeds."""
    kan, twin = ([row[side] for row in rows] for side in ("kan", "twin"))
    text = f"{name:13}"
    for side in (kan, twin):
        accuracies = [100 * r["accuracy"] for r in side]
        spread = f"±{statistics.stdev(accuracies):.2f}" if len(accuracies) > 1 else ""
        seconds = statistics.median(r["seconds"] for r in side)
        text += f" |{statistics.mean(accuracies):7.2f}{spread:6}{side[0]['parameters']:>10,}{seconds:8.1f}"
    difference = statistics.mean(100 * (k["accuracy"] - t["accuracy"]) for k, t in zip(kan, twin, strict=True))
    print(f"{text} |{difference:+7.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data.root", dest="root", type=Path, required=True, help="folder that holds mnist/")
    parser.add_argument("--families", nargs="+", metavar="NAME", help="default: every registered layer")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS, help="result file (default: %(default)s)")
    options = parser.parse_args()
    data = mnist(options.root)
    names = options.families or layers.names()
    held = json.loads(options.out.read_text())["runs"] if options.out.exists() else []
    runs = {(row["family"], row["seed"], row["epochs"]): row for row in held}
    majority = (data["test"][1] == data["train"][1].mode().values).double().mean().item()
    print(
        f"MNIST, [784, 64, 10], {options.epochs} epochs, seeds {options.seeds}; majority class {100 * majority:.2f} %\n"
    )
    print("family        |  test %       parameters    s |  MLP twin     parameters    s | difference")
    for name in names:
        rows = []
        for seed in options.seeds:
            key = (name, seed, options.epochs)
            if key not in runs:
                runs[key] = run(name, seed, data, options.epochs)
                write_json(options.out, {"machine": machine(), "majority": majority, "runs": list(runs.values())})
            rows.append(runs[key])
        show(name, rows)


if __name__ == "__main__":
    main()
