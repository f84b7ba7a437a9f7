"""The ten family-wide invariants of the unified view, and what torch users expect of a layer, for every basis."""

from __future__ import annotations

import copy
import io
import math
import pickle
import shutil

import pytest
import torch
from torch import nn

from kan_core import KAN, KANConv2d, KANError, KANLinear, bases, layers
from kan_core.layers import kan_layers

F64 = torch.float64


def linear(spec: str, dtype: torch.dtype = F64, **kwargs) -> KANLinear:
    return KANLinear(5, 3, spec, dtype=dtype, **kwargs)


def conv(spec: str, dtype: torch.dtype = F64, **kwargs) -> KANConv2d:
    return KANConv2d(3, 4, 3, padding=1, basis=spec, dtype=dtype, **kwargs)


def adapted(spec: str) -> KANLinear:
    """A layer whose basis has followed skewed data, where it can: the evaluator differs from the fresh layer's."""
    layer = linear(spec)
    if not layer.basis.adaptive:
        pytest.skip("this basis does not follow data: the layer is the fresh one")
    layer.update_grid(torch.randn(100, 5, dtype=F64).exp() / 4)
    return layer


MAKE = {"linear": (linear, (7, 5)), "adapted": (adapted, (7, 5)), "conv": (conv, (2, 3, 6, 5))}
every_kind = pytest.mark.parametrize(("make", "shape"), MAKE.values(), ids=list(MAKE))


# --- the ten invariants --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [linear, adapted], ids=["fresh", "adapted"])
def test_invariant_1_a_layer_is_the_sum_of_its_edge_functions(spec, make):
    layer = make(spec)
    x = torch.randn(11, 5, dtype=F64)
    edges = [[layer.edge_function(o, i)(x[:, i]) for i in range(5)] for o in range(3)]
    expected = torch.stack([torch.stack(row).sum(0) for row in edges], dim=1) + layer.bias
    torch.testing.assert_close(layer(x), expected, atol=1e-12, rtol=0)
    single = linear(spec, torch.float32)
    single.load_state_dict({k: v.float() for k, v in layer.state_dict().items()})
    torch.testing.assert_close(single(x.float()).double(), expected, atol=2e-5, rtol=1e-5)


@every_kind
def test_invariant_2_leading_shape_is_free(spec, make, shape):
    layer = make(spec)
    x = torch.randn(shape, dtype=F64)
    y = layer(x)
    torch.testing.assert_close(layer(x[0]), y[0], atol=1e-12, rtol=0)
    nested = torch.stack([x, x + 1])
    torch.testing.assert_close(layer(nested), torch.stack([y, layer(x + 1)]), atol=1e-12, rtol=0)
    assert layer(x[:0]).shape == (0, *y.shape[1:])
    assert layer(nested[:, :0]).shape == (2, 0, *y.shape[1:])


@every_kind
def test_invariant_3_rows_are_independent(spec, make, shape):
    layer = make(spec)
    x = torch.randn(shape, dtype=F64)
    changed = x.clone()
    changed[1:] += 1
    torch.testing.assert_close(layer(changed)[0], layer(x)[0], atol=1e-14, rtol=0)


