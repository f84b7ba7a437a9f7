"""Scores of columns: the definitions on hand-made networks, and the card's facts that need no training."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from kan_core import KAN
from kan_core.errors import KANError
from kan_core.interpret import attribute
from kan_tabular import models
from kan_tabular.models.column_layer import FIRST, ColumnLayer
from kan_tabular.models.kan import SPLINE, SmoothClip, TabularKAN
from kan_tabular.scores import PAPER_NAMES, SCORES, column_scores, normalised

FUNCTIONAL = ("act_l1", "act_l2", "sensitivity", "knockout", "attribution")


def make(cardinalities, outputs=1, seed=0, spread=0.3, **options):
    """A network with random parameters everywhere, tables of unknown and missing codes included."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = TabularKAN(cardinalities, outputs, **options).double()
        for parameter in net.parameters():
            parameter.data = torch.randn_like(parameter) * spread
    return net


def table(rows, cardinalities, seed=0):
    random = np.random.default_rng(seed)
    columns = [random.integers(0, c, rows) if c else random.uniform(-2.5, 2.5, rows) for c in cardinalities]
    return np.column_stack(columns).astype(np.float64)


def score_all(net, x):
    """All scores; for knockout the network is right about every row."""
    y = net(torch.tensor(x)).detach().numpy()
    return {score: column_scores(net, x, score=score, y=y) for score in SCORES}


def block(net, j):
    """The coefficients of numeric column j in every first layer: views."""
    return [layer.numeric.weight[:, layer.numeric_columns.index(j)] for layer in net.column_layers()]


# The facts of spline-feature-selection.md, section 8 (5 to 10; 1 to 4 are in test_selection.py) -----------------------


def test_a_constant_column_scores_exactly_0():
    cardinalities = [0, 0, 4, 0, 5]
    x = table(60, cardinalities)
    x[:, 1], x[:, 2], x[:, 3] = 0.7, 3, math.nan  # a constant number, one category, all missing
    for name, scores in score_all(make(cardinalities), x).items():
        assert (scores[1:4] == 0).all(), name
        assert (scores[[0, 4]] != 0).all(), name


@pytest.mark.parametrize("hidden", [(), (5,), (5, 4)])
def test_column_permutation_permutes_scores_when_the_initialisation_is_per_column(hidden):
    net = make([0, 0, 0, 0], 2, hidden=hidden)
    order = [2, 0, 3, 1]
    permuted = copy.deepcopy(net)
    for layer in permuted.column_layers():
        layer.numeric.weight.data = layer.numeric.weight.data[:, order]
        layer.missing.data = layer.missing.data[order]
    x = table(50, [0, 0, 0, 0])
    straight, other = score_all(net, x), score_all(permuted, x[:, order])
    for name in SCORES:
        np.testing.assert_allclose(other[name], straight[name][order], rtol=1e-9, err_msg=name)


def test_equal_spline_coefficients_count_for_coefficient_scores_but_not_for_activity():
    net = make([0, 0], hidden=(6,))
    before = score_all(net, x := table(200, [0, 0]))
    with torch.no_grad():
        for planes in block(net, 0):
            planes.fill_(1.0)  # partition of unity: the spline part is 1 everywhere on the grid
            planes[-1] = 0.0  # and no base branch
    after = score_all(net, x)
    functions = net.additive.numeric.basis.num_functions
    assert after["coef_l1"][0] == pytest.approx(functions * (1 + 6))  # an edge to the output, and to 6 hidden units
    assert after["coef_l2"][0] == pytest.approx(math.sqrt(functions * 7))
    for name in FUNCTIONAL:
        assert after[name][0] == pytest.approx(0, abs=1e-12), name
        assert before[name][0] != pytest.approx(0, abs=1e-3), name


def test_knockout_of_a_column_that_is_its_mean_is_0():
    net = make([0, 0, 0], hidden=(4,))
    for planes in block(net, 1):
        planes.data.zero_()
    x = table(80, [0, 0, 0])
    scores = column_scores(net, x, score="knockout", y=np.ones(80))
    assert scores[1] == 0
    assert abs(scores[[0, 2]]).min() > 1e-4


