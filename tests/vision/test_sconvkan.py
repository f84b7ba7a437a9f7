"""What the card sconvkan_metacluster.md says of selection among convolutions (sections 1 to 3)."""

from __future__ import annotations

import copy
import math

import lightning.pytorch as pl
import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from kan_core import KANConv2d, KANError
from kan_core.compare import count_flops, count_parameters
from kan_core.layers import Selection, kan_layers, select_all
from kan_core.training.console import quiet
from kan_vision.layers.select_conv import SelectKANConv2d
from kan_vision.models.sconvkan import SConvKAN
from kan_vision.tasks.selection import SelectionSchedule

F64 = torch.float64
POOL = ("bspline", "rbf", "chebyshev", "fourier")
GEOMETRY = {"in_channels": 4, "out_channels": 6, "kernel_size": 3}


def conv(**kwargs) -> SelectKANConv2d:
    return SelectKANConv2d(**{**GEOMETRY, "dtype": F64, **kwargs})


def lead(layer: Selection, winner: int, by: float = 1.5) -> None:
    with torch.no_grad():
        layer.logits.zero_()
        layer.logits[winner] = by


# --- gates -----------------------------------------------------------------------------------------------------------


def test_gates_start_equal_sum_to_one_and_sharpen():
    layer = conv()
    assert layer.gates.tolist() == [0.25] * 4
    lead(layer, 2)
    for temperature in (1.0, 0.5, 0.1):
        layer.anneal(temperature)
        assert layer.gates.sum().item() == pytest.approx(1, abs=1e-15)
        assert layer.gates[2].item() == pytest.approx(1 / (1 + 3 * math.exp(-1.5 / temperature)), rel=1e-12)
    with pytest.raises(KANError, match="temperature must be"):
        layer.anneal(0)


def test_output_is_the_gated_sum_of_plain_convolutions_and_one_shared_base():
    layer, x = conv(padding=1), torch.randn(2, 4, 6, 5, dtype=F64)
    lead(layer, 1)
    base = F.conv2d(F.silu(x), layer.base_conv.weight, layer.bias, padding=1)
    members = sum(gate * member(x) for gate, member in zip(layer.gates, layer.members, strict=True))
    torch.testing.assert_close(layer(x), members + base, atol=1e-12, rtol=0)
    assert all(member.base is None and member.bias is None for member in layer.members)


def test_every_candidate_starts_with_variance_one():
    torch.manual_seed(0)
    layer = SelectKANConv2d(16, 64, 3)
    x = torch.randn(8, 16, 12, 12)
    for member in layer.members:
        assert member(x).var().item() == pytest.approx(1, rel=0.15)


def test_identical_candidates_get_identical_gradients_and_a_tie_goes_to_the_lowest_index():
    layer = conv(bases=("rbf", "rbf", "rbf"))
    for member in layer.members[1:]:
        member.load_state_dict(layer.members[0].state_dict())
    layer(torch.randn(2, 4, 6, 6, dtype=F64)).square().sum().backward()
    for member in layer.members[1:]:
        assert torch.equal(member.weight.grad, layer.members[0].weight.grad)
    torch.testing.assert_close(layer.logits.grad, torch.zeros(3, dtype=F64), atol=1e-10, rtol=0)
    assert layer.winner == 0
    lead(layer, 2)
    with torch.no_grad():
        layer.logits[1] = layer.logits[2]
    assert layer.winner == 1


@pytest.mark.parametrize("basis", POOL)
def test_one_candidate_trains_as_the_plain_convolution(basis):
    torch.manual_seed(0)
    layer = conv(bases=(basis,), padding=1)
    plain = KANConv2d(**GEOMETRY, padding=1, basis=basis, dtype=F64)
    plain.load_state_dict(layer.select().state_dict())
    x, target = torch.randn(4, 4, 6, 6, dtype=F64), torch.randn(4, 6, 6, 6, dtype=F64)
    for net in (layer, plain):
        optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
        for _ in range(4):
            optimizer.zero_grad()
            (net(x) - target).square().mean().backward()
            optimizer.step()
    torch.testing.assert_close(layer(x), plain(x), atol=1e-12, rtol=0)
    torch.testing.assert_close(layer.select()(x), plain(x), atol=1e-12, rtol=0)
    assert layer.logits.tolist() == [0.0]


