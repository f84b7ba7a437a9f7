"""The group-rational op: the CPU paths and the Triton kernels (in Triton's interpreter) against the definition."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.autograd.functional import jacobian
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from kan_core.errors import KANError
from kan_core.layers import GroupRationalLinear, PadeLinear, Rational
from kan_core.ops import _native, explain, group_rational, use_backend
from kan_core.ops.group_rational import DENOMINATORS, cpu, native

F64 = torch.float64
FORMS = list(DENOMINATORS)
# the published coefficients that the KAT card lists
SWISH = (
    [3.0549e-7, 0.5000007854, 0.2499978342, 0.0532662827, 0.0058030346, 0.0002751961],
    [-4.1116e-6, 0.1065289934, -1.2690e-6, 0.0005502331],
)
NATIVE = pytest.param(
    "native", marks=pytest.mark.skipif(bool(_native.unavailable()), reason=_native.unavailable() or "there is one")
)
fast = pytest.mark.parametrize("backend", ["cpu", NATIVE])
every = pytest.mark.parametrize("backend", ["reference", "cpu", NATIVE])
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")


def problem(
    rows: int, features: int, groups: int, form: str = "sum_of_abs", *, m: int = 5, n: int = 4, dtype=F64, shared=True
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x with zeros, coefficients of both signs (a free Q stays away from zero), and an upstream gradient."""
    x = torch.randn(rows, features, dtype=dtype)
    if form == "free":
        x = x.tanh()
    x[:1, : features // 2] = 0.0
    x[1:2, : features // 2] = -0.0
    a = torch.randn(1 if shared else groups, m + 1, dtype=dtype)
    b = (2 * torch.rand(groups, n + (form == "floor"), dtype=dtype) - 1) * (0.8 / n if form == "free" else 1)
    return x, a, b, torch.randn(rows, features, dtype=dtype)


def run(backend: str, x: Tensor, a: Tensor, b: Tensor, grad: Tensor, form: str) -> dict[str, Tensor]:
    """Output and gradients."""
    x, a, b = (t.detach().requires_grad_() for t in (x, a, b))
    y = group_rational(x, a, b, form=form, backend=backend)
    return dict(zip(("y", "dx", "da", "db"), (y.detach(), *torch.autograd.grad(y, (x, a, b), grad)), strict=True))


def assert_same(got: dict[str, Tensor], want: dict[str, Tensor], rms: float) -> None:
    for name, expected in want.items():
        assert got[name].shape == expected.shape, name
        error = (got[name] - expected).double().norm() / expected.double().norm().clamp(min=1e-30)
        assert error <= rms, f"{name}: relative RMS error {error:.2e} > {rms:.0e}"


# --- the CPU paths against the definition


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rows", [0, 1, 7, 197, 1031])
@pytest.mark.parametrize(
    ("features", "groups"), [(8, 1), (8, 2), (8, 8), (24, 2), (24, 8), (24, 24), (192, 8), (768, 8)]
)
@fast
def test_flashkat_6_equals_reference(backend, form, rows, features, groups):
    for shared in (True, False):
        arguments = problem(rows, features, groups, form, shared=shared)
        assert_same(run(backend, *arguments, form), run("reference", *arguments, form), 1e-12)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("rows", "features", "groups"), [(200, 1, 1), (300, 7, 7), (5, 1001, 7), (2, 4099, 1)])
@fast
def test_odd_widths_leave_vectors_partly_filled(backend, form, rows, features, groups):
    """Also a line that is shorter than the others, and rows of more columns than fit in one tile."""
    arguments = problem(rows, features, groups, form, shared=False)
    assert_same(run(backend, *arguments, form), run("reference", *arguments, form), 1e-12)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("m", "n"), [(1, 1), (3, 2), (2, 5), (7, 6)])
@fast
def test_flashkat_5_7_any_degrees(backend, form, m, n):
    arguments = problem(50, 12, 3, form, m=m, n=n, shared=False)
    assert_same(run(backend, *arguments, form), run("reference", *arguments, form), 1e-12)


@pytest.mark.parametrize("form", FORMS)
@fast
def test_shared_denominators(backend, form):
    x, a, b, grad = problem(50, 12, 3, form, shared=False)
    arguments = (x, a, b[:1], grad)
    assert_same(run(backend, *arguments, form), run("reference", *arguments, form), 1e-12)


