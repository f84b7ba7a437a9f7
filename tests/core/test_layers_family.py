"""The family-wide invariants of the unified view for the layers that are not one basis times coefficients.

Where a layer breaks an invariant by definition, a test says so by name and shows that it does. The same invariants for
every basis in KANLinear and the convolutions are in test_layers.py.
"""

from __future__ import annotations

import copy
import io
import math
import pickle

import pytest
import torch
from torch import nn

from kan_core import KANError, layers
from kan_core.compare import count_flops
from kan_core.layers import FeedForward, kan_layers
from kan_core.registry import parse_spec

F64 = torch.float64
IN, OUT = 6, 4

# What mixes its inputs before it is nonlinear has no univariate edges: invariant 1 is broken by definition.
NO_EDGES = {
    "af-kan": "attention and LayerNorm run over the inputs",
    "pr-kan": "attention and LayerNorm run over the inputs",
    "sech-kan": "LayerNorm runs over the inputs",
    "grkan": "two KAN layers in a row, a gate and a LayerNorm",
    "hqkan": "a QKAN between two linear maps",
    "kaf": "random Fourier features of a projection of all inputs",
    "kamoe": "the gate sees all inputs",
    "mixture": "the gate sees all inputs",
    "mlp-kan": "the gate sees all inputs",
    "multkan": "products of sums over the inputs",
}


def make(spec: str, dtype: torch.dtype = F64, **kwargs) -> nn.Module:
    return layers.get(spec)(IN, OUT, dtype=dtype, **kwargs)


def name_of(spec: str) -> str:
    return parse_spec(spec)[0]


def has_edges(spec: str) -> bool:
    return name_of(spec) not in NO_EDGES


# --- the ten invariants --------------------------------------------------------------------------------------------


def test_invariant_1_a_layer_is_the_sum_of_its_edge_functions_or_has_none_by_definition(layer_spec):
    layer = make(layer_spec).eval()
    x = torch.randn(11, IN, dtype=F64)
    if has_edges(layer_spec):
        edges = [[layer.edge_function(o, i)(x[:, i]) for i in range(IN)] for o in range(OUT)]
        expected = torch.stack([torch.stack(row).sum(0) for row in edges], dim=1)
        bias = getattr(layer, "bias", None)
        if bias is None:  # a layer that ends in nn.Linear keeps it there
            expected = expected + (layer(x) - expected)[:1]
            torch.testing.assert_close((layer(x) - expected)[0], torch.zeros(OUT, dtype=F64))
        else:
            expected = expected + bias
        torch.testing.assert_close(layer(x), expected, atol=1e-12, rtol=0)
        return
    assert not hasattr(layer, "edge_function"), NO_EDGES[name_of(layer_spec)]
    # additive in the inputs would mean that a mixed second difference vanishes
    a, b = torch.zeros(IN, dtype=F64), torch.zeros(IN, dtype=F64)
    a[0], b[1] = 0.7, 0.9
    mixed = torch.stack([layer(v + a + b) - layer(v + a) - layer(v + b) + layer(v) for v in x])
    assert mixed.abs().max() > 1e-9, NO_EDGES[name_of(layer_spec)]


def test_invariant_2_leading_shape_is_free(layer_spec):
    layer = make(layer_spec).eval()
    x = torch.randn(7, IN, dtype=F64)
    y = layer(x)
    assert y.shape == (7, OUT)
    torch.testing.assert_close(layer(x[0]), y[0], atol=1e-12, rtol=0)
    nested = torch.stack([x, x + 1])
    torch.testing.assert_close(layer(nested), torch.stack([y, layer(x + 1)]), atol=1e-12, rtol=0)
    assert layer(x[:0]).shape == (0, OUT)
    assert layer(nested[:, :0]).shape == (2, 0, OUT)


def test_invariant_3_rows_are_independent(layer_spec):
    layer = make(layer_spec)  # training mode: no default may couple rows
    x = torch.randn(7, IN, dtype=F64)
    changed = x.clone()
    changed[1:] += 100
    torch.testing.assert_close(layer(changed)[0], layer(x)[0], atol=1e-13, rtol=0)


