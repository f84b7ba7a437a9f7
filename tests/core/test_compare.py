"""Counting and matching: published test vectors, closed forms, and searches that leave no trace."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kan_core import KAN, KANConv2d, KANLinear, bases
from kan_core.compare import (
    ACTIVATION_FLOPS,
    Cost,
    count_flops,
    count_parameters,
    match_kan,
    match_mlp,
    match_width,
    mlp,
    published_kan_cost,
    published_mlp_cost,
    published_spline_mlp_cost,
    shared_kan_cost,
)
from kan_core.errors import KANError


class TestPublishedFormulas:
    @pytest.mark.parametrize(
        ("grid_size", "shortcut", "parameters", "flops"),
        [(3, "silu", 12_716, 181_786), (3, "zero", 11_128, 174_680), (10, "identity", 23_832, 400_176)],
    )
    def test_kan_rows_of_the_paper(self, grid_size, shortcut, parameters, flops):
        assert published_kan_cost([784, 2, 10], grid_size, 2, shortcut) == Cost(parameters, flops)

    def test_efficient_kan_has_600_parameters(self):
        assert shared_kan_cost([2, 5, 5, 1], grid_size=10, order=3).parameters == 600

    def test_sharing_the_basis_saves_the_recursion_of_all_but_one_output(self):
        # G=5, K=3: an edge costs 260, of which 243 is the recursion and 17 the contraction
        edgewise, shared = (f([7, 11], 5, 3, "zero").flops for f in (published_kan_cost, shared_kan_cost))
        assert edgewise == 260 * 7 * 11
        assert shared == 243 * 7 + 17 * 7 * 11

    def test_mlp_layers(self):
        # one layer: d_o (d_i + 1) parameters, 2 d_i d_o + F d_o FLOPs; batch norm adds 2 d_o and 4 d_o
        assert published_mlp_cost([5, 3], act="gelu") == Cost(18, 30 + 14 * 3)
        assert published_mlp_cost([5, 3], act="gelu", batch_norm=True) == Cost(18 + 6, 30 + 14 * 3 + 12)
        # B-spline activations, G=5, K=3: 9K(G + 1.5K) + 2G - 2.5K - 1 = 258 per unit
        assert published_spline_mlp_cost([5, 3], 5, 3) == Cost(18 + 3 * 8, 30 + 258 * 3)

    def test_costs_add_up_over_layers(self):
        parts = [published_kan_cost(w, 4, 3) for w in ([6, 5], [5, 2])]
        assert published_kan_cost([6, 5, 2], 4, 3) == Cost(*(sum(p) for p in zip(*parts, strict=True)))

    def test_an_unknown_activation_is_named(self):
        with pytest.raises(KANError, match="'sine'"):
            published_mlp_cost([2, 2], act="sine")


class TestCountParameters:
    def test_frozen_shared_and_buffers(self):
        linear = nn.Linear(3, 4)
        model = nn.Sequential(linear, nn.BatchNorm1d(4), nn.Linear(4, 2), linear)
        assert count_parameters(model) == 16 + 8 + 10
        linear.requires_grad_(False)
        assert count_parameters(model) == 8 + 10
        assert count_parameters(model, trainable_only=False) == 16 + 8 + 10


class Functional(nn.Module):
    """Activations called as functions, in place, and inside attention."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, activation="gelu")

    def forward(self, x):
        return F.silu(F.relu_(self.attention(x) + 1))


