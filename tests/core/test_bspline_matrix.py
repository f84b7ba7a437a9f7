"""MatrixKAN card: the matrix form of the B-spline against scipy, the recursion and the closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline as ScipyBSpline

from kan_core import KANError, KANLinear
from kan_core.bases import BSpline
from kan_core.ops.bspline_linear.matrix import interval_matrices, matrix_planes, power_matrix
from kan_core.ops.bspline_linear.reference import piece_coefficients

F64 = torch.float64
EDGES = ["decay", "clamp", "linear"]
EVALUATORS = ["auto", "recursion", "matrix"]
both_grids = pytest.mark.parametrize("even", [True, False], ids=["uniform", "uneven"])


def make(evaluator: str, even: bool, order: int = 3, grid_size: int = 5, dtype: torch.dtype = F64, **kwargs) -> BSpline:
    """Three inputs; uneven knots follow skewed samples, and are equal for every evaluator."""
    basis = BSpline(grid_size, order, evaluator=evaluator, **kwargs).bind(3, dtype=dtype)
    if not even:
        samples = torch.rand(200, 3, dtype=F64, generator=torch.Generator().manual_seed(1))
        basis.update_grid((samples ** torch.tensor([1.0, 2.0, 3.0])).to(dtype))
        assert not basis.uniform
    return basis


def points(basis: BSpline, number: int = 200) -> torch.Tensor:
    """Points inside the grid, beyond it and far beyond it, then the grid's two ends."""
    share = torch.linspace(-2.03, 3.07, number, dtype=F64)[:, None]
    low, high = basis.grid[:, 0].double(), basis.grid[:, -1].double()
    far = torch.full((1, 3), 1e4, dtype=F64)
    return torch.cat([low + share * (high - low), far, -far, low[None], high[None]])


def values_and_slopes(basis: BSpline, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    x = x.clone().requires_grad_()
    planes = basis.planes(x)
    weights = torch.linspace(-1, 2, planes[0].numel(), dtype=x.dtype).view_as(planes[0])
    return planes.detach(), torch.autograd.grad((planes * weights).sum(), x)[0]


# --- section 1: the matrix -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("order", "factor", "expected"),
    [
        (0, 1, [[1]]),
        (1, 1, [[1, 0], [-1, 1]]),
        (2, 2, [[1, 1, 0], [-2, 2, 0], [1, -2, 1]]),
        (3, 6, [[1, 4, 1, 0], [-3, 0, 3, 0], [3, -6, 3, 0], [-1, 3, -3, 1]]),
    ],
)
def test_matrixkan_card_section_1_golden_psi(order, factor, expected):
    np.testing.assert_allclose(np.array(power_matrix(order)) * factor, expected, atol=1e-15)


@pytest.mark.parametrize("order", range(1, 13))
def test_matrixkan_card_section_1_recursion_gives_the_pieces_of_the_cardinal_spline(order):
    pieces = np.array(piece_coefficients(order))  # an independent recursion: over truncated powers, last function first
    np.testing.assert_allclose(np.array(power_matrix(order)), pieces[::-1].T, atol=4e-16)


@pytest.mark.parametrize("order", range(1, 10))
def test_matrixkan_card_section_1_rows_of_psi_sum_to_1_then_0(order):
    expected = [1.0] + [0.0] * order
    np.testing.assert_allclose(np.array(power_matrix(order)).sum(axis=1), expected, atol=2e-15)


