"""TKAN: the facts and invariants of its card, and the fast recurrences against the cell, which is the definition."""

from __future__ import annotations

import io
import math

import pytest
import torch
from torch import nn

from kan_core import layers
from kan_core.bases import BSpline
from kan_core.compare import count_parameters
from kan_core.errors import KANError
from kan_timeseries.layers import TKAN, SplineSubLayer, TKANCell, TKANState, tkan_stack
from kan_timeseries.layers._scan import GateScan, MemoryScan
from kan_timeseries.layers.sub_layers import spline_bank
from kan_timeseries.models.tkan import TKANForecaster

CANDIDATES = ["sigmoid", "tanh_sigmoid", "tanh"]
BANKS = {"one": (None,), "orders": range(5), "mixed": ("tanh", None, layers.get("rbf"), {"order": 1, "grid_size": 5})}


def double(*args, **kwargs):
    """A small layer in float64 that returns its state."""
    return TKAN(*args, dtype=torch.float64, return_state=True, **kwargs)


def random_state(layer, batch):
    cell = layer.cells[0]
    h, c = torch.randn(2, batch, cell.hidden_size, dtype=torch.float64)
    return TKANState(h, c, torch.randn(batch, len(cell.sub_layers), cell.sub_outputs, dtype=torch.float64))


def by_steps(layer, x, state=None, mask=None):
    """The definition: the cell from step to step, masked steps copied."""
    (cell,) = layer.cells
    state = cell.zero_state(x) if state is None else state
    outputs = []
    for t in range(x.shape[1]):
        _, new = cell(x[:, t], state)
        if mask is not None:
            live = mask[:, t, None]
            parts = zip((live, live, live[..., None]), new, state, strict=True)
            new = TKANState(*(torch.where(*part) for part in parts))
        state = new
        outputs.append(state.h)
    return torch.stack(outputs, dim=1), state


# Counts of section 6 ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "options", "expected"),
    [
        ((19, 100), {}, 41_344),
        ((100, 100), {"sub_inputs": 20, "sub_outputs": 20}, 67_700),
        ((19, 100), {"sub_layers": range(5)}, 60_515),
    ],
    ids=["defaults", "sub-layers of 20", "orders 0 to 4"],
)
def test_parameters_are_those_of_the_card(sizes, options, expected):
    assert count_parameters(TKAN(*sizes, device="meta", **options)) == expected


@pytest.mark.parametrize(
    ("horizon", "expected"), [(1, 109_145), (3, 109_347), (6, 109_650), (9, 109_953), (12, 110_256), (15, 110_559)]
)
def test_parameters_of_the_stack_with_a_dense_head(horizon, expected):
    stack = tkan_stack(19, [100, 100], [19, 20], device="meta")
    assert count_parameters(nn.Sequential(*stack, nn.Linear(100, horizon, device="meta"))) == expected


def test_parameters_follow_the_formula():
    d, u, p, q, grids, orders = 5, 7, 4, 3, (3, 2), (2, 0)
    specs = [{"grid_size": g, "order": k} for g, k in zip(grids, orders, strict=True)]
    kans = sum(p * q * (1 + g + k) + q + 2 * p for g, k in zip(grids, orders, strict=True))
    expected = 3 * u * (d + u + 1) + kans + 2 * (d * p + q * p + 2 * q) + 2 * q * u + u
    assert count_parameters(TKAN(d, u, sub_layers=specs, sub_inputs=p, sub_outputs=q, device="meta")) == expected


def test_the_number_of_sub_layers_changes_only_rows_of_w_o_and_sub_tensors():
    one, three = (TKANCell(4, 6, sub_layers=[None] * count, device="meta") for count in (1, 3))
    shapes = [{name: tuple(p.shape) for name, p in cell.named_parameters()} for cell in (one, three)]
    changed = {name.partition(".")[0] for name in shapes[1] if shapes[0].get(name) != shapes[1][name]}
    assert changed == {"weight_o", "sub_weight_x", "sub_weight_m", "sub_mix", "sub_layers"}
    assert (shapes[0]["weight_o"], shapes[1]["weight_o"]) == ((4, 6), (12, 6))


# Initialisation of section 4 -------------------------------------------------------------------------------------