@every_kind
def test_invariant_4_training_touches_neither_the_global_rng_nor_files(spec, make, shape, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(3)
    seed, layer = torch.initial_seed(), make(spec)
    assert torch.initial_seed() == seed  # construction draws, as nn.Linear does, and never reseeds
    state = torch.get_rng_state()
    x = torch.randn(shape, dtype=F64, generator=torch.Generator().manual_seed(0))
    layer(x).square().sum().backward()
    torch.optim.SGD(layer.parameters(), 0.1).step()
    layer.regularization(x)
    if layer.basis.adaptive:
        layer.update_grid(x)
    assert torch.equal(state, torch.get_rng_state())
    assert list(tmp_path.iterdir()) == []


def test_construction_follows_the_seed_and_layers_differ(spec):
    torch.manual_seed(5)
    one, two = linear(spec), linear(spec)
    torch.manual_seed(5)
    again = linear(spec)
    assert torch.equal(one.weight, again.weight)
    assert not torch.equal(one.weight, two.weight)


@every_kind
def test_invariant_5_state_dict_round_trip_restores_identical_outputs(spec, make, shape):
    source = make(spec)
    file = io.BytesIO()
    torch.save(source.state_dict(), file)
    file.seek(0)
    target = conv(spec) if make is conv else linear(spec)
    target.load_state_dict(torch.load(file, weights_only=True))
    x = torch.randn(shape, dtype=F64) * 3
    assert torch.equal(source(x), target(x))
    assert all(
        torch.equal(a, b) for a, b in zip(source.state_dict().values(), target.state_dict().values(), strict=True)
    )


@every_kind
def test_invariant_6_to_moves_everything(spec, make, shape):
    layer = make(spec)
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        layer.to(dtype)
        assert all(t.dtype == dtype for t in layer.state_dict().values())
        assert layer(torch.randn(shape, dtype=dtype)).dtype == dtype
    meta = layer.to("meta")
    assert all(t.device.type == "meta" for t in meta.state_dict().values())


@every_kind
@pytest.mark.parametrize("reach", [0.8, 30.0], ids=["inside", "saturated"])
def test_invariant_7_gradcheck(spec, make, shape, reach):
    layer = make(spec)
    shape = shape if make is not conv else (1, 3, 3, 2)
    generator = torch.Generator().manual_seed(2)
    x = ((torch.rand(shape, dtype=F64, generator=generator) * 2 - 1) * reach).requires_grad_()
    names, values = zip(*layer.named_parameters(), strict=True)
    values = tuple(v.detach().requires_grad_() for v in values)

    def function(x, *values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(function, (x, *values), fast_mode=make is conv)


@pytest.mark.parametrize("make", [linear, conv], ids=["linear", "conv"])
def test_invariant_9_refinement_keeps_the_function(make):
    layer = make("bspline(grid_size=4, order=3, grid_range=(-2, 2))")
    shape = (200, 5) if make is linear else (2, 3, 6, 6)
    x = torch.rand(shape, dtype=F64) * 4 - 2
    before = layer(x)
    layer.refine(8)
    assert layer.weight.shape[layer.plane_dim] == 8 + 3 + 1
    torch.testing.assert_close(layer(x), before, atol=1e-10, rtol=0)
    layer.refine(24)
    torch.testing.assert_close(layer(x), before, atol=1e-10, rtol=0)


def test_invariant_9_refinement_of_an_adapted_grid_keeps_the_function():
    layer = adapted("bspline")
    x = torch.cat([layer.basis.grid.T, layer.basis.grid.T[:-1] + 0.3 * layer.basis.grid.T.diff(dim=0)])
    before = layer(x)
    layer.refine(15)
    torch.testing.assert_close(layer(x), before, atol=1e-9, rtol=0)


@every_kind
def test_invariant_10_every_parameter_is_counted_and_gets_a_gradient(spec, make, shape):
    layer = make(spec)
    planes, shared = layer.basis.num_functions + 1, sum(p.numel() for p in layer.basis.parameters())
    expected = 3 * 4 * 9 * planes + 4 if make is conv else 5 * 3 * planes + 3
    assert sum(p.numel() for p in layer.parameters()) == expected + shared
    layer(torch.randn(shape, dtype=F64)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in layer.parameters())


# --- parameter counts of the cards ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expected", "net"),
    [
        (508_160, lambda: KAN([784, 64, 10], bias=False, edge_scale=True)),  # efficient-kan
        (2_032_640, lambda: KAN([784, 256, 10], bias=False, edge_scale=True)),
        (150, lambda: KAN([2, 5, 1], bias=False, edge_scale=True)),  # pykan: G + k + 2 per edge
        (120, lambda: KAN([2, 5, 1], "bspline(grid_size=3)", bias=False, edge_scale=True)),
        (248, lambda: KAN([17, 1, 14], "bspline(grid_size=3)", bias=False, edge_scale=True)),
        (600, lambda: KAN([2, 5, 5, 1], "bspline(grid_size=10)", bias=False, edge_scale=True)),
        (459_114, lambda: KAN([784, 64, 10], "rbf", norm="layer")),  # FastKAN
        (408_224, lambda: KAN([784, 64, 10], "rswaf", norm="layer", base=None, bias=False)),  # FasterKAN
        (
            128_896,  # ChebyKAN with LayerNorm between layers
            lambda: KAN(
                [784, 32, 16, 10], "chebyshev(degree=4)", norm="layer", input_norm=False, base=None, bias=False
            ),
        ),
        (
            105_856,
            lambda: KAN(
                [784, 32, 32, 10], "chebyshev(degree=3)", norm="layer", input_norm=False, base=None, bias=False
            ),
        ),
        (501_824, lambda: KANLinear(784, 64, "fourier(num_frequencies=5)", base=None)),  # FourierKAN
        (675, lambda: KANConv2d(1, 5, 3, basis="bspline(grid_size=10)", bias=False, edge_scale=True)),  # Bodner et al.
        (3_375, lambda: KANConv2d(5, 5, 3, basis="bspline(grid_size=10)", bias=False, edge_scale=True)),
        (6_750, lambda: KANConv2d(5, 10, 3, basis="bspline(grid_size=10)", bias=False, edge_scale=True)),
    ],
)
def test_published_parameter_counts(expected, net):
    assert sum(p.numel() for p in net().parameters()) == expected


def test_fastkan_and_fasterkan_totals_with_their_frozen_tensors():
    fast = KAN([784, 64, 10], "rbf", norm="layer")
    assert (
        sum(p.numel() for p in fast.parameters()) + sum(layer.basis.centers.numel() for layer in fast.layers) == 459_130
    )
    faster = KAN([784, 64, 10], "rswaf", norm="layer", base=None, bias=False)
    assert sum(t.numel() for t in faster.state_dict().values()) == 408_242


# --- limiting cases --------------------------------------------------------------------------------------------------


def test_without_coefficients_a_layer_is_linear_after_silu(spec):
    layer = linear(spec)
    with torch.no_grad():
        layer.weight[:-1] = 0
    x = torch.randn(9, 5, dtype=F64)
    torch.testing.assert_close(layer(x), nn.functional.linear(nn.functional.silu(x), layer.base_weight, layer.bias))


@pytest.mark.parametrize("base", ["silu", "identity", "relu", "gelu", "tanh", None])
def test_every_base_function(base):
    layer = linear("chebyshev", base=base)
    x = torch.randn(9, 5, dtype=F64)
    expected = torch.einsum("nik,oik->no", layer.basis(x), layer.coefficients) + layer.bias
    if base is not None:
        function = {"identity": lambda x: x, "tanh": torch.tanh}.get(base) or getattr(nn.functional, base)
        expected = expected + function(x) @ layer.base_weight.T
    torch.testing.assert_close(layer(x), expected, atol=1e-13, rtol=0)


def test_linear_target_with_identity_base_is_exact_after_least_squares():
    """KAN card, section 8: a linear target is in the span of the identity base branch."""
    layer = KANLinear(2, 1, base="identity", bias=False, dtype=F64)
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[-1, :, 0] = torch.tensor([0.5, -2.0])
    x = torch.randn(20, 2, dtype=F64) * 5
    torch.testing.assert_close(layer(x)[:, 0], x @ torch.tensor([0.5, -2.0], dtype=F64), atol=1e-13, rtol=0)


def test_norm_applies_to_the_basis_and_the_base_branch_sees_the_input(spec):
    layer = linear(spec, norm="layer")
    x = torch.randn(9, 5, dtype=F64)
    with torch.no_grad():
        layer.weight[-1] = 0
    torch.testing.assert_close(layer(x * 10), layer(x), atol=2e-4, rtol=0)  # LayerNorm's eps is all that differs
    with torch.no_grad():
        layer.weight[-1] = 1
    assert (layer(x * 10) - layer(x)).abs().max() > 1


def test_layer_norm_of_one_feature_is_left_out():
    layer = KANLinear(1, 1, "rbf", norm="layer")
    assert layer.norm is None
    x = torch.randn(9, 1)
    assert layer(x).std() > 0


def test_batch_norm_accepts_any_leading_shape():
    layer = linear("rbf", norm="batch")
    x = torch.randn(4, 6, 5, dtype=F64)
    torch.testing.assert_close(layer(x), layer(x.reshape(24, 5)).view(4, 6, 3))


def test_edge_scale_multiplies_the_basis_part_of_its_edge(spec):
    layer = linear(spec, edge_scale=True)
    x = torch.randn(9, 5, dtype=F64)
    phi = layer.edge_function(2, 1)(x[:, 1]) - layer.base_weight[2, 1] * nn.functional.silu(x[:, 1])
    before = layer(x)
    with torch.no_grad():
        layer.scale[0, 1, 2] = 3.0
    torch.testing.assert_close(layer(x)[:, 2], before[:, 2] + 2 * phi, atol=1e-12, rtol=0)
    torch.testing.assert_close(layer(x)[:, :2], before[:, :2])


# --- initialisation --------------------------------------------------------------------------------------------------


def test_initial_scale_is_the_deviation_of_the_basis_part(spec):
    for wanted in (0.1, 1.0):
        layer = KANLinear(400, 300, spec, base=None, bias=False, init_scale=wanted)
        assert layer(torch.randn(200, 400)).std().item() == pytest.approx(wanted, rel=0.12)


def test_base_branch_starts_with_a_third_of_the_second_moment_of_silu():
    """efficient-kan card, test 8: bound 1/sqrt(in) gives variance 1/3 E[silu(x)^2]."""
    layer = KANLinear(500, 400, bias=False, init_scale=1e-6)
    x = torch.randn(300, 500)
    assert layer(x).var().item() == pytest.approx(nn.functional.silu(x).square().mean().item() / 3, rel=0.05)


# --- grid update -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("edge_scale", [False, True], ids=["plain", "edge-scale"])
@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=["f32", "f64"])
def test_update_grid_preserves_outputs_on_the_calibration_batch(edge_scale, dtype):
    layer = KANLinear(20, 10, edge_scale=edge_scale, dtype=dtype)
    if layer.scale is not None:
        nn.init.uniform_(layer.scale, 0.2, 2.0)
    x = torch.rand(500, 20, dtype=dtype) * 2 - 1
    before = layer(x)
    layer.update_grid(x)
    assert (layer(x) - before).abs().max() < 1e-3
    assert not layer.basis.uniform


