"""The B-spline linear op: its definition against scipy and golden values, and the CPU path against its definition."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.utils.flop_counter import FlopCounterMode

from kan_core.errors import KANError
from kan_core.ops import _native, bspline_linear, explain, use_backend
from kan_core.ops.bspline_linear.reference import bspline_planes

EDGES = ["decay", "clamp", "linear"]
C_KERNELS = pytest.mark.skipif(bool(_native.unavailable()), reason=_native.unavailable() or "built")
KERNELS = ["cpu", pytest.param("native", marks=C_KERNELS), pytest.param("sparse", marks=C_KERNELS)]


def planes(x: list[float] | Tensor, order: int, edge: str = "decay", cells: int = 5) -> Tensor:
    """All basis functions on `cells` cells of [-1, 1] at the points x: (points, K), float64."""
    x = torch.as_tensor(x, dtype=torch.float64).unsqueeze(-1)
    lo, step = torch.tensor([-1.0], dtype=torch.float64), torch.tensor([2 / cells], dtype=torch.float64)
    return bspline_planes(x, lo, step, cells + order, order, edge).squeeze(-1)


def problem(
    n: int, d_in: int, d_out: int, cells: int, order: int, *, silu: bool = True, dtype: torch.dtype = torch.float64
):
    """x (within and beyond the grids, on knots and ends), weight, lo, step; one grid per feature."""
    lo = -1 - 0.1 * torch.rand(d_in, dtype=dtype)
    step = (1 - lo) / cells
    x = lo + step * cells * (1.6 * torch.rand(n, d_in, dtype=dtype) - 0.3)
    for row, value in enumerate(
        [lo, lo + step * cells, lo + step, lo + 9 * step * cells, lo - 9 * step * cells][: n // 2]
    ):
        x[row] = value
    weight = torch.randn(cells + order + silu, d_in, d_out, dtype=dtype)
    return x, weight, lo, step


def run(
    backend: str, x: Tensor, weight: Tensor, lo: Tensor, step: Tensor, grad: Tensor, **options
) -> dict[str, Tensor]:
    """Output and gradients."""
    x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
    y = bspline_linear(x, weight, lo, step, backend=backend, **options)
    y.backward(grad)
    return {"y": y.detach(), "dx": x.grad, "dweight": weight.grad}


def assert_same(got: dict[str, Tensor], want: dict[str, Tensor], rms: float) -> None:
    for name, expected in want.items():
        assert got[name].shape == expected.shape, name
        assert got[name].dtype == expected.dtype, name
        error = (got[name] - expected).double().norm() / expected.double().norm().clamp(min=1e-30)
        assert error <= rms, f"{name}: relative RMS error {error:.2e} > {rms:.0e}"


# --- the definition


@pytest.mark.parametrize("order", range(1, 6))
@pytest.mark.parametrize("cells", [1, 5])
def test_planes_equal_scipy(order, cells):
    x = torch.linspace(-1.9, 1.9, 381, dtype=torch.float64)
    knots = -1 + 2 / cells * np.arange(-order, cells + order + 1)
    for c, got in enumerate(planes(x, order, cells=cells).T):
        element = BSpline.basis_element(knots[c : c + order + 2], extrapolate=False)
        np.testing.assert_allclose(got, np.nan_to_num(element(x)), atol=1e-12)


def test_order_zero_is_half_open_cells_with_the_last_closed():
    got = planes([-1.2, -1.0, -0.6, 0.99, 1.0, 1.0001], 0)
    want = torch.zeros(6, 5, dtype=torch.float64)
    want[[1, 2, 3, 4], [0, 1, 4, 4]] = 1
    assert torch.equal(got, want)


@pytest.mark.parametrize(
    ("x", "order", "first", "values"),
    [
        (0.3, 3, 3, [0.0703125, 0.61197917, 0.31510417, 0.00260417]),
        (-0.9, 3, 0, [0.0703125, 0.61197917, 0.31510417, 0.00260417]),
        (0.0, 3, 2, [0.02083333, 0.47916667, 0.47916667, 0.02083333]),
        (1.2, 3, 5, [0.02083333, 0.47916667, 0.47916667]),
        (2.3, 3, 0, []),
        (0.3, 2, 3, [0.28125, 0.6875, 0.03125]),
        (0.3, 1, 3, [0.75, 0.25]),
        (0.3, 5, 3, [0.00197754, 0.12491048, 0.51964518, 0.32807617, 0.02538249, 8.14e-6]),
    ],
    ids=lambda v: str(v) if isinstance(v, int | float) else "",
)
def test_golden_values(x, order, first, values):
    want = torch.zeros(5 + order, dtype=torch.float64)
    want[first : first + len(values)] = torch.tensor(values, dtype=torch.float64)
    torch.testing.assert_close(planes([x], order)[0], want, atol=6e-9, rtol=0)


@pytest.mark.parametrize(
    ("x", "first", "values"),
    [(0.3, 3, [-0.703125, -1.015625, 1.640625, 0.078125]), (1.2, 5, [-0.3125, -1.5625, 1.5625])],
    ids=["inside", "outside"],
)
@pytest.mark.parametrize("backend", ["reference", *KERNELS])
def test_golden_slopes(x, first, values, backend):
    weight = torch.eye(8, dtype=torch.float64).unsqueeze(1)  # output c is basis function c
    lo, step = torch.tensor([-1.0], dtype=torch.float64), torch.tensor([0.4], dtype=torch.float64)
    points = torch.full((8, 1), x, dtype=torch.float64, requires_grad=True)
    bspline_linear(points, weight, lo, step, order=3, backend=backend).diagonal().sum().backward()
    want = torch.zeros(8, dtype=torch.float64)
    want[first : first + len(values)] = torch.tensor(values, dtype=torch.float64)
    torch.testing.assert_close(points.grad[:, 0], want, atol=1e-12, rtol=0)


@pytest.mark.parametrize("order", range(6))
@pytest.mark.parametrize("edge", EDGES)
def test_partition_of_unity(order, edge):
    x = (
        torch.linspace(-1, 1, 401, dtype=torch.float64)
        if edge == "decay"
        else torch.linspace(-3, 3, 401, dtype=torch.float64)
    )
    values = planes(x, order, edge)
    torch.testing.assert_close(values.sum(1), torch.ones_like(x), atol=1e-13, rtol=0)
    if edge != "linear":
        assert values.min() >= 0
        assert (values > 0).sum(1).max() <= order + 1


@pytest.mark.parametrize("order", range(1, 6))
@pytest.mark.parametrize("backend", ["reference", *KERNELS])
def test_greville_coefficients_reproduce_the_identity(order, backend):
    # the mean of the `order` inner knots of function c; "linear" continues the identity beyond the grid
    greville = -1 + 0.4 * (torch.arange(5 + order, dtype=torch.float64) - order + (order + 1) / 2)
    x = torch.linspace(-2, 2, 101, dtype=torch.float64).unsqueeze(1)
    lo, step = torch.tensor([-1.0], dtype=torch.float64), torch.tensor([0.4], dtype=torch.float64)
    y = bspline_linear(x, greville.view(-1, 1, 1), lo, step, order=order, edge="linear", backend=backend)
    torch.testing.assert_close(y, x, atol=1e-13, rtol=0)


@pytest.mark.parametrize("backend", ["reference", *KERNELS])
def test_order_one_is_interpolation(backend):
    x, weight, lo, step = problem(50, 1, 1, 7, 1, silu=False)
    y = bspline_linear(x, weight, lo, step, order=1, edge="clamp", backend=backend)
    knots = lo.numpy() + step.numpy() * np.arange(8)
    np.testing.assert_allclose(y[:, 0], np.interp(x[:, 0], knots, weight[:, 0, 0]), atol=1e-12)


@pytest.mark.parametrize("backend", ["reference", *KERNELS])
@pytest.mark.parametrize("silu", [False, True], ids=["spline", "silu"])
def test_beyond_the_extended_grid_only_silu_is_left(backend, silu):
    x, weight, lo, step = problem(4, 3, 2, 5, 3, silu=silu)
    x = torch.full_like(x, 9.0)
    got = run(backend, x, weight, lo, step, torch.ones(4, 2, dtype=x.dtype), order=3, silu=silu)
    if silu:
        torch.testing.assert_close(got["y"], torch.nn.functional.silu(x) @ weight[-1])
    else:
        assert torch.equal(got["y"], torch.zeros_like(got["y"]))
        assert torch.equal(got["dx"], torch.zeros_like(x))


# --- the CPU path is the definition

SHAPES = [(1, 1, 1, 1), (3, 17, 64, 5), (7, 5, 257, 5), (100, 3, 17, 20), (1300, 33, 9, 4), (0, 3, 2, 2)]
SHAPE_IDS = ["B{}-in{}-out{}-G{}".format(*shape) for shape in SHAPES]


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("shape", SHAPES, ids=SHAPE_IDS)
@pytest.mark.parametrize("order", range(6), ids="k{}".format)
@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("silu", [False, True], ids=["spline", "silu"])
def test_kernels_equal_the_reference(backend, shape, order, edge, silu):
    x, weight, lo, step = problem(*shape, order, silu=silu)
    args = (x, weight, lo, step, torch.randn(shape[0], shape[2], dtype=x.dtype))
    options = {"order": order, "edge": edge, "silu": silu}
    assert_same(run(backend, *args, **options), run("reference", *args, **options), rms=1e-14)


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("order", [1, 2, 3, 5], ids="k{}".format)
@pytest.mark.parametrize("backend", ["reference", *KERNELS])
def test_float32_is_close_to_float64(order, edge, backend):
    args = problem(200, 33, 65, 5, order, dtype=torch.float32)
    x = args[2] + args[3] * (args[0] - args[2]).div(args[3]).mul(64).round().add(0.5).div(
        64
    )  # off the knots: slopes jump there
    args = (x, *args[1:], torch.randn(200, 65))
    want = run("reference", *(t.double() for t in args), order=order, edge=edge, silu=True)
    assert_same(
        run(backend, *args, order=order, edge=edge, silu=True), {k: v.float() for k, v in want.items()}, rms=2e-6
    )


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_half_precision_is_computed_in_float32(dtype, backend):
    args = [t.to(dtype) for t in (*problem(64, 9, 7, 5, 3, dtype=torch.float32), torch.randn(64, 7))]
    got = run(backend, *args, order=3, silu=True)
    want = run(backend, *(t.float() for t in args), order=3, silu=True)
    assert all(torch.equal(got[name], value.to(dtype)) for name, value in want.items())


@pytest.mark.parametrize("backend", KERNELS)
def test_chunks_give_what_one_block_gives(backend, monkeypatch):
    from kan_core.ops._native import product
    from kan_core.ops.bspline_linear import cpu, native

    x, weight, lo, step = problem(203, 6, 5, 4, 3)
    args = (x, weight, lo, step, torch.randn(203, 5, dtype=x.dtype))
    for order, edge in itertools.product([2, 3], EDGES):
        planes = weight[: 4 + order + 1]
        whole = run(backend, x, planes, *args[2:], order=order, edge=edge, silu=True)
        with monkeypatch.context() as patch:
            patch.setattr(cpu, "BLOCK_ELEMENTS", 7 * planes[:, :, 0].numel())
            patch.setattr(cpu, "MIN_ROWS", 17)
            patch.setattr(product, "CHUNK_ELEMENTS", 17 * planes[:, :, 0].numel())
            patch.setattr(native, "SPARSE_ROWS", 17)
            assert_same(run(backend, x, planes, *args[2:], order=order, edge=edge, silu=True), whole, rms=1e-14)


@pytest.mark.parametrize("backend", ["reference", *KERNELS])
def test_layouts(backend):
    x, weight, lo, step = problem(24, 6, 5, 4, 3)
    grad = torch.randn(24, 5, dtype=x.dtype)
    want = run(backend, x, weight, lo, step, grad, order=3, silu=True)
    transposed = x.t().contiguous().t()
    strided = torch.stack([x, x], dim=1)[:, 0]
    for other in (transposed, strided):
        assert not other.is_contiguous()
        assert_same(
            run(backend, other, weight, lo, step, grad.t().contiguous().t(), order=3, silu=True), want, rms=1e-14
        )
    permuted = weight.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    assert_same(run(backend, x, permuted, lo, step, grad, order=3, silu=True), want, rms=1e-14)
    cube = run(backend, x.view(2, 3, 4, 6), weight, lo, step, grad.view(2, 3, 4, 5), order=3, silu=True)
    assert_same({k: v.view(want[k].shape) for k, v in cube.items()}, want, rms=1e-14)
    row = bspline_linear(x[7], weight, lo, step, order=3, silu=True, backend=backend)
    torch.testing.assert_close(row, want["y"][7])


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("edge", EDGES)
def test_expanded_gradient(edge, backend):
    x, weight, lo, step = problem(24, 6, 5, 4, 3)
    ones = run(backend, x, weight, lo, step, torch.ones(24, 5, dtype=x.dtype), order=3, edge=edge, silu=True)
    expanded = torch.ones((), dtype=x.dtype).expand(24, 5)
    assert_same(run(backend, x, weight, lo, step, expanded, order=3, edge=edge, silu=True), ones, rms=0)


@pytest.mark.parametrize("backend", KERNELS)
def test_only_the_gradients_that_are_asked_for(backend):
    x, weight, lo, step = problem(24, 6, 5, 4, 3)
    grad = torch.randn(24, 5, dtype=x.dtype)
    want = run(backend, x, weight, lo, step, grad, order=3, silu=True)
    lo.requires_grad_()
    for needs_x, needs_weight in [(True, False), (False, True)]:
        a, w = x.clone().requires_grad_(needs_x), weight.clone().requires_grad_(needs_weight)
        bspline_linear(a, w, lo, step, order=3, silu=True, backend=backend).backward(grad)
        assert (a.grad is None) != needs_x
        assert (w.grad is None) != needs_weight
        torch.testing.assert_close(a.grad if needs_x else w.grad, want["dx" if needs_x else "dweight"])
    assert lo.grad is None  # grid state


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("order", [2, 3], ids="k{}".format)
@pytest.mark.parametrize("backend", ["reference", *KERNELS])
def test_gradcheck(backend, order, edge):
    lo, step = torch.tensor([-1.0, -0.5], dtype=torch.float64), torch.tensor([0.5, 0.4], dtype=torch.float64)
    # inside, beyond the ends, beyond the extended grid; never close to a knot, where "clamp" has a kink
    x = torch.tensor(
        [[-0.93, -0.41], [0.11, 0.37], [0.97, 1.02], [-1.31, -0.73], [1.43, 1.29], [7.0, -6.0]], dtype=torch.float64
    )
    weight = torch.randn(4 + order + 1, 2, 3, dtype=torch.float64)
    inputs = (x.requires_grad_(), weight.requires_grad_())

    def op(x, weight):
        return bspline_linear(x, weight, lo, step, order=order, edge=edge, silu=True, backend=backend)

    assert gradcheck(op, inputs)
    assert gradgradcheck(op, inputs)  # of a kernel's gradient through the reference


@pytest.mark.parametrize("order", [0, 1, 3], ids="k{}".format)
@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("backend", ["reference", *KERNELS])
def test_nan_reaches_the_output(backend, edge, order):
    x, weight, lo, step = problem(5, 3, 2, 5, order, silu=False)
    x[2, 1] = torch.nan
    y = bspline_linear(x, weight, lo, step, order=order, edge=edge, backend=backend)
    assert y[2].isnan().all()
    assert y[[0, 1, 3, 4]].isfinite().all()


@pytest.mark.parametrize("edge", ["decay", "clamp"])
@pytest.mark.parametrize("backend", ["reference", *KERNELS])
def test_infinite_inputs_are_beyond_the_grid(backend, edge):
    _, weight, lo, step = problem(2, 3, 2, 5, 3, silu=False)
    x = torch.tensor([[torch.inf] * 3, [-torch.inf] * 3], dtype=torch.float64)
    far = torch.tensor([[1e3] * 3, [-1e3] * 3], dtype=torch.float64)
    y, want = (bspline_linear(v, weight, lo, step, order=3, edge=edge, backend=backend) for v in (x, far))
    torch.testing.assert_close(y, want)


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("edge", EDGES)
def test_same_bits_twice(edge, backend):
    args = (*problem(1500, 31, 33, 5, 3, dtype=torch.float32), torch.randn(1500, 33))
    first, second = (run(backend, *args, order=3, edge=edge, silu=True) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("backend", ["auto", *KERNELS])
def test_memory_does_not_grow_with_the_grid(backend):
    """The workspace of forward and backward is bounded; what is left grows with the weights alone."""
    from torch.profiler import ProfilerActivity, profile

    from kan_core.ops._native import product

    def workspace(cells: int) -> int:
        product.release_workspace()
        args = (*problem(32768, 64, 8, cells, 3, dtype=torch.float32), torch.randn(32768, 8))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the profiler's own
            with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as prof:
                run(backend, *args, order=3, silu=True)
        alive = peak = 0
        for event in prof.profiler.kineto_results.events():
            if event.name() == "[memory]":
                alive += event.nbytes()
                peak = max(peak, alive)
        return peak - args[1].nbytes

    expanded = 32768 * 54 * 64 * 4  # what keeping the planes of 50 cells would take
    assert workspace(50) < 1.5 * workspace(5) < 0.75 * expanded


# --- registration, compile, autocast, dispatch


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize(("needs_x", "needs_weight"), [(True, True), (False, True), (False, False)])
def test_opcheck(needs_x, needs_weight, backend):
    x, weight, lo, step = problem(9, 4, 3, 5, 3)
    inputs = (x.requires_grad_(needs_x), weight.requires_grad_(needs_weight), lo, step, 3, "decay", True, backend)
    torch.library.opcheck(torch.ops.kan.bspline_linear_fwd, inputs)


@pytest.mark.parametrize("backend", KERNELS)
def test_opcheck_backward(backend):
    x, weight, lo, step = problem(9, 4, 3, 5, 2)
    grad = torch.randn(9, 3, dtype=x.dtype)
    for needs in [(True, True), (True, False), (False, True)]:
        inputs = (grad, x, weight, lo, step, 2, "clamp", True, backend, *needs)
        torch.library.opcheck(torch.ops.kan.bspline_linear_bwd, inputs, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize("backend", ["auto", "reference", *KERNELS])
def test_compile_fullgraph(backend):
    x, weight, lo, step = problem(9, 4, 3, 5, 3)
    grad = torch.randn(9, 3, dtype=x.dtype)
    want = run("reference", x, weight, lo, step, grad, order=3, silu=True)
    forward = torch.compile(bspline_linear, fullgraph=True, dynamic=True, backend="aot_eager")
    a, w = x.clone().requires_grad_(), weight.clone().requires_grad_()
    y = forward(a, w, lo, step, order=3, silu=True, backend=backend)
    y.backward(grad)
    assert_same({"y": y.detach(), "dx": a.grad, "dweight": w.grad}, want, rms=1e-13)


def test_compiled_code_follows_use_backend(monkeypatch):
    x, weight, lo, step = problem(9, 4, 3, 5, 3)
    seen: list[str] = []

    def record(graph, _):
        seen.append("op" if "bspline_linear_fwd" in str(graph.graph) else "reference")
        return graph.forward

    def compiled() -> str:
        torch.compiler.reset()
        forward = torch.compile(bspline_linear, fullgraph=True, backend=record)
        forward(x, weight, lo, step, order=3, silu=True)
        with use_backend("cpu"):
            forward(x, weight, lo, step, order=3, silu=True)
        forward(x, weight, lo, step, order=3, edge="linear", silu=True)  # no closed form: the op stays one node
        with use_backend("reference"):
            forward(x, weight, lo, step, order=3, edge="linear", silu=True)
        return [seen.pop(0) for _ in range(len(seen))]

    # C kernels beat what the compiler makes of the closed form; without them it beats torch's own passes
    assert compiled() == ["reference" if _native.unavailable() else "op", "op", "op", "reference"]
    monkeypatch.setattr(_native, "unavailable", lambda: "there is no compiler")
    assert compiled() == ["reference", "op", "op", "reference"]


def test_export_is_ordinary_ops():
    _, weight, lo, step = problem(9, 4, 3, 5, 3)

    class Layer(torch.nn.Module):
        def forward(self, x):
            return bspline_linear(x, weight, lo, step, order=3, silu=True)

    x = torch.randn(9, 4, dtype=torch.float64)
    program = torch.export.export(Layer(), (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    assert "kan." not in str(program.graph)
    torch.testing.assert_close(program.module()(x[:5]), Layer()(x[:5]))


@pytest.mark.parametrize("backend", ["reference", *KERNELS])
def test_vmap(backend):
    x, weight, lo, step = problem(12, 4, 3, 5, 3)
    weights = torch.stack([weight, weight + 1])

    def one(row, weight=weight):
        return bspline_linear(row, weight, lo, step, order=3, silu=True, backend=backend)

    torch.testing.assert_close(torch.vmap(one)(x), one(x))
    torch.testing.assert_close(torch.vmap(one, in_dims=1, out_dims=1)(x.view(3, 4, 4)), one(x.view(3, 4, 4)))
    ensemble = torch.vmap(one, in_dims=(None, 0))(x, weights)
    torch.testing.assert_close(ensemble, torch.stack([one(x, w) for w in weights]))


@pytest.mark.parametrize("backend", KERNELS)
def test_gradients_of_a_vmapped_call(backend):
    x, weight, lo, step = problem(12, 4, 3, 5, 3)
    weights = torch.stack([weight, weight + 1])
    grad = torch.randn(2, 12, 3, dtype=x.dtype)

    def gradients(backend):
        inputs = (x.clone().requires_grad_(), weights.clone().requires_grad_())
        one = lambda w: bspline_linear(inputs[0], w, lo, step, order=3, silu=True, backend=backend)  # noqa: E731
        return torch.autograd.grad(torch.vmap(one)(inputs[1]), inputs, grad)

    for got, want in zip(gradients(backend), gradients("reference"), strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("backend", ["reference", *KERNELS])
def test_autocast_decides_the_dtype_of_the_output_only(backend):
    args = (*problem(64, 9, 7, 5, 3, dtype=torch.float32), torch.randn(64, 7))
    want = run(backend, *args, order=3, silu=True)
    with torch.autocast("cpu", torch.bfloat16):
        got = run(backend, *args[:-1], args[-1].bfloat16(), order=3, silu=True)
        half = bspline_linear(args[0].bfloat16(), *args[1:4], order=3, silu=True, backend=backend)
    assert torch.equal(got["y"], want["y"].bfloat16())
    assert got["dx"].dtype == got["dweight"].dtype == torch.float32
    assert half.dtype == torch.bfloat16
    double = problem(4, 3, 2, 5, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert bspline_linear(*double, order=3, silu=True, backend=backend).dtype == torch.float64


def test_flop_counter_counts_the_matrix_product():
    x, weight, lo, step = problem(10, 4, 3, 5, 3, dtype=torch.float32)
    product = 2 * 10 * 9 * 4 * 3
    with FlopCounterMode(display=False) as forward:
        y = bspline_linear(x, weight.requires_grad_(), lo, step, order=3, silu=True)
    with FlopCounterMode(display=False) as backward:
        y.sum().backward()
    assert forward.get_total_flops() == backward.get_total_flops() == product
    x.requires_grad_()
    with FlopCounterMode(display=False) as both:
        bspline_linear(x, weight, lo, step, order=3, silu=True).sum().backward()
    assert both.get_total_flops() == 3 * product


def test_order_of_precedence(monkeypatch):
    x, *others = problem(2, 3, 2, 5, 3)

    def choice(x=x, **options):
        (found,) = explain(lambda x: bspline_linear(x, *(t.to(x.device) for t in others), order=3, **options), x)
        return found

    assert choice().name in ("cpu", "native")
    monkeypatch.setenv("KAN_BACKEND", "reference")
    assert choice() == ("bspline_linear", "reference", "requested by the environment variable KAN_BACKEND")
    with use_backend("cpu"):
        assert choice() == ("bspline_linear", "cpu", "requested by use_backend")
        assert choice(backend="reference").name == "reference"
        with use_backend("reference"):
            assert choice().name == "reference"
        assert choice().name == "cpu"
    assert choice().name == "reference"
    assert choice(x.to("meta"), backend="reference").name == "reference"


def test_unknown_and_impossible_backends(monkeypatch):
    x, weight, lo, step = problem(2, 3, 2, 5, 3)
    options = {"order": 3, "silu": True}
    with pytest.raises(KANError, match="argument backend is 'cuda'; choose one of auto, reference, cpu"):
        bspline_linear(x, weight, lo, step, **options, backend="cuda")
    with pytest.raises(KANError, match="use_backend got 'fast'; choose one of"), use_backend("fast"):
        pass
    meta = [t.to("meta") for t in (x, weight, lo, step)]
    with pytest.raises(KANError, match="is 'cpu', but the input is on meta"):
        bspline_linear(*meta, **options, backend="cpu")
    assert bspline_linear(*meta, **options).shape == (2, 2)
    monkeypatch.setenv("KAN_BACKEND", "quick")
    with pytest.raises(KANError, match="KAN_BACKEND is 'quick'; choose one of"):
        bspline_linear(x, weight, lo, step, **options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            {"x": torch.zeros(2, 4)}, r"x must be \(..., 3\) to fit the weight, got shape \(2, 4\)", id="x-size"
        ),
        pytest.param({"x": torch.zeros(())}, r"x must be \(..., 3\)", id="x-scalar"),
        pytest.param({"x": torch.zeros(2, 3, dtype=torch.long)}, "floating dtype, got torch.int64", id="x-integer"),
        pytest.param(
            {"x": torch.zeros(2, 3).double()}, "one floating dtype, got torch.float64 and torch.float32", id="x-double"
        ),
        pytest.param({"lo": torch.zeros(1)}, r"lo and step must have shape \(3,\), got \(1,\)", id="lo-size"),
        pytest.param({"weight": torch.zeros(4, 3, 2)}, "at least 5 planes", id="no-cell"),
        pytest.param({"weight": torch.zeros(9, 3)}, "at least 5 planes", id="weight-2d"),
        pytest.param({"weight": torch.zeros(9, 3, 2, device="meta")}, "one device", id="devices"),
        pytest.param({"order": -1}, "order must not be negative, got -1", id="order"),
        pytest.param({"edge": "wrap"}, "edge is 'wrap'; choose one of decay, clamp, linear", id="edge"),
    ],
)
def test_bad_input(change, message):
    good = {
        "x": torch.zeros(2, 3),
        "weight": torch.zeros(9, 3, 2),
        "lo": torch.zeros(3),
        "step": torch.ones(3),
        "order": 3,
    }
    with pytest.raises(KANError, match=message):
        bspline_linear(**{**good, "silu": True, **change})