@pytest.mark.parametrize("block", [1, 24 * 16, 1 << 12])
def test_many_blocks_and_a_rest_give_what_one_block_gives(monkeypatch, block):
    arguments = problem(1031, 24, 8)
    want = run("cpu", *arguments, "sum_of_abs")
    monkeypatch.setattr(cpu, "BLOCK_ELEMENTS", block)
    assert_same(run("cpu", *arguments, "sum_of_abs"), want, 1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", [NATIVE])
def test_bits_do_not_depend_on_the_number_of_threads(name, dtype):
    """Nor on a second run: several slabs of blocks, in every thread."""
    x, a, b, grad = problem(9001, 48, 8, dtype=torch.float32)
    arguments = (x.to(dtype), a, b, grad.to(dtype), "sum_of_abs")
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(run(name, *arguments))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(results[0][key], other[key]) for other in results[1:] for key in other)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("name", [NATIVE])
def test_infinity_and_nan_are_those_of_the_reference(name, form, dtype):
    """F everywhere; dx not where powers of a finite x overflow: autograd multiplies infinity by 0 more often."""
    inf = torch.inf
    x = torch.tensor([inf, -inf, torch.nan, 1e4, -1e4, 1e30, -1e30, 0.0], dtype=dtype).expand(3, 8).contiguous()
    identity, zero = torch.eye(6, dtype=dtype)[1:2], torch.zeros(1, 4 + (form == "floor"), dtype=dtype)
    for numerator in (identity, torch.randn(1, 6, dtype=dtype), torch.randn(1, 2, dtype=dtype)):
        for denominator in (zero, torch.rand_like(zero), -torch.rand_like(zero)):
            arguments = (x, numerator, denominator, torch.ones_like(x), form)
            got, want = run(name, *arguments), run("reference", *arguments)
            torch.testing.assert_close(got["y"], want["y"], equal_nan=True)
            safe = ~((x[0].abs() > 1e5) & x[0].isfinite())
            torch.testing.assert_close(got["dx"][:, safe], want["dx"][:, safe], equal_nan=True)


@every
def test_kat_7_1_identity_is_exact(backend):
    x = torch.cat([torch.randn(77), torch.tensor([1e-42, -1e-42, 3e38, -3e38, 0.0])])[:, None].requires_grad_()
    y = group_rational(x, torch.eye(6)[1:2], torch.zeros(1, 4), backend=backend)
    assert torch.equal(y, x)
    assert torch.equal(torch.autograd.grad(y.sum(), x)[0][:77], torch.ones(77, 1))


@every
def test_kat_7_2_and_7_3_golden_values(backend):
    def values(points, a, b, form):
        a, b = (torch.tensor([c], dtype=F64) for c in (a, b))
        return group_rational(torch.tensor(points, dtype=F64)[:, None], a, b, form=form, backend=backend)[:, 0]

    golden = [-0.14227882, -0.26894159, 3.0549e-7, 0.73105834, 1.76159399, 4.96471972]
    got = values([-3.0, -1, 0, 1, 2, 5], *SWISH, "sum_of_abs")
    torch.testing.assert_close(got, torch.tensor(golden, dtype=F64), rtol=0, atol=6e-9)
    random = [0.1, 0.8, -0.3, 0.05, 0.02, -0.01], [0.2, -0.5, 0.1, -0.05]
    for form, golden in (
        ("sum_of_abs", [0.37257698, 0.02645914, -0.30604534, 0.1]),
        ("abs_of_sum", [0.49253610, 0.05440000, -0.30604534, 0.1]),
    ):
        got = values([0.7, 3.0, -0.5, 0.0], *random, form)
        torch.testing.assert_close(got, torch.tensor(golden, dtype=F64), rtol=0, atol=6e-9)