# --- selection -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kwargs",
    [
        {"stride": 2, "padding": 1},
        {"groups": 2, "dilation": 2, "padding": "same"},
        {"padding": 2, "padding_mode": "input_zeros", "kernel_size": (3, 2)},
        {"padding": 1, "padding_mode": "reflect", "base": "gelu", "bias": False},
        {"base": None, "kernel_size": 1},
    ],
    ids=str,
)
@pytest.mark.parametrize("winner", range(4))
def test_a_decided_layer_is_the_plain_convolution_of_the_winner_to_1e_12(winner, kwargs):
    layer, x = conv(**kwargs), torch.randn(2, 4, 7, 6, dtype=F64)
    lead(layer, winner)
    gate = layer.gates[winner].item()
    folded = layer.select()
    layer.decide()
    assert layer.gates.tolist() == [float(m == winner) for m in range(4)]
    assert layer.gate_entropy().item() == 0
    chosen = layer.select()
    assert type(chosen) is KANConv2d
    torch.testing.assert_close(chosen(x), layer(x), atol=1e-12, rtol=0)
    plain = KANConv2d(**{**GEOMETRY, "basis": POOL[winner], "dtype": F64, **kwargs})
    assert plain.state_dict().keys() == chosen.state_dict().keys()
    plain.load_state_dict(chosen.state_dict())
    assert torch.equal(plain(x), chosen(x))
    functions = plain.basis.num_functions  # before the decision the gate is folded into the coefficients alone
    torch.testing.assert_close(folded.weight[:, :functions], gate * chosen.weight[:, :functions], atol=1e-15, rtol=0)
    assert torch.equal(folded.weight[:, functions:], chosen.weight[:, functions:])


def test_a_selected_layer_owns_its_weights():
    layer, x = conv(), torch.randn(1, 4, 5, 5, dtype=F64)
    chosen = layer.select()
    before = chosen(x)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(1)
    assert torch.equal(chosen(x), before)


def test_parameters_are_the_sum_over_candidates_plus_one_gate_each_and_then_those_of_the_winner():
    layer = SelectKANConv2d(**GEOMETRY)
    edges, planes = 4 * 6 * 9, {"bspline": 8, "rbf": 8, "chebyshev": 5, "fourier": 10}
    members = sum(count_parameters(member) for member in layer.members)
    assert members == edges * sum(planes.values())
    assert count_parameters(layer) == members + 4 + edges + 6
    for winner, basis in enumerate(POOL):
        lead(layer, winner)
        assert count_parameters(layer.select()) == edges * (planes[basis] + 1) + 6


def test_flops_are_those_of_all_candidates_and_one_base():
    x = torch.zeros(1, 4, 8, 8)
    members = sum(count_flops(KANConv2d(**GEOMETRY, basis=basis, base=None), x) for basis in POOL)
    base = 2 * 36 * 4 * 6 * 9 + 5 * x.numel()  # a convolution with 6 x 6 outputs, and SiLU
    assert count_flops(SelectKANConv2d(**GEOMETRY), x) == members + base


def test_reset_follows_the_seed_and_opens_the_gates_again():
    torch.manual_seed(1)
    layer = SelectKANConv2d(**GEOMETRY)
    first = copy.deepcopy(layer.state_dict())
    layer.anneal(0.3)
    layer.decide()
    layer.reset_parameters()
    assert layer.gates.tolist() == [0.25] * 4
    assert layer.temperature.item() == 1
    assert not torch.equal(layer.members[0].weight, first["members.0.weight"])
    assert layer.bias.abs().max() <= 1 / 6  # 1 / sqrt(4 * 9)


