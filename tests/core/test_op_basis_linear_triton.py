"""The Triton kernels of every basis, fused and expanded once, in Triton's interpreter: a child process, this file.

The interpreter is slow (milliseconds per operation of a program), so tiles and shapes are as small as they can be and
still cross every edge of a tile. Compiling for a GPU needs no interpreter and no GPU.
"""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
import warnings

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from kan_core import bases
from kan_core.layers import KANLinear
from kan_core.ops.basis_linear import PlaneForm, basis_linear

TOLERANCE = 1e-5  # the card's: ||error|| / ||reference|| of float32 against float64
BACKENDS = ("triton", "expand")

# Recurrences other than these differ in numbers only; see test_table_of_a_recurrence_gives_the_polynomials.
# Of each group the first basis sees several tiles, which is the kernels' affair, the others one that is not full.
GROUPS = {
    "bumps": [
        "relu-kan(grid_size=2, order=1)",
        "rbf(num_centers=3, trainable=True)",
        "rswaf(num_centers=3, trainable=True)",
    ],
    "polynomials": [
        "jacobi(degree=3, alpha=0.5, beta=-0.5)",
        "laguerre(degree=2)",
        "chebyshev(degree=3, squash=False)",
    ],
    "waves": ["fourier(num_frequencies=2)", "fourier(num_frequencies=2, smooth=True)"],
    "knots": [
        f"bspline(grid_size=2, order={k}, edge='{e}', grid_eps=0)"
        for k, e in [(2, "decay"), (1, "decay"), (1, "clamp"), (3, "clamp"), (5, "decay")]
    ],
    "bspline": [
        f"bspline(grid_size=2, order={k}, edge='{e}')"
        for k, e in [(2, "clamp"), (1, "decay"), (3, "decay"), (5, "clamp")]
    ],
}


def make(spec: str, inputs: int) -> bases.Basis:
    torch.manual_seed(inputs)
    basis = bases.get(spec).bind(inputs)
    if "grid_eps" in spec:
        basis.update_grid(torch.randn(40, inputs))
        assert not basis.uniform
    return basis


def inputs_of(basis: bases.Basis, batch: int) -> Tensor:
    """Random, and for splines also on their knots, at the ends of the grid and beyond it."""
    x = torch.randn(batch, basis.in_features)
    if isinstance(basis, bases.BSpline):
        special = [*basis.grid.T, *basis.knots.T[[0, -1]], basis.knots.T[0] - 1, basis.knots.T[-1] + 1]
        for row, value in enumerate(special[: max(batch - 3, 0)]):
            x[row] = value
    elif basis.domain is not None and "squash=False" in repr(basis):
        x = x.tanh()
    return x


def run(basis: bases.Basis, x: Tensor, weight: Tensor, grad: Tensor | None, backend: str, **options) -> dict:
    """Output and gradients, those of the basis's parameters too; without `grad` of the sum, an expanded gradient."""
    basis = copy.deepcopy(basis)
    x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
    y = basis_linear(x, weight, basis.plane_form(), planes=basis.planes, backend=backend, **options)
    y.sum().backward() if grad is None else y.backward(grad.to(y.dtype))
    return {"y": y.detach(), "dx": x.grad, "dweight": weight.grad, **{n: p.grad for n, p in basis.named_parameters()}}


def errors(backend: str, basis: bases.Basis, x: Tensor, weight: Tensor, grad: Tensor | None, **options) -> dict:
    """Relative RMS errors; infinity for another shape, dtype, NaN or, where many rows are run again, other bits."""
    got = run(basis, x, weight, grad, backend, **options)
    again = run(basis, x, weight, grad, backend, **options) if len(x) > 16 else got
    exact = copy.deepcopy(basis).double()
    want = run(exact, x.double(), weight.double(), grad, "reference", **options)
    if x.isnan().any():  # of y and dweight nothing is hidden, but slopes at a NaN may be anything
        got, again, want = ({name: r[name] for name in ("y", "dweight")} for r in (got, again, want))
    result = {}
    for name, expected in want.items():
        value = got[name]
        same = value.shape == expected.shape and value.dtype == torch.float32
        same = same and torch.equal(value.isnan(), expected.isnan()) and not value.isinf().any()
        same = same and torch.equal(value.nan_to_num(), again[name].nan_to_num())
        difference = (value - expected).nan_to_num().norm() / expected.nan_to_num().norm().clamp(min=1e-30)
        result[name] = difference.item() if same else float("inf")
    return result


