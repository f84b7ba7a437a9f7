"""The baseline in the style of FlashKAT's paper computes the group-rational function and its gradients.

Its kernels run in Triton's interpreter, in a process of their own: this file, run as a script.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kan_core.ops import group_rational

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
TOLERANCE = 1e-5  # ||error|| / ||reference|| of float32 against float64, the card's
# rows and columns on both sides of a block of 64; widths of a group that are no power of two
SHAPES = [(1, 8, 8), (65, 24, 8), (197, 48, 2), (63, 96, 1), (64, 144, 2)]


def errors(rows: int, features: int, groups: int, dtype: torch.dtype, shared: bool) -> dict[str, float]:
    """Relative RMS errors of y and all gradients."""
    from _flashkat_style import FlashKATStyle

    torch.manual_seed(rows)
    x = torch.randn(rows, features).to(dtype).requires_grad_()
    grad = torch.randn(rows, features)
    a, b = torch.randn(1 if shared else groups, 6), torch.randn(groups, 4)
    b[0, 0] = 0.0  # where the derivative of |b| is +1
    layer = FlashKATStyle(a, b)
    y = layer(x)
    y.backward(grad)
    exact = [t.detach().double().requires_grad_() for t in (x, a, b)]
    want = group_rational(*exact, backend="reference")
    want.backward(grad.double())
    got = (y, x.grad, layer.numerator.grad, layer.denominator.grad)
    names = ("y", "dx", "dnumerator", "ddenominator")
    pairs = zip(names, got, (want, *(t.grad for t in exact)), strict=True)
    return {name: ((g - w).norm() / w.norm()).item() for name, g, w in pairs}


def main() -> None:
    cases = [(*shape, torch.float32, shape[0] != 65) for shape in SHAPES]
    result = {str(case): errors(*case) for case in cases}
    half = errors(7, 24, 2, torch.bfloat16, True)
    half["dx"] = half["dx"] if half["dx"] > 4e-3 else 0.0  # rounded to the type of x by autograd
    result["bfloat16, cast to float32"] = half
    print(json.dumps(result))


@pytest.mark.slow
def test_flashkat_2_forward_and_gradients_against_float64():
    pytest.importorskip("triton")
    environment = {
        **os.environ,
        "TRITON_INTERPRET": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(BENCHMARKS),
    }
    done = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    cases = json.loads(done.stdout.splitlines()[-1])
    assert len(cases) == len(SHAPES) + 1
    bad = {f"{case}: {name}": e for case, row in cases.items() for name, e in row.items() if not e <= TOLERANCE}
    assert not bad


@pytest.mark.slow
@pytest.mark.parametrize("width", [24, 96, 384])
def test_flashkat_2_kernels_compile_for_hopper(width, tmp_path, monkeypatch):
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import _flashkat_style as style

    for kernel, block in ((style._forward, style.FORWARD_BLOCK), (style._backward, style.BLOCK)):
        names = kernel.arg_names
        constants = {"D": 8 * width, "WIDTH": width, "BLOCK": block}
        numbers = {"count": "i32", "rows": "i32"}
        signature = {name: "constexpr" if name in constants else numbers.get(name, "*fp32") for name in names}
        values = {(names.index(name),): value for name, value in constants.items()}
        aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if name.endswith("_ptr")}
        built = triton.compile(ASTSource(kernel, signature, values, aligned), target=GPUTarget("cuda", 90, 32))
        atomics = built.asm["ptx"].count("atom.")
        assert atomics == (10 if kernel is style._backward else 0)


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(4096 + 3, 768, 8), (100, 192, 8)])
def test_flashkat_2_on_a_gpu(shape, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    with torch.device("cuda"):
        found = errors(*shape, torch.float32, True)
    assert all(error <= TOLERANCE for error in found.values()), found


if __name__ == "__main__":
    main()
