"""Facts of the cards about BSRBF, Sine, ReLU-KAN, the wavelets, sech and AF-KAN's functions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch.nn import functional as F

from kan_core import KAN, KANError, KANLinear, bases
from kan_core.bases import AF, BSRBF, BSpline, GaussianRBF, ReLUKAN, Sech, Sine, Wavelet
from kan_core.bases.af import ACTIVATIONS, COMBINATIONS
from kan_core.bases.sine import sine_phases
from kan_core.bases.wavelet import MOTHERS, mother_flops

F64 = torch.float64
each_mother = pytest.mark.parametrize("mother", list(MOTHERS))


def line(low: float, high: float, number: int = 201) -> torch.Tensor:
    return torch.linspace(low, high, number, dtype=F64)[:, None]


def parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("expected", "net"),
    [
        (459_040, lambda: KAN([784, 64, 10], "bsrbf", norm="layer", bias=False)),
        (406_618, lambda: KAN([784, 64, 10], "sine", base=None)),
        (401_480, lambda: KANLinear(784, 64, "sine(num_frequencies=8)", base=None)),
        (420_170, lambda: KAN([784, 64, 10], "relu-kan", base=None)),
        (414_016, lambda: KANLinear(784, 64, "relu-kan", base=None)),
        (420_170 - 13_568, lambda: KAN([784, 64, 10], "relu-kan(trainable=False)", base=None)),
    ],
    ids=["bsrbf", "sine", "sine-layer", "relu-kan", "relu-kan-layer", "relu-kan-minus-13568"],
)
def test_parameter_counts_of_the_cards(expected, net):
    assert parameters(net()) == expected


# the values of every parameter are moved off the start, which may be a special case
SPECS = [
    "bsrbf",
    "sine",
    "relu-kan(grid_range=(-1, 1))",
    *(f"wavelet(mother={mother!r}, trainable=True)" for mother in MOTHERS),
    "sech",
    "sech(width=0.5)",
    *(f"af(act={act!r})" for act in ACTIVATIONS if act != "relu"),
    *(f"af(combine={combine!r})" for combine in COMBINATIONS),
]


@pytest.mark.parametrize("spec_text", SPECS)
def test_gradcheck_of_inputs_and_basis_parameters(spec_text):
    basis = bases.get(spec_text).bind(2, dtype=F64)
    generator = torch.Generator().manual_seed(0)
    names = [name for name, _ in basis.named_parameters()]
    moved = [
        (p.detach() + 0.1 * torch.rand(p.shape, dtype=F64, generator=generator)).requires_grad_()
        for p in basis.parameters()
    ]
    x = (2 * torch.rand(5, 2, dtype=F64, generator=generator) - 1).requires_grad_()

    def planes(x, *values):
        return torch.func.functional_call(basis, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(planes, (x, *moved))


@pytest.mark.parametrize("spec_text", SPECS)
@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=["f32", "f64"])
def test_values_and_gradients_are_finite_up_to_1e4_and_at_denormals(spec_text, dtype):
    basis = bases.get(spec_text).bind(9, dtype=dtype)
    x = torch.tensor([0.0, 1e-45, -1e-40, 1e-20, -1e-4, 40.0, -40.0, 1e4, -1e4], dtype=dtype, requires_grad=True)
    planes = basis.planes(x)
    planes.sum().backward()
    assert planes.isfinite().all()
    assert all(t.grad.isfinite().all() for t in (x, *basis.parameters()))


# --- BSRBF: rbf-family card, sections 3 and 4 ----------------------------------------------------------------------


def test_bsrbf_card_one_basis_is_the_sum_of_both_families():
    """R = 0 leaves efficient-kan's spline, B = 0 FastKAN's Gaussians on [-1.5, 1.5] (card, test 4)."""
    x = line(-3, 3)
    both = BSRBF().double()(x)
    assert both.shape[-1] == 5 + 3
    spline, gaussians = BSpline(5, 3, (-1.5, 1.5))(x), GaussianRBF(8, (-1.5, 1.5))(x)
    torch.testing.assert_close(both - gaussians, spline, atol=1e-14, rtol=0)
    torch.testing.assert_close(both - spline, gaussians, atol=1e-14, rtol=0)
    assert 1 / BSRBF().gaussians.inverse_width.item() == pytest.approx(3 / 7)


def test_bsrbf_card_row_sum_is_1_plus_sqrt_pi_inside():
    total = BSRBF()(line(-0.3, 0.3)).sum(-1)
    torch.testing.assert_close(total, torch.full_like(total, 1 + math.sqrt(math.pi)), atol=0, rtol=1e-4)


def test_bsrbf_grid_is_fixed_and_needs_two_centres():
    assert not BSRBF.adaptive
    assert BSRBF(1, 1).num_functions == 2
    with pytest.raises(KANError, match="order must be a whole number of at least 1, got 0"):
        BSRBF(1, 0)


def test_bsrbf_base_branch_sees_the_raw_input_unlike_the_reference():
    """Card section 3 feeds silu(LayerNorm(x)) to the base branch; ours keeps section 4, test 5: silu(x)."""
    layer = KANLinear(6, 4, "bsrbf", norm="layer", bias=False, dtype=F64)
    with torch.no_grad():
        layer.weight[:-1] = 0
    x = torch.randn(5, 6, dtype=F64) * 3
    torch.testing.assert_close(layer(x), F.silu(x) @ layer.base_weight.T, atol=1e-13, rtol=0)


def test_bsrbf_card_single_input_and_leading_shape():
    assert KANLinear(1, 2, "bsrbf", norm="layer")(torch.randn(2, 3, 1)).shape == (2, 3, 2)


# --- Sine: fourier-sine-wavelet card, section 2 --------------------------------------------------------------------


def test_sine_card_layer_equals_the_naive_triple_loop():
    layer = KANLinear(3, 2, "sine(num_frequencies=4)", base=None, dtype=F64)
    x = torch.randn(5, 3, dtype=F64)
    w, p, c = layer.basis.frequencies, layer.basis.phases, layer.coefficients
    for n in range(5):
        for o in range(2):
            y = layer.bias[o].item()
            for j in range(3):
                for k in range(4):
                    y += c[o, j, k].item() * math.sin(w[k].item() * x[n, j].item() + p[j, k].item())
            assert layer(x)[n, o].item() == pytest.approx(y, abs=1e-12)


@pytest.mark.parametrize(("integer", "expected"), [(False, [0.2, 0.4, 0.6, 0.8]), (True, [1, 2, 3, 4])])
def test_sine_card_initial_frequencies(integer, expected):
    basis = Sine(4, integer_frequencies=integer)
    torch.testing.assert_close(basis.frequencies.detach(), torch.tensor(expected, dtype=F64))
    assert basis.frequencies.requires_grad


def test_sine_card_phases_follow_the_recurrence_with_its_constants():
    amplitude, decay, offset = 0.9724108095811765, 0.9884401790754128, 0.999449553483052
    p = np.arange(1, 6) / 6 + np.linspace(0, np.pi, 7)[:, None]
    for i in range(1, 5):
        p = p * (amplitude * i**-decay + offset)
    np.testing.assert_allclose(Sine(5).bind(7, dtype=F64).phases.numpy(), p, rtol=1e-14)


def test_sine_card_phase_golden_values():
    # r_1, r_2, r_3 and their product in decimal arithmetic of 30 digits
    ratios, product = [1.971860363064, 1.489566405165, 1.327729201786], 3.89982871981183
    assert math.prod(ratios) == pytest.approx(product, rel=1e-11)
    phases = sine_phases(3, 4)
    assert phases[0, 0].item() == pytest.approx(0.2 * product, rel=1e-13)
    assert phases[2, 3].item() == pytest.approx((0.8 + math.pi) * product, rel=1e-13)
    one = sine_phases(3, 1)  # no factor at all
    torch.testing.assert_close(one[:, 0], 0.5 + torch.tensor([0, math.pi / 2, math.pi], dtype=F64))


def test_sine_card_phases_are_in_the_state_dict_and_move():
    layer = KANLinear(6, 4, "sine", base=None)
    state = layer.state_dict()
    assert state["basis.phases"].shape == (6, 8)
    assert "basis.phases" not in dict(layer.named_parameters())
    assert layer.to("meta").basis.phases.device.type == "meta"
    assert Sine().bind(3, device="meta").phases.device.type == "meta"


def test_sine_card_integer_frequencies_have_period_2_pi():
    basis = Sine(6, integer_frequencies=True).bind(4, dtype=F64)
    x = torch.randn(20, 4, dtype=F64)
    torch.testing.assert_close(basis(x + 2 * math.pi), basis(x), atol=1e-13, rtol=0)
    other = Sine(6).bind(4, dtype=F64)
    assert (other(x + 2 * math.pi) - other(x)).abs().max() > 0.1


def test_sine_card_gradient_of_the_frequencies_grows_like_x():
    def gradient(x: float) -> float:
        basis = Sine(1).bind(1, dtype=F64)
        phase = basis.phases.item()
        at = round(x / (2 * math.pi)) * 2 * math.pi / basis.frequencies.item()  # where the cosine is cos(phase)
        basis.planes(torch.full((1,), at, dtype=F64)).sum().backward()
        return basis.frequencies.grad.item() / (at * math.cos(phase))

    assert [gradient(x) for x in (10.0, 1e3)] == pytest.approx([1, 1], rel=1e-9)


# --- ReLU-KAN card --------------------------------------------------------------------------------------------------


def card_bumps(x: torch.Tensor, start: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
    """The card's formula, for s and e of shape (K,)."""
    return (torch.relu(end - x) * torch.relu(x - start)) ** 2 * 16 / (end - start) ** 4


