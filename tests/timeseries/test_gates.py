"""Recurrent layers with any gate maps: the cell facts of specs/timeseries/qkan-lstm.md, and torch's LSTM and GRU."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kan_core import KANError, layers
from kan_timeseries.layers.gates import JHCG, KANGRU, KANLSTM, GatedRecurrent, qkan_lstm

F64 = torch.float64
CELLS = pytest.mark.parametrize("kind", [KANLSTM, KANGRU])
WIRINGS = pytest.mark.parametrize("wiring", ["split", "joint", "bottleneck"])


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def make(kind: type[GatedRecurrent] = KANLSTM, x: int = 3, h: int = 4, **options: object) -> GatedRecurrent:
    options = {"layer": "rbf(num_centers=3)"} | options
    return kind(x, h, dtype=F64, **options)


def every_step_present(x: torch.Tensor) -> torch.Tensor:
    """A mask that takes the step-by-step path and changes nothing."""
    return torch.ones(x.shape[:2], dtype=torch.bool)


def copy_weights(ours: GatedRecurrent, theirs: nn.RNNBase) -> None:
    cells = iter(ours.cells)
    for layer in range(theirs.num_layers):
        for suffix in ["", "_reverse"] if theirs.bidirectional else [""]:
            gates = next(cells).gates
            for name, tensor in (
                ("weight_ih", gates.input.weight),
                ("weight_hh", gates.recurrent.weight),
                ("bias_ih", gates.input.bias),
                ("bias_hh", gates.recurrent.bias),
            ):
                tensor.data.copy_(getattr(theirs, f"{name}_l{layer}{suffix}"))


# --- The plain cells ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "theirs"), [(KANLSTM, nn.LSTM), (KANGRU, nn.GRU)])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("fused", [False, True])
def test_linear_gates_are_the_layers_of_torch(kind, theirs, bidirectional, fused):
    theirs = theirs(3, 5, num_layers=2, bidirectional=bidirectional, batch_first=True, dtype=F64)
    ours = make(kind, 3, 5, layer="linear", num_layers=2, bidirectional=bidirectional, recurrent_bias=True)
    copy_weights(ours, theirs)
    x = torch.randn(4, 7, 3, dtype=F64)
    h0 = torch.randn(ours.num_states, 4 if bidirectional else 2, 4, 5, dtype=F64)
    expected, state = theirs(x, tuple(h0) if kind is KANLSTM else h0[0])
    found, final = ours.forward_with_state(x, tuple(h0), None if fused else every_step_present(x))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(final, tuple(state) if kind is KANLSTM else (state,))


@CELLS
def test_the_kernel_of_torch_and_the_loop_have_the_same_gradients(kind):
    layer = make(kind, layer="linear")
    x = torch.randn(2, 5, 3, dtype=F64)
    grads = [
        torch.autograd.grad(layer(x, mask).square().sum(), list(layer.parameters()))
        for mask in (None, every_step_present(x))
    ]
    torch.testing.assert_close(grads[0], grads[1])


@pytest.mark.parametrize(("size", "expected"), [(4, 112), (8, 352), (16, 1216), (32, 4480)])
def test_card_torch_lstm_counts_4h_h_plus_d_plus_2(size, expected):
    with torch.device("meta"):
        assert count(KANLSTM(1, size, layer="linear", recurrent_bias=True)) == expected == count(nn.LSTM(1, size))


def test_card_keras_counts_one_bias_in_an_lstm_and_two_in_a_gru():
    with torch.device("meta"):
        assert count(KANLSTM(6, 100, layer="linear")) == 4 * 100 * (100 + 6 + 1)
        assert count(KANGRU(6, 100, layer="linear")) == 3 * 100 * (100 + 6 + 2) == count(nn.GRU(6, 100))


# --- KAN gates ------------------------------------------------------------------------------------------------------


@CELLS
@WIRINGS
def test_cell_equations(kind, wiring):
    layer = make(kind, wiring=wiring)
    x = torch.randn(2, 4, 3, dtype=F64)
    cell = layer.cells[0]
    h = c = torch.zeros(2, 4, dtype=F64)
    for step in range(4):
        v = torch.cat([h, x[:, step]], dim=-1)
        gates = cell.gates

        def on(gates, v):
            if wiring == "split":
                return gates.input(v[:, 4:]) + gates.recurrent(v[:, :4])
            return gates.layer(v) if wiring == "joint" else gates.net(v)

        if kind is KANLSTM:
            i, f, g, o = on(gates, v).chunk(4, dim=-1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
        elif wiring == "split":
            from_x, from_h = gates.input(x[:, step]).chunk(3, dim=-1), gates.recurrent(h).chunk(3, dim=-1)
            r, z = torch.sigmoid(from_x[0] + from_h[0]), torch.sigmoid(from_x[1] + from_h[1])
            h = (1 - z) * torch.tanh(from_x[2] + r * from_h[2]) + z * h
        else:
            r, z = torch.sigmoid(on(gates, v)).chunk(2, dim=-1)
            n = torch.tanh(on(cell.candidate, torch.cat([r * h, x[:, step]], dim=-1)))
            h = (1 - z) * n + z * h
        torch.testing.assert_close(layer(x)[:, step], h)


@pytest.mark.parametrize("spec", ["bspline", "rbf(num_centers=3)", "qkan(reps=2)", "chebyshev(degree=3)"])
def test_split_and_joint_are_the_same_functions_and_parameters(spec):
    split = make(layer=spec, bias=False)
    joint = make(layer=spec, bias=False, wiring="joint")
    assert count(split) == count(joint)
    x = torch.randn(2, 5, 3, dtype=F64)
    parts = split.cells[0].gates
    whole = joint.cells[0].gates.layer
    state = {}
    for name, tensor in whole.state_dict().items():
        h_part, x_part = parts.recurrent.state_dict()[name], parts.input.state_dict()[name]
        dims = [d for d in range(tensor.dim()) if tensor.shape[d] != x_part.shape[d]]
        state[name] = torch.cat([h_part, x_part], dim=dims[0]) if dims else x_part
    whole.load_state_dict(state)
    torch.testing.assert_close(split(x), joint(x))


@CELLS
@WIRINGS
def test_card_h_stays_below_one_for_any_input(kind, wiring):
    x = 1e3 * torch.randn(3, 20, 3, dtype=F64)
    assert (make(kind, wiring=wiring)(x).abs() <= 1).all()
    assert (make(kind, wiring=wiring)(x / 1e3).abs() < 1).all()


@CELLS
@WIRINGS
def test_card_a_cut_sequence_with_its_state_gives_what_the_whole_gives(kind, wiring):
    layer = make(kind, wiring=wiring, num_layers=2)
    x = torch.randn(2, 9, 3, dtype=F64)
    whole, final = layer.forward_with_state(x)
    first, state = layer.forward_with_state(x[:, :4])
    second, last = layer.forward_with_state(x[:, 4:], state)
    torch.testing.assert_close(torch.cat([first, second], dim=1), whole)
    torch.testing.assert_close(last, final)


@CELLS
@pytest.mark.parametrize("options", [{}, {"bidirectional": True}, {"go_backwards": True}, {"num_layers": 2}])
def test_return_sequences_false_is_the_last_layers_state(kind, options):
    layer = make(kind, **options)
    x = torch.randn(2, 6, 3, dtype=F64)
    sequences, state = layer.forward_with_state(x)
    layer.return_sequences = False
    n = 4 * len(layer.reversed)
    assert layer(x).shape == (2, n) == (2, layer.output_size)
    torch.testing.assert_close(layer(x), torch.cat(list(state[0][-len(layer.reversed) :]), dim=-1))
    ends = [sequences[:, 0 if back else -1, 4 * i : 4 * i + 4] for i, back in enumerate(layer.reversed)]
    torch.testing.assert_close(layer(x), torch.cat(ends, dim=-1))


@pytest.mark.parametrize("spec", ["rbf(num_centers=3)", "linear"])
@CELLS
def test_go_backwards_is_the_flipped_sequence_with_outputs_at_their_steps(kind, spec):
    layer = make(kind, layer=spec)
    x = torch.randn(2, 6, 3, dtype=F64)
    expected = layer(x.flip(1)).flip(1)
    layer.reversed = [True]
    torch.testing.assert_close(layer(x), expected)


@CELLS
@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_masked_step_copies_the_state_and_padding_changes_nothing(kind, bidirectional):
    layer = make(kind, bidirectional=bidirectional, return_sequences=False)
    x = torch.randn(2, 5, 3, dtype=F64)
    junk = torch.full((2, 2, 3), 7.0, dtype=F64)
    for padded, present in (
        (torch.cat([junk, x], 1), [0, 0, 1, 1, 1, 1, 1]),
        (torch.cat([x, junk], 1), [1, 1, 1, 1, 1, 0, 0]),
        (torch.cat([x[:, :2], junk, x[:, 2:]], 1), [1, 1, 0, 0, 1, 1, 1]),
    ):
        mask = torch.tensor([present, present], dtype=torch.bool)
        torch.testing.assert_close(layer(padded, mask), layer(x))
    layer = make(kind)
    outputs = layer(padded, mask)
    torch.testing.assert_close(outputs[:, 2], outputs[:, 1])
    torch.testing.assert_close(outputs[:, 3], outputs[:, 1])


@CELLS
@WIRINGS
def test_every_parameter_gets_a_gradient(kind, wiring):
    layer = make(kind, wiring=wiring, num_layers=2, bidirectional=True)
    layer(torch.randn(3, 6, 3, dtype=F64)).square().sum().backward()
    missing = [name for name, p in layer.named_parameters() if p.grad is None or not p.grad.any()]
    assert missing == []


def test_dropout_acts_between_layers_in_training_only():
    layer = make(num_layers=2, dropout=0.5)
    x = torch.randn(2, 6, 3, dtype=F64)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))


# --- QKAN-LSTM ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("hidden", "reps", "expected"), [(4, 1, 400), (4, 3, 720), (8, 1, 1440)])
def test_card_direct_wiring_costs_4h_h_plus_d_edges(hidden, reps, expected):
    assert count(qkan_lstm(1, hidden, reps=reps, bias=False)) == expected


@pytest.mark.parametrize(("reps", "theta_and_base"), [(1, 5), (2, 7), (3, 9)])
def test_card_parameters_of_an_edge_in_all_circuits(reps, theta_and_base):
    d, h = 3, 5
    edges = 4 * h * (h + d)
    assert count(qkan_lstm(d, h, reps=reps, bias=False)) == theta_and_base * edges
    grouped = count(qkan_lstm(d, h, circuits="grouped", reps=reps, bias=False))
    assert grouped == 2 * (reps + 1) * (h + d) + 2 * edges  # post and base weights stay on the edges
    a, o = 3, 5  # ceil(log2 8), ceil(log2 20)
    bottleneck = count(qkan_lstm(d, h, circuits="bottleneck", reps=reps, bias=False))
    assert bottleneck == a * (h + d) + theta_and_base * a * o + 4 * h * o


def test_card_per_edge_gates_have_more_parameters_than_affine_gates_and_shared_ones_fewer_circuits():
    affine = count(KANLSTM(1, 32, layer="linear"))
    sizes = {kind: count(qkan_lstm(1, 32, circuits=kind)) for kind in ("per_edge", "grouped", "bottleneck")}
    assert sizes["bottleneck"] < affine < sizes["grouped"] < sizes["per_edge"]


@pytest.mark.parametrize("circuits", ["per_edge", "grouped", "bottleneck"])
def test_card_qkan_gates_start_distinct_and_all_learn(circuits):
    layer = qkan_lstm(3, 4, circuits=circuits, dtype=F64)
    x = torch.randn(3, 6, 3, dtype=F64)
    gates = layer.cells[0].gates
    z = gates(gates.prepare(x[:, 0]), torch.rand(3, 4, dtype=F64))
    assert len({tuple(column) for column in z.detach().T.tolist()}) == 16
    layer(x).square().sum().backward()
    assert [name for name, p in layer.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_card_zero_circuits_leave_the_silu_gates():
    layer = qkan_lstm(2, 3, bias=False, dtype=F64)
    gates = layer.cells[0].gates
    for part in (gates.input, gates.recurrent):
        part.theta.data.zero_()
        part.base_weight.data.fill_(0.5)
    v = torch.randn(4, 5, dtype=F64)
    expected = 0.5 * nn.functional.silu(v).sum(-1, keepdim=True).expand(4, 12)
    torch.testing.assert_close(gates(gates.prepare(v[:, :2]), v[:, 2:]), expected)


# --- JHCG -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scale", "latent", "outputs"), [(1, 8, 7), (4, 32, 28)])
def test_card_jhcg_sizes_256_to_100(scale, latent, outputs):
    with torch.device("meta"):
        net = JHCG(256, 100, scale=scale)
    assert (net.latent.in_features, net.latent.out_features) == (latent, outputs)
    assert count(net) == 256 * latent + latent + latent * outputs * 5 + outputs * 100 + 100


def test_card_jhcg_with_identity_coders_is_the_inner_layer():
    net = JHCG(4, 4, scale=2, dtype=F64)
    for coder in (net.encode, net.decode):
        nn.init.eye_(coder.weight)
        nn.init.zeros_(coder.bias)
    x = torch.randn(5, 4, dtype=F64)
    torch.testing.assert_close(net(x), net.latent(x))


def test_jhcg_twin_is_an_mlp():
    net = JHCG(4, 4, layer="linear", dtype=F64)
    x = torch.randn(5, 4, dtype=F64)
    torch.testing.assert_close(net(x), net.decode(net.latent(nn.functional.silu(net.encode(x)))))


def test_hqkan_of_the_core_is_a_joint_gate_map():
    with torch.device("meta"):
        layer = KANLSTM(1, 7, layer="hqkan", wiring="joint")
        assert count(layer) == count(layers.HQKANLinear(8, 28))


# --- The rest -------------------------------------------------------------------------------------------------------


def test_saved_and_loaded_layers_give_equal_outputs(tmp_path):
    from safetensors.torch import load_file, save_file

    first, second = (make(num_layers=2, bidirectional=True) for _ in range(2))
    save_file(first.state_dict(), tmp_path / "layer.safetensors")
    second.load_state_dict(load_file(tmp_path / "layer.safetensors"))
    x = torch.randn(2, 5, 3, dtype=F64)
    assert torch.equal(first(x), second(x))


@pytest.mark.parametrize("spec", ["linear", "rbf(num_centers=3)"])
@CELLS
def test_bfloat16_autocast_runs_everywhere(kind, spec):
    layer, x = kind(3, 4, layer=spec), torch.randn(2, 5, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
    torch.testing.assert_close(y.float(), layer(x), atol=0.02, rtol=0.02)


def test_export_keeps_the_batch_free():
    layer = KANLSTM(3, 4, return_sequences=False).eval()
    batch = torch.export.Dim("batch")
    program = torch.export.export(layer, (torch.randn(3, 2, 3),), dynamic_shapes=({0: batch},))
    x = torch.randn(5, 2, 3)
    torch.testing.assert_close(program.module()(x), layer(x))


def test_reset_parameters_redraws_every_gate():
    layer = make(wiring="bottleneck", num_layers=2)
    before = [p.clone() for p in layer.parameters()]
    layer.reset_parameters()
    assert all(not torch.equal(a, b) for a, b in zip(before, layer.parameters(), strict=True))


def test_gates_may_lack_a_bias_argument():
    layer = KANLSTM(2, 3, layer=lambda a, b, **_: nn.Linear(a, b), recurrent_bias=True)
    assert layer(torch.zeros(1, 2, 2)).shape == (1, 2, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_size": 0}, "hidden_size must be at least 1, got 0"),
        ({"num_layers": 0}, "num_layers must be at least 1"),
        ({"wiring": "both"}, "wiring must be one of split, joint, bottleneck, got 'both'"),
        ({"wiring": "joint", "recurrent_bias": True}, "recurrent_bias belongs to wiring='split'"),
        ({"latent_scale": 4}, "latent_scale belongs to wiring='bottleneck'"),
        ({"wiring": "bottleneck", "latent_scale": 0}, "scale of the latent sizes must be at least 1"),
        ({"bidirectional": True, "go_backwards": True}, "leave out go_backwards"),
        ({"dropout": 0.1}, "dropout acts between layers"),
        ({"layer": "no-such-layer"}, "unknown layer"),
    ],
)
def test_refused_options(options, message):
    with pytest.raises(KANError, match=message):
        KANLSTM(**({"input_size": 2, "hidden_size": 3} | options))


def test_refused_circuits():
    with pytest.raises(KANError, match="circuits must be one of per_edge, grouped, bottleneck"):
        qkan_lstm(2, 3, circuits="shared")


@pytest.mark.parametrize("shape", [(2, 5, 4), (2, 0, 3), (5, 3)])
def test_refused_inputs(shape):
    with pytest.raises(KANError, match=r"expected an input of shape \(batch, steps, 3\)"):
        make()(torch.zeros(shape, dtype=F64))


def test_refused_states_and_masks():
    x = torch.zeros(2, 5, 3, dtype=F64)
    with pytest.raises(KANError, match=r"state must be 2 tensors of shape \(1, 2, 4\), got"):
        make().forward_with_state(x, (torch.zeros(1, 2, 4, dtype=F64),))
    with pytest.raises(KANError, match=r"mask must have shape \(2, 5\)"):
        make()(x, torch.ones(2, 4, dtype=torch.bool))
