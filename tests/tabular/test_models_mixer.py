"""tabkan.md section 2, KAN-Mixer: its defaults, its counts, and what carries a column's identity."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kan_core import KANError
from kan_core.compare import count_parameters
from kan_core.layers import KANLinear
from kan_tabular import models
from kan_tabular.models.mixer import MixerBlock


def make(columns: int = 5, outputs: int = 2, **kwargs) -> nn.Module:
    small = {"depth": 2, "token_dim": 6, "channels": 8}
    return models.create("kan-mixer", cardinalities=[0] * columns, num_outputs=outputs, **{**small, **kwargs})


def test_defaults_of_the_card():
    with torch.device("meta"):
        model = models.create("kan-mixer", cardinalities=[0] * 10, num_outputs=2)
    assert len(model.blocks) == 4
    over_tokens, over_channels = model.blocks[0].over_tokens, model.blocks[0].over_channels
    assert (over_tokens.inner.in_features, over_tokens.inner.out_features) == (10, 64)
    assert (over_channels.inner.in_features, over_channels.inner.out_features) == (128, 256)
    assert over_tokens.inner.basis.degree == over_channels.inner.basis.degree == 3
    assert over_tokens.inner.bias is None
    assert over_tokens.inner.base is None


@pytest.mark.parametrize("degree", [2, 3])
def test_parameter_count(degree):
    columns, outputs, depth, t, c, k = 5, 2, 3, 6, 8, degree + 1
    block = columns * t * k + t * columns + columns + 2 * c * c * k + 2 * c * c + c + 4 * c
    expected = columns * c + c + columns * c + depth * block + 2 * c + (c + 1) * outputs
    model = make(columns, outputs, depth=depth, layer=f"chebyshev(degree={degree})")
    assert count_parameters(model) == expected


def test_one_block_is_two_residual_branches():
    block = MixerBlock(5, 8, 6, "chebyshev", {"base": None, "bias": False}).double()
    h = torch.randn(3, 5, 8).double()
    norm = torch.nn.functional.layer_norm(h, (8,), eps=block.norms[0].eps)
    tokens = torch.stack([block.over_tokens(norm[:, :, channel]) for channel in range(8)], dim=2)
    middle = h + tokens
    norm = torch.nn.functional.layer_norm(middle, (8,), eps=block.norms[1].eps)
    channels = torch.stack([block.over_channels(norm[:, token]) for token in range(5)], dim=1)
    torch.testing.assert_close(block(h), middle + channels)


def test_a_token_is_the_edge_of_its_column():
    model = make()
    x = torch.randn(4, 5)
    tokens = model.tokens(x)
    changed = x.clone()
    changed[:, 2] += 1
    same = (model.tokens(changed) == tokens).all(dim=2).all(dim=0)
    assert same.tolist() == [True, True, False, True, True]


def test_columns_are_told_apart():
    model = make().double()
    x = torch.randn(6, 5).double()
    assert not torch.allclose(model(x), model(x[:, [1, 0, 2, 3, 4]]))


def test_other_layers_and_grids():
    fourier = make(layer="fourier(num_frequencies=2)")
    assert type(fourier.blocks[0].over_tokens.inner.basis).__name__ == "Fourier"
    spline = make(layer="bspline(grid_size=4)")
    before = spline.blocks[1].over_channels.inner.basis.knots.clone()
    spline.fit_grid(torch.randn(64, 5))
    assert not torch.equal(spline.blocks[1].over_channels.inner.basis.knots, before)
    linear = make(layer="linear")
    assert not any(isinstance(module, KANLinear) for module in linear.modules())
    assert isinstance(linear.blocks[0].over_tokens.between, nn.SiLU)


def test_bad_sizes():
    with pytest.raises(KANError, match="depth must be a whole number of at least 1, got 0"):
        make(depth=0)
    with pytest.raises(KANError, match="positive"):
        make(channels=0)