def test_sensitivities_of_a_linear_function_are_its_weights():
    weights = torch.tensor([[2.0, -0.5, 0.0, 1.5]], dtype=torch.float64)
    net = make([0] * 4, hidden=(), layer="linear")
    net.additive.numeric.weight.data = weights
    x = np.random.default_rng(0).normal(size=(400, 4)) * [1, 10, 3, 0.1] + 5
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    scores = column_scores(net, x, score="sensitivity")
    np.testing.assert_allclose(scores, weights.abs()[0], rtol=1e-9)
    assert scores.sum() == pytest.approx(4.0)
    np.testing.assert_allclose(normalised(scores), weights.abs()[0] / 4, rtol=1e-9)


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("hidden", [(), (4,), (4, 3)])
def test_scores_are_finite_of_one_number_per_column_and_leave_the_network_as_it_was(outputs, hidden):
    cardinalities = [0, 5, 0, 20, 0]
    net = make(cardinalities, outputs, hidden=hidden).train()
    x = table(40, cardinalities)
    x[::7, 0] = math.nan
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    state = torch.random.get_rng_state()
    for name, scores in score_all(net, x).items():
        share = normalised(scores)
        assert scores.shape == (5,), name
        assert np.isfinite(scores).all(), name
        assert (share >= 0).all(), name
        assert share.sum() == pytest.approx(1), name
        assert name == "knockout" or (scores > 0).all(), name
    assert net.training
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())
    assert not any(layer._forward_hooks for layer in net.column_layers())


# The definitions ------------------------------------------------------------------------------------------------------


def test_activity_is_the_deviation_of_edge_values_from_their_mean():
    net, x = make([0, 4, 0], 2, hidden=(3,)), table(30, [0, 4, 0])
    edges = torch.cat([layer.contributions(torch.tensor(x)) for layer in net.column_layers()], dim=2).detach().numpy()
    weight = np.random.default_rng(1).integers(0, 4, 30)
    mean = np.average(edges, axis=0, weights=weight)
    absolute = np.average(abs(edges - mean), axis=0, weights=weight).mean(axis=1)
    square = np.sqrt(np.average((edges - mean) ** 2, axis=0, weights=weight).mean(axis=1))
    np.testing.assert_allclose(column_scores(net, x, score="act_l1", weight=weight), absolute)
    np.testing.assert_allclose(column_scores(net, x, score="act_l2", weight=weight), square)


def test_a_weight_of_2_is_a_row_twice_and_a_weight_of_0_no_row():
    net, x = make([0, 4, 0], 2, hidden=(3,)), table(30, [0, 4, 0])
    x[::5, 0] = math.nan
    y = np.random.default_rng(2).normal(size=(30, 2))
    weight = np.random.default_rng(1).integers(0, 3, 30)
    rows = np.repeat(np.arange(30), weight)
    for name in SCORES:
        weighted = column_scores(net, x, score=name, y=y, weight=weight)
        np.testing.assert_allclose(weighted, column_scores(net, x[rows], score=name, y=y[rows]), rtol=1e-8)


def test_pieces_of_rows_do_not_change_scores(monkeypatch):
    net, x = make([0, 4, 0], 2, hidden=(3,)), table(50, [0, 4, 0])
    whole = score_all(net, x)
    monkeypatch.setattr("kan_tabular.scores._EDGE_VALUES", 70)
    for name, scores in score_all(net, x).items():
        np.testing.assert_allclose(scores, whole[name], rtol=1e-9, err_msg=name)


@pytest.mark.parametrize(("name", "norm"), [("coef_l1", 1), ("coef_l2", 2)])
def test_coefficients_of_the_constant_chebyshev_polynomial_do_not_count(name, norm):
    options = {"layer": "chebyshev(degree=3)", "layer_kwargs": {"base": "silu"}}
    net = make([0, 0], hidden=(), **options)
    weight = net.additive.numeric.weight.detach()[:, :, 0].numpy()  # (4 polynomials and the base, in)
    x = table(20, [0, 0])
    expected = (abs(weight[1:4]) ** norm).sum(axis=0) ** (1 / norm)
    np.testing.assert_allclose(column_scores(net, x, score=name), expected)
    with_base = (abs(weight[1:]) ** norm).sum(axis=0) ** (1 / norm)
    np.testing.assert_allclose(column_scores(net, x, score=name, include_base=True), with_base)


def test_coefficients_of_a_category_are_its_values_without_their_mean():
    net = make([4, 20], 2, hidden=())
    x = table(20, [4, 20])
    values = net.additive.table.detach().numpy()[FIRST:]
    score = column_scores(net, x, score="coef_l1")
    assert score[0] == pytest.approx(abs(values - values.mean(axis=0)).sum())
    net.additive.table.data[FIRST:] += 7.0
    assert column_scores(net, x, score="coef_l1") == pytest.approx(score)


def test_coefficients_know_nothing_of_the_data():
    net = make([0, 4, 0], hidden=(3,))
    for name in ("coef_l1", "coef_l2"):
        first, second = (column_scores(net, table(30, [0, 4, 0], seed), score=name) for seed in (0, 1))
        assert (first == second).all()