def test_invariant_4_training_touches_neither_the_global_rng_nor_files(layer_spec, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(3)
    seed, layer = torch.initial_seed(), make(layer_spec)
    assert torch.initial_seed() == seed  # construction draws, as nn.Linear does, and never reseeds
    torch.manual_seed(3)
    assert all(torch.equal(a, b) for a, b in zip(layer.parameters(), make(layer_spec).parameters(), strict=True))
    state = torch.get_rng_state()
    x = torch.randn(9, IN, dtype=F64, generator=torch.Generator().manual_seed(0))
    layer(x).square().sum().backward()
    torch.optim.SGD(layer.parameters(), 0.1).step()
    assert torch.equal(state, torch.get_rng_state())
    assert list(tmp_path.iterdir()) == []


def test_invariant_5_state_dict_round_trip_restores_identical_outputs(layer_spec):
    source, target = make(layer_spec), make(layer_spec)
    file = io.BytesIO()
    torch.save(source.state_dict(), file)
    file.seek(0)
    target.load_state_dict(torch.load(file, weights_only=True))
    x = torch.randn(7, IN, dtype=F64) * 3
    assert torch.equal(source(x), target(x))


def test_invariant_6_to_moves_everything(layer_spec):
    layer = make(layer_spec)
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        layer.to(dtype)
        assert all(t.dtype == dtype for t in layer.state_dict().values() if t.is_floating_point())
        assert layer(torch.randn(7, IN, dtype=dtype)).dtype == dtype
    meta = make(layer_spec, device="meta")
    assert all(t.device.type == "meta" for t in [*meta.parameters(), *meta.state_dict().values()])
    assert meta.to_empty(device="cpu")(torch.zeros(2, IN, dtype=F64)).shape == (2, OUT)


@pytest.mark.parametrize("reach", [0.8, 30.0], ids=["inside", "saturated"])
def test_invariant_7_gradcheck(layer_spec, reach):
    torch.manual_seed(4)
    layer = make(layer_spec)
    generator = torch.Generator().manual_seed(2)
    x = ((torch.rand(3, IN, dtype=F64, generator=generator) * 2 - 1) * reach).requires_grad_()
    names, values = zip(*layer.named_parameters(), strict=True)
    # off the initial values: a denominator of zeros sits on the kink of |b|
    values = tuple((v + 0.01 * torch.randn(v.shape, generator=generator)).detach().requires_grad_() for v in values)

    def function(x, *values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(function, (x, *values), fast_mode=True)


def test_invariants_8_and_9_refinement_keeps_the_function_where_there_is_a_grid(layer_spec):
    layer = make(layer_spec).eval()
    x = torch.rand(200, IN, dtype=F64) * 2 - 1
    before = layer(x)
    if hasattr(layer, "extend"):  # the circuits' refinement
        layer.extend(6)
    for _, part in kan_layers(layer):
        if part.basis.adaptive:
            part.refine(2 * part.basis.grid_size)
    # exact inside the grids; a few hidden activations lie beyond, where the functions run out
    torch.testing.assert_close(layer(x), before, atol=1e-10 if has_edges(layer_spec) else 1e-3, rtol=0)


def test_invariant_10_every_parameter_gets_a_gradient(layer_spec):
    torch.manual_seed(6)
    layer = make(layer_spec)
    layer(torch.randn(64, IN, dtype=F64)).square().sum().backward()
    unused = [n for n, p in layer.named_parameters() if p.grad is None or p.grad.abs().sum() == 0]
    assert unused == []


# --- what torch users expect -----------------------------------------------------------------------------------------


def test_outputs_start_at_order_one(layer_spec):
    torch.manual_seed(1)
    y = layers.get(layer_spec)(64, 48)(torch.randn(500, 64))
    assert 0.1 < y.std() < 3


@pytest.mark.parametrize("value", [0.0, 1e-40, 1e-4, 1e4, -1e4])
@pytest.mark.parametrize("half", [None, torch.bfloat16, torch.float16])
def test_saturation_and_extremes_give_finite_values_and_gradients(layer_spec, value, half):
    torch.manual_seed(2)
    layer = make(layer_spec, torch.float32)
    x = torch.full((5, IN), value, requires_grad=True)
    with torch.autocast("cpu", half, enabled=half is not None):
        y = layer(x)
    if name_of(layer_spec) == "multkan" and half == torch.float16 and abs(value) == 1e4:
        assert not y.isnan().any()  # the product of two sums of size 1e4 lies beyond float16 by definition
        return
    assert y.isfinite().all()
    y.float().sum().backward()
    assert x.grad.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in layer.parameters())


def test_autocast_returns_bfloat16_and_is_close(layer_spec):
    torch.manual_seed(2)
    layer = make(layer_spec, torch.float32).eval()
    x = torch.randn(7, IN)
    with torch.autocast("cpu", torch.bfloat16):
        y, again = layer(x), layer(x.bfloat16())
    assert y.dtype == again.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), layer(x), atol=0.1, rtol=0.1)
    y.float().sum().backward()
    assert all(p.grad is None or p.grad.dtype == torch.float32 for p in layer.parameters())


