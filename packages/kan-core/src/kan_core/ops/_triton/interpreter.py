"""What Triton's interpreter (TRITON_INTERPRET=1) needs to run loops with bounds known at run time."""
# mypy: disable-error-code="import-untyped"

from __future__ import annotations

from typing import Any

import triton


def repair() -> None:
    """Let scalars be loop bounds under NumPy 2.4, which no longer takes int() of an array with one element.

    Triton 3.6 holds scalars in such arrays; a later Triton may not need this. Does nothing outside the interpreter.
    """
    if not triton.knobs.runtime.interpret:
        return
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor

    def patch_and_repair(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    interpreter._patch_lang_tensor = patch_and_repair
