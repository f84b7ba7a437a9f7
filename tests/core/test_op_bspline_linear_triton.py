"""The Triton kernels of the B-spline linear op, in Triton's interpreter: a child process, this file run as a script.

That they compile for a GPU is seen in test_op_basis_linear_triton.py, with those of the other bases.

The interpreter is slow (milliseconds per operation of a program), so tiles and shapes are as small as they can be and
still cross every edge of a tile.
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
from torch.utils.flop_counter import FlopCounterMode

from kan_core.errors import KANError
from kan_core.ops import bspline_linear

TOLERANCE = 1e-6  # of the card's 1e-5: ||error|| / ||reference|| of float32 against float64


def problem(batch: int, d_in: int, d_out: int, cells: int, order: int, silu: bool = True):
    """x (within and beyond the grids, on knots and ends), weight, lo, step; knots exact in float32."""
    torch.manual_seed(batch + 100 * d_in + order)
    lo, step = -1 - torch.randint(0, 8, (d_in,)) / 8, 0.5 ** torch.randint(1, 3, (d_in,))
    x = lo + step * cells * (1.6 * torch.rand(batch, d_in) - 0.3)
    special = [lo + step * cells, lo, lo + step, lo + 9 * step * cells, lo - 9 * step * cells]
    for row, value in enumerate(special[: max(batch - 1, 0)]):
        x[row] = value
    return x, torch.randn(cells + order + silu, d_in, d_out), lo, step


def run(backend: str, x: Tensor, weight: Tensor, lo: Tensor, step: Tensor, grad: Tensor | None, **options):
    """Output and gradients; without `grad` those of the sum of y, whose gradient is an expanded scalar."""
    x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
    y = bspline_linear(x, weight, lo, step, backend=backend, **options)
    if grad is None:
        y.sum().backward()
    else:
        y.backward(grad.to(y.dtype))
    return {"y": y.detach(), "dx": x.grad, "dweight": weight.grad}


def errors(x: Tensor, weight: Tensor, lo: Tensor, step: Tensor, grad: Tensor | None, **options) -> dict[str, float]:
    """Relative RMS errors; infinity for another shape, dtype, NaN or, where several tiles are run again, other bits."""
    got = run("triton", x, weight, lo, step, grad, **options)
    again = run("triton", x, weight, lo, step, grad, **options) if x.shape == (17, 17) else dict(got)
    want = run("reference", x.double(), weight.double(), lo.double(), step.double(), grad, **options)
    for gradients in (got, again, want):  # of y nothing is hidden, but the slope at a NaN may be anything
        gradients["dx"][x.isnan()] = 0
    result = {}
    for name, expected in want.items():
        value = got[name]
        same = value.shape == expected.shape and value.dtype == torch.float32
        same = same and torch.equal(value.isnan(), expected.isnan())
        same = same and torch.equal(value.nan_to_num(), again[name].nan_to_num())
        difference = (value - expected).nan_to_num().norm() / expected.nan_to_num().norm().clamp(min=1e-30)
        result[name] = difference.item() if same else float("inf")
    return result


# --- in the child


PARITY = [(2, "clamp"), (3, "decay"), (5, "decay")]
SHAPES = [(0, 5, 16), (1, 16, 17), (17, 17, 5)]


def parity() -> dict[str, dict[str, float]]:
    """The card's matrix: batch 0, 1 and odd; widths that are not multiples of a tile; and a row of many tiles."""
    cases = [(order, edge, shape) for order, edge in PARITY for shape in SHAPES]
    result = {}
    for order, edge, shape in [*cases, (3, "decay", (7, 40, 5)), (3, "decay", (33, 17, 16))]:
        result[f"{order}-{edge}-{shape}"] = errors(
            *problem(*shape, 2 if order == 5 else 3, order),
            torch.randn(shape[0], shape[2]),
            **{"order": order, "edge": edge, "silu": True},
        )
    return result


def layouts() -> dict[str, dict[str, float]]:
    """Other strides, NaN, no SiLU plane, and tiles of three different sizes."""
    from kan_core.ops._triton import launch

    options = {"order": 3, "edge": "decay", "silu": False}
    x, weight, lo, step = problem(7, 9, 5, 3, 3, silu=False)
    grad = torch.randn(7, 5)
    wide = torch.zeros(7, 18)
    wide[:, ::2] = x
    spoiled = x.clone()
    spoiled[5, 3] = torch.nan
    cases = {
        "x transposed": (x.t().contiguous().t(), weight, lo, step, grad),
        "x every other column": (wide[:, ::2], weight, lo, step, grad),
        "x expanded": (x[:1].expand(7, 9), weight, lo, step, grad),
        "weight transposed": (x, weight.transpose(1, 2).contiguous().transpose(1, 2), lo, step, grad),
        "lo and step expanded": (x, weight, lo[:1].expand(9), step[:1].expand(9), grad),
        "grad transposed": (x, weight, lo, step, torch.randn(5, 7).t()),
        "grad expanded": (x, weight, lo, step, None),
        "leading dimensions": (x[:6].view(2, 3, 9), weight, lo, step, grad[:6].view(2, 3, 5)),
        "NaN": (spoiled, weight, lo, step, grad),
    }
    result = {name: errors(*case, **options) for name, case in cases.items()}
    launch.INTERPRETER_TILES = launch.Tiles(32, 16, 64)
    result["tiles 32, 16, 64"] = errors(*problem(33, 17, 65, 2, 1), torch.randn(33, 65), order=1, silu=True)
    launch.INTERPRETER_TILES = launch.Tiles(16, 64, 32)
    result["tiles 16, 64, 32"] = errors(*problem(17, 65, 33, 2, 2), torch.randn(17, 33), order=2, edge="clamp")
    return result


