"""What the benchmarks share: alternating timing on a CPU or a GPU, peak memory, and a description of the machine."""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import time
import warnings
from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from kan_core.ops._native import product

Call = Callable[[], tuple[float, float]]


def alternate(
    calls: Mapping[str, Call], repeats: int, seconds: float = 0.0, most: int = 200
) -> dict[str, list[tuple[float, float]]]:
    """Seconds of (forward, forward + backward) of every call, after one warm-up each.

    All calls run once in every repetition, so that a slow phase of the machine meets all of them, and ratios are taken
    between neighbours.

    Args:
        calls: What to time, by name.
        repeats: Repetitions, at least.
        seconds: More of them until this time has passed: what takes microseconds needs many.
        most: Repetitions, at most, where `repeats` is not more.
    """
    for call in calls.values():
        call()
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    start, done = time.perf_counter(), 0
    while done < repeats or (done < most and time.perf_counter() - start < seconds):
        for name, call in calls.items():
            times[name].append(call())
        done += 1
    return times


def forward_backward(
    layer: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, grad: torch.Tensor, *, cold: bool = True
) -> Call:
    """A call for `alternate`; all gradients are new allocations, as in training with zero_grad(set_to_none=True).

    On a CUDA device events take the times, and the level-2 cache is emptied before the forward and before the backward
    pass; with `cold` False the device only waits there until the host is ahead with its launches.
    """
    parameters = list(layer.parameters()) if isinstance(layer, torch.nn.Module) else []

    def clear() -> None:
        for tensor in (x, *parameters):
            tensor.grad = None

    def call() -> tuple[float, float]:
        clear()
        start = time.perf_counter()
        y = layer(x)
        middle = time.perf_counter()
        y.backward(grad)
        return middle - start, time.perf_counter() - start

    def device_call() -> tuple[float, float]:
        clear()
        y: list[torch.Tensor] = []
        forward = _device_seconds(lambda: y.append(layer(x)), cold)
        backward = _device_seconds(lambda: y[0].backward(grad), cold)
        return forward, forward + backward

    return device_call if x.is_cuda else call


def inference(layer: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, *, cold: bool = True) -> Call:
    """A call for `alternate` without gradients; both of its times are those of the forward pass."""

    def call() -> tuple[float, float]:
        with torch.no_grad():
            if x.is_cuda:
                seconds = _device_seconds(lambda: layer(x), cold)
            else:
                start = time.perf_counter()
                layer(x)
                seconds = time.perf_counter() - start
        return seconds, seconds

    return call


def _device_seconds(work: Callable[[], Any], cold: bool) -> float:
    """Seconds between two events around the launches of `work`."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    if cold:
        _cache_filler().zero_()
    else:
        torch.cuda._sleep(200_000)  # cycles, about 0.1 ms
    start.record()
    work()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) / 1e3


@cache
def _cache_filler() -> torch.Tensor:
    """Four times the level-2 cache of the device."""
    size = 4 * torch.cuda.get_device_properties().L2_cache_size
    return torch.empty(size, dtype=torch.uint8, device="cuda")


def ceilings(device: str, dtype: torch.dtype) -> dict[str, float]:
    """What the device can do in `dtype`, each at its fastest: copy bandwidth in B/s, product rate in FLOP/s.

    The copy reads one tensor and writes another, both far larger than any cache; the product is of square matrices.
    """
    cuda = device == "cuda"
    size, side = (1 << 31, 8192) if cuda else (1 << 27, 256 * dtype.itemsize)  # half precision may be very slow
    source, target = (torch.rand(size // dtype.itemsize, device=device).to(dtype) for _ in range(2))
    copy = inference(lambda x: target.copy_(x), source)
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    product = inference(lambda x: x @ b, a)
    times = alternate({"copy": copy, "product": product}, 10, seconds=1.0)
    fastest = {name: min(forward for forward, _ in values) for name, values in times.items()}
    return {
        "copy_bytes_per_second": 2 * source.nbytes / fastest["copy"],
        "product_flops_per_second": 2 * side**3 / fastest["product"],
    }


def median_ratio(times: list[tuple[float, float]], base: list[tuple[float, float]], which: int) -> float:
    """Median over the repetitions of the ratio to the baseline in the same repetition."""
    return statistics.median(a[which] / b[which] for a, b in zip(times, base, strict=True))


def peak_allocated(call: Callable[[], Any], device: str = "cpu") -> int:
    """Largest sum, in bytes, of tensor memory that `call` has allocated on the device and not yet freed at one moment.

    Counted by the CUDA allocator, or from the CPU allocator's own events (torch.profiler with profile_memory): exact,
    free of the noise of resident set sizes, and it sees the workspace inside custom ops. Memory from before the call is
    not in it; memory that the call frees from before is counted as freed, so clear old gradients first.
    """
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        return torch.cuda.max_memory_allocated() - before
    product.release_workspace()  # memory that a thread keeps between calls counts as well
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


def machine(device: str = "cpu") -> dict[str, Any]:
    """Device, its model and clocks, threads, versions and commit, for the head of a result file."""
    commit = _output("git", "rev-parse", "HEAD")
    changed = _output("git", "status", "--porcelain", "--untracked-files=no")
    return {
        "device": device,
        "cpu": _cpu("model name") or platform.processor(),
        "cpu_mhz": _cpu("cpu MHz"),
        **(_gpu() if device == "cuda" else {}),
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": version("triton") if find_spec("triton") else None,
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


def _cpu(field: str) -> str:
    """What Linux says about the first processor; empty elsewhere."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(field)), "")


def _gpu() -> dict[str, Any]:
    """Model, memory and versions, and the clocks of this moment beside the highest."""
    fields = ("clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem", "power.limit", "driver_version")
    values = _output("nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader", "--id=0").split(", ")
    properties = torch.cuda.get_device_properties()
    return {
        "gpu": properties.name,
        "gpu_memory_gib": round(properties.total_memory / 2**30, 1),
        "cuda": torch.version.cuda,
        **(dict(zip(fields, values, strict=True)) if len(values) == len(fields) else {}),
    }
