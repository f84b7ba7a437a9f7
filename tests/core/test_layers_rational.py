"""Facts of the cards about rational activations: KAT.md (with FlashKAT.md), rational-pau.md, and rKAN's section."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch
from scipy.special import eval_jacobi
from torch import nn
from torch.nn import functional as F

from kan_core import KANError, layers
from kan_core.compare import count_flops, count_parameters
from kan_core.layers import FeedForward, GroupRationalLinear, JacobiRKAN, PadeLinear, Rational, RKANLinear
from kan_core.layers._activated import mean_square
from kan_core.layers.rational import FITS, FORMS
from kan_core.ops.group_rational import DENOMINATORS, group_rational_reference, magnitude

F64 = torch.float64
GRID = torch.linspace(-3, 3, 20001, dtype=F64)
TARGETS = {
    "identity": lambda x: x,
    "swish": F.silu,
    "silu": F.silu,
    "gelu": F.gelu,
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}
# the published coefficients that the KAT card lists
SWISH = (
    [3.0549e-7, 0.5000007854, 0.2499978342, 0.0532662827, 0.0058030346, 0.0002751961],
    [-4.1116e-6, 0.1065289934, -1.2690e-6, 0.0005502331],
)
RANDOM = ([0.1, 0.8, -0.3, 0.05, 0.02, -0.01], [0.2, -0.5, 0.1, -0.05])

every_form = pytest.mark.parametrize("form", list(FORMS))
every_denominator = pytest.mark.parametrize("form", list(DENOMINATORS))


def rows(values) -> torch.Tensor:
    return torch.tensor([values], dtype=F64)


def evaluate(coefficients, x, form: str) -> torch.Tensor:
    x = torch.as_tensor(x, dtype=F64)
    return group_rational_reference(x.reshape(-1, 1), *map(rows, coefficients), form=form).reshape(x.shape)


def rational(features: int = 1, groups: int = 1, dtype: torch.dtype = F64, **kwargs) -> Rational:
    return Rational(features, groups=groups, dtype=dtype, **kwargs)


def randomised(features: int = 16, groups: int = 4, dtype: torch.dtype = F64, seed: int = 0, **kwargs) -> Rational:
    """Coefficients of order 1, all different."""
    module, generator = rational(features, groups, dtype, **kwargs), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.rand(parameter.shape, generator=generator, dtype=F64) * 2 - 1)
    return module


def q_of(module: Rational, x: torch.Tensor) -> torch.Tensor:
    """Q alone: F with P = 1 is 1/Q."""
    one = torch.zeros_like(module.numerator)
    one[:, 0] = 1
    return 1 / group_rational_reference(x, one, module.denominator, form=FORMS[module.form])


# --- the op, against its equation ------------------------------------------------------------------------------------


@every_denominator
@pytest.mark.parametrize("degrees", [(5, 4), (1, 1), (3, 2), (7, 6)], ids=str)
def test_flashkat_5_7_any_degrees_and_both_q_forms_by_their_equation(form, degrees):
    m, n = degrees
    module = randomised(6, 3, form=form, numerator=m, denominator=n, init="identity", share_numerator=False)
    x = torch.randn(50, 6, dtype=F64)
    a, b = (p.detach().repeat_interleave(2, dim=0) for p in (module.numerator, module.denominator))
    powers = [x**i for i in range(10)]
    p = sum(a[:, i] * powers[i] for i in range(m + 1))
    start = 0 if form == "floor" else 1
    terms = [b[:, i - start] * powers[i] for i in range(start, n + 1)]
    q = {
        "sum_of_abs": lambda: 1 + sum(t.abs() for t in terms),
        "abs_of_sum": lambda: 1 + sum(terms).abs(),
        "floor": lambda: 0.1 + sum(terms).abs(),
        "free": lambda: 1 + sum(terms),
    }[form]()
    torch.testing.assert_close(module(x), p / q, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize(
    ("x", "value"),
    [(-3, -0.14227882), (-1, -0.26894159), (0, 3.0549e-7), (1, 0.73105834), (2, 1.76159399), (5, 4.96471972)],
)
def test_kat_7_2_golden_values_of_the_swish_set(x, value):
    assert evaluate(SWISH, x, "sum_of_abs").item() == pytest.approx(value, abs=1e-8)


@pytest.mark.parametrize(("x", "slope"), [(1.0, 0.92767147), (1e-300, 0.50000079)])
def test_kat_7_2_golden_slopes_of_the_swish_set(x, slope):
    x = torch.tensor(x, dtype=F64, requires_grad=True)
    evaluate(SWISH, x, "sum_of_abs").backward()
    assert x.grad.item() == pytest.approx(slope, abs=1e-8)


def test_kat_3_1_the_swish_set_is_accurate_in_sum_of_abs_and_a_hundred_times_worse_in_abs_of_sum():
    errors = [(evaluate(SWISH, GRID, form) - F.silu(GRID)).abs().max().item() for form in ("sum_of_abs", "abs_of_sum")]
    assert errors == pytest.approx([1.2e-6, 1.3e-4], rel=0.05)


def test_kat_3_1_tail_of_the_swish_set():
    assert SWISH[0][5] / abs(SWISH[1][3]) == pytest.approx(0.5001, abs=1e-4)
    for reach, bound in [(4, 2.1e-4), (5, 1.8e-3), (8, 4.9e-2), (10, 0.16), (20, 2.19)]:
        x = torch.linspace(-reach, reach, 4001, dtype=F64)
        error = (evaluate(SWISH, x, "sum_of_abs") - F.silu(x)).abs().max().item()
        assert error == pytest.approx(bound, rel=0.04)


@pytest.mark.parametrize(
    ("x", "sum_of_abs", "abs_of_sum"),
    [(0.7, 0.37257698, 0.49253610), (3, 0.02645914, 0.05440000), (-0.5, -0.30604534, -0.30604534), (0, 0.1, 0.1)],
)
def test_kat_7_3_golden_values_of_random_coefficients(x, sum_of_abs, abs_of_sum):
    assert evaluate(RANDOM, x, "sum_of_abs").item() == pytest.approx(sum_of_abs, abs=1e-8)
    assert evaluate(RANDOM, x, "abs_of_sum").item() == pytest.approx(abs_of_sum, abs=1e-8)


@pytest.mark.parametrize("form", ["sum_of_abs", "abs_of_sum", "noisy", "floor"])
@pytest.mark.parametrize("seed", range(3))
def test_kat_7_4_and_pau_6_q_is_at_least_its_floor_for_any_coefficients(form, seed):
    module = randomised(form=form, seed=seed)
    x = torch.cat([torch.linspace(-1e4, 1e4, 2001), torch.linspace(-3, 3, 2001)]).double()
    q = q_of(module, x[:, None].expand(-1, 16))
    assert q.min() >= (0.1 if form == "floor" else 1.0) - 1e-15
    assert q.isfinite().all()


@pytest.mark.parametrize("form", ["sum_of_abs", "abs_of_sum", "floor"])
@pytest.mark.parametrize("magnitude", [1e-45, 1e-38, 1e4, 1e7])
def test_kat_7_4_f_and_gradients_are_finite_up_to_1e7_in_float32(form, magnitude):
    for module in (randomised(dtype=torch.float32, form=form), rational(16, 4, torch.float32, form=form)):
        x = torch.full((3, 16), magnitude)
        x[1] *= -1
        x.requires_grad_()
        y = module(x)
        y.sum().backward()
        assert y.isfinite().all()
        assert x.grad.isfinite().all()
        assert all(p.grad.isfinite().all() for p in module.parameters())


def test_kat_7_4_x_to_the_fifth_overflows_float32_beyond_5e7_as_documented():
    module = rational(dtype=torch.float32)
    with torch.no_grad():
        module.numerator[:, 5] = 1.0
    assert module(torch.tensor([[5.0e7]])).isfinite().all()
    assert not module(torch.tensor([[5.2e7]])).isfinite().all()


def test_kat_2_1_the_released_fallback_formula_is_not_ours():
    """It keeps the sign of x in the odd terms, so that it differs for x < 0 and its Q falls below 1, and to 0."""
    b = torch.tensor(RANDOM[1], dtype=F64)
    powers = torch.stack([GRID**i for i in range(1, 5)], dim=1)
    p = torch.stack([GRID**i for i in range(6)], dim=1) @ torch.tensor(RANDOM[0], dtype=F64)
    fallback_q = 1 + powers @ b.abs()
    assert fallback_q.min() < 1
    ours = evaluate(RANDOM, GRID, "sum_of_abs")
    assert ((p / fallback_q) - ours)[GRID < 0].abs().max() > 0.02
    torch.testing.assert_close((p / fallback_q)[GRID >= 0], ours[GRID >= 0])
    module = rational(form="sum_of_abs")
    with torch.no_grad():
        module.denominator.copy_(b)
    assert q_of(module, GRID[:, None]).min() == 1  # at x = 0
    pole = 1 + torch.tensor([-1.0, 1, -1, 1], dtype=F64) @ torch.tensor([2.0, 0, 1, 2], dtype=F64)
    assert pole == 0  # b = (2, 0, 1, 2) at x = -1


# --- derivatives -----------------------------------------------------------------------------------------------------


def test_kat_2_3_gradients_of_sum_of_abs():
    module = randomised(1, 1, form="sum_of_abs", init="identity")
    x = torch.tensor([[-1.3], [0.4], [2.1]], dtype=F64, requires_grad=True)
    upstream = torch.tensor([[1.0], [-2.0], [0.5]], dtype=F64)
    module(x).backward(upstream)
    a, b, z = module.numerator.detach()[0], module.denominator.detach()[0], x.detach()
    up, down = z ** torch.arange(6), z.abs() ** torch.arange(1, 5)
    p, q = (up @ a)[:, None], (1 + down @ b.abs())[:, None]
    dp = (z ** torch.arange(5) * torch.arange(1, 6)) @ a[1:]
    dq = z.sign()[:, 0] * ((z.abs() ** torch.arange(4) * torch.arange(1, 5)) @ b.abs())
    torch.testing.assert_close(module.numerator.grad[0], (upstream * up / q).sum(0))
    torch.testing.assert_close(module.denominator.grad[0], (-upstream * p / q**2 * b.sign() * down).sum(0))
    torch.testing.assert_close(x.grad, upstream * (dp[:, None] / q - p * dq[:, None] / q**2))


def test_kat_2_3_gradients_of_abs_of_sum():
    module = randomised(1, 1, form="abs_of_sum", init="identity")
    x = torch.tensor([[-1.3], [0.4], [2.1]], dtype=F64, requires_grad=True)
    module(x).sum().backward()
    a, b, z = module.numerator.detach()[0], module.denominator.detach()[0], x.detach()
    down = z ** torch.arange(1, 5)
    inner = (down @ b)[:, None]
    p, q = ((z ** torch.arange(6)) @ a)[:, None], 1 + inner.abs()
    dp = ((z ** torch.arange(5) * torch.arange(1, 6)) @ a[1:])[:, None]
    dq = inner.sign() * ((z ** torch.arange(4) * torch.arange(1, 5)) @ b)[:, None]
    torch.testing.assert_close(module.denominator.grad[0], (-p / q**2 * inner.sign() * down).sum(0))
    torch.testing.assert_close(x.grad, dp / q - p * dq / q**2)


@pytest.mark.parametrize("form", ["sum_of_abs", "abs_of_sum"])
def test_kat_2_3_at_b_0_the_derivative_of_the_absolute_value_is_plus_1_so_identity_denominators_learn(form):
    module = rational(form=form, init="identity")
    x = torch.tensor([[-1.3], [0.4], [2.1]], dtype=F64)
    upstream = torch.tensor([[1.0], [-2.0], [0.5]], dtype=F64)
    module(x).backward(upstream)
    powers = (x.abs() if form == "sum_of_abs" else x) ** torch.arange(1, 5)
    torch.testing.assert_close(module.denominator.grad[0], (-upstream * x * powers).sum(0))  # P = x, Q = 1
    before = module.denominator.detach().clone()
    torch.optim.SGD(module.parameters(), 0.01).step()
    assert (module.denominator != before).all()


def test_kat_2_3_magnitude_is_abs_with_sign_plus_1_at_0():
    x = torch.tensor([-2.0, -1e-40, -0.0, 0.0, 3.0], requires_grad=True)
    y = magnitude(x)
    y.sum().backward()
    assert torch.equal(y, x.abs())
    assert x.grad.tolist() == [-1, -1, 1, 1, 1]


@every_denominator
def test_kat_7_6_gradcheck_and_second_derivatives_away_from_kinks(form):
    module = randomised(6, 3, form=form, share_numerator=False)
    with torch.no_grad():
        module.denominator.abs_()  # and x > 0: no sum is near 0
    x = (torch.rand(4, 6, dtype=F64) + 0.2).requires_grad_()
    arguments = (x, module.numerator, module.denominator)

    def function(x, a, b):
        return group_rational_reference(x, a, b, form=form)

    assert torch.autograd.gradcheck(function, arguments)
    assert torch.autograd.gradgradcheck(function, arguments)


def test_kat_7_7_sum_rule_scaling_p_scales_all_but_the_gradient_of_a():
    x = torch.randn(20, 16, dtype=F64, requires_grad=True)
    found = []
    for scale in (1.0, 4.0):
        module = randomised()
        with torch.no_grad():
            module.numerator.mul_(scale)
        y = module(x)
        found.append((y, *torch.autograd.grad(y.sum(), [x, module.denominator, module.numerator])))
    (y, dx, db, da), (y4, dx4, db4, da4) = found
    for one, four in [(y, y4), (dx, dx4), (db, db4)]:
        torch.testing.assert_close(4 * one, four)
    torch.testing.assert_close(da, da4)


@pytest.mark.parametrize("form", ["sum_of_abs", "abs_of_sum"])
@pytest.mark.parametrize("rows", [0, 1, 7, 197])
@pytest.mark.parametrize(("features", "groups"), [(8, 1), (8, 8), (24, 2), (24, 8), (192, 8)])
def test_flashkat_6_shapes_and_exact_linearity_in_the_upstream_gradient(form, rows, features, groups):
    module = randomised(features, groups, torch.float32, form=form)
    x = torch.randn(rows, features, requires_grad=True)
    y, upstream = module(x), torch.randn(rows, features)
    inputs = [x, *module.parameters()]
    once = torch.autograd.grad(y, inputs, upstream, retain_graph=True)
    twice = torch.autograd.grad(y, inputs, 2 * upstream)
    assert y.shape == x.shape
    assert all(torch.equal(2 * a, b) for a, b in zip(once, twice, strict=True))


def test_kat_7_10_float32_coefficient_gradients_agree_with_float64():
    single, double = rational(64, 8, torch.float32), rational(64, 8)
    double.load_state_dict(single.state_dict())
    x, upstream = torch.randn(4099, 64), torch.randn(4099, 64)
    single(x).backward(upstream)
    double(x.double()).backward(upstream.double())
    for got, expected in zip(single.parameters(), double.parameters(), strict=True):
        assert (got.grad - expected.grad).abs().max() <= 5e-7 * expected.grad.abs().max()


# --- groups and counts -----------------------------------------------------------------------------------------------


def test_kat_7_5_groups_are_contiguous_and_independent():
    module = randomised(12, 4)
    x = torch.randn(9, 12, dtype=F64)
    before = module(x)
    with torch.no_grad():
        module.denominator[1] += 0.5
    changed = (module(x) != before).any(dim=0)
    assert changed.tolist() == [False] * 3 + [True] * 3 + [False] * 6


def test_kat_7_5_permuting_groups_with_their_rows_permutes_the_outputs():
    module, order = randomised(12, 4, share_numerator=False), torch.tensor([2, 0, 3, 1])
    x = torch.randn(9, 12, dtype=F64)
    channels = torch.arange(12).view(4, 3)[order].flatten()
    expected = module(x)[:, channels]
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(parameter[order])
    assert torch.equal(module(x[:, channels]), expected)


def test_kat_7_5_one_group_is_equal_rows():
    one, many = randomised(12, 1), rational(12, 4)
    with torch.no_grad():
        many.numerator.copy_(one.numerator)
        many.denominator.copy_(one.denominator)
    x = torch.randn(9, 12, dtype=F64)
    assert torch.equal(one(x), many(x))


@pytest.mark.parametrize(
    ("share_numerator", "share_denominator", "count"),
    [(True, False, 6 + 32), (False, True, 48 + 4), (False, False, 48 + 32), (True, True, 10)],
)
def test_kat_2_2_parameters_by_sharing_and_38_by_default(share_numerator, share_denominator, count):
    module = Rational(64, share_numerator=share_numerator, share_denominator=share_denominator)
    assert count_parameters(module) == count
    assert count_parameters(Rational(64)) == 38
    torch.testing.assert_close(module(torch.ones(2, 64)), Rational(64)(torch.ones(2, 64)))


@pytest.mark.parametrize("form", ["sum_of_abs", "abs_of_sum"])
def test_pau_1_a_unit_has_10_parameters(form):
    assert count_parameters(Rational(64, groups=1, form=form)) == 10
    assert count_parameters(PadeLinear(64, 32, form=form)) == 64 * 32 + 32 + 10


def test_kat_4_parameters_of_layer_and_block_exceed_the_mlps_by_38_per_activation():
    assert count_parameters(GroupRationalLinear(192, 768)) == 192 * 768 + 768 + 38
    block = FeedForward(192, layer=("gr-kan(init='identity')", "gr-kan"))
    assert count_parameters(block) - count_parameters(FeedForward(192, layer="linear")) == 2 * 38


def test_kat_4_flops_of_a_layer():
    assert count_flops(GroupRationalLinear(64, 32), torch.zeros(1, 64)) == (2 * 5 + 2 * 4 + 3) * 64 + 2 * 64 * 32


# --- initial functions -----------------------------------------------------------------------------------------------


@every_form
def test_kat_7_1_identity_is_exact_in_every_form(form):
    for dtype in (torch.float32, F64):
        module = rational(16, 8, dtype, form=form, init="identity").eval()
        huge = torch.full((2, 16), torch.finfo(dtype).max, dtype=dtype)
        assert torch.equal(module(huge), huge)
        x = (100 * torch.randn(50, 16, dtype=dtype)).requires_grad_()
        y = module(x)
        assert torch.equal(y, x)
        (slope,) = torch.autograd.grad(y.sum(), x, retain_graph=True)
        torch.testing.assert_close(slope, torch.ones_like(x), atol=0, rtol=0)
    upstream = torch.randn(50, 16, dtype=F64)
    (da,) = torch.autograd.grad(module(x), module.numerator, upstream)
    torch.testing.assert_close(da[0], torch.stack([(upstream * x**i).sum() for i in range(6)]))


# rational-pau.md, section 1: the smaller error of its columns A and B; but see the next test for GELU in B
BOUNDS = {"identity": 0, "tanh": 3.5e-6, "sigmoid": 5.8e-9, "swish": 1.2e-6, "silu": 1.2e-6, "gelu": 1.4e-3}
BOUNDS |= {"relu": 3.0e-2, "leaky_relu": 3.0e-2}


@every_form
@pytest.mark.parametrize("init", BOUNDS)
def test_pau_1_fit_errors_on_3_are_at_or_below_the_cards_in_every_form(form, init):
    module = rational(form=form, init=init).eval()
    assert (module(GRID[:, None])[:, 0] - TARGETS[init](GRID)).abs().max() <= BOUNDS[init]


def test_pau_1_a_gelu_below_the_cards_9_5e_4_in_abs_of_sum_falls_below_zero_beyond_6():
    """The card's bound for B takes b_4 < 0: Q is 1 again at 4.6, and F ends up as −x/2. Ours stays a GELU."""
    a = [-4.42759860e-4, 0.5, 0.402844066, 0.0753534855, -0.0117719647, -0.00352460688]
    b = [0, 0.150706971, 0, -0.00704921376]
    assert (evaluate((a, b), GRID, "abs_of_sum") - F.gelu(GRID)).abs().max() < 9.5e-4
    far = torch.tensor([-10.0, 6.0, 10.0], dtype=F64)
    assert (evaluate((a, b), far, "abs_of_sum") * far).max() < 0
    wide = torch.linspace(-20, 20, 4001, dtype=F64)
    ours = rational(form="abs_of_sum", init="gelu")(wide[:, None])[:, 0]
    assert (ours - F.gelu(wide)).abs().max() < 0.32