def registration() -> dict[str, bool]:
    """What torch sees of the op."""
    x, weight, lo, step = problem(5, 4, 3, 2, 3)
    x.requires_grad_()
    weight.requires_grad_()
    options = {"order": 3, "silu": True, "backend": "triton"}
    facts = {}
    inputs = (x, weight, lo, step, "bspline-decay", 3, 1.0, True, torch.float32)
    torch.library.opcheck(torch.ops.kan.basis_linear_fwd, inputs)
    with torch.no_grad():
        for needs in [(True, True), (False, True), (True, False)]:
            arguments = (torch.randn(5, 3), *inputs, None, "triton", *needs, False)
            torch.library.opcheck(
                torch.ops.kan.basis_linear_bwd, arguments, test_utils=("test_schema", "test_faketensor")
            )
    facts["opcheck"] = True

    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        y = bspline_linear(x, weight, lo, step, **options)
    facts["only x and parameters are saved"] = sorted(t.shape for t in saved) == sorted(
        t.shape for t in (x, weight, lo, step)
    )

    second = []
    for backend in ("triton", "reference"):
        y2 = bspline_linear(x, weight, lo, step, **options | {"backend": backend})
        (dx,) = torch.autograd.grad(y2.square().sum(), x, create_graph=True)
        second.append(torch.autograd.grad(dx.square().sum(), (x, weight)))
    facts["second derivatives of the reference"] = all(map(torch.allclose, *second))

    expanded = bspline_linear(x, weight, lo, step, **options | {"backend": "expand"})
    facts["expanded once it is the same"] = torch.allclose(expanded, y)

    compiled = torch.compile(bspline_linear, fullgraph=True, dynamic=True, backend="aot_eager")
    facts["compiles to the same bits"] = torch.equal(compiled(x, weight, lo, step, **options), y)

    with FlopCounterMode(display=False) as counter:
        bspline_linear(x, weight, lo, step, **options).sum().backward()
    facts["three products are counted"] = counter.get_total_flops() == 3 * 2 * 5 * weight.numel()
    x.grad = weight.grad = None

    bspline_linear(x.detach(), weight, lo, step, **options).sum().backward()
    facts["gradient of the weight alone"] = x.grad is None and weight.grad is not None
    return facts


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
def test_parity_matrix(found):
    cases = found["parity"]
    assert len(cases) == len(PARITY) * len(SHAPES) + 2
    assert_small(cases)


@pytest.mark.slow
def test_layouts_nan_and_tiles(found):
    cases = found["layouts"]
    assert len(cases) == 11
    assert_small(cases)


@pytest.mark.slow
def test_registration(found):
    facts = found["registration"]
    assert len(facts) == 7
    assert all(facts.values()), facts


def test_no_triton_without_a_gpu_or_the_interpreter(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    x, weight, lo, step = problem(3, 4, 2, 3, 3)
    with pytest.raises(KANError, match="argument backend is 'triton', but the input is on cpu"):
        bspline_linear(x, weight, lo, step, order=3, silu=True, backend="triton")


@pytest.mark.parametrize(
    ("order", "edge", "dtype", "reason"),
    [
        (3, "linear", torch.float32, "edges 'decay' and 'clamp', not 'linear'; use backend='auto'"),
        (0, "decay", torch.float32, "orders 1 to 5, not 0; use backend='auto'"),
        (6, "decay", torch.float32, "orders 1 to 5, not 6; use backend='auto'"),
        (3, "decay", torch.float64, "do not compute in float64; use backend='auto'"),
    ],
)
def test_what_the_kernels_do_not_compute_is_refused(monkeypatch, order, edge, dtype, reason):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    args = [t.to(dtype) for t in problem(3, 4, 2, 3, order)]
    with pytest.raises(KANError, match=reason):
        bspline_linear(*args, order=order, edge=edge, silu=True, backend="triton")


def test_on_cuda_the_op_is_one_node_in_the_dtype_of_x():
    """With tensors that have a device, shape and dtype only: no GPU is needed to see which op is called."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils._python_dispatch import TorchDispatchMode

    class Names(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.add(str(func))
            return func(*args, **(kwargs or {}))

    seen: set[str] = set()
    options = {"order": 3, "silu": True, "backend": "triton"}
    with FakeTensorMode(), Names():
        x, weight = torch.empty(6, 4, device="cuda"), torch.empty(7, 4, 3, device="cuda")
        lo, step = torch.empty(4, device="cuda"), torch.empty(4, device="cuda")
        half = bspline_linear(x.bfloat16(), weight.bfloat16(), lo, step, **options)
        y = bspline_linear(x.view(2, 3, 4), weight, lo, step, **options)
    assert "kan.basis_linear_fwd.default" in seen
    assert not {name for name in seen if "mm" in name or "matmul" in name}
    assert (half.dtype, y.dtype, y.shape) == (torch.bfloat16, torch.float32, (2, 3, 3))


if __name__ == "__main__":
    import quick_interpreter  # noqa: F401 - beside this script

    warnings.simplefilter("error")
    # layouts last: it changes how kernels are launched
    print(json.dumps({function.__name__: function() for function in (parity, registration, layouts)}))
