"""What the card rkan.md says: the shared KAN kernel, the branch, and the plug-in for timm's nets."""

from __future__ import annotations

import copy
import pickle

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.densenet import DenseNet
from timm.models.efficientnet import EfficientNet
from timm.models.regnet import RegNet, RegNetCfg
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from timm.optim import create_optimizer_v2
from torch import nn
from torch.nn import functional as F

from kan_core import KANError
from kan_core.compare import count_parameters
from kan_core.layers import kan_layers
from kan_vision.layers.shared_kernel_conv import SharedKernelConv2d
from kan_vision.models.rkan import RKANBlock, RKANResNet, RKANStage, add_rkan, checkpoint_filter_fn

F64 = torch.float64
LAYERS = ("chebyshev", "legendre", "jacobi", "hermite", "rbf", "bspline", "linear")


def resnet(block=BasicBlock, **kwargs) -> ResNet:
    return ResNet(**{"block": block, "layers": (1, 1, 1, 1), "channels": (8, 8, 16, 16), "num_classes": 5, **kwargs})


def small(**kwargs) -> RKANResNet:
    return RKANResNet(
        **{"block": BasicBlock, "layers": (1, 1, 1, 1), "channels": (8, 8, 16, 16), "num_classes": 5, **kwargs}
    )


HOSTS = {
    "resnet": (resnet, (3, 4)),
    "resnext-se": (
        lambda: resnet(Bottleneck, cardinality=4, base_width=16, block_args={"attn_layer": "se"}),
        (4,),
    ),
    "regnet": (lambda: RegNet(RegNetCfg(w0=16, wa=16.0, wm=2.0, group_size=8, depth=6), num_classes=5), (3, 4)),
    "densenet": (
        lambda: DenseNet(growth_rate=8, block_config=(1, 2, 1, 2), num_classes=5),
        (3, "features.denseblock4"),
    ),
}


@pytest.fixture(params=HOSTS)
def host_and_stages(request: pytest.FixtureRequest):
    make, stages = HOSTS[request.param]
    torch.manual_seed(0)
    return make().eval(), stages


# --- the shared kernel (section 2) -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("layer", "count"), [("chebyshev(degree=3)", 54), ("chebyshev(degree=2)", 45), ("linear", 9)])
def test_parameters_of_the_kernel_do_not_depend_on_channels(layer, count):
    conv = SharedKernelConv2d(layer)
    assert count_parameters(conv) == count
    for channels in (1, 7):
        assert conv(torch.randn(2, channels, 6, 5)).shape == (2, channels, 6, 5)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(5, 5), (7, 6)], ids=str)