def test_kat_3_1_gelu_is_gelu_in_the_form_that_is_executed():
    at = torch.tensor([[2.0], [3.0]], dtype=F64)
    torch.testing.assert_close(rational(init="gelu")(at), F.gelu(at), atol=1.4e-3, rtol=0)  # not 1.57 and 1.53


@pytest.mark.parametrize("init", FITS)
def test_fits_are_the_same_function_in_every_form_without_poles(init):
    _, b = FITS[init]
    assert b[0] == b[2] == 0
    assert b[1] > 0
    assert b[3] >= b[1] / 400 * (1 - 1e-9)
    x = torch.randn(100, 8, dtype=F64) * 5
    expected = rational(8, init=init)(x)
    for form in FORMS:
        torch.testing.assert_close(rational(8, form=form, init=init).eval()(x), expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("init", FITS)
def test_pau_1_growth_is_linear_with_slope_a5_over_b4(init):
    a, b = FITS[init]
    y = rational(init=init)(torch.tensor([[-1e6], [1e6]], dtype=F64))[:, 0]
    torch.testing.assert_close(
        y / torch.tensor([-1e6, 1e6], dtype=F64), torch.full((2,), a[5] / b[3], dtype=F64), rtol=1e-4, atol=0
    )


def test_fit_script_finds_the_committed_coefficients():
    script = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "fit_rational.py"))
    for init in ("swish", "sigmoid"):
        error = script["fit"](script["TARGETS"][init], starts=1, rounds=20)[0]
        committed = script["largest_error"](*FITS[init], script["TARGETS"][init])
        assert committed == pytest.approx(error, rel=0.02)


