"""The Triton kernels of the B-spline linear op on a GPU: all dtypes, large sizes, CUDA graphs; see also tests/core."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kan_core.ops import bspline_linear
from kan_core.ops.bspline_linear.reference import bspline_linear_reference

pytestmark = pytest.mark.gpu

SHAPES = [(0, 5, 16), (1, 1, 1), (7, 17, 40), (100, 1000, 1000), (257, 64, 257), (1024, 784, 64), (4096, 256, 512)]


def problem(batch: int, d_in: int, d_out: int, order: int, dtype: torch.dtype = torch.float32, cells: int = 5):
    """x within and beyond dyadic grids, weight, lo, step, grad; rounded to `dtype` but for the grid."""
    x = torch.rand(batch, d_in, device="cuda") * 4.8 - 2.4
    weight = torch.randn(cells + order + 1, d_in, d_out, device="cuda")
    lo, step = torch.full((d_in,), -1.25, device="cuda"), torch.full((d_in,), 0.5, device="cuda")
    grad = torch.randn(batch, d_out, device="cuda")
    return x.to(dtype), weight.to(dtype), lo, step, grad.to(dtype)


def run(function, x: Tensor, weight: Tensor, lo: Tensor, step: Tensor, grad: Tensor, **options) -> list[Tensor]:
    """Output and gradients."""
    x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
    y = function(x, weight, lo, step, silu=True, **options)
    y.backward(grad)
    return [y.detach(), x.grad, weight.grad]


def kernel(*args: Tensor, backend: str = "triton", **options) -> list[Tensor]:
    return run(lambda *a, **k: bspline_linear(*a, backend=backend, **k), *args, **options)


def reference(*args: Tensor, **options) -> list[Tensor]:
    return run(bspline_linear_reference, *args, **options)


def error(got: Tensor, want: Tensor) -> float:
    return ((got - want).norm() / want.norm().clamp(min=1e-30)).item()


@pytest.fixture(params=["ieee", "tf32"])
def float32(request):
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = request.param
    yield {"ieee": 1e-5, "tf32": 1e-3}[request.param]
    torch.backends.cuda.matmul.fp32_precision = before


@pytest.mark.parametrize("shape", SHAPES, ids="B{0[0]}-in{0[1]}-out{0[2]}".format)
@pytest.mark.parametrize("order", [1, 2, 3, 5], ids="k{}".format)
@pytest.mark.parametrize("edge", ["decay", "clamp"])
@pytest.mark.parametrize("backend", ["triton", "expand"])
def test_float32_and_tf32(backend, shape, order, edge, float32):
    args = problem(*shape, order)
    want = reference(*(t.double() for t in args), order=order, edge=edge)
    for got, expected in zip(kernel(*args, backend=backend, order=order, edge=edge), want, strict=True):
        assert error(got, expected) <= float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@pytest.mark.parametrize("shape", SHAPES, ids="B{0[0]}-in{0[1]}-out{0[2]}".format)
@pytest.mark.parametrize("order", [1, 2, 3, 5], ids="k{}".format)
@pytest.mark.parametrize("backend", ["triton", "expand"])
def test_half_precision_is_at_most_twice_as_far_off_as_torch(backend, shape, order, dtype):
    args = problem(*shape, order, dtype)
    want = reference(*(t.double() for t in args), order=order)
    x, weight, lo, step, grad = args
    planes = reference(x, weight, lo.to(dtype), step.to(dtype), grad, order=order)
    for got, expected, torch_lowp in zip(kernel(*args, backend=backend, order=order), want, planes, strict=True):
        assert got.dtype == dtype
        if expected.numel():
            scale = expected.square().mean().sqrt()
            bound = 2 * (torch_lowp - expected).abs().max() + 1e-3 * scale
            assert (got - expected).abs().max() <= bound


def test_autocast_multiplies_in_half_and_keeps_float32_gradients():
    x, weight, lo, step, grad = problem(300, 100, 50, 3)
    want = reference(*(t.double() for t in (x, weight, lo, step, grad)), order=3)
    x, weight = x.requires_grad_(), weight.requires_grad_()
    with torch.autocast("cuda", torch.bfloat16):
        y = bspline_linear(x, weight, lo, step, order=3, silu=True, backend="triton")
    y.backward(grad.bfloat16())
    assert (y.dtype, x.grad.dtype, weight.grad.dtype) == (torch.bfloat16, torch.float32, torch.float32)
    assert all(error(got, w) <= 1e-2 for got, w in zip((y.detach(), x.grad, weight.grad), want, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("shape", [(100, 1000, 1000), (8192, 64, 64)], ids="B{0[0]}-in{0[1]}-out{0[2]}".format)
def test_same_bits_twice(shape, dtype):
    args = problem(*shape, 3, dtype)
    assert all(torch.equal(a, b) for a, b in zip(kernel(*args, order=3), kernel(*args, order=3), strict=True))


def test_more_than_two_to_the_31_elements():
    rows = 2**31 // 1024 + 3
    x, weight, lo, step, _ = problem(1, 1024, 16, 3, torch.bfloat16)
    x = torch.zeros(rows, 1024, dtype=torch.bfloat16, device="cuda")
    x[-1] = torch.linspace(-1, 1, 1024)
    y = bspline_linear(x, weight, lo, step, order=3, silu=True, backend="triton")
    torch.testing.assert_close(y[-1:], bspline_linear(x[-1:], weight, lo, step, order=3, silu=True, backend="triton"))


def test_forward_and_backward_in_a_cuda_graph():
    """No host synchronisation, and nothing that depends on the values of tensors."""
    args = problem(512, 100, 70, 3, torch.bfloat16)
    kernel(*args, order=3)  # compiles
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        kernel(*args, order=3)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = kernel(*args, order=3)
    args[0].copy_(torch.rand_like(args[0]))
    graph.replay()
    torch.cuda.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(captured, kernel(*args, order=3), strict=True))


def test_peak_memory_is_the_result():
    """Neither planes nor a workspace that grows with the batch."""
    x, weight, lo, step, _ = problem(65536, 64, 64, 3, torch.bfloat16)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    y = bspline_linear(x, weight, lo, step, order=3, silu=True, backend="triton")
    assert torch.cuda.max_memory_allocated() - before <= y.nbytes + weight.nbytes + 2**20
