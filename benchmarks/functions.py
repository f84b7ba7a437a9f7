"""Function fitting: KANs with grid extension beside the KAN paper, the matched MLP and the MLP with spline activations.

    uv run benchmarks/functions.py                               # everything, three seeds: an hour on one core
    uv run benchmarks/functions.py --suite toy --functions xy
    uv run benchmarks/functions.py --models kan-lbfgs            # the paper's optimiser, 200 steps per grid

Every seed draws its own 1000 training, 1000 held-out and 1000 test points. The held-out points choose the state, the
grid and the candidate; the test points are then used once. (In the toy set's table by grid, every grid is tested.)

- kan: the best of the target's widths, grids extended, Levenberg-Marquardt. Float64 everywhere.
- kan-lbfgs: the same with LBFGS.
- mlp: as many parameters as that seed's kan has in the end; the better of SiLU and tanh in two hidden layers; the same
  optimiser, and as many steps as all the grids of the kan together.
- spline-mlp: as many parameters; one learned B-spline per hidden unit, grids extended as in the kan up to the kan's
  last; the better of one and two hidden layers.
- mean: the training targets' mean for every point; the standard deviation of the targets, to read errors against.

Results are stored after every fit, and what the file holds for the same settings is not repeated.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from _functions import DOCS_EXAMPLE_1, SPECIAL, TOY, Target
from _timing import machine, write_json
from kan_core import KAN
from kan_core.compare import count_parameters, match_width, mlp
from kan_core.errors import KANError
from kan_core.layers import KANLayer
from kan_core.training.fit import FitResult, fit

RESULTS = Path(__file__).parent / "results"
POINTS = 1000
MODELS = ("kan", "mlp", "spline-mlp", "kan-lbfgs")
LBFGS_STEPS = 200  # per grid, as in the paper

Points = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Suite:
    """Functions and the budget for each."""

    targets: tuple[Target, ...]
    grids: tuple[int, ...]
    steps: int  # per grid


SUITES = {"toy": Suite(TOY, (3, 5, 10, 20, 50), 50), "special": Suite(SPECIAL, (3, 5, 10, 20), 30)}


class SplineUnits(KANLayer):
    """An activation: every feature through a function of its own, a SiLU and a B-spline with learned coefficients."""

    def __init__(self, features: int, grid_size: int) -> None:
        super().__init__(
            features,
            features,
            basis=f"bspline(grid_size={grid_size}, grid_eps=1.0)",
            base="silu",
            norm=None,
            bias=False,
            edge_scale=False,
            init_scale=None,
            weight_shape=lambda planes: (planes, features),
            device=None,
            dtype=None,
        )
        self.reset_parameters()

    @property
    def fan_in(self) -> int:
        """One edge ends in each output."""
        return 1

    def as_planes(self, tensor: Tensor) -> Tensor:
        """``(planes, features)`` with one edge per input."""
        return tensor.unsqueeze(-1)

    def from_planes(self, planes: Tensor) -> Tensor:
        """The inverse."""
        return planes.squeeze(-1)

    def as_rows(self, x: Tensor) -> Tensor:
        """The input is rows."""
        return x

    def forward(self, x: Tensor) -> Tensor:
        """``(samples, features)`` to the same."""
        coefficients, base = self._split(self.weight)
        assert base is not None
        return (self._planes(x) * coefficients).sum(dim=-2) + self._base(x) * base[0]


class SplineMLP(nn.Sequential):
    """Linear layers with `SplineUnits` between them."""

    def __init__(self, widths: Sequence[int], grid_size: int) -> None:
        pairs = list(pairwise(widths))
        layers: list[nn.Module] = []
        for i, o in pairs[:-1]:
            layers += [nn.Linear(i, o), SplineUnits(o, grid_size)]
        super().__init__(*layers, nn.Linear(*pairs[-1]))

    @torch.no_grad()
    def update_grid(self, x: Tensor) -> None:
        """Move all grids to where their inputs are."""
        for layer in self:
            if isinstance(layer, SplineUnits):
                layer.update_grid(x)
            x = layer(x)

    def refine(self, grid_size: int) -> None:
        """Extend all grids, functions kept."""
        for layer in self:
            if isinstance(layer, SplineUnits):
                layer.refine(grid_size)


@dataclass(frozen=True)
class Data:
    """One seed's points: inputs in [-1, 1], targets in units of the training targets' standard deviation."""

    train: Points
    validation: Points
    test: Points
    std: float

    @classmethod
    def draw(cls, target: Target, seed: int) -> Data:
        """The points of one seed."""
        generator = np.random.default_rng(seed)
        parts = [target.sample(POINTS, generator) for _ in range(3)]
        mean, std = parts[0][1].mean(), parts[0][1].std()
        points = [(torch.from_numpy(x), torch.from_numpy((y - mean) / std)[:, None]) for x, y in parts]
        return cls(*points, float(std))

    def test_rmse(self, model: nn.Module) -> float:
        """In units of the target."""
        x, y = self.test
        with torch.no_grad():
            return self.std * (model(x) - y).square().mean().sqrt().item()


Candidate = tuple[str, nn.Module, FitResult]


def kan(widths: Sequence[int]) -> nn.Module:
    return KAN(widths, "bspline(grid_size=3, grid_eps=1.0)", dtype=torch.float64)


def matched(builds: dict[str, Callable[[int], nn.Module]], parameters: int) -> dict[str, nn.Module]:
    """Of each kind the module of nearest size, where there is one; few parameters leave few widths to choose from."""
    found = {}
    for kind, build in builds.items():
        with contextlib.suppress(KANError):
            match = match_width(build, parameters, integer=True, tolerance=0.25)
            found[f"{match.width:.0f} {kind}"] = match.model.double()
    return found


def candidates(model: str, target: Target, data: Data, suite: Suite, of_kan: dict[str, Any] | None) -> list[Candidate]:
    """Fitted models to choose from."""
    options: dict[str, Any] = {"validation": data.validation, "evaluate_every": 5}
    lm = {**options, "optimizer": "lm", "patience": 4}
    inputs = len(target.box)

    def fitted(name: str, net: nn.Module, **how: Any) -> Candidate:
        return name, net, fit(net, *data.train, **how)

    if model == "kan":
        return [fitted(str(list(w)), kan(w), grids=suite.grids, steps=suite.steps, **lm) for w in target.widths]
    if model == "kan-lbfgs":
        return [fitted(str(list(w)), kan(w), grids=suite.grids, steps=LBFGS_STEPS, **options) for w in target.widths]
    assert of_kan is not None
    size = of_kan["parameters"]
    if model == "mlp":
        steps = suite.steps * len(suite.grids)
        acts = {f"x 2, {act}": lambda h, act=act: mlp([inputs, h, h, 1], act) for act in ("silu", "tanh")}
        return [fitted(name, net, steps=steps, **lm) for name, net in matched(acts, size).items()]
    last = of_kan["grid_size"]
    grids = [grid for grid in suite.grids if grid <= last]
    depths = {f"x {depth}": lambda h, depth=depth: SplineMLP([inputs, *[h] * depth, 1], last) for depth in (1, 2)}
    return [fitted(name, net, grids=grids, steps=suite.steps, **lm) for name, net in matched(depths, size).items()]


def evaluate(model: str, target: Target, seed: int, suite: Suite, of_kan: dict[str, Any] | None) -> dict[str, Any]:
    """Fit the candidates, choose one on the held-out points, test it."""
    data = Data.draw(target, seed)
    torch.manual_seed(seed)
    began = time.perf_counter()
    name, net, result = min(
        candidates(model, target, data, suite, of_kan), key=lambda found: found[2].best.validation_rmse
    )
    return {
        "candidate": name,
        "parameters": count_parameters(net),
        "grid_size": result.best.grid_size,
        "train_rmse": data.std * result.best.train_rmse,
        "validation_rmse": data.std * result.best.validation_rmse,
        "test_rmse": data.test_rmse(net),
        "target_std": data.std,
        "seconds": time.perf_counter() - began,
    }


def by_grid(model: str, target: Target, seed: int, suite: Suite) -> dict[str, float]:
    """Test RMSE after each grid size in turn, none left out when it overfits."""
    data = Data.draw(target, seed)
    torch.manual_seed(seed)
    net = kan(target.widths[0])
    how: dict[str, Any] = {"optimizer": "lm", "steps": suite.steps} if model == "kan" else {"steps": LBFGS_STEPS}
    errors = {}
    for grid in suite.grids:
        fit(net, *data.train, validation=data.validation, grids=(grid,), evaluate_every=5, **how)
        errors[str(grid)] = data.test_rmse(net)
    return errors


def slope(errors: dict[str, float]) -> float:
    """Slope of log RMSE over log G for G from 5 to 20."""
    points = [(math.log(int(grid)), math.log(error)) for grid, error in errors.items() if 5 <= int(grid) <= 20]
    return statistics.linear_regression(*zip(*points, strict=True)).slope


class Store:
    """The result file: entries by suite, function, model and seed, written after each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: dict[str, Any] = json.loads(path.read_text())["entries"] if path.exists() else {}

    def get(self, key: str, settings: dict[str, Any], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The entry, made unless the file has it for these settings."""
        entry = self.entries.get(key)
        if entry is None or entry["settings"] != settings:
            entry = self.entries[key] = {"settings": settings, **make()}
            write_json(self.path, {"machine": machine(), "entries": self.entries})
        return entry


def run(store: Store, name: str, target: Target, seed: int, models: Sequence[str]) -> None:
    """All models on one function with one seed."""
    suite = SUITES[name]
    of_kan: dict[str, Any] | None = None
    for model in models:
        steps = LBFGS_STEPS if model == "kan-lbfgs" else suite.steps
        settings = {"grids": list(suite.grids), "steps": steps, "points": POINTS}

        def make(model: str = model, of_kan: dict[str, Any] | None = of_kan) -> dict[str, Any]:
            entry = evaluate(model, target, seed, suite, of_kan)
            if name == "toy" and model.startswith("kan"):
                entry["test_rmse_by_grid"] = by_grid(model, target, seed, suite)
            return entry

        entry = store.get(f"{name}/{target.name}/{model}/{seed}", settings, make)
        if model == "kan":
            of_kan = entry
        print(
            f"{target.name:20} seed {seed}  {model:11} {entry['candidate']:18} G {entry['grid_size'] or '-':<3} "
            f"{entry['parameters']:5} parameters  validation {entry['validation_rmse']:.2e}  "
            f"test {entry['test_rmse']:.2e}  {entry['seconds']:.0f} s",
            flush=True,
        )


def spread(entries: list[dict[str, Any]]) -> str:
    """Mean, standard deviation and median of the test RMSE."""
    errors = [entry["test_rmse"] for entry in entries]
    if not errors:
        return "-"
    deviation = f"{statistics.stdev(errors):.0e}" if len(errors) > 1 else "-"
    return f"{statistics.mean(errors):.2e} ± {deviation} ({statistics.median(errors):.2e})"


def show(store: Store, name: str, targets: Sequence[Target], seeds: Sequence[int]) -> None:
    """The tables: what is complete over the seeds, one row per function, and for the toy set one per grid size."""

    def of(target: Target, model: str) -> list[dict[str, Any]]:
        keys = [f"{name}/{target.name}/{model}/{seed}" for seed in seeds]
        complete = all(key in store.entries for key in keys)
        return [store.entries[key] for key in keys] if complete else []

    def published(value: float | None) -> str:
        return "-" if value is None else f"{value:.2e}"

    print(f"\n{name}: test RMSE, mean ± sd (median) over seeds {list(seeds)}")
    heads = ("mean", "paper KAN", "paper MLP", *MODELS)
    print("function".ljust(20) + "".join(head.rjust(10 if i < 3 else 31) for i, head in enumerate(heads)))
    for target in targets:
        runs = {model: of(target, model) for model in MODELS}
        std = [entry["target_std"] for entry in runs["kan"]]
        first = (published(statistics.mean(std) if std else None), published(target.paper), published(target.paper_mlp))
        print(
            f"{target.name:20}" + "".join(f"{x:>10}" for x in first) + "".join(f"{spread(runs[m]):>31}" for m in MODELS)
        )
    if name == "toy":
        show_grids(targets, of)
    for model in MODELS:
        means = [(statistics.mean(e["test_rmse"] for e in of(t, model)), t.paper) for t in targets if of(t, model)]
        below = [mean <= paper for mean, paper in means if paper is not None]
        if below:
            print(f"{model}: mean at or below the paper's KAN on {sum(below)} of {len(below)}")


def show_grids(targets: Sequence[Target], of: Callable[[Target, str], list[dict[str, Any]]]) -> None:
    grids = [str(grid) for grid in SUITES["toy"].grids]
    print("\ntoy: test RMSE by grid size, mean over seeds; slope of log RMSE over log G, G 5..20, per seed")
    for target in targets:
        for model in ("kan", "kan-lbfgs"):
            curves = [entry["test_rmse_by_grid"] for entry in of(target, model)]
            if curves:
                means = "  ".join(f"G{g} {statistics.mean(c[g] for c in curves):.2e}" for g in grids)
                slopes = ", ".join(f"{slope(c):.2f}" for c in curves)
                print(f"{target.name:20}{model:11} {means}  slope {slopes}")
        if target.name == "exp(sin(pi x)+y^2)":
            print(" " * 20 + "paper's docs " + "  ".join(f"G{g} {e:.2e}" for g, e in DOCS_EXAMPLE_1.items()))
            reached = [entry["test_rmse_by_grid"]["20"] <= 5e-5 for entry in of(target, "kan")]
            print(" " * 20 + f"kan at G = 20: at most 5e-5 for {sum(reached)} of {len(reached)} seeds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", choices=[*SUITES, "all"], default="all")
    parser.add_argument("--functions", nargs="+", help="names as in the tables; none: all of the suite")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=RESULTS / "functions-cpu.json", help="default: %(default)s")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    store = Store(arguments.out)
    models = [model for model in MODELS if model in arguments.models]
    if {"mlp", "spline-mlp"} & set(models) and "kan" not in models:
        models.insert(0, "kan")  # whose size they match; taken from the file when it is there
    names = list(SUITES) if arguments.suite == "all" else [arguments.suite]
    chosen = {
        name: [t for t in SUITES[name].targets if not arguments.functions or t.name in arguments.functions]
        for name in names
    }
    if arguments.functions and len(arguments.functions) != sum(map(len, chosen.values())):
        parser.error(f"--functions: choose from {', '.join(t.name for name in names for t in SUITES[name].targets)}")
    for name, targets in chosen.items():
        for seed in arguments.seeds:
            for target in targets:
                run(store, name, target, seed, models)
    for name, targets in chosen.items():
        show(store, name, targets, arguments.seeds)
    print(f"\nwritten to {arguments.out}")


if __name__ == "__main__":
    main()