@pytest.mark.parametrize("form", ["sum_of_abs", "abs_of_sum", "floor"])
@fast
def test_flashkat_6_float32_is_close_to_float64(backend, form):
    x, a, b, grad = problem(1031, 192, 8, form, dtype=torch.float32)
    got, want = run(backend, x, a, b, grad, form), run("reference", *(t.double() for t in (x, a, b, grad)), form)
    assert {t.dtype for t in got.values()} == {torch.float32}
    assert_same(got, want, 1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@every
def test_kat_7_12_half_in_half_out_computed_in_float32(dtype, backend):
    x, a, b, grad = problem(300, 48, 8, dtype=torch.float32)
    x, grad = x.to(dtype), grad.to(dtype)
    got = run(backend, x, a, b, grad, "sum_of_abs")
    want = run("reference", x.float(), a, b, grad.float(), "sum_of_abs")
    assert [t.dtype for t in got.values()] == [dtype, dtype, torch.float32, torch.float32]
    for name in ("y", "dx"):  # rounded once, from a float32 that may differ in its last bits
        torch.testing.assert_close(got[name].float(), want[name], rtol=torch.finfo(dtype).eps, atol=1e-6)
    for name in ("da", "db"):
        torch.testing.assert_close(got[name], want[name], rtol=1e-5, atol=1e-4)


def test_autocast_leaves_the_coefficients_in_float32_and_the_type_of_x_alone():
    x, a, b, _ = problem(9, 24, 8, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(group_rational(x.bfloat16(), a, b), group_rational(x.bfloat16().float(), a, b).bfloat16())
        assert group_rational(x, a, b).dtype == torch.float32
    layer = GroupRationalLinear(24, 24)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer.activation(layer(x)).dtype == torch.bfloat16


@pytest.mark.parametrize("seed", range(3))
@fast
def test_kat_7_10_coefficient_gradients_of_the_swish_set_in_float32_over_2_million_numbers(backend, seed):
    torch.manual_seed(seed)
    x, grad = torch.randn(2731, 768), torch.randn(2731, 768)
    a, b = torch.tensor([SWISH[0]]), torch.tensor([SWISH[1]] * 8)
    got = run(backend, x, a, b, grad, "sum_of_abs")
    want = run("cpu", *(t.double() for t in (x, a, b, grad)), "sum_of_abs")
    for name in ("da", "db"):
        error = (got[name] - want[name]).abs().max() / want[name].abs().max()
        assert error <= 5e-7, f"{name}: {error:.2e}"


@pytest.mark.parametrize("form", FORMS)
@fast
def test_kat_7_10_same_bits_twice_and_flashkat_6_linear_in_the_gradient(backend, form):
    x, a, b, grad = problem(700, 24, 8, form, dtype=torch.float32)
    once, again, twice = (run(backend, x, a, b, g, form) for g in (grad, grad, 2 * grad))
    assert all(torch.equal(once[name], again[name]) for name in once)
    assert all(torch.equal(2 * once[name], twice[name]) for name in ("dx", "da", "db"))


@pytest.mark.parametrize("form", ["sum_of_abs", "abs_of_sum"])
@every
def test_kat_2_3_derivatives_of_absolute_values_at_zero(form, backend):
    """+1 for b = 0 and a sum of 0; for |x| itself 0, the mean of both sides."""
    x = torch.tensor([[0.0], [-0.0], [-1.5], [2.0]], dtype=F64)
    a = torch.tensor([[0.5, 1.0]], dtype=F64)
    grad = torch.tensor([[1.0], [2.0], [3.0], [5.0]], dtype=F64)
    zero = run(backend, x, a, torch.zeros(1, 2, dtype=F64), grad, form)
    powers = (x.abs() if form == "sum_of_abs" else x) ** torch.tensor([1, 2])
    torch.testing.assert_close(zero["db"], (-grad * (0.5 + x) * powers).sum(0, keepdim=True))
    torch.testing.assert_close(zero["dx"], grad)
    for negative_zero in (-0.0, 0.0):
        one = run(backend, x, a, torch.tensor([[1.0, negative_zero]], dtype=F64), grad, form)
        slope = 1.0 if form == "sum_of_abs" else 0.5  # P' − P Q' with Q' = 0 or +1
        torch.testing.assert_close(one["dx"][:2], slope * grad[:2])


@every
def test_kat_7_11_layouts_of_x_and_of_the_gradient(backend):
    x, a, b, grad = problem(12, 24, 8)
    want = run(backend, x, a, b, grad, "sum_of_abs")
    strided = torch.stack([x, x + 1], dim=2)[..., 0]
    permuted = grad.t().contiguous().t()
    assert_same(run(backend, strided, a, b, permuted, "sum_of_abs"), want, 1e-14)
    shaped = run(backend, x.view(3, 4, 24).transpose(0, 1), a, b, grad.view(3, 4, 24).transpose(0, 1), "sum_of_abs")
    assert_same({n: t.transpose(0, 1).reshape(12, 24) if t.dim() == 3 else t for n, t in shaped.items()}, want, 1e-14)
    expanded = run(backend, x, a, b, torch.ones((), dtype=F64).expand(12, 24), "sum_of_abs")
    assert_same(expanded, run(backend, x, a, b, torch.ones(12, 24, dtype=F64), "sum_of_abs"), 1e-14)
    assert group_rational(x[0], a, b, backend=backend).shape == (24,)


@pytest.mark.parametrize(
    ("backend", "dtype", "workspace"),
    [
        ("cpu", torch.float32, 7 * 4 * cpu.BLOCK_ELEMENTS),
        ("cpu", torch.bfloat16, 9 * 4 * cpu.BLOCK_ELEMENTS),
        pytest.param("native", torch.float32, 0, marks=NATIVE.marks),
        pytest.param("native", torch.bfloat16, 3 * 4 * native.WIDENED, marks=NATIVE.marks),
    ],
    ids=str,
)
def test_memory_is_that_of_x_y_and_dx_and_of_a_block(backend, dtype, workspace):
    """FlashKAT 6: at most 1 MB of workspace, for the native kernels on float32; half precision is widened by parts."""
    x, a, b, grad = problem(4096, 768, 8, dtype=torch.float32)
    x, grad = x.to(dtype).requires_grad_(), grad.to(dtype)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as recorded:
        group_rational(x, a, b, backend=backend).backward(grad)
    alive = peak = 0
    for event in recorded.profiler.kineto_results.events():
        if event.name() == "[memory]":
            alive += event.nbytes()
            peak = max(peak, alive)
    assert peak <= 2 * x.nbytes + workspace + 2**20


# --- derivatives, compilation, transforms


@pytest.mark.parametrize("form", FORMS)
@every
def test_kat_7_6_first_and_second_derivatives(form, backend):
    x, a, b, _ = problem(4, 6, 3, form, shared=False)
    x = x.abs() + 0.2
    arguments = [t.requires_grad_() for t in (x * 0.5 if form == "free" else x, a, b.abs())]

    def function(*tensors):
        return group_rational(*tensors, form=form, backend=backend)

    assert gradcheck(function, arguments)
    assert gradgradcheck(function, arguments)


@fast
def test_third_derivative(backend):
    third = []
    for name in ("reference", backend):
        torch.manual_seed(1)
        x = torch.rand(3, 6, dtype=F64, requires_grad=True)
        a, b = torch.linspace(-1, 1, 6, dtype=F64)[None], torch.linspace(0.1, 1, 12, dtype=F64).view(3, 4)
        derivative = group_rational(x, a, b, backend=name)
        for _ in range(3):
            (derivative,) = torch.autograd.grad(derivative.sum(), x, create_graph=True)
        third.append(derivative.detach())
    torch.testing.assert_close(third[1], third[0])
    assert third[0].abs().min() > 0


@fast
def test_gradient_that_depends_on_x_is_differentiated_once(backend):
    x, a, b, _ = problem(5, 6, 3)
    results = []
    for name in ("reference", backend):
        z = x.clone().requires_grad_()
        (dx,) = torch.autograd.grad(group_rational(z, a, b, backend=name), z, z.sin(), create_graph=True)
        results.append(torch.autograd.grad(dx.square().sum(), z)[0])
    torch.testing.assert_close(results[1], results[0])


@pytest.mark.parametrize("needed", [(0,), (1,), (2,), (0, 2)])
@fast
def test_only_the_gradients_that_are_asked_for(backend, needed):
    tensors = list(problem(20, 24, 8)[:3])
    for i in needed:
        tensors[i].requires_grad_()
    (got, want) = (
        torch.autograd.grad(group_rational(*tensors, backend=name).sum(), [tensors[i] for i in needed])
        for name in (backend, "reference")
    )
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g, w)


@pytest.mark.parametrize(
    ("backend", "form"), [("cpu", "sum_of_abs"), pytest.param("native", "floor", marks=NATIVE.marks)]
)
def test_opcheck(backend, form):
    x, a, b, grad = problem(3, 6, 3, form)
    arguments = [t.requires_grad_() for t in (x, a, b)]
    torch.library.opcheck(torch.ops.kan.group_rational_fwd, (*arguments, form, backend))
    torch.library.opcheck(torch.ops.kan.group_rational_bwd, (grad, *arguments, form, backend, True, True))
    torch.library.opcheck(torch.ops.kan.group_rational_bwd, (grad, *arguments, form, backend, True, False))


@pytest.mark.parametrize("backend", ["auto", "cpu", NATIVE])
def test_compile_fullgraph(backend):
    arguments = problem(6, 24, 8)

    def step(x, a, b):
        return group_rational(x, a, b, backend=backend).square().sum()

    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    results = []
    for function in (step, compiled):
        tensors = [t.clone().requires_grad_() for t in arguments[:3]]
        function(*tensors).backward()
        results.append([t.grad for t in tensors])
    for got, want in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(got, want)


def test_compiled_code_traces_the_definition_unless_a_backend_is_named():
    found = []

    def record(graph, _):
        found.append([str(node.target) for node in graph.graph.nodes])
        return graph.forward

    x, a, b, _ = problem(6, 24, 8)
    for backend, op in (("auto", False), ("cpu", True)):
        torch._dynamo.reset()
        torch.compile(lambda *t, name=backend: group_rational(*t, backend=name), backend=record, fullgraph=True)(
            x, a, b
        )
        assert any("group_rational_fwd" in target for target in found.pop()) == op


def test_export_is_ordinary_ops():
    module, x = Rational(24, dtype=F64), torch.randn(4, 24, dtype=F64)
    program = torch.export.export(module, (x,), strict=False)
    assert not any("kan" in str(node.target) for node in program.graph.nodes)
    torch.testing.assert_close(program.module()(x), module(x))


@every
def test_vmap_over_inputs_coefficients_and_gradients(backend):
    x, a, b = torch.randn(5, 7, 24, dtype=F64), torch.randn(5, 1, 6, dtype=F64), torch.randn(8, 5, 4, dtype=F64)

    def function(x, a, b):
        return group_rational(x, a, b, backend=backend)

    torch.testing.assert_close(torch.vmap(function, (0, None, None))(x, a[0], b[:, 0]), function(x, a[0], b[:, 0]))
    got = torch.vmap(function, (0, 0, 1))(x, a, b)
    torch.testing.assert_close(got, torch.stack([function(x[i], a[i], b[:, i]) for i in range(5)]))
    arguments = (x[0, :2], a[0], b[:, 0])
    for one, other in zip(*(jacobian(function, arguments, vectorize=v) for v in (True, False)), strict=True):
        torch.testing.assert_close(one, other)


def test_flop_counter_has_kats_formula():
    x, a, b, grad = problem(10, 24, 8)
    x.requires_grad_()
    with FlopCounterMode(display=False) as forward:
        y = group_rational(x, a, b)
    with FlopCounterMode(display=False) as backward:
        y.backward(grad)
    assert forward.get_total_flops() == (2 * 5 + 2 * 4 + 3) * 240
    assert backward.get_total_flops() == (6 * 5 + 6 * 4 + 3) * 240


# --- choosing the backend, and bad input


def test_layers_hand_their_backend_on():
    x = torch.zeros(2, 8)
    with pytest.raises(KANError, match="argument backend is 'fast'; choose one of auto, reference, cpu, native"):
        Rational(8, backend="fast")(x)
    assert torch.equal(Rational(8, backend="cpu")(x), Rational(8, backend="reference")(x))
    for layer in (Rational, GroupRationalLinear, PadeLinear):
        module = layer(8, backend="cpu") if layer is Rational else layer(8, 4, backend="cpu")
        assert [(c.op, c.name) for c in explain(module, x)] == [("group_rational", "cpu")]


@pytest.mark.skipif(bool(_native.unavailable()), reason=_native.unavailable() or "there is one")
def test_auto_is_native_up_to_64_coefficients():
    x = torch.zeros(2, 8)
    fits, exceeds = ((torch.zeros(1, size), torch.zeros(8, 4)) for size in (59, 60))
    assert [c.name for c in explain(lambda x: group_rational(x, *fits), x)] == ["native"]
    (choice,) = explain(lambda x: group_rational(x, *exceeds), x)
    assert (choice.name, "not native: its kernels take at most 64 coefficients, not 65" in choice.reason) == (
        "cpu",
        True,
    )
    with pytest.raises(KANError, match="is 'native', but its kernels take at most 64 coefficients, not 65"):
        group_rational(x, *exceeds, backend="native")


def test_triton_is_never_replaced_silently(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    x, a, b, _ = problem(2, 8, 8)
    refusal = "is 'triton', but (the input is on cpu|triton is not installed); use backend='auto'"
    with pytest.raises(KANError, match=refusal):
        group_rational(x, a, b, backend="triton")
    with pytest.raises(KANError, match=refusal):
        explain(lambda x: group_rational(x, a, b, backend="triton"), x)
    with use_backend("triton"), pytest.raises(KANError, match=refusal):
        group_rational(x, a, b)
    (choice,) = explain(lambda x: group_rational(x, a, b), x)
    assert choice.name in ("cpu", "native")
    (choice,) = explain(lambda x: group_rational(x, a.to("meta"), b.to("meta")), x.to("meta"))
    assert choice == ("group_rational", "reference", "no kernel for meta yet")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"x": torch.zeros(())}, r"x must be \(..., features\), got shape \(\)", id="x-scalar"),
        pytest.param({"x": torch.zeros(2, 7)}, "a divisor of the 7 features, got 1 and 4", id="x-size"),
        pytest.param({"x": torch.zeros(2, 8, dtype=torch.long)}, "floating dtypes, got torch.int64", id="x-integer"),
        pytest.param({"numerator": torch.zeros(6)}, r"numerator must be \(groups, coeff.* shape \(6,\)", id="a-1d"),
        pytest.param({"numerator": torch.zeros(1, 1)}, "at least 2 coefficients", id="a-constant"),
        pytest.param({"numerator": torch.zeros(2, 6)}, "got 2 and 4", id="groups"),
        pytest.param({"denominator": torch.zeros(4, 0)}, "at least 1 coefficients", id="b-empty"),
        pytest.param({"denominator": torch.zeros(4, 1), "form": "floor"}, "at least 2 coeff", id="b-floor"),
        pytest.param({"denominator": torch.zeros(4, 4, device="meta")}, "on one device, got cpu and meta", id="device"),
        pytest.param({"form": "abs"}, "form is 'abs'; choose one of sum_of_abs, abs_of_sum, floor, free", id="form"),
    ],
)
def test_bad_input(change, message):
    good = {"x": torch.zeros(2, 8), "numerator": torch.zeros(1, 6), "denominator": torch.zeros(4, 4)}
    with pytest.raises(KANError, match=message):
        group_rational(**{**good, **change})