def is_orthogonal(matrix):
    rows, columns = matrix.shape
    product = matrix @ matrix.T if rows <= columns else matrix.T @ matrix
    return torch.allclose(product, torch.eye(min(rows, columns)), atol=1e-5)


def test_weights_start_as_the_card_says():
    (cell,) = TKAN(6, 40, sub_layers=[None, 2], sub_inputs=5, sub_outputs=4).cells
    for weight in (cell.weight_h, cell.sub_mix, cell.sub_weight_x.flatten(0, 1), cell.sub_weight_m.flatten(0, 1)):
        assert is_orthogonal(weight.detach())
    for weight, fans in ((cell.weight_x, 6 + 120), (cell.weight_o, 8 + 40)):
        bound = math.sqrt(6 / fans)
        assert 0.9 * bound < weight.abs().max() <= bound
    assert cell.bias.tolist() == [0.0] * 40 + [1.0] * 40 + [0.0] * 40
    assert cell.bias_o.tolist() == [0.0] * 40


@pytest.mark.parametrize("order", [0, 3])
def test_sub_layers_start_glorot_with_zero_bias(order):
    sub = SplineSubLayer(20, 10, order=order)
    splines, base = sub.kan.weight.detach().split([3 + order, 1])
    for weight, fans in ((splines, 20 * (3 + order) + 10), (base, 20 + 10)):
        bound = math.sqrt(6 / fans)
        assert 0.9 * bound < weight.abs().max() <= bound
    assert not sub.kan.bias.any()


def test_states_start_at_zero():
    x = torch.randn(2, 3, 4, dtype=torch.float64)
    layer = double(4, 5)
    zeros = TKANState(*(torch.zeros_like(v) for v in random_state(layer, 2)))
    assert torch.equal(layer(x)[0], layer(x, zeros)[0])


# The fast recurrences compute what the cell does ----------------------------------------------------------------


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("candidate", CANDIDATES)
@pytest.mark.parametrize("bank", BANKS)
def test_sequences_and_gradients_are_those_of_the_cell(bank, candidate, masked):
    layer = double(3, 5, sub_layers=BANKS[bank], sub_inputs=4, sub_outputs=2, candidate=candidate)
    x = torch.randn(4, 6, 3, dtype=torch.float64, requires_grad=True)
    state = TKANState(*(v.requires_grad_() for v in random_state(layer, 4)))
    mask = torch.rand(4, 6) > 0.4 if masked else None
    weight = torch.randn(4, 6, 5, dtype=torch.float64)
    results = []
    for y, last in (layer(x, state, mask), by_steps(layer, x, state, mask)):
        loss = (y * weight).sum() + sum(v.sin().sum() for v in last)
        results.append([y, *last, *torch.autograd.grad(loss, [x, *state, *layer.parameters()])])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-11)


def test_the_cell_is_the_equations_of_the_card():
    d, u, p, q = 3, 4, 3, 2
    cell = TKANCell(d, u, sub_layers=["tanh", "linear"], sub_inputs=p, sub_outputs=q, dtype=torch.float64)
    x, h, c = (torch.randn(2, n, dtype=torch.float64) for n in (d, u, u))
    m = torch.randn(2, 2, q, dtype=torch.float64)
    zi, zf, zg = (x @ cell.weight_x + h @ cell.weight_h + cell.bias).split(u, dim=1)
    new_c = zf.sigmoid() * c + zi.sigmoid() * zg.sigmoid()
    r, new_m = [], []
    for number in range(2):
        s = x @ cell.sub_weight_x[number] + m[:, number] @ cell.sub_weight_m[number]
        linear = cell.sub_layers[number][0]
        o = s @ linear.weight.T + linear.bias
        r.append(o.tanh() if number == 0 else o)
        new_m.append(cell.sub_mix[number, :q] * r[-1] + cell.sub_mix[number, q:] * m[:, number])
    new_h = (torch.cat(r, 1) @ cell.weight_o + cell.bias_o).sigmoid() * new_c.tanh()
    _, found = cell(x, TKANState(h, c, m))
    for value, expected in zip(found, (new_h, new_c, torch.stack(new_m, 1)), strict=True):
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("candidate", CANDIDATES)
def test_gradients_of_the_gates_by_differences(candidate):
    def make(*shape):
        return torch.randn(shape, dtype=torch.float64, requires_grad=True)

    mask, keep = torch.rand(3, 2, 1) > 0.3, torch.tensor([[0.0, 1.5], [1.5, 1.5]], dtype=torch.float64)
    for extra in ((None, None), (mask, None), (mask, keep)):
        inputs = (make(3, 2, 6), make(3, 2, 2), make(2, 6), make(2, 2), make(2, 2))
        assert torch.autograd.gradcheck(
            lambda *a, extra=extra: GateScan.apply(*a, *extra, candidate), inputs, fast_mode=True
        )


