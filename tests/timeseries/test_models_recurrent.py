"""Recurrent forecasters and classifiers, KAMoE: counts of specs/timeseries/kamoe-grkan.md, section 6; contracts."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import nn

from kan_core import KANError
from kan_timeseries.models import kamoe, recurrent, recurrent_classifier  # noqa: F401  registers
from kan_timeseries.models._registry import CLASSIFIERS, FORECASTERS

NAMES = ["lstm", "gru", "kan_lstm", "kan_gru", "qkan_lstm", "hqkan_lstm", "kamoe"]
SMALL = {"input_length": 6, "horizon": 4, "channels": 2, "hidden": 5}
every_model = pytest.mark.parametrize("name", NAMES)
every_classifier = pytest.mark.parametrize("name", ["lstm", "kan_lstm"])


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


# --- Counts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "printed", "grids"),
    [
        pytest.param("gru", {"num_layers": 2}, 94_515, 0, id="GRU"),
        pytest.param("kamoe", {"layer": "linear"}, 161_113, 0, id="MoE-GRU"),
        pytest.param("kamoe", {}, 162_981, 20, id="KAMoE-GRU"),
        pytest.param("lstm", {"num_layers": 2}, 124_715, 0, id="LSTM"),
        pytest.param("kamoe", {"cell": "lstm", "layer": "linear"}, 212_113, 0, id="MoE-LSTM"),
        pytest.param("kamoe", {"cell": "lstm"}, 213_981, 20, id="KAMoE-LSTM"),
    ],
)
def test_card_totals_at_horizon_15_less_the_two_grids_that_keras_counts(name, options, printed, grids):
    """Six series of which one is forecast; keras's GRU has both biases, its LSTM one: our defaults."""
    model = FORECASTERS.create(name, input_length=75, horizon=15, num_observed=5, hidden=100, **options)
    assert count(model) == printed - grids


def test_documented_parameters_of_the_dense_head():
    small, large = (
        FORECASTERS.create("lstm", input_length=6, horizon=h, channels=2, num_outputs=3, num_known=2, num_observed=1)
        for h in (1, 4)
    )
    assert count(large) - count(small) == (32 + 1) * 3 * 2 * 3
    assert count(large.head) == (32 + 1) * 4 * 2 * 3 + 2 * 2 * 3
    assert large.inputs.features == 2 + 2 + 1


def test_qkan_forecasters_have_the_gates_of_the_card():
    with torch.device("meta"):
        per_edge = FORECASTERS.create("qkan_lstm", input_length=6, horizon=1, hidden=4).stack
        bottleneck = FORECASTERS.create("hqkan_lstm", input_length=6, horizon=1, hidden=4).stack
    assert count(per_edge) == 400 + 16  # one constant per gate
    assert count(bottleneck) == (5 * 3 + 3) + 3 * 4 * 5 + (4 * 16 + 16)


# --- Forecasters ----------------------------------------------------------------------------------------------------


@every_model
def test_forecasts_have_horizon_channels_and_outputs(name):
    model = FORECASTERS.create(name, **SMALL, num_outputs=3, num_known=2, num_observed=1)
    known, observed = torch.randn(7, 10, 2), torch.randn(7, 6, 1)
    past = torch.randn(7, 6, 2)
    y = model(past, known, observed)
    assert y.shape == (7, 4, 2, 3)
    y.square().sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert FORECASTERS.create(name, **SMALL)(past).shape == (7, 4, 2, 1)
    assert "num_known" in inspect.signature(FORECASTERS.factory(name)).parameters  # how the network asks


@every_model
def test_the_twin_is_the_same_code_with_linear_layers(name):
    model, twin = (FORECASTERS.create(name, **SMALL, **o) for o in ({}, {"layer": "linear"}))
    assert type(model) is type(twin)
    kinds = {type(m).__name__ for m in twin.modules()}
    assert not any("KANLinear" in kind for kind in kinds)
    assert twin(torch.randn(2, 6, 2)).shape == (2, 4, 2, 1)


@every_model
def test_width_scales_the_hidden_size(name):
    wide = FORECASTERS.create(name, **SMALL, width=2.1)
    same = FORECASTERS.create(name, **(SMALL | {"hidden": 10}))  # 10.5 rounds to even
    assert count(wide) == count(same)


@pytest.mark.parametrize("name", ["lstm", "kan_gru", "kamoe"])
def test_each_input_matters_and_the_known_future_acts_on_its_own_step(name):
    model = FORECASTERS.create(name, **SMALL, num_known=2, num_observed=1)
    past, known, observed = torch.randn(1, 6, 2), torch.randn(1, 10, 2), torch.randn(1, 6, 1)
    y = model(past, known, observed)
    for changed in ((past + 1, known, observed), (past, known, observed + 1)):
        assert not torch.allclose(model(*changed), y)
    later = known.clone()
    later[:, 6 + 2] += 1
    moved = (model(past, later, observed) - y).abs().amax(dim=(0, 2, 3)) > 1e-6
    assert moved.tolist() == [False, False, True, False]