# --- the Triton kernels, program by program in the interpreter, which must be chosen before Triton is imported

INTERPRETED = """
import sys, torch
sys.path.insert(0, sys.argv[1])
import quick_interpreter
from test_op_group_rational import problem, run, assert_same
from kan_core.ops.group_rational import triton_kernels

torch.manual_seed(0)
triton_kernels.ENOUGH_PROGRAMS = 4  # so that a program walks several tiles
def check(form, rows, features, groups, view=lambda t: t, **options):
    x, a, b, grad = problem(rows, features, groups, form, **options)
    x = view(x)
    grad = torch.ones((), dtype=x.dtype).expand(x.shape) if x.shape != grad.shape else grad
    got, again = run("triton", x, a, b, grad, form), run("triton", x, a, b, grad, form) if rows == 7 else None
    want = run("reference", *(t.double() for t in (x, a, b, grad)), form)
    assert all(t.dtype == x.dtype for t in got.values())
    assert_same(got, want, 1e-12 if x.dtype == torch.float64 else 1e-5)
    assert again is None or all(torch.equal(got[name], again[name]) for name in got), "not the same bits"
    print("checked", form, rows, features, groups, flush=True)
f32 = {"dtype": torch.float32}
"""
QUICK = """
for form in ("sum_of_abs", "abs_of_sum", "floor", "free"):
    check(form, 7, 24, 2, shared=form == "sum_of_abs", **f32)
check("abs_of_sum", 3, 8, 2, m=3, n=2)                                            # float64, other degrees
check("sum_of_abs", 14, 24, 2, view=lambda t: t.view(7, 2, 24).transpose(0, 1), **f32)  # x and gradient not contiguous
for form in ("sum_of_abs", "abs_of_sum"):                                         # the signs at zero
    x, a = torch.tensor([[0.0], [-0.0], [-1.5], [2.0]]), torch.tensor([[0.5, 1.0]])
    for b in ([[0.0, 0.0]], [[1.0, -0.0]]):
        arguments = (x, a, torch.tensor(b), torch.arange(1.0, 5)[:, None], form)
        assert_same(run("triton", *arguments), run("reference", *arguments), 1e-6)
        print("checked signs", flush=True)
"""
SHAPES = """
for rows in (0, 1, 7, 197):
    for features, groups in ((8, 1), (8, 2), (8, 8), (24, 1), (24, 2), (24, 8), (192, 1), (192, 2), (192, 8)):
        if rows != 1 or groups <= 2:
            check(FORM, rows, features, groups, **f32)
check(FORM, 7, 24, 24, **f32)
"""