@pytest.mark.parametrize("order", [1, 2, 3, 5, 9])
def test_matrixkan_card_section_1_derivative_is_the_differentiated_powers_times_psi(order):
    basis = BSpline(1, order, (0, 0.5), evaluator="matrix").bind(1, dtype=F64)  # one cell of width h = 0.5
    x = torch.linspace(0.01, 0.49, 7, dtype=F64)
    jacobian = torch.autograd.functional.jacobian(lambda x: basis.planes(x[:, None])[..., 0], x)
    u, power = x / 0.5, torch.arange(1, order + 1, dtype=F64)
    expected = (power * u[:, None] ** (power - 1)) @ torch.tensor(power_matrix(order), dtype=F64)[1:] / 0.5
    torch.testing.assert_close(torch.stack([jacobian[n, :, n] for n in range(7)]), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize(("order", "largest"), [(1, 1), (2, 1), (3, 1), (5, 0.55), (9, 0.43)])
def test_matrixkan_card_section_5_largest_entry_of_psi(order, largest):
    assert np.abs(power_matrix(order)).max() == pytest.approx(largest, abs=0.005)


@pytest.mark.parametrize("order", range(1, 10))
def test_matrixkan_card_section_5_float32_rounding_is_about_1e_7_up_to_degree_9(order):
    u = torch.linspace(0, 1, 1001, dtype=F64)[:, None]
    arguments = torch.zeros(1), torch.ones(1)
    single = matrix_planes(u.float(), *arguments, torch.tensor(power_matrix(order)), order + 1, "clamp")
    psi = torch.tensor(power_matrix(order), dtype=F64)
    double = matrix_planes(u, *(a.double() for a in arguments), psi, order + 1, "clamp")
    assert (single - double).abs().max() < 3e-7


def test_matrixkan_card_section_3_psi_is_exact_in_float64_after_float32_and_bfloat16():
    """The reference builds it in float32 and is off by 2e-8 from degree 3 on."""
    basis = BSpline(4, 5, (-2, 2), evaluator="matrix").bind(3)
    assert basis.matrices.dtype == torch.float32
    assert basis.to(torch.bfloat16).matrices.dtype == torch.float32  # planes are never evaluated in less
    basis.double()
    assert torch.equal(basis.matrices, torch.tensor(power_matrix(5), dtype=F64))
    x = torch.linspace(-2, 2, 301, dtype=F64)[:, None].expand(-1, 3)
    torch.testing.assert_close(basis(x).sum(-1), torch.ones_like(x), atol=3e-15, rtol=0)


# --- section 5: values -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", range(8))
@both_grids
def test_matrixkan_card_section_5_equals_scipy(order, even):
    basis = make("matrix", even, order, 6)
    x = torch.cat([basis.grid.T[:1], basis.grid.T[:-1] + 0.37 * basis.grid.T.diff(dim=0), basis.grid.T[-1:]])
    features = basis(x)
    for i in range(3):
        inside = x[:-1, i].numpy()  # scipy's degree 0 leaves the right end out
        expected = ScipyBSpline(basis.knots[i].numpy(), np.eye(basis.num_functions), order)(inside)
        np.testing.assert_allclose(features[:-1, i].numpy(), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("order", range(8))
@both_grids
def test_matrixkan_card_section_5_values_and_gradients_equal_the_recursion_at_every_edge_policy(order, edge, even):
    recursion = make("recursion", even, order, edge=edge)
    x = points(recursion)
    expected = values_and_slopes(recursion, x)
    for evaluator in ("auto", "matrix"):
        got = values_and_slopes(make(evaluator, even, order, edge=edge), x)
        torch.testing.assert_close(got, expected, atol=1e-11, rtol=1e-11)


@both_grids
@pytest.mark.parametrize("order", [1, 3, 5, 7])
def test_matrixkan_card_section_5_equals_the_dense_recursion_to_1e_6_in_float32(order, even):
    matrix, recursion = (make(name, even, order, dtype=torch.float32) for name in ("matrix", "recursion"))
    x = points(recursion)[:-4].float()
    torch.testing.assert_close(matrix.planes(x), recursion.planes(x), atol=1e-6, rtol=0)


@both_grids
@pytest.mark.parametrize("order", range(8))
def test_matrixkan_card_section_5_partition_of_unity_and_k_plus_1_functions(order, even):
    basis = make("matrix", even, order)
    share = torch.linspace(0, 1, 301, dtype=F64)[:, None]
    features = basis(torch.lerp(basis.grid[:, 0], basis.grid[:, -1], share))
    torch.testing.assert_close(features.sum(-1), torch.ones_like(features[..., 0]), atol=1e-13, rtol=0)
    assert ((features != 0).sum(-1) <= order + 1).all()
    assert (features > -1e-14).all()


@pytest.mark.parametrize("evaluator", EVALUATORS)
@both_grids
def test_matrixkan_card_section_5_degree_0_is_piecewise_constant_and_the_right_end_belongs_to_the_last_cell(
    evaluator, even
):
    basis = make(evaluator, even, 0)
    middle = basis.grid.T[:-1] + 0.5 * basis.grid.T.diff(dim=0)
    eye = torch.eye(5, dtype=F64)
    for at in (middle, middle + 0.3 * basis.grid.T.diff(dim=0)):
        torch.testing.assert_close(basis(at), eye[:, None].expand(5, 3, 5), atol=0, rtol=0)
    assert torch.equal(basis(basis.grid.T[-1]), eye[-1].expand(3, 5))


@pytest.mark.parametrize("order", [1, 2, 3, 5])
@both_grids
def test_matrixkan_card_section_5_gradcheck_across_knots(order, even):
    basis = make("matrix", even, order)
    knots = basis.knots.T[1:-1]
    # of degree 1 the slope jumps at the knots, of degree 2 its slope: stay off them by more than gradcheck's 1e-6
    x = torch.cat([knots - 2e-6, knots + 2e-6]) if order < 3 else knots.clone()
    assert torch.autograd.gradcheck(basis.planes, x.requires_grad_(), atol=1e-4, fast_mode=True)
    if order >= 3:
        assert torch.autograd.gradgradcheck(basis.planes, (x[::3] + 0.01).detach().requires_grad_(), fast_mode=True)


def test_matrixkan_card_section_4_work_is_local_and_memory_per_number_does_not_grow_with_the_grid():
    """Saved for backward: per number, powers and places of k + 1 values; the grid size does not enter."""

    def saved(evaluator: str, grid_size: int) -> int:
        sizes: list[int] = []

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            sizes.append(tensor.numel())
            return tensor

        basis = BSpline(grid_size, 5, evaluator=evaluator).bind(4)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            basis.planes(torch.rand(50, 4).requires_grad_())
        return sum(sizes)

    assert saved("matrix", 5) == saved("matrix", 50)
    assert saved("matrix", 5) < saved("recursion", 5) / 5
    assert saved("recursion", 50) > 3 * saved("recursion", 5)


# --- section 3: uneven grids and state -----------------------------------------------------------------------------


def test_matrixkan_card_section_4_interval_matrices_of_even_knots_are_psi_in_every_cell_of_the_grid():
    psi = torch.tensor(power_matrix(3), dtype=F64)
    matrices = interval_matrices(BSpline(6, 3).knots, 3)
    assert matrices.shape == (4, 1, 6 + 2 * 3 + 2, 4)
    for cell in range(4, 10):  # beyond lie 3 extended cells, where functions are missing, and one outer cell of zeros
        torch.testing.assert_close(matrices[:, 0, cell], psi, atol=1e-14, rtol=0)
    torch.testing.assert_close(matrices[:, 0, 3, 1:], psi[:, 1:], atol=1e-14, rtol=0)
    assert (matrices[:, 0, 3, 0] == 0).all()
    assert (matrices[:, 0, [0, -1]] == 0).all()


def test_matrixkan_card_section_3_adaptive_grid_does_not_assume_even_knots():
    """The reference's uniform assumption errs by 2 to 12 there; a cubic, in the span of every grid, must stay."""
    layer = KANLinear(3, 1, BSpline(grid_range=(-1.5, 1.5), evaluator="matrix"), base=None, bias=False, dtype=F64)
    x = torch.rand(500, 3, dtype=F64, generator=torch.Generator().manual_seed(0)) ** 3 * 2 - 1

    def cubic(x):
        return 1 + x - 2 * x**3

    points = layer.basis.fit_points()
    fitted = torch.linalg.lstsq(layer.basis(points)[:, 0], cubic(points[:, :1])).solution
    with torch.no_grad():
        layer.weight.copy_(fitted[:, None].expand(-1, 3, -1))
    layer.update_grid(x)
    basis = layer.basis
    assert not basis.uniform
    torch.testing.assert_close(layer(x)[:, 0], cubic(x).sum(-1), atol=1e-9, rtol=0)
    assumed = matrix_planes(x, basis.low, basis.step, torch.tensor(power_matrix(3), dtype=F64), 8, "decay")
    assert (assumed.flatten(1) @ layer.weight.flatten() - cubic(x).sum(-1)).abs().max() > 1


def test_matrices_follow_the_knots_through_update_refine_load_and_move():
    source = make("matrix", even=False)
    source.refine(8)
    x = torch.linspace(-0.5, 1.5, 91, dtype=F64)[:, None].expand(-1, 3)
    recursion = make("recursion", even=False)
    recursion.refine(8)
    torch.testing.assert_close(source.planes(x), recursion.planes(x), atol=1e-12, rtol=0)
    target = BSpline(8, evaluator="matrix").bind(3, dtype=F64)
    target.load_state_dict(source.state_dict())  # of knots alone
    assert list(source.state_dict()) == ["knots"]
    assert torch.equal(target.planes(x), source.planes(x))
    even = BSpline(8, evaluator="matrix").bind(3, dtype=F64)
    target.load_state_dict(even.state_dict())
    assert torch.equal(target.planes(x), even.planes(x))
    assert BSpline(evaluator="matrix").bind(3, device="meta").matrices.device.type == "meta"


@both_grids
def test_matrix_planes_stay_in_float32_under_autocast(even):
    basis = make("matrix", even, dtype=torch.float32)
    x = torch.rand(20, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(basis.planes(x), basis.planes(x.clone()))
        inside = basis.planes(x)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, basis.planes(x))


@both_grids
@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("evaluator", EVALUATORS)
@pytest.mark.parametrize("order", [0, 2, 3])
def test_matrixkan_card_section_4_nan_and_infinite_inputs(even, edge, evaluator, order):
    basis = make(evaluator, even, order, edge=edge)
    nan = basis.planes(torch.tensor([[float("nan"), 0.1, 0.2]], dtype=F64))
    assert nan[..., 0].isnan().all()
    assert nan[..., 1:].isfinite().all()
    if edge != "linear":
        infinite = torch.tensor([[float("inf")] * 3, [float("-inf")] * 3], dtype=F64)
        far = torch.tensor([[1e4] * 3, [-1e4] * 3], dtype=F64)
        torch.testing.assert_close(basis.planes(infinite), basis.planes(far), atol=1e-14, rtol=0)


@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_only_the_auto_evaluator_on_a_uniform_grid_is_fused(evaluator):
    assert BSpline(evaluator=evaluator).fused == (evaluator == "auto")
    assert not make(evaluator, even=False).fused
    assert (f"evaluator={evaluator!r}" in repr(BSpline(evaluator=evaluator))) == (evaluator != "auto")


def test_flops_of_the_matrix_form_do_not_grow_with_the_grid():
    def flops(evaluator, grid_size, even=True):
        return make(evaluator, even, grid_size=grid_size).flops_per_input

    assert flops("matrix", 5) == flops("matrix", 20) < flops("recursion", 5) < flops("recursion", 20)
    assert flops("matrix", 5, even=False) == flops("matrix", 20, even=False) < flops("auto", 5, even=False)


def test_an_unknown_evaluator_is_refused():
    with pytest.raises(KANError, match="evaluator must be one of auto, recursion, matrix, got 'de-boor'"):
        BSpline(evaluator="de-boor")
