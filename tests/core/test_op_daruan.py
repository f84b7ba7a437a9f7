"""The DARUAN op: fused sums of circuits over the inputs, the native path against the definition in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from kan_core.errors import KANError
from kan_core.layers import QKANLinear
from kan_core.layers._edges import EdgeLinear
from kan_core.ops import _native, explain, use_backend
from kan_core.ops.daruan import daruan, daruan_linear, fast_readout, native

F64 = torch.float64
NAMES = ("y", "dx", "dtheta", "dfrequency", "dphase", "dfactor")
needs_native = pytest.mark.skipif(bool(_native.unavailable()), reason=_native.unavailable())
every_backend = pytest.mark.parametrize("backend", ["reference", pytest.param("native", marks=needs_native)])
every_readout = pytest.mark.parametrize("readout", ["exact", "fast"])
every_ansatz = pytest.mark.parametrize("gates", [2, 1], ids=["pz", "rpz"])


def problem(rows: int, features: int, outputs: int, reps: int, gates: int = 2, dtype=F64) -> list[Tensor]:
    """x, theta, frequency, phase and factor."""
    uploads = (outputs, features, reps)
    shapes = [(rows, features), (outputs, features, reps + 1, gates), uploads, uploads, uploads[:2]]
    return [(torch.randn(shape, dtype=F64) * 1.5).to(dtype) for shape in shapes]


def run(backend: str, tensors: list[Tensor], grad: Tensor, readout: str = "exact") -> dict[str, Tensor]:
    """Output and gradients."""
    tensors = [t.detach().requires_grad_() for t in tensors]
    y = daruan_linear(*tensors, readout=readout, backend=backend)
    return dict(zip(NAMES, (y.detach(), *torch.autograd.grad(y, tensors, grad)), strict=True))


def error(got: Tensor, want: Tensor) -> float:
    return ((got.double() - want.double()).norm() / want.double().norm().clamp(min=1e-30)).item()


def assert_same(got: dict[str, Tensor], want: dict[str, Tensor], rms: float) -> None:
    for name, expected in want.items():
        assert got[name].shape == expected.shape, name
        assert error(got[name], expected) <= rms, f"{name}: {error(got[name], expected):.2e}"


# --- values


@every_backend
@pytest.mark.parametrize(
    ("theta", "weight", "bias", "exact", "fast"),
    [
        ([[0.1, 0.2], [0.3, 0.4]], [1.0], [0.0], -0.35453794, -0.25486932),
        ([[0.1, 0.2], [0.3, 0.4], [-0.5, 0.6]], [1.0, 2.0], [0.0, 0.25], 0.08176961, 0.05786832),
        ([[0.2], [0.4]], [1.0], [0.0], -0.47489311, None),
        ([[0.2], [0.4], [0.6]], [1.0, 2.0], [0.0, 0.25], -0.00917359, None),
    ],
    ids=["pz-1", "pz-2", "rpz-1", "rpz-2"],
)
def test_qkan_card_golden_values(backend, theta, weight, bias, exact, fast):
    tensors = [torch.tensor(t, dtype=F64)[None, None] for t in (theta, weight, bias)]
    factor = torch.tensor([[2.0]], dtype=F64)
    x = torch.tensor([[0.7]], dtype=F64)
    assert daruan_linear(x, *tensors, factor, backend=backend).item() == pytest.approx(2 * exact, abs=1e-8)
    if fast is not None:
        y = daruan_linear(x, *tensors, factor, readout="fast", backend=backend)
        assert y.item() == pytest.approx(2 * fast, abs=1e-8)


@every_readout
@every_ansatz
def test_the_reference_is_the_sum_over_the_inputs(gates, readout):
    x, theta, frequency, phase, factor = problem(7, 3, 5, 2, gates)
    y = daruan_linear(x, theta, frequency, phase, factor, readout=readout, backend="reference")
    for o in range(5):
        z = [daruan(x[:, i], theta[o, i], frequency[o, i], phase[o, i]) for i in range(3)]
        read = [fast_readout(v) if readout == "fast" else v for v in z]
        torch.testing.assert_close(y[:, o], sum(f * v for f, v in zip(factor[o], read, strict=True)))


@needs_native
@every_readout
@every_ansatz
@pytest.mark.parametrize("reps", [1, 2, 3, 8])
@pytest.mark.parametrize("rows", [0, 1, 17, 257])
def test_native_equals_reference(rows, reps, gates, readout):
    for features, outputs in ((1, 1), (5, 3), (3, 17)):
        tensors, grad = problem(rows, features, outputs, reps, gates), torch.randn(rows, outputs, dtype=F64)
        want = run("reference", tensors, grad, readout)
        assert_same(run("native", tensors, grad, readout), want, 1e-11)
        single = [t.float() for t in tensors]
        got = run("native", single, grad.float(), readout)
        assert {t.dtype for t in got.values()} == {torch.float32}
        rounded = run("reference", single, grad.float(), readout)
        exact = run("reference", [t.double() for t in single], grad.float().double(), readout)
        for name, expected in exact.items():  # near the poles of the fast read-out, what float32 can give
            assert error(got[name], expected) <= max(1e-5, 2 * error(rounded[name], expected)), name


@needs_native
def test_parts_of_the_rows_give_what_one_part_gives(monkeypatch):
    tensors, grad = problem(257, 3, 5, 2), torch.randn(257, 5, dtype=F64)
    monkeypatch.setattr(native, "ENOUGH_ITEMS", 1)
    whole = run("native", tensors, grad)
    monkeypatch.setattr(native, "MAX_CHUNK", 1)
    assert_same(run("native", tensors, grad), whole, 1e-14)


@needs_native
@pytest.mark.parametrize("reps", [1, 3, 8])
def test_qkan_card_float32_error_within_5e_6_for_products_up_to_100_in_all_uploads(reps):
    """The product enters unrounded: rounding w x = 100 alone moves each upload by up to 3.8e-6."""
    _, theta, frequency, phase, _ = problem(1, 1, 200, reps, 1)
    frequency = (frequency / frequency.abs().max()).float()
    x = torch.linspace(-100, 100, 2001)[:, None]
    tensors = [x, theta.float(), frequency, phase.float(), torch.ones(200, 1)]
    want = daruan_linear(*(t.double() for t in tensors), backend="reference")
    assert (daruan_linear(*tensors, backend="native") - want).abs().max() <= 2e-6


@needs_native
@pytest.mark.parametrize("reach", [9e3, 1e4, 2e5, 1e9])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_angles_are_reduced_over_the_full_range(dtype, reach):
    """Beyond 1e5 (float32) and 1e6 the library's sine takes over; x = 1e30 is as good as any."""
    _, theta, frequency, phase, _ = problem(1, 1, 50, 1, dtype=dtype)
    frequency = frequency / frequency.abs().max()
    x = torch.linspace(0.9 * reach, reach, 501, dtype=F64).to(dtype)[:, None]
    tensors = [x, theta, frequency, phase, torch.ones(50, 1, dtype=dtype)]
    want = daruan_linear(*(t.double() for t in tensors), backend="reference")
    got = daruan_linear(*tensors, backend="native")
    # in float64 the reference rounds w x itself
    assert (got - want).abs().max() <= (5e-6 if dtype == torch.float32 else max(1e-11, 3e-16 * reach))
    far = daruan_linear(torch.full((1, 1), 1e30, dtype=dtype), *tensors[1:], backend="native")
    assert far.abs().max() <= 1 + 1e-6


