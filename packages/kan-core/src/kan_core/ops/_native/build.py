"""From a C file beside an op to callable functions: compiler, cache, loading."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from kan_core.errors import KANError

HEADER = Path(__file__).with_name("vector.h")

# NaN and infinity keep their meaning: no -ffast-math. Without errno and traps the loops can become vector code.
FLAGS = ("-std=c11", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fPIC")
# OpenMP is compiled in, but not linked: its functions are found in the runtime that torch has loaded, so that both
# share one set of threads. A second runtime would fight for the cores with torch's spinning threads.
OPENMP = "-fopenmp"


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def unavailable() -> str:
    """Why there are no native kernels on this machine, empty when there are."""
    return _try_build()


@cache
def _try_build() -> str:
    """Build and load a first kernel: what works once works for all files."""
    if sys.platform != "linux":
        return f"native kernels are built on Linux, not on {sys.platform}"
    if compiler() is None:
        return "there is no C compiler ($CC, cc, gcc or clang)"
    try:
        _library(HEADER.with_name("probe.c"), "float").probe()
    except (OSError, AttributeError, subprocess.SubprocessError, KANError) as error:
        return f"the C compiler failed: {str(error).splitlines()[0]}"
    return ""


def compiler() -> tuple[str, ...] | None:
    """The command of the C compiler: $CC, or the first of cc, gcc and clang on the PATH."""
    for command in (os.environ.get("CC", ""), "cc", "gcc", "clang"):
        words = shlex.split(command)
        if words and shutil.which(words[0]):
            return tuple(words)
    return None


def load(source: Path, dtype: torch.dtype) -> Kernels:
    """The functions of a C file with `real` as float or double.

    Raises:
        KANError: The file does not compile; the message has the compiler's.
    """
    return Kernels(_library(source, {torch.float32: "float", torch.float64: "double"}[dtype]))


class Kernels:
    """Calls by attribute: tensors are passed as pointers to contiguous memory, floats as double, integers as int64."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library

    def call(self, name: str, *arguments: Tensor | int | float | None) -> None:
        """Call a C function without a result; None is a null pointer. The GIL is free meanwhile."""
        self._library[name](*map(_convert, arguments))


def _convert(value: Tensor | int | float | None) -> object:
    if isinstance(value, Tensor):
        assert value.is_contiguous(), "native kernels take contiguous tensors"
        return ctypes.c_void_p(value.data_ptr())
    if isinstance(value, float):
        return ctypes.c_double(value)
    return ctypes.c_void_p(None) if value is None else ctypes.c_int64(value)


@cache
def _library(source: Path, real: str) -> ctypes.CDLL:
    command = compiler()
    if command is None:
        raise KANError("there is no C compiler ($CC, cc, gcc or clang) to build native kernels with")
    options = [*FLAGS, OPENMP, f"-Dreal={real}", f"-DREAL_IS_DOUBLE={int(real == 'double')}", f"-I{HEADER.parent}"]
    content = [source.read_bytes(), HEADER.read_bytes(), shlex.join((*command, *FLAGS, real)).encode(), _machine()]
    name = f"{source.stem}-{real}-{hashlib.sha256(b'|'.join(content)).hexdigest()[:24]}.so"
    folder = _cache_folder()
    library = folder / name
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:  # renamed when whole: others may be building it too
            compiled, linked = Path(scratch, "kernel.o"), Path(scratch, name)
            _run([*command, *options, "-c", str(source), "-o", str(compiled)])
            _run([*command, "-shared", str(compiled), "-o", str(linked), "-lm"])
            linked.replace(library)
    return ctypes.CDLL(str(library))


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if done.returncode:
        raise KANError(f"{shlex.join(command[:1])} failed on a native kernel: {done.stderr.strip()[:2000]}")


def _machine() -> bytes:
    """What -march=native depends on: a home directory may be shared by different machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    wanted = ("model name", "flags", "Features", "CPU part")
    return "|".join(dict.fromkeys([platform.machine(), *(s for s in lines if s.startswith(wanted))])).encode()


@cache
def _cache_folder() -> Path:
    """`$XDG_CACHE_HOME/kan/native` or `~/.cache/kan/native`; where that cannot be written, a folder of this process."""
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kan" / "native"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except (OSError, RuntimeError):  # RuntimeError: no home directory
        scratch = tempfile.TemporaryDirectory(prefix="kan-native-")
        _SCRATCH.append(scratch)  # lives as long as the process
        return Path(scratch.name)


_SCRATCH: list[tempfile.TemporaryDirectory[str]] = []