def test_sensitivity_of_a_classifier_does_not_cancel_logits_of_opposite_sign():
    net = make([0, 0], 2, hidden=(), layer="linear")
    net.additive.numeric.weight.data = torch.tensor([[1.0, 0.2], [-1.0, 0.2]], dtype=torch.float64)
    x = table(300, [0, 0])
    np.testing.assert_allclose(column_scores(net, x, score="sensitivity"), np.std(x, axis=0) * [2.0, 0.4])


def test_sensitivity_of_two_categories_is_that_of_a_0_1_column():
    zero_one = np.random.default_rng(0).integers(0, 2, 100)
    linear = make([0], hidden=(), layer="linear")
    linear.additive.numeric.weight.data = torch.tensor([[1.7]], dtype=torch.float64)
    tabled = make([FIRST + 2], hidden=())
    tabled.additive.table.data = torch.tensor([[0.0], [0.0], [-1.0], [0.7]], dtype=torch.float64)
    x = zero_one[:, None].astype(float)
    expected = column_scores(linear, x, score="sensitivity")
    np.testing.assert_allclose(column_scores(tabled, x + FIRST, score="sensitivity"), expected)


def test_knockout_is_the_loss_with_the_mean_in_place_of_the_column():
    net = make([0, 0], hidden=())
    x, y = table(40, [0, 0]), np.random.default_rng(0).normal(size=40)
    edges = net.additive.contributions(torch.tensor(x)).detach().numpy()[:, :, 0]
    out = net(torch.tensor(x)).detach().numpy()[:, 0]
    ablated = out[:, None] - edges + edges.mean(axis=0)
    expected = ((ablated - y[:, None]) ** 2).mean(axis=0) - ((out - y) ** 2).mean()
    np.testing.assert_allclose(column_scores(net, x, score="knockout", y=y), expected)


def test_knockout_takes_the_loss_of_the_task():
    x = table(40, [0, 0])
    binary = column_scores(make([0, 0]), x, score="knockout", y=np.arange(40) % 2, task="binary")
    classes = column_scores(make([0, 0], 3), x, score="knockout", y=np.arange(40) % 3, task="multiclass")
    assert (binary != 0).all()
    assert (classes != 0).all()
    assert not np.allclose(binary, column_scores(make([0, 0]), x, score="knockout", y=np.arange(40) % 2))


def test_knockout_of_what_harms_is_negative():
    net = make([0, 0], hidden=(), layer="linear")
    net.additive.numeric.weight.data = torch.tensor([[1.0, 1.0]], dtype=torch.float64)
    x = table(200, [0, 0])
    scores = column_scores(net, x, score="knockout", y=x[:, 0])
    assert scores[0] > 0 > scores[1]
    assert normalised(scores).tolist() == [1.0, 0.0]


def test_attribution_is_that_of_kan_core_on_an_additive_network():
    kan = KAN([3, 2], basis=SPLINE).double()
    net = make([0, 0, 0], 2, hidden=())
    net.additive.numeric.weight.data = kan.layers[0].weight.data.clone()
    x = table(500, [0, 0, 0])
    expected = attribute(kan, torch.tensor(x)).features.numpy()
    np.testing.assert_allclose(column_scores(net, x, score="attribution"), expected, rtol=1e-4)


def test_attribution_goes_backward_through_hidden_layers():
    net, x = make([0, 0], 2, hidden=(4, 3)), torch.tensor(table(60, [0, 0]))

    def spread(values):
        return values.detach().std(dim=0, unbiased=False)

    def edges(layer, z):
        zero = torch.zeros_like(z)
        alone = [torch.where(torch.arange(z.shape[1]) == i, z, zero) for i in range(z.shape[1])]
        return torch.stack([layer(a) for a in alone], dim=1)

    h1 = net.first(x)
    h2 = net.rest[0](net.between(h1))
    out = spread(net(x)) + 1e-4
    top = torch.eye(2, dtype=torch.float64)
    second = (top / out) @ spread(edges(net.rest[1], net.between(h2))).T
    first = (second / (spread(h2) + 1e-4)) @ spread(edges(net.rest[0], net.between(h1))).T
    columns = (first / (spread(h1) + 1e-4)) @ spread(net.first.contributions(x)).T
    columns += (top / out) @ spread(net.additive.contributions(x)).T
    np.testing.assert_allclose(column_scores(net, x, score="attribution"), columns.mean(dim=0))


def test_attribution_ignores_a_hidden_unit_that_nothing_reads():
    net, x = make([0, 0], hidden=(2,)), table(60, [0, 0])
    net.rest[0].weight.data[:, 1] = 0
    before = score_all(net, x)
    net.first.numeric.weight.data[:, :, 1] *= 100
    after = score_all(net, x)
    for name in ("attribution", "knockout", "sensitivity"):
        np.testing.assert_allclose(after[name], before[name], rtol=1e-9)
    assert (after["act_l2"] > 10 * before["act_l2"]).all()  # the first layer alone cannot know


