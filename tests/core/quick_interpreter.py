"""Triton's interpreter, which looks through its whole language at every call of a device function: here only once.

Imported by the child processes that run kernels in the interpreter, before they do; it halves their time.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from triton.language.core import is_builtin
from triton.runtime import interpreter


@cache
def builtins_of(package: Any) -> list[str]:
    """What the interpreter replaces in a module or class of the language, which is whole when first seen."""
    return [name for name in dir(package) if is_builtin(getattr(package, name, None))]


def patch_builtin(package: Any, builder: Any, scope: Any) -> None:
    """As `interpreter._patch_builtin`: all functions of `package`, or none when the kernel around this has done so."""
    names = builtins_of(package)
    if names and is_builtin(getattr(package, names[0])):
        for name in names:
            interpreter._patch_attr(package, name, getattr(package, name), builder, scope)


interpreter._patch_builtin = patch_builtin
