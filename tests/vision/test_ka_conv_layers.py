"""Kolmogorov-Arnold convolutions: the card's counts, equations and invariants, and the defects it lists."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kan_core import KANError
from kan_core.bases.wavelet import MOTHERS
from kan_core.compare import count_flops, count_parameters
from kan_vision.layers.ka_conv import BOTTLENECK_KINDS, KINDS, BottleneckKAConv, KAConv, SiLUGram, inner_width

PLANE_KINDS = [kind for kind in KINDS if kind not in ("linear", "wavelet")]

# The card's table, section 1: the base branch's function and the activation after the norm.
TABLE = {
    "bspline": (F.gelu, nn.PReLU),
    "rbf": (F.silu, nn.Identity),
    "legendre": (lambda x: x, nn.SiLU),
    "chebyshev": (None, nn.Identity),
    "gram": (F.silu, nn.SiLU),
    "jacobi": (lambda x: x, nn.SiLU),
    "bernstein": (lambda x: x, nn.SiLU),
    "relu-kan": (F.silu, nn.SiLU),
}


def make(*args, cls: type = KAConv, **kwargs) -> nn.Module:
    """A layer whose every parameter, the shapes of its functions too, is away from its starting value."""
    torch.manual_seed(0)
    layer = cls(*args, **kwargs)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return layer


def image(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


# Counts -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "card", "dead"),
    [
        ("gram", 23_108, 2),  # beta_0 and beta_d of the published recurrence never enter the result
        ("legendre", 23_104, 0),
        ("chebyshev", 18_496, 0),
        ("bspline", 41_537, 0),
        ("rbf", 41_504, 0),
        ("wavelet", 11_328, 0),
        ("relu-kan", 41_792, 0),
        ("jacobi", 23_104, 0),
        ("bernstein", 23_104, 0),
        ("linear", 9 * 16 * 32 + 2 * 32, 0),
    ],
)
def test_parameters_of_a_3x3_layer_16_to_32(kind, card, dead):
    assert count_parameters(KAConv(16, 32, kind=kind)) + dead == card


def test_parameters_of_gram_3_to_16():
    assert count_parameters(KAConv(3, 16)) + 2 == 2_196


@pytest.mark.parametrize("kind", KINDS)
def test_groups_multiply_the_formula_of_one_group(kind):
    one = count_parameters(KAConv(4, 8, kind=kind))
    shared = {"gram": 2, "bspline": 1}.get(kind, 0)  # the betas and PReLU's slope belong to the whole layer
    assert count_parameters(KAConv(16, 32, kind=kind, groups=4)) - shared == 4 * (one - shared)


@pytest.mark.parametrize("kind", ["gram", "legendre"])
@pytest.mark.parametrize("degree", [1, 5])
def test_degree_enters_the_count(kind, degree):
    betas = degree - 1 if kind == "gram" else 0
    assert count_parameters(KAConv(16, 32, kind=kind, degree=degree)) == 16 * 32 * 9 * (degree + 2) + betas + 64


def test_bottleneck_64_to_128_has_the_cards_count():
    assert count_parameters(BottleneckKAConv(64, 128)) + 2 == 116_996


@pytest.mark.parametrize("kind", BOTTLENECK_KINDS)
def test_bottleneck_count_by_its_formula_per_group(kind):
    one, four = BottleneckKAConv(32, 64, kind=kind), BottleneckKAConv(128, 256, kind=kind, groups=4)
    shared = {"gram": 2, "bspline": 1}.get(kind, 0)
    assert count_parameters(four) - shared == 4 * (count_parameters(one) - shared)


@pytest.mark.parametrize(
    ("i", "o", "reduction", "n"), [(3, 16, 4, 3), (64, 128, 4, 32), (64, 64, 8, 16), (16, 32, 4, 16), (1, 1, 4, 1)]
)
def test_inner_width(i, o, reduction, n):
    assert inner_width(i, o, reduction) == n
    assert BottleneckKAConv(i, o, reduction=reduction).conv[0].out_channels == n


# The equation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PLANE_KINDS)
def test_layer_is_the_tables_equation(kind):
    layer = make(4, 6, kind=kind, stride=2, norm="instance")
    base, activation = TABLE[kind]
    x = image(2, 4, 7, 6)
    conv = layer.conv[1] if kind == "rbf" else layer.conv
    z = F.instance_norm(x, weight=layer.conv[0].weight, bias=layer.conv[0].bias) if kind == "rbf" else x
    planes = conv.basis(z.movedim(1, -1)).movedim((-1, -2), (1, 2))  # (N, K, in, H, W)
    k = planes.shape[1]
    y = F.conv2d(planes.flatten(1, 2), conv.weight[:, :k].flatten(1, 2), stride=2, padding=1)
    if base is not None:
        weight = layer.base[1].weight if kind == "rbf" else conv.weight[:, k]
        y = y + F.conv2d(base(x), weight, stride=2, padding=1)
    if kind == "rbf":
        assert isinstance(layer.norm, nn.Identity)
    else:
        y = F.instance_norm(y, weight=layer.norm.weight, bias=layer.norm.bias)
    assert type(layer.activation) is activation
    torch.testing.assert_close(layer(x), layer.activation(y), atol=1e-5, rtol=1e-5)


def test_linear_kind_is_convolution_norm_silu():
    layer, x = make(4, 6, kind="linear", norm="batch"), image(2, 4, 7, 6)
    y = F.conv2d(x, layer.conv.weight, padding=1)
    y = F.batch_norm(y, None, None, layer.norm.weight, layer.norm.bias, training=True)
    torch.testing.assert_close(layer(x), F.silu(y))


@pytest.mark.parametrize("mother", MOTHERS)
def test_wavelet_layer_equals_a_loop_over_channel_pairs(mother):
    layer, x = make(3, 10, kind="wavelet", mother=mother, norm=None), image(2, 3, 5, 4)
    conv = layer.conv
    z = torch.zeros(2, 10, 5, 4)
    for o in range(10):
        for i in range(3):
            psi = MOTHERS[mother]((x[:, i : i + 1] - conv.translation[0, o, i]) * torch.exp(-conv.log_scale[0, o, i]))
            z[:, o] += F.conv2d(psi, conv.weight[0, o, i][None, None], padding=1)[:, 0]
    expected = F.conv2d(z, conv.mix.weight) + F.conv2d(F.silu(x), layer.base[1].weight, padding=1)
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-5)


def test_bottleneck_is_the_cards_equation():
    layer, x = make(8, 20, cls=BottleneckKAConv, kind="gram", stride=2), image(2, 8, 7, 6)
    down, functions, up = layer.conv
    planes = functions.basis(F.conv2d(x, down.weight).movedim(1, -1)).movedim((-1, -2), (1, 2))
    inner = F.conv2d(planes.flatten(1, 2), functions.weight.flatten(1, 2), stride=2, padding=1)
    y = F.conv2d(inner, up.weight) + F.conv2d(F.silu(x), layer.base[1].weight, stride=2, padding=1)
    expected = F.silu(F.instance_norm(y, weight=layer.norm.weight, bias=layer.norm.bias))
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-5)


def test_unfold_oracle_pads_the_basis_with_zero():
    layer, x = make(3, 5, kind="gram", norm=None, dilation=2), image(2, 3, 6, 5)
    t = torch.tanh(x)
    b1, b2 = layer.conv.basis.betas
    p2 = t * t - b1
    planes = F.silu(torch.stack([torch.ones_like(t), t, p2, t * p2 - b2 * t], dim=1))  # (N, K, in, H, W)
    features = torch.cat([planes, F.silu(x)[:, None]], dim=1).flatten(1, 2)
    columns = F.unfold(features, 3, padding=2, dilation=2)  # pads what it is given: the basis, not x
    expected = F.silu((layer.conv.weight.flatten(1) @ columns).view(2, 5, 6, 5))
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", [kind for kind in PLANE_KINDS if TABLE[kind][0] is not None])
def test_zero_functions_leave_norm_and_activation_of_the_base(kind):
    layer, x = make(4, 6, kind=kind, norm="instance"), image(2, 4, 7, 6)
    conv = layer.conv[1] if kind == "rbf" else layer.conv
    with torch.no_grad():
        conv.weight[:, : conv.basis.num_functions] = 0
    weight = layer.base[1].weight if kind == "rbf" else conv.weight[:, -1]
    base = F.conv2d(TABLE[kind][0](x), weight, padding=1)
    torch.testing.assert_close(layer(x), layer.activation(layer.norm(base)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("degree", [1, 3, 5])
def test_gram_with_beta_0_is_silu_of_the_powers_of_tanh(degree):
    basis, x = SiLUGram(degree).bind(2), image(9, 2)
    if basis.betas is not None:
        nn.init.zeros_(basis.betas)
    expected = F.silu(torch.tanh(x)[..., None] ** torch.arange(degree + 1))
    torch.testing.assert_close(basis(x), expected)


def test_polynomials_of_the_card():
    x = image(5, 4)
    t = torch.tanh(x)

    def functions(kind: str, **options: float) -> Tensor:
        return KAConv(4, 4, kind=kind, **options).conv.basis(x)

    legendre = functions("legendre")
    torch.testing.assert_close(legendre[..., 2], (3 * t * t - 1) / 2)
    torch.testing.assert_close(functions("chebyshev"), torch.cos(torch.arange(4) * torch.arccos(t)[..., None]))
    torch.testing.assert_close(functions("jacobi", alpha=0, beta=0), legendre)
    torch.testing.assert_close(functions("bernstein").sum(-1), torch.ones(5, 4))
    inside = KAConv(4, 4, kind="bspline").conv.basis(torch.tanh(x))
    torch.testing.assert_close(inside.sum(-1), torch.ones(5, 4))


def test_relu_kan_bumps_start_as_in_the_card():
    basis, x = KAConv(1, 1, kind="relu-kan").conv.basis, torch.linspace(-1, 2, 31)[:, None]
    low = torch.arange(-3, 5) / 5
    bump = (F.relu(x - low) * F.relu(low + 4 / 5 - x) * (4 * 25 / 16)).square()
    torch.testing.assert_close(basis(x)[:, 0], bump, atol=1e-5, rtol=1e-5)


# Invariants, and the defects of the published layers ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("cls", "kind"), [(KAConv, k) for k in KINDS] + [(BottleneckKAConv, k) for k in BOTTLENECK_KINDS]
)
def test_a_grouped_layer_is_the_layers_of_its_groups_side_by_side(cls, kind):
    # The published grouped layers give every group the planes of other channels.
    groups, n_in, n_out = 3, 2, 4
    layer = make(groups * n_in, groups * n_out, cls=cls, kind=kind, groups=groups).eval()
    x = image(2, groups * n_in, 5, 6)
    parts = []
    for group, part in enumerate(x.chunk(groups, dim=1)):
        single = cls(n_in, n_out, kind=kind).eval()
        state = single.state_dict()
        for name, whole in layer.state_dict().items():
            differing = [d for d, (a, b) in enumerate(zip(whole.shape, state[name].shape, strict=True)) if a != b]
            if differing:
                state[name] = whole.chunk(groups, dim=differing[0])[group]
            else:
                state[name] = whole  # shared by the groups
        single.load_state_dict(state)
        parts.append(single(part))
    torch.testing.assert_close(layer(x), torch.cat(parts, dim=1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_depthwise_sees_its_own_channel_and_all_its_functions(kind):
    channels = 6
    layer, x = make(channels, channels, kind=kind, groups=channels, norm=None), image(2, channels, 8, 8)
    x.requires_grad_()
    y = layer(x)
    for channel in range(channels):
        (gradient,) = torch.autograd.grad(y[:, channel].square().sum(), x, retain_graph=True)
        seen = gradient.abs().amax(dim=(0, 2, 3)) > 0
        assert seen.tolist() == [c == channel for c in range(channels)]
    y.square().sum().backward()
    weight = (layer.conv[1] if kind == "rbf" else layer.conv).weight
    per_function = weight.grad.flatten(2).abs().amax(-1)  # (out, planes), of wavelets and linear (out, 1)
    assert (per_function > 0).all()


@pytest.mark.parametrize("norm", ["instance", "batch", None])
@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_is_independent_of_the_batch(kind, norm):
    # The published Legendre layer scales by the least and greatest value of the batch, in evaluation too.
    layer, x = make(4, 6, kind=kind, norm=norm), image(3, 4, 6, 6)
    layer(x)  # moves the running statistics
    layer.eval()
    mates = torch.cat([x[:1], 100 * x[1:]])
    torch.testing.assert_close(layer(mates)[:1], layer(x[:1]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("norm", ["instance", "batch"])
@pytest.mark.parametrize("value", [0.0, 3.0, 50.0])
@pytest.mark.parametrize("kind", KINDS)
def test_a_constant_input_gives_finite_outputs_and_gradients(kind, value, norm):
    layer, x = make(4, 6, kind=kind, norm=norm), torch.full((2, 4, 6, 6), value, requires_grad=True)
    y = layer(x)
    y.square().sum().backward()
    assert y.isfinite().all()
    assert x.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_every_state_moves_and_is_saved(kind):
    # The published B-spline layer keeps its grid in an ordinary attribute.
    layer, other, x = make(4, 6, kind=kind).eval(), KAConv(4, 6, kind=kind).eval(), image(2, 4, 6, 6)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x), layer(x))
    y = layer(x)
    double = layer.double()(x.double())
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), y, atol=1e-4, rtol=1e-4)
    assert layer.to("meta")(x.double().to("meta")).shape == y.shape


@pytest.mark.parametrize("kind", KINDS)
def test_dimensions_agree_on_data_that_is_constant_along_the_others(kind):
    line = make(4, 6, kind=kind, spatial=1, stride=2)
    x = image(2, 4, 9)
    for spatial in (2, 3):
        ones = (1,) * (spatial - 1)
        layer = KAConv(4, 6, (3, *ones), stride=(2, *ones), kind=kind, spatial=spatial)
        layer.load_state_dict(
            {name: value.reshape(layer.state_dict()[name].shape) for name, value in line.state_dict().items()}
        )
        wide = x.view(2, 4, 9, *ones).expand(2, 4, 9, *(3 for _ in ones))
        y = line(x)
        torch.testing.assert_close(
            layer(wide), y.view(*y.shape, *ones).expand(*y.shape, *(3 for _ in ones)), atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("arguments", "size"),
    [
        ({"kernel_size": 1}, (9, 8)),
        ({"kernel_size": 5}, (9, 8)),
        ({"stride": 2}, (5, 4)),
        ({"dilation": 2}, (9, 8)),
        ({"kernel_size": (3, 1), "padding": 0}, (7, 8)),
    ],
    ids=str,
)
def test_output_sizes(kind, arguments, size):
    assert KAConv(2, 3, **arguments, kind=kind)(image(1, 2, 9, 8)).shape == (1, 3, *size)


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_stays_close(kind):
    layer, x = make(4, 6, kind=kind, norm=None), image(2, 4, 6, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
    torch.testing.assert_close(y.float(), layer(x), atol=0.05, rtol=0.05)


def test_wavelets_are_not_kept_for_the_backward_pass():
    layer, x = KAConv(8, 64, kind="wavelet", norm=None), image(2, 8, 16, 16).requires_grad_()
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = layer(x)
    # SiLU of the input and the mix's input, of the outputs' size; all wavelets would be 64 times the input
    assert sum(kept.values()) < 3 * x.numel() + 2 * y.numel() + count_parameters(layer)
    y.square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in layer.parameters())


def test_flops_of_a_wavelet_layer():
    pixels, i, o = 36, 4, 6
    products = 2 * pixels * (2 * 9 * i * o + o * o)
    wavelets, silu = (2 + 6) * i * o * pixels, 5 * i * pixels
    assert count_flops(KAConv(i, o, kind="wavelet", norm=None), image(1, i, 6, 6)) == products + wavelets + silu


def test_dropout_zeroes_whole_output_channels_in_training_only():
    layer, x = make(4, 64, dropout=0.5), image(1, 4, 6, 6)
    dropped = (layer(x) == 0).flatten(2)
    assert (dropped.all(-1) | ~dropped.any(-1)).all()
    assert 0.2 < dropped.float().mean() < 0.8
    assert not (layer.eval()(x) == 0).any()


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("gram", {"conv.basis.betas"}),
        ("relu-kan", {"conv.basis.centers", "conv.basis.log_half_widths"}),
        ("wavelet", {"conv.translation", "conv.log_scale"}),
        ("linear", set()),
    ],
)
def test_shapes_of_functions_are_not_decayed(kind, names):
    assert KAConv(2, 2, kind=kind).no_weight_decay() == names


@pytest.mark.parametrize(
    ("cls", "arguments", "message"),
    [
        (KAConv, {"kind": "spline"}, "unknown kind of KA-convolution 'spline'"),
        (KAConv, {"kind": "gram", "grid_size": 3}, "'gram'.*grid_size"),
        (KAConv, {"kind": "gram", "degree": 0}, "degree must be a whole number of at least 1"),
        (KAConv, {"kind": "linear", "degree": 3}, "'linear' takes no options, got degree"),
        (KAConv, {"kind": "wavelet", "mother": "haar"}, "mother must be one of"),
        (KAConv, {"groups": 3}, "multiples of groups, got in_channels=4, out_channels=8, groups=3"),
        (KAConv, {"norm": "layer"}, "norm must be None, 'instance' or 'batch', got 'layer'"),
        (KAConv, {"dropout": 1.0}, "dropout must lie in"),
        (KAConv, {"spatial": 4}, "spatial must be 1, 2 or 3"),
        (KAConv, {"kernel_size": (3, 3, 3)}, "kernel_size must be one number or 2"),
        (KAConv, {"stride": 0}, "stride must be"),
        (BottleneckKAConv, {"kind": "rbf"}, "unknown kind of KA-convolution 'rbf'"),
        (BottleneckKAConv, {"reduction": 0}, "reduction must be above 0"),
    ],
    ids=str,
)
def test_errors_name_the_argument(cls, arguments, message):
    with pytest.raises(KANError, match=message):
        cls(4, 8, **arguments)
