"""The Triton kernels of the DARUAN op on a GPU, against the definition in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kan_core.layers import QKANLinear
from kan_core.layers._edges import EdgeLinear
from kan_core.ops import explain
from kan_core.ops.daruan import daruan_linear

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

NAMES = ("y", "dx", "dtheta", "dfrequency", "dphase", "dfactor")


def problem(rows: int, features: int, outputs: int, reps: int, gates: int = 2) -> list[Tensor]:
    """x, theta, frequency, phase and factor in float32."""
    uploads = (outputs, features, reps)
    shapes = [(rows, features), (outputs, features, reps + 1, gates), uploads, uploads, uploads[:2]]
    return [torch.randn(shape, device="cuda") * 1.5 for shape in shapes]


def run(backend: str, tensors: list[Tensor], grad: Tensor, readout: str = "exact") -> dict[str, Tensor]:
    tensors = [t.detach().requires_grad_() for t in tensors]
    y = daruan_linear(*tensors, readout=readout, backend=backend)
    return dict(zip(NAMES, (y.detach(), *torch.autograd.grad(y, tensors, grad.to(y.dtype))), strict=True))


def error(got: Tensor, want: Tensor) -> float:
    return float((got.double() - want.double()).norm() / want.double().norm().clamp(min=1e-30))


@pytest.mark.parametrize("readout", ["exact", "fast"])
@pytest.mark.parametrize("gates", [2, 1], ids=["pz", "rpz"])
@pytest.mark.parametrize("reps", [1, 2, 3, 8])
@pytest.mark.parametrize("rows", [0, 1, 17, 257, 1031])
@pytest.mark.parametrize(("features", "outputs"), [(1, 1), (5, 3), (33, 65), (100, 10)])
def test_float32_against_float64(rows, features, outputs, reps, gates, readout):
    tensors = problem(rows, features, outputs, reps, gates)
    grad = torch.randn(rows, outputs, device="cuda")
    got, rounded = run("triton", tensors, grad, readout), run("reference", tensors, grad, readout)
    want = run("reference", [t.double() for t in tensors], grad, readout)
    for name in NAMES:  # near the poles of the fast read-out, what float32 can give
        assert error(got[name], want[name]) <= max(1e-5, 2 * error(rounded[name], want[name])), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_x_is_computed_in_float32(dtype):
    x, *parameters = problem(257, 33, 17, 3)
    grad = torch.randn(257, 17, device="cuda")
    x = x.to(dtype)
    got, want = run("triton", [x, *parameters], grad), run("triton", [x.float(), *parameters], grad)
    assert got["dx"].dtype == dtype
    torch.testing.assert_close(got["dx"].float(), want.pop("dx"), rtol=torch.finfo(dtype).eps, atol=1e-4)
    assert all(error(got[name], value) <= 1e-6 for name, value in want.items())


def test_float64_is_computed_in_float64():
    tensors = [t.double() for t in problem(257, 9, 17, 3)]
    grad = torch.randn(257, 17, device="cuda")
    got, want = run("triton", tensors, grad), run("reference", tensors, grad)
    assert all(error(got[name], want[name]) <= 1e-12 for name in NAMES)


@pytest.mark.parametrize(("reps", "reach"), [(1, 100), (3, 100), (8, 100), (1, 1e4)])
def test_qkan_card_float32_error_within_5e_6(reps, reach):
    _, theta, frequency, phase, _ = problem(1, 1, 200, reps, 1)
    x = torch.linspace(-reach, reach, 2001, device="cuda")[:, None]
    tensors = [x, theta, frequency / frequency.abs().max(), phase, torch.ones(200, 1, device="cuda")]
    want = daruan_linear(*(t.double() for t in tensors), backend="reference")
    assert (daruan_linear(*tensors, backend="triton") - want).abs().max() <= 5e-6


def test_nan_propagates_and_1e30_is_finite():
    x, *parameters = problem(64, 5, 7, 3)
    x[3, 1], x[9] = torch.nan, 1e30
    y = daruan_linear(x, *parameters, backend="triton")
    assert y.isnan().any(1).nonzero().flatten().tolist() == [3]


def test_same_bits_twice_and_layouts():
    x, *parameters = problem(1000, 40, 24, 3)
    grad = torch.randn(24, 1000, device="cuda").t()
    want, again = (run("triton", [x, *parameters], grad) for _ in range(2))
    strided = run("triton", [torch.stack([t, t], -1)[..., 0] for t in (x, *parameters)], grad.contiguous())
    assert all(torch.equal(want[n], again[n]) and torch.equal(want[n], strided[n]) for n in NAMES)
    one = torch.ones((), device="cuda")
    expanded = run("triton", [x, *parameters], one.expand(1000, 24))
    full = run("triton", [x, *parameters], torch.ones(1000, 24, device="cuda"))
    assert all(torch.equal(expanded[n], full[n]) for n in NAMES)


def test_layer_under_autocast_and_without_autocast_is_the_simulation():
    layer = QKANLinear(48, 32, trainable_frequencies=True, backend="triton", device="cuda")
    x = torch.randn(2, 65, 48, device="cuda", requires_grad=True)
    assert [choice.name for choice in explain(layer, x)] == ["triton"]
    torch.testing.assert_close(layer(x), EdgeLinear.forward(layer, x), atol=1e-4, rtol=1e-4)
    with torch.autocast("cuda", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert layer.theta.grad.dtype == torch.float32


def test_opcheck_and_second_derivative():
    tensors = [t.double().requires_grad_() for t in problem(5, 3, 2, 2)]
    assert torch.autograd.gradgradcheck(lambda *t: daruan_linear(*t, backend="triton"), tensors, fast_mode=True)
    shapes = [(3, 4), (3, 2, 4, 5), (2, 4, 5), (4, 5)]
    arguments = [torch.randn(s, device="cuda").requires_grad_() for s in shapes]
    torch.library.opcheck(torch.ops.kan.daruan_fwd, (*arguments, True, "triton"))
    torch.library.opcheck(torch.ops.kan.daruan_bwd, (torch.randn(3, 5, device="cuda"), *arguments, False, "triton"))


def test_memory_has_no_tensor_over_rows_and_edges():
    tensors = [t.requires_grad_() for t in problem(4096, 256, 256, 3)]
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    daruan_linear(*tensors, backend="triton").sum().backward()
    table = 16 * 256 * 256 * 4
    # x, y, their gradients and transposes; tables, sums and gradients of the parameters: all edges would take 1 GiB
    assert torch.cuda.max_memory_allocated() - before <= 8 * tensors[0].nbytes + 8 * table


def test_no_compilation_for_a_new_batch_size():
    from kan_core.ops.daruan import triton_kernels

    kernels = (triton_kernels._forward, triton_kernels._input_gradient, triton_kernels._parameter_gradients)

    def versions() -> int:
        return sum(len(cache[0]) for kernel in kernels for cache in kernel.device_caches.values())

    def call(rows: int) -> None:
        run("triton", problem(rows, 6, 7, 2), torch.ones(rows, 7, device="cuda"))

    call(64)
    before = versions()
    for rows in (1, 3, 16, 1000, 4099):
        call(rows)
    assert versions() == before


def test_cuda_graph_capture_of_a_training_step_without_synchronisation():
    layer = QKANLinear(40, 24, trainable_frequencies=True, backend="triton", device="cuda")
    x = torch.randn(256, 40, device="cuda")

    def step() -> Tensor:
        return layer(x).square().sum()

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            layer.zero_grad()
            step().backward()
    torch.cuda.current_stream().wait_stream(stream)
    want = [p.grad.clone() for p in layer.parameters()]
    layer.zero_grad()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step().backward()
    graph.replay()
    torch.cuda.synchronize()
    for parameter, expected in zip(layer.parameters(), want, strict=True):
        torch.testing.assert_close(parameter.grad, expected)
