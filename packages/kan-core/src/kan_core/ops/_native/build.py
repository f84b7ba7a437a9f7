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
from typing import Any

import torch
from torch import Tensor

from kan_core.errors import KANError

HERE = Path(__file__).parent

# NaN and infinity keep their meaning: no -ffast-math. Without errno and traps the loops can become vector code.
FLAGS = ("-std=gnu11", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fPIC")
# OpenMP is compiled in, but not linked: its functions are found in the runtime that torch has loaded, so that both
# share one set of threads. A second runtime would fight for the cores with torch's spinning threads.
OPENMP = "-fopenmp"


@torch.compiler.assume_constant_result
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
        _library(HERE / "probe.c", "float")["probe"]()
    except (OSError, AttributeError, subprocess.SubprocessError, KANError) as error:
        return f"the C compiler failed: {str(error)[:500]}"
    return ""


def compiler() -> tuple[str, ...] | None:
    """The command of the C compiler: $CC, or the first of cc, gcc and clang on the PATH."""
    for command in (os.environ.get("CC", ""), "cc", "gcc", "clang"):
        words = shlex.split(command)
        if words and shutil.which(words[0]):
            return tuple(words)
    return None


class Kernels:
    """The functions of a C file, with `real` as float or double; compiled when one is first called.

    Args:
        source: The C file.
    """

    def __init__(self, source: Path) -> None:
        self.source = source
        self._functions: dict[tuple[torch.dtype, str], Any] = {}

    def call(self, dtype: torch.dtype, name: str, *arguments: Tensor | float | None) -> int:
        """Call a function; a pointer to a tensor's contiguous memory or null, int64 and double are its types.

        A function's arguments have the same types in every call (a tensor and None count as one). The GIL is free
        meanwhile. What a function without a result returns means nothing.

        Raises:
            KANError: The file does not compile; the message has the compiler's.
        """
        function = self._functions.get((dtype, name)) or self._find(dtype, name, arguments)
        return int(function(*map(_plain, arguments)))

    def _find(self, dtype: torch.dtype, name: str, arguments: tuple[Tensor | float | None, ...]) -> Any:
        function = _library(self.source, {torch.float32: "float", torch.float64: "double"}[dtype])[name]
        types: dict[type, Any] = {float: ctypes.c_double, int: ctypes.c_int64, bool: ctypes.c_int64}
        function.argtypes = [types.get(type(a), ctypes.c_void_p) for a in arguments]
        function.restype = ctypes.c_int64
        self._functions[dtype, name] = function
        return function


def _plain(argument: Tensor | float | None) -> float | None:
    if isinstance(argument, Tensor):
        assert argument.is_contiguous(), "native kernels take contiguous tensors"
        return argument.data_ptr()
    return argument


@cache
def _library(source: Path, real: str) -> ctypes.CDLL:
    command = compiler()
    if command is None:
        raise KANError("there is no C compiler ($CC, cc, gcc or clang) to build native kernels with")
    options = [*FLAGS, OPENMP, f"-Dreal={real}", f"-DREAL_IS_DOUBLE={int(real == 'double')}", f"-I{HERE}"]
    files = [source, *sorted(HERE.glob("*.h"))]
    content = [*(f.read_bytes() for f in files), shlex.join((*command, *FLAGS, real)).encode(), _machine()]
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
        what = f"{shlex.join(command[:1])} failed on a native kernel; KAN_BACKEND=cpu does without"
        raise KANError(f"{what}: {done.stderr.strip()[:2000]}")


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
