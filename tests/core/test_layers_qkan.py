"""QKAN's card: DARUAN, the QKAN layer in its dense and simulated forms, extension, and HQKAN."""

from __future__ import annotations

import cmath
import math

import pytest
import torch
from torch import nn

from kan_core import KANError, layers
from kan_core.layers import HQKANLinear, QKANLinear, _edges
from kan_core.layers._edges import EdgeLinear
from kan_core.layers.qkan import fourier_analysis, harmonics
from kan_core.ops.daruan import daruan, fast_readout

F64 = torch.float64
FORMS = {
    "pz": {},
    "pz-fast": {"readout": "fast"},
    "pz-frequencies": {"trainable_frequencies": True},
    "pz-groups": {"groups": 2, "post_weight": True},
    "rpz": {"ansatz": "rpz"},
    "rpz-frequencies": {"ansatz": "rpz", "trainable_frequencies": True, "groups": 3},
    "phi-only": {"base": False, "post_weight": True},
}
DENSE = {name: FORMS[name] for name in ("pz", "pz-groups", "rpz", "phi-only")}
every_form = pytest.mark.parametrize("options", FORMS.values(), ids=list(FORMS))
every_dense_form = pytest.mark.parametrize("options", DENSE.values(), ids=list(DENSE))


def f64(*values) -> torch.Tensor:
    return torch.tensor(values, dtype=F64)