def test_equals_the_sum_over_taps_of_the_card(stride, size):
    conv = SharedKernelConv2d("chebyshev(degree=3)", stride=stride).to(F64)
    x = torch.randn(2, 3, *size, dtype=F64)
    with torch.no_grad():
        conv.conv.scale.uniform_(-1, 1)
    a, w = conv.conv.weight[0, :4, 0], conv.conv.weight[0, 4, 0]
    s = conv.conv.scale[0, 0, 0]
    padded = F.pad(x, [1, 1, 1, 1])  # zeros go through the functions
    shape = [(n - 1) // stride + 1 for n in size]
    expected = torch.zeros(2, 3, *shape, dtype=F64)
    for u in range(3):
        for v in range(3):
            tap = padded[:, :, u : u + size[0] : stride, v : v + size[1] : stride]
            angle = tap.tanh().arccos()
            polynomial = sum(a[j, u, v] * torch.cos(j * angle) for j in range(4))
            expected += w[u, v] * tap + s[u, v] * polynomial
    torch.testing.assert_close(conv(x), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("layer", LAYERS)
def test_permuting_channels_permutes_the_output(layer):
    conv, x, order = SharedKernelConv2d(layer), torch.randn(2, 6, 5, 5), torch.randperm(6)
    torch.testing.assert_close(conv(x[:, order]), conv(x)[:, order])


def test_without_functions_it_is_a_depthwise_convolution_of_one_kernel():
    conv, x = SharedKernelConv2d("chebyshev(degree=3)", stride=2).to(F64), torch.randn(2, 5, 7, 7, dtype=F64)
    with torch.no_grad():
        conv.conv.scale.zero_()
    kernel = conv.conv.weight[:, -1].expand(5, 1, 3, 3)
    expected = F.conv2d(x, kernel, stride=2, padding=1, groups=5)
    torch.testing.assert_close(conv(x), expected, atol=1e-12, rtol=0)
    linear = SharedKernelConv2d("linear", stride=2).to(F64)
    with torch.no_grad():
        linear.conv.weight.copy_(conv.conv.weight[:, -1:, 0])
    torch.testing.assert_close(linear(x), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize(("degree", "at_zero"), [(0, 1.0), (1, 0.0), (2, -1.0), (3, 0.0)])
def test_chebyshev_at_zero_counts_the_taps_and_fewer_at_the_border_without_input_padding(degree, at_zero):
    inside = SharedKernelConv2d("chebyshev(degree=3)").to(F64)
    outside = SharedKernelConv2d("chebyshev(degree=3)", padding_mode="zeros").to(F64)
    with torch.no_grad():
        for conv in (inside, outside):
            conv.conv.weight.zero_()
            conv.conv.weight[:, degree] = 1
    x = torch.zeros(1, 2, 4, 4, dtype=F64)
    counts = F.conv2d(torch.ones(1, 1, 4, 4, dtype=F64), torch.ones(1, 1, 3, 3, dtype=F64), padding=1)
    assert counts[0, 0, 0, :2].tolist() == [4, 6]
    torch.testing.assert_close(inside(x), torch.full_like(x, 9 * at_zero))
    torch.testing.assert_close(outside(x), (counts * at_zero).expand(1, 2, 4, 4))


def test_start_of_the_kernel():
    kernel = SharedKernelConv2d("chebyshev(degree=3)", kernel_size=51).conv
    coefficients, linear = kernel.weight[0, :4], kernel.weight[0, 4]
    assert coefficients.std().item() == pytest.approx((51**2 * 4) ** -0.5, rel=0.05)  # 1/sqrt(taps (D + 1))
    assert linear.std().item() == pytest.approx((2 / 51**2) ** 0.5, rel=0.05)  # Kaiming normal
    assert (kernel.scale == 1).all()
    assert kernel.bias is None


# --- the branch (sections 1 and 3) -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("c_in", "c_out", "expand", "last", "count"),
    [
        (1024, 2048, 0.5, True, 1_578_083),
        (1024, 2048, 2, True, 6_299_747),
        (1024, 2048, 4, True, 12_595_299),
        (1024, 2048, 6, True, 18_890_851),
        (512, 1024, 0.5, False, 395_830),
        (256, 512, 0.5, True, 99_683),
    ],
)
def test_card_section_3_parameters_of_a_branch(c_in, c_out, expand, last, count):
    with torch.device("meta"):
        branch = RKANBlock(c_in, c_out, expand=expand, last=last)
    assert count_parameters(branch) == count
    m = round(c_in * expand)
    assert count == c_in * m + m * c_out + 2 * m + 2 * c_out + 54 + 45 * last


@pytest.mark.parametrize(
    ("name", "kwargs", "total"),
    [
        ("rkan_resnet18", {}, 11_689_512 + 99_683),
        ("rkan_resnet34", {}, 21_797_672 + 99_683),
        ("rkan_resnet50", {}, 27_135_115),
        ("rkan_resnet50", {"expand": 2}, 31_856_779),
        ("rkan_resnet50", {"layer": "linear"}, 27_135_115 - 99 + 18),
        ("rkan_resnet101", {"num_classes": 100, "stages": (3, 4)}, 44_678_973),
        ("rkan_resnet152", {}, 60_192_808 + 1_578_083),
    ],
    ids=str,
)
def test_card_section_3_exact_totals(name, kwargs, total):
    with torch.device("meta"):
        assert count_parameters(timm.create_model(name, **kwargs)) == total


@pytest.mark.parametrize(
    ("host", "classes", "totals"),
    [
        ("resnet50", 1000, {0.5: 27_135_115, 2: 31_856_779, 4: 38_152_331, 6: 44_447_883}),
        ("resnet101", 100, {0.5: 44_283_143, 2: 49_004_807, 4: 55_300_359, 6: 61_595_911}),
    ],
)
def test_card_section_3_totals_are_host_plus_branch(host, classes, totals):
    with torch.device("meta"):
        own = count_parameters(timm.create_model(host, num_classes=classes))
        branches = {expand: count_parameters(RKANBlock(1024, 2048, expand=expand, last=True)) for expand in totals}
    assert {expand: own + branch for expand, branch in branches.items()} == totals


def test_width_scales_the_branch_and_leaves_the_host():
    one, two = small(), small(width=2.0)
    assert two.layer4.rkan.reduce.out_channels == 2 * one.layer4.rkan.reduce.out_channels == 16
    host = {key: value.shape for key, value in one.state_dict().items() if ".rkan." not in key}
    assert host == {key: value.shape for key, value in two.state_dict().items() if ".rkan." not in key}


@pytest.mark.parametrize("layer", LAYERS)
def test_every_layer_runs_and_trains(layer):
    net = small(layer=layer, zero_init=False, in_chans=1, stages=(3, 4))
    net(torch.randn(4, 1, 28, 28)).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    assert len(kan_layers(net)) == (0 if layer == "linear" else 3)


@pytest.mark.parametrize("layer", ["chebyshev", "legendre", "jacobi", "hermite"])
def test_a_bare_polynomial_has_degree_3_and_then_2(layer):
    block = RKANBlock(8, 8, last=True, layer=layer)
    assert [block.kan1.conv.basis.degree, block.kan2.conv.basis.degree] == [3, 2]
    if layer == "jacobi":
        assert block.kan1.conv.basis.alpha == block.kan1.conv.basis.beta == 0.5
    named = RKANBlock(8, 8, last=True, layer=f"{layer}(degree=5)")
    assert [named.kan1.conv.basis.degree, named.kan2.conv.basis.degree] == [5, 5]


def test_the_second_kan_convolution_is_in_the_last_stage_only():
    net = small(stages=(1, 2, 3, 4))
    stages = [net.layer1, net.layer2, net.layer3, net.layer4]
    assert [isinstance(stage.rkan.kan2, nn.Identity) for stage in stages] == [True, True, True, False]
    assert [stage.rkan.kan1.conv.stride for stage in stages] == [(1, 1), (2, 2), (2, 2), (2, 2)]


@pytest.mark.parametrize("size", [28, 33, 65, 97, 224])
def test_branch_and_stage_have_one_shape_at_odd_sizes(size):
    """33, 65 and 97 px give maps of 5 and 7 before the stages with stride 2."""
    net = small(stages=(1, 2, 3, 4), zero_init=False).eval()
    with torch.no_grad():
        assert net(torch.randn(1, 3, size, size)).isfinite().all()


def test_a_host_without_stride_in_its_last_stage_has_a_branch_without():
    net = small(output_stride=16)
    assert net.layer4.rkan.kan1.conv.stride == (1, 1)
    assert net.forward_features(torch.zeros(2, 3, 64, 64)).shape == (2, 16, 4, 4)


def test_gates_lie_between_zero_and_one_and_one_gives_the_host():
    block = RKANBlock(4, 6, stride=1, aggregate="gate", zero_init=False).eval()
    x, stage = torch.randn(2, 4, 5, 5), 10 * torch.randn(2, 6, 5, 5)
    seen = []
    block.aggregate.conv.register_forward_hook(lambda module, args, out: seen.append(torch.sigmoid(out)))
    branch = RKANBlock.forward(copy.deepcopy(block), x, torch.zeros_like(stage))
    y = block(x, stage)
    gate = seen[-1]
    assert gate.shape == (2, 1, 5, 5)
    assert ((gate >= 0) & (gate <= 1)).all()
    r = branch / (1 - seen[0])  # of a stage of zeros only r (1 - g) is left
    torch.testing.assert_close(y, stage * gate + r * (1 - gate), atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        block.aggregate.conv.weight.zero_()
        block.aggregate.conv.bias.fill_(200.0)
    assert torch.equal(block(x, stage), stage)


def test_squeeze_and_excitation_scales_each_channel_of_the_branch():
    torch.manual_seed(0)
    plain, squeezed = RKANBlock(4, 32, zero_init=False).eval(), RKANBlock(4, 32, zero_init=False, aggregate="se").eval()
    squeezed.load_state_dict(plain.state_dict(), strict=False)
    x, stage = torch.randn(2, 4, 6, 6), torch.randn(2, 32, 3, 3)
    factor = (squeezed(x, stage) - stage) / (plain(x, stage) - stage)
    torch.testing.assert_close(factor, factor[..., :1, :1].expand_as(factor), atol=1e-3, rtol=1e-3)
    assert ((factor > 0) & (factor < 1)).all()


# --- the plug-in (section 6) -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("aggregate", ["add", "se"])
def test_with_a_last_gamma_of_zero_the_host_is_unchanged(host_and_stages, aggregate):
    host, stages = host_and_stages
    x = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        before = host(x)
        assert torch.equal(add_rkan(host, stages, aggregate=aggregate)(x), before)


def test_the_host_keeps_its_keys_and_branches_have_their_own(host_and_stages):
    host, stages = host_and_stages
    keys = list(host.state_dict())
    parameters = dict(host.named_parameters())
    add_rkan(host, stages)
    own = [key for key in host.state_dict() if ".rkan." not in key]
    assert own == keys
    assert all(dict(host.named_parameters())[key] is value for key, value in parameters.items())
    assert {key.split(".rkan.")[0] for key in host.state_dict() if ".rkan." in key} == {
        name for name, module in host.named_modules() if isinstance(module, RKANStage)
    }
    assert len([m for m in host.modules() if isinstance(m, RKANStage)]) == len(stages)


def test_intermediates_checkpointing_and_copies_see_the_branch(host_and_stages):
    host, stages = host_and_stages
    x = torch.randn(2, 3, 48, 48)
    plain = host.forward_features(x)
    net = add_rkan(host, stages, zero_init=False)
    y = net.forward_features(x)
    assert y.shape == plain.shape
    assert not torch.allclose(y, plain)
    last, maps = net.forward_intermediates(x)
    torch.testing.assert_close(last, y)
    assert [m.shape[1] for m in maps] == [info["num_chs"] for info in net.feature_info]
    net(x).sum().backward()
    gradients = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    net.set_grad_checkpointing(True)
    torch.testing.assert_close(net.forward_features(x), y)
    torch.testing.assert_close(net.forward_intermediates(x)[0], y)
    net(x).sum().backward()
    torch.testing.assert_close([p.grad for p in net.parameters()], gradients)
    net.set_grad_checkpointing(False)
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        torch.testing.assert_close(twin.forward_features(x), y)
        with torch.no_grad():
            for parameter in twin.parameters():
                parameter.zero_()
        assert not torch.allclose(twin.forward_features(x), y)  # the hidden stage is the copy's own
    torch.testing.assert_close(net.forward_features(x), y)


def test_mode_and_type_changes_reach_the_hidden_stage(host_and_stages):
    host, stages = host_and_stages
    net = add_rkan(host, stages, zero_init=False)
    net.train()
    stage = next(m for m in net.modules() if isinstance(m, RKANStage))
    assert stage._stage[0].training
    net(torch.randn(2, 3, 48, 48))
    net.eval()
    assert not any(m.training for m in [*net.modules(), *stage._stage[0].modules()])
    x = torch.randn(1, 3, 48, 48)
    expected = net(x)
    torch.testing.assert_close(net.to(F64)(x.to(F64)).float(), expected, atol=1e-4, rtol=1e-4)


def test_an_efficientnet_takes_a_branch_too():
    host = EfficientNet(
        block_args=timm.models._efficientnet_builder.decode_arch_def([["ds_r1_k3_s1_c8"], ["ir_r1_k3_s2_e2_c16"]]),
        num_classes=5,
        stem_size=8,
        num_features=16,
    ).eval()
    add_rkan(host, (4,))
    assert isinstance(host.blocks[1], RKANStage)
    assert not isinstance(host.blocks[1].rkan.kan2, nn.Identity)
    assert host(torch.randn(1, 3, 32, 32)).shape == (1, 5)


def test_plugging_in_leaves_modes_and_running_statistics_as_they_were():
    host = resnet().train()
    host.layer1.eval()
    host.layer4[0].bn1.eval()
    modes = {name: module.training for name, module in host.named_modules()}
    before = {key: value.clone() for key, value in host.state_dict().items()}
    add_rkan(host)
    assert {name: host.get_submodule(name).training for name in modes} == modes
    assert all(torch.equal(host.state_dict()[key], value) for key, value in before.items())
    assert not any(m._forward_hooks for m in host.modules())


def test_a_frozen_host_in_half_precision_has_a_branch_of_its_type():
    host = add_rkan(resnet().bfloat16().eval())
    assert {p.dtype for p in host.parameters()} == {torch.bfloat16}
    assert host(torch.randn(1, 3, 32, 32, dtype=torch.bfloat16)).isfinite().all()


def test_every_branch_parameter_moves_within_two_steps():
    net = small(stages=(3, 4), in_chans=1)
    before = {key: value.clone() for key, value in net.named_parameters()}
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(2):  # in the first step the last gamma leaves 0
        optimizer.zero_grad()
        F.cross_entropy(net(torch.randn(8, 1, 40, 40)), torch.arange(8) % 5).backward()
        optimizer.step()
    assert not [key for key, value in net.named_parameters() if torch.equal(value, before[key])]


def test_features_only_has_the_hosts_feature_info():
    host = timm.create_model("resnet18", features_only=True)
    net = timm.create_model("rkan_resnet18", features_only=True, stages=(3, 4), zero_init=False).eval()
    assert net.feature_info.channels() == host.feature_info.channels()
    assert net.feature_info.reduction() == host.feature_info.reduction()
    x = torch.randn(1, 3, 64, 64)
    maps = net(x)
    assert [m.shape[1:] for m in maps] == [m.shape[1:] for m in host(x)]
    torch.testing.assert_close(net.layer4(maps[-2]), maps[-1])
    assert any(".rkan." in key for key in net.state_dict())


def test_host_weights_load_strictly_through_the_filter(tmp_path):
    torch.manual_seed(0)
    host = timm.create_model("resnet18", num_classes=7).eval()
    save_file(host.state_dict(), tmp_path / "host.safetensors")
    overlay = {"file": str(tmp_path / "host.safetensors"), "num_classes": 7}
    net = timm.create_model("rkan_resnet18", pretrained=True, num_classes=7, pretrained_cfg_overlay=overlay).eval()
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(net(x), host(x))
    gray = timm.create_model(
        "rkan_resnet18", pretrained=True, num_classes=7, in_chans=1, pretrained_cfg_overlay=overlay
    )
    torch.testing.assert_close(gray.conv1.weight, host.conv1.weight.sum(1, keepdim=True))


def test_the_filter_does_not_hide_missing_keys():
    net = small()
    weights = net.state_dict()
    host = {key: value for key, value in weights.items() if ".rkan." not in key}
    assert checkpoint_filter_fn(host, net).keys() == weights.keys()
    del host["layer1.0.conv1.weight"]
    assert checkpoint_filter_fn(host, net).keys() < weights.keys()
    part = {key: value for key, value in weights.items() if "rkan.kan1" not in key}
    assert checkpoint_filter_fn(part, net) == part  # a checkpoint with branches must be complete


def test_layer_decay_keeps_the_hosts_groups_and_trains_the_branch_at_full_rate():
    net = small()
    optimizer = create_optimizer_v2(net, opt="sgd", lr=1.0, layer_decay=0.5)
    scale = {id(p): group["lr_scale"] for group in optimizer.param_groups for p in group["params"]}
    plain = resnet()
    expected = create_optimizer_v2(plain, opt="sgd", lr=1.0, layer_decay=0.5)
    host_scale = {id(p): group["lr_scale"] for group in expected.param_groups for p in group["params"]}
    hosts = dict(plain.named_parameters())
    for key, parameter in net.named_parameters():
        assert scale[id(parameter)] == (1.0 if ".rkan." in key else host_scale[id(hosts[key])]), key


def test_mistakes_are_named():
    with pytest.raises(
        KANError, match="a number is 1 to 4, the last one of act1, layer1, layer2, layer3, layer4, got 5"
    ):
        add_rkan(resnet(), (5,))
    with pytest.raises(KANError, match="ResNet has no module 'layer5'; its stages are act1, layer1"):
        add_rkan(resnet(), ("layer5",))
    with pytest.raises(KANError, match=r"'features\.norm5' is a single layer.*features\.denseblock4"):
        add_rkan(HOSTS["densenet"][0](), (4,))
    with pytest.raises(KANError, match="'maxpool' is a single layer"):
        add_rkan(resnet(), ("maxpool",))
    with pytest.raises(KANError, match="'layer4' has an RKAN branch already"):
        add_rkan(small(), (4,))
    with pytest.raises(KANError, match="aggregate must be one of add, gate, se, got 'mul'"):
        small(aggregate="mul")
    with pytest.raises(KANError, match="unknown layer 'fib'"):
        small(layer="fib")
