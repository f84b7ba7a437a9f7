"""U-KAGNet and the plain U-Net from the same code (KA-convolution card, sections 4, 5 and 8)."""

from __future__ import annotations

import copy

import numpy as np
import onnxruntime
import pytest
import torch
from torch.nn import functional as F

from kan_core import KANError
from kan_core.compare import count_parameters, match_width
from kan_core.layers import kan_layers
from kan_vision.layers.ka_conv import BottleneckKAConv, KAConv
from kan_vision.models._segmenter import SEGMENTERS, create_segmenter
from kan_vision.models.ukagnet import UKAGNet

VARIANTS = {
    "gram": {},
    "bottleneck": {"bottleneck": 4},
    "grouped": {"groups": 2},
    "attention": {"mixer": "attention"},
    "focal": {"mixer": "focal", "mixer_kwargs": {"full": True, "post_norm": True}},
    "linear": {"layer": "linear"},
    "chebyshev": {"layer": "chebyshev(degree=2)", "layer_kwargs": {"norm": "batch"}},
}


def make(variant: str, **kwargs) -> UKAGNet:
    torch.manual_seed(0)
    return UKAGNet(**{"in_chans": 2, "num_classes": 3, "depth": 3, "width": 0.25, **VARIANTS[variant], **kwargs})


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest) -> str:
    return request.param


# Parameter counts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kwargs", "card"),
    [
        ({"depth": 4}, 2_434_361),
        ({"depth": 5}, 9_808_713),
        ({"depth": 4, "bottleneck": 4}, 788_982),
        ({"depth": 5, "bottleneck": 4}, 3_043_334),
    ],
    ids=str,
)
def test_counts_are_the_card_s_with_its_two_dead_weights_per_layer(kwargs, card):
    with torch.device("meta"):
        net = UKAGNet(3, 1, **kwargs)
    convolutions = [part for part in net.modules() if isinstance(part, KAConv | BottleneckKAConv)]
    assert len(convolutions) == 2 * kwargs["depth"] + 2 * (kwargs["depth"] - 1)
    assert count_parameters(net) + 2 * len(convolutions) == card


def test_the_plain_u_net_s_count_is_its_closed_form():
    pairs = [(3, 16), (16, 16), (16, 32), (32, 32), (32, 64), (64, 64), (64, 128), (128, 128)]
    pairs += [(192, 64), (64, 64), (96, 32), (32, 32), (48, 16), (16, 16)]
    with torch.device("meta"):
        net = create_segmenter("unet")
    assert count_parameters(net) == sum(9 * i * o + 2 * o for i, o in pairs) + 16 + 1 == 488_001


@pytest.mark.parametrize("layers", [1, 3])
def test_layers_is_the_number_of_convolutions_per_level(layers):
    net = make("linear", layers=layers)
    assert [len(level) for level in (*net.encoder, *net.decoder)] == [layers] * 5


def test_strides_and_widths():
    net = make("linear", depth=4, width=0.5)
    x, shapes = torch.randn(1, 2, 32, 48), []
    for level in net.encoder:
        x = level(x)
        shapes.append(tuple(x.shape[1:]))
    assert shapes == [(8, 32, 48), (16, 16, 24), (32, 8, 12), (64, 4, 6)]


# Behaviour ------------------------------------------------------------------------------------------------------------


def test_odd_sizes_meet_their_skips(variant):
    net, x = make(variant).eval(), torch.randn(1, 2, 65, 97)
    assert net(x).shape == net.forward_logits(x).shape == (1, 3, 65, 97)
    assert net(x).isfinite().all()