class TestCountFlops:
    @pytest.mark.parametrize(
        ("model", "shape", "flops"),
        [
            (nn.Linear(5, 7), (3, 5), 2 * 5 * 7 * 3),
            (nn.Linear(5, 7, bias=False), (2, 4, 5), 2 * 5 * 7 * 8),
            (nn.Conv2d(3, 8, 5, stride=2, padding=2), (2, 3, 16, 12), 2 * 3 * 25 * 8 * (8 * 6) * 2),
            (nn.Conv2d(4, 8, 3, groups=4), (1, 4, 5, 5), 2 * 9 * 8 * 9),
            (nn.BatchNorm1d(6), (10, 6), 4 * 60),
            (nn.LayerNorm(6), (10, 6), 7 * 60),
        ],
        ids=["linear", "linear-3d", "conv", "grouped-conv", "batch-norm", "layer-norm"],
    )
    def test_torch_layers_match_their_closed_forms(self, model, shape, flops):
        assert count_flops(model, torch.randn(shape)) == flops

    @pytest.mark.parametrize(
        ("module", "name"),
        [(nn.ReLU(), "relu"), (nn.Sigmoid(), "sigmoid"), (nn.SiLU(inplace=True), "silu"), (nn.Tanh(), "tanh")]
        + [(nn.GELU(approximate=a), "gelu") for a in ("none", "tanh")]
        + [(nn.Identity(), "identity")],
    )
    def test_activations(self, module, name):
        assert count_flops(module, torch.randn(4, 9)) == ACTIVATION_FLOPS[name] * 36

    def test_functional_activations_and_attention_are_seen(self):
        tokens, dim, hidden = 10, 8, 16
        products = 2 * tokens * dim * (3 * dim + dim + 2 * hidden)
        attention = 2 * (2 * 5 * 5 * dim) * 2  # two samples of five tokens: scores, then the weighted sum
        elementwise = 14 * tokens * hidden + 2 * 7 * tokens * dim + (1 + 5) * tokens * dim
        assert count_flops(Functional(), torch.randn(2, 5, dim)) == products + attention + elementwise

    @pytest.mark.parametrize("base", ["silu", None])
    @pytest.mark.parametrize("basis", bases.names())
    def test_kan_linear_matches_its_closed_form(self, basis, base):
        layer = KANLinear(6, 5, basis=basis, base=base)
        planes = layer.basis.num_functions + (base is not None)
        elementwise = layer.basis.flops_per_input + (5 if base else 0)
        for shape in [(3, 6), (2, 4, 6)]:
            rows = math.prod(shape[:-1])
            assert count_flops(layer, torch.randn(shape)) == rows * (2 * 6 * 5 * planes + 6 * elementwise)

    @pytest.mark.parametrize("basis", bases.names())
    def test_kan_conv_matches_its_closed_form(self, basis):
        conv = KANConv2d(3, 4, 3, padding=1, basis=basis)
        planes = conv.basis.num_functions + 1
        pixels = 2 * 6 * 5
        flops = 2 * 3 * 9 * 4 * planes * pixels + 3 * pixels * (conv.basis.flops_per_input + 5)
        assert count_flops(conv, torch.randn(2, 3, 6, 5)) == flops

    def test_a_stack_is_the_sum_of_its_layers(self):
        stack = nn.Sequential(KANLinear(6, 5), nn.SiLU(), nn.Linear(5, 2))
        x = torch.randn(4, 6)
        layer = count_flops(stack[0], x)
        assert count_flops(stack, x) == layer + 4 * (5 * 5 + 2 * 5 * 2)

    @pytest.mark.parametrize("model", [KAN([6, 5, 2]), mlp([6, 5, 2])], ids=["kan", "mlp"])
    def test_doubling_the_batch_doubles_the_count(self, model):
        assert count_flops(model, torch.randn(14, 6)) == 2 * count_flops(model, torch.randn(7, 6)) > 0

    def test_nothing_changes_but_the_count(self):
        model = nn.Sequential(KANLinear(6, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 2).eval())
        before = {name: value.clone() for name, value in model.state_dict().items()}
        modes = [m.training for m in model.modules()]
        state = torch.get_rng_state()
        in_training = count_flops(model, torch.zeros(4, 6))
        assert [m.training for m in model.modules()] == modes
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert torch.equal(torch.get_rng_state(), state)
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
        assert count_flops(model.eval(), torch.zeros(4, 6)) == in_training

    def test_a_failing_forward_leaves_no_hook_and_no_mode(self):
        model = nn.Sequential(KANLinear(6, 5), nn.Linear(4, 2))
        with pytest.raises(RuntimeError, match="shapes"):
            count_flops(model, torch.zeros(4, 6))
        assert model.training
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