@pytest.mark.parametrize("orders", [(3,), (0, 1, 4), (2, 3)])
def test_gradients_of_the_memories_by_differences(orders):
    count = len(orders)

    def make(*shape):
        return torch.randn(shape, dtype=torch.float64, requires_grad=True)

    bank = spline_bank([SplineSubLayer(3, 2, order=k, dtype=torch.float64) for k in orders])
    inputs = (make(3, count, 2, 3), make(count, 2, 2), make(count, 2, 3), make(1, count, 1, 2), make(3, count, 2, 2))
    learned = [v.detach().requires_grad_() for v in bank[:4]]
    assert torch.autograd.gradcheck(lambda *a: MemoryScan.apply(*a, *bank[4:]), (*inputs, *learned), fast_mode=True)


def test_recurrent_dropout_is_that_of_the_cell():
    layer = double(3, 4, recurrent_dropout=0.5)
    (cell,) = layer.cells
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    keep = torch.tensor([[0.0, 2, 2, 0], [2, 0, 2, 2]], dtype=torch.float64)
    state = random_state(layer, 2)
    for found, expected in zip(cell.scan(x, state, None, keep), cell.unroll(x, state, None, keep), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)


# Invariants of section 9 -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("candidate", CANDIDATES)
def test_bounds_of_states(candidate):
    layer = double(3, 8, candidate=candidate)
    h, last = layer(20 * torch.randn(6, 12, 3, dtype=torch.float64))
    assert h.abs().max() < 1
    if candidate != "tanh":
        assert h.min() >= 0
        assert last.c.min() >= 0


def test_the_candidate_of_tanh_sigmoid_is_at_most_tanh_of_one():
    layer = double(3, 8, candidate="tanh_sigmoid")
    (cell,) = layer.cells
    with torch.no_grad():
        cell.bias[:8], cell.bias[8:16], cell.bias[16:] = 50, -50, 50  # i = 1, f = 0, σ(z_g) = 1
    _, last = layer(torch.randn(2, 1, 3, dtype=torch.float64))
    torch.testing.assert_close(last.c, torch.full_like(last.c, math.tanh(1)))


def test_without_alpha_and_beta_the_output_gate_has_no_memory():
    layer = double(3, 4)
    (cell,) = layer.cells
    with torch.no_grad():
        cell.sub_mix.zero_()
        cell.bias[:4], cell.bias[4:8], cell.weight_h[:] = -1e9, 1e9, 0  # c stays what it is, so that h shows o alone
    x, state = (
        torch.randn(2, 5, 3, dtype=torch.float64),
        random_state(layer, 2)._replace(m=torch.zeros(2, 1, 3).double()),
    )
    y, last = layer(x, state)
    shuffled, _ = layer(x[:, [2, 0, 3, 1, 4]], state)
    assert not last.m.any()
    assert torch.equal(last.c, state.c)
    assert torch.equal(y[:, 4], shuffled[:, 4])
    assert not torch.equal(y[:, 3], y[:, 4])


def test_beta_one_and_alpha_zero_keep_the_memory():
    layer = double(3, 4, sub_layers=[None, 0])
    with torch.no_grad():
        layer.cells[0].sub_mix[:, :3], layer.cells[0].sub_mix[:, 3:] = 0, 1
    state = random_state(layer, 2)
    _, last = layer(torch.randn(2, 7, 3, dtype=torch.float64), state)
    assert torch.equal(last.m, state.m)