# --- in the child


def parity(*groups: str) -> dict[str, dict[str, float]]:
    """The card's matrix: batch 0, 1 and odd; one input, one output, no multiples of a tile; far inputs, NaN."""
    result = {}
    for group, number in [(name, number) for name in groups for number in range(len(GROUPS[name]))]:
        spec = GROUPS[group][number]
        rows, outputs = (11, 7) if number else (17, 19)
        small, basis = make(spec, 1), make(spec, 3)
        wide = make(spec, 5)
        planes = basis.num_functions
        far = torch.zeros(4, 3)
        far[0], far[1], far[2] = 1e4, -1e4, 1e-40
        spoiled = inputs_of(basis, 3)
        spoiled[1, 2] = torch.nan
        cases = {
            "B0": (basis, inputs_of(basis, 0), torch.randn(planes + 1, 3, 2), torch.randn(0, 2), True),
            "B1-in1-out1": (small, inputs_of(small, 1), torch.randn(planes, 1, 1), torch.randn(1, 1), False),
            f"B{rows}-in5-out{outputs}": (
                *(wide, inputs_of(wide, rows), torch.randn(planes + 1, 5, outputs)),
                *(torch.randn(rows, outputs), True),
            ),
            "far": (basis, far, torch.randn(planes, 3, 2), torch.randn(4, 2), False),
            "NaN": (basis, spoiled, torch.randn(planes, 3, 2), torch.randn(3, 2), False),
        }
        fused = [] if group == "bspline" else ["triton"]  # its own op's tests have that matrix
        for backend in [*fused, "expand"]:
            for name, (*case, silu) in cases.items():
                result[f"{spec} {backend} {name}"] = errors(backend, *case, silu=silu)
    return result


def layouts() -> dict[str, dict[str, float]]:
    """Other strides, chunks and splits, with the family that has a gradient of its table."""
    from kan_core.ops._triton import launch

    basis = make("relu-kan(grid_size=2, order=1)", 17)
    x, weight, grad = torch.rand(6, 17), torch.randn(3, 17, 5), torch.randn(6, 5)
    doubled = torch.zeros(6, 34)
    doubled[:, ::2] = x
    shared = copy.deepcopy(basis)
    shared.centers = torch.nn.Parameter(basis.centers.detach()[:, :1].expand(3, 17))
    cases = {
        "x transposed": (basis, x.t().contiguous().t(), weight, grad),
        "x every other column": (basis, doubled[:, ::2], weight, grad),
        "x expanded": (basis, x[:1].expand(6, 17), weight, grad),
        "weight transposed": (basis, x, weight.transpose(1, 2).contiguous().transpose(1, 2), grad),
        "centres expanded": (shared, x, weight, grad),
        "grad transposed": (basis, x, weight, torch.randn(5, 6).t()),
        "grad expanded": (basis, x, weight, None),
        "leading dimensions": (basis, x.view(2, 3, 17), weight, grad.view(2, 3, 5)),
    }
    result = {f"{b} {name}": errors(b, *case) for b in BACKENDS for name, case in cases.items()}
    launch.CHUNK_BYTES = 4 * 4 * 17 * 4  # four rows: 6 are a chunk and a half
    result["expand chunks"] = errors("expand", basis, x, torch.randn(4, 17, 5), grad, silu=True)
    launch.MAX_SPLITS = 1
    recurrent = make("legendre(degree=3)", 17)
    result["triton unsplit"] = errors("triton", recurrent, x, torch.randn(4, 17, 5), grad)
    return result