class TestMatchWidth:
    def test_the_nearest_integer_width_wins(self):
        # h -> 11h + 8h + 8 parameters: 19h + 8; 200 lies between h = 10 (198) and h = 11 (217)
        found = match_width(lambda h: mlp([10, h, 8]), 200, integer=True)
        assert (found.width, found.count, found.target) == (10, 198, 200)
        assert isinstance(found.width, int)
        assert found.count == sum(p.numel() for p in found.model.parameters())
        assert found.residual == pytest.approx(-0.01)

    def test_a_multiplier_with_rounding(self):
        def build(width):
            channels = max(8, 8 * round(32 * width / 8))
            return nn.Sequential(nn.Conv2d(3, channels, 3), nn.ReLU(), nn.Conv2d(channels, channels, 3))

        target = count_parameters(build(1.7))
        assert match_width(build, target).residual == 0
        sample = torch.zeros(2, 3, 12, 12)
        flops = count_flops(build(2.3), sample) // 2
        assert match_width(build, flops, by="flops", sample=sample).count == flops

    def test_the_search_leaves_the_random_numbers_alone(self):
        torch.manual_seed(3)
        found = match_width(lambda h: mlp([10, h, 8]), 5000, integer=True)
        after = torch.rand(3)
        torch.manual_seed(3)
        direct = mlp([10, int(found.width), 8])
        assert torch.equal(found.model[0].weight, direct[0].weight)
        assert torch.equal(torch.rand(3), after)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"target": 3}, "nearest is 27 at width 1"),
            ({"target": 10_000, "high": 8}, "from 1 to 8 costs 10000 params within 5%: the nearest is 160 at width 8"),
            ({"target": 207, "tolerance": 0.01}, "within 1%"),
            ({"target": 0}, "positive"),
            ({"target": 100, "by": "time"}, "params, flops, got 'time'"),
            ({"target": 100, "by": "flops"}, "sample"),
            ({"target": 100, "low": 9, "high": 3}, "low=9, high=3"),
        ],
    )
    def test_what_cannot_be_matched_is_said_in_one_line(self, options, message):
        with pytest.raises(KANError, match=message) as error:
            match_width(lambda h: mlp([10, h, 8]), **{"integer": True, **options})
        assert "\n" not in str(error.value)


class TestTwins:
    @pytest.mark.parametrize("act", ["relu", "silu", "gelu"])
    def test_mlp_of_the_cards_kan(self, act):
        kan = KAN([10, 16, 2], basis=bases.BSpline(grid_size=5, order=3))
        found = match_mlp(kan, act=act)
        assert found.target == sum(p.numel() for p in kan.parameters())
        assert found.count == sum(p.numel() for p in found.model.parameters())
        assert abs(found.residual) <= 0.05
        assert found.model(torch.randn(3, 10)).shape == (3, 2)

    @pytest.mark.parametrize("hidden", [1, 2, 4])
    def test_the_width_is_the_root_of_the_quadratic(self, hidden):
        kan = KAN([12, *[24] * hidden, 3])
        # (hidden - 1) h^2 + (12 + 3 + hidden) h + 3 = target
        a, b, c = hidden - 1, 15 + hidden, 3 - count_parameters(kan)
        root = -c / b if a == 0 else (-b + math.sqrt(b * b - 4 * a * c)) / (2 * a)
        assert abs(match_mlp(kan).width - root) <= 0.5 + 1e-9

    def test_by_flops(self):
        kan = KAN([10, 16, 2])
        found = match_mlp(kan, by="flops", act="relu")
        assert found.target == count_flops(kan, torch.zeros(1, 10))
        assert found.count == (2 * 10 + 1 + 2 * 2) * found.width
        assert abs(found.residual) <= 0.10

    @pytest.mark.parametrize("by", ["params", "flops"])
    def test_there_and_back(self, by):
        kan = KAN([10, 16, 2], basis="rbf")
        back = match_kan(match_mlp(kan, by=by).model, [10, 1, 2], by=by, basis="rbf")
        assert back.width == 16
        assert count_parameters(back.model) == count_parameters(kan)

    def test_no_hidden_layer(self):
        with pytest.raises(KANError, match="hidden layer"):
            match_mlp(KAN([10, 2]))
        with pytest.raises(KANError, match="hidden layer"):
            match_kan(nn.Linear(10, 2), [10, 2])

    def test_an_unknown_activation(self):
        with pytest.raises(KANError, match="'sine'"):
            mlp([2, 3, 1], act="sine")