def test_higher_degrees_start_as_the_same_function():
    x = torch.randn(20, 8, dtype=F64)
    torch.testing.assert_close(rational(8, numerator=7, denominator=6, init="gelu")(x), rational(8, init="gelu")(x))


# --- the noisy form --------------------------------------------------------------------------------------------------


def test_pau_6_d_equals_b_in_evaluation_and_differs_by_10_percent_of_the_numerator_in_training():
    noisy, plain = randomised(form="noisy"), randomised(form="abs_of_sum")
    x = torch.randn(30, 16, dtype=F64)
    assert torch.equal(noisy.eval()(x), plain(x))
    noisy.train()
    torch.manual_seed(0)
    y = noisy(x)
    torch.manual_seed(0)
    assert torch.equal(noisy(x), y)
    assert not torch.equal(noisy(x), y)
    terms = (x.unsqueeze(-1) ** torch.arange(6) * noisy.numerator[0]).abs().sum(-1)
    assert ((y - plain(x)).abs() <= 0.1 * terms / q_of(plain, x) + 1e-12).all()


# --- layers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "alpha"),
    [
        (lambda x: x, 1.0),
        (F.relu, 2.0),
        (F.gelu, 2.35172),
        (F.silu, 2.81076),
        (lambda x: evaluate(SWISH, x, "sum_of_abs"), 2.81076),
        (torch.tanh, 2.53618),
        (torch.sigmoid, 3.40856),
    ],
    ids=["identity", "relu", "gelu", "silu", "swish-set", "tanh", "sigmoid"],
)
def test_kat_3_2_exact_alphas_by_gauss_hermite(function, alpha):
    assert 1 / mean_square(function) == pytest.approx(alpha, abs=6e-6)