def circuits(reps: int, gates: int = 2, edges: int = 50, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Random θ, w and b of some edges."""
    torch.manual_seed(seed)
    shapes = [(edges, reps + 1, gates), (edges, reps), (edges, reps)]
    return tuple(torch.randn(shape, dtype=F64) * 2 for shape in shapes)


def layer_with(seed: int = 0, **options) -> QKANLinear:
    """A layer away from its initial values."""
    torch.manual_seed(seed)
    layer = QKANLinear(5, 4, dtype=F64, **options)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.7)
    return layer


def state_vector(x: float, theta: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> tuple[complex, complex]:
    """The two amplitudes after the circuit, by multiplying complex 2 x 2 gates: the card's definition."""

    def rz(state, t):
        return state[0] * cmath.exp(-0.5j * t), state[1] * cmath.exp(0.5j * t)

    def ry(state, t):
        c, s = math.cos(t / 2), math.sin(t / 2)
        return c * state[0] - s * state[1], s * state[0] + c * state[1]

    def trained(state, angles):
        for gate, angle in zip((rz, ry) if len(angles) == 2 else (ry,), angles, strict=True):
            state = gate(state, angle)
        return state

    state = (complex(math.sqrt(0.5)), complex(math.sqrt(0.5)))
    for angles, w, b in zip(theta.tolist(), weight.tolist(), bias.tolist(), strict=False):
        state = rz(trained(state, angles), w * x + b)
    return trained(state, theta[-1].tolist())


# --- DARUAN --------------------------------------------------------------------------------------------------------


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
def test_qkan_card_golden_values(theta, weight, bias, exact, fast):
    z = daruan(f64(0.7)[0], f64(*theta), f64(*weight), f64(*bias))
    assert z.item() == pytest.approx(exact, abs=1e-8)
    if fast is not None:
        assert fast_readout(z).item() == pytest.approx(fast, abs=1e-8)


@pytest.mark.parametrize("gates", [2, 1], ids=["pz", "rpz"])
@pytest.mark.parametrize("reps", [1, 2, 5])
def test_qkan_card_bloch_recurrence_equals_the_complex_state_vector(gates, reps):
    theta, weight, bias = circuits(reps, gates)
    x = torch.linspace(-4, 4, 50, dtype=F64)
    states = [state_vector(v.item(), *edge) for v, *edge in zip(x, theta, weight, bias, strict=True)]
    exact = f64(*(abs(a) ** 2 - abs(b) ** 2 for a, b in states))
    fast = f64(*(abs(a) - abs(b) for a, b in states))
    z = daruan(x, theta, weight, bias)
    torch.testing.assert_close(z, exact, atol=1e-14, rtol=0)
    torch.testing.assert_close(fast_readout(z), fast, atol=1e-13, rtol=0)


@pytest.mark.parametrize("reps", [1, 4, 16])
def test_qkan_card_phi_is_bounded_and_the_bloch_vector_keeps_its_length(reps):
    theta, weight, bias = circuits(reps)
    x = torch.linspace(-9, 9, 40, dtype=F64)[:, None]

    def component(turn: float, tilt: float) -> torch.Tensor:
        """One component of the vector: turned by `turn` about Z and `tilt` about Y, then read along Z."""
        longer = torch.cat([theta, f64([0.0, tilt]).expand(len(theta), 1, 2)], dim=1)
        still = torch.cat([weight, torch.zeros_like(weight[:, :1])], dim=1)
        return daruan(x, longer, still, torch.cat([bias, torch.full_like(bias[:, :1], turn)], dim=1))

    vz, vx, vy = component(0, 0), component(0, -math.pi / 2), component(-math.pi / 2, -math.pi / 2)
    assert vz.abs().max() <= 1 + 1e-12
    length = vx.square() + vy.square() + vz.square()
    torch.testing.assert_close(length, torch.ones_like(length), atol=1e-12, rtol=0)
    torch.testing.assert_close(vz, daruan(x, theta, weight, bias), atol=1e-13, rtol=0)


def test_qkan_card_zero_theta_gives_the_zero_function():
    layer = QKANLinear(3, 2, base=False, bias=False, dtype=F64)
    nn.init.zeros_(layer.theta)
    assert layer(torch.randn(20, 3, dtype=F64) * 5).abs().max() < 1e-14


def test_qkan_card_period_is_two_pi_for_whole_frequencies():
    theta, weight, bias = circuits(3)
    weight = weight.round()
    x = torch.linspace(-3, 3, 30, dtype=F64)[:, None]
    torch.testing.assert_close(
        daruan(x + 2 * math.pi, theta, weight, bias), daruan(x, theta, weight, bias), atol=1e-12, rtol=0
    )


@pytest.mark.parametrize("reps", [1, 3, 6])
def test_qkan_card_degree_is_the_number_of_uploads(reps):
    theta, weight, bias = circuits(reps)
    x = torch.arange(64, dtype=F64) * (2 * math.pi / 64)
    spectrum = torch.fft.rfft(daruan(x[:, None], theta, torch.ones_like(weight), bias), dim=0).abs() / 64
    assert spectrum[reps + 1 :].max() < 1e-14
    assert spectrum[reps].max() > 1e-3


@pytest.mark.parametrize("reps", [2, 3])
def test_qkan_card_frequencies_grow_exponentially_with_w_of_3_to_the_l(reps):
    theta, _, bias = circuits(reps)
    weight = (3.0 ** torch.arange(reps, dtype=F64)).expand(50, reps)
    x = torch.arange(64, dtype=F64) * (2 * math.pi / 64)
    spectrum = torch.fft.rfft(daruan(x[:, None], theta, weight, bias), dim=0).abs().amax(1) / 64
    highest = (3**reps - 1) // 2
    assert spectrum[: highest + 1].min() > 1e-3  # every whole frequency up to (3^r - 1)/2
    assert spectrum[highest + 1 :].max() < 1e-13


@pytest.mark.parametrize("gates", [2, 1], ids=["pz", "rpz"])
def test_qkan_card_parameter_shift_rule_is_exact(gates):
    theta, weight, bias = circuits(3, gates)
    x = torch.linspace(-4, 4, 50, dtype=F64)
    theta.requires_grad_()
    (slope,) = torch.autograd.grad(daruan(x, theta, weight, bias).sum(), theta)
    shift = torch.zeros_like(theta)
    for index in torch.cartesian_prod(torch.arange(4), torch.arange(gates)).tolist():
        shift.zero_()[:, index[0], index[-1] if gates == 2 else 0] = math.pi / 2
        higher, lower = daruan(x, theta + shift, weight, bias), daruan(x, theta - shift, weight, bias)
        expected = (higher - lower) / 2
        torch.testing.assert_close(slope[:, index[0], index[-1] if gates == 2 else 0], expected, atol=1e-14, rtol=0)


def test_qkan_card_fast_readout_formula_and_finite_slope_at_the_poles():
    z = torch.linspace(-1, 1, 201, dtype=F64)
    torch.testing.assert_close(fast_readout(z), ((1 + z) / 2).sqrt() - ((1 - z) / 2).sqrt(), atol=1e-15, rtol=0)
    for dtype in (torch.float32, F64):
        eps = torch.finfo(dtype).eps
        poles = torch.tensor([1, -1, 1 + eps, -1 - eps, 1 - eps], dtype=dtype, requires_grad=True)
        y = fast_readout(poles)
        y.sum().backward()
        assert torch.equal(y[:4].detach().sign(), torch.tensor([1.0, -1, 1, -1], dtype=dtype))
        assert poles.grad.isfinite().all()


@pytest.mark.parametrize("reps", [1, 3, 8])
def test_qkan_card_float32_error_within_5e_6_for_inputs_up_to_100(reps):
    torch.manual_seed(0)
    single = QKANLinear(1, 200, reps=reps, base=False, bias=False, ansatz="rpz")
    for parameter in single.parameters():
        nn.init.normal_(parameter)
    double = QKANLinear(1, 200, reps=reps, base=False, bias=False, ansatz="rpz", dtype=F64)
    double.load_state_dict(single.state_dict())
    x = torch.linspace(-100, 100, 2001)[:, None]
    expected = double(x.double())
    assert (single(x).double() - expected).abs().max() <= 5e-6
    assert (EdgeLinear.forward(single, x).double() - expected).abs().max() <= 5e-6  # the simulation


def test_qkan_card_float32_error_of_an_upload_within_5e_6_for_products_up_to_100():
    """Several uploads add up: rounding w x = 100 alone moves each of them by up to 3.8e-6."""
    theta, _, bias = circuits(1, edges=300)
    weight = torch.rand(300, 1, dtype=F64)
    theta, weight, bias = theta.float(), weight.float(), bias.float()
    x = torch.linspace(-100, 100, 2001)[:, None]
    expected = daruan(x.double(), theta.double(), weight.double(), bias.double())
    assert (daruan(x, theta, weight, bias).double() - expected).abs().max() <= 5e-6


def test_harmonics_of_a_large_float32_input_keep_their_digits():
    x = torch.linspace(9_000, 10_000, 1001)
    waves = torch.stack(harmonics(x, 8)).double()
    expected = torch.stack([f(n * x.double()) for n in range(1, 9) for f in (torch.cos, torch.sin)])
    assert (waves - expected).abs().max() < 2e-6  # cos(8 x) itself, in float32, is wrong by 4e-3


# --- the layer -------------------------------------------------------------------------------------------------------


@every_form
def test_qkan_card_layer_formula(options):
    layer = layer_with(**options)
    layer.prune(torch.rand(4, 5) > 0.3)
    x = torch.randn(9, 5, dtype=F64) * 2
    theta, frequency, phase = layer.edge_parameters()[:3]
    phi = daruan(x[:, None], theta, frequency, phase)
    phi = fast_readout(phi) if layer.readout == "fast" else phi
    if layer.post_weight is not None:
        phi = layer.post_weight * phi
    base = 0 if layer.base_weight is None else layer.base_weight * nn.functional.silu(x)[:, None]
    edges = layer.mask * (phi + base)
    torch.testing.assert_close(layer(x), edges.sum(-1) + layer.bias, atol=1e-12, rtol=0)
    torch.testing.assert_close(layer.edge_function(3, 2)(x[:, 2]), edges[:, 3, 2], atol=1e-13, rtol=0)


@every_dense_form
@pytest.mark.parametrize("reps", [1, 3, 8])
def test_qkan_card_frozen_frequencies_are_one_matrix_product_equal_to_the_recurrence(options, reps):
    layer = layer_with(reps=reps, **options)
    assert layer.is_dense
    x = (torch.randn(20, 5, dtype=F64) * 4).requires_grad_()

    def both(forward):
        y = forward(x)
        return [y, *torch.autograd.grad(y.square().sum(), [x, *layer.parameters()])]

    torch.testing.assert_close(both(layer), both(lambda x: EdgeLinear.forward(layer, x)), atol=1e-12, rtol=1e-11)


def test_fourier_analysis_finds_the_coefficients_of_a_trigonometric_polynomial():
    points = torch.arange(7, dtype=F64) * (2 * math.pi / 7)
    values = 0.5 + 2 * points.cos() - points.sin() + 3 * (3 * points).sin()
    found = fourier_analysis(3, points) @ values
    torch.testing.assert_close(found, f64(0.5, 2, -1, 0, 0, 0, 3), atol=1e-14, rtol=0)


def test_dense_coefficients_do_not_depend_on_the_size_of_the_pieces(monkeypatch):
    layer = layer_with()
    x = torch.randn(6, 5, dtype=F64)
    whole = layer(x)
    monkeypatch.setattr(_edges, "_MAX_KEPT", 1)  # one output at a time, recomputed
    pieces = layer(x)
    torch.testing.assert_close(pieces, whole, atol=1e-14, rtol=0)
    pieces.sum().backward()
    assert layer.theta.grad.isfinite().all()


@every_form
def test_qkan_card_gradcheck(options):
    layer = layer_with(reps=2, **options)
    names = [n for n, _ in layer.named_parameters()]
    x = torch.randn(2, 5, dtype=F64, requires_grad=True)

    def function(x, *values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(function, (x, *layer.parameters()), fast_mode=True)


@pytest.mark.parametrize(
    ("sizes", "options", "expected"),
    [
        ((10, 10), {}, 800),
        ((10, 100), {}, 8_000),
        ((3, 4), {"reps": 5}, 12 * 12),
        ((3, 4), {"reps": 5, "trainable_frequencies": True}, 12 * (12 + 10)),
        ((3, 4), {"reps": 5, "trainable_frequencies": True, "base": True, "post_weight": True}, 12 * (12 + 10 + 2)),
        ((3, 4), {"reps": 5, "ansatz": "rpz"}, 12 * (6 + 5)),
        ((3, 4), {"reps": 5, "ansatz": "rpz", "trainable_frequencies": True}, 12 * (6 + 10)),
        ((3, 4), {"reps": 5, "groups": 2}, 2 * 12),
    ],
)
def test_qkan_card_parameter_counts(sizes, options, expected):
    layer = QKANLinear(*sizes, **{"base": False, "bias": False, **options})
    assert sum(p.numel() for p in layer.parameters()) == expected


@every_form
def test_qkan_every_parameter_gets_a_gradient_at_the_start(options):
    torch.manual_seed(0)
    layer = QKANLinear(6, 4, **options)
    layer(torch.randn(50, 6)).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in layer.parameters())


def test_qkan_card_theta_starts_xavier_normal_and_base_weights_break_the_symmetry():
    torch.manual_seed(0)
    layer = QKANLinear(100, 60)
    assert layer.theta.std().item() == pytest.approx(math.sqrt(2 / (160 * 8)), rel=0.02)
    assert layer.base_weight.std().item() == pytest.approx(0.1 / math.sqrt(3), rel=0.05)  # not one constant
    assert 0.3 < layer(torch.randn(200, 100)).std().item() < 3


def test_qkan_card_group_trap_outputs_are_equal_without_base_and_post_weight():
    x = torch.randn(9, 6)
    trapped = QKANLinear(6, 4, groups=2, base=False, bias=False)
    y = trapped(x)
    torch.testing.assert_close(y, y[:, :1].expand(-1, 4))
    assert y.abs().max() > 1e-3
    assert QKANLinear(6, 4, groups=2, bias=False)(x).std(dim=1).min() > 1e-3  # the base branch tells them apart


def test_qkan_card_groups_give_input_i_the_circuit_i_mod_n():
    layer = layer_with(groups=2, base=False)
    x = torch.linspace(-2, 2, 9, dtype=F64)
    for i in range(5):
        torch.testing.assert_close(layer.edge_function(3, i)(x), layer.edge_function(0, i % 2)(x))


@every_form
def test_qkan_card_a_pruned_edge_loses_both_terms(options):
    layer = layer_with(**options)
    x = torch.randn(9, 5, dtype=F64)
    edge = layer.edge_function(1, 3)(x[:, 3]).detach()
    before = layer(x).detach()
    keep = torch.ones(4, 5, dtype=torch.bool)
    keep[1, 3] = False
    layer.prune(keep)
    expected = before.clone()
    expected[:, 1] -= edge
    torch.testing.assert_close(layer(x), expected, atol=1e-12, rtol=0)
    assert layer.edge_function(1, 3)(x[:, 3]).abs().max() == 0
    with pytest.raises(KANError, match=r"\(4, 5\)"):
        layer.prune(keep[0])


# --- extension -------------------------------------------------------------------------------------------------------


@every_form
def test_qkan_card_extension_keeps_the_function_and_the_mask(options):
    layer = layer_with(reps=2, **options)
    layer.prune(torch.rand(4, 5) > 0.4)
    x = torch.randn(30, 5, dtype=F64) * 3
    before, mask = layer(x).detach(), layer.mask.clone()
    layer.extend(5)
    assert layer.reps == 5
    assert layer.theta.shape[-2] == 6
    assert torch.equal(layer.mask, mask)
    torch.testing.assert_close(layer(x), before, atol=1e-12, rtol=0)
    assert torch.equal(
        layer.mask == 0,
        torch.stack([layer.edge_function(o, i)(x[:, i]).abs().max() == 0 for o in range(4) for i in range(5)]).view(
            4, 5
        ),
    )
    layer(x).square().sum().backward()
    assert layer.theta.grad[..., 3:, :].abs().sum() > 0  # the new angles can learn
    with pytest.raises(KANError, match="only grow"):
        layer.extend(4)


def test_qkan_card_moving_the_last_rotation_to_the_end_changes_the_function():
    theta, weight, bias = circuits(2)
    longer = torch.zeros(50, 6, 2, dtype=F64)
    weights, phases = torch.ones(50, 5, dtype=F64), torch.zeros(50, 5, dtype=F64)
    longer[:, :2], weights[:, :2], phases[:, :2] = theta[:, :2], weight, bias
    right, wrong = longer.clone(), longer
    right[:, 2], wrong[:, 5] = theta[:, 2], theta[:, 2]
    x = torch.linspace(-3, 3, 40, dtype=F64)[:, None]
    before = daruan(x, theta, weight, bias)
    torch.testing.assert_close(daruan(x, right, weights, phases), before, atol=1e-14, rtol=0)
    assert (daruan(x, wrong, weights, phases) - before).abs().max() > 0.6


# --- precision, extremes, training -----------------------------------------------------------------------------------


@every_form
@pytest.mark.parametrize("value", [1e4, -1e4, 1e-42, 0.0])
def test_qkan_is_finite_at_extremes(options, value):
    layer = QKANLinear(5, 4, **options)
    nn.init.zeros_(layer.theta)
    with torch.no_grad():
        layer.theta[..., 0, -1] = math.pi / 2  # every qubit starts, and stays, at the pole z = -1 of the read-out
    theta, frequency, phase = layer.edge_parameters()[:3]
    assert (daruan(torch.ones(5), theta, frequency, phase) == -1).all()
    x = torch.full((6, 5), value, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    assert y.isfinite().all()
    assert all(p.grad.isfinite().all() for p in (x, *layer.parameters()))


@every_form
def test_qkan_card_bfloat16_inputs_and_outputs_with_float32_angles(options):
    torch.manual_seed(0)
    layer = QKANLinear(8, 4, **options)
    x = (torch.rand(40, 8) * 200 - 100).bfloat16().float()
    expected = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in layer.parameters())
    scale = sum(layer.edge_function(0, i)(x[:, i]).abs().mean() for i in range(8)).item()
    assert (y.float() - expected).abs().max() < 0.03 * scale  # 100 in bfloat16 angles is wrong by up to 0.25
    half = layer.bfloat16()(x.bfloat16())
    assert half.dtype == torch.bfloat16
    assert half.isfinite().all()


def test_default_layer_makes_no_tensor_over_batch_and_edges(monkeypatch):
    seen = []
    original = _edges.in_pieces
    monkeypatch.setattr(
        "kan_core.layers.qkan.in_pieces", lambda f, x, *rest: (seen.append(x.shape), original(f, x, *rest))[1]
    )
    monkeypatch.setattr(_edges, "in_pieces", None)
    layer = QKANLinear(784, 64)
    assert layer(torch.randn(128, 784)).shape == (128, 64)
    assert seen == [(1, 7)]  # circuits are simulated at 2r + 1 points, whatever the batch


def test_qkan_learns_the_digits():
    datasets = pytest.importorskip("sklearn.datasets")
    torch.manual_seed(0)
    images, labels = (torch.as_tensor(a) for a in datasets.load_digits(return_X_y=True))
    images = images.float() / 16
    order = torch.randperm(len(images))
    train, test = order[:1400], order[1400:]
    net = nn.Sequential(QKANLinear(64, 32), nn.LayerNorm(32), QKANLinear(32, 10))
    optimiser = torch.optim.Adam(net.parameters(), 5e-3)
    for _ in range(8):
        for rows in train[torch.randperm(len(train))].split(100):
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(images[rows]), labels[rows]).backward()
            optimiser.step()
    accuracy = (net(images[test]).argmax(-1) == labels[test]).float().mean().item()
    assert accuracy > 0.95