def test_relu_kan_card_section_1_formula_and_supports():
    basis = ReLUKAN().bind(2, dtype=F64)
    start = torch.arange(-3, 5, dtype=F64) / 5
    torch.testing.assert_close(basis.supports[0], start[:, None].expand(8, 2), atol=1e-15, rtol=0)
    torch.testing.assert_close(basis.supports[1] - basis.supports[0], torch.full((8, 2), 0.8, dtype=F64))
    x = line(-1, 2)
    got = basis(x.expand(-1, 2))[:, 0]
    torch.testing.assert_close(got, card_bumps(x, start, start + 0.8), atol=1e-13, rtol=0)
    torch.testing.assert_close(got, (6.25 * torch.relu(start + 0.8 - x) * torch.relu(x - start)) ** 2)  # r = 4G²/(k+1)²


def test_relu_kan_card_section_1_constant_follows_trained_supports():
    """The reference's frozen constant would give 16 and 1/16 of this peak."""
    basis = ReLUKAN().bind(1, dtype=F64)
    with torch.no_grad():
        basis.log_half_widths += math.log(2)
        basis.centers += 0.1
    start, end = (t[:, 0] for t in basis.supports)
    x = line(-2, 2)
    torch.testing.assert_close(basis(x)[:, 0], card_bumps(x, start, end), atol=1e-12, rtol=0)
    peaks = basis.planes(((start + end) / 2)[:, None])[:, :, 0].diagonal()
    torch.testing.assert_close(peaks, torch.ones(8, dtype=F64), atol=1e-14, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=["f32", "f64"])
