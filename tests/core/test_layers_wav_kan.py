"""Wav-KAN's card, and what all layers with per-edge parameters share: pieces of bounded memory."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from kan_core import KANError, layers
from kan_core.layers import QKANLinear, SKANLinear, WavKANLinear, _edges
from kan_core.ops import use_backend

F64 = torch.float64
MOTHERS = ["mexican-hat", "morlet", "dog", "meyer", "shannon"]


def identity_edge(mother: str) -> WavKANLinear:
    """One edge with W = 1, t = 0, s = 1: the mother wavelet itself."""
    layer = WavKANLinear(1, 1, mother=mother, bias=False, dtype=F64)
    with torch.no_grad():
        layer.weight.fill_(1.0)
    return layer


def psi(mother: str, *z: float) -> list[float]:
    return identity_edge(mother)(torch.tensor(z, dtype=F64)[:, None])[:, 0].tolist()


def scrambled(**options) -> WavKANLinear:
    torch.manual_seed(0)
    layer = WavKANLinear(4, 3, dtype=F64, **options)
    with torch.no_grad():
        layer.translation.normal_()
        layer.log_scale.normal_(0.0, 0.5)
    return layer


# --- the functions -----------------------------------------------------------------------------------------------


def test_wav_kan_card_golden_values_of_mexican_hat_and_dog():
    assert psi("mexican-hat", 0.0)[0] == pytest.approx(-0.8673250706, abs=1e-10)
    assert psi("dog", 1.0)[0] == pytest.approx(-0.6065306597, abs=1e-10)


def test_wav_kan_card_morlet_has_frequency_5():
    expected = [math.cos(5 * z) * math.exp(-z * z / 2) for z in (0.0, 0.3, -1.7)]
    assert psi("morlet", 0.0, 0.3, -1.7) == pytest.approx(expected, abs=1e-14)


def test_wav_kan_card_dog_is_the_derivative_of_the_gaussian():
    z = torch.linspace(-4, 4, 81, dtype=F64, requires_grad=True)
    (slope,) = torch.autograd.grad(torch.exp(-z.square() / 2).sum(), z)
    torch.testing.assert_close(identity_edge("dog")(z[:, None])[:, 0], slope, atol=1e-14, rtol=0)


def test_wav_kan_card_meyer_is_continuous_at_a_half_and_at_one():
    assert psi("meyer", 0.5, -0.25) == pytest.approx([1.0, math.sin(math.pi / 4)], abs=1e-14)
    for knot in (0.5, 1.0):
        before, after = psi("meyer", knot - 1e-9, knot + 1e-9)
        assert before == pytest.approx(after, abs=1e-8)
    assert psi("meyer", 1.0, 1.5, -3.0) == pytest.approx([0.0] * 3, abs=1e-15)


@pytest.mark.parametrize("mother", ["mexican-hat", "dog"])
def test_wav_kan_card_zero_mean(mother):
    z = torch.linspace(-12, 12, 4001, dtype=F64)
    assert abs(torch.trapezoid(identity_edge(mother).edge_function(0, 0)(z), z).item()) < 1e-12


def test_wav_kan_card_shannon_windows_over_z_not_over_the_features():
    """The reference multiplies feature i by the i-th point of a window: the same x then gives different functions."""
    layer = scrambled(mother="shannon", bias=False)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(parameter[:, :1].expand(-1, 4))
    x = torch.randn(4, dtype=F64)
    torch.testing.assert_close(layer(x), layer(x.flip(0)), atol=1e-14, rtol=0)


@pytest.mark.parametrize("mother", MOTHERS)
def test_wav_kan_layer_is_the_sum_of_weighted_wavelets(mother):
    layer = scrambled(mother=mother)
    x = torch.randn(6, 4, dtype=F64)
    z = (x[:, None] - layer.translation) / layer.log_scale.exp()
    values = identity_edge(mother).edge_function(0, 0)(z) * layer.weight
    torch.testing.assert_close(layer(x), values.sum(-1) + layer.bias, atol=1e-13, rtol=0)
    torch.testing.assert_close(layer.edge_function(2, 1)(x[:, 1]), values[:, 2, 1], atol=1e-14, rtol=0)


@pytest.mark.parametrize("mother", MOTHERS)
def test_wav_kan_card_translation_equivariance(mother):
    layer = scrambled(mother=mother)
    x = torch.randn(6, 4, dtype=F64)
    before = layer(x)
    with torch.no_grad():
        layer.translation += 1.75
    torch.testing.assert_close(layer(x + 1.75), before, atol=1e-13, rtol=0)


@pytest.mark.parametrize("mother", MOTHERS)
def test_wav_kan_card_gradcheck_with_scales_near_a_tenth(mother):
    layer = scrambled(mother=mother)
    names = [name for name, _ in layer.named_parameters()]
    with torch.no_grad():
        layer.log_scale.copy_(math.log(0.1) + 0.1 * torch.randn(3, 4, dtype=F64))
    x = (layer.translation.detach()[:2] + 0.15 * torch.randn(2, 4, dtype=F64)).requires_grad_()

    def function(x, *values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(function, (x, *layer.parameters()))


def test_wav_kan_scale_stays_positive_where_the_reference_crosses_zero():
    layer = WavKANLinear(3, 2)
    optimiser = torch.optim.SGD([layer.log_scale], lr=1.0)
    for _ in range(3):  # pushes log s down as far as it goes
        optimiser.zero_grad()
        layer.log_scale.sum().mul(2.0).backward()
        optimiser.step()
    y = layer(torch.randn(20, 3))
    assert (layer.log_scale.exp() > 0).all()
    assert y.isfinite().all()


@pytest.mark.parametrize("mother", MOTHERS)
def test_wav_kan_outputs_start_with_unit_variance(mother):
    torch.manual_seed(0)
    layer = WavKANLinear(200, 200, mother=mother, bias=False)
    assert layer(torch.randn(100, 200)).std().item() == pytest.approx(1.0, rel=0.15)


@pytest.mark.parametrize("mother", MOTHERS)
@pytest.mark.parametrize("value", [1e4, -1e4, 1e-42, 0.0])
def test_wav_kan_is_finite_at_extremes(mother, value):
    layer = WavKANLinear(3, 2, mother=mother)
    x = torch.full((5, 3), value, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    assert y.isfinite().all()
    assert all(p.grad.isfinite().all() for p in (x, *layer.parameters()))


# --- normalisation and counts ------------------------------------------------------------------------------------


def test_wav_kan_card_batch_norm_in_eval_mode_is_affine():
    layer, plain = scrambled(norm="batch"), scrambled(bias=False)
    with torch.no_grad():
        layer.norm.weight.copy_(torch.tensor([0.5, 2.0, -1.0]))
        layer.norm.bias.copy_(torch.tensor([1.0, 0.0, 3.0]))
    for _ in range(5):
        layer(torch.randn(50, 4, dtype=F64))
    layer.eval()
    x = torch.randn(2, 6, 4, dtype=F64)
    slope = layer.norm.weight / (layer.norm.running_var + layer.norm.eps).sqrt()
    expected = (plain(x) - layer.norm.running_mean) * slope + layer.norm.bias
    torch.testing.assert_close(layer(x), expected, atol=1e-13, rtol=0)


def test_wav_kan_rows_are_independent_unless_batch_norm_trains():
    x = torch.randn(6, 4, dtype=F64)
    changed = torch.cat([x[:1], x[1:] + 1])
    plain, normed = scrambled(), scrambled(norm="batch")
    assert torch.equal(plain(x)[0], plain(changed)[0])
    assert not torch.allclose(normed(x)[0], normed(changed)[0])  # batch statistics, by definition
    normed.eval()
    torch.testing.assert_close(normed(x)[0], normed(changed)[0], atol=1e-14, rtol=0)


def test_wav_kan_card_parameter_count_152596_and_no_idle_matrix():
    net = nn.Sequential(WavKANLinear(784, 64, norm="batch"), WavKANLinear(64, 10, norm="batch"))
    assert sum(p.numel() for p in net.parameters()) == 152_596
    net(torch.randn(16, 784)).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in net.parameters())
    plain = layers.get("wav-kan")(7, 5)
    assert sum(p.numel() for p in plain.parameters()) == 3 * 35 + 5


@pytest.mark.parametrize(("options", "named"), [({"mother": "haar"}, "mother"), ({"norm": "layer"}, "norm")])
def test_wav_kan_refuses_what_it_does_not_know(options, named):
    with pytest.raises(KANError, match=named):
        WavKANLinear(2, 2, **options)


# --- bounded memory, for every layer with per-edge parameters ------------------------------------------------------

PER_EDGE = {
    "wav-kan": lambda i, o: WavKANLinear(i, o, dtype=F64),
    "qkan": lambda i, o: QKANLinear(i, o, reps=2, trainable_frequencies=True, dtype=F64),
    "qkan-fast": lambda i, o: QKANLinear(i, o, reps=2, readout="fast", groups=2, dtype=F64),
    "skan": lambda i, o: SKANLinear(i, o, dtype=F64),
}
every_edge_layer = pytest.mark.parametrize("make", PER_EDGE.values(), ids=list(PER_EDGE))


class LargestTensor(TorchDispatchMode):
    """Records the number of elements of the largest tensor that any operator returns."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.untyped_storage().nbytes() // tensor.element_size())
        return out


