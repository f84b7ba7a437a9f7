"""The dense head: the card's counts, what each placement is made of, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kan_audio.layers.dense_head import PLACEMENTS, DenseHead, head_twin
from kan_core import KANLinear
from kan_core.compare import count_parameters, match_width
from kan_core.errors import KANError


@pytest.mark.parametrize(
    ("placement", "parameters"),
    [("FFF", 168_991), ("K", 158_720), ("FFK", 204_672), ("FKK", 499_200), ("FKF", 463_519), ("FK", 211_200)],
)
def test_parameters_are_the_cards(placement, parameters):
    with torch.device("meta"):
        assert count_parameters(DenseHead(512, 31, placement)) == parameters


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_the_linear_head_has_an_ordinary_group_for_every_kan_layer(placement):
    with torch.device("meta"):
        head = DenseHead(512, 31, placement, layer="linear")
        plain = DenseHead(512, 31, "FFF")
    assert not [part for part in head.modules() if isinstance(part, KANLinear)]
    if len(placement) == 3:
        assert {n: p.shape for n, p in head.named_parameters()} == {n: p.shape for n, p in plain.named_parameters()}
    assert len(head.groups) == len(placement)


def test_wide_fff_matches_fkf_within_one_per_cent():
    with torch.device("meta"):
        target = count_parameters(DenseHead(512, 31, "FKF"))
        match = match_width(lambda width: DenseHead(512, 31, "FFF", width=width), target, tolerance=0.01)
    assert abs(match.residual) < 0.01
    assert match.width > 1.5


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize(
    "layer", ["bspline", "rbf(num_centers=8)", "chebyshev(degree=4)", "gr-kan(groups=4)", "linear"]
)
def test_every_placement_trains_with_every_kind_of_layer(placement, layer):
    head = DenseHead(32, 8, placement, hidden=(16, 12), layer=layer)
    logits = head(torch.randn(6, 32))
    assert logits.shape == (6, 8)
    logits.square().sum().backward()
    silent = [name for name, p in head.named_parameters() if p.grad is None or not p.grad.any()]
    # a bias in front of a batch norm has none: the norm takes it away
    assert all(name.endswith("0.bias") for name in silent)


def test_zero_splines_with_identity_base_are_a_linear_layer_without_bias():
    head = DenseHead(16, 4, "K", layer_kwargs={"base": "identity"}, norm=False)
    layer = next(part for part in head.modules() if isinstance(part, KANLinear))
    with torch.no_grad():
        layer.weight[:-1] = 0
    x = torch.randn(5, 16)
    torch.testing.assert_close(head(x), x @ layer.weight[-1])
    torch.testing.assert_close(head(torch.zeros(1, 16)), torch.zeros(1, 4))


def test_the_norm_in_front_brings_any_embedding_onto_the_grid():
    x = 50 + 30 * torch.randn(64, 512)
    normed, raw = DenseHead(512, 8, "K"), DenseHead(512, 8, "K", norm=False)
    norm, layer = normed.groups[0]
    assert layer.outside_fraction(norm(x)) < 0.35
    assert raw.groups[0].outside_fraction(x) > 0.95
    torch.testing.assert_close(normed(x), normed(3 * x + 1), rtol=1e-3, atol=1e-3)


def test_f_is_linear_gelu_dropout_batch_norm_and_the_last_is_plain():
    head = DenseHead(8, 3, "FFF")
    assert [type(part) for part in head.groups[0]] == [nn.Linear, nn.GELU, nn.Dropout, nn.BatchNorm1d]
    assert type(head.groups[2]) is nn.Linear


def test_final_gelu_bounds_the_logits_from_below():
    x = 20 * torch.randn(64, 8)
    assert DenseHead(8, 3, "FFF").eval()(x).min() < -0.17
    assert DenseHead(8, 3, "FFF", final_activation="gelu").eval()(x).min() >= -0.17


def test_arguments_of_the_layer_override_the_defaults():
    kan = DenseHead(8, 3, "K", layer_kwargs={"edge_scale": False, "bias": True}, norm=False)
    assert count_parameters(kan) == 8 * 3 * 9 + 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"placement": "KAN"}, "placement must be one of FFF, K, FFK, FKK, FKF, FK, got 'KAN'"),
        ({"placement": "FKF", "layer": "splines"}, "unknown layer 'splines'"),
        ({"placement": "FK", "final_activation": "gelu"}, "placement='FK' ends in a KAN layer"),
        ({"placement": "FKF", "final_activation": "relu"}, "final_activation must be one of none, gelu, got 'relu'"),
        ({"placement": "FKF", "layer_kwargs": {"grid": 3}}, "layer 'bspline.*' refuses its layer_kwargs"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(options, message):
    with pytest.raises(KANError, match=message) as error:
        DenseHead(16, 4, **options)
    assert "\n" not in str(error.value)


def test_one_row_cannot_be_batch_normalised():
    head = DenseHead(16, 4, "FKF")
    with pytest.raises(KANError, match="batch_size=1"):
        head(torch.randn(1, 16))
    assert head.eval()(torch.randn(1, 16)).shape == (1, 4)
    assert DenseHead(16, 4, "K")(torch.randn(1, 16)).shape == (1, 4)


def test_fff_is_its_own_twin_and_others_lose_their_layer():
    assert head_twin({"placement": "FFF", "layer": "rbf"}) == {"placement": "FFF", "layer": "rbf"}
    given = {"placement": "FK", "layer": "rbf", "layer_kwargs": {"bias": True}, "dropout": 0.2}
    assert head_twin(given) == {"placement": "FK", "layer": "linear", "dropout": 0.2}
