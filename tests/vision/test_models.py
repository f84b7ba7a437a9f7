"""timm's own contract (timm card, section 3), mirrored for every model that kan_vision registers."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import timm
import torch
from timm.data import create_transform, resolve_data_config
from timm.optim import create_optimizer_v2
from timm.utils import ModelEmaV3

import kan_vision.models
from kan_core import KANError
from kan_core.compare import count_parameters
from kan_core.layers import kan_layers

MODULES = ("kan_mlp", "kan_conv")
NAMES = [name for module in MODULES for name in timm.list_models(module=module)]
LAYERS = ("bspline", "rbf(num_centers=4)", "chebyshev", "linear")


def make(name: str, **kwargs) -> torch.nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name, **{"in_chans": 1, "num_classes": 5, "img_size": 28, **kwargs})


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def test_import_registers_exactly_our_models():
    code = (
        "import timm; before = set(timm.list_models()); import kan_vision; "
        "print(sorted(set(timm.list_models()) - before)); print(len(before))"
    )
    out = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert (
        eval(out.splitlines()[0])
        == sorted(NAMES)
        == ["kan_conv_base", "kan_conv_small", "kan_mlp_base", "kan_mlp_small"]
    )


@pytest.mark.parametrize("layer", LAYERS)
def test_forward(name, layer):
    model = make(name, layer=layer).eval()
    y = model(torch.randn(2, 1, 28, 28))
    assert y.shape == (2, 5)
    assert y.isfinite().all()
    assert bool(kan_layers(model)) == (layer != "linear")


def test_checkpointing_gives_the_same_outputs_and_gradients(name):
    model = make(name).eval()
    x = torch.randn(2, 1, 28, 28)
    model(x).sum().backward()
    gradients = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    model.set_grad_checkpointing(True)
    y = model(x)
    y.sum().backward()
    torch.testing.assert_close([p.grad for p in model.parameters()], gradients)
    model.set_grad_checkpointing(False)
    torch.testing.assert_close(model(x), y)


@pytest.mark.parametrize("layer", LAYERS)
def test_every_parameter_has_a_gradient(name, layer):
    model = make(name, num_classes=42, layer=layer).train()
    model(torch.randn(4, 1, 28, 28)).mean().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, f"no gradient for {key}"
        assert parameter.grad.isfinite().all(), key


def test_loss_on_random_labels_starts_near_ln_k(name):
    loss = torch.nn.functional.cross_entropy(
        make(name, num_classes=10)(torch.randn(64, 1, 28, 28)), torch.arange(64) % 10
    )
    assert loss.item() < 1.5 * 2.302585


def test_config_names_a_classifier_that_resolves(name):
    model = make(name)
    classifier = model.pretrained_cfg["classifier"]
    assert model.get_submodule(classifier) is model.get_classifier()
    assert model.pretrained_cfg["first_conv"] is None  # not an ordinary convolution


def test_reset_classifier(name):
    model = make(name).eval()
    x = torch.randn(2, 1, 28, 28)
    features = model.forward_head(model.forward_features(x), pre_logits=True)
    model.reset_classifier(0)
    assert features.shape == (2, model.num_features) == (2, model.head_hidden_size)
    torch.testing.assert_close(model(x), features)
    model.reset_classifier(7)
    assert model(x).shape == (2, 7)
    assert model.num_classes == 7
    assert make(name, num_classes=0).eval()(x).shape == (2, model.num_features)


def test_forward_intermediates_and_features_only(name):
    if "mlp" in name:
        with pytest.raises(RuntimeError, match="features_only is not available"):
            make(name, features_only=True)
        return
    model, x = make(name).eval(), torch.randn(2, 1, 28, 28)
    last, maps = model.forward_intermediates(x)
    torch.testing.assert_close(last, model.forward_features(x))
    assert len(model.forward_intermediates(x, indices=[0], stop_early=True, intermediates_only=True)) == 1
    features = make(name, features_only=True).eval()
    got = features(x)
    for channels, reduction, tensor in zip(
        features.feature_info.channels(), features.feature_info.reduction(), got, strict=True
    ):
        assert tensor.shape == (2, channels, 28 // reduction, 28 // reduction)
    assert model.prune_intermediate_layers([1]) == [1]
    torch.testing.assert_close(model.forward_features(x), maps[1])


def test_export_of_the_whole_model(name):
    model = make(name).eval()
    x = torch.randn(2, 1, 28, 28)
    program = torch.export.export(model, (x,))
    torch.testing.assert_close(program.module()(x), model(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("in_chans", "num_classes", "size"), [(1, 5, 28), (3, 0, 32), (4, 2, (16, 24))], ids=str)
def test_channels_classes_and_sizes(name, in_chans, num_classes, size):
    model = make(name, in_chans=in_chans, num_classes=num_classes, img_size=size).eval()
    height, width = (size, size) if isinstance(size, int) else size
    assert model(torch.randn(2, in_chans, height, width)).shape == (2, num_classes or model.num_features)


def test_a_conv_net_takes_other_sizes_and_the_mlp_refuses_them():
    assert make("kan_conv_small")(torch.randn(2, 1, 37, 19)).shape == (2, 5)
    with pytest.raises(KANError, match=r"expected images of shape \(1, 28, 28\), got \(1, 32, 32\)"):
        make("kan_mlp_small")(torch.randn(2, 1, 32, 32))
    with pytest.raises(KANError, match="at least 4 x 4 pixels"):
        make("kan_conv_small", img_size=2)


def test_data_config_and_transform(name):
    config = resolve_data_config({}, model=make(name, in_chans=3))
    assert config["input_size"][0] == 3
    assert create_transform(**config) is not None


def test_deepcopy_state_dict_and_ema(name):
    model, other = make(name).eval(), make(name).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)
    x = torch.randn(2, 1, 28, 28)
    assert not torch.equal(model(x), other(x))
    other.load_state_dict(model.state_dict())
    assert torch.equal(model(x), other(x))
    assert torch.equal(copy.deepcopy(model)(x), model(x))
    ema = ModelEmaV3(model)
    ema.update(model)


def test_layer_decay_optimizer_covers_every_parameter_once(name):
    model = make(name)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.7)
    owned = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(owned) == len({id(p) for p in owned}) == len(list(model.parameters()))


@pytest.mark.parametrize("name", ["kan_mlp_small", "kan_conv_small"])
def test_one_batch_is_memorised(name):
    model = make(name, num_classes=10)
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(32, 1, 28, 28, generator=generator), torch.randint(10, (32,), generator=generator)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    assert (model(x).argmax(1) == y).float().mean() == 1


def test_parameter_counts_are_the_closed_forms():
    # in * hidden * (K + 1) + hidden for each layer; K = 3 + 2
    assert count_parameters(make("kan_mlp_small", num_classes=10)) == 784 * 64 * 6 + 64 + 64 * 10 * 6 + 10
    # 9 * in * out * (K + 1) for each convolution, 2 * out for its BatchNorm, and the classifier; K = 4
    convolutions = sum(9 * i * o * 5 + 2 * o for i, o in ((1, 16), (16, 32), (32, 64)))
    assert count_parameters(make("kan_conv_small", num_classes=10)) == convolutions + 64 * 10 + 10


def test_models_are_documented_where_they_are_registered():
    for module in MODULES:
        source = getattr(kan_vision.models, module)
        assert source.__doc__
        assert all(getattr(source, name).__doc__ for name in timm.list_models(module=module))