def test_relu_kan_card_section_1_supports_stay_open_whatever_the_parameters_become(dtype):
    basis = ReLUKAN().bind(1, dtype=dtype)
    with torch.no_grad():
        basis.log_half_widths.fill_(-1000.0)
    x = torch.cat([basis.centers.detach()[:1], basis.centers.detach()[:1] + 1, torch.full((1, 1), 1e4)])
    x.requires_grad_()
    planes = basis.planes(x)
    planes.sum().backward()
    assert planes[0, 0, 0] == 1
    assert all(t.isfinite().all() for t in (planes, x.grad, basis.centers.grad, basis.log_half_widths.grad))


def test_relu_kan_card_section_1_interior_row_sum_lies_in_2_125_to_2_1406():
    total = ReLUKAN().bind(1, dtype=F64)(line(0, 1, 5001)).sum(-1)
    assert total.min().item() == pytest.approx(2.125, abs=1e-6)
    assert total.max().item() == pytest.approx(2.140625, abs=1e-6)
    assert total.mean().item() == pytest.approx(4 * 8 / 15, abs=1e-3)
    assert ((total / (32 / 15) - 1).abs() < 0.01).all()


def test_relu_kan_card_section_4_peak_1_and_zero_outside_and_c1():
    basis = ReLUKAN(5, 3).bind(1, dtype=F64)
    start, end = (t[:, 0] for t in basis.supports)
    x = line(-0.8, 1.8, 2601)
    planes = basis(x)[:, 0]
    assert planes.max().item() == pytest.approx(1, abs=1e-6)
    assert (planes[(x < start - 1e-9) | (x > end + 1e-9)] == 0).all()
    slope, curvature = planes.diff(dim=0) / 1e-3, planes.diff(n=2, dim=0) / 1e-6
    assert slope.diff(dim=0).abs().max() < 0.06  # no jump: within curvature * step
    assert curvature.abs().max() < 8 / 0.4**2 + 1  # |φ''| ≤ 8/h², at the ends of the support


