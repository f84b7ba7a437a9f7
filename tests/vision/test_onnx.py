"""Small networks of the families that export within seconds as ONNX, in ONNX Runtime.

`benchmarks/export.py` does it for every registered name and stores what it found: translation alone takes up to a
minute for each of the deep convolutional ones.
"""

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
}


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