def registration() -> dict[str, bool]:
    """What torch sees of the op."""
    basis = make("relu-kan(grid_size=2, order=1)", 4)
    x, weight = torch.rand(5, 4, requires_grad=True), torch.randn(4, 4, 3, requires_grad=True)
    facts = {}
    table = basis.plane_form().table.detach().requires_grad_()
    for backend in BACKENDS:
        inputs = (x, weight, None, None, "relu-kan", 0, 0.0, True, torch.float32, table, backend)
        torch.library.opcheck(torch.ops.kan.basis_linear_fwd, inputs)
        with torch.no_grad():
            for needs in [(True, True, True), (False, True, False), (False, False, True)]:
                torch.library.opcheck(
                    torch.ops.kan.basis_linear_bwd,
                    (torch.randn(5, 3), *inputs, *needs),
                    test_utils=("test_schema", "test_faketensor"),
                )
    facts["opcheck"] = True

    for backend in BACKENDS:
        options = {"planes": basis.planes, "silu": True, "backend": backend}
        saved: list[Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, saved=saved: saved.append(t) or t, lambda t: t):
            y = basis_linear(x, weight, PlaneForm("relu-kan", table=table), **options)
        sizes = sorted(t.shape for t in saved if t.dim() > 1)
        facts[f"{backend}: x and parameters are saved"] = sizes == sorted([x.shape, weight.shape, table.shape])

        second = []
        for name in (backend, "reference"):
            y = basis_linear(x, weight, basis.plane_form(), **options | {"backend": name})
            first = torch.autograd.grad(y.square().sum(), (x, weight), create_graph=True)
            penalty = sum(g.square().sum() for g in first)
            second.append(torch.autograd.grad(penalty, (x, weight, *basis.parameters())))
        facts[f"{backend}: second derivatives of the reference"] = all(map(torch.allclose, *second))

        with FlopCounterMode(display=False) as counter:
            basis_linear(x, weight, basis.plane_form(), **options).sum().backward()
        facts[f"{backend}: three products"] = counter.get_total_flops() == 3 * 2 * 5 * weight.numel()

        module = KANLinear(4, 3, basis="laguerre(degree=2)", backend=backend)
        compiled = torch.compile(module, fullgraph=True, dynamic=True, backend="aot_eager")
        facts[f"{backend}: compiles to the same bits"] = torch.equal(compiled(x), module(x))

        weight.grad = None
        fixed = make("rbf(num_centers=3)", 4)
        frozen = basis_linear(x.detach(), weight[:3], fixed.plane_form(), planes=fixed.planes, backend=backend)
        frozen.sum().backward()
        facts[f"{backend}: gradient of the weight alone"] = weight.grad is not None
    return facts


def layers() -> dict[str, dict[str, float]]:
    """A layer by each backend: with the base branch as a plane, beside it, and without one."""
    result = {}
    x = torch.randn(2, 3, 4)
    for spec, options in {
        "rbf(num_centers=3)": {},
        "relu-kan(grid_size=2, order=1)": {"norm": "layer"},
        "hermite(degree=2)": {"base": "gelu", "edge_scale": True},
        "bspline(grid_size=2, order=2, grid_eps=0)": {"base": None},
    }.items():
        torch.manual_seed(0)
        exact = KANLinear(4, 3, spec, init_scale=1.0, dtype=torch.float64, **options)
        if exact.basis.adaptive:
            exact.update_grid(torch.randn(40, 4, dtype=torch.float64))
        exact.float()
        for backend in BACKENDS:
            module = copy.deepcopy(exact)
            module.backend = backend
            reference = copy.deepcopy(exact).double()
            outputs = [m(x.to(m.weight.dtype)) for m in (module, reference)]
            for y in outputs:
                y.square().sum().backward()
            pairs = {"y": outputs} | {
                name: (p.grad, q.grad)
                for (name, p), q in zip(module.named_parameters(), reference.parameters(), strict=True)
            }
            result[f"{spec} {backend}"] = {n: ((a - b).norm() / b.norm()).item() for n, (a, b) in pairs.items()}
    return result


# --- in the parent