def test_relu_kan_card_section_4_far_inputs_leave_the_bias():
    layer = KANLinear(3, 2, "relu-kan", base=None, dtype=F64)
    for value in (-3 / 5 - 1e-9, 8 / 5 + 1e-9, 1e4, -1e30):
        torch.testing.assert_close(layer(torch.full((4, 3), value, dtype=F64)), layer.bias.expand(4, 2), atol=0, rtol=0)


def test_relu_kan_card_section_4_curve_extraction_equals_the_output():
    """The reference's missing transpose permutes its weights relative to (basis, input)."""
    layer = KANLinear(2, 1, "relu-kan", base=None, bias=False, dtype=F64)
    with torch.no_grad():
        layer.basis.centers[:, 1] += 0.05  # supports are per input
    x = torch.rand(50, 2, dtype=F64)
    phi = [layer.edge_function(0, i)(x[:, i]) for i in range(2)]
    torch.testing.assert_close(layer(x)[:, 0], phi[0] + phi[1], atol=1e-13, rtol=0)


def test_relu_kan_grid_range_moves_the_bumps():
    torch.testing.assert_close(
        ReLUKAN(grid_range=(-1, 1)).bind(1, dtype=F64)(line(-1, 1)),
        ReLUKAN().bind(1, dtype=F64)(line(0, 1)),
        atol=1e-13,
        rtol=0,
    )


# --- wavelets: fourier-sine-wavelet card, section 3 ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mother", "z", "expected"),
    [
        ("mexican-hat", 0.0, -0.8673250706),
        ("mexican-hat", 1.0, 0.0),
        ("mexican-hat", 2.0, 0.8673250706 * 3 * math.exp(-2)),
        ("dog", 1.0, -0.6065306597),
        ("dog", 0.0, 0.0),
        ("morlet", 0.0, 1.0),
        ("morlet", 1.0, math.cos(5) * math.exp(-0.5)),
        ("meyer", 0.0, 0.0),
        ("meyer", 0.25, math.sqrt(0.5)),
        ("meyer", 0.75, 0.5),  # ν(1/2) = 1/2: sin(3π/4) cos(π/4)
        ("meyer", 1.5, 0.0),
        ("shannon", 0.0, 1.0),
        ("shannon", math.pi, 0.0),
        ("shannon", math.pi / 2, 2 / math.pi * (0.5 + 0.5 * math.cos(math.pi / 8))),
        ("shannon", 20.0, 0.0),
    ],
)
def test_wavelet_card_values(mother, z, expected):
    for sign in (1, -1):
        at = MOTHERS[mother](torch.tensor([sign * z], dtype=F64)).item()
        assert at == pytest.approx(sign * expected if mother == "dog" else expected, abs=1e-10)


