"""Mixtures of experts over any layer factories: top-k routing (MLP-KAN), dense gating (KAMoE)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kan_core.bases import RSWAF
from kan_core.bases._base import check_at_least
from kan_core.errors import KANError
from kan_core.layers._common import at_least_float32, check_input, check_sizes
from kan_core.layers._registry import LayerFactory, activation_before, get, register
from kan_core.layers.gated_residual import GatedResidualKAN, reset_children
from kan_core.layers.linear import KANLinear


class Routing(NamedTuple):
    """What the gate of a mixture of E experts decided for every row; all in at least float32.

    Attributes:
        logits: The gate's output, ``(..., E)``.
        experts: The experts chosen, best first, ``(..., k)``; all in order in a dense mixture.
        weights: Their weights, ``(..., k)``.
    """

    logits: Tensor
    experts: Tensor
    weights: Tensor

    def all_weights(self) -> Tensor:
        """The weights of all experts, zero for those not chosen: ``(..., E)``."""
        return torch.zeros_like(self.logits).scatter(-1, self.experts, self.weights)

    def load(self) -> Tensor:
        """Share of all assignments that each expert has: ``(E,)``, sums to 1; zeros for an empty batch."""
        assigned = F.one_hot(self.experts.flatten(), self.logits.shape[-1])
        return assigned.sum(dim=0).to(self.logits.dtype) / max(1, assigned.shape[0])

    def load_balance_loss(self) -> Tensor:
        """E Σ_e f_e P_e (Switch): f_e is the share of assignments, P_e the mean probability of expert e.

        1 when both are uniform, which is its minimum over f = P, E when one expert takes all. Always 1 in a dense
        mixture. The usual coefficient is 0.01.
        """
        probabilities = self.logits.softmax(dim=-1).reshape(-1, self.logits.shape[-1])
        mean = probabilities.sum(dim=0) / max(1, probabilities.shape[0])
        return self.logits.shape[-1] * (self.load() * mean).sum()

    def z_loss(self) -> Tensor:
        """Mean of (log Σ_e exp(logit_e))²: keeps logits small. The usual coefficient is 0.001."""
        squares = self.logits.logsumexp(dim=-1).square().flatten()
        return squares.sum() / max(1, squares.numel())


@register("mixture")
class MixtureOfExperts(nn.Module):
    r"""A gate weights the outputs of E experts, all of them or each row's best k.

    An expert is anything that a layer factory makes, another mixture included. With `top_k` the rows are sorted by
    expert, every expert runs once on its rows, and the inverse permutation brings the outputs back: the same numbers
    in every run, and one synchronisation with the device per call. Under ``torch.compile`` and ``torch.export``, where
    shapes cannot depend on data, all experts run on all rows instead: the same numbers, at E/k times the cost. Autocast
    leaves the gate in its own precision.

    The routing is a return value, not state, so that checkpointing and compilation cannot leave a stale one behind::

        y, routing = mixture.forward_with_routing(x)
        loss = task_loss(y) + 1e-2 * routing.load_balance_loss() + 1e-3 * routing.z_loss()

    Equation: y = Σ_e w_e(x) expert_e(x), w = softmax(gate(x)) restricted to the k largest and divided by their sum

    Reference: MLP-KAN (arXiv 2410.03027), KAMoE (arXiv 2409.15161); losses of Switch Transformers (arXiv 2101.03961).

    Avoids: one host synchronisation per expert, ties broken at random, and parameters that no output uses.

    Args:
        in_features: Size of each input sample.
        out_features: Size of each output sample.
        experts: A layer factory or its name for all experts, or a sequence with one for each.
        num_experts: E, when `experts` is one factory; None for 4.
        gate: A layer factory or its name: makes the layer from in_features to E logits.
        top_k: k, experts per row; equal logits prefer the lower index. With 1 the weight is the probability itself, as
            in Switch: divided by its sum it would be the constant 1 and the gate would learn nothing. None for all
            experts.
        gating: ``"softmax"``, or for ``top_k=None`` also ``"sigmoid"``: weights that do not sum to 1.
        input_scale: Multiply the inputs of gate and experts by one learned factor per feature, 1 at the start.
        bias: False asks the gate and every expert for none; True leaves them at their own defaults.
        device: Where the parameters live.
        dtype: Type of the parameters.

    Raises:
        KANError: For fewer than two experts, an option out of its range, or an input of another size.

    Shape:
        - Input: ``(..., in_features)``
        - Output: ``(..., out_features)``
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        experts: LayerFactory | str | Sequence[LayerFactory | str] = "bspline",
        num_experts: int | None = None,
        gate: LayerFactory | str = "linear",
        top_k: int | None = None,
        gating: str = "softmax",
        input_scale: bool = False,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_sizes(in_features, out_features)
        factories = _expert_list(experts, num_experts)
        if top_k is not None and top_k not in range(1, len(factories) + 1):
            raise KANError(f"top_k must be None or 1 to {len(factories)}, the number of experts, got {top_k!r}")
        if gating != "softmax" and (gating != "sigmoid" or top_k is not None):
            raise KANError(f"gating must be 'softmax', or 'sigmoid' with top_k=None, got {gating!r} with top_k={top_k}")
        self.in_features = in_features
        self.out_features = out_features
        self.top_k = top_k
        self.gating = gating
        options: dict[str, Any] = {"device": device, "dtype": dtype} | ({} if bias else {"bias": False})
        self.gate = get(gate)(in_features, len(factories), **options)
        self.experts = nn.ModuleList(get(factory)(in_features, out_features, **options) for factory in factories)
        self.input_scale: nn.Parameter | None = None
        if input_scale:
            self.input_scale = nn.Parameter(torch.ones(in_features, device=device, dtype=dtype))

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw new weights in the gate and in every expert; the input scale starts at 1."""
        reset_children(self)
        if self.input_scale is not None:
            self.input_scale.fill_(1.0)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., in_features)`` to ``(..., out_features)``."""
        return self.forward_with_routing(x)[0]

    def forward_with_routing(self, x: Tensor) -> tuple[Tensor, Routing]:
        """The output, and the routing that it was made with."""
        check_input(x, self.in_features)
        if self.input_scale is not None:
            x = x * self.input_scale.to(x.dtype)
        routing = self._route(x)
        if self.top_k is None:
            return self._dense(x, routing.weights), routing
        if torch.compiler.is_compiling():
            return self._dense(x, routing.all_weights()), routing
        experts, weights = (t.reshape(-1, self.top_k) for t in routing[1:])
        rows = self._grouped(x.reshape(-1, self.in_features), experts, weights)
        return rows.view(*x.shape[:-1], self.out_features), routing

    def _route(self, x: Tensor) -> Routing:
        """Gate the scaled input outside autocast: in half precision near ties would be decided by rounding."""
        with torch.autocast(x.device.type, enabled=False):
            logits = at_least_float32(self.gate(x.to(next(self.gate.parameters(), x).dtype)))
        if self.top_k is None:
            weights = logits.sigmoid() if self.gating == "sigmoid" else logits.softmax(dim=-1)
            return Routing(logits, torch.arange(logits.shape[-1], device=x.device).expand_as(logits), weights)
        # a stable sort, not topk: which of two equal logits that takes is not specified
        experts = logits.sort(dim=-1, descending=True, stable=True).indices[..., : self.top_k]
        weights = logits.softmax(dim=-1).gather(-1, experts)
        if self.top_k > 1:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        return Routing(logits, experts, weights)

    def _dense(self, x: Tensor, weights: Tensor) -> Tensor:
        """All experts on all rows, added up one by one instead of stacked."""
        y: Tensor | None = None
        dtype = x.dtype
        for expert, weight in zip(self.experts, torch.split(weights, 1, dim=-1), strict=True):
            out = expert(x)
            dtype = out.dtype
            y = weight * out if y is None else y + weight * out
        assert y is not None
        return y.to(dtype)

    def _grouped(self, rows: Tensor, experts: Tensor, weights: Tensor) -> Tensor:
        """Every expert on its own rows: ``(N, in)``, ``(N, k)``, ``(N, k)`` to ``(N, out)``."""
        k = experts.shape[1]
        sorted_experts, order = experts.flatten().sort(stable=True)
        ends = torch.searchsorted(sorted_experts, torch.arange(len(self.experts), device=rows.device), right=True)
        sizes = ends.diff(prepend=ends.new_zeros(1)).tolist()
        # an expert without rows runs on none: its gradient is zero, not missing, as distributed training needs it
        inputs = torch.split(rows[order // k], sizes)
        parts = [expert(part) for expert, part in zip(self.experts, inputs, strict=True)]
        outputs = torch.cat(parts)[order.argsort()].view(-1, k, self.out_features)
        return (outputs * weights.unsqueeze(-1)).sum(dim=1).to(outputs.dtype)

    def extra_repr(self) -> str:
        """The arguments, for ``repr``."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, top_k={self.top_k}, "
            f"gating={self.gating!r}"
        )


def _expert_list(
    experts: LayerFactory | str | Sequence[LayerFactory | str], num_experts: int | None
) -> list[LayerFactory | str]:
    if callable(experts) or isinstance(experts, str):
        count = check_at_least("num_experts", 4 if num_experts is None else num_experts, 2)
        return [experts] * count
    if num_experts is not None:
        raise KANError(f"num_experts={num_experts!r} goes with one factory, but `experts` lists {len(experts)}")
    if len(experts) < 2:
        raise KANError(f"a mixture needs at least 2 experts, got {len(experts)}")
    return list(experts)


@register("mlp-kan")
def mlp_kan(
    in_features: int,
    out_features: int,
    *,
    num_experts: int = 8,
    top_k: int | None = 2,
    hidden_features: int | None = None,
    activation: str = "gelu",
    bias: bool = True,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> MixtureOfExperts:
    r"""MLP-KAN: a mixture whose first half of experts are MLPs and whose second half are KANs (FasterKAN).

    Equation: y = Σ_{e ∈ top k} w_e expert_e(x); experts L₂ a(L₁ x), or KAN₂(KAN₁(x)) with functions
    φ_j(u) = 1 − tanh²((u − g_j)/0.33) of u = LN(x)

    Reference: MLP-KAN (arXiv 2410.03027), the routing of its code.

    Avoids: the ratio-4 MLP that the reference inherits and never runs, and its synchronisation for every expert.

    Args:
        in_features: Size of each input sample.
        out_features: Size of each output sample.
        num_experts: E, an even number.
        top_k: Experts per row, or None for all.
        hidden_features: Hidden width h of the MLPs; the KANs have h // 2. None for in_features, as in the reference.
        activation: Of the MLPs: ``"gelu"`` as released, ``"silu"`` as in the paper, or ``"relu"``.
        bias: Constants in the MLPs; the gate and the KANs have none.
        device: Where the parameters live.
        dtype: Type of the parameters.

    Raises:
        KANError: For an odd number of experts or another option out of its range.

    Parameters: E/2 · (in · h + h + h · out + out) + E/2 · (2 in + 8 in · h/2 + h + 8 h/2 · out) + E · in.
    """
    if check_at_least("num_experts", num_experts, 2) % 2:
        raise KANError(f"num_experts must be even, half MLPs and half KANs, got {num_experts}")
    hidden = check_at_least("hidden_features", in_features if hidden_features is None else hidden_features, 1)
    mlp = partial(_mlp_expert, hidden=hidden, activation=activation, bias=bias)
    kan = partial(_kan_expert, hidden=max(1, hidden // 2))
    return MixtureOfExperts(
        in_features,
        out_features,
        experts=[mlp] * (num_experts // 2) + [kan] * (num_experts // 2),
        gate=partial(nn.Linear, bias=False),
        top_k=top_k,
        device=device,
        dtype=dtype,
    )


def _mlp_expert(
    in_features: int, out_features: int, *, hidden: int, activation: str, bias: bool, **options: Any
) -> nn.Module:
    return nn.Sequential(
        nn.Linear(in_features, hidden, bias=bias, **options),
        activation_before("linear", activation),
        nn.Linear(hidden, out_features, bias=bias, **options),
    )


def _kan_expert(in_features: int, out_features: int, *, hidden: int, **options: Any) -> nn.Module:
    """FasterKAN as released: a LayerNorm, fixed centres, no base branch and no bias."""
    basis = RSWAF(num_centers=8, grid_range=(-2.0, 2.0), width=0.33)
    options |= {"basis": basis, "base": None, "norm": "layer", "bias": False}
    return nn.Sequential(KANLinear(in_features, hidden, **options), KANLinear(hidden, out_features, **options))


@register("kamoe")
def kamoe(
    in_features: int,
    out_features: int,
    *,
    expert: LayerFactory | str = "bspline",
    num_experts: int = 3,
    gating: str = "sigmoid",
    gate_layer: LayerFactory | str = "bspline(grid_size=3)",
    dropout: float = 0.0,
    bias: bool = True,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> MixtureOfExperts:
    r"""KAMoE: a dense mixture of copies of one expert, weighted by a gated residual KAN.

    A sequence is gated step by step on its last dimension, whatever stands before it. Gates that see the last step or
    the flattened sequence need to know the time axis and belong to kan-timeseries. The gate's KANs see a ReLU, which
    can leave a narrow grid: ``gate_layer`` takes a spec with another ``grid_range``.

    Equation: y = Σ_e w_e expert_e(s ⊙ x), w = σ(GRKAN(ReLU(W_z (s ⊙ x) + b_z)))

    Reference: KAMoE (arXiv 2409.15161).

    Avoids: an input scale per time step, which pins the length of the sequence, and one expert, whose gate would be a
    constant.

    Args:
        in_features: Size of each input sample.
        out_features: Size of each output sample.
        expert: A layer factory or its name; every copy has its own fresh weights.
        num_experts: At least 2.
        gating: ``"sigmoid"`` (weights do not sum to 1) or ``"softmax"``.
        gate_layer: The layers of the gated residual network, see :class:`GatedResidualKAN`; ``"linear"`` for the GRN.
        dropout: Probability of a zero in the gate.
        bias: False asks the gate and every expert for no constants.
        device: Where the parameters live.
        dtype: Type of the parameters.

    Raises:
        KANError: For fewer than two experts or another option out of its range.

    Parameters: in + E · expert + (in · out + out) + GRKAN(out → E).
    """

    def gate(features: int, experts: int, **options: Any) -> nn.Module:
        network = GatedResidualKAN(out_features, experts, layer=gate_layer, dropout=dropout, **options)
        return nn.Sequential(nn.Linear(features, out_features, **options), nn.ReLU(), network)

    return MixtureOfExperts(
        in_features,
        out_features,
        experts=expert,
        num_experts=num_experts,
        gate=gate,
        gating=gating,
        input_scale=True,
        bias=bias,
        device=device,
        dtype=dtype,
    )