def test_kan_gates_see_the_open_unit_interval_and_linear_ones_the_window_itself():
    x = torch.tensor([-1e4, -3.0, -0.01, 0.0, 0.5, 1e4])
    seen = FORECASTERS.create("kan_lstm", **SMALL).squash(x)
    torch.testing.assert_close(seen, x / 3 / (1 + (x / 3) ** 2).sqrt())
    for options in ({"name": "lstm"}, {"name": "kan_lstm", "limit": None}, {"name": "kan_lstm", "layer": "linear"}):
        assert FORECASTERS.create(**options, **SMALL).squash(x) is x


def test_the_head_is_where_a_wrapper_can_zero_it():
    model = FORECASTERS.create("kan_lstm", **SMALL, num_known=2)
    for parameter in model.head.parameters():
        nn.init.zeros_(parameter)
    assert not model(torch.randn(3, 6, 2), torch.randn(3, 10, 2)).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cell": "rnn"}, "cell must be one of lstm, gru, got 'rnn'"),
        ({"hidden": 0}, "hidden sizes and width must be positive"),
        ({"width": 0.0}, "hidden sizes and width must be positive"),
        ({"horizon": 0}, "horizon"),
        ({"num_known": -1}, "num_known and num_observed must not be negative"),
        ({"layer": "no-such-layer"}, "unknown layer"),
        ({"limit": 0.0}, "limit must be positive"),
    ],
)
@pytest.mark.parametrize("name", ["kan_gru", "kamoe"])
def test_refused_options(name, options, message):
    if name == "kamoe" and "limit" in options:
        options = options | {"expert_layer": "bspline"}  # linear experts have no clip
    with pytest.raises(KANError, match=message):
        FORECASTERS.create(name, **(SMALL | options))


@pytest.mark.parametrize("name", ["gru", "kamoe"])
def test_refused_inputs(name):
    model = FORECASTERS.create(name, **SMALL, num_known=2, num_observed=1)
    past, known, observed = torch.zeros(3, 6, 2), torch.zeros(3, 10, 2), torch.zeros(3, 6, 1)
    with pytest.raises(KANError, match=r"expected windows of shape \(B, 6, 2\), got \(3, 5, 2\)"):
        model(past[:, 1:], known, observed)
    with pytest.raises(KANError, match=r"expected covariates 'known' of shape \(3, 10, 2\), got none"):
        model(past, None, observed)
    with pytest.raises(KANError, match=r"expected covariates 'known' of shape \(3, 10, 2\), got \(3, 6, 2\)"):
        model(past, known[:, :6], observed)
    with pytest.raises(KANError, match=r"expected covariates 'observed' of shape \(3, 6, 1\)"):
        model(past, known, None)


# --- Classifiers ----------------------------------------------------------------------------------------------------


@every_classifier
def test_classifiers_take_the_last_valid_step(name):
    model = CLASSIFIERS.create(name, num_samples=8, channels=3, num_classes=4, hidden=5)
    x = torch.randn(2, 8, 3)
    mask = torch.arange(8) < torch.tensor([[5], [8]])
    logits = model(x, mask)
    assert logits.shape == (2, 4)
    junk = torch.where(mask[..., None], x, 99.0)
    torch.testing.assert_close(model(junk, mask), logits)
    outputs = model.stack.forward_with_state(model.squash(x))[1][0][-1]
    torch.testing.assert_close(model.linear(outputs)[1], logits[1])
    short = CLASSIFIERS.create(name, num_samples=5, channels=3, num_classes=4, hidden=5)
    short.load_state_dict(model.state_dict())
    torch.testing.assert_close(short(x[:1, :5]), logits[:1])


@every_classifier
def test_a_full_mask_is_no_mask(name):
    model = CLASSIFIERS.create(name, num_samples=8, channels=3, num_classes=4, hidden=5)
    x = torch.randn(2, 8, 3)
    assert torch.equal(model(x, torch.ones(2, 8, dtype=torch.bool)), model(x))


def test_the_classifier_twin_is_the_same_code():
    twin, plain = (
        CLASSIFIERS.create(n, num_samples=8, channels=3, num_classes=4, hidden=5, **o)
        for n, o in (("kan_lstm", {"layer": "linear"}), ("lstm", {}))
    )
    assert {n: p.shape for n, p in twin.named_parameters()} == {n: p.shape for n, p in plain.named_parameters()}


def test_classifiers_refuse_other_windows():
    model = CLASSIFIERS.create("lstm", num_samples=8, channels=3, num_classes=4)
    with pytest.raises(KANError, match=r"expected windows of shape \(B, 8, 3\), got \(2, 7, 3\)"):
        model(torch.zeros(2, 7, 3))
    with pytest.raises(KANError, match=r"mask must have shape \(2, 8\)"):
        model(torch.zeros(2, 8, 3), torch.zeros(2, 7, dtype=torch.bool))