@pytest.mark.parametrize(("init", "alpha"), [("identity", 1), ("swish", 2.81076), ("tanh", 2.53618), ("gelu", 2.352)])
def test_kat_3_2_weights_have_variance_alpha_over_d_in_and_the_bias_is_0(init, alpha):
    torch.manual_seed(0)
    layer = GroupRationalLinear(512, 512, init=init)
    assert layer.linear.weight.var().item() * 512 == pytest.approx(alpha, rel=0.02)
    assert layer.linear.bias.abs().max() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kat_3_2_std_002_of_the_released_runs_is_an_option(dtype):
    torch.manual_seed(0)
    assert GroupRationalLinear(256, 256, std=0.02, dtype=dtype).linear.weight.float().std().item() == pytest.approx(
        0.02, rel=0.02
    )


def test_kat_7_8_variance_is_preserved_through_identity_fc1_and_swish_fc2():
    torch.manual_seed(0)
    first = GroupRationalLinear(1024, 1024, init="identity")
    second = GroupRationalLinear(1024, 1024, init="swish")
    x = torch.randn(512, 1024)
    with torch.no_grad():
        assert abs(first(x).var().item() - 1) < 0.05
        assert abs(second(x).var().item() - 1) < 0.05


@pytest.mark.parametrize("form", ["sum_of_abs", "abs_of_sum"])
def test_kat_7_9_transfer_from_a_gelu_mlp_within_the_fit_error(form):
    torch.manual_seed(0)
    mlp = nn.Sequential(nn.Linear(48, 192), nn.GELU(), nn.Linear(192, 48)).double()
    block = FeedForward(48, layer=(f"gr-kan(init='identity', form='{form}')", f"gr-kan(init='gelu', form='{form}')"))
    block.double().first.linear.load_state_dict(mlp[0].state_dict())
    block.second.linear.load_state_dict(mlp[2].state_dict())
    x = torch.randn(100, 48, dtype=F64)
    hidden, y = mlp[0](x), mlp(x)
    assert hidden.abs().max() < 3
    error = (block(x) - y).abs()
    assert (error <= 1.342e-3 * mlp[2].weight.abs().sum(dim=1)).all()
    assert error.square().mean().sqrt() < 1e-2 * y.square().mean().sqrt()


