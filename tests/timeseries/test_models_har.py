"""Counts and invariants of the cards kan-har (8) and imu-kan-features (5, 8)."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kan_core.compare import count_parameters
from kan_core.errors import KANError
from kan_core.layers import KANLinear, kan_layers
from kan_timeseries.models import CLASSIFIERS
from kan_timeseries.models.imu import ImuKAN, make_features
from kan_timeseries.models.kan_har import KanHAR, LiteralKanHAR
from kan_timeseries.models.sensor_cnn import ConvFeatures, DeepConvLSTM, ImuCNN
from kan_timeseries.models.sequence_head import SequenceHead

ARRANGEMENTS = ("channel", "patch", "factored", "residual_linear")


def on_meta(make):
    with torch.device("meta"):
        return make()


def double(module):
    return module.double().eval()


# KAN-HAR ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("edge_scale", "count"), [(True, 54_600), (False, 50_400)])
def test_literal_parameter_count(edge_scale, count):
    assert count_parameters(LiteralKanHAR(500, 3, 6, edge_scale=edge_scale)) == count


def test_its_twin_is_the_mlp_of_4306_parameters():
    twin = LiteralKanHAR(500, 3, 6, layer="linear")
    assert count_parameters(twin) == 36 * 100 + 100 + 100 * 6 + 6 == 4_306
    assert [type(part) for part in twin.layers] == [nn.Linear, nn.SiLU, nn.Linear]


def test_literal_grids():
    first, second = (layer for _, layer in kan_layers(LiteralKanHAR(500, 3, 6)))
    assert first.basis.grid[0, [0, -1]].tolist() == [-1, 4]
    assert second.basis.grid[0, [0, -1]].tolist() == [-1, 1]
    assert (first.basis.order, first.basis.num_functions) == (1, 11)


def test_below_minus_one_and_a_half_only_the_base_branch_is_alive():
    layer = kan_layers(LiteralKanHAR(500, 3, 6))[0][1]
    outside, inside = (layer.basis.planes(torch.full((1, 36), v)) for v in (-1.5, -1.45))
    assert outside.count_nonzero() == 0
    assert inside.count_nonzero() == 36
    assert layer.basis.planes(torch.full((1, 36), 4.5)).count_nonzero() == 0


def test_order_one_is_piecewise_linear_between_knots():
    layer = KANLinear(1, 1, "bspline(grid_size=10, order=1, grid_range=(-1, 4))", base=None, bias=False, init_scale=1.0)
    with torch.no_grad():
        y = layer(torch.linspace(0.01, 0.49, 25)[:, None])[:, 0].double()
    assert y.diff(n=2).abs().max() < 1e-6


def test_statistics_are_standardised_by_the_training_windows():
    model = KanHAR(200, 3, 2, rate=32.0)
    x = torch.randn(40, 200, 3) * torch.tensor([1.0, 2.0, 0.1]) + 1
    model.fit_statistics(x)
    z = (model.extract(x) - model.center) / model.scale
    varying = model.extract(x).double().std(dim=0) > 1e-5
    torch.testing.assert_close(z.mean(dim=0)[varying], torch.zeros(int(varying.sum())), atol=1e-3, rtol=0)
    torch.testing.assert_close(z.std(dim=0, correction=0)[varying], torch.ones(int(varying.sum())), atol=1e-3, rtol=0)
    assert {"center", "scale"} <= set(model.state_dict())


def test_windows_of_unlike_length_answer_as_they_do_alone():
    model = KanHAR(300, 3, 4, rate=32.0).eval()
    x, lengths = torch.randn(5, 300, 3), [300, 40, 120, 7, 200]
    mask = torch.arange(300) < torch.tensor(lengths)[:, None]
    alone = torch.cat(
        [model.classify(model._statistics(row[None, :n], None)) for row, n in zip(x, lengths, strict=True)]
    )
    torch.testing.assert_close(model(x, mask), alone, rtol=1e-4, atol=1e-4)


def test_a_rare_statistic_stays_inside_the_grid():
    model = KanHAR(64, 3, 2, rate=32.0).eval()
    far = model.classify(torch.full((1, model.center.numel()), 1e6))
    further = model.classify(torch.full((1, model.center.numel()), 1e8))
    torch.testing.assert_close(far, further)


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"statistics": "fft"}, "statistics"),
        ({"channels": 4}, "threes"),
        ({"limit": 0.0}, "limit"),
        ({"hidden": [0]}, "positive"),
        ({"layer": ["linear"]}, "2 layers"),
    ],
    ids=["statistics", "channels", "limit", "hidden", "layers"],
)
def test_kan_har_refuses_what_does_not_fit(kwargs, said):
    with pytest.raises(KANError, match=said):
        KanHAR(**({"num_samples": 64, "channels": 3, "num_classes": 2} | kwargs))


# Feature extractors -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arrangement", "per_channel", "count"),
    [
        ("channel", 16, 3_840),
        ("patch", 16, 61_440),
        ("factored", 16, 64_000),
        ("factored", 4, 16_000),
        ("residual_linear", 16, 47_296),
    ],
)
def test_parameters_of_the_extractors(arrangement, per_channel, count):
    stage = on_meta(lambda: make_features(arrangement, 6, 64, 16, 8, per_channel=per_channel))
    assert count_parameters(stage) == count


def test_parameters_of_the_ordinary_extractors():
    conv = on_meta(lambda: ConvFeatures(6, 64, 16, 8))
    assert (count_parameters(conv.conv), count_parameters(conv.norm)) == (6_208, 128)
    for channels in (3, 113):
        assert count_parameters(on_meta(lambda n=channels: DeepConvLSTM(24, n, 18)).extractor) == 62_016


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_shape_of_the_features(arrangement, depth):
    model = ImuKAN(128, 6, 4, arrangement=arrangement, features=8, depth=depth)
    assert model.extractor(torch.randn(2, 128, 6)).shape == (2, 15, 8)
    assert model(torch.randn(2, 128, 6)).shape == (2, 4)


def test_steps_of_deepconvlstm_are_16_fewer_than_samples():
    assert DeepConvLSTM(24, 3, 5, filters=4, hidden=4).extractor(torch.randn(1, 1, 24, 3)).shape == (1, 4, 8, 3)


def test_permuting_time_within_a_patch_leaves_channel_features_alone():
    x = torch.randn(1, 32, 3, dtype=torch.float64)
    turned = torch.cat([x[:, torch.randperm(16)], x[:, 16:]], dim=1)
    changed = {}
    for name in ARRANGEMENTS:
        stage = double(make_features(name, 3, 8, 16, 16, per_channel=4))
        changed[name] = not torch.allclose(stage(x), stage(turned))
    assert changed == {"channel": False, "patch": True, "factored": True, "residual_linear": True}


def test_the_first_stage_of_factored_does_not_know_the_channels():
    few, many = (on_meta(lambda n=n: make_features("factored", n, 8, 16, 8)) for n in (3, 113))
    assert count_parameters(few.time) == count_parameters(many.time)
    stage = double(make_features("factored", 6, 8, 16, 8))
    x, order = torch.randn(2, 64, 6, dtype=torch.float64), torch.randperm(6)
    torch.testing.assert_close(stage.per_channel(x[..., order]), stage.per_channel(x)[:, :, order])


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_a_delay_of_one_stride_moves_the_features_by_one_step(arrangement):
    model = double(ImuKAN(64, 3, 2, arrangement=arrangement, features=8))
    x = torch.randn(2, 72, 3, dtype=torch.float64)
    torch.testing.assert_close(model.extractor(x[:, 8:])[:, :-1], model.extractor(x[:, :-8])[:, 1:])


def test_patches_of_one_sample_are_channel_features_without_pooling():
    channel, patch = (double(make_features(name, 3, 8, 1, 1)) for name in ("channel", "patch"))
    patch.load_state_dict(channel.state_dict())
    x = torch.randn(2, 20, 3, dtype=torch.float64)
    torch.testing.assert_close(channel(x), patch(x))


def test_residual_linear_without_curves_is_a_strided_convolution():
    stage = double(make_features("residual_linear", 3, 8, 16, 8))
    conv = nn.Conv1d(3, 8, 16, 8).double()
    nn.init.zeros_(stage.curves.weight)
    with torch.no_grad():
        conv.weight.copy_(stage.filters.weight.reshape(8, 3, 16))
        conv.bias.copy_(stage.filters.bias)
    x = torch.randn(2, 100, 3, dtype=torch.float64)
    torch.testing.assert_close(stage(x), conv(x.transpose(1, 2)).transpose(1, 2))


def test_of_standard_normal_inputs_0_27_percent_are_outside_the_grid():
    stage = make_features("channel", 4, 2, 16, 8)
    share = stage.curves.outside_fraction(torch.randn(100_000, 4))
    assert share.item() == pytest.approx(0.0027, abs=3e-4)


@pytest.mark.parametrize("pooling", ["mean", "lstm", "attention"])
@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_masked_padding_changes_nothing(arrangement, pooling):
    x = torch.randn(3, 64, 3, dtype=torch.float64)
    short = double(ImuKAN(64, 3, 5, arrangement=arrangement, features=8, pooling=pooling))
    long = double(ImuKAN(96, 3, 5, arrangement=arrangement, features=8, pooling=pooling))
    long.load_state_dict(short.state_dict())
    mask = torch.arange(96).expand(3, -1) < 64
    torch.testing.assert_close(long(nn.functional.pad(x, (0, 0, 0, 32)), mask), short(x), rtol=0, atol=1e-6)


@pytest.mark.parametrize("make", [ImuCNN, DeepConvLSTM], ids=["imu_cnn", "deepconvlstm"])
def test_masked_padding_changes_nothing_in_ordinary_networks(make):
    x = torch.randn(2, 40, 3, dtype=torch.float64)
    short, long = double(make(40, 3, 4, width=0.1)), double(make(64, 3, 4, width=0.1))
    long.load_state_dict(short.state_dict())
    mask = torch.arange(64).expand(2, -1) < 40
    torch.testing.assert_close(long(nn.functional.pad(x, (0, 0, 0, 24), value=7.0), mask), short(x))


def test_a_recording_shorter_than_a_patch_still_has_an_answer():
    model = ImuKAN(64, 3, 5, features=8).eval()
    mask = torch.arange(64).expand(2, -1) < 5
    assert model(torch.randn(2, 64, 3), mask).isfinite().all()


@pytest.mark.parametrize("name", ["imu_kan", "imu_cnn", "deepconvlstm", "kan_har", "kan_har_literal"])
def test_every_parameter_group_has_a_gradient(name):
    model = CLASSIFIERS.create(name, num_samples=64, channels=3, num_classes=4)
    nn.functional.cross_entropy(model(torch.randn(8, 64, 3)), torch.arange(8) % 4).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().max() > 0, key


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_the_twin_has_no_kan_layer(arrangement):
    twin = ImuKAN(64, 3, 4, arrangement=arrangement, layer="linear", features=8)
    assert not kan_layers(twin)
    assert any(isinstance(part, nn.SiLU) for part in twin.modules())


def test_attention_and_lstm_cost_what_they_say():
    assert count_parameters(SequenceHead(8, 5, "mean")) == 9 * 5
    assert count_parameters(SequenceHead(8, 5, "attention")) == 9 * 5 + 9
    assert count_parameters(SequenceHead(8, 5, "lstm")) == 4 * 128 * (8 + 130) + 129 * 5


def test_one_feature_is_not_normalised_to_a_constant():
    model = ImuKAN(32, 1, 2, arrangement="channel", features=1)
    a, b = model(torch.zeros(1, 32, 1)), model(torch.ones(1, 32, 1))
    assert not torch.equal(a, b)


def noise(kind, rows, generator):
    """Unit-variance Gauss or Laplace noise, ``(rows, 128, 1)``."""
    if kind == "gauss":
        return torch.randn(rows, 128, 1, generator=generator)
    u = torch.rand(rows, 128, 1, generator=generator) - 0.5
    return -u.sign() * (1 - 2 * u.abs()).clamp_min(1e-7).log() / 2**0.5


def test_channel_features_tell_gauss_from_laplace_noise_of_equal_variance():
    generator = torch.Generator().manual_seed(0)
    x = torch.cat([noise(kind, 750, generator) for kind in ("gauss", "laplace")])
    y = torch.arange(2).repeat_interleave(750)
    train = torch.arange(1500) % 3 > 0
    model = ImuKAN(128, 1, 2, arrangement="channel", features=1, patch=128, stride=128)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.3)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[train]), y[train]).backward()
        optimizer.step()
    with torch.no_grad():
        assert (model(x[~train]).argmax(dim=1) == y[~train]).float().mean() > 0.93
        points = torch.special.ndtri((torch.arange(200) + 0.5) / 200)  # where the inputs are
        curve = kan_layers(model)[0][1](points[:, None])[:, 0]
    best = -(points**2) / 2 + 2**0.5 * points.abs()
    assert torch.corrcoef(torch.stack([curve, best]))[0, 1].abs() > 0.8


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"arrangement": "rl"}, "arrangement"),
        ({"pooling": "max"}, "pooling"),
        ({"patch": 65}, "longer than the window"),
        ({"depth": 0}, "at least 1"),
    ],
    ids=["arrangement", "pooling", "patch", "depth"],
)
def test_imu_kan_refuses_what_does_not_fit(kwargs, said):
    with pytest.raises(KANError, match=said):
        ImuKAN(64, 3, 2, **kwargs)


def test_windows_of_another_shape_are_refused():
    with pytest.raises(KANError, match=r"shape \(B, 64, 3\), got \(1, 64, 4\)"):
        ImuKAN(64, 3, 2)(torch.zeros(1, 64, 4))
    with pytest.raises(KANError, match="17 samples"):
        DeepConvLSTM(16, 3, 2)
