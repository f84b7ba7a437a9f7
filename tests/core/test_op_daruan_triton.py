"""The Triton kernels of the DARUAN op, in Triton's interpreter: a child process, this file run as a script.

The interpreter is slow (a tenth of a millisecond per operation of a program), so shapes are as small as they can be and
still cross the edges of tiles and of parts of the rows.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings

import pytest
import torch
from torch import Tensor

from kan_core.errors import KANError
from kan_core.ops.daruan import daruan_linear

NAMES = ("y", "dx", "dtheta", "dfrequency", "dphase", "dfactor")
# ||error|| / ||reference|| of float32 against float64, as the conventions have it. Seen: 4e-7, once 4e-6.
TOLERANCE = 1e-5


def problem(rows: int, features: int, outputs: int, reps: int, gates: int = 2, scale: float = 1.0) -> list[Tensor]:
    """x and the parameters in float32; with `scale`, larger angles w x."""
    torch.manual_seed(rows + 10 * features + 100 * reps)
    shapes = [(outputs, features, reps + 1, gates), (outputs, features, reps), (outputs, features, reps)]
    return [
        torch.randn(rows, features) * scale,
        *(torch.randn(shape) * 2 for shape in shapes),
        torch.randn(outputs, features),
    ]


def run(backend: str, tensors: list[Tensor], grad: Tensor | None, readout: str) -> dict[str, Tensor]:
    """Output and gradients; without `grad` those of the sum of y, whose gradient is an expanded scalar."""
    tensors = [t.detach().requires_grad_() for t in tensors]
    y = daruan_linear(*tensors, readout=readout, backend=backend)
    results = torch.autograd.grad(y.sum(), tensors) if grad is None else torch.autograd.grad(y, tensors, grad.to(y))
    return dict(zip(NAMES, (y.detach(), *results), strict=True))


def errors(tensors: list[Tensor], grad: Tensor | None = None, readout: str = "exact") -> dict[str, float]:
    """Relative RMS errors; infinity for another shape, dtype or NaN."""
    got, want = (
        run(b, t, grad, readout) for b, t in (("triton", tensors), ("reference", [*map(Tensor.double, tensors)]))
    )
    result = {}
    for name, expected in want.items():
        value, expected = got[name].double(), expected.double()
        same = value.shape == expected.shape and torch.equal(value.isnan(), expected.isnan())
        difference = (value - expected).nan_to_num().norm() / expected.nan_to_num().norm().clamp(min=1e-30)
        result[name] = difference.item() if same else float("inf")
    return result


# --- in the child


def parity(reps: int) -> dict[str, dict[str, float]]:
    """Batch 0, 1 and odd; widths of 1 and odd; both circuits and read-outs."""
    shapes = [(0, 2, 3), (1, 1, 1), (17, 3, 17), (17, 17, 2)] if reps == 1 else [(0, 2, 3), (1, 1, 1), (7, 2, 3)]
    cases = {}
    for number, shape in enumerate(shapes):
        for gates, readout in ((2, "exact"), (1, "fast")):
            tensors = problem(*shape, reps, gates)
            if readout == "fast":  # away from the poles of the read-out, where its slope is infinite
                tensors[1] /= 20
            grad = torch.randn(shape[0], shape[2]) if number else None
            cases[f"{shape}-{gates}-{readout}"] = errors(tensors, grad, readout)
    return cases


def layouts() -> dict[str, dict[str, float]]:
    """Parts of the rows, other strides, half precision, float64, NaN, and angles as large as the card asks for."""
    from kan_core.ops.daruan import triton_kernels

    x, *parameters = problem(17, 3, 5, 2)
    grad = torch.randn(17, 5)
    wide = torch.zeros(17, 6)
    wide[:, ::2] = x
    spoiled = x.clone()
    spoiled[5, 1] = torch.nan
    cases = {
        "129 rows": errors(problem(129, 1, 2, 1), torch.randn(129, 2)),
        "x every other column": errors([wide[:, ::2], *parameters], grad),
        "x expanded": errors([x[:1].expand(17, 3), *parameters], grad),
        "parameters expanded": errors([x, *(p[:1].expand(p.shape) for p in parameters)], grad),
        "grad transposed": errors([x, *parameters], torch.randn(5, 17).t()),
        "grad expanded": errors([x, *parameters]),
        "leading dimensions": errors([x[:16].view(2, 8, 3), *parameters], grad[:16].view(2, 8, 5)),
        "NaN": errors([spoiled, *parameters], grad),
        "NaN, fast": errors([spoiled, *(p / 10 for p in parameters)], grad, "fast"),
    }
    triton_kernels.MIN_ROWS = 4
    cases["four parts of 17 rows"] = errors([x, *parameters], grad)
    return cases


def facts() -> dict[str, float]:
    """Largest absolute errors, and what must be true."""
    result = {}
    for reps, reach in ((1, 100), (3, 100), (1, 1e4)):
        x, *parameters = problem(33, 1, 16, reps, 1)
        x = torch.linspace(-reach, reach, 33)[:, None]
        parameters[1] /= parameters[1].abs().max()
        parameters[3].fill_(1)
        y = daruan_linear(x, *parameters, backend="triton")
        want = daruan_linear(x.double(), *(p.double() for p in parameters), backend="reference")
        result[f"r = {reps}, |w x| <= {reach}"] = (y - want).abs().max().item()
    tensors = problem(17, 3, 5, 2)
    far = daruan_linear(torch.full((1, 3), 1e30), *tensors[1:], backend="triton")
    result["finite for 1e30"] = float(not far.isfinite().all())
    double = [t.double() for t in tensors]
    one, other = (run(backend, double, torch.ones(17, 5), "exact") for backend in ("triton", "reference"))
    result["float64"] = max(((one[n] - other[n]).norm() / other[n].norm()).item() for n in NAMES)
    once, again = (run("triton", tensors, torch.ones(17, 5), "exact") for _ in range(2))
    result["same bits"] = float(not all(torch.equal(once[n], again[n]) for n in NAMES))
    half = tensors[0].half().requires_grad_()
    y = daruan_linear(half, *tensors[1:], backend="triton")
    y.sum().backward()
    same = torch.equal(y, daruan_linear(half.detach().float(), *tensors[1:], backend="triton"))
    result["half x"] = float(not (same and half.grad.dtype == torch.float16 and y.dtype == torch.float32))
    return result


# --- in the parent


@pytest.fixture(scope="module")
def found() -> dict:
    """What the functions above return in a process with the interpreter, where warnings are errors."""
    result = subprocess.run(
        [sys.executable, __file__],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout.splitlines()[-1])


def assert_small(cases: dict[str, dict[str, float]]) -> None:
    bad = {f"{case}: {name}": e for case, row in cases.items() for name, e in row.items() if not e <= TOLERANCE}
    assert not bad


triton = pytest.importorskip("triton")


@pytest.mark.slow
@pytest.mark.parametrize("reps", [1, 8])
def test_parity_matrix(reps, found):
    cases = found[f"parity {reps}"]
    assert len(cases) == (6 if reps == 8 else 8)
    assert_small(cases)


@pytest.mark.slow
def test_layouts_parts_and_nan(found):
    cases = found["layouts"]
    assert len(cases) == 10
    assert_small(cases)


@pytest.mark.slow
def test_qkan_card_float32_error_within_5e_6_and_large_angles_float64_and_determinism(found):
    numbers = dict(found["facts"])
    assert numbers.pop("float64") <= 1e-13
    assert all(error <= (5e-6 if "w x" in name else 0) for name, error in numbers.items()), numbers


def test_no_triton_without_a_gpu_or_the_interpreter(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(KANError, match="argument backend is 'triton', but the input is on cpu"):
        daruan_linear(*problem(2, 3, 2, 1), backend="triton")


@pytest.mark.slow
@pytest.mark.parametrize("fast", [False, True], ids=["exact", "fast"])
@pytest.mark.parametrize("kernel", ["_forward", "_input_gradient", "_parameter_gradients"])
def test_kernels_compile_for_hopper_without_spills(kernel, fast, monkeypatch, tmp_path):
    """To machine code, no GPU needed; the angles are reduced in float64, the waves are polynomials in float32."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from kan_core.ops.daruan import triton_kernels as kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    function = getattr(kernels, kernel)
    names = function.arg_names
    values = {"IN": 256, "OUT": 256, "REPS": 3, "FAST": fast, "BE": kernels.EDGES}
    values |= dict(zip(("BM", "BO"), kernels.FORWARD_TILE, strict=True))
    values |= dict(zip(("BM", "BI"), kernels.INPUT_TILE, strict=True)) if kernel == "_input_gradient" else {}
    constants = {name: value for name, value in values.items() if name in names}
    kinds = {"rows": "i32", "part": "i32"}
    signature = {name: "constexpr" if name in constants else kinds.get(name, "*fp32") for name in names}
    source = ASTSource(
        function,
        signature,
        {(names.index(name),): value for name, value in constants.items()},
        {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if signature[name].startswith("*")},
    )
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": kernels.WARPS})
    ptx = compiled.asm["ptx"].upper()
    assert "0D3FD45F306DC9C883" in ptx  # 1/pi in float64, not one rounded to float32
    assert "SIN.APPROX" not in ptx
    (tmp_path / "kernel.cubin").write_bytes(compiled.asm["cubin"])
    tool = triton.knobs.nvidia.cuobjdump.path
    usage = subprocess.run([tool, "-res-usage", tmp_path / "kernel.cubin"], capture_output=True, text=True, check=True)
    assert "STACK:0" in usage.stdout, usage.stdout


if __name__ == "__main__":
    import quick_interpreter  # noqa: F401 - beside this script

    warnings.simplefilter("error")
    results = {f"parity {reps}": parity(reps) for reps in (1, 8)}
    # layouts last: it changes how kernels are launched
    print(json.dumps({**results, "facts": facts(), "layouts": layouts()}))
