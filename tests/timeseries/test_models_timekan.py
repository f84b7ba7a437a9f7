"""TimeKAN: forecasting-conventions.md, section 7.2."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from kan_core import KANError
from kan_core.compare import match_width
from kan_timeseries.models._registry import FORECASTERS
from kan_timeseries.models.network import ForecastNetwork
from kan_timeseries.models.timekan import BandMixing, FourierUpsample, FrequencyBlock, TimeKAN, halved, standardised

F64 = torch.float64


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


# --- parameters -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("published", "horizon", "options"),
    [
        pytest.param(12_843, 96, {"begin_order": 0}, id="ETTh1-96"),
        pytest.param(77_577, 720, {"downsamplings": 3}, id="ETTh1-720"),
        pytest.param(14_379, 96, {}, id="ETTm1-96"),
        pytest.param(38_123, 96, {"features": 32, "blocks": 3}, id="ETTm2-96"),
        pytest.param(15_001, 96, {"downsamplings": 3, "begin_order": 0}, id="ETTh2-96"),
        pytest.param(20_937, 96, {"channels": 21, "downsamplings": 3, "blocks": 3}, id="Weather-96"),
    ],
)
def test_card_7_2_parameters_but_the_map_of_four_time_features(published, horizon, options):
    with torch.device("meta"):
        model = TimeKAN(96, horizon, **({"channels": 7} | options))
    assert count(model) + 4 * options.get("features", 16) == published


# --- scales and bands -----------------------------------------------------------------------------------------------


def test_card_7_2_upsampling_a_band_limited_sine_reproduces_it():
    t = torch.arange(96, dtype=F64)
    fine = torch.sin(2 * math.pi * 5 * t / 96) + torch.cos(2 * math.pi * 11 * t / 96)
    torch.testing.assert_close(FourierUpsample(48, 96).double()(fine[::2]), fine, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("coarse", "fine"), [(48, 96), (23, 46), (23, 45), (24, 24), (1, 2)])
def test_upsampling_is_padding_the_spectrum_and_keeps_common_steps(coarse, fine):
    x = torch.randn(3, coarse, dtype=F64)
    y = FourierUpsample(coarse, fine).double()(x)
    torch.testing.assert_close(y.mean(-1), x.mean(-1), rtol=0, atol=1e-5)
    if fine % coarse == 0:
        torch.testing.assert_close(y[:, :: fine // coarse], x, rtol=0, atol=1e-5)
    below = (coarse - 1) // 2 + 1  # frequencies under the highest
    spectrum = torch.fft.rfft(x)[:, :below] * (fine / coarse)
    torch.testing.assert_close(torch.fft.rfft(y)[:, :below], spectrum, rtol=0, atol=1e-4)


@pytest.mark.parametrize("lengths", [[96, 48, 24], [45, 23, 12, 6], [8]], ids=["even", "odd", "one"])
def test_card_7_2_bands_that_nothing_changes_rebuild_every_scale(lengths):
    block = FrequencyBlock(lengths, [nn.Identity() for _ in lengths]).double()
    scales = [torch.randn(3, 2, length, dtype=F64) for length in lengths]
    for rebuilt, scale in zip(block(list(scales)), scales, strict=True):
        torch.testing.assert_close(rebuilt, scale, rtol=0, atol=1e-12)


def test_each_band_goes_through_its_own_map():
    lengths = [8, 4, 2]
    nothing = nn.Threshold(math.inf, 0.0)  # without the highest band the finest scale is the coarser one, upsampled
    block = FrequencyBlock(lengths, [nothing, nn.Identity(), nn.Identity()]).double()
    scales = [torch.randn(3, 2, length, dtype=F64) for length in lengths]
    finest, middle, coarsest = block(list(scales))
    torch.testing.assert_close(finest, block.upsamples[0](scales[1]))
    torch.testing.assert_close(middle, scales[1])
    assert torch.equal(coarsest, scales[2])


def test_scales_are_means_of_two_steps_and_standardised():
    x = torch.arange(5, dtype=F64).view(1, 5, 1)
    assert halved(x).flatten().tolist() == [0.5, 2.5, 4.0]
    z = standardised(100 + 10 * torch.randn(2, 48, 3, dtype=F64))
    torch.testing.assert_close(z.mean(1), torch.zeros(2, 3, dtype=F64))
    torch.testing.assert_close(z.var(1, correction=0), torch.ones(2, 3, dtype=F64), rtol=0, atol=1e-6)


# --- the KAN of a band ----------------------------------------------------------------------------------------------


def test_card_7_2_chebyshev_of_one_tanh_plus_a_depth_wise_convolution():
    mixing = BandMixing(4, "chebyshev", degree=2).double()
    x = 2 * torch.randn(3, 4, 10, dtype=F64)
    u = torch.tanh(x)
    planes = torch.stack([torch.ones_like(u), u, 2 * u * u - 1])
    kan = torch.einsum("knit,kio->not", planes, mixing.kan.weight)
    padded = nn.functional.pad(x, (1, 1))
    taps = mixing.convolution.weight[:, 0]  # (d, 3)
    time = sum(padded[..., k : k + 10] * taps[:, k : k + 1] for k in range(3))
    torch.testing.assert_close(mixing(x), kan + time)


def test_card_7_2_degrees_rise_from_the_lowest_band():
    model = TimeKAN(24, 4, downsamplings=2, begin_order=1)
    assert [mixing.kan.basis.degree for mixing in model.blocks[0].mixings] == [3, 2, 1]
    stated = TimeKAN(24, 4, layer="legendre(degree=4)")
    assert [mixing.kan.basis.degree for mixing in stated.blocks[1].mixings] == [4, 4, 4]


def test_card_7_2_order_0_makes_the_lowest_band_a_constant():
    mixings = TimeKAN(24, 4, begin_order=0).blocks[0].mixings
    outputs = [mixing.kan(torch.randn(10, 16)) for mixing in mixings]
    assert [bool((y - y[0]).abs().max() < 1e-6) for y in outputs] == [False, False, True]
    assert outputs[2].abs().max() > 0


# --- the model ------------------------------------------------------------------------------------------------------


def test_card_7_2_equivariant_to_affine_maps_of_the_window():
    network = ForecastNetwork(24, 4, 2, model="timekan", scaler="standard", skip="none").double().eval()
    past = 10 * torch.randn(5, 24, 2, dtype=F64)
    a, b = torch.tensor([0.5, 20.0], dtype=F64), torch.tensor([7.0, -300.0], dtype=F64)
    expected = a[:, None] * network(past) + b[:, None]
    torch.testing.assert_close(network(a * past + b), expected, rtol=0, atol=1e-3)


def test_the_forecast_is_the_map_over_time_and_then_that_over_features():
    model = TimeKAN(24, 4, 2, num_outputs=3, affine=False).double()
    seen = []
    model.blocks[-1].register_forward_hook(lambda module, inputs, output: seen.append(output[0]))
    forecast = model(torch.randn(5, 24, 2, dtype=F64))
    expected = model.head(model.time_map(seen[0]).transpose(1, 2)).view(5, 2, 4, 3).transpose(1, 2)
    torch.testing.assert_close(forecast, expected)


def test_channels_share_everything_but_their_scale():
    model = TimeKAN(24, 4, 3).double()
    past = torch.randn(2, 24, 3, dtype=F64)
    torch.testing.assert_close(model(past[..., [2, 0, 1]]), model(past)[:, :, [2, 0, 1]])
    before = model(past)
    with torch.no_grad():
        model.affines[0].shift[1] += 1.0
    changed = (model(past) - before).abs().amax(dim=(0, 1, 3)) > 1e-6
    assert changed.tolist() == [False, True, False]


@pytest.mark.parametrize("length", [1, 7, 45])
def test_lengths_that_do_not_halve_evenly(length):
    model = TimeKAN(length, 3, downsamplings=3, features=4)
    forecast = model(torch.randn(2, length, 1))
    assert forecast.shape == (2, 3, 1, 1)
    assert forecast.isfinite().all()


def test_linear_is_the_twin_with_an_activation_before_every_map():
    twin = TimeKAN(24, 4, layer="linear")
    mixing = twin.blocks[0].mixings[0]
    assert isinstance(mixing.kan, nn.Linear)
    x = torch.randn(2, 16, 24)
    expected = mixing.kan(nn.functional.silu(x.transpose(1, 2))).transpose(1, 2) + mixing.convolution(x)
    torch.testing.assert_close(mixing(x), expected)
    with torch.device("meta"):
        target = count(TimeKAN(96, 96, 7))
        assert abs(match_width(lambda w: TimeKAN(96, 96, 7, layer="linear", width=w), target).residual) < 0.05


def test_every_parameter_learns_after_a_start_at_zero():
    model = TimeKAN(24, 4, 2, num_outputs=2)
    for parameter in model.head.parameters():
        nn.init.zeros_(parameter)
    past = torch.randn(16, 24, 2)
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
        ({"begin_order": -1}, "begin_order must be a whole number of at least 0"),
        ({"downsamplings": -1}, "downsamplings must be"),
        ({"blocks": 0}, "blocks must be"),
        ({"features": 0}, "hidden sizes and width must be positive"),
        ({"layer": "chebyshov"}, "unknown layer 'chebyshov'"),
        ({"num_known": 3}, "'timekan' refuses its arguments"),
    ],
    ids=["begin_order", "downsamplings", "blocks", "features", "layer", "covariates"],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(KANError, match=message):
        FORECASTERS.create("timekan", **({"input_length": 24, "horizon": 4} | arguments))


def test_windows_of_another_shape_are_refused():
    with pytest.raises(KANError, match=r"expected windows of shape \(B, 24, 1\)"):
        TimeKAN(24, 4)(torch.zeros(2, 24, 2))