def test_without_w_o_the_output_gate_is_constant():
    layer = double(3, 4)
    (cell,) = layer.cells
    with torch.no_grad():
        cell.weight_o.zero_()
        cell.bias_o.fill_(0.7)
    y, last = layer(torch.randn(2, 5, 3, dtype=torch.float64))
    torch.testing.assert_close(y[:, -1], torch.tensor(0.7).double().sigmoid() * last.c.tanh())


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_two_halves_with_the_carried_state_are_the_whole(dtype, atol):
    layer = TKAN(3, 8, sub_layers=[None, 1, "relu"], return_state=True, dtype=dtype)
    x = torch.randn(4, 11, 3, dtype=dtype)
    whole, last = layer(x)
    first, state = layer(x[:, :5])
    second, end = layer(x[:, 5:], state)
    torch.testing.assert_close(torch.cat([first, second], 1), whole, rtol=0, atol=atol)
    for found, expected in zip(end, last, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=atol)


def test_a_masked_step_copies_every_state_bit_for_bit():
    layer = double(3, 4, sub_layers=[None, "tanh"])
    x, state = torch.randn(2, 3, 3, dtype=torch.float64), random_state(layer, 2)
    y, last = layer(x, state, torch.zeros(2, 3, dtype=torch.bool))
    for found, expected in zip(last, state, strict=True):
        assert torch.equal(found, expected)
    assert torch.equal(y, state.h.unsqueeze(1).expand_as(y))


def test_padding_on_the_left_with_a_mask_is_the_unpadded_run():
    layer = double(3, 4, sub_layers=[None, 2])
    x = torch.randn(2, 6, 3, dtype=torch.float64, requires_grad=True)
    pad = torch.full((2, 4, 3), torch.nan, dtype=torch.float64)
    mask = torch.arange(10).expand(2, -1) >= 4
    padded, last = layer(torch.cat([pad, x], 1), mask=mask)
    plain, end = layer(x)
    torch.testing.assert_close(padded[:, 4:], plain, rtol=0, atol=1e-14)
    for found, expected in zip(last, end, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)
    gradients = [torch.autograd.grad(y[:, -1].sum(), [x, *layer.parameters()]) for y in (padded, plain)]
    for found, expected in zip(*gradients, strict=True):  # no NaN of the padding reaches a gradient
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_a_string_sub_layer_is_a_dense_layer_bit_for_bit():
    sub = TKANCell(3, 4, sub_layers=["relu"], sub_outputs=2).sub_layers[0]
    s = torch.randn(5, 3)
    assert torch.equal(sub(s), torch.relu(nn.functional.linear(s, sub[0].weight, sub[0].bias)))


@pytest.mark.parametrize("order", range(5))
def test_splines_are_the_basis_of_kan_core_and_sum_to_one(order):
    n = torch.arange(-64, 65, dtype=torch.float64).div(16).view(1, -1, 1)
    bank = spline_bank([SplineSubLayer(2, 2, order=order, dtype=torch.float64)])
    features = bank.empty_features(n.expand(-1, -1, 2))
    bank.fill(features, n.expand(-1, -1, 2))
    planes = features[0, :, 1:-2, 0]
    expected = BSpline(3, order).bind(1, dtype=torch.float64).planes(n[0])[..., 0]
    torch.testing.assert_close(planes, expected, rtol=0, atol=1e-12)
    n, h = n.flatten(), 2 / 3
    torch.testing.assert_close(planes[(n >= -1) & (n <= 1)].sum(1), torch.ones(33).double(), rtol=0, atol=1e-12)
    outside = (n < -1 - order * h) | (n >= 1 + order * h + 1e-9)
    assert planes[outside].abs().max() < 1e-12


def test_beyond_the_splines_only_the_base_branch_is_left():
    sub = SplineSubLayer(2, 3)
    with torch.no_grad():
        sub.norm.weight.fill_(10.0)  # n = ±10, the splines end at ±3
    s = torch.tensor([[1.0, -1.0]])
    base = torch.relu(sub.norm(s)) @ sub.kan.weight[-1]
    torch.testing.assert_close(sub(s), base + sub.kan.bias, rtol=0, atol=1e-6)


def test_a_sub_layer_does_not_see_shift_and_scale_of_its_input():
    sub = SplineSubLayer(6, 3, dtype=torch.float64)
    s = 100 * torch.randn(4, 6, dtype=torch.float64)
    torch.testing.assert_close(sub(3 * s + 7), sub(s), rtol=0, atol=1e-6)


