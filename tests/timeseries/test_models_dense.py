"""The plain KAN forecaster: forecasting-conventions.md, section 7.3."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from kan_core import KANError
from kan_core.compare import match_width
from kan_core.layers import KANLayer, kan_layers
from kan_timeseries.models._registry import FORECASTERS
from kan_timeseries.models.dense import DenseForecaster

F64 = torch.float64


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def outside_fractions(model: nn.Module, x: Tensor) -> list[float]:
    """Of every KAN layer, on the way of `x` through the model."""
    fractions: list[float] = []

    def note(layer: KANLayer, inputs: tuple[Tensor, ...]) -> None:
        fractions.append(layer.outside_fraction(inputs[0]).item())

    handles = [layer.register_forward_pre_hook(note) for _, layer in kan_layers(model)]
    model(x)
    for handle in handles:
        handle.remove()
    return fractions


def test_card_7_3_ten_numbers_per_edge_of_96_512_96():
    with torch.device("meta"):
        model = DenseForecaster(
            96, 96, layer="bspline", hidden=(512,), layer_kwargs={"edge_scale": True, "bias": False}
        )
    assert count(model) == 983_040 == 10 * (96 * 512 + 512 * 96)


def test_default_parameters_are_those_of_the_docstring():
    with torch.device("meta"):
        assert count(DenseForecaster(96, 48, 7, num_outputs=3)) == 9 * 96 * 64 + 64 + 9 * 64 * 144 + 144


def test_card_7_3_defect_splines_of_a_grid_of_1_are_dead_on_raw_series_and_the_clip_keeps_them_alive():
    raw = 300 + 50 * torch.randn(8, 24, 1)
    arguments = {"layer_kwargs": {"base": None, "bias": False}, "dropout": 0.0}
    dead = DenseForecaster(24, 4, layer="bspline", limit=None, **arguments)
    assert outside_fractions(dead, raw)[0] == 1.0
    assert dead(raw).std(dim=0).max() == 0.0  # the same forecast for every window
    alive = DenseForecaster(24, 4, **arguments)
    assert outside_fractions(alive, raw) == [0.0, 0.0]
    scaled = (raw - raw.mean(1, keepdim=True)) / raw.std(1, keepdim=True)
    assert alive(scaled).std(dim=0).min() > 0.01


def test_all_layers_stay_inside_their_grids_whatever_the_window():
    model = DenseForecaster(24, 4, 2, hidden=(16, 16)).eval()
    for scale in (1e-3, 1.0, 30.0, 1e6):
        assert outside_fractions(model, scale * torch.randn(16, 24, 2)) == [0.0, 0.0, 0.0]


def test_channels_are_independent_by_default_and_mixed_on_request():
    past = torch.randn(2, 24, 3, dtype=F64, requires_grad=True)
    for mixing in (False, True):
        model = DenseForecaster(24, 4, 3, channel_mixing=mixing).double().eval()
        (gradient,) = torch.autograd.grad(model(past)[:, :, 0].sum(), past)
        reached = gradient.abs().amax(dim=(0, 1)) > 0
        assert reached.tolist() == [True, mixing, mixing]


def test_outputs_come_from_their_own_channel_step_and_quantile():
    many, one = (DenseForecaster(24, 4, c, num_outputs=2, hidden=(8,)).double().eval() for c in (3, 1))
    one.load_state_dict(many.state_dict())
    past = torch.randn(5, 24, 3, dtype=F64)
    forecast = many(past)
    assert forecast.shape == (5, 4, 3, 2)
    for channel in range(3):
        torch.testing.assert_close(one(past[..., channel : channel + 1])[:, :, 0], forecast[:, :, channel])
    last = many.network(past[0, :, 2])  # H · Q numbers of the last channel, quantiles side by side
    torch.testing.assert_close(forecast[0, :, 2], last.view(4, 2))


def test_mixed_channels_are_laid_out_as_channel_step_quantile():
    model = DenseForecaster(24, 4, 3, num_outputs=2, hidden=(8,), channel_mixing=True).double().eval()
    past = torch.randn(5, 24, 3, dtype=F64)
    rows = model.network(torch.cat([past[:, :, c] for c in range(3)], dim=1))
    torch.testing.assert_close(model(past), rows.view(5, 3, 4, 2).transpose(1, 2))


def test_linear_is_the_mlp_of_the_same_code():
    arguments = DenseForecaster.twin_kwargs({"hidden": [8, 6], "layer_kwargs": {"edge_scale": True}, "layer": "rbf"})
    twin = DenseForecaster(24, 4, 3, **arguments).double().eval()
    maps = [m for m in twin.modules() if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in maps] == [(24, 8), (8, 6), (6, 4)]
    past = torch.randn(2, 24, 3, dtype=F64)
    hidden = past.transpose(1, 2)
    for linear in maps[:-1]:
        hidden = nn.functional.silu(linear(hidden))
    torch.testing.assert_close(twin(past)[..., 0], maps[-1](hidden).transpose(1, 2))


def test_a_twin_of_equal_size_is_found_by_its_width():
    with torch.device("meta"):
        target = count(DenseForecaster(96, 96, 7))
        twin = match_width(lambda width: DenseForecaster(96, 96, 7, layer="linear", width=width), target)
    assert abs(twin.residual) < 0.01


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"layer": "linear"},
        {"layer": "gr-kan"},
        {"layer": "hqkan"},
        {"layer": "wav-kan"},
        {"layer_kwargs": {"edge_scale": True}},
    ],
    ids=["default", "linear", "gr-kan", "hqkan", "wav-kan", "edge_scale"],
)
def test_a_head_of_zeros_still_learns(options):
    model = DenseForecaster(24, 4, 2, hidden=(8,), dropout=0.0, **options)
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.zero_()
    past = torch.randn(16, 24, 2)
    if list(model.head.parameters()):
        assert model(past).abs().max() == 0.0
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        (model(past) - past[:, -4:, :, None]).square().mean().backward()
        optimizer.step()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hidden": [0]}, "hidden sizes and width must be positive"),
        ({"width": 0.0}, "hidden sizes and width must be positive"),
        ({"layer": "splines"}, "unknown layer 'splines'"),
        ({"limit": -1.0}, "limit must be positive, or None"),
        ({"input_length": 0}, "input_length must be a whole number"),
        ({"activation": "elu", "layer": "linear"}, "activation must be one of"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(KANError, match=message):
        FORECASTERS.create("kan", **({"input_length": 24, "horizon": 4} | arguments))


def test_windows_of_another_shape_are_refused():
    with pytest.raises(KANError, match=r"expected windows of shape \(B, 24, 3\), got \(2, 24, 2\)"):
        DenseForecaster(24, 4, 3)(torch.zeros(2, 24, 2))