def test_wavelet_card_dog_is_the_derivative_of_a_gaussian_and_the_mexican_hat_that_of_dog():
    z = torch.linspace(-6, 6, 101, dtype=F64, requires_grad=True)
    first = torch.autograd.grad(torch.exp(-z.square() / 2).sum(), z)[0]
    torch.testing.assert_close(MOTHERS["dog"](z), first, atol=1e-14, rtol=0)
    second = torch.autograd.grad(MOTHERS["dog"](z).sum(), z)[0]
    factor = 2 / (math.sqrt(3) * math.pi**0.25)
    torch.testing.assert_close(MOTHERS["mexican-hat"](z), factor * second, atol=1e-14, rtol=0)


@pytest.mark.parametrize(
    ("mother", "mean"),
    [
        ("mexican-hat", 0.0),
        ("dog", 0.0),
        ("morlet", math.sqrt(2 * math.pi) * math.exp(-12.5)),  # 9.3e-6: zero in approximation only
    ],
)
def test_wavelet_card_zero_mean(mother, mean):
    def psi(z):
        return MOTHERS[mother](torch.tensor(z, dtype=F64)).item()

    assert quad(psi, -12, 12, limit=400, epsabs=1e-12)[0] == pytest.approx(mean, abs=1e-10)


@pytest.mark.parametrize("at", [0.5, 1.0])
def test_wavelet_card_meyer_is_continuous_with_its_slope_at_a_half_and_1(at):
    z = torch.tensor([at - 1e-6, at, at + 1e-6], dtype=F64, requires_grad=True)
    psi = MOTHERS["meyer"](z)
    slope = torch.autograd.grad(psi.sum(), z)[0]
    assert psi.detach().numpy() == pytest.approx(1.0 if at == 0.5 else 0.0, abs=1e-5)
    assert slope.numpy() == pytest.approx(0.0, abs=1e-4)


def test_wavelet_card_meyer_auxiliary_function_is_the_cards():
    z = torch.linspace(0.5, 1, 101, dtype=F64)
    t = 2 * z - 1
    nu = t**4 * (35 - 84 * t + 70 * t**2 - 20 * t**3)
    expected = torch.sin(math.pi * z) * torch.cos(math.pi / 2 * nu)
    torch.testing.assert_close(MOTHERS["meyer"](z), expected, atol=1e-14, rtol=0)


def test_wavelet_card_shannon_window_is_over_z_and_not_over_features():
    z = torch.linspace(-20, 20, 400, dtype=F64)
    psi = MOTHERS["shannon"](z)
    window = torch.where(z.abs() <= 4 * math.pi, 0.5 + 0.5 * torch.cos(z / 4), 0)
    torch.testing.assert_close(psi, torch.sin(z) / z * window, atol=1e-14, rtol=0)
    basis = Wavelet("shannon").bind(5, dtype=F64)
    planes = basis.planes(torch.full((1, 5), 0.3, dtype=F64))
    torch.testing.assert_close(planes, planes[..., :1].expand(-1, -1, 5), atol=0, rtol=0)


@each_mother
@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=["f32", "f64"])
def test_wavelet_gradients_are_finite_at_zero_and_far(mother, dtype):
    z = torch.tensor([0.0, 1e-45, 1e-30, -1e-20, 1e-3, 0.5, 1.0, 4 * math.pi, 50, 1e4, -1e9], dtype=dtype)
    z.requires_grad_()
    psi = MOTHERS[mother](z)
    slope = torch.autograd.grad(psi.sum(), z)[0]
    assert psi.isfinite().all()
    assert slope.isfinite().all()
    assert slope[:4].abs().max() < math.pi + 1e-6


@each_mother
def test_wavelet_functions_are_translates_over_evenly_spaced_centres(mother):
    basis = Wavelet(mother, 5, (-1, 3), width=0.5).double()
    x = line(-2, 4)
    for k, center in enumerate([-1, 0, 1, 2, 3]):
        torch.testing.assert_close(basis(x)[:, 0, k], MOTHERS[mother]((x[:, 0] - center) / 0.5), atol=1e-14, rtol=0)
    torch.testing.assert_close(basis(x + 1)[..., 1:], basis(x)[..., :-1], atol=1e-11, rtol=0)
    assert basis.flops_per_input == 5 * (2 + mother_flops(mother))