def test_width_one_with_layer_norm_is_refused():
    with pytest.raises(KANError, match=r"width 1 with LayerNorm has a constant output.*sub_inputs"):
        TKAN(1, 4)
    with pytest.raises(KANError, match="width 1"):
        TKAN(5, 4, sub_layers=["relu", 2], sub_inputs=1)
    y = TKAN(1, 4, sub_layers=[{"norm": False}])(torch.randn(3, 4, 1))
    assert y.std(dim=0).min() > 0


# The layer -------------------------------------------------------------------------------------------------------


def test_shapes_of_outputs_and_states():
    x = torch.randn(2, 5, 3)
    assert TKAN(3, 4)(x).shape == (2, 5, 4)
    assert TKAN(3, 4, return_sequences=False)(x).shape == (2, 4)
    y, (h, c, m) = TKAN(3, 4, sub_layers=[None, 2], sub_inputs=2, sub_outputs=6, return_state=True)(x)
    assert torch.equal(y[:, -1], h)
    assert (c.shape, m.shape) == ((2, 4), (2, 2, 6))


def test_backwards_is_the_reversed_sequence():
    layer, other = double(3, 4), double(3, 4, go_backwards=True)
    other.load_state_dict(layer.state_dict())
    x, mask = torch.randn(2, 5, 3, dtype=torch.float64), torch.rand(2, 5) > 0.3
    y, last = layer(x.flip(1), mask=mask.flip(1))
    z, end = other(x, mask=mask)
    assert torch.equal(y.flip(1), z)
    assert torch.equal(last.m, end.m)


def test_bidirectional_is_two_cells_side_by_side():
    layer = double(3, 4, bidirectional=True)
    ways = double(3, 4), double(3, 4, go_backwards=True)
    for way, cell in zip(ways, layer.cells, strict=True):
        way.cells[0].load_state_dict(cell.state_dict())
    x = torch.randn(2, 5, 3, dtype=torch.float64)
    y, states = layer(x)
    assert y.shape == (2, 5, layer.output_size)
    assert torch.equal(y, torch.cat([way(x)[0] for way in ways], -1))
    again, _ = layer(x, states)
    assert torch.equal(again, torch.cat([way(x, s)[0] for way, s in zip(ways, states, strict=True)], -1))


def test_dropout_differs_in_training_only_and_is_one_mask_per_sequence():
    layer = TKAN(3, 4, dropout=0.5, recurrent_dropout=0.5)
    x = torch.randn(2, 6, 3)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))
    constant = TKAN(8, 4, dropout=0.5)  # no memory left: the output gate follows the masked input alone
    (cell,) = constant.cells
    with torch.no_grad():
        cell.sub_mix.zero_()
        cell.bias[:4], cell.bias[4:8] = -1e9, 1e9
    state = cell.zero_state(x)._replace(c=torch.ones(2, 4))
    y = constant(torch.randn(2, 1, 8).expand(-1, 6, -1), state)
    torch.testing.assert_close(y, y[:, :1].expand_as(y))


def test_a_state_dict_restores_the_layer_bit_for_bit():
    layer, other = (TKAN(3, 4, sub_layers=range(3), bidirectional=True) for _ in range(2))
    buffer = io.BytesIO()
    torch.save(layer.state_dict(), buffer)
    buffer.seek(0)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    x = torch.randn(2, 5, 3)
    assert torch.equal(layer(x), other(x))
    grids = [name for name in layer.state_dict() if name.endswith("knots")]
    assert len(grids) == 6
    assert not {*grids} & {name for name, _ in layer.named_parameters()}


def test_a_learned_grid_falls_back_to_the_definition():
    layer = double(3, 4)
    sub = layer.cells[0].sub_layers[0]
    sub.kan.update_grid(torch.rand(50, 3, dtype=torch.float64).square())
    assert not sub.batches
    x = torch.randn(2, 5, 3, dtype=torch.float64)
    torch.testing.assert_close(layer(x)[0], by_steps(layer, x)[0], rtol=0, atol=1e-12)


