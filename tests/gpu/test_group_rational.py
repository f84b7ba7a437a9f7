"""The Triton kernels of the group-rational op on a GPU, against the definition in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kan_core.layers import GroupRationalLinear
from kan_core.ops import explain, group_rational, use_backend

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

SHAPES = [(8, 1), (8, 8), (24, 2), (24, 8), (24, 24), (192, 8), (384, 8), (768, 8), (3072, 8)]
FORMS = ["sum_of_abs", "abs_of_sum", "floor"]


def problem(rows: int, features: int, groups: int, form: str = "sum_of_abs", dtype: torch.dtype = torch.float32):
    x = torch.randn(rows, features, device="cuda").to(dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    a = torch.randn(1, 6, device="cuda", dtype=wide)
    b = torch.randn(groups, 4 + (form == "floor"), device="cuda", dtype=wide)
    return x, a, b, torch.randn(rows, features, device="cuda").to(dtype)


def run(backend: str, x: Tensor, a: Tensor, b: Tensor, grad: Tensor, form: str = "sum_of_abs") -> dict[str, Tensor]:
    x, a, b = (t.detach().requires_grad_() for t in (x, a, b))
    y = group_rational(x, a, b, form=form, backend=backend)
    return dict(zip(("y", "dx", "da", "db"), (y.detach(), *torch.autograd.grad(y, (x, a, b), grad)), strict=True))


def error(got: Tensor, want: Tensor) -> float:
    return float((got.double() - want).norm() / want.norm().clamp(min=1e-30)) if want.numel() else 0.0


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rows", [0, 1, 7, 197, 4099])
@pytest.mark.parametrize(("features", "groups"), SHAPES)
def test_flashkat_6_float32_against_float64(form, rows, features, groups):
    arguments = problem(rows, features, groups, form)
    got, want = run("triton", *arguments, form), run("reference", *(t.double() for t in arguments), form)
    for name in want:
        assert error(got[name], want[name]) <= 1e-5, name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("features", "groups"), SHAPES)
def test_flashkat_6_half_is_at_most_twice_as_far_off_as_the_formula_rounded_once(dtype, features, groups):
    arguments = problem(1031, features, groups, dtype=dtype)
    got = run("triton", *arguments)
    plain = run("reference", *arguments)
    want = run("reference", *(t.double() for t in arguments))
    for name, expected in want.items():
        assert got[name].dtype == plain[name].dtype
        assert error(got[name], expected) <= 2 * error(plain[name], expected) + 1e-6, name


def test_float64_is_computed_in_float64():
    arguments = problem(197, 192, 8, dtype=torch.float64)
    got, want = run("triton", *arguments), run("reference", *arguments)
    assert all(error(got[name], want[name]) <= 1e-13 for name in want)


def test_kat_7_10_coefficient_gradients_over_150_million_numbers_and_same_bits_twice():
    x, _, _, grad = problem(1024 * 197, 768, 8)
    a = torch.tensor([[3.0549e-7, 0.5000007854, 0.2499978342, 0.0532662827, 0.0058030346, 0.0002751961]]).cuda()
    b = torch.tensor([[-4.1116e-6, 0.1065289934, -1.2690e-6, 0.0005502331]] * 8).cuda()
    got, again = run("triton", x, a, b, grad), run("triton", x, a, b, grad)
    assert all(torch.equal(got[name], again[name]) for name in got)
    want = [0, 0]
    for part, upstream in zip(x.split(16384), grad.split(16384), strict=True):
        found = run("reference", part.double(), a.double(), b.double(), upstream.double())
        want = [total + found[name] for total, name in zip(want, ("da", "db"), strict=True)]
    for name, expected in zip(("da", "db"), want, strict=True):
        assert (got[name] - expected).abs().max() <= 5e-7 * expected.abs().max(), name


def test_kat_7_11_layouts_of_x_and_of_the_gradient():
    x, a, b, grad = problem(64, 96, 8)
    want = run("triton", x, a, b, grad)
    got = run("triton", torch.stack([x, x], 2)[..., 0], a, b, grad.t().contiguous().t())
    assert all(torch.equal(got[name], want[name]) for name in want)
    one = torch.ones((), device="cuda")
    got, want = run("triton", x, a, b, one.expand(64, 96)), run("triton", x, a, b, torch.ones_like(x))
    assert all(torch.equal(got[name], want[name]) for name in want)


def test_autocast_keeps_bfloat16():
    x = torch.randn(4, 24, device="cuda")
    layer = GroupRationalLinear(24, 24, device="cuda")
    with torch.autocast("cuda", torch.bfloat16), use_backend("triton"):
        assert {choice.name for choice in explain(layer, x)} == {"triton"}
        y = layer.activation(layer(x))
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert layer.activation.denominator.grad.dtype == torch.float32


def test_opcheck_and_second_derivative():
    x, a, b, grad = problem(5, 24, 8, dtype=torch.float64)
    arguments = [t.requires_grad_() for t in (x, a, b)]
    torch.library.opcheck(torch.ops.kan.group_rational_fwd, (*arguments, "sum_of_abs", "triton"))
    torch.library.opcheck(torch.ops.kan.group_rational_bwd, (grad, *arguments, "sum_of_abs", "triton", True, True))
    assert torch.autograd.gradgradcheck(lambda *t: group_rational(*t, backend="triton"), arguments)


def test_no_compilation_for_a_new_batch_size():
    from kan_core.ops.group_rational import triton_kernels

    def versions() -> int:
        return sum(len(cache[0]) for cache in triton_kernels._backward.device_caches.values())

    run("triton", *problem(64, 40, 8))
    before = versions()
    for rows in (1, 3, 16, 1000, 4099):
        run("triton", *problem(rows, 40, 8))
    assert versions() == before


def test_flashkat_6_memory():
    x, a, b, grad = problem(64 * 197, 768, 8)
    for t in (x, a, b):
        t.requires_grad_()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    group_rational(x, a, b, backend="triton").backward(grad)
    assert torch.cuda.max_memory_allocated() - before <= 2 * x.nbytes + 2**20


@pytest.mark.slow
def test_flashkat_5_6_more_than_2_to_the_31_numbers():
    if torch.cuda.mem_get_info()[0] < 24 * 2**30:
        pytest.skip("needs 24 GiB of GPU memory")
    rows = 2**31 // 3072 + 1000
    x = torch.randn(1000, 3072, device="cuda", dtype=torch.bfloat16).repeat(rows // 1000 + 1, 1)[:rows].contiguous()
    _, a, b, _ = problem(1, 3072, 8)
    last = slice(rows - 500, rows)
    dx, *_ = torch.ops.kan.group_rational_bwd(x, x, a, b, "sum_of_abs", "triton", True, True)
    assert torch.equal(dx[last], run("triton", x[last], a, b, x[last])["dx"])
    del dx
    assert torch.equal(group_rational(x, a, b, backend="triton")[last], group_rational(x[last], a, b, backend="triton"))