def interpreted(script: str) -> int:
    """Run the script in Triton's interpreter; how many cases it checked."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    folder = os.path.dirname(__file__)  # noqa: PTH120 - as sys.path has it
    command = [sys.executable, "-c", INTERPRETED + script, folder]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.count("checked")


@needs_triton
@pytest.mark.slow
def test_triton_forms_layouts_degrees_and_signs_at_zero():
    assert interpreted(QUICK) == 10


@needs_triton
@pytest.mark.slow
def test_flashkat_6_triton_shapes():
    """In one form; the quick test has all of them."""
    assert interpreted(SHAPES.replace("FORM", repr("sum_of_abs"))) == 3 * 9 + 6 + 1


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize("width", [24, 384])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_flashkat_4_kernels_compile_for_hopper_with_vector_loads_and_no_spills(tmp_path, monkeypatch, width, dtype):
    """No GPU is needed to compile. Widths that are no power of two load 16 bytes of float32 at once all the same."""
    from triton import knobs
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    from kan_core.ops.group_rational import triton_kernels as kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    x, a, b, _ = problem(64, 8 * width, 8, dtype=torch.float32)
    constants = kernels._Launch(x, a, b, "sum_of_abs").constants
    warps = constants.pop("num_warps")
    pointers = {"a_ptr": "*fp32", "b_ptr": "*fp32", "sums_ptr": "*fp32"}
    pointers |= dict.fromkeys(("x_ptr", "y_ptr", "grad_ptr", "dx_ptr"), "*" + dtype)
    for kernel, more in (
        (kernels._forward, {}),
        (kernels._backward, {"NEED_DX": True, "NEED_COEFFICIENTS": True}),
    ):
        names = kernel.arg_names
        values = constants | more
        signature = {name: "constexpr" if name in values else pointers.get(name, "i32") for name in names}
        aligned = {(names.index(name),): [["tt.divisibility", 16]] for name in names if name in pointers}
        source = ASTSource(kernel, signature, {(names.index(k),): v for k, v in values.items()}, aligned)
        built = compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps})
        loads = built.asm["ptx"].count("ld.global.v4.b32" if dtype == "fp32" else "ld.global.v2.b32")
        assert loads == (1 if kernel is kernels._forward else 2)
        code = tmp_path / "kernel.ptx"
        code.write_text(built.asm["ptx"])
        command = [knobs.nvidia.ptxas.path, "-v", "--gpu-name=sm_90a", code, "-o", os.devnull]
        report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
        assert "0 bytes spill stores, 0 bytes spill loads" in report
        assert int(re.search(r"Used (\d+) registers", report)[1]) <= 85  # three programs of 256 threads at once