def test_mistakes_are_named():
    with pytest.raises(KANError, match="bases must be a sequence"):
        conv(bases=())
    with pytest.raises(KANError, match="bases must be a sequence"):
        conv(bases="rbf")
    with pytest.raises(KANError, match="unknown basis 'splines'"):
        conv(bases=("rbf", "splines"))
    with pytest.raises(KANError, match="base must be None or one of"):
        conv(base="sine")
    with pytest.raises(KANError, match="positive multiples of groups"):
        conv(groups=3)
    with pytest.raises(KANError, match=r"expected an input of shape \(\.\.\., 4, H, W\)"):
        conv()(torch.zeros(2, 3, 6, 6, dtype=F64))


# --- the net ---------------------------------------------------------------------------------------------------------


def test_the_net_has_one_selecting_convolution_in_each_stage_and_a_twin_of_the_same_code():
    net = timm.create_model("sconvkan_small", in_chans=1, num_classes=5, bases=("rbf", "chebyshev"))
    assert [len(layer.members) for layer in net.modules() if isinstance(layer, Selection)] == [2, 2, 2]
    twin = timm.create_model("sconvkan_small", in_chans=1, num_classes=5, layer="linear")
    assert not kan_layers(twin)
    plain = timm.create_model("kan_conv_small", in_chans=1, num_classes=5, layer="linear")
    assert {k: v.shape for k, v in twin.state_dict().items()} == {k: v.shape for k, v in plain.state_dict().items()}


def test_a_net_of_one_winner_is_the_plain_net_of_that_basis():
    net = SConvKAN(in_chans=1, num_classes=3, channels=(4, 4), bases=("rbf", "chebyshev")).eval()
    for layer in net.modules():
        if isinstance(layer, Selection):
            lead(layer, 1)
            layer.decide()
    x = torch.randn(2, 1, 8, 8)
    before = net(x)
    assert select_all(net) is net
    torch.testing.assert_close(net(x), before)
    plain = SConvKAN(in_chans=1, num_classes=3, channels=(4, 4), layer="chebyshev").eval()
    plain.load_state_dict(net.state_dict())
    assert torch.equal(plain(x), net(x))


def test_a_decided_net_is_saved_with_its_candidates_and_selected_after_loading(tmp_path):
    arguments = {"in_chans": 1, "num_classes": 3, "channels": (2, 3), "bases": ("rbf", "chebyshev")}
    net = timm.create_model("sconvkan_small", **arguments).eval()
    for layer in net.modules():
        if isinstance(layer, Selection):
            lead(layer, 1)
            layer.decide()
    timm.models.save_for_hf(net, tmp_path, model_args=arguments, safe_serialization=True)
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(loaded(x), net(x))
    torch.testing.assert_close(select_all(loaded)(x), net(x))


# --- the schedule ----------------------------------------------------------------------------------------------------


