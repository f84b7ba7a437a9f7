"""One small network of every family as ONNX, in ONNX Runtime; benchmarks/export.py does it for every name."""

from __future__ import annotations

import pytest
import timm
import torch

import kan_vision  # noqa: F401
from kan_core.training.export import onnx_module, trace, write_onnx

SMALL = {
    "kan_mlp_small": {},
    "kan_conv_small": {"layer": "bspline"},
    "vikan_tiny_patch7_28": {"depth": 1},
    "kat_tiny_patch16_224": {"depth": 1},
    "karat_tiny_patch4_32": {"depth": 1, "embed_dim": 48},
    "kkan_small": {},
    "kaconv4_28": {"width": 0.125},
    "rkan_resnet18": {},
    "medvit_v2_tiny": {"depths": (1, 1, 1, 1), "dims": (32, 64, 64, 64)},
    "sconvkan_small": {},
}


def test_every_family_has_its_example():
    modules = {timm.model_entrypoint(name).__module__ for name in SMALL}
    ours = [name for name in timm.list_models() if timm.model_entrypoint(name).__module__.startswith("kan_vision.")]
    assert {timm.model_entrypoint(name).__module__ for name in ours} == modules


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_onnx_says_what_the_network_says_for_any_batch(name, tmp_path):
    torch.manual_seed(0)
    net = timm.create_model(name, in_chans=1, num_classes=5, img_size=28, **SMALL[name]).eval()
    write_onnx(trace(net, torch.randn(2, 1, 28, 28)), tmp_path / "model.onnx", {})
    run = onnx_module(tmp_path / "model.onnx")
    for batch in (1, 3):
        x = torch.randn(batch, 1, 28, 28)
        with torch.no_grad():
            assert (run(x) - net(x)).abs().max() <= 1e-4