def outputs_and_gradients(layer: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    x = x.clone().requires_grad_()
    layer.zero_grad()
    y = layer(x)
    (y.sin() * torch.arange(y.shape[-1], dtype=y.dtype)).sum().backward()
    return [y.detach(), x.grad, *(p.grad for p in layer.parameters())]


@every_edge_layer
@pytest.mark.parametrize("cap", [1200, 100], ids=["blocks-of-outputs", "blocks-of-rows-too"])
@pytest.mark.parametrize("shape", [(7, 5), (5,), (0, 5)], ids=["rows", "one-row", "empty"])
@use_backend("reference")
def test_pieces_equal_the_direct_evaluation_with_gradients(make, cap, shape, monkeypatch):
    torch.manual_seed(1)
    layer = make(5, 7)
    x = torch.randn(shape, dtype=F64)
    direct = outputs_and_gradients(layer, x)
    monkeypatch.setattr(_edges, "_MAX_KEPT", cap)
    pieces = outputs_and_gradients(layer, x)
    torch.testing.assert_close(pieces, direct, atol=1e-12, rtol=1e-12)
    with torch.no_grad():
        assert torch.equal(layer(x), pieces[0])
    again = outputs_and_gradients(layer, x)
    assert all(torch.equal(a, b) for a, b in zip(pieces, again, strict=True))  # deterministic


@every_edge_layer
@use_backend("reference")  # a kernel makes no values of edges at all
def test_pieces_stay_below_the_cap_in_forward_and_backward(make, monkeypatch):
    layer = make(40, 30)
    x = torch.randn(50, 40, dtype=F64)
    with LargestTensor() as direct:
        outputs_and_gradients(layer, x)
    assert direct.numel == 50 * 40 * 30
    monkeypatch.setattr(_edges, "_MAX_KEPT", 4 * 50 * 40 * layer.kept)
    with LargestTensor() as bounded:
        outputs_and_gradients(layer, x)
    assert bounded.numel <= max(4 * 50 * 40, max(p.numel() for p in layer.parameters()))


def test_mnist_sized_wav_kan_holds_at_most_a_quarter_gigabyte_of_edge_values():
    """The card's reference keeps 5.28 GB; here a batch of 512 stays within 2^26 numbers, kept ones included."""
    layer = WavKANLinear(784, 64)
    kept = 0

    def pack(tensor):
        nonlocal kept
        kept += tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), LargestTensor() as largest:
        y = layer(torch.randn(512, 784))
    assert y.shape == (512, 64)
    assert layer.kept * largest.numel <= 1 << 26 < layer.kept * 512 * 784 * 64
    assert kept < 1 << 22  # inputs and parameters only: the values are computed again


@pytest.mark.parametrize(
    "layer",
    [WavKANLinear(10, 10, mother=mother) for mother in MOTHERS]
    + [QKANLinear(10, 10, reps=reps, trainable_frequencies=True) for reps in (1, 4)]
    + [QKANLinear(10, 10, readout="fast"), SKANLinear(10, 10), SKANLinear(10, 10, function="swish")],
    ids=str,
)
@use_backend("reference")
def test_layers_leave_no_more_for_backward_than_they_say(layer):
    storages = {}

    def pack(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor  # held, so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(torch.randn(1000, 10))
    kept = sum(t.untyped_storage().nbytes() // t.element_size() for t in storages.values()) / (1000 * 10 * 10)
    assert layer.kept / 3 < kept < layer.kept + 0.5


@every_edge_layer
def test_an_exported_graph_takes_any_batch_size(make):
    layer = make(5, 3)
    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(layer, (torch.randn(4, 5, dtype=F64),), dynamic_shapes=({0: batch},))
    x = torch.randn(11, 5, dtype=F64)
    torch.testing.assert_close(program.module()(x), layer(x), atol=1e-12, rtol=0)
