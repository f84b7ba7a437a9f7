"""Facts of the cards about each family of functions: golden values, identities, domains, arguments."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline as ScipyBSpline

from kan_core import KANError, bases
from kan_core.bases import RSWAF, BSpline, Chebyshev, Fourier, GaussianRBF
from kan_core.registry import parse_spec

F64 = torch.float64


def uneven(grid_size: int = 5, order: int = 3, inputs: int = 3, **kwargs) -> BSpline:
    """A basis whose knots follow skewed samples, its own for every input."""
    basis = BSpline(grid_size, order, **kwargs).bind(inputs, dtype=F64)
    generator = torch.Generator().manual_seed(1)
    basis.update_grid(torch.rand(200, inputs, dtype=F64, generator=generator) ** torch.tensor([1.0, 2.0, 3.0])[:inputs])
    assert not basis.uniform
    return basis


# --- B-splines ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("order", "x", "expected"),
    [
        (3, 0.3, [0, 0, 0, 0.0703125, 0.61197917, 0.31510417, 0.00260417, 0]),
        (3, -0.9, [0.0703125, 0.61197917, 0.31510417, 0.00260417, 0, 0, 0, 0]),
        (3, 0.0, [0, 0, 0.02083333, 0.47916667, 0.47916667, 0.02083333, 0, 0]),
        (3, 1.2, [0, 0, 0, 0, 0, 0.02083333, 0.47916667, 0.47916667]),
        (3, 2.3, [0] * 8),
        (2, 0.3, [0, 0, 0, 0.28125, 0.6875, 0.03125, 0]),
        (1, 0.3, [0, 0, 0, 0.75, 0.25, 0]),
        (5, 0.3, [0, 0, 0, 0.00197754, 0.12491048, 0.51964518, 0.32807617, 0.02538249, 8.14e-6, 0]),
    ],
)
def test_bspline_golden_values_of_the_fused_kernel_card(order, x, expected):
    features = BSpline(5, order)(torch.tensor([x], dtype=F64))
    torch.testing.assert_close(features[0], torch.tensor(expected, dtype=F64), atol=6e-9, rtol=0)


def test_bspline_midpoint_and_knot_values_of_the_kan_card():
    basis = BSpline(4, 3, grid_range=(0, 4)).bind(1, dtype=F64)
    midpoint, knot = basis(torch.tensor([[1.5], [2.0]], dtype=F64))[:, 0]
    torch.testing.assert_close(midpoint[1:5], torch.tensor([1, 23, 23, 1], dtype=F64) / 48, atol=1e-15, rtol=0)
    torch.testing.assert_close(knot[2:5], torch.tensor([1, 4, 1], dtype=F64) / 6, atol=1e-15, rtol=0)


def test_bspline_partial_sum_beyond_the_grid_is_the_cards_0_979():
    total = BSpline(5, 3)(torch.tensor([1.2], dtype=F64)).sum()
    assert total.item() == pytest.approx(0.97916667, abs=1e-8)


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("even", [True, False], ids=["uniform", "uneven"])
def test_bspline_equals_scipy(order, even):
    basis = BSpline(6, order, (-1.5, 2)).bind(3, dtype=F64) if even else uneven(6, order)
    low, high = basis.grid[:, 0].max().item(), basis.grid[:, -1].min().item()
    x = torch.linspace(low, high, 301, dtype=F64)
    features = basis(x[:, None].expand(-1, 3))
    for i in range(3):
        expected = ScipyBSpline(basis.knots[i].numpy(), np.eye(basis.num_functions), order)(x.numpy())
        np.testing.assert_allclose(features[:, i].numpy(), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("even", [True, False], ids=["uniform", "uneven"])
def test_bspline_is_a_partition_of_unity_with_local_support(even):
    basis = BSpline(5, 3).bind(3, dtype=F64) if even else uneven()
    x = torch.stack([torch.linspace(low, high, 400, dtype=F64) for low, high in basis.grid[:, [0, -1]].tolist()], 1)
    features = basis(x)
    torch.testing.assert_close(features.sum(-1), torch.ones_like(x), atol=1e-14, rtol=0)
    assert (features >= -1e-16).all()
    assert ((features > 1e-15).sum(-1) <= 4).all()


def test_bspline_of_degree_1_is_linear_interpolation_at_the_knots():
    basis = BSpline(7, 1, (-2, 3)).bind(1, dtype=F64)
    values = torch.randn(8, dtype=F64)
    x = torch.linspace(-2, 3, 100, dtype=F64)
    got = basis(x[:, None])[:, 0] @ values
    np.testing.assert_allclose(got, np.interp(x.numpy(), basis.grid[0].numpy(), values.numpy()), atol=1e-13)


@pytest.mark.parametrize("even", [True, False], ids=["uniform", "uneven"])
def test_greville_abscissae_reproduce_the_identity(even):
    basis = BSpline(5, 3).bind(3, dtype=F64) if even else uneven()
    greville = basis.knots.unfold(1, 3, 1)[:, 1:-1].mean(-1)
    x = torch.stack([torch.linspace(low, high, 50, dtype=F64) for low, high in basis.grid[:, [0, -1]].tolist()], 1)
    torch.testing.assert_close((basis(x) * greville).sum(-1), x, atol=1e-13, rtol=0)


@pytest.mark.parametrize("even", [True, False], ids=["uniform", "uneven"])
def test_edge_policies(even):
    def make(edge):
        return BSpline(5, 3, edge=edge).bind(1, dtype=F64) if even else uneven(inputs=1, edge=edge)

    coefficients = torch.randn(8, dtype=F64)
    bases_by_edge = {edge: make(edge) for edge in ("decay", "clamp", "linear")}
    low, high = bases_by_edge["decay"].grid[0, [0, -1]].tolist()
    width = high - low

    def value_and_slope(edge, at):
        x = torch.tensor([[at]], dtype=F64, requires_grad=True)
        y = (bases_by_edge[edge](x) @ coefficients).sum()
        return y.item(), torch.autograd.grad(y, x)[0].item()

    at_end, slope_at_end = value_and_slope("decay", high - 1e-12)
    assert value_and_slope("decay", high + 5 * width) == (0, 0)
    assert value_and_slope("clamp", high + width) == (pytest.approx(at_end, abs=1e-9), 0)
    beyond, slope = value_and_slope("linear", high + width)
    assert slope == pytest.approx(slope_at_end, abs=1e-7)
    assert beyond == pytest.approx(at_end + width * slope_at_end, abs=1e-7)
    for edge in bases_by_edge:  # inside, all three are the same
        inside = low + 0.3 * width
        assert value_and_slope(edge, inside) == pytest.approx(value_and_slope("decay", inside), abs=1e-12)


@pytest.mark.parametrize("even", [True, False], ids=["uniform", "uneven"])
@pytest.mark.parametrize("edge", ["decay", "clamp", "linear"])
def test_nan_reaches_every_bspline_value_and_infinity_makes_none_under_decay_and_clamp(even, edge):
    basis = BSpline(5, 3, edge=edge).bind(1, dtype=F64) if even else uneven(inputs=1, edge=edge)
    assert basis(torch.tensor([[math.nan]], dtype=F64)).isnan().any()
    if edge != "linear":
        assert basis(torch.tensor([[math.inf], [-math.inf]], dtype=F64)).isfinite().all()


def test_update_grid_follows_the_quantiles_and_keeps_the_grid_of_a_constant_input():
    basis = BSpline(4, 3, grid_eps=0.0).bind(3, dtype=F64)
    before = basis.knots.clone()
    samples = torch.stack([torch.linspace(0, 1, 101) ** 2, torch.full((101,), 7.0), torch.zeros(101)], 1).double()
    basis.update_grid(samples)
    np.testing.assert_allclose(basis.grid[0, 1:-1], np.quantile(samples[:, 0], [0.25, 0.5, 0.75]), atol=1e-12)
    assert basis.grid[0, 0] < 0
    assert basis.grid[0, -1] > 1
    assert torch.equal(basis.knots[1:], before[1:])


def test_update_grid_leaves_every_interval_open_for_repeated_samples():
    basis = BSpline(5, 3).bind(1)
    basis.update_grid(torch.cat([torch.zeros(1000, 1), torch.ones(1, 1)]))
    assert (basis.knots.diff() > 0).all()
    assert basis(torch.linspace(-1, 2, 50)[:, None]).isfinite().all()


@pytest.mark.parametrize("bad", [torch.tensor([[math.nan]]), torch.tensor([[math.inf]]), torch.empty(0, 1)])
def test_update_grid_refuses_samples_that_are_not_finite(bad):
    with pytest.raises(KANError, match="finite samples"):
        BSpline().bind(1).update_grid(bad)


def test_a_grid_updated_with_grid_eps_1_stays_uniform_per_input():
    basis = BSpline(5, 3, grid_eps=1.0).bind(2, dtype=F64)
    basis.update_grid(torch.rand(100, 2, dtype=F64) * torch.tensor([1.0, 10.0]))
    assert basis.uniform
    assert basis.step[1] > 5 * basis.step[0]


# --- the other families ------------------------------------------------------------------------------------------


def test_gaussian_row_sum_is_sqrt_pi_inside_and_1_386_at_the_ends():
    basis = GaussianRBF(8, (-2, 2))
    inside = basis(torch.linspace(-0.9, 0.9, 101, dtype=F64)[:, None]).sum(-1)
    torch.testing.assert_close(inside, torch.full_like(inside, math.sqrt(math.pi)), atol=0, rtol=1.2e-4)
    ends = basis(torch.tensor([[-2.0], [2.0]], dtype=F64)).sum(-1)
    torch.testing.assert_close(ends, torch.full_like(ends, 1.386), atol=5e-4, rtol=0)


def test_gaussian_width_is_the_spacing_of_fastkan():
    assert 1 / GaussianRBF(8, (-2, 2)).inverse_width.item() == pytest.approx(4 / 7)


def test_rswaf_row_sum_is_2_inside():
    basis = RSWAF(16, (-4, 4))
    inside = basis(torch.linspace(-1, 1, 101, dtype=F64)[:, None]).sum(-1)
    torch.testing.assert_close(inside, torch.full_like(inside, 2.0), atol=0, rtol=6e-3)


def test_rswaf_is_sech_squared():
    x = torch.linspace(-3, 3, 50, dtype=F64)[:, None]
    centers = torch.linspace(-1.2, 0.2, 8, dtype=F64)
    features = RSWAF(8, (-1.2, 0.2), width=2.0).double()(x)
    torch.testing.assert_close(features[:, 0], torch.cosh((x - centers) / 2) ** -2, atol=1e-7, rtol=0)


def test_radial_parameters_are_shared_and_trainable_only_on_request():
    assert [name for name, _ in GaussianRBF().named_parameters()] == []
    assert sorted(name for name, _ in RSWAF(trainable=True).named_parameters()) == ["centers", "inverse_width"]


def test_chebyshev_is_cos_n_arccos_and_1_at_1():
    u = torch.linspace(-1, 1, 201, dtype=F64)
    n = torch.arange(9, dtype=F64)
    features = Chebyshev(8, squash=False)(u[:, None])[:, 0]
    torch.testing.assert_close(features, torch.cos(n * torch.arccos(u)[:, None]), atol=1e-13, rtol=0)
    assert (features[-1] == 1).all()


def test_chebyshev_gauss_quadrature_norms_are_pi_and_half_pi():
    nodes = torch.cos(torch.pi * (torch.arange(32, dtype=F64) + 0.5) / 32)
    features = Chebyshev(6, squash=False)(nodes[:, None])[:, 0]
    gram = features.T @ features * torch.pi / 32
    expected = torch.full((7,), torch.pi / 2, dtype=F64)
    expected[0] = torch.pi
    torch.testing.assert_close(gram, torch.diag(expected), atol=1e-10, rtol=0)


def test_chebyshev_gradient_is_finite_where_float32_tanh_saturates():
    x = torch.tensor([[-50.0], [9.5], [50.0]], requires_grad=True)
    Chebyshev(5)(x).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_fourier_is_cosines_then_sines_and_pairs_have_unit_square():
    x = torch.linspace(-7, 7, 99, dtype=F64)
    features = Fourier(4)(x[:, None])[:, 0]
    k = torch.arange(1, 5, dtype=F64)
    torch.testing.assert_close(features[:, :4], torch.cos(x[:, None] * k), atol=1e-13, rtol=0)
    torch.testing.assert_close(features[:, 4:], torch.sin(x[:, None] * k), atol=1e-13, rtol=0)
    torch.testing.assert_close(features.square().sum(-1), torch.full_like(x, 4.0), atol=1e-12, rtol=0)
    smooth = Fourier(4, smooth=True)(x[:, None])[:, 0]
    torch.testing.assert_close(smooth, features / torch.cat([k, k]) ** 2, atol=1e-13, rtol=0)


# --- what every family promises ----------------------------------------------------------------------------------


def test_features_are_a_view_of_plane_major_memory(spec):
    basis = bases.get(spec).bind(3)
    x = torch.randn(4, 3)
    assert basis(x).shape == (4, 3, basis.num_functions)
    assert basis.planes(x).shape == (4, basis.num_functions, 3)
    assert torch.equal(basis(x), basis.planes(x).transpose(-1, -2))
    assert basis.flops_per_input > 0


def test_binding_copies_the_prototype(spec):
    prototype = bases.get(spec)
    before = {k: v.clone() for k, v in prototype.state_dict().items()}
    one, two = prototype.bind(3), prototype.bind(2, dtype=F64)
    with torch.no_grad():
        for tensor in [*one.parameters(), *one.buffers()]:
            tensor.add_(1)
    assert (one.in_features, two.in_features, prototype.in_features) == (3, 2, None)
    assert all(t.dtype == F64 for t in [*two.parameters(), *two.buffers()])
    assert all(torch.equal(before[k], v) for k, v in prototype.state_dict().items())


def test_lstsq_recovers_any_function_in_the_span(spec):
    """Family-wide invariant 8."""
    basis = bases.get(spec).bind(1, dtype=F64)
    x = torch.linspace(-0.99, 0.99, 300, dtype=F64)[:, None]
    features = basis(x)[:, 0]
    y = features @ torch.randn(basis.num_functions, dtype=F64)
    fitted = torch.linalg.lstsq(features, y, driver="gelsd").solution
    torch.testing.assert_close(features @ fitted, y, atol=1e-10, rtol=0)


def test_only_families_with_a_grid_adapt(spec):
    basis = bases.get(spec).bind(2)
    if basis.adaptive:
        basis.update_grid(torch.randn(50, 2))
    else:
        with pytest.raises(KANError, match="no grid to update"):
            basis.update_grid(torch.randn(50, 2))


@pytest.mark.parametrize(
    ("spec_text", "message"),
    [
        ("bsplin", "unknown basis 'bsplin': choose one of"),
        ("bspline(grid_range=(1, -1))", r"grid_range must be increasing and finite \(low, high\), got \(1, -1\)"),
        ("bspline(grid_range=(0, 0))", "grid_range must be increasing"),
        ("bspline(grid_range=3)", "grid_range must be two numbers"),
        ("bspline(grid_size=0)", "grid_size must be a whole number of at least 1, got 0"),
        ("bspline(order=-1)", "order must be a whole number of at least 0, got -1"),
        ("bspline(edge='mirror')", "edge must be one of decay, clamp, linear, got 'mirror'"),
        ("bspline(grid_eps=2)", r"grid_eps must lie in \[0, 1\]"),
        ("bspline(grids=3)", "unexpected keyword argument 'grids'"),
        ("bspline(", "cannot read the basis"),
        ("bspline(__import__('os'))", "cannot read the basis"),
        ("bspline(grid_size=f())", "cannot read the basis"),
        ("rbf(num_centers=1)", "num_centers must be a whole number of at least 2"),
        ("rbf(width=0)", "width must be a finite number above zero"),
        ("rswaf(grid_range=(2, 1))", "grid_range must be increasing"),
        ("chebyshev(degree=0)", "degree must be a whole number of at least 1"),
        ("fourier(num_frequencies=0)", "num_frequencies must be a whole number"),
    ],
)
def test_bad_specs_are_refused_in_one_clear_line(spec_text, message):
    with pytest.raises(KANError, match=message) as caught:
        bases.get(spec_text)
    assert "\n" not in str(caught.value)


def test_every_family_is_under_test(all_specs):
    ours = {name for name in bases.names() if type(bases.get(name)).__module__.startswith("kan_core.")}
    assert {parse_spec(spec)[0] for spec in all_specs} == ours


def test_names_list_the_families_and_a_name_is_taken_once():
    assert {"bspline", "rbf", "rswaf", "chebyshev", "fourier"} <= set(bases.names())
    with pytest.raises(KANError, match="already registered"):
        bases.register("bspline")(Chebyshev)
    with pytest.raises(KANError, match="a basis is a name or a Basis object"):
        bases.get(3)  # type: ignore[arg-type]