def test_update_grid_of_trained_size_functions_changes_them_by_the_projection_error_only():
    layer = KANLinear(3, 2, init_scale=1.0, dtype=F64)
    x = torch.rand(2000, 3, dtype=F64) * 2 - 1
    before = layer(x)
    layer.update_grid(x)
    change = (layer(x) - before).std() / before.std()
    assert change < 0.05
    coarse = change
    finer = KANLinear(3, 2, "bspline(grid_size=5)", init_scale=1.0, dtype=F64)
    finer.refine(40)  # the same kind of function on eight times the intervals: the error must fall
    before = finer(x)
    finer.update_grid(x)
    assert (finer(x) - before).std() / before.std() < coarse / 10


def test_update_grid_survives_constant_and_duplicated_inputs():
    layer = KANLinear(4, 3)
    x = torch.rand(100, 4) * 2 - 1
    x[:, 1] = 0.25  # constant
    x[:, 2] = (x[:, 2] > 0).float()  # two values only
    x[50:] = x[:50]  # every row twice
    before = layer(x)
    layer.update_grid(x)
    assert layer(x).isfinite().all()
    assert (layer(x) - before).abs().max() < 1e-3
    layer(x.requires_grad_()).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_update_grid_of_one_sample_is_finite():
    layer = KANLinear(3, 2)
    layer.update_grid(torch.zeros(1, 3))
    assert layer(torch.randn(5, 3)).isfinite().all()