@every_backend
@every_readout
def test_nan_propagates_and_infinity_becomes_nan(backend, readout):
    x, *parameters = problem(20, 4, 3, 2, dtype=torch.float32)
    x[5, 1], x[9, 0], x[11, 2] = torch.nan, torch.inf, -torch.inf
    y = daruan_linear(x, *parameters, readout=readout, backend=backend)
    bad = torch.zeros(20, dtype=torch.bool).index_fill_(0, torch.tensor([5, 9, 11]), True)
    assert y[bad].isnan().all()
    assert y[~bad].isfinite().all()
    for parameter in parameters:
        spoiled = [p.clone() for p in parameters]
        spoiled[[p is parameter for p in parameters].index(True)].view(3, 4, -1)[1, 2, 0] = torch.nan
        y = daruan_linear(x[~bad], *spoiled, readout=readout, backend=backend)
        assert y[:, 1].isnan().all()
        assert y[:, [0, 2]].isfinite().all()


def test_fast_readout_does_not_hide_a_nan():
    z = torch.tensor([torch.nan, 0.5], requires_grad=True)
    y = fast_readout(z)
    y.sum().backward()
    assert y.isnan().tolist() == z.grad.isnan().tolist() == [True, False]


@every_backend
def test_finite_gradients_at_the_poles_of_the_fast_readout(backend):
    theta = torch.zeros(4, 3, 3, 2)
    theta[:, :, 0, 1] = torch.pi / 2  # z = -1 for all x
    tensors = [torch.randn(9, 3), theta, torch.ones(4, 3, 2), torch.zeros(4, 3, 2), torch.ones(4, 3)]
    assert all(t.isfinite().all() for t in run(backend, tensors, torch.ones(9, 4), "fast").values())