class Toy(pl.LightningModule):
    """A net of two stages on random images."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.seen: list[dict[str, torch.Tensor]] = []

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.01)

    def train_dataloader(self) -> DataLoader:
        generator = torch.Generator().manual_seed(3)
        x = torch.randn(16, 1, 8, 8, generator=generator)
        return DataLoader(TensorDataset(x, (x.mean(dim=(1, 2, 3)) > 0).long()), batch_size=8)

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def on_train_batch_end(self, *args: object) -> None:
        self.seen.append({name: value.clone() for name, value in self.state_dict().items()})


def toy() -> Toy:
    torch.manual_seed(0)
    return Toy(SConvKAN(in_chans=1, num_classes=2, channels=(2, 3), bases=("rbf", "chebyshev", "fourier")))


def trainer(tmp_path, max_epochs: int, **options: object) -> pl.Trainer:
    plain = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "callbacks": [SelectionSchedule()],
    }
    return pl.Trainer(accelerator="cpu", default_root_dir=tmp_path, max_epochs=max_epochs, **{**plain, **options})


@pytest.fixture(autouse=True)
def _quiet():
    with quiet():
        yield


def test_temperatures_of_the_three_phases():
    schedule = SelectionSchedule(warmup=0.3, anneal=0.4, final_temperature=0.1)
    temperatures = [schedule.temperature(epoch, 10) for epoch in range(10)]
    assert temperatures[:3] == [1.0] * 3
    assert temperatures[3:7] == pytest.approx([0.1**0.25, 0.1**0.5, 0.1**0.75, 0.1])
    assert temperatures[7:] == [None] * 3
    assert [schedule.temperature(epoch, 2) for epoch in range(2)] == [1.0, None]
    assert schedule.temperature(0, 1) is None  # the last epoch always is of the third phase
    assert [SelectionSchedule(0, 0).temperature(epoch, 4) for epoch in range(4)] == [None] * 4


def test_the_schedule_trains_all_then_decides_and_the_losers_stay_as_they_were(tmp_path):
    task = toy()
    run = trainer(tmp_path, 10)
    run.fit(task)
    key = "net.stages.0.1"
    gates = [torch.softmax(s[f"{key}.logits"] / s[f"{key}.temperature"], 0) for s in task.seen]  # two steps per epoch
    temperatures = [state[f"{key}.temperature"].item() for state in task.seen]
    assert temperatures[:6] == [1.0] * 6
    assert temperatures[12] == pytest.approx(0.1)
    for member in range(3):  # phase 1: every candidate trains
        assert not torch.equal(
            task.seen[0][f"{key}.members.{member}.weight"], task.seen[5][f"{key}.members.{member}.weight"]
        )
    winner = gates[14].argmax().item()
    assert all(gate.tolist() == [float(m == winner) for m in range(3)] for gate in gates[14:])
    assert run.callback_metrics["train/gate_entropy"].item() == 0
    last = task.seen[-1]
    assert not torch.equal(last[f"{key}.members.{winner}.weight"], task.seen[14][f"{key}.members.{winner}.weight"])
    assert len(run.optimizers[0].param_groups[0]["params"]) == len(list(task.parameters()))
    x = torch.randn(4, 1, 8, 8)
    task.eval()
    before = task.net(x)
    torch.testing.assert_close(select_all(task.net)(x), before)
    assert not [module for module in task.modules() if isinstance(module, Selection)]


def test_losers_get_gradients_of_exactly_zero_once_decided():
    layer = conv()
    lead(layer, 1)
    layer.decide()
    layer(torch.randn(2, 4, 6, 6, dtype=F64)).square().sum().backward()
    assert [bool((member.weight.grad == 0).all()) for member in layer.members] == [True, False, True, True]
    assert (layer.logits.grad == 0).all()


def test_a_run_resumed_in_any_phase_ends_in_the_same_weights(tmp_path):
    whole = toy()
    checkpoints = pl.callbacks.ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    options = {"enable_checkpointing": True, "callbacks": [SelectionSchedule(), checkpoints]}
    trainer(tmp_path, 6, **options).fit(whole)
    for epoch in (0, 2, 4):
        torch.manual_seed(99)
        resumed = toy()
        trainer(tmp_path, 6, **copy.deepcopy(options)).fit(
            resumed, ckpt_path=tmp_path / f"epoch={epoch}.ckpt", weights_only=True
        )
        for name, value in whole.state_dict().items():
            assert torch.equal(resumed.state_dict()[name], value), (epoch, name)


def test_the_schedule_refuses_what_it_cannot_do(tmp_path):
    with pytest.raises(KANError, match=r"at least 0 and together below 1, got 0\.5 and 0\.5"):
        SelectionSchedule(0.5, 0.5)
    with pytest.raises(KANError, match=r"final_temperature must lie in \(0, 1\], got 0"):
        SelectionSchedule(final_temperature=0)
    plain = Toy(SConvKAN(in_chans=1, num_classes=2, channels=(2,), layer="linear"))
    with pytest.raises(KANError, match="found no layer that selects in Toy"):
        trainer(tmp_path, 2).fit(plain)
    with pytest.raises(KANError, match=r"needs trainer\.max_epochs"):
        trainer(tmp_path, -1, max_steps=2).fit(toy())
    assert SelectionSchedule.kan_only  # a twin trains without it
