"""The mixers of the KA-convolutional nets: focal modulation and self-attention (KA-convolution card, section 3)."""

from __future__ import annotations

import math

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from kan_core import KANError
from kan_core.compare import count_parameters
from kan_vision.layers.focal import FocalModulation
from kan_vision.layers.self_attention import ConvSelfAttention

GRAM = "gram(degree=3)"
BLOCKS = {
    "focal linear": lambda **kwargs: FocalModulation(4, **kwargs),
    "focal gram": lambda **kwargs: FocalModulation(4, layer=GRAM, **kwargs),
    "focal full": lambda **kwargs: FocalModulation(4, layer=GRAM, full=True, normalize=True, post_norm=True, **kwargs),
    "attention": lambda **kwargs: ConvSelfAttention(4, **kwargs),
    "attention inner": lambda **kwargs: ConvSelfAttention(4, inner=2, **kwargs),
    "attention skip": lambda **kwargs: ConvSelfAttention(4, gamma_on="skip", **kwargs),
    "attention linear": lambda **kwargs: ConvSelfAttention(4, layer="linear", **kwargs),
}


@pytest.fixture(params=BLOCKS)
def block(request: pytest.FixtureRequest) -> nn.Module:
    return perturbed(BLOCKS[request.param]())


@torch.no_grad()
def perturbed(block: nn.Module) -> nn.Module:
    """Away from the start, where γ = 0 hides the attention."""
    for parameter in block.parameters():
        parameter.add_(0.3 * torch.randn_like(parameter))
    return block


def test_shape_is_kept_and_every_parameter_has_a_gradient(block):
    x = torch.randn(2, 4, 7, 9)
    y = block(x)
    assert y.shape == x.shape
    (y * torch.randn_like(y)).sum().backward()
    for name, parameter in block.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


def test_an_image_does_not_depend_on_its_batch(block):
    x = torch.randn(3, 4, 6, 5)
    torch.testing.assert_close(block.eval()(x), torch.cat([block(image[None]) for image in x]), atol=1e-5, rtol=1e-5)


def test_export(block):
    x = torch.randn(2, 4, 6, 5)
    program = torch.export.export(block.eval(), (x,))
    torch.testing.assert_close(program.module()(x), block(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("images", [1, 2])
def test_the_gradient_is_the_numeric_one(block, images):
    block, x = block.double(), torch.randn(images, 4, 6, 5, dtype=torch.float64, requires_grad=True)
    incoming = torch.randn_like(x).contiguous(memory_format=torch.channels_last)
    inputs = [x, *block.parameters()]
    gradients = torch.autograd.grad(block(x), inputs, incoming)
    directions = [torch.randn_like(tensor) for tensor in inputs]
    values = []
    with torch.no_grad():
        for step in (1e-6, -2e-6):
            for tensor, direction in zip(inputs, directions, strict=True):
                tensor.add_(direction, alpha=step)
            values.append((block(x) * incoming).sum())
    wanted = (values[0] - values[1]) / 2e-6
    got = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True))
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["focal gram", "attention inner"])
def test_the_onnx_file_runs(name, tmp_path):
    smaller = {"levels": 1} if "focal" in name else {"kernel_size": 1}
    block, x = perturbed(BLOCKS[name](**smaller)).eval(), torch.randn(2, 4, 6, 5)
    torch.onnx.export(block, (x,), tmp_path / "block.onnx", dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "block.onnx", providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert np.abs(got - block(x).detach().numpy()).max() <= 1e-4


# Self-attention -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inner", [None, 3])
def test_attention_is_a_double_loop_over_pixels(inner):
    block = perturbed(ConvSelfAttention(4, inner=inner, layer_kwargs={"norm": None})).double()
    x = torch.randn(2, 4, 3, 5, dtype=torch.float64)
    inside = block.enter(x)
    query, key, value = (f(inside).flatten(2) for f in (block.query, block.key, block.value))
    wanted = torch.zeros_like(inside).flatten(2)
    for image in range(2):
        for here in range(15):
            products = [(query[image, :, here] @ key[image, :, there]) / math.sqrt(inner or 4) for there in range(15)]
            weights = torch.stack(products).exp()
            for there in range(15):
                wanted[image, :, here] += weights[there] / weights.sum() * value[image, :, there]
    wanted = block.leave(wanted.view_as(inside))
    torch.testing.assert_close(block.attention(x), wanted)
    torch.testing.assert_close(block(x), block.norm(x + block.gamma * wanted))


@pytest.mark.parametrize("inner", [None, 2])
def test_with_gamma_0_on_the_attention_it_starts_as_the_norm_of_its_input(inner):
    block, x = ConvSelfAttention(4, inner=inner), torch.randn(2, 4, 6, 5)
    assert block.gamma.item() == 0
    torch.testing.assert_close(block(x), nn.functional.instance_norm(x))


def test_with_gamma_0_on_the_skip_it_starts_as_the_norm_of_the_attention():
    block, x = ConvSelfAttention(4, gamma_on="skip"), torch.randn(2, 4, 6, 5)
    assert block.gamma.item() == 0
    torch.testing.assert_close(block(x), nn.functional.instance_norm(block.attention(x)))
    with torch.no_grad():
        block.gamma.fill_(0.7)
    torch.testing.assert_close(block(x), nn.functional.instance_norm(0.7 * x + block.attention(x)))


def test_with_1_x_1_kernels_attention_commutes_with_a_permutation_of_the_pixels():
    block = perturbed(ConvSelfAttention(4, kernel_size=1)).double()
    x, order = torch.randn(2, 4, 1, 12, dtype=torch.float64), torch.randperm(12)
    torch.testing.assert_close(block(x[..., order]), block(x)[..., order])


def test_attention_reaches_every_pixel():
    block = perturbed(ConvSelfAttention(4, gamma_on="skip", kernel_size=1, layer_kwargs={"norm": None})).double()
    x = torch.randn(1, 4, 5, 5, dtype=torch.float64, requires_grad=True)
    block.attention(x)[0, :, 0, 0].sum().backward()
    assert (x.grad.abs().sum(1) > 0).all()


@pytest.mark.parametrize(("inner", "projections"), [(None, 0), (8, 2 * 16 * 8)])
def test_parameters_of_the_attention(inner, projections):
    width = inner or 16
    gram = 9 * width * width * 5 + 2 + 2 * width  # the two recurrence weights that have a gradient, and the norm
    with torch.device("meta"):
        block = ConvSelfAttention(16, inner=inner)
    assert count_parameters(block) == 3 * gram + projections + 2 * 16 + 1


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"gamma_on": "both"}, "gamma_on must be one of attention, skip, got 'both'"),
        ({"kernel_size": 2}, "kernel_size must be odd, got 2"),
        ({"layer": "gramm"}, "unknown kind of KA-convolution 'gramm'"),
        ({"layer_kwargs": {"degre": 2}}, "degre"),
    ],
)
def test_attention_refuses(kwargs, message):
    with pytest.raises(KANError, match=message):
        ConvSelfAttention(4, **kwargs)