@needs_native
def test_same_bits_twice_and_with_any_number_of_threads():
    tensors = problem(1000, 6, 5, 3, dtype=torch.float32)
    grad, threads = torch.randn(1000, 5), torch.get_num_threads()
    results = []
    try:
        for count in (1, 1, 2, 3):
            torch.set_num_threads(count)
            results.append(run("native", tensors, grad, "fast"))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(result[name], results[0][name]) for result in results for name in NAMES)


@needs_native
def test_a_row_does_not_depend_on_its_neighbours():
    x, *parameters = problem(200, 5, 3, 3, dtype=torch.float32)
    y = daruan_linear(x, *parameters, backend="native")
    assert all(
        torch.equal(daruan_linear(x[n : n + 1], *parameters, backend="native")[0], y[n]) for n in (0, 63, 77, 199)
    )


@every_backend
def test_layouts_of_x_of_the_parameters_and_of_the_gradient(backend):
    tensors, grad = problem(12, 5, 3, 2), torch.randn(12, 3, dtype=F64)
    want = run(backend, tensors, grad)
    strided = [torch.stack([t, t + 1], dim=-1)[..., 0] for t in tensors]
    assert_same(run(backend, strided, grad.t().contiguous().t()), want, 1e-14)
    x, *parameters = tensors
    shaped = run(backend, [x.view(3, 4, 5).transpose(0, 1), *parameters], grad.view(3, 4, 3).transpose(0, 1))
    for name in ("y", "dx"):
        shaped[name] = shaped[name].transpose(0, 1).reshape(12, -1)
    assert_same(shaped, want, 1e-13)
    expanded = run(backend, tensors, torch.ones((), dtype=F64).expand(12, 3))
    assert_same(expanded, run(backend, tensors, torch.ones(12, 3, dtype=F64)), 1e-14)
    assert daruan_linear(x[0], *parameters, backend=backend).shape == (3,)