def test_wavelet_width_is_the_spacing_unless_said():
    assert 1 / Wavelet(num_centers=5, grid_range=(0, 2)).inverse_width.item() == pytest.approx(0.5)


# --- sech: af-kan-all-kan card, section 4 ----------------------------------------------------------------------------


def test_sech_golden_values_and_even_symmetry():
    basis = Sech(2, (0, 10)).double()
    x = torch.tensor([0.0, 1.0, 2.0, math.log(2 + math.sqrt(3))], dtype=F64)[:, None]
    first = basis(x)[:, 0, 0]
    expected = torch.tensor([1, 0.6480542736638855, 0.2658022288340797, 0.5], dtype=F64)
    torch.testing.assert_close(first, expected, atol=1e-15, rtol=0)
    assert torch.equal(basis(-x)[:, 0, 0], first)


def test_sech_equals_one_over_cosh_and_vanishes_far_out():
    basis = Sech().float()
    x = torch.linspace(-40, 40, 321)[:, None]
    torch.testing.assert_close(basis(x)[:, 0], 1 / torch.cosh(x - torch.linspace(-2, 2, 8)), atol=0, rtol=1e-5)
    far = basis(torch.tensor([[1e4], [-1e30], [math.inf]]))
    assert (far >= 0).all()
    assert (far < 1e-17).all()


def test_sech_card_centres_scale_and_bias_are_the_trainable_tensors():
    """n + 2 numbers per layer: 54,320 of the card = 50,816 + 74 biases + 4 · 848 of two norms + 2 · 9 + 2 · (n + 2)."""
    basis = Sech()
    assert {name: tuple(p.shape) for name, p in basis.named_parameters()} == {"centers": (8,), "scale": (), "bias": ()}
    torch.testing.assert_close(basis.centers.detach(), torch.linspace(-2, 2, 8, dtype=F64))
    assert 50_816 + 74 + 4 * 848 + 2 * 9 + 2 * parameters(basis) == 54_320
    assert parameters(Sech(width=1.0)) == 8 + 3
    assert parameters(Sech(width=1.0, trainable=False)) == 0


def test_sech_card_scale_bias_and_width():
    basis = Sech(3, (-1, 1), width=0.5).double()
    with torch.no_grad():
        basis.scale.fill_(3.0)
        basis.bias.fill_(-0.25)
    x = line(-2, 2)
    centers = torch.linspace(-1, 1, 3, dtype=F64)
    torch.testing.assert_close(basis(x)[:, 0], 3 / torch.cosh((x - centers) / 0.5) - 0.25, atol=1e-14, rtol=0)


def test_sech_card_is_not_a_partition_of_unity():
    total = Sech().double()(line(-1, 1)).sum(-1)
    assert total.max() / total.min() > 1.05


# --- AF-KAN's functions: af-kan-all-kan card, section 2 --------------------------------------------------------------


def test_af_card_shifts_are_shared_trainable_and_2k_numbers():
    basis = AF(5, 3).bind(7, dtype=F64)
    low = torch.arange(-3, 5, dtype=F64) / 5
    torch.testing.assert_close(basis.low.detach(), low)
    torch.testing.assert_close(basis.high.detach(), low + 4 / 5)
    assert parameters(basis) == 2 * 8
    assert AF().num_functions == 3 + 3