@pytest.mark.parametrize(("features", "groups"), [(64, 8), (12, 4), (7, 1), (1, 1), (6, 2)])
def test_default_groups_are_the_greatest_divisor_shared_with_8(features, groups):
    assert GroupRationalLinear(features, 3).activation.groups == groups


def test_pau_6_linear_after_pau_is_a_per_edge_expansion():
    layer = PadeLinear(5, 3, dtype=F64)
    x = torch.randn(11, 5, dtype=F64)
    edges = torch.stack([torch.stack([layer.edge_function(o, i)(x[:, i]) for i in range(5)]).sum(0) for o in range(3)])
    torch.testing.assert_close(layer(x), edges.T + layer.linear.bias)
    curve = torch.linspace(-2, 2, 7, dtype=F64)
    torch.testing.assert_close(
        layer.edge_function(1, 2)(curve) / layer.linear.weight[1, 2],
        layer.activation(curve[:, None].expand(-1, 5))[:, 0],
    )


def test_pade_defaults_are_one_leaky_relu_in_abs_of_sum():
    activation = layers.get("pade")(16, 4).activation
    assert (activation.groups, activation.form, activation.init) == (1, "abs_of_sum", "leaky_relu")


@pytest.mark.parametrize("form", ["sum_of_abs", "abs_of_sum"])
def test_kat_7_11_non_contiguous_inputs_and_gradients_give_the_same_result(form):
    module = randomised(form=form)
    wide, upstream = torch.randn(16, 5, 14, dtype=F64), torch.randn(16, 5, 7, dtype=F64)
    results = []
    for contiguous in (False, True):
        x, g = wide[..., ::2].permute(1, 2, 0), upstream.permute(1, 2, 0)
        x, g = (x.contiguous(), g.contiguous()) if contiguous else (x, g)
        x = x.requires_grad_()
        y = module(x)
        results.append((y, *torch.autograd.grad(y, [x, *module.parameters()], g)))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, atol=1e-13, rtol=1e-13)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_kat_7_12_half_in_gives_half_out_with_the_polynomials_in_float32(half):
    module, x = Rational(16), (torch.randn(200, 16) * 5).to(half)
    with torch.autocast("cpu", half):
        y = module(x)
    assert y.dtype == half
    assert torch.equal(y, module(x.float()).to(half))
    y.float().sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in module.parameters())