@every_backend
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_x_is_computed_in_float32_and_the_result_has_the_promoted_type(backend, half):
    x, *parameters = problem(9, 5, 3, 2, dtype=torch.float32)
    x = x.to(half).requires_grad_()
    y = daruan_linear(x, *parameters, backend=backend)
    torch.testing.assert_close(y, daruan_linear(x.detach().float(), *parameters, backend=backend))
    (dx,) = torch.autograd.grad(y.sum(), x)
    assert (y.dtype, dx.dtype) == (torch.float32, half)
    rounded = [p.to(half) for p in parameters]
    y = daruan_linear(x, *rounded, backend=backend)
    exact = daruan_linear(x.double(), *(p.double() for p in rounded), backend=backend)
    assert y.dtype == half
    torch.testing.assert_close(y.double(), exact, rtol=torch.finfo(half).eps, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(
            daruan_linear(x, *parameters, backend=backend), daruan_linear(x, *parameters, backend=backend)
        )
        assert daruan_linear(x, *parameters, backend=backend).dtype == torch.float32
    assert daruan_linear(x.float(), *(p.double() for p in parameters), backend=backend).dtype == F64


# --- memory


def peak(call) -> int:
    """Largest sum of memory that `call` has allocated and not yet freed."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as recorded:
        call()
    alive = highest = 0
    for event in recorded.profiler.kineto_results.events():
        if event.name() == "[memory]":
            alive += event.nbytes()
            highest = max(highest, alive)
    return highest


@needs_native
def test_no_tensor_over_rows_and_edges_and_nothing_saved_but_the_inputs():
    layer = QKANLinear(64, 64, trainable_frequencies=True)
    saved = []

    def step(rows):
        x = torch.randn(rows, 64, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
            y = layer(x)
        y.sum().backward()
        layer.zero_grad()

    step(8)
    small, large = (peak(lambda rows=rows: step(rows)) for rows in (64, 1024))
    row = 64 * 4
    assert large - small <= 12 * 960 * row  # x, y, SiLU, their gradients and transposes; one more per edge would be 64
    assert max(saved) <= max(1024 * 64, 64 * 64 * 8)


# --- derivatives, registration, transforms


@every_backend
@every_readout
@every_ansatz
def test_qkan_card_gradcheck_and_second_derivative(backend, readout, gates):
    tensors = problem(3, 2, 2, 2, gates)
    tensors[1] = tensors[1] / 4  # away from the poles
    tensors = [t.requires_grad_() for t in tensors]

    def function(*tensors):
        return daruan_linear(*tensors, readout=readout, backend=backend)

    assert gradcheck(function, tensors)
    assert gradgradcheck(function, tensors)


@needs_native
def test_gradient_that_depends_on_x_is_differentiated_once():
    x, *parameters = problem(5, 3, 3, 2)
    results = []
    for backend in ("reference", "native"):
        z = x.clone().requires_grad_()
        (dx,) = torch.autograd.grad(daruan_linear(z, *parameters, backend=backend), z, z.sin(), create_graph=True)
        results.append(torch.autograd.grad(dx.square().sum(), z)[0])
    torch.testing.assert_close(results[1], results[0])


@needs_native
@pytest.mark.parametrize("needed", [(0,), (1,), (3,), (0, 4)])
def test_only_the_gradients_that_are_asked_for(needed):
    tensors = problem(20, 3, 4, 2)
    for i in needed:
        tensors[i].requires_grad_()
    got, want = (
        torch.autograd.grad(daruan_linear(*tensors, backend=name).sum(), [tensors[i] for i in needed])
        for name in ("native", "reference")
    )
    torch.testing.assert_close(got, want)


@needs_native
@pytest.mark.slow
def test_opcheck():
    x, gates, frequency = torch.randn(3, 4), torch.randn(3, 2, 4, 5), torch.randn(2, 4, 5)
    tensors = [t.to(F64).requires_grad_() for t in (x, gates, frequency, torch.randn(4, 5))]
    torch.library.opcheck(torch.ops.kan.daruan_fwd, (*tensors, True, "native"))
    torch.library.opcheck(torch.ops.kan.daruan_bwd, (torch.randn(3, 5, dtype=F64), *tensors, False, "native"))


@needs_native
def test_compile_fullgraph_keeps_the_fused_op():
    layer = QKANLinear(5, 4, trainable_frequencies=True, dtype=F64)
    seen = []

    def record(graph, _):
        seen.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    x = torch.randn(7, 5, dtype=F64)
    compiled = torch.compile(layer, backend=record, fullgraph=True)
    torch.testing.assert_close(compiled(x), layer(x))
    assert any("daruan_fwd" in target for target in seen)
    program = torch.export.export(layer, (x,), strict=False)
    assert not any("kan" in str(node.target) for node in program.graph.nodes)  # ordinary ops convert to any format
    torch.testing.assert_close(program.module()(x), layer(x))


@every_backend
def test_vmap_over_inputs_and_parameters(backend):
    x, theta, *others = problem(7, 3, 4, 2)
    xs, thetas = torch.stack([x, x + 1]), torch.stack([theta, theta * 2], dim=1)

    def function(x, theta):
        return daruan_linear(x, theta, *others, backend=backend)

    got = torch.vmap(function, (0, 1))(xs, thetas)
    torch.testing.assert_close(got, torch.stack([function(xs[n], thetas[:, n]) for n in range(2)]))
    torch.testing.assert_close(torch.vmap(function, (0, None))(xs, theta)[1], function(xs[1], theta))
    x = x.requires_grad_()
    y = function(x, theta)
    (want,) = torch.autograd.grad(y, x, torch.ones_like(y), retain_graph=True)
    basis = torch.stack([torch.ones_like(y), torch.zeros_like(y)])
    (got,) = torch.autograd.grad(y, x, basis, is_grads_batched=True)
    torch.testing.assert_close(got, torch.stack([want, torch.zeros_like(want)]))


@needs_native
@every_readout
def test_flop_counter_has_the_formula_of_the_layer(readout):
    layer = QKANLinear(5, 4, reps=3, trainable_frequencies=True, base=False, bias=False, readout=readout)
    x = torch.randn(6, 5, requires_grad=True)
    with FlopCounterMode(display=False) as forward:
        y = layer(x)
    with FlopCounterMode(display=False) as backward:
        y.sum().backward()
    assert forward.get_total_flops() == layer.elementwise_flops(x.numel())
    fast = readout == "fast"
    assert backward.get_total_flops() == 6 * 5 * 4 * (21 * 3 - 9 + 2 + 7 * fast + 24 * 3 + 4 + 8 * fast)


# --- the layer, choosing the backend, and bad input


@needs_native
@pytest.mark.parametrize(
    "options",
    [
        {"trainable_frequencies": True},
        {"readout": "fast", "groups": 2, "post_weight": True},
        {"ansatz": "rpz", "trainable_frequencies": True, "base": False},
    ],
    ids=["frequencies", "fast-groups", "rpz"],
)
def test_layer_gives_by_the_native_path_what_its_simulation_gives(options):
    layer = QKANLinear(5, 4, dtype=F64, backend="native", **options)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    layer.prune(torch.rand(4, 5) > 0.3)
    x = torch.randn(2, 9, 5, dtype=F64, requires_grad=True)

    def both(forward):
        y = forward(x)
        return [y, *torch.autograd.grad(y.square().sum(), [x, *layer.parameters()])]

    torch.testing.assert_close(both(layer), both(lambda x: EdgeLinear.forward(layer, x)), atol=1e-11, rtol=1e-11)


def test_layers_hand_their_backend_on_and_the_dense_form_refuses_one():
    x = torch.randn(3, 5)
    layer = QKANLinear(5, 4, trainable_frequencies=True, backend="reference")
    assert [choice.name for choice in explain(layer, x)] == ["reference"]
    with use_backend("reference"):
        assert [c.name for c in explain(QKANLinear(5, 4, readout="fast"), x)] == ["reference"]
    assert explain(QKANLinear(5, 4), x) == []  # ordinary torch: one matrix product
    with pytest.raises(KANError, match="backend 'native' simulates circuits, but this layer is one matrix product"):
        QKANLinear(5, 4, backend="native")(x)
    with pytest.raises(KANError, match="is 'cpu', but daruan_linear has no such kernel; use backend='auto'"):
        QKANLinear(5, 4, readout="fast", backend="cpu")(x)
    with pytest.raises(KANError, match="argument backend is 'fastest'; choose one of auto, reference"):
        QKANLinear(5, 4, readout="fast", backend="fastest")(x)


@needs_native
def test_auto_takes_the_native_path_once_on_a_cpu():
    (choice,) = explain(QKANLinear(5, 4, trainable_frequencies=True), torch.randn(3, 5))
    assert (choice.op, choice.name) == ("daruan_linear", "native")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"theta": torch.zeros(4, 3, 1, 2)}, r"theta must be \(out, in, r \+ 1, 2 or 1\) with r", id="r"),
        pytest.param({"theta": torch.zeros(4, 3, 2, 3)}, r"2 or 1\) .* got shape \(4, 3, 2, 3\)", id="gates"),
        pytest.param({"x": torch.zeros(2, 5)}, r"x must be \(..., 3\) as theta has it, got shape \(2, 5\)", id="x"),
        pytest.param({"frequency": torch.zeros(4, 3, 2)}, r"frequency must have shape \(4, 3, 1\)", id="frequency"),
        pytest.param({"phase": torch.zeros(3)}, r"phase must have shape \(4, 3, 1\) .* got \(3,\)", id="phase"),
        pytest.param({"factor": torch.zeros(3, 4)}, r"factor must have shape \(4, 3\)", id="factor"),
        pytest.param({"x": torch.zeros(2, 3, dtype=torch.long)}, "floating dtypes, got torch.int64", id="integer"),
        pytest.param({"factor": torch.zeros(4, 3, device="meta")}, "on one device, got cpu and meta", id="device"),
        pytest.param({"readout": "quick"}, "readout is 'quick'; choose one of exact, fast", id="readout"),
        pytest.param({"backend": "sparse"}, "daruan_linear has no such kernel", id="backend"),
    ],
)
def test_bad_input(change, message):
    names = ("x", "theta", "frequency", "phase", "factor")
    good = dict(zip(names, problem(2, 3, 4, 1, dtype=torch.float32), strict=True))
    with pytest.raises(KANError, match=message):
        daruan_linear(**{**good, **change})