@pytest.mark.parametrize("act", list(ACTIVATIONS))
@pytest.mark.parametrize(
    ("combine", "formula"),
    [
        ("quad1", lambda a, b: (a * b) ** 2),
        ("quad2", lambda a, b: a * b + a**2 + b**2),
        ("sum", lambda a, b: a + b),
        ("prod", lambda a, b: a * b),
        ("sum_prod", lambda a, b: a + b + a * b),
        ("cubic1", lambda a, b: (a + b) * (a**2 + b**2)),
        ("cubic2", lambda a, b: (a * b) ** 3),
    ],
)
def test_af_card_every_activation_and_combination(act, combine, formula):
    function = getattr(torch, act) if act in ("sigmoid", "tanh") else getattr(F, act)
    x, low = line(-2, 3, 31), torch.arange(-3, 3, dtype=F64) / 3
    expected = formula(function(x - low), function(low + 4 / 3 - x))
    torch.testing.assert_close(AF(act=act, combine=combine).double()(x)[:, 0], expected, atol=1e-12, rtol=1e-12)


def test_af_card_with_relu_and_quad1_equals_unnormalised_relu_kan_bumps():
    x = line(-1, 2)
    peak = ((3 + 1) / 5) ** 4 / 16  # (e − s)⁴/16
    bumps = ReLUKAN(5, 3).bind(1, dtype=F64)(x) * peak
    torch.testing.assert_close(AF(5, 3, act="relu").double()(x), bumps, atol=1e-14, rtol=0)


def test_af_card_rows_are_independent_where_the_references_l2mm_couples_them():
    """One outlier in the batch changes the reference's other rows by 0.0125, and a constant batch gives 0/0."""
    layer = KANLinear(5, 3, "af", dtype=F64)
    x = torch.randn(6, 5, dtype=F64)
    outlier = torch.cat([x, torch.full((1, 5), 1e3, dtype=F64)])
    torch.testing.assert_close(layer(outlier)[:6], layer(x), atol=1e-14, rtol=0)
    assert layer(torch.zeros(4, 5, dtype=F64)).isfinite().all()


@pytest.mark.parametrize("act", list(ACTIVATIONS))
@pytest.mark.parametrize("combine", list(COMBINATIONS))
def test_af_is_finite_in_float32_at_1e4_for_every_choice(act, combine):
    basis = AF(act=act, combine=combine).float()
    x = torch.tensor([[1e4], [-1e4]], requires_grad=True)
    planes = basis(x)
    planes.sum().backward()
    assert planes.isfinite().all()
    assert planes.abs().max() < 2e18
    assert all(t.grad.isfinite().all() for t in (x, *basis.parameters()))


# --- arguments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec_text", "message"),
    [
        ("bsrbf(grid_size=0)", "grid_size must be a whole number of at least 1, got 0"),
        ("bsrbf(grid_range=(1, 1))", "grid_range must be increasing"),
        ("sine(num_frequencies=0)", "num_frequencies must be a whole number of at least 1"),
        ("relu-kan(grid_size=0)", "grid_size must be a whole number of at least 1"),
        ("relu-kan(grid_range=(1, 0))", "grid_range must be increasing"),
        ("wavelet(mother='haar')", "mother must be one of mexican-hat, morlet, dog, meyer, shannon, got 'haar'"),
        ("wavelet(num_centers=1)", "num_centers must be a whole number of at least 2"),
        ("sech(num_centers=1)", "num_centers must be a whole number of at least 2"),
        ("sech(width=0)", "width must be a finite number above zero"),
        ("af(act='sine')", "act must be one of silu, gelu, .*, got 'sine'"),
        ("af(combine='max')", "combine must be one of quad1, .*, got 'max'"),
        ("af(order=-1)", "order must be a whole number of at least 0"),
    ],
)
def test_bad_arguments_end_in_one_line(spec_text, message):
    with pytest.raises(KANError, match=message) as caught:
        bases.get(spec_text)
    assert "\n" not in str(caught.value)


def test_mother_flops_refuses_an_unknown_mother():
    with pytest.raises(KANError, match="mother must be one of"):
        mother_flops("haar")


@pytest.mark.parametrize("spec_text", ["bsrbf", "sine", "relu-kan", "wavelet", "sech", "sech(width=2.0)", "af"])
def test_repr_names_the_arguments(spec_text):
    text = repr(bases.get(spec_text))
    assert "grid_range=" in text or "num_frequencies=8" in text