def child(*groups: str) -> dict:
    """The parity of these groups, or all the rest, from a process with the interpreter, where warnings are errors."""
    result = subprocess.run(
        [sys.executable, __file__, *groups],
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
@pytest.mark.parametrize("groups", [("bumps", "polynomials", "waves"), ("knots", "bspline")], ids="-".join)
def test_parity_matrix(groups):
    cases = child(*groups)
    assert len(cases) == sum((1 if group == "bspline" else 2) * 5 * len(GROUPS[group]) for group in groups)
    assert_small(cases)


@pytest.fixture(scope="module")
def found() -> dict:
    return child()


@pytest.mark.slow
def test_layouts_chunks_and_splits(found):
    cases = found["layouts"]
    assert len(cases) == 2 * 8 + 2
    assert_small(cases)


@pytest.mark.slow
def test_registration(found):
    facts = found["registration"]
    assert len(facts) == 11
    assert all(facts.values()), facts


@pytest.mark.slow
def test_layers(found):
    cases = found["layers"]
    assert len(cases) == 8
    assert_small(cases)


# Others differ from these in where they look for the argument, or not at all.
COMPILED = ["bspline-clamp", "knots-clamp", "rbf", "polynomial-tanh", "fourier"]
SPEC = {
    "bspline-clamp": "bspline(edge='clamp')",
    "knots-clamp": "bspline(edge='clamp', grid_eps=0)",
    "polynomial-tanh": "laguerre(degree=7)",
    "fourier": "fourier(num_frequencies=4, smooth=True)",
}


@pytest.mark.slow
@pytest.mark.parametrize(("family", "dtype"), [*((family, "bf16") for family in COMPILED), ("bspline-clamp", "fp32")])
def test_kernels_compile_for_hopper(family, dtype, monkeypatch, tmp_path):
    """To machine code, no GPU needed; half precision must reach the tensor cores, and no tile may spill registers."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    basis = make(SPEC.get(family, family), 3)
    for kernel in ("forward", "input_gradient", "weight_gradient", "expand", "contract"):
        compiled = compile_for_hopper(kernel, basis, dtype)
        assert ("wgmma" in compiled.asm["ptx"]) == (dtype == "bf16" and kernel not in ("expand", "contract"))
        assert compiled.metadata.shared <= 227 * 1024
        if dtype == "bf16":  # with its largest tiles
            (tmp_path / "kernel.cubin").write_bytes(compiled.asm["cubin"])
            tool = triton.knobs.nvidia.cuobjdump.path
            command = [tool, "-res-usage", tmp_path / "kernel.cubin"]
            usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            (stack,) = map(int, re.findall(r"STACK:(\d+)", usage))
            assert stack <= 8, f"{kernel}: {usage}"


def compile_for_hopper(kernel: str, basis: bases.Basis, dtype: str):
    """The kernel as it is launched for this basis and large sizes; float32 in small tiles, which compile sooner."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from kan_core.ops._triton import kernels, launch
    from kan_core.ops.basis_linear.custom import planes_of

    form = basis.plane_form()
    function = getattr(kernels, f"{'input_gradient' if kernel == 'contract' else kernel}_kernel")
    planes, table = planes_of(form.family), form.table
    gradient = kernel in ("input_gradient", "contract") and planes.table_slopes is not None
    if dtype == "bf16":
        heavy = gradient or kernel in planes.heavy
        tiles = launch.choose_tiles(kernel, 4096, 1000, 1000, torch.bfloat16, heavy)
    else:
        tiles = launch.Tiles(32, 32, 32)
    functions = {name.upper(): part for name, part in planes._asdict().items() if name != "heavy"}
    constants = {
        **{"IN": 1000, "OUT": 1000, "K": basis.num_functions, "ORDER": form.order, "SILU": True, "PRECISION": "ieee"},
        **{"ROWS": 0 if table is None else table.shape[1], "SHARED": table is not None and table.shape[2] == 1},
        **{"EXPANDED": kernel == "contract", **functions, **tiles._asdict()},
        **{name: None for name, value in zip("ab", (form.a, form.b), strict=True) if value is None},
        **({"table": None} if table is None else {}),
        **({} if gradient else {"dtable": None}),
    }
    names = function.arg_names
    kinds = {"batch": "i32", "offset": "fp32", **dict.fromkeys(["a", "b", "table", "dtable", "dw"], "*fp32")}
    signature = {name: "constexpr" if name in constants else kinds.get(name, f"*{dtype}") for name in names}
    source = ASTSource(
        function,
        signature,
        {(names.index(name),): value for name, value in constants.items() if name in names},
        {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if signature[name].startswith("*")},
    )
    options = {"num_warps": launch.num_warps(kernel, tiles), "num_stages": launch.STAGES}
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)


if __name__ == "__main__":
    import quick_interpreter  # noqa: F401 - beside this script

    warnings.simplefilter("error")
    groups = sys.argv[1:]
    rest = (layers, registration, layouts)  # layouts last: it changes how kernels are launched
    print(json.dumps(parity(*groups) if groups else {function.__name__: function() for function in rest}))