def test_update_grid_keeps_a_convolution():
    layer = KANConv2d(4, 6, 3, padding=1, groups=2, dtype=F64)
    x = torch.rand(2, 4, 8, 8, dtype=F64) * 2 - 1
    before = layer(x)
    layer.update_grid(x)
    assert (layer(x) - before).abs().max() < 1e-3


def test_update_grid_of_a_net_feeds_each_layer_its_own_input():
    net = KAN([3, 6, 2], dtype=F64)
    x = torch.rand(300, 3, dtype=F64) * 4 + 3  # far outside the first grid
    net.update_grid(x)
    assert net.layers[0].outside_fraction(x) == 0
    assert net.layers[1].outside_fraction(net.layers[0](x)) == 0


def test_update_grid_follows_normalised_inputs_and_leaves_batch_statistics():
    layer = KANLinear(4, 2, norm="batch", dtype=F64)
    x = torch.randn(200, 4, dtype=F64) * 3 + 1
    layer(x)
    statistics = copy.deepcopy(layer.norm.state_dict())
    layer.update_grid(x)
    assert all(torch.equal(v, layer.norm.state_dict()[k]) for k, v in statistics.items())
    assert layer.training


def test_outside_fraction_counts_inputs_beyond_the_grid():
    layer = KANLinear(2, 1)
    x = torch.tensor([[0.0, 0.0], [2.0, 0.0], [2.0, -5.0], [1.0, -1.0]])
    assert layer.outside_fraction(x).item() == pytest.approx(3 / 8)
    assert KANLinear(2, 1, "fourier").outside_fraction(x) == 0