@pytest.mark.parametrize("layer", ["linear", "chebyshev", "fourier", "rbf", "skan"])
def test_every_layer_has_every_score_or_says_why_not(layer):
    net, x = make([0, 0, 4], hidden=(3,), layer=layer), table(30, [0, 0, 4])
    for name in SCORES:
        if layer == "skan" and name.startswith("coef"):
            with pytest.raises(KANError, match=r"coefficient scores are not defined for SKANLinear.*act_l1"):
                column_scores(net, x, score=name)
        else:
            assert (column_scores(net, x, score=name, y=np.ones(30)) != 0).all(), name


@pytest.mark.parametrize("model", models.names())
def test_every_model_has_every_score_or_says_why_not(model):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = models.create(model, cardinalities=[0, 5, 0], num_outputs=2).double()
    x = table(20, [0, 5, 0])
    for name in SCORES:
        if (name == "attribution" and model != "kan") or (name == "knockout" and model == "kan-mixer"):
            with pytest.raises(KANError, match=f"{name} is .*defined for .*{type(net).__name__}"):
                column_scores(net, x, score=name, y=np.ones((20, 2)))
        else:
            scores = column_scores(net, x, score=name, y=np.ones((20, 2)))
            assert np.isfinite(scores).all(), name
            assert (scores != 0).all(), name


def test_base_weights_of_monotone_columns_are_those_that_act():
    net = make([0, 0], hidden=(), monotone=[1, 0])
    layer = net.additive.numeric
    expected = layer.effective_weight().detach().abs().sum(dim=(0, 2))
    scores = column_scores(net, table(20, [0, 0]), score="coef_l1", include_base=True)
    np.testing.assert_allclose(scores, expected)
    assert not np.allclose(expected, layer.weight.detach().abs().sum(dim=(0, 2)))


def test_normalised_scores_of_nothing_are_0():
    assert normalised([0.0, 0.0]).tolist() == [0.0, 0.0]
    assert normalised([-1.0, -2.0]).tolist() == [0.0, 0.0]
    assert normalised([1.0, -2.0, 3.0]).tolist() == [0.25, 0.0, 0.75]


def test_the_papers_names_are_scores():
    assert set(PAPER_NAMES.values()) < set(SCORES)


# Bad input ------------------------------------------------------------------------------------------------------------


class OneFirstLayer(nn.Module):
    """Reads its columns' edges one by one, and hidden values nobody knows."""

    def __init__(self):
        super().__init__()
        self.edges = ColumnLayer([0, 0], 3).double()

    def column_layers(self):
        return [self.edges]

    def forward(self, x):
        return self.edges.contributions(x).prod(dim=1)[:, :1]


class NoColumns(nn.Linear):
    def column_layers(self):
        return []


@pytest.mark.parametrize(
    ("net", "options", "message"),
    [
        (make([0, 0]), {"score": "kan-l1"}, "score must be one of coef_l1, .*got 'kan-l1'"),
        (make([0, 0]), {"score": "knockout"}, "knockout measures a loss: pass y"),
        (make([0, 0]), {"score": "knockout", "y": [1, 2]}, "y has 2 rows, but x has 9"),
        (make([0, 0], 2), {"score": "knockout", "y": np.ones(9)}, "y has 1 columns, but the network 2 outputs"),
        (make([0, 0]), {"score": "knockout", "y": np.ones(9), "task": "sort"}, "task must be one of binary"),
        (make([0, 0, 0]), {}, r"x must have shape \(rows, 3\).*got \(9, 2\)"),
        (make([0, 0]), {"weight": -np.ones(9)}, "weight must be 9 non-negative numbers"),
        (make([0, 0]), {"weight": np.zeros(9)}, "weight must be 9 non-negative numbers"),
        (OneFirstLayer(), {"score": "attribution"}, "attribution is defined for the model 'kan' only"),
        (OneFirstLayer(), {"score": "knockout", "y": np.ones(9)}, "knockout is not defined for OneFirstLayer"),
        (NoColumns(2, 1), {}, "NoColumns has no layer with an edge per column"),
        (nn.Linear(2, 1), {}, "Linear has no layer with an edge per column"),
    ],
)
def test_what_cannot_be_scored_is_refused(net, options, message):
    with pytest.raises(KANError, match=message):
        column_scores(net, table(9, [0, 0]), **options)


def test_infinite_weights_are_refused():
    net = make([0, 0], hidden=())
    net.additive.numeric.weight.data[0, 0, 0] = math.inf
    with pytest.raises(KANError, match="coef_l1 is not finite"):
        column_scores(net, table(9, [0, 0]), score="coef_l1")


def test_the_smooth_clip_is_what_attribution_sees_between_layers():
    assert isinstance(TabularKAN([0], 1).between[0], SmoothClip)
