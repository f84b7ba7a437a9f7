"""The Triton kernels of every basis on a GPU, fused and expanded once: all dtypes, large sizes, CUDA graphs."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from kan_core import bases
from kan_core.layers import KANLinear
from kan_core.ops.basis_linear import basis_linear

pytestmark = pytest.mark.gpu

SPECS = {
    "rbf": "rbf(num_centers=5)",
    "rbf-trainable": "rbf(num_centers=5, trainable=True)",
    "rswaf": "rswaf(num_centers=5, trainable=True)",
    "relu-kan": "relu-kan(grid_size=4, order=2, grid_range=(-2, 2))",
    "chebyshev": "chebyshev(degree=4)",
    "jacobi": "jacobi(degree=3, alpha=0.5, beta=-0.5)",
    "laguerre": "laguerre(degree=3)",
    "hermite-unsquashed": "hermite(degree=3, squash=False)",
    "fourier": "fourier(num_frequencies=3)",
    "fourier-smooth": "fourier(num_frequencies=3, smooth=True)",
    "bspline": "bspline(edge='clamp')",
    **{f"knots-k{k}": f"bspline(grid_size=3, order={k}, grid_eps=0)" for k in (1, 2, 3, 5)},
    "knots-clamp": "bspline(grid_size=3, order=3, edge='clamp', grid_eps=0)",
}
BACKENDS = ["triton", "expand"]
SHAPES = [(0, 5, 16), (1, 1, 1), (7, 17, 40), (100, 1000, 100), (257, 64, 257), (1024, 784, 64)]


def problem(spec: str, batch: int, d_in: int, d_out: int, dtype: torch.dtype = torch.float32):
    """Basis, x, weight with a plane for SiLU, grad; rounded to `dtype` but for the basis."""
    torch.manual_seed(batch + d_in)
    basis = bases.get(SPECS[spec]).bind(d_in, device="cuda")
    if spec.startswith("knots"):
        basis.update_grid(torch.randn(100, d_in, device="cuda"))
    x = torch.randn(batch, d_in, device="cuda")
    weight = torch.randn(basis.num_functions + 1, d_in, d_out, device="cuda")
    grad = torch.randn(batch, d_out, device="cuda")
    return basis, *(t.to(dtype) for t in (x, weight, grad))


def run(basis: bases.Basis, x: Tensor, weight: Tensor, grad: Tensor, backend: str) -> list[Tensor]:
    """Output and gradients, those of the basis's parameters too."""
    basis = copy.deepcopy(basis)
    x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
    y = basis_linear(x, weight, basis.plane_form(), planes=basis.planes, silu=True, backend=backend)
    y.backward(grad)
    return [y.detach(), x.grad, weight.grad, *(p.grad for p in basis.parameters())]


def exact(basis: bases.Basis, *tensors: Tensor) -> list[Tensor]:
    return run(copy.deepcopy(basis).double(), *(t.double() for t in tensors), backend="reference")


def error(got: Tensor, want: Tensor) -> float:
    return ((got - want).norm() / want.norm().clamp(min=1e-30)).item()


@pytest.fixture(params=["ieee", "tf32"])
def float32(request):
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = request.param
    yield {"ieee": 1e-5, "tf32": 1e-3}[request.param]
    torch.backends.cuda.matmul.fp32_precision = before


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", SHAPES, ids="B{0[0]}-in{0[1]}-out{0[2]}".format)
@pytest.mark.parametrize("name", SPECS)
def test_float32_and_tf32(name, shape, backend, float32):
    basis, *tensors = problem(name, *shape)
    for got, want in zip(run(basis, *tensors, backend=backend), exact(basis, *tensors), strict=True):
        assert got.dtype == torch.float32
        assert error(got, want) <= float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", SHAPES, ids="B{0[0]}-in{0[1]}-out{0[2]}".format)
@pytest.mark.parametrize("name", SPECS)
def test_half_precision_is_at_most_twice_as_far_off_as_torch(name, shape, backend, dtype):
    basis, *tensors = problem(name, *shape, dtype)
    results = (run(basis, *tensors, backend=b) for b in (backend, "reference"))
    for got, torch_lowp, want in zip(*results, exact(basis, *tensors), strict=True):
        assert got.dtype == torch_lowp.dtype
        if want.numel():
            bound = 2 * (torch_lowp - want).abs().max() + 1e-3 * want.square().mean().sqrt()
            assert (got - want).abs().max() <= bound


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", SPECS)
def test_autocast_multiplies_in_half_and_keeps_float32_gradients(name, backend):
    basis, x, weight, grad = problem(name, 300, 100, 50)
    with torch.autocast("cuda", torch.bfloat16):
        y, *gradients = run(basis, x, weight, grad.bfloat16(), backend)
    assert y.dtype == torch.bfloat16
    assert {g.dtype for g in gradients} == {torch.float32}
    assert all(
        error(got, want) <= 1e-2 for got, want in zip((y, *gradients), exact(basis, x, weight, grad), strict=True)
    )


