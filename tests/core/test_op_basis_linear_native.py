"""The C kernels of bases other than uniform B-splines, against the bases' own planes in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from kan_core import KANLinear, bases
from kan_core.bases import Basis
from kan_core.errors import KANError
from kan_core.ops import _native, basis_linear, explain
from kan_core.ops._native import product
from kan_core.ops.basis_linear.reference import form_planes

pytestmark = pytest.mark.skipif(bool(_native.unavailable()), reason=_native.unavailable() or "built")

F64 = torch.float64
SPECS = [
    "rbf",
    "rbf(num_centers=5, width=0.7, trainable=True)",
    "rswaf(trainable=True)",
    "relu-kan(grid_range=(-1, 1))",
    "chebyshev(degree=7)",
    "chebyshev(squash=False)",
    "legendre(degree=1)",
    "jacobi(degree=4, alpha=0.5, beta=-0.5)",
    "gegenbauer",
    "hermite",
    "laguerre(degree=5)",
    "gram(trainable=False)",
    "fourier(num_frequencies=7)",
    "fourier(num_frequencies=3, smooth=True)",
    *(f"bspline(grid_size=4, order={k}, edge='{edge}')" for k in (1, 2, 3, 5) for edge in ("decay", "clamp")),
]
SHAPES = [(1, 1, 1), (3, 17, 64), (7, 5, 33), (130, 9, 17), (0, 3, 2)]


def problem(name: str, inputs: int) -> Basis:
    """The basis for these inputs, its parameters away from where they start, its knots uneven."""
    torch.manual_seed(0)
    basis = bases.get(name).bind(inputs, dtype=F64)
    if isinstance(basis, bases.BSpline):
        basis.update_grid(torch.randn(100, inputs, dtype=F64))
    for parameter in basis.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return basis


def gradients(basis: Basis, x: Tensor, weight: Tensor, grad: Tensor, backend: str, silu: bool) -> dict[str, Tensor]:
    inputs = {
        "x": x.detach().requires_grad_(),
        "weight": weight.detach().requires_grad_(),
        **dict(basis.named_parameters()),
    }
    y = basis_linear(*[*inputs.values()][:2], basis.plane_form(), planes=basis.planes, silu=silu, backend=backend)
    found = torch.autograd.grad(y, [*inputs.values()], grad)
    return {"y": y.detach(), **dict(zip(inputs, found, strict=True))}


def assert_same(got: dict[str, Tensor], want: dict[str, Tensor], rms: float) -> None:
    for key, expected in want.items():
        assert got[key].shape == expected.shape, key
        error = (got[key] - expected).double().norm() / expected.double().norm().clamp(min=1e-30)
        assert error <= rms, f"{key}: relative RMS error {error:.2e} > {rms:.0e}"


@pytest.mark.parametrize("name", SPECS)
def test_the_reference_of_a_form_is_the_basis(name):
    basis = problem(name, 3)
    x = torch.randn(20, 3, dtype=F64)
    form = basis.plane_form()
    assert form is not None
    torch.testing.assert_close(form_planes(x, form, basis.num_functions), basis.planes(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("silu", [False, True], ids=["basis", "silu"])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "B{}-in{}-out{}".format(*s))
@pytest.mark.parametrize("name", SPECS)
def test_float64_equals_the_basis(name, shape, silu):
    batch, inputs, outputs = shape
    basis = problem(name, inputs)
    x = torch.randn(batch, inputs, dtype=F64)
    weight = torch.randn(basis.num_functions + silu, inputs, outputs, dtype=F64)
    args = (basis, x, weight, torch.randn(batch, outputs, dtype=F64))
    assert_same(gradients(*args, "native", silu), gradients(*args, "reference", silu), rms=1e-11)


@pytest.mark.parametrize("name", SPECS)
def test_float32_is_close_to_float64(name):
    basis = problem(name, 33)
    x = torch.randn(200, 33).double()
    weight, grad = torch.randn(basis.num_functions + 1, 33, 65, dtype=F64), torch.randn(200, 65, dtype=F64)
    want = gradients(basis, x, weight, grad, "reference", True)
    single = problem(name, 33).float()
    got = gradients(single, x.float(), weight.float(), grad.float(), "native", True)
    # numbers that all inputs share have gradients that mostly cancel
    shared = {n for n, p in basis.named_parameters() if p.numel() <= basis.num_functions}
    assert_same(got, {n: t for n, t in want.items() if n not in shared}, rms=1e-5)
    assert_same(got, {n: t for n, t in want.items() if n in shared}, rms=1e-3)


@pytest.mark.parametrize("name", SPECS)
def test_far_inputs_are_finite_and_nan_is_not_hidden(name):
    if "squash=False" in name or "hermite" in name:
        pytest.skip("a polynomial of a large number is a larger one")
    basis = problem(name, 3).float()
    x = torch.tensor([[0.0, 1e4, -1e4], [1e-40, 30, -30], [0.1, torch.nan, 0.2]])
    weight = torch.randn(basis.num_functions, 3, 2)
    got = gradients(basis, x, weight, torch.ones(3, 2), "native", False)
    assert got["y"][:2].isfinite().all()
    assert got["x"][:2].isfinite().all()
    assert got["y"][2].isnan().all()


def test_waves_keep_their_phase_far_out():
    basis = bases.get("fourier(num_frequencies=8)").bind(1, dtype=torch.float32)
    x = torch.linspace(-1e4, 1e4, 2001).unsqueeze(1)
    weight = torch.eye(16).unsqueeze(1)
    y = basis_linear(x, weight, basis.plane_form(), planes=basis.planes, backend="native")
    want = bases.get("fourier(num_frequencies=8)").bind(1, dtype=F64).planes(x.double()).squeeze(-1)
    assert (y - want).abs().max() < 2e-6  # the product k x itself would have lost 4e-3


@pytest.mark.parametrize("name", ["rbf", "relu-kan", "laguerre", "fourier", "bspline(order=3)"])
def test_layouts_chunks_threads_and_runs_give_the_same_bits(name, monkeypatch):
    basis = problem(name, 9)
    x, weight = torch.randn(203, 9, dtype=F64), torch.randn(basis.num_functions + 1, 9, 5, dtype=F64)
    grad = torch.randn(203, 5, dtype=F64)
    want = gradients(basis, x, weight, grad, "native", True)
    assert_same(gradients(basis, x, weight, grad, "native", True), want, rms=0)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1 if threads > 1 else 2)
        planes = gradients(basis, x, weight, grad, "native", True)
    finally:
        torch.set_num_threads(threads)
    assert_same(planes, want, rms=1e-14)  # the GEMM's own sums depend on them
    assert_same(
        gradients(basis, x.t().contiguous().t(), weight, grad.t().contiguous().t(), "native", True), want, rms=0
    )
    monkeypatch.setattr(product, "CHUNK_ELEMENTS", 17 * weight[:, :, 0].numel())
    assert_same(gradients(basis, x, weight, grad, "native", True), want, rms=1e-13)


@pytest.mark.parametrize("name", ["rbf(trainable=True)", "relu-kan", "chebyshev", "fourier", "bspline(order=3)"])
def test_gradcheck_twice(name):
    basis = problem(name, 2)
    # off the knots, and off the ends of supports, where second derivatives jump
    x = torch.tensor([[0.31, -0.42], [0.83, 0.57], [-0.77, 0.13]], dtype=F64, requires_grad=True)
    weight = torch.randn(basis.num_functions + 1, 2, 3, dtype=F64, requires_grad=True)
    table = basis.plane_form().table
    inputs = (x, weight) if table is None else (x, weight, table.detach().requires_grad_(name.startswith("r")))

    def op(x, weight, *table):
        form = basis.plane_form()._replace(table=table[0]) if table else basis.plane_form()
        return basis_linear(x, weight, form, planes=basis.planes, silu=True, backend="native")

    assert gradcheck(op, inputs)
    assert gradgradcheck(op, inputs)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["relu-kan", "chebyshev"])
def test_opcheck_compile_and_autocast(name):
    layer = KANLinear(4, 3, name)
    x = torch.randn(5, 4, requires_grad=True)
    form = layer.basis.plane_form()
    inputs = (x, layer.weight, form.a, form.b, form.family, form.order, form.offset, True, x.dtype)
    torch.library.opcheck(torch.ops.kan.basis_linear_fwd, (*inputs, form.table.detach(), "native"))
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), layer(x))
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
        assert layer(x.bfloat16()).dtype == torch.bfloat16
    torch.testing.assert_close(torch.vmap(layer)(x), layer(x))


def test_auto_takes_the_kernels_and_says_what_it_cannot():
    x = torch.randn(5, 4)
    (choice,) = explain(KANLinear(4, 3, "rbf"), x)
    assert choice == ("basis_linear", "native", "the input is on the CPU")
    (choice,) = explain(KANLinear(4, 3, "rbf(num_centers=300)"), x)
    assert choice.name == "reference"
    assert "up to 256 functions, not 300" in choice.reason
    with pytest.raises(KANError, match="up to 256 functions, not 300"):
        KANLinear(4, 3, "rbf(num_centers=300)", backend="native")(x)
    layer = KANLinear(4, 3, "rbf")
    got = torch.func.grad(lambda v: layer(v).sum())(x)  # takes the reference by itself
    (want,) = torch.autograd.grad(layer(x.requires_grad_()).sum(), x)
    torch.testing.assert_close(got, want)