def test_upsampling_goes_to_the_skip_s_size_with_aligned_corners():
    net, x = make("linear", depth=2).eval(), torch.randn(1, 2, 7, 10)
    skip = net.encoder[0](x)
    below = net.encoder[1](skip)
    assert below.shape[-2:] == (4, 5)
    up = F.interpolate(below, (7, 10), mode="bilinear", align_corners=True)
    torch.testing.assert_close(up[..., ::6, ::9], below[..., ::3, ::4])  # the corners
    torch.testing.assert_close(net.forward_logits(x), net.head(net.decoder[0](torch.cat([skip, up], 1))))


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (8, 8), (9, 30)], ids=str)
def test_an_image_smaller_than_the_multiple_is_padded(size):
    net = make("gram").train()
    assert net.multiple == 8
    assert net(torch.randn(2, 2, *size)).shape == (2, 3, *size)


def test_every_parameter_has_a_gradient(variant):
    net = make(variant).train()
    y = net(torch.randn(2, 2, 24, 16))
    (y * torch.randn_like(y)).mean().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("norm", ["instance", "batch"])
@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("variant", ["gram", "bottleneck", "attention", "linear"])
def test_the_gradient_is_the_numeric_one(variant, images, norm):
    net = make(variant, depth=2, layer_kwargs={"norm": norm}).double()
    x = torch.randn(images, 2, 12, 8, dtype=torch.float64)
    incoming = torch.randn(images, 3, 12, 8, dtype=torch.float64)
    gradients = torch.autograd.grad(net(x), list(net.parameters()), incoming)
    directions = [torch.randn_like(parameter) for parameter in net.parameters()]
    values = []
    with torch.no_grad():
        for step in (1e-6, -2e-6):
            for parameter, direction in zip(net.parameters(), directions, strict=True):
                parameter.add_(direction, alpha=step)
            values.append((net(x) * incoming).sum())
    wanted = (values[0] - values[1]) / 2e-6
    got = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True))
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)


def test_an_image_does_not_depend_on_its_batch_in_eval(variant):
    net, x = make(variant).double(), torch.randn(3, 2, 24, 16, dtype=torch.float64)
    net(x)  # running statistics, where there are any
    net.eval()
    torch.testing.assert_close(net(x), torch.cat([net(image[None]) for image in x]))


def test_groups_see_only_their_own_channels_and_the_first_convolution_sees_all():
    net = make("grouped")
    first, second = net.encoder[0]
    assert first.conv.groups == 1
    assert second.conv.groups == 2
    assert net.decoder[-1][0].conv.groups == 2
    assert UKAGNet(3, 1, depth=2, width=0.3, groups=4, layer="linear").encoder[0][0].conv.out_channels == 4


@pytest.mark.parametrize("variant", ["gram", "bottleneck", "focal"])
def test_the_linear_twin_is_the_same_net_with_ordinary_convolutions(variant):
    arguments = {"in_chans": 2, "num_classes": 3, "depth": 3, "width": 0.25, **VARIANTS[variant]}
    kwargs = UKAGNet.twin_kwargs({**arguments, "layer_kwargs": {"dropout": 0.1}})
    size = count_parameters(UKAGNet(**arguments))
    twin = UKAGNet(**kwargs)
    assert not kan_layers(twin)
    assert [name for name, _ in twin.named_children()] == [name for name, _ in make(variant).named_children()]
    match = match_width(lambda width: UKAGNet(**{**kwargs, "width": width}), size)
    assert abs(count_parameters(UKAGNet(**{**kwargs, "width": match.width})) / size - 1) < 0.1


def test_the_twin_drops_what_only_functions_take():
    mixer_kwargs = {"layer": "gram(degree=2)", "layer_kwargs": {"norm": "batch"}, "levels": 1}
    kwargs = UKAGNet.twin_kwargs({"depth": 2, "layer": "gram", "mixer": "focal", "mixer_kwargs": mixer_kwargs})
    assert kwargs == {
        "depth": 2,
        "layer": "linear",
        "layer_kwargs": None,
        "mixer": "focal",
        "mixer_kwargs": {"levels": 1},
    }
    assert not kan_layers(UKAGNet(**kwargs))