@pytest.mark.parametrize("value", [1e4, -1e4, 1e-40, 0.0])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", [name for name in SPECS if name != "hermite-unsquashed"])
def test_far_and_tiny_inputs(name, backend, value):
    basis, x, weight, grad = problem(name, 17, 5, 3)
    x.fill_(value)
    for got, want in zip(run(basis, x, weight, grad, backend), exact(basis, x, weight, grad), strict=True):
        assert got.isfinite().all()
        assert (got - want).norm() <= 1e-5 * want.norm() + 1e-30


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", SPECS)
def test_same_bits_twice(name, backend, dtype):
    basis, *tensors = problem(name, 8192, 64, 64, dtype)
    first, second = (run(basis, *tensors, backend=backend) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["rbf", "chebyshev", "knots-k3"])
def test_more_than_two_to_the_31_elements(name, backend):
    rows = 2**31 // 1024 + 3
    basis, x, weight, _ = problem(name, 3, 1024, 16, torch.bfloat16)
    large = torch.zeros(rows, 1024, dtype=torch.bfloat16, device="cuda")
    large[-3:] = x
    form = basis.plane_form()
    want, got = (
        basis_linear(t, weight, form, planes=basis.planes, silu=True, backend=backend)[-3:] for t in (x, large)
    )
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("name", ["relu-kan", "fourier"])
def test_planes_of_one_chunk_beyond_two_to_the_31(name, monkeypatch):
    """The buffer's own offsets: 9 GB of planes at once."""
    from kan_core.ops._triton import launch

    basis, x, weight, _ = problem(name, 2**31 // (4096 * 7) + 200, 4096, 16, torch.bfloat16)
    form = basis.plane_form()
    chunked = basis_linear(x, weight, form, planes=basis.planes, silu=True, backend="expand")
    monkeypatch.setattr(launch, "CHUNK_BYTES", 1 << 34)
    at_once = basis_linear(x, weight, form, planes=basis.planes, silu=True, backend="expand")
    assert len(x) * weight.shape[0] * 4096 > 2**31
    torch.testing.assert_close(at_once, chunked)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", SPECS)
def test_a_layer_in_a_cuda_graph_without_host_synchronisation(name, backend):
    spec = SPECS[name]
    layer = KANLinear(100, 70, spec, backend="triton", device="cuda")
    if spec.startswith("bspline"):
        layer.update_grid(torch.randn(200, 100, device="cuda"))
        if "grid_eps=0" not in spec:
            assert layer.basis.uniform is False
    layer.backend = backend
    x = torch.randn(512, 100, device="cuda", requires_grad=True)

    def step() -> list[Tensor]:
        with torch.autocast("cuda", torch.bfloat16):
            y = layer(x)
        return [y, *torch.autograd.grad(y.float().square().sum(), [x, *layer.parameters()])]

    step()  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        x.copy_(torch.randn_like(x))
    graph.replay()
    torch.cuda.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(captured, step(), strict=True))


@pytest.mark.parametrize("name", ["rbf", "chebyshev", "fourier"])
def test_peak_memory_of_the_fused_kernel_is_the_result(name):
    """Neither planes nor a workspace that grows with the batch."""
    basis, x, weight, _ = problem(name, 65536, 64, 64, torch.bfloat16)
    form = basis.plane_form()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    y = basis_linear(x, weight, form, planes=basis.planes, silu=True, backend="triton")
    assert torch.cuda.max_memory_allocated() - before <= y.nbytes + weight.nbytes + 2**20


def test_memory_of_the_expanded_planes_is_bounded():
    from kan_core.ops._triton import launch

    basis, x, weight, grad = problem("rbf", 262144, 512, 64, torch.bfloat16)
    result = sum(t.nbytes for t in (x, x, weight, grad, grad)) + 4 * 2 * weight.numel()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run(basis, x, weight, grad, "expand")
    assert torch.cuda.max_memory_allocated() - before <= result + launch.CHUNK_BYTES + 2 * x.nbytes
