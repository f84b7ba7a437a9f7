"""Building C kernels on first use: cache, races, and machines where it does not work."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kan_core import KANLinear
from kan_core.ops import _native
from kan_core.ops._native.product import release_workspace

ONE_CALL = """
import torch
from kan_core import KANLinear
from kan_core.ops import explain
layer, x = KANLinear(8, 4), torch.randn(5, 8)
(choice,) = explain(layer, x)
print(choice.name, "|", choice.reason)
layer(x).sum().backward()
print("trained")
"""


def one_call(cache: Path, then: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    path = environment.pop("PATH", "/usr/local/bin:/usr/bin:/bin")
    environment = {"XDG_CACHE_HOME": str(cache), "PATH": path, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run([sys.executable, "-c", ONE_CALL + then], env=environment, capture_output=True, text=True)


def libraries(cache: Path) -> list[str]:
    return sorted(path.name for path in (cache / "kan" / "native").iterdir())


needs_compiler = pytest.mark.skipif(bool(_native.unavailable()), reason=_native.unavailable() or "built")


@needs_compiler
def test_kernels_are_built_once_and_processes_that_do_so_at_the_same_time_do_not_disturb_each_other(tmp_path):
    environment = {"XDG_CACHE_HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    both = [
        subprocess.Popen([sys.executable, "-c", ONE_CALL], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate()[0] for process in both]
    assert all(output.startswith("native | the input is on the CPU") for output in outputs)
    assert [process.returncode for process in both] == [0, 0]
    built = libraries(tmp_path)
    assert [name.split("-")[0] for name in built] == ["native", "probe"]

    # a later process builds nothing, and nothing else is left
    times = [path.stat().st_mtime_ns for path in sorted((tmp_path / "kan" / "native").iterdir())]
    assert [one_call(tmp_path).stdout] * 2 == outputs
    assert libraries(tmp_path) == built
    assert [path.stat().st_mtime_ns for path in sorted((tmp_path / "kan" / "native").iterdir())] == times


@needs_compiler
def test_a_cache_that_cannot_be_written_is_replaced_by_a_temporary_one(tmp_path):
    occupied = tmp_path / "cache"
    occupied.write_text("a file where the folder should be")
    done = one_call(occupied, TMPDIR=str(tmp_path))
    assert done.stdout.startswith("native |"), done.stderr
    assert not list(tmp_path.glob("kan-native-*"))  # removed at exit


def test_without_a_compiler_torch_does_it_and_says_so_and_an_explicit_request_names_the_reason(tmp_path):
    request = "import os; os.environ['KAN_BACKEND'] = 'native'; layer(x)"
    done = one_call(tmp_path, request, PATH=str(tmp_path))
    assert done.stdout.startswith("cpu | the input is on the CPU; not native: "), done.stderr
    assert "there is no C compiler" in done.stdout or "not on" in done.stdout
    assert "trained\n" in done.stdout
    assert done.returncode == 1
    assert "KANError: the environment variable KAN_BACKEND is 'native', but " in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="native kernels are built on Linux")
def test_a_broken_compiler_is_no_error_but_a_reason(tmp_path):
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\necho the compiler is broken >&2\nexit 1\n")
    compiler.chmod(0o755)
    done = one_call(tmp_path, CC=str(compiler))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("cpu | the input is on the CPU; not native: the C compiler failed: ")
    assert "the compiler is broken" in done.stdout


@pytest.mark.parametrize("basis", ["bspline", "rbf", "chebyshev"])
def test_a_workspace_made_in_inference_mode_trains_later(basis):
    """A validation pass may have larger batches than training: the buffer that is kept must be an ordinary one."""
    release_workspace()
    layer, x = KANLinear(16, 16, basis=basis), torch.randn(64, 16)
    with torch.inference_mode():
        layer(x)
    layer(x).sum().backward()
    assert layer.weight.grad is not None
    release_workspace()
