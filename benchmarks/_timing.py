"""What the benchmarks share: alternating timing, peak memory, and a description of the machine."""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

Call = Callable[[], tuple[float, float]]


def alternate(calls: Mapping[str, Call], repeats: int) -> dict[str, list[tuple[float, float]]]:
    """Seconds of (forward, forward + backward) of every call, `repeats` times, after one warm-up each.

    All calls run once in every repetition, so that a slow phase of the machine meets all of them, and ratios are taken
    between neighbours.
    """
    for call in calls.values():
        call()
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            times[name].append(call())
    return times


def forward_backward(layer: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, grad: torch.Tensor) -> Call:
    """A call for `alternate`; all gradients are new allocations, as in training with zero_grad(set_to_none=True)."""
    parameters = list(layer.parameters()) if isinstance(layer, torch.nn.Module) else []

    def call() -> tuple[float, float]:
        for tensor in (x, *parameters):
            tensor.grad = None
        start = time.perf_counter()
        y = layer(x)
        middle = time.perf_counter()
        y.backward(grad)
        return middle - start, time.perf_counter() - start

    return call


def median_ratio(times: list[tuple[float, float]], base: list[tuple[float, float]], which: int) -> float:
    """Median over the repetitions of the ratio to the baseline in the same repetition."""
    return statistics.median(a[which] / b[which] for a, b in zip(times, base, strict=True))


def peak_allocated(call: Callable[[], Any]) -> int:
    """Largest sum, in bytes, of CPU tensor memory that `call` has allocated and not yet freed at one moment.

    Counted from the allocator's own events (torch.profiler with profile_memory): exact, free of the noise of resident
    set sizes, and it sees the workspace inside custom ops. Memory from before the call is not in it; memory that the
    call frees from before is counted as freed, so clear old gradients first.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the profiler's own, about its cycles
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
            call()
    alive = peak = 0
    for event in recorded.profiler.kineto_results.events():
        if event.name() == "[memory]":
            alive += event.nbytes()
            peak = max(peak, alive)
    return peak


def machine() -> dict[str, Any]:
    """Device, CPU model, threads, versions and commit, for the head of a result file."""
    commit = _output("git", "rev-parse", "HEAD")
    changed = _output("git", "status", "--porcelain", "--untracked-files=no")
    return {
        "device": "cpu",
        "cpu": _cpu_model(),
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": commit + ("+changes" if changed else "") if commit else None,
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write under a temporary name, then rename: a result file is whole or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".partial")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    temporary.replace(path)


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
    return names[0] if names else platform.processor()