# Focal modulation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [1, 3])
@pytest.mark.parametrize("layer", ["linear", GRAM])
def test_focal_modulation_is_its_composition(levels, layer):
    block = perturbed(FocalModulation(3, levels=levels, layer=layer, normalize=True, post_norm=True)).double()
    x = torch.randn(2, 3, 8, 6, dtype=torch.float64)
    everything = block.split(x)
    assert everything.shape[1] == 2 * 3 + levels + 1
    query, context, gates = everything[:, :3], everything[:, 3:6], everything[:, 6:]
    modulator = 0
    for level in range(levels):
        context = nn.functional.gelu(block.contexts[level](context))
        modulator = modulator + gates[:, [level]] * context
    pooled = torch.stack([image.flatten(1).mean(1) for image in context])[:, :, None, None]
    modulator = (modulator + gates[:, [levels]] * pooled) / (levels + 1)
    torch.testing.assert_close(block(x), block.norm(block.project(query * block.mix(modulator))))


def test_windows_grow_by_2():
    contexts = FocalModulation(4, levels=3, window=3).contexts
    assert [context.kernel_size for context in contexts] == [(3, 3), (5, 5), (7, 7)]
    # h = 3 + 5 + 7 - 2 pixels wide: what a context of the third level sees, so 6 on each side
    x = torch.zeros(1, 4, 21, 21)
    x[..., 10, 10] = 1.0
    with torch.no_grad():
        for context in contexts:
            x = context(x)
    seen = x[0, 0].abs() > 0
    assert seen.any(0).nonzero().flatten().tolist() == list(range(4, 17))


@pytest.mark.parametrize("layer", ["linear", GRAM])
def test_contexts_are_depthwise(layer):
    block = perturbed(FocalModulation(4, layer=layer)).eval()
    x, other = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8)
    other[:, 1] = x[:, 1]
    for context in block.contexts:
        torch.testing.assert_close(context(x)[:, 1], context(other)[:, 1])
        assert (context(x)[:, [0, 2, 3]] != context(other)[:, [0, 2, 3]]).any()


def test_the_mean_of_the_image_reaches_every_pixel():
    block = FocalModulation(4).double()
    x = torch.randn(1, 4, 24, 24, dtype=torch.float64, requires_grad=True)
    block(x)[0, :, 0, 0].sum().backward()
    assert x.grad[0, :, -1, -1].abs().sum() > 0


def test_a_modulator_of_0_leaves_the_bias_of_the_mix():
    block, x = FocalModulation(4), torch.randn(2, 4, 6, 6)
    with torch.no_grad():
        for parameter in (block.split.weight, block.split.bias):
            parameter[8:] = 0  # all gates
    query = block.split(x)[:, :4]
    torch.testing.assert_close(block(x), block.project(query * block.mix.bias[:, None, None]))


@pytest.mark.parametrize("levels", [2, 3])
@pytest.mark.parametrize(("layer", "full"), [("linear", False), (GRAM, False), (GRAM, True)])
def test_parameters_of_focal_modulation(levels, layer, full):
    c, split = 16, 2 * 16 + levels + 1
    windows = [3 + 2 * level for level in range(levels)]
    wanted = sum(c * k * k if layer == "linear" else 5 * c * k * k + 2 + 2 * c for k in windows)
    for n_out in (split, c, c):
        wanted += 5 * c * n_out + 2 + 2 * n_out if full else c * n_out + n_out
    with torch.device("meta"):
        block = FocalModulation(c, levels=levels, layer=layer, full=full)
        with_norm = FocalModulation(c, levels=levels, layer=layer, full=full, post_norm=True)
    assert count_parameters(block) == wanted
    assert count_parameters(with_norm) == wanted + 2 * c


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"levels": 0}, "levels must be at least 1 and window odd, got levels=0, window=3"),
        ({"window": 4}, "levels must be at least 1 and window odd, got levels=2, window=4"),
        ({"layer": "gramm"}, "unknown kind of KA-convolution 'gramm'"),
        ({"layer_kwargs": {"norm": "batch"}}, "the layer 'linear' of focal modulation takes no arguments, got norm"),
    ],
)
def test_focal_modulation_refuses(kwargs, message):
    with pytest.raises(KANError, match=message):
        FocalModulation(4, **kwargs)
