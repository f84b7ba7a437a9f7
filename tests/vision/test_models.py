"""timm's own contract (timm card, section 3), mirrored for every model that kan_vision registers."""

from __future__ import annotations

import copy
import importlib
import pickle
import pkgutil
import subprocess
import sys

import pytest
import timm
import torch
from timm.data import create_transform, resolve_data_config
from timm.models import save_for_hf
from timm.optim import create_optimizer_v2
from timm.utils import ModelEmaV3
from torch import nn

import kan_vision.models
from kan_core import KANError
from kan_core.compare import count_parameters
from kan_core.layers import kan_layers

FAMILIES = [m.name for m in pkgutil.iter_modules(kan_vision.models.__path__) if not m.name.startswith("_")]
NAMES = [name for name in timm.list_models() if timm.model_entrypoint(name).__module__.startswith("kan_vision.")]
NO_FEATURE_MAPS = {"kan_mlp_small", "kan_mlp_base"}
# Twelve equal blocks say no more than three, and the initialisation of KAT's takes a second each at this width.
FEWER_BLOCKS = {
    f"{family}_{size}_patch16_224": {"depth": 3} for family in ("kat", "karat") for size in ("small", "base")
}
LAYERS = ("bspline", "rbf(num_centers=4)", "chebyshev", "linear")


def make(name: str, **kwargs) -> nn.Module:
    torch.manual_seed(0)
    size = {"in_chans": 1, "num_classes": 5, "img_size": 28}
    return timm.create_model(name, **{**size, **FEWER_BLOCKS.get(name, {}), **kwargs})


def images(batch: int = 2, channels: int = 1, size: int = 28) -> torch.Tensor:
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(1))


# One preset of every family and form: in slow checks of the code the others say no more.
FORMS = {
    *(
        "cnn_small",
        "conv_kan_small",
        "kan_conv_small",
        "kan_mlp_small",
        "kanc_mlp_small",
        "kkan_small",
        "sconvkan_small",
    ),
    *("kaconv4_28", "kaconv_vgg11", "kaconv_resnet18", "rkan_resnet18", "rkan_resnet50"),
    *("medvit_v2_tiny", "vikan_tiny_patch7_28", "kat_tiny_patch16_224", "karat_tiny_patch4_32"),
}


def only_one_of_a_form(name: str) -> None:
    if name not in FORMS:
        pytest.skip("the code is that of another preset of the family")


@pytest.fixture(scope="module", params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def shared(name: str) -> nn.Module:
    """The model of `name` in evaluation mode, for tests that leave it as it is."""
    return make(name).eval()


@pytest.fixture
def model(shared: nn.Module) -> nn.Module:
    """A copy, to be changed."""
    return copy.deepcopy(shared)


def test_import_registers_exactly_our_models():
    code = (
        "import timm; before = set(timm.list_models()); import kan_vision; "
        "print(sorted(set(timm.list_models()) - before)); print(len(before))"
    )
    out = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert eval(out.splitlines()[0]) == sorted(NAMES)
    by_module = {name for module in FAMILIES for name in timm.list_models(module=module)}
    assert by_module == set(NAMES)


def test_every_family_has_a_preset_in_the_slow_checks():
    families = [{timm.model_entrypoint(name).__module__ for name in names} for names in (FORMS, NAMES)]
    assert families[0] == families[1]


def test_every_family_of_the_issue_is_registered():
    modules = {timm.model_entrypoint(name).__module__.rpartition(".")[2] for name in NAMES}
    assert modules >= {"vikan", "kat", "karat", "kkan", "ka_conv", "rkan", "medvit_v2", "sconvkan"}


def test_forward(shared):
    with torch.no_grad():
        y = shared(images())
    assert y.shape == (2, 5)
    assert y.isfinite().all()


def test_every_parameter_has_a_gradient(model):
    """timm 3.3; a parameter without one is dead, and stops distributed training."""
    model.train()
    model.reset_classifier(42)
    loss = nn.functional.cross_entropy(model(images(4)), torch.arange(4))
    loss.backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, f"no gradient for {key}"
        assert parameter.grad.isfinite().all(), key
    assert loss.item() < 2 * 3.74  # ln 42: a start far above it is a bad initialisation


def test_an_image_alone_has_the_gradients_that_it_has_beside_itself(name, model):
    """torch's own normalisations get this wrong on the CPU for some memory layouts of a batch of one."""
    only_one_of_a_form(name)
    model.double()
    x = images(1).double()
    gradients = []
    for batch in (x, torch.cat([x, x])):
        batch.requires_grad_()
        model.zero_grad()
        model(batch).square().sum().div(len(batch)).backward()
        gradients.append([batch.grad.sum(0), *(p.grad.clone() for p in model.parameters())])
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-8, rtol=1e-6)


def test_checkpointing_gives_the_same_outputs_and_gradients(name, model):
    only_one_of_a_form(name)
    x = images()
    model(x).sum().backward()
    gradients = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    model.set_grad_checkpointing(True)
    y = model(x)
    y.sum().backward()
    torch.testing.assert_close([p.grad for p in model.parameters()], gradients)
    model.set_grad_checkpointing(False)
    torch.testing.assert_close(model(x), y)


def test_config_names_modules_that_resolve(shared):
    classifier = shared.pretrained_cfg["classifier"]
    assert shared.get_submodule(classifier) is shared.get_classifier()
    first = shared.pretrained_cfg["first_conv"]
    # timm adapts this weight to other channels: it must be an ordinary convolution, or none be named
    assert first is None or type(shared.get_submodule(first)) is nn.Conv2d


