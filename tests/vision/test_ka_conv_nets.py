"""Nets of Kolmogorov-Arnold convolutions: the card's exact counts, and what timm's mirrored contract does not cover."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import kan_vision.models.ka_conv  # noqa: F401  (registers the models)
from kan_core import KANError
from kan_core.compare import count_parameters, match_width
from kan_vision.layers.ka_conv import BOTTLENECK_KINDS, KINDS, BottleneckKAConv, KAConv

GRAY = {"in_chans": 1, "num_classes": 10}
# beta_0 and beta_d of each of the published Gram layers never get a gradient; ours do not exist
DEAD = 2
NETS = ["kaconv4_28", "kaconv8_28", "kaconv_vgg11", "kaconv_resnet18"]


def make(name: str, **kwargs) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name, **{**GRAY, **kwargs})


def count(name: str, **kwargs) -> int:
    with torch.device("meta"):
        return count_parameters(timm.create_model(name, **{**GRAY, **kwargs}))


def images(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


# Counts -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments", "card"),
    [
        ("kaconv4_28", {}, 1_940_346),
        ("kaconv4_28", {"groups": 4}, 488_826),
        ("kaconv4_28", {"groups": 4, "layer_kwargs": {"affine": False}}, 487_866),
        ("kaconv4_28", {"groups": 4, "in_chans": 3}, 491_706),
        ("kaconv8_28", {}, 22_611_674),
        ("kaconv8_28", {"layer_kwargs": {"affine": False}}, 22_608_122),
        ("kaconv8_28", {"in_chans": 3}, 22_613_114),
        ("kaconv8_28", {"in_chans": 3, "num_classes": 100}, 22_659_284),
    ],
    ids=str,
)
def test_counts_of_simple_gram_nets(name, arguments, card):
    layers = int(name[len("kaconv")])
    assert count(name, **arguments) + DEAD * layers == card


@pytest.mark.parametrize(
    ("name", "layer", "groups", "card"),
    [
        ("kaconv4_28", "legendre", 1, 1_940_330),
        ("kaconv8_28", "legendre", 1, 22_611_642),
        ("kaconv4_28", "chebyshev(degree=3)", 4, 391_754),
        ("kaconv4_28", "chebyshev(degree=5)", 1, 2_327_690),
        ("kaconv8_28", "chebyshev(degree=3)", 1, 18_091_050),
        ("kaconv8_28", "chebyshev(degree=5)", 1, 27_132_234),
        ("kaconv4_28", "bspline", 1, 3_489_774),
        ("kaconv8_28", "bspline", 1, 40_694_018),
        ("kaconv4_28", "rbf", 1, 3_489_260),
        ("kaconv8_28", "rbf", 1, 40_692_988),
        ("kaconv4_28", "wavelet", 1, 951_370),
        ("kaconv8_28", "wavelet", 1, 10_731_562),
    ],
)
def test_counts_of_simple_nets_of_other_kinds(name, layer, groups, card):
    assert count(name, layer=layer, groups=groups) == card


@pytest.mark.parametrize(
    ("plan", "bottleneck", "card"), [("v4", 8, 7_252_115), ("v4", None, 41_424_516), ("v2", None, 24_652_420)]
)
def test_counts_of_vgg11_for_imagenet(plan, bottleneck, card):
    shape = {"in_chans": 3, "num_classes": 1000, "width": 2, "layer": "gram(degree=5)"}
    assert count("kaconv_vgg11", plan=plan, bottleneck=bottleneck, **shape) + DEAD * 10 == card


# Architecture -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plan", "channels"),
    [
        ("v1", [16, 32, 64, 64, 128, 128, 128, 128]),
        ("v2", [16, 32, 64, 64, 128, 128, 128, 128, 128, 128]),
        ("v3", [16, 32, 64, 64, 128, 128, 128, 128, 128, 256]),
        ("v4", [16, 32, 64, 64, 128, 128, 128, 128, 256, 256]),
    ],
)
def test_vgg11_plans(plan, channels):
    with torch.device("meta"):
        model = make("kaconv_vgg11", plan=plan)
    assert [len(m.norm.weight) for m in model.modules() if isinstance(m, KAConv)] == channels
    assert all(isinstance(m.norm, nn.BatchNorm2d) for m in model.modules() if isinstance(m, KAConv))
    assert sum(isinstance(m, nn.MaxPool2d) for m in model.modules()) == len(model.stages) - 1


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("kaconv4_28", 4),
        ("kaconv8_28", 8),
        ("kaconv_vgg11", 8),  # as the ordinary nets, whose last layers are linear
        ("kaconv_vgg13", 10),
        ("kaconv_vgg16", 13),
        ("kaconv_vgg19", 16),
        ("kaconv_resnet18", 1 + 16 + 3),  # the stem, two in each block, and the shortcuts where the shape changes
        ("kaconv_resnet34", 1 + 32 + 3),
    ],
)
def test_number_of_layers(name, layers):
    plan = {"plan": "v1"} if "vgg" in name else {}
    with torch.device("meta"):
        assert sum(isinstance(m, KAConv) for m in make(name, **plan).modules()) == layers


@pytest.mark.parametrize(
    ("name", "sides"),
    [
        ("kaconv4_28", [28, 14, 7, 7]),
        ("kaconv8_28", [28, 14, 7, 7, 7, 4, 4, 4]),
        ("kaconv_vgg11", [28, 14, 7, 4, 2, 1]),
        ("kaconv_resnet18", [28, 28, 14, 7, 4]),
    ],
)
def test_resolutions_follow_the_strides_and_odd_sizes_are_halved_upwards(name, sides):
    model = make(name, width=0.1).eval()
    maps = model.forward_intermediates(images(1, 1, 28, 28), intermediates_only=True)
    assert [m.shape[-1] for m in maps] == sides
    assert [-(-28 // info["reduction"]) for info in model.feature_info] == sides
    assert [m.shape[1] for m in maps] == [info["num_chs"] for info in model.feature_info]


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("bottleneck", [None, 2])
def test_the_first_layer_is_never_grouped_and_all_others_are(name, bottleneck):
    with torch.device("meta"):
        model = make(name, width=0.3, groups=4, in_chans=3, bottleneck=bottleneck)
    layers = [m for m in model.modules() if isinstance(m, KAConv | BottleneckKAConv)]
    assert all(isinstance(m, KAConv if bottleneck is None else BottleneckKAConv) for m in layers)
    groups = [(m.conv if bottleneck is None else m.conv[0]).groups for m in layers]
    assert groups == [1] + [4] * (len(layers) - 1)


@pytest.mark.parametrize("name", NETS)
def test_width_keeps_multiples_of_the_groups(name):
    for info in make(name, width=0.11, groups=4).feature_info:
        assert info["num_chs"] % 4 == 0
        assert info["num_chs"] >= 4


@pytest.mark.parametrize("bottleneck", [None, 2])
@pytest.mark.parametrize("name", NETS)
def test_the_linear_twin_is_the_same_net_without_functions(name, bottleneck):
    shape = {"width": 0.2, "bottleneck": bottleneck}
    twin, model = make(name, layer="linear", **shape), make(name, **shape)

    def outline(net: nn.Module) -> list[tuple[str, int]]:
        return [(key, len(m.norm.weight)) for key, m in net.named_modules() if isinstance(m, KAConv | BottleneckKAConv)]

    assert outline(twin) == outline(model)
    assert not any(hasattr(m, "basis") for m in twin.modules())
    assert count_parameters(twin) < count_parameters(model)


@pytest.mark.parametrize("name", ["kaconv4_28", "kaconv_vgg11", "kaconv_resnet18"])
def test_width_finds_a_twin_of_equal_parameters(name):
    def build(width: float) -> nn.Module:
        with torch.device("meta"):
            return timm.create_model(name, layer="linear", width=width, **GRAY)

    assert abs(match_width(build, count(name, width=0.25), by="params").residual) < 0.05


@pytest.mark.parametrize("stem_stride", [1, 4])
def test_stem_stride_of_the_resnet(stem_stride):
    model = make("kaconv_resnet18", width=0.1, stem_stride=stem_stride).eval()
    assert model.forward_features(images(1, 1, 64, 64)).shape[-1] == 64 // stem_stride // 8


def test_pool_grid_gives_every_cell_its_own_weights():
    model = make("kaconv_vgg11", plan="v1", width=0.2, pool_grid=3).eval()
    assert count_parameters(model.head) == model.num_features * 9 * 10 + 10
    x = images(2, 1, 56, 40)
    features = model.forward_head(model.forward_features(x), pre_logits=True)
    cells = F.adaptive_avg_pool2d(model.forward_features(x), 3).flatten(1)
    torch.testing.assert_close(features, cells)
    assert features.shape == (2, model.head_hidden_size)
    torch.testing.assert_close(model(x), model.head.fc(cells))
    model.reset_classifier(4)
    assert model(x).shape == (2, 4)
    model.reset_classifier(0)
    torch.testing.assert_close(model(x), features)


# Behaviour ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NETS)
def test_every_kind_trains_in_every_net(name, kind):
    model = make(name, width=0.12, layer=kind, groups=2, drop_rate=0.1, layer_kwargs={"dropout": 0.1}).train()
    loss = F.cross_entropy(model(images(8, 1, 17, 20)), torch.arange(8))
    loss.backward()
    assert loss.item() < 2.5 * 2.303  # ln 10, with channels dropped
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key


@pytest.mark.parametrize("kind", BOTTLENECK_KINDS)
def test_every_bottleneck_kind_trains(kind):
    model = make("kaconv4_28", width=0.2, layer=kind, bottleneck=2, layer_kwargs={"norm": "batch"}).train()
    F.cross_entropy(model(images(8, 1, 14, 14)), torch.arange(8)).backward()
    assert all(p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_loss_on_balanced_labels_starts_near_ln_k(kind):
    model = make("kaconv4_28", width=0.25, layer=kind)
    loss = F.cross_entropy(model(images(40, 1, 14, 14)), torch.arange(40) % 10)
    assert loss.item() < 1.3 * 2.303


def train(model: nn.Module, steps: int) -> tuple[list[float], float]:
    """Losses on one batch of 16 random images, and the accuracy on it at the end."""
    x, y = images(16, 1, 12, 12), torch.arange(16) % 10
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, (model(x).argmax(1) == y).float().mean().item()


@pytest.mark.parametrize("kind", ["gram", "rbf", "linear"])
def test_one_batch_is_memorised(kind):
    assert train(make("kaconv4_28", width=0.25, layer=kind), steps=60)[1] == 1


def test_same_seed_same_losses():
    first, second = (train(make("kaconv4_28", width=0.1), steps=20)[0] for _ in range(2))
    assert first == second


@pytest.mark.parametrize("kind", ["chebyshev", "wavelet"])
def test_layers_without_activation_do_not_collapse_because_their_norm_is_batch(kind):
    # Behind an instance norm alone, the mean of every map is its offset: the classifier sees the same of all images.
    x = images(2, 1, 8, 8)
    collapsed = make("kaconv4_28", width=0.15, layer=kind, layer_kwargs={"norm": "instance"})
    torch.testing.assert_close(*collapsed(x), atol=1e-5, rtol=1e-5)
    model = make("kaconv4_28", width=0.15, layer=kind)
    assert (model(x)[0] - model(x)[1]).abs().max() > 0.01
    assert train(model, steps=40)[1] == 1


def test_no_weight_decay_names_parameters():
    model = make("kaconv_resnet18", width=0.1, layer="relu-kan")
    names = model.no_weight_decay()
    assert names <= dict(model.named_parameters()).keys()
    assert len(names) == 2 * 20  # centres and widths of every layer
    assert make("kaconv4_28", width=0.1, layer="linear").no_weight_decay() == set()


def test_a_net_of_wavelets_can_be_exported():
    model, x = make("kaconv4_28", width=0.1, layer="wavelet").eval(), images(2, 1, 8, 8)
    program = torch.export.export(model, (x,))
    torch.testing.assert_close(program.module()(x), model(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("kaconv4_28", {"layer": "gr-kan"}, "unknown kind of KA-convolution 'gr-kan'"),
        ("kaconv4_28", {"layer": "gram("}, "cannot read the layer 'gram\\('"),
        ("kaconv4_28", {"layer": "gram", "layer_kwargs": {"grid": 3}}, "'gram'.*grid"),
        ("kaconv4_28", {"channels": (8, 8)}, "strides must be as many as channels, 2"),
        ("kaconv4_28", {"img_size": 4}, "at least 5 x 5 pixels"),
        ("kaconv_vgg11", {"plan": "v5"}, "plan must be one of v1, v2, v3, v4, got 'v5'"),
        ("kaconv_vgg11", {"depth": 12}, "depth must be one of 11, 13, 16, 19, got 12"),
        ("kaconv_vgg11", {"pool_grid": 0}, "pool_grid must be at least 1"),
        ("kaconv_resnet18", {"depths": (1, 1)}, "depths must be as many as channels, 4"),
    ],
    ids=str,
)
def test_errors_name_the_argument(name, arguments, message):
    with pytest.raises(KANError, match=message):
        make(name, **arguments)