def test_the_published_block_is_the_base_convolution_when_the_functions_weigh_nothing():
    net = make("gram").eval()
    with torch.no_grad():
        for part in net.modules():
            if isinstance(part, KAConv):
                part.conv.weight[:, :-1] = 0  # all planes but the base's
    block, x = net.encoder[1][0], torch.randn(1, 4, 8, 8)
    base = F.conv2d(F.silu(x), block.conv.weight[:, -1], stride=2, padding=1)
    torch.testing.assert_close(block(x), F.silu(F.instance_norm(base)))


def test_deepcopy_and_state_dict(variant):
    net, other, x = make(variant).eval(), make(variant).eval(), torch.randn(1, 2, 16, 16)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.01)
    assert not torch.equal(net(x), other(x))
    other.load_state_dict(net.state_dict())
    assert torch.equal(net(x), other(x))
    assert torch.equal(copy.deepcopy(net)(x), net(x))


# Registry and errors --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind"), [("ukagnet_small", KAConv), ("ukagnet_bottleneck", BottleneckKAConv), ("unet", KAConv)]
)
def test_registered_presets(name, kind):
    assert name in SEGMENTERS.names()
    net = create_segmenter(name, in_chans=4, num_classes=2, width=0.25)
    assert isinstance(net.encoder[0][0], kind)
    assert bool(kan_layers(net)) == (name != "unet")
    assert net.multiple == 16
    assert net(torch.randn(1, 4, 20, 17)).shape == (1, 2, 20, 17)


def test_an_argument_that_the_net_does_not_have_is_named():
    with pytest.raises(KANError, match=r"segmentation model 'unet' .*'widht'"):
        create_segmenter("unet", widht=2.0)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"depth": 0}, "depth, layers and groups must be at least 1, got depth=0, layers=2, groups=1"),
        ({"layers": 0}, "got depth=4, layers=0, groups=1"),
        ({"groups": 0}, "got depth=4, layers=2, groups=0"),
        ({"mixer": "fokal"}, "mixer must be attention, focal or, without mixer_kwargs, None, got 'fokal'"),
        ({"mixer_kwargs": {"levels": 1}}, "without mixer_kwargs, None, got None and mixer_kwargs {'levels': 1}"),
        ({"layer": "gramm"}, "unknown kind of KA-convolution 'gramm'"),
        ({"layer": "linear(degree=3)"}, "the kind 'linear' takes no options, got degree"),
        ({"layer": "rbf", "bottleneck": 4}, "unknown kind of KA-convolution 'rbf': choose one of linear, bspline"),
        ({"in_chans": 0}, "in_chans must be at least 1, got 0"),
    ],
    ids=str,
)
def test_it_refuses(kwargs, message):
    with pytest.raises(KANError, match=message):
        UKAGNet(**kwargs)


# Export and training --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["bottleneck", "attention", "focal", "linear"])
def test_export_of_the_whole_model(variant):
    net, x = make(variant, depth=2, layers=1).eval(), torch.randn(1, 2, 19, 24)
    program = torch.export.export(net, (x,))
    torch.testing.assert_close(program.module()(x), net(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("variant", ["gram", "linear"])
def test_the_onnx_file_runs(variant, tmp_path):
    net, x = make(variant, depth=2, layers=1).eval(), torch.randn(1, 2, 19, 24)
    torch.onnx.export(net, (x,), tmp_path / "net.onnx", dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert np.abs(got - net(x).detach().numpy()).max() <= 1e-4


@pytest.mark.parametrize("variant", ["gram", "bottleneck", "linear"])
def test_one_image_is_memorised(variant):
    generator = torch.Generator().manual_seed(0)
    rows, columns = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    mask = ((rows - 11) ** 2 + (columns - 18) ** 2 < 60).float() + ((rows > 24) & (columns < 9)).float()
    image = mask + 0.5 * torch.randn(32, 32, generator=generator)
    net = make(variant, in_chans=1, num_classes=1, depth=2)
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-2)
    for _ in range(40):
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(net(image[None, None])[0, 0], mask).backward()
        optimizer.step()
    found = net.eval()(image[None, None])[0, 0] > 0
    assert (found & mask.bool()).sum() / (found | mask.bool()).sum() > 0.95