def test_an_exported_layer_gives_the_same():
    layer = TKAN(3, 4, return_sequences=False).eval()
    x = torch.randn(2, 2, 3)
    exported = torch.export.export(layer, (x,))
    torch.testing.assert_close(exported.module()(x), layer(x), rtol=1e-5, atol=1e-6)


def test_transforms_and_autocast_run_the_definition():
    layer = TKAN(3, 4, return_sequences=False)
    x = torch.randn(2, 4, 3)
    per_sample = torch.func.vmap(lambda row: layer(row[None])[0])(x)
    torch.testing.assert_close(per_sample, layer(x), rtol=1e-5, atol=1e-6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(layer(x).float(), layer(x.float()).float(), rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sub_layers": []}, "at least one"),
        ({"sub_layers": "relu"}, "must be a list"),
        ({"sub_layers": ["softmax"]}, "unknown sub-layer 'softmax'"),
        ({"sub_layers": [{"spline_order": 2}]}, "unknown option 'spline_order'.*order"),
        ({"sub_layers": [2.5]}, "got 2.5"),
        ({"sub_layers": [-1]}, "order must be a whole number of at least 0"),
        ({"candidate": "relu"}, "candidate must be one of sigmoid, tanh_sigmoid, tanh"),
        ({"sub_inputs": 0}, "sub_inputs must be a whole number"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\)"),
        ({"go_backwards": True, "bidirectional": True}, "exclude each other"),
    ],
    ids=lambda value: None if isinstance(value, str) else "-".join(value),
)
def test_bad_options_are_one_line(options, message, request):
    with pytest.raises(KANError, match=message) as caught:
        TKAN(3, 4, **options)
    assert "\n" not in str(caught.value)


def test_bad_inputs_are_one_line():
    layer, both = TKAN(3, 4), TKAN(3, 4, bidirectional=True)
    x = torch.randn(2, 5, 3)
    state = layer.cells[0].zero_state(x)
    for call, message in (
        (lambda: layer(x[..., :2]), r"\(B, T, 3\)"),
        (lambda: layer(x[:, :0]), "T >= 1"),
        (lambda: layer(x, mask=torch.ones(2, 5)), "bool mask"),
        (lambda: layer(x, mask=torch.ones(2, 4, dtype=torch.bool)), r"shape \(2, 5\)"),
        (lambda: both(x, state), "pair of TKANState"),
        (lambda: layer(x, (state, state)), "a TKANState"),
        (lambda: tkan_stack(3, []), "hidden sizes"),
        (lambda: tkan_stack(3, [4, 4], [3]), "sub width"),
    ):
        with pytest.raises(KANError, match=message):
            call()


# The forecaster --------------------------------------------------------------------------------------------------


def test_the_forecaster_has_the_stack_and_a_dense_head():
    with torch.device("meta"):
        net = TKANForecaster(45, 3, 19, num_outputs=2)
    assert count_parameters(net) == 109_145 - 101 + 101 * 3 * 19 * 2


@pytest.mark.parametrize("layer", ["bspline", "linear", "rbf"])
def test_a_forecast_uses_past_and_covariates(layer):
    net = TKANForecaster(6, 2, 1, num_outputs=3, layer=layer, hidden=(5, 4), num_known=2, num_observed=1)
    parts = [torch.randn(2, 6, 1), torch.randn(2, 8, 2), torch.randn(2, 6, 1)]
    y = net(*parts)
    assert y.shape == (2, 2, 1, 3)
    for number in range(3):
        changed = [part + (part_number == number) for part_number, part in enumerate(parts)]
        assert not torch.allclose(net(*changed), y)


def test_the_linear_twin_has_no_splines_and_width_scales_its_units():
    net = TKANForecaster(6, 2, layer="linear", width=0.5)
    assert not any(isinstance(module, SplineSubLayer) for module in net.modules())
    assert net.recurrent[1].output_size == 50


def test_missing_covariates_are_one_line():
    net = TKANForecaster(6, 2, hidden=(4,), num_known=1)
    with pytest.raises(KANError, match=r"needs known covariates of shape \(2, 8, 1\), got none"):
        net(torch.randn(2, 6, 1))
    with pytest.raises(KANError, match="must not be negative"):
        TKANForecaster(6, 2, num_known=-1)