# --- HQKAN -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("features", "latent"), [(768, 10), (1, 1), (2, 1), (3, 2), (64, 6), (65, 7)])
def test_hqkan_card_latent_width_is_log2_of_the_input_rounded_up(features, latent):
    assert HQKANLinear(features, 4, device="meta").latent == latent


def test_hqkan_card_replaces_the_mlp_of_gpt_2():
    layer = HQKANLinear(768, 768)
    assert layer.qkan.reps == 1
    # Linear(768, 10), 100 edges of 4 angles and a base weight, Linear(10, 768)
    assert sum(p.numel() for p in layer.parameters()) == 7_690 + 500 + 8_448
    x = torch.randn(2, 5, 768)
    torch.testing.assert_close(layer(x), layer.expand(layer.qkan(layer.reduce(x))))
    layer(x).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in layer.parameters())


def test_hqkan_latent_can_be_chosen():
    layer = layers.get("hqkan(latent=40, reps=2, bias=False)")(768, 100)
    assert sum(p.numel() for p in layer.parameters()) == 40 * 868 + 1600 * 7


@pytest.mark.parametrize(
    "options",
    [{"reps": 0}, {"ansatz": "px"}, {"readout": "quick"}, {"groups": 3}, {"groups": 0}],
    ids=lambda options: "-".join(f"{k}-{v}" for k, v in options.items()),
)
def test_qkan_refuses_what_it_cannot_do(options):
    (name,) = options
    with pytest.raises(KANError, match=name):
        QKANLinear(2, 2, **options)


def test_hqkan_refuses_sizes_below_one():
    with pytest.raises(KANError, match="latent"):
        HQKANLinear(2, 2, latent=0)
    with pytest.raises(KANError, match="in_features"):
        HQKANLinear(0, 2)