@pytest.mark.slow
def test_compile_fullgraph(layer_spec):
    torch.compiler.reset()
    layer = make(layer_spec, torch.float32)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x = torch.randn(7, IN)
    torch.testing.assert_close(compiled(x), layer(x), atol=1e-5, rtol=1e-5)
    compiled(x).sum().backward()
    got = [p.grad.clone() for p in layer.parameters() if p.grad is not None]
    layer.zero_grad()
    layer(x).sum().backward()
    torch.testing.assert_close(got, [p.grad for p in layer.parameters() if p.grad is not None], atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_export_with_a_dynamic_batch(layer_spec):
    layer = make(layer_spec, torch.float32).eval()
    dynamic = ({0: torch.export.Dim("batch", min=1)},)
    program = torch.export.export(layer, (torch.randn(7, IN),), dynamic_shapes=dynamic)
    x = torch.randn(10, IN)
    torch.testing.assert_close(program.module()(x), layer(x), atol=1e-5, rtol=1e-5)


def test_deepcopy_and_pickle(layer_spec):
    layer = make(layer_spec)
    x = torch.randn(7, IN, dtype=F64)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin(x), layer(x))
        with torch.no_grad():
            for parameter in twin.parameters():
                parameter.add_(0.5)
        assert not torch.equal(twin(x), layer(x))


def test_nan_in_one_row_stays_visible_there(layer_spec):
    layer = make(layer_spec).eval()
    x = torch.randn(3, IN, dtype=F64)
    x[1, 2] = math.nan
    y = layer(x)
    assert y[1].isnan().any()
    assert y[[0, 2]].isfinite().all()


def test_flops_grow_with_the_batch_and_exceed_the_matrix_product(layer_spec):
    layer = layers.get(layer_spec)(16, 12)
    x = torch.randn(1, 16)
    # copies of one row: a mixture's cost depends on the experts it picks
    one, three, five = (count_flops(layer, x.expand(rows, -1)) for rows in (1, 3, 5))
    assert five - three == three - one > 2 * 2 * 16  # what a layer computes from its weights alone is paid once


def test_wrong_sizes_and_inputs_are_refused(layer_spec):
    with pytest.raises(KANError, match=r"expected an input of shape \(\.\.\., 6\), got \(2, 7\)"):
        make(layer_spec)(torch.zeros(2, 7, dtype=F64))
    with pytest.raises(KANError):
        layers.get(layer_spec)(0, 3)


@pytest.mark.parametrize("features", [1, 5, 8])
def test_any_width_works(layer_spec, features):
    layer = layers.get(layer_spec)(features, 3)
    assert layer(torch.randn(4, features)).isfinite().all()


# --- factories and the feed-forward block ----------------------------------------------------------------------------


def test_every_registered_layer_is_under_test(all_layer_specs):
    from kan_core.layers._registry import REGISTRY

    assert {name_of(spec) for spec in all_layer_specs} == set(REGISTRY.names())
    assert set(layers.names()) >= set(REGISTRY.names())
    assert set(NO_EDGES) <= set(REGISTRY.names())


def test_unknown_arguments_and_convolutions_are_refused(layer_spec):
    with pytest.raises(KANError, match="unexpected keyword argument"):
        layers.get(f"{name_of(layer_spec)}(colour=3)")
    with pytest.raises(KANError, match="has no convolution: choose 'linear' or one of"):
        layers.get(layer_spec, conv=2)


def test_every_layer_is_a_transformer_feed_forward_block(feed_forward_spec):
    torch.manual_seed(0)
    block = FeedForward(48, 96, layer=feed_forward_spec, dropout=0.1)
    x = torch.randn(2, 17, 48, requires_grad=True)
    y = block(x)
    assert y.shape == x.shape
    y.square().mean().backward()
    assert x.grad.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in block.parameters())
    block.eval()
    torch.testing.assert_close(block(x)[1, 3], block(x[1, 3]), atol=1e-5, rtol=1e-4)


def test_the_linear_feed_forward_block_is_the_mlp_of_a_vit():
    block = FeedForward(8, layer="linear")
    x = torch.randn(3, 8)
    assert block.first.out_features == 32
    expected = block.second(nn.functional.gelu(block.first(x)))
    assert torch.equal(block(x), expected)


def test_kats_block_takes_a_layer_each():
    block = FeedForward(16, 32, layer=("gr-kan(init='identity')", "gr-kan(init='swish')"))
    x = torch.randn(3, 16)
    linear = nn.functional.linear(x, block.first.linear.weight, block.first.linear.bias)
    torch.testing.assert_close(block.first(x), linear)  # the first activation starts as the identity
    assert isinstance(block.activation, nn.Identity)
