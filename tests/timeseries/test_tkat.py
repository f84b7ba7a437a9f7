"""TKAT: the counts of its card, what its parts see, and what it refuses."""

from __future__ import annotations

import pytest
import torch

from kan_core.compare import count_parameters
from kan_core.errors import KANError
from kan_timeseries.layers import SplineSubLayer
from kan_timeseries.models.tkat import SelfAttention, TKATForecaster, VariableSelection


@pytest.fixture(scope="module")
def notebook():
    """The authors' example: the first of 19 series is forecast, hour and weekday are known in advance."""
    with torch.device("meta"):
        return TKATForecaster(150, 30, num_observed=18, num_known=2)


def small(**options):
    return TKATForecaster(6, 3, 2, **{"units": 8, "heads": 2, "num_known": 2, "num_observed": 1, **options})


def windows():
    return torch.randn(4, 6, 2), torch.randn(4, 9, 2), torch.randn(4, 6, 1)


@pytest.mark.parametrize(("part", "expected"), [("select_past", 665_946), ("select_future", 72_614), ("head", 540_030)])
def test_parameters_of_the_parts_are_those_of_the_card(notebook, part, expected):
    assert count_parameters(getattr(notebook, part)) == expected


def test_parameters_of_the_rest_follow_the_equations(notebook):
    units, heads, grn, tkan = 100, 4, 50_700, 3 * 100 * 201 + 20 * 20 * 7 + 60 + 2 * 20 * 100 - 20 * 80 + 40 + 2_100
    parts = {"gate": 2 * (units**2 + units), "norm": 2 * units, "enrich": grn, "encoder": tkan, "decoder": tkan}
    parts["attention"] = 3 * (units * heads * units + heads * units) + heads * units * units + units
    assert {name: count_parameters(getattr(notebook, name)) for name in parts} == parts
    assert notebook.embed_weight.numel() + notebook.embed_bias.numel() == 2 * 21
    everything = sum(parts.values()) + 42 + 665_946 + 72_614 + 540_030
    assert count_parameters(notebook) == everything


def test_nothing_known_in_advance_is_refused():
    with pytest.raises(KANError, match=r"num_known >= 1.*forecaster 'tkan'") as caught:
        TKATForecaster(6, 3, num_observed=2)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("layer", ["bspline", "linear"])
def test_a_forecast_uses_past_and_covariates(layer):
    net = small(layer=layer, num_outputs=3).eval()
    parts = windows()
    y = net(*parts)
    assert y.shape == (4, 3, 2, 3)
    for number in range(3):
        changed = [part + (part_number == number) for part_number, part in enumerate(parts)]
        assert not torch.allclose(net(*changed), y)
    assert any(isinstance(module, SplineSubLayer) for module in net.modules()) == (layer == "bspline")


def test_the_future_selection_sees_the_known_columns_of_the_horizon_alone():
    net = small()
    past, known, observed = windows()
    seen = {}
    net.select_future.register_forward_hook(lambda module, inputs, output: seen.update(future=inputs[0]))
    net.select_past.register_forward_hook(lambda module, inputs, output: seen.update(past=inputs[0]))
    net(past, known, observed)
    expected = known[:, 6:, :, None] * net.embed_weight[-2:] + net.embed_bias[-2:]
    torch.testing.assert_close(seen["future"], expected)
    assert seen["past"].shape == (4, 6, 5, 1)


def test_the_decoder_starts_from_all_states_of_the_encoder():
    net, seen = small(), {}
    net.encoder.register_forward_hook(lambda module, inputs, output: seen.update(end=output[1]))
    net.decoder.register_forward_hook(lambda module, inputs, output: seen.update(start=inputs[1]))
    net(*windows())
    assert seen["start"] is seen["end"]


def test_selection_is_a_convex_sum_of_the_nets():
    selection = VariableSelection(3, 2, 5)
    x = torch.randn(4, 7, 3, 2)
    weights = selection.weights(x.flatten(-2)).softmax(-1)
    expected = sum(weights[..., v, None] * selection.each[v](x[..., v, :]) for v in range(3))
    torch.testing.assert_close(selection(x), expected)


def test_attention_is_without_a_mask_and_follows_its_equation():
    attention = SelfAttention(4, 2)
    x = torch.randn(2, 5, 4)
    q, k, v = attention.project(x).view(2, 5, 3, 2, 4).unbind(2)
    weights = torch.einsum("bthc,bshc->bhts", q, k).div(2).softmax(-1)
    expected = attention.out(torch.einsum("bhts,bshc->bthc", weights, v).flatten(2))
    torch.testing.assert_close(attention(x), expected)


def test_every_parameter_has_a_gradient():
    net = small()
    net(*windows()).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in net.parameters())


def test_bad_input_is_one_line():
    net = small()
    past, known, observed = windows()
    for call, message in (
        (lambda: net(past), "needs known covariates"),
        (lambda: net(past, known[:, :6], observed), r"shape \(4, 9, 2\), got shape \(4, 6, 2\)"),
        (lambda: net(past, known), "needs observed covariates"),
        (lambda: net(past[:, 1:], known, observed), "expected windows"),
        (lambda: small(heads=0), "heads"),
        (lambda: small(sub_width=1), "width 1 with LayerNorm"),
    ):
        with pytest.raises(KANError, match=message):
            call()
