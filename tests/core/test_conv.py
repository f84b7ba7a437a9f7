"""KAN convolutions against unfold + KANLinear (the oracle of the Bodner card), and their padding modes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kan_core import KANConv1d, KANConv2d, KANConv3d, KANError, KANLinear
from kan_core.bases import Sine

F64 = torch.float64


def by_unfolding(conv: KANConv2d, x: torch.Tensor, padding: int = 0) -> torch.Tensor:
    """One KANLinear over unfolded patches, group by group; the input is padded with zeros first."""
    g, kernel = conv.groups, conv.kernel_size
    patches = F.unfold(F.pad(x, [padding] * 4), kernel, dilation=conv.dilation, stride=conv.stride)
    n, _, positions = patches.shape
    patches = patches.view(n, g, -1, positions)  # (n, group, in/groups * kernel, positions)
    outputs = []
    for index in range(g):
        rows = slice(index * conv.out_channels // g, (index + 1) * conv.out_channels // g)
        weight = conv.weight[rows]  # (out/g, P, in/g, kh, kw)
        layer = KANLinear(patches.shape[2], weight.shape[0], conv.basis_spec, bias=False, dtype=x.dtype)
        with torch.no_grad():
            layer.weight.copy_(weight.flatten(2).permute(1, 2, 0))
            if isinstance(conv.basis, Sine):  # whose functions differ from channel to channel
                channels = slice(index * conv.in_channels // g, (index + 1) * conv.in_channels // g)
                layer.basis.phases.copy_(conv.basis.phases[channels].repeat_interleave(math.prod(kernel), 0))
        outputs.append(layer(patches[:, index].transpose(1, 2)).transpose(1, 2))
    y = torch.cat(outputs, 1) + (0 if conv.bias is None else conv.bias[:, None])
    size = [
        (length + 2 * padding - d * (k - 1) - 1) // s + 1
        for length, k, d, s in zip(x.shape[2:], kernel, conv.dilation, conv.stride, strict=True)
    ]
    return y.view(n, -1, *size)


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"stride": 2},
        {"dilation": 2},
        {"groups": 2},
        {"groups": 4},
        {"kernel_size": (3, 2), "stride": (1, 2), "dilation": (2, 1)},
        {"kernel_size": 1},
    ],
    ids=str,
)
def test_equals_unfolding_and_a_linear_layer(spec, kwargs):
    conv = KANConv2d(**{"in_channels": 4, "out_channels": 8, "kernel_size": 3, "basis": spec, "dtype": F64, **kwargs})
    conv.basis_spec = spec
    x = torch.randn(2, 4, 9, 8, dtype=F64)
    torch.testing.assert_close(conv(x), by_unfolding(conv, x), atol=1e-11, rtol=1e-11)


def test_input_zeros_pads_before_the_function_and_zeros_after(spec):
    conv = KANConv2d(2, 3, 3, padding=1, padding_mode="input_zeros", basis=spec, dtype=F64)
    conv.basis_spec = spec
    x = torch.randn(2, 2, 6, 5, dtype=F64)
    torch.testing.assert_close(conv(x), by_unfolding(conv, x, padding=1), atol=1e-11, rtol=1e-11)
    conv.padding_mode = "zeros"
    inner = (..., slice(1, -1), slice(1, -1))
    torch.testing.assert_close(conv(x)[inner], by_unfolding(conv, x, padding=1)[inner], atol=1e-11, rtol=1e-11)
    assert (conv(x) - by_unfolding(conv, x, padding=1)).abs()[:, :, 0].max() > 1e-5  # phi(0) is not 0 at the border


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")  # torch's own convolution
@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("padding", [1, (2, 1), "same"], ids=str)
def test_padding_modes_agree_with_torch_when_the_function_is_linear(mode, padding):
    conv = KANConv2d(2, 3, (3, 4), padding=padding, padding_mode=mode, base="identity", dtype=F64)
    ordinary = nn.Conv2d(2, 3, (3, 4), padding=padding, padding_mode=mode, dtype=F64)
    with torch.no_grad():
        conv.weight[:, :-1] = 0
        ordinary.weight.copy_(conv.weight[:, -1])
        ordinary.bias.copy_(conv.bias)
    x = torch.randn(2, 2, 7, 8, dtype=F64)
    torch.testing.assert_close(conv(x), ordinary(x), atol=1e-12, rtol=1e-12)


def test_without_coefficients_it_is_a_convolution_of_silu():
    conv = KANConv2d(3, 4, 3, padding=1, dtype=F64)
    with torch.no_grad():
        conv.weight[:, :-1] = 0
    x = torch.randn(2, 3, 6, 6, dtype=F64)
    torch.testing.assert_close(conv(x), F.conv2d(F.silu(x), conv.weight[:, -1], conv.bias, padding=1))


def test_equal_coefficients_give_a_constant_by_partition_of_unity():
    conv = KANConv2d(3, 2, 3, base=None, bias=False, dtype=F64)
    with torch.no_grad():
        conv.weight.fill_(0.5)
    y = conv(torch.rand(1, 3, 6, 6, dtype=F64) * 2 - 1)
    torch.testing.assert_close(y, torch.full_like(y, 0.5 * 9 * 3), atol=1e-12, rtol=0)
    assert (conv(torch.full((1, 3, 6, 6), 9.0, dtype=F64)) == 0).all()


def test_translation_moves_the_output():
    conv = KANConv2d(1, 2, 3, dtype=F64)
    x = torch.randn(1, 1, 10, 10, dtype=F64)
    torch.testing.assert_close(conv(x)[..., 1:, :], conv(x[..., 1:, :]))


@pytest.mark.parametrize(("layer", "dims"), [(KANConv1d, 1), (KANConv2d, 2), (KANConv3d, 3)])
def test_all_dimensions(layer, dims, spec):
    conv = layer(2, 4, 3, padding=1, stride=2, groups=2, basis=spec, dtype=F64)
    x = torch.randn(2, 2, *(5, 6, 7)[:dims], dtype=F64)
    assert conv(x).shape == (2, 4, *(3, 3, 4)[:dims])
    conv(x).sum().backward()
    restored = conv.from_planes(conv.as_planes(conv.weight))
    assert torch.equal(restored, conv.weight)


@pytest.mark.parametrize("basis", ["bspline", "rbf"])
def test_a_3d_kernel_of_size_1_is_a_linear_layer_per_voxel(basis):
    conv = KANConv3d(3, 4, 1, basis=basis, dtype=F64)
    layer = KANLinear(3, 4, basis, dtype=F64)
    with torch.no_grad():
        layer.weight.copy_(conv.weight.flatten(2).permute(1, 2, 0))
        layer.bias.copy_(conv.bias)
    x = torch.randn(2, 3, 4, 3, 2, dtype=F64)
    torch.testing.assert_close(conv(x), layer(x.movedim(1, -1)).movedim(-1, 1), atol=1e-12, rtol=0)


def test_channels_last_input_gives_the_same_numbers():
    conv = KANConv2d(3, 4, 3, padding=1)
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(conv(x.contiguous(memory_format=torch.channels_last)), conv(x))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: KANConv2d(3, 4, 3, groups=2), "positive multiples of groups, got in_channels=3"),
        (lambda: KANConv2d(3, 4, (3, 3, 3)), "kernel_size must be one number or 2"),
        (lambda: KANConv2d(3, 4, 0), "kernel_size must be one number or 2, each at least 1"),
        (lambda: KANConv2d(3, 4, 3, padding=-1), "padding must be one number or 2, each at least 0"),
        (lambda: KANConv2d(3, 4, 3, padding="same", stride=2), "padding 'same' needs stride 1"),
        (lambda: KANConv2d(3, 4, 3, padding="half"), "padding must be numbers, 'same' or 'valid'"),
        (lambda: KANConv2d(3, 4, 3, padding_mode="mirror"), "padding_mode must be one of zeros, input_zeros"),
        (lambda: KANConv2d(3, 4, 3)(torch.zeros(2, 4, 8, 8)), r"expected an input of shape \(\.\.\., 3, H, W\)"),
        (lambda: KANConv1d(3, 4, 3)(torch.zeros(4)), r"expected an input of shape \(\.\.\., 3, W\)"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(KANError, match=message):
        make()