# --- sparsity --------------------------------------------------------------------------------------------------------


def test_edge_magnitudes_are_the_mean_absolute_edge_values(spec):
    layer = linear(spec)
    x = torch.randn(40, 5, dtype=F64)
    expected = torch.stack(
        [torch.stack([layer.edge_function(o, i)(x[:, i]).abs().mean() for i in range(5)]) for o in range(3)]
    )
    torch.testing.assert_close(layer.edge_magnitudes(x), expected, atol=1e-12, rtol=0)


def test_edge_magnitudes_in_blocks_are_the_same(monkeypatch):
    layer = linear("rbf")
    x = torch.randn(40, 5, dtype=F64)
    whole = torch.autograd.grad(sum(layer.regularization(x)), layer.weight)[0]
    monkeypatch.setattr("kan_core.layers._base._MAX_EDGE_VALUES", 40 * 3 * 2)
    blocks = torch.autograd.grad(sum(layer.regularization(x)), layer.weight)[0]
    torch.testing.assert_close(blocks, whole)


def test_regularization_of_known_edges():
    layer = KANLinear(2, 1, "chebyshev(degree=1, squash=False)", base=None, bias=False, dtype=F64)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[[3.0], [0.0]], [[0.0], [1.0]]]))  # phi_1 = 3, phi_2 = x
    x = torch.tensor([[0.5, -1.0], [0.1, 1.0]], dtype=F64)
    l1, entropy = layer.regularization(x)
    assert l1.item() == pytest.approx(4.0)
    assert entropy.item() == pytest.approx(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))


@pytest.mark.parametrize("make", [linear, conv], ids=["linear", "conv"])
def test_regularization_of_zero_layer_and_zero_edge_is_finite(make):
    layer = make("bspline")
    with torch.no_grad():
        layer.weight.zero_()
    x = torch.randn(MAKE["conv"][1] if make is conv else (7, 5), dtype=F64)
    l1, entropy = layer.regularization(x)
    assert (l1.item(), entropy.item()) == (0, 0)
    (l1 + entropy).backward()
    assert layer.weight.grad.isfinite().all()


# --- what torch users expect -----------------------------------------------------------------------------------------