def test_reset_classifier(model):
    x = images()
    with torch.no_grad():
        features = model.forward_head(model.forward_features(x), pre_logits=True)
        model.reset_classifier(0)
        assert features.shape == (2, model.num_features) == (2, model.head_hidden_size)
        torch.testing.assert_close(model(x), features)
        model.reset_classifier(7)
        assert model(x).shape == (2, 7)
    assert model.num_classes == 7


def test_forward_intermediates_and_features_only(name, model):
    if name in NO_FEATURE_MAPS:
        with pytest.raises(RuntimeError, match="features_only is not available"):
            make(name, features_only=True)
        return
    x = images()
    with torch.no_grad():
        last, maps = model.forward_intermediates(x)
        torch.testing.assert_close(last, model.forward_features(x))
        assert len(model.forward_intermediates(x, indices=[0], stop_early=True, intermediates_only=True)) == 1
        model.prune_intermediate_layers([1])
        torch.testing.assert_close(model.forward_intermediates(x, intermediates_only=True)[-1], maps[1])
        features = make(name, features_only=True).eval()
        info = features.feature_info
        for channels, reduction, tensor in zip(info.channels(), info.reduction(), features(x), strict=True):
            assert tensor.shape[:2] == (2, channels)
            # nets without padding lose up to two more rows and columns on the way
            assert all(abs(side * reduction - 28) < 3 * reduction for side in tensor.shape[2:])
        assert info.reduction() == sorted(info.reduction())


def test_export_of_the_whole_model(name, shared):
    only_one_of_a_form(name)
    x = images()
    with torch.no_grad():
        program = torch.export.export(shared, (x,))
        torch.testing.assert_close(program.module()(x), shared(x), atol=1e-4, rtol=1e-4)


def test_other_channels_and_no_classes(name):
    model = make(name, in_chans=3, num_classes=0, img_size=32).eval()
    with torch.no_grad():
        assert model(images(channels=3, size=32)).shape == (2, model.num_features)


def test_other_image_sizes_work_unless_the_model_has_a_fixed_size(shared):
    x = torch.randn(2, 1, 44, 37)
    with torch.no_grad():
        if shared.pretrained_cfg.get("fixed_input_size", False):
            # timm's own transformers assert, ours say it in one line
            with pytest.raises((KANError, AssertionError)):
                shared(x)
        else:
            assert shared(x).shape == (2, 5)


def test_data_config_and_transform(shared):
    config = resolve_data_config({}, model=shared)
    assert create_transform(**config) is not None
    assert len(config["mean"]) == len(config["std"]) == 3


def test_copies_pickles_and_state_dicts_are_bitwise_the_same(name, shared, model):
    only_one_of_a_form(name)
    x = images()
    with torch.no_grad():
        expected = shared(x)
        for parameter in model.parameters():
            parameter.add_(0.01)
        assert not torch.equal(model(x), expected)
        model.load_state_dict(shared.state_dict())
        assert torch.equal(model(x), expected)
        assert torch.equal(pickle.loads(pickle.dumps(shared))(x), expected)


def test_weights_saved_with_a_configuration_load_from_a_local_folder(name, shared, tmp_path):
    arguments = {"in_chans": 1, "num_classes": 5, "img_size": 28, **FEWER_BLOCKS.get(name, {})}
    save_for_hf(shared, tmp_path, model_args=arguments, safe_serialization=True)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors"}
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    with torch.no_grad():
        assert torch.equal(loaded(images()), shared(images()))


def test_layer_decay_optimizer_covers_every_parameter_once(model):
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.7)
    owned = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(owned) == len({id(p) for p in owned}) == len(list(model.parameters()))
    exempt = getattr(model, "no_weight_decay", set)()
    assert set(exempt) <= {key for key, _ in model.named_parameters()} | {"dist_token", "cls_token", "pos_embed"}
    ModelEmaV3(model).update(model)


# The two plain families ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("plain", ["kan_mlp_small", "kan_conv_small"])
def test_plain_families_take_any_layer(plain, layer):
    model = make(plain, layer=layer)
    y = model(images())
    assert y.shape == (2, 5)
    assert bool(kan_layers(model)) == (layer != "linear")
    y.mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(("in_chans", "num_classes", "size"), [(1, 5, 28), (4, 2, (16, 24))], ids=str)
@pytest.mark.parametrize("plain", ["kan_mlp_small", "kan_conv_small"])
def test_channels_classes_and_sizes(plain, in_chans, num_classes, size):
    model = make(plain, in_chans=in_chans, num_classes=num_classes, img_size=size).eval()
    height, width = (size, size) if isinstance(size, int) else size
    assert model(torch.randn(2, in_chans, height, width)).shape == (2, num_classes)


def test_a_conv_net_takes_other_sizes_and_the_mlp_refuses_them():
    assert make("kan_conv_small")(torch.randn(2, 1, 37, 19)).shape == (2, 5)
    with pytest.raises(KANError, match=r"expected images of shape \(1, 28, 28\), got \(1, 32, 32\)"):
        make("kan_mlp_small")(torch.randn(2, 1, 32, 32))
    with pytest.raises(KANError, match="at least 4 x 4 pixels"):
        make("kan_conv_small", img_size=2)


@pytest.mark.parametrize("plain", ["kan_mlp_small", "kan_conv_small"])
def test_one_batch_is_memorised(plain):
    model = make(plain, num_classes=10)
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
    for module in FAMILIES:
        source = importlib.import_module(f"kan_vision.models.{module}")
        assert source.__doc__
        assert all(getattr(source, name).__doc__ for name in timm.list_models(module=module))
