"""The linear op of the other bases, without kernels: forms, definition, dispatch, layers; the kernels: *_triton.py."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kan_core import bases
from kan_core.errors import KANError
from kan_core.layers import KANLinear
from kan_core.ops import _native, explain, use_backend
from kan_core.ops.basis_linear import PlaneForm, basis_linear

WITHOUT_KERNELS = {
    "bspline-linear",
    "bspline-matrix",
    "bspline-matrix-linear",
    "bspline-recursion",
    "bernstein",
    "gram-trainable",
    "bsrbf",
    "sine",
    "sine-integer",
    "wavelet",
    "wavelet-morlet",
    "wavelet-dog",
    "wavelet-meyer",
    "wavelet-shannon",
    "sech",
    "sech-width",
    "sech-frozen",
    "af",
    "af-cubic",
}

POLYNOMIALS = [
    "chebyshev(degree=5)",
    "chebyshev(squash=False)",
    "legendre(degree=5)",
    "jacobi(degree=4, alpha=0.5, beta=-0.5)",
    "gegenbauer(degree=4, alpha=0.7)",
    "hermite(degree=1)",
    "laguerre(degree=5)",
    "laguerre(squash=False)",
    "gram(degree=4)",
]


def bound(spec: str, inputs: int = 3, dtype: torch.dtype = torch.float64) -> bases.Basis:
    return bases.get(spec).bind(inputs, dtype=dtype)


def uneven(order: int = 3, edge: str = "decay", inputs: int = 3) -> bases.BSpline:
    basis = bound(f"bspline(grid_size=4, order={order}, edge='{edge}', grid_eps=0)", inputs)
    torch.manual_seed(order)
    basis.update_grid(torch.randn(50, inputs, dtype=torch.float64))
    return basis


# --- forms


def test_which_bases_have_kernels(spec, request):
    assert (bound(spec).plane_form() is None) == (request.node.callspec.id in WITHOUT_KERNELS)


@pytest.mark.parametrize("name", POLYNOMIALS)
def test_table_of_a_recurrence_gives_the_polynomials(name):
    basis = bound(name)
    form = basis.plane_form()
    x = torch.linspace(-1, 1, 9, dtype=torch.float64)[:, None].expand(-1, 3)
    u = torch.tanh(x) + form.offset if form.family == "polynomial-tanh" else x
    older, newer, planes = torch.zeros_like(u), torch.ones_like(u), []
    for a, b, c in form.table:
        planes.append(newer)
        older, newer = newer, (a * u + b) * newer - c * older
    torch.testing.assert_close(torch.stack(planes, dim=-2), basis.planes(x), rtol=1e-13, atol=1e-13)


def test_recurrence_keeps_its_digits_in_half_precision():
    table = bound("legendre(degree=4)").to(torch.bfloat16).plane_form().table
    assert table.dtype == torch.float32
    torch.testing.assert_close(table[3, 0], torch.tensor([7 / 4]))
    torch.testing.assert_close(table[2, 2], torch.tensor([2 / 3]))
    assert bound("legendre", dtype=torch.float32).to("meta").plane_form().table.is_meta


@pytest.mark.parametrize("name", POLYNOMIALS)
def test_forms_leave_the_state_dict_alone(name):
    assert not bound(name).state_dict()


def test_knots_of_each_function():
    basis = uneven(2)
    form = basis.plane_form()
    assert (form.family, form.order, form.table.shape) == ("knots-decay", 2, (6, 4, 3))
    for c in range(6):
        assert torch.equal(form.table[c], basis.knots.T[c : c + 4])
    assert torch.equal(form.a, basis.grid[:, 0])
    assert torch.equal(form.b, basis.grid[:, -1])


@pytest.mark.parametrize("name", ["rbf(trainable=True)", "rswaf(trainable=True)", "relu-kan"])
def test_gradient_of_the_table_reaches_the_parameters(name):
    basis = bound(name)
    basis.plane_form().table.square().sum().backward()
    assert all(p.grad is not None and p.grad.norm() > 0 for p in basis.parameters())


# --- definition, dtypes, dispatch


def test_reference_is_the_planes_times_the_weight():
    basis = bound("rbf(num_centers=5)")
    x, weight = torch.randn(2, 4, 3, dtype=torch.float64), torch.randn(6, 3, 7, dtype=torch.float64)
    want = torch.einsum("abki,kio->abo", basis.planes(x), weight[:-1]) + torch.nn.functional.silu(x) @ weight[-1]
    y = basis_linear(x, weight, basis.plane_form(), planes=basis.planes, silu=True)
    torch.testing.assert_close(y, want)


def test_autocast_decides_the_dtype_of_the_output():
    basis = bound("rbf(num_centers=5)", dtype=torch.float32)
    x, weight = torch.randn(4, 3), torch.randn(5, 3, 7)
    with torch.autocast("cpu", torch.bfloat16):
        y = basis_linear(x, weight, basis.plane_form(), planes=basis.planes)
    assert y.dtype == torch.bfloat16
    half = basis_linear(x.bfloat16(), weight.bfloat16(), basis.plane_form(), planes=basis.planes)
    assert half.dtype == torch.bfloat16


def layer(**options) -> KANLinear:
    torch.manual_seed(0)
    return KANLinear(3, 2, **options)


def test_auto_on_a_cpu_says_why():
    (choice,) = explain(layer(basis="rbf"), torch.zeros(2, 3))
    assert choice.op == "basis_linear"
    assert choice.name == ("reference" if _native.unavailable() else "native")
    assert choice.reason.startswith(
        f"not native: {_native.unavailable()}" if _native.unavailable() else "the input is on"
    )


@pytest.mark.parametrize("backend", ["cpu", "sparse"])
def test_an_explicit_request_never_falls_back(backend):
    with pytest.raises(KANError, match=f"argument backend is '{backend}', but basis_linear has no such kernel"):
        layer(basis="rbf", backend=backend)(torch.zeros(2, 3))
    with use_backend(backend), pytest.raises(KANError, match=f"use_backend is '{backend}'"):
        layer(basis="rbf")(torch.zeros(2, 3))


@pytest.mark.parametrize("backend", ["triton", "expand"])
def test_triton_needs_a_gpu_and_no_float64(backend, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(KANError, match="the input is on cpu"):
        layer(basis="rbf", backend=backend)(torch.zeros(2, 3))
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(KANError, match="do not compute in float64"):
        layer(basis="rbf", backend=backend, dtype=torch.float64)(torch.zeros(2, 3).double())


@pytest.mark.parametrize("name", ["sech", "bspline(evaluator='recursion')", "gram(degree=4, trainable=True)"])
def test_a_basis_without_a_kernel_is_plain_torch(name):
    x = torch.randn(4, 3)
    want = layer(basis=name)(x)
    assert torch.equal(layer(basis=name, backend="reference")(x), want)
    with use_backend("cpu"):
        assert torch.equal(layer(basis=name)(x), want)
    assert explain(layer(basis=name), x) == []
    family = type(layer(basis=name).basis).__name__
    with pytest.raises(KANError, match=f"backend is 'triton', but there is no kernel for {family}"):
        layer(basis=name, backend="triton")(x)


@pytest.mark.parametrize("name", ["rbf", "relu-kan", "laguerre", "fourier", "bspline"])
@pytest.mark.parametrize(("base", "norm"), [("silu", None), ("gelu", None), (None, None), ("silu", "layer")])
def test_a_layer_is_the_sum_of_its_parts(name, base, norm):
    module = layer(basis=name, base=base, norm=norm, dtype=torch.float64)
    if name == "bspline":
        module.basis.grid_eps = 0.0
        module.update_grid(torch.randn(40, 3, dtype=torch.float64))
        assert module.basis.plane_form().family == "knots-decay"
    x = torch.randn(2, 5, 3, dtype=torch.float64)
    z = x if module.norm is None else module.norm(x)
    want = torch.einsum("abki,oik->abo", module.basis.planes(z), module.coefficients) + module.bias
    if base is not None:
        want = want + module._base(x) @ module.base_weight.T
    torch.testing.assert_close(module(x), want)
    assert [choice.op for choice in explain(module, x)] == ["basis_linear"]


def test_compiled_and_exported_it_is_ordinary_ops():
    module, x = layer(basis="rbf"), torch.randn(4, 3)
    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), module(x))
    program = torch.export.export(module, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    assert "kan." not in str(program.graph)
    torch.testing.assert_close(program.module()(x[:3]), module(x[:3]))


def test_twice_differentiable_and_mapped():
    module = layer(basis="relu-kan", dtype=torch.float64)
    x = torch.rand(4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(module, x)
    torch.testing.assert_close(torch.func.vmap(module)(x), module(x))


FORM = PlaneForm("knots-decay", 3, a=torch.zeros(3), b=torch.ones(3), table=torch.zeros(5, 5, 3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"x": torch.zeros(2, 4)}, r"x must be \(..., 3\) to fit the weight", id="x-size"),
        pytest.param({"x": torch.zeros(2, 3, dtype=torch.long)}, "floating dtype, got torch.int64", id="x-integer"),
        pytest.param({"x": torch.zeros(2, 3).half()}, "torch.float16 and torch.float32; cast one", id="x-half"),
        pytest.param({"weight": torch.zeros(5, 3)}, "with at least 1 planes, got shape", id="weight-2d"),
        pytest.param({"weight": torch.zeros(1, 3, 2), "silu": True}, "with at least 2 planes", id="silu-alone"),
        pytest.param({"weight": torch.zeros(5, 3, 2, device="meta")}, "on one device, got cpu and meta", id="devices"),
        pytest.param({"form": FORM._replace(a=torch.zeros(1))}, r"form.a must have shape \(3,\), got \(1,\)", id="a"),
        pytest.param({"weight": torch.zeros(6, 3, 2)}, r"form.table must be \(6, rows, 3\)", id="planes"),
        pytest.param({"form": FORM._replace(table=torch.zeros(5, 5, 2))}, "form.table must be", id="table"),
        pytest.param({"backend": "fast"}, "argument backend is 'fast'; choose one of", id="backend"),
    ],
)
def test_bad_input(change, message):
    good = {"x": torch.zeros(2, 3), "weight": torch.zeros(5, 3, 2), "form": FORM, "planes": no_planes}
    with pytest.raises(KANError, match=message):
        basis_linear(**{**good, **change})


def no_planes(x: Tensor) -> Tensor:
    raise AssertionError("the input is checked first")


def test_on_cuda_the_op_is_one_node_in_the_dtype_of_x():
    """With tensors that have a device, shape and dtype only: no GPU is needed to see which op is called."""
    pytest.importorskip("triton")
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils._python_dispatch import TorchDispatchMode

    class Names(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    for backend in ("triton", "expand"):
        seen: list[str] = []
        with FakeTensorMode(), Names():
            x, weight = torch.empty(2, 3, 4, device="cuda"), torch.empty(6, 4, 3, device="cuda")
            form = PlaneForm("relu-kan", table=torch.empty(5, 2, 4, device="cuda"))
            options = {"planes": no_planes, "silu": True, "backend": backend}
            half = basis_linear(x.bfloat16(), weight.bfloat16(), form, **options)
            y = basis_linear(x, weight, form, **options)
        assert seen.count("kan.basis_linear_fwd.default") == 2
        assert not {name for name in seen if "mm" in name or "matmul" in name}
        assert (half.dtype, y.dtype, y.shape) == (torch.bfloat16, torch.float32, (2, 3, 3))