def test_pau_2_float16_autocast_is_safe_where_x_to_the_fifth_overflows_float16():
    layer = GroupRationalLinear(16, 4)
    x = torch.full((2, 16), 1e3, requires_grad=True)
    with torch.autocast("cpu", torch.float16):
        y = layer(x)
    y.float().sum().backward()
    assert y.dtype == torch.float16
    assert y.isfinite().all()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"groups": 3}, "groups must divide num_features, got groups=3 and num_features=16"),
        ({"form": "C"}, "form must be one of sum_of_abs, abs_of_sum, floor, free, noisy, got 'C'"),
        ({"init": "mish"}, "init must be one of identity, swish, gelu, relu, leaky_relu, tanh, sigmoid, silu, got"),
        ({"numerator": 3}, "init='swish' is fitted for numerator=5 and denominator=4 or more, got 3 and 4"),
        ({"denominator": 0}, "denominator must be a whole number of at least 1, got 0"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(arguments, message):
    with pytest.raises(KANError, match=message):
        Rational(16, **arguments)
    with pytest.raises(KANError, match=r"expected an input of shape \(\.\.\., 16\), got \(2, 8\)"):
        Rational(16)(torch.zeros(2, 8))


# --- rKAN ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("degree", range(1, 7))
@pytest.mark.parametrize("raw", [(1.0, 1.0, 0.5), (-0.7, 0.4, -1.0), (0.3, -3.0, 2.0), (-30.0, -30.0, 0.0)], ids=str)
def test_rkan_is_the_true_jacobi_polynomial_at_every_degree(degree, raw):
    module = JacobiRKAN(degree, dtype=F64)
    with torch.no_grad():
        for parameter, value in zip(module.parameters(), raw, strict=True):
            parameter.fill_(value)
    alpha, beta, iota = (v.item() for v in module.shape())
    assert min(alpha, beta) > -1
    assert iota > 0
    x = torch.linspace(-20, 20, 101, dtype=F64)
    u = x / (x.square() + iota**2).sqrt()
    expected = torch.from_numpy(eval_jacobi(degree, alpha, beta, u.numpy()))
    torch.testing.assert_close(module(x).detach(), expected, atol=1e-10, rtol=1e-10)


def test_rkan_degree_1_has_the_constant_that_the_reference_misses():
    module = JacobiRKAN(1, dtype=F64)  # alpha = beta = 1: P_1(u) = 2 u
    assert module(torch.zeros(1, dtype=F64)).abs().max() < 1e-15
    assert module(torch.tensor([1e9], dtype=F64)).item() == pytest.approx(2)  # P_1(1) = alpha + 1


def test_rkan_has_3_scalars_and_learns_them():
    layer = RKANLinear(8, 4, degree=4, dtype=F64)
    assert count_parameters(layer) == 8 * 4 + 4 + 3
    x = torch.randn(5, 8, dtype=F64)
    raws = [torch.tensor(v, dtype=F64, requires_grad=True) for v in (0.4, -0.6, 0.2)]
    names = [name for name, _ in layer.activation.named_parameters()]

    def function(x, *values):
        return torch.func.functional_call(layer.activation, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(function, (x.requires_grad_(), *raws))


@pytest.mark.parametrize("value", [0.0, 1e-45, 1e4, -1e30])
def test_rkan_is_finite_far_out_and_at_denormals_in_float32(value):
    module, x = JacobiRKAN(6), torch.full((3,), value, requires_grad=True)
    y = module(x)
    y.sum().backward()
    assert y.isfinite().all()
    assert x.grad.isfinite().all()