@every_kind
@pytest.mark.slow
def test_compile_fullgraph(spec, make, shape):
    torch.compiler.reset()  # every test is a new program; dynamo's limit is on recompilations of one
    layer = make(spec).float()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x = torch.randn(shape)
    torch.testing.assert_close(compiled(x), layer(x), atol=1e-5, rtol=1e-5)
    compiled(x).sum().backward()
    got = layer.weight.grad.clone()
    layer.zero_grad()
    layer(x).sum().backward()
    torch.testing.assert_close(got, layer.weight.grad, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")  # torch's own
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile's CPU backend needs a C++ compiler")
@pytest.mark.parametrize(("make", "spec_text"), [(linear, "bspline"), (conv, "rbf")], ids=["linear", "conv"])
def test_compile_fullgraph_to_machine_code(make, spec_text):
    torch.compiler.reset()
    layer = make(spec_text).float()
    compiled = torch.compile(layer, fullgraph=True)
    x = torch.randn(MAKE["conv"][1] if make is conv else (7, 5), requires_grad=True)
    expected = layer(x)
    want = torch.autograd.grad(expected.square().sum(), (x, layer.weight))
    got = torch.autograd.grad(compiled(x).square().sum(), (x, layer.weight))
    torch.testing.assert_close(compiled(x), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)


@every_kind
@pytest.mark.slow
def test_export_with_a_dynamic_batch(spec, make, shape):
    layer = make(spec).float().eval()
    dynamic = {"x": {0: torch.export.Dim("batch", min=1)}}
    program = torch.export.export(layer, (torch.randn(shape),), dynamic_shapes=dynamic)
    x = torch.randn(shape[0] + 3, *shape[1:])
    torch.testing.assert_close(program.module()(x), layer(x), atol=1e-5, rtol=1e-5)
    operators = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert not any(name.startswith("kan") for name in operators)  # ordinary operators only: ONNX can follow


@every_kind
def test_autocast_returns_bfloat16_and_keeps_the_basis_in_float32(spec, make, shape):
    layer = make(spec).float()
    x = torch.randn(shape)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
        again = layer(x.bfloat16())
    assert y.dtype == again.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), layer(x), atol=0.05, rtol=0.05)
    y.float().sum().backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in layer.parameters())


@every_kind
def test_deepcopy_and_pickle(spec, make, shape):
    layer = make(spec)
    x = torch.randn(shape, dtype=F64)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin(x), layer(x))
        with torch.no_grad():
            twin.weight.add_(1)
        assert not torch.equal(twin(x), layer(x))


@every_kind
@pytest.mark.parametrize("half", [None, torch.bfloat16, torch.float16], ids=str)
def test_saturation_and_extremes_give_finite_values_and_gradients(spec, make, shape, half):
    layer = make(spec).float()
    for value in (0.0, 1e-40, 1e-4, 1e4, -1e4):  # constant batches: nothing, a denormal, small, far outside
        x = torch.full(shape, value, requires_grad=True)
        with torch.autocast("cpu", half, enabled=half is not None):
            y = layer(x)
        assert y.isfinite().all()
        y.float().mean().backward()  # of a sum, the gradient of W_b is Σ silu(x), beyond float16 for 7 rows of 1e4
        assert x.grad.isfinite().all()
        assert all(p.grad.isfinite().all() for p in layer.parameters())


def test_nan_in_one_row_stays_visible_there(spec):
    layer = linear(spec)
    x = torch.randn(3, 5, dtype=F64)
    x[1, 2] = math.nan
    y = layer(x)
    assert y[1].isnan().all()
    assert y[[0, 2]].isfinite().all()


@pytest.mark.parametrize("grid_size", [1, 20])
def test_one_input_one_output(grid_size):
    layer = KANLinear(1, 1, f"bspline(grid_size={grid_size})")
    assert layer(torch.randn(4, 1)).shape == (4, 1)


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: KANLinear(3, 2, base="sin"), "base must be None or one of silu"),
        (lambda: KANLinear(3, 2, norm="group"), "norm must be None, 'layer' or 'batch'"),
        (lambda: KANLinear(0, 2), "in_features and out_features must be at least 1"),
        (lambda: KANLinear(3, 2, "splines"), "unknown basis 'splines'"),
        (lambda: KANLinear(3, 2)(torch.zeros(4, 2)), r"expected an input of shape \(\.\.\., 3\), got \(4, 2\)"),
        (lambda: KANLinear(3, 2).edge_function(2, 0), "edge .2, 0. does not exist: the layer has 2 x 3 edges"),
        (lambda: KANLinear(3, 2, "rbf").update_grid(torch.zeros(4, 3)), "no grid to update"),
        (lambda: KANLinear(3, 2, "rbf").refine(10), "no grid to refine"),
        (lambda: KANLinear(3, 2, "rbf", backend="cpu")(torch.zeros(4, 3)), "basis_linear has no such kernel"),
        (lambda: KANLinear(3, 2, backend="cuda")(torch.zeros(4, 3)), "backend is 'cuda'"),
        (lambda: KAN([3]), "at least an input and an output size"),
        (lambda: layers.get("splines"), "unknown layer 'splines': choose one of linear, "),
        (lambda: layers.get("linear(bias=False)"), "takes no arguments"),
        (lambda: layers.get("rbf", conv=4), "conv must be 0, 1, 2 or 3"),
        (lambda: layers.activation_before("linear", "sine"), "activation must be one of silu"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(KANError, match=message):
        make()


# --- factories -------------------------------------------------------------------------------------------------------


def test_factories_make_the_named_layer(spec):
    layer = layers.get(spec)(5, 3, bias=False)
    assert isinstance(layer, KANLinear)
    assert layer.basis.num_functions == bases.get(spec).num_functions
    assert isinstance(layers.get(spec, conv=2)(3, 4, kernel_size=3), KANConv2d)
    assert isinstance(layers.activation_before(spec), nn.Identity)


def test_the_linear_factory_is_torch():
    assert layers.get("linear") is nn.Linear
    assert layers.get("linear", conv=1) is nn.Conv1d
    assert isinstance(layers.activation_before("linear"), nn.SiLU)
    assert layers.get(nn.Linear) is nn.Linear
    assert {"linear", *bases.names()} < set(layers.names())


def test_kan_layers_finds_them_by_name():
    net = nn.Sequential(nn.Linear(3, 3), KAN([3, 2, 1]))
    assert [name for name, _ in kan_layers(net)] == ["1.layers.0", "1.layers.1"]


# --- the base function that learns -------------------------------------------------------------------------------


@pytest.mark.parametrize(("make", "shape"), [MAKE["linear"], MAKE["conv"]], ids=["linear", "conv"])
def test_prelu_base_has_one_learned_slope_for_the_layer(make, shape):
    torch.manual_seed(0)
    plain, layer = make("bspline", base="silu"), make("bspline", base="prelu")
    assert layer.slope.tolist() == [0.25]
    assert sum(p.numel() for p in layer.parameters()) == sum(p.numel() for p in plain.parameters()) + 1
    assert set(layer.state_dict()) - set(plain.state_dict()) == {"slope"}
    layer.double()
    x = torch.randn(shape, dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, slope: torch.func.functional_call(layer, {"slope": slope}, x), (x, layer.slope)
    )
    layer(x).square().sum().backward()
    assert layer.slope.grad.abs() > 0


def test_prelu_layer_is_the_sum_of_its_edges_and_keeps_them_through_refits():
    layer = linear("bspline", base="prelu", bias=False, edge_scale=True)
    with torch.no_grad():
        layer.slope.fill_(-0.7)
    x = 2 * torch.rand(50, 5, dtype=F64) - 1
    edges = [sum(layer.edge_function(o, i)(x[:, i]) for i in range(5)) for o in range(3)]
    torch.testing.assert_close(layer(x), torch.stack(edges, dim=1), atol=1e-12, rtol=0)
    expected = torch.stack([layer.edge_function(2, i)(x[:, i]).abs().mean() for i in range(5)])
    torch.testing.assert_close(layer.edge_magnitudes(x)[2], expected)
    before = layer(x)
    layer.refine(10)
    torch.testing.assert_close(layer(x), before, atol=1e-9, rtol=0)
    assert layer.elementwise_flops(1) == layer.basis.flops_per_input + 2


def test_prelu_of_slope_one_without_coefficients_is_a_linear_layer():
    layer = linear("bspline", base="prelu", bias=False)
    with torch.no_grad():
        layer.slope.fill_(1)
        layer.weight[:-1] = 0
    x = 3 * torch.randn(50, 5, dtype=F64)
    torch.testing.assert_close(layer(x), x @ layer.weight[-1])
