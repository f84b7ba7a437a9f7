"""Selection among candidate bases (S-KAN)."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from functools import reduce

import torch
from torch import Tensor, nn

from kan_core.bases import Basis
from kan_core.bases._base import check_positive
from kan_core.errors import KANError
from kan_core.layers._base import BASE_FUNCTIONS
from kan_core.layers._common import check_edge, check_input, check_sizes, matmul
from kan_core.layers._norm import Norm, make_norm
from kan_core.layers._registry import register
from kan_core.layers.linear import KANLinear


class Selection(nn.Module):
    r"""Candidate layers under softmax gates, of which one is kept in the end: what every layer that selects shares.

    Train it in three stages: at temperature 1 with every candidate; then :meth:`anneal` the temperature towards 0, or
    add :meth:`gate_entropy` to the loss, so that one gate wins, and :meth:`decide`; then :meth:`select`
    (:func:`select_all` for a model) keeps the winner as a plain layer, to be trained on with a new optimiser.

    Equation: y = Σ_m g_m f_m(x), g = softmax(θ/T)

    Args:
        bases: The candidates: bases or their specs.
        device: Where the gates live.
        dtype: Type of the gates.

    Raises:
        KANError: For no candidates.

    Attributes:
        logits: θ, one per candidate; equal at the start. With one candidate its gradient is 0.
        temperature: T, a buffer: saved with the weights.
    """

    def __init__(
        self, bases: Sequence[Basis | str], *, device: torch.device | str | None, dtype: torch.dtype | None
    ) -> None:
        if isinstance(bases, str) or not bases:
            raise KANError(f"bases must be a sequence of at least one basis, such as ('bspline', 'rbf'), got {bases!r}")
        super().__init__()
        self.logits = nn.Parameter(torch.empty(len(bases), device=device, dtype=dtype))
        self.temperature: Tensor
        self.register_buffer("temperature", torch.ones((), device=device, dtype=dtype))
        self._reset_gates()

    @torch.no_grad()
    def _reset_gates(self) -> None:
        self.logits.zero_()
        self.temperature.fill_(1.0)

    def _mix(self, outputs: Sequence[Tensor]) -> Tensor:
        """Σ_m g_m f_m."""
        weighted: list[Tensor] = [gate * output for gate, output in zip(self.gates, outputs, strict=True)]
        return reduce(torch.add, weighted)

    @property
    def gates(self) -> Tensor:
        """Shares g = softmax(θ/T) of the candidates, shape ``(M,)``; they sum to 1."""
        return torch.softmax(self.logits / self.temperature, dim=0)

    @property
    def winner(self) -> int:
        """Index of the candidate with the largest gate; the lowest one of several."""
        logits = self.logits.tolist()
        return logits.index(max(logits))

    def gate_entropy(self) -> Tensor:
        """−Σ g log g, a differentiable scalar between 0 (selected) and log M (undecided)."""
        log_gates = torch.log_softmax(self.logits / self.temperature, dim=0)
        return -(log_gates.exp() * log_gates).sum()

    @torch.no_grad()
    def anneal(self, temperature: float) -> None:
        """Set T: below 1 the gates sharpen, towards 0 they become the winner's alone.

        Raises:
            KANError: When it is not a finite number above zero.
        """
        self.temperature.fill_(check_positive("temperature", temperature))

    @torch.no_grad()
    def decide(self) -> None:
        """Give the winner a gate of exactly 1 and the others exactly 0, up to a temperature of 10.

        Nothing is replaced, so an optimiser goes on as it is: the gates' gradients are 0 from here on, those of the
        losers' weights too, and :meth:`select` changes no output.
        """
        winner = self.winner
        self.logits.fill_(-1e4)  # exp(-1e3) is 0 in float64, and unlike -inf it leaves the entropy finite
        self.logits[winner] = 0.0

    def select(self) -> nn.Module:
        """The winner as a plain layer with its own copy of the weights, its gate folded into its coefficients."""
        raise NotImplementedError


@register("s-kan")
class SelectKANLinear(Selection):
    r"""A layer that learns which basis it needs: candidate KAN layers under softmax gates, all on the same input.

    See :class:`Selection` for how it is trained; :meth:`select` then gives a plain :class:`KANLinear`. Every candidate
    starts with an output of variance 1, so that none wins by its scale.

    Equation: y = Σ_m g_m f_m(norm(x)) + W_b b(x) + bias, g = softmax(θ/T), f_m = one KAN layer per basis

    Reference: S-KAN (arXiv 2408.08338); the gate, one per layer, and the stages' details are our reading of it.

    Avoids: leaving selection out, as the published code does, which has the candidate layers only.

    Args:
        in_features: Size of each input sample.
        out_features: Size of each output sample.
        bases: The candidates: bases or their specs.
        base: The base branch's function b, shared by the candidates, as in :class:`KANLinear`; or None.
        norm: Normalise what all candidates see: ``"layer"``, ``"batch"`` or None.
        bias: Add one constant per output.
        device: Where parameters and grids live.
        dtype: Type of parameters and grids.

    Raises:
        KANError: For no candidates, an unknown basis, base or norm, or an input of another size.

    Attributes:
        members: One :class:`KANLinear` per candidate, without base branch and bias.

    Shape:
        - Input: ``(..., in_features)``
        - Output: ``(..., out_features)``

    Parameters: in · out · Σ_m K_m + M for M candidates, + in · out with a base branch, + out with bias, + 2 in with
    norm. After selection: those of a KANLinear.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bases: Sequence[Basis | str] = ("bspline", "rbf", "chebyshev", "fourier"),
        base: str | None = "silu",
        norm: Norm | None = None,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_sizes(in_features, out_features)
        if base is not None and base not in BASE_FUNCTIONS:
            raise KANError(f"base must be None or one of {', '.join(BASE_FUNCTIONS)}, got {base!r}")
        super().__init__(bases, device=device, dtype=dtype)
        self.in_features = in_features
        self.out_features = out_features
        self.base = base
        self.norm = make_norm(norm, in_features, device, dtype)
        self.members = nn.ModuleList(
            KANLinear(
                in_features, out_features, basis, base=None, bias=False, init_scale=1.0, device=device, dtype=dtype
            )
            for basis in bases
        )
        self.base_weight: nn.Parameter | None = None
        if base is not None:
            self.base_weight = nn.Parameter(torch.empty(in_features, out_features, device=device, dtype=dtype))
        self.bias: nn.Parameter | None = None
        if bias:
            self.bias = nn.Parameter(torch.empty(out_features, device=device, dtype=dtype))
        self._reset_shared()

    def reset_parameters(self) -> None:
        """Draw new weights from torch's global generator, as :class:`KANLinear` does; gates equal, temperature 1."""
        for member in self._members():
            member.reset_parameters()
        self._reset_gates()
        self._reset_shared()

    @torch.no_grad()
    def _reset_shared(self) -> None:
        bound = 1 / math.sqrt(self.in_features)
        for parameter in (self.base_weight, self.bias):
            if parameter is not None:
                parameter.uniform_(-bound, bound)

    def _members(self) -> list[KANLinear]:
        return [member for member in self.members if isinstance(member, KANLinear)]

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., in_features)`` to ``(..., out_features)``."""
        check_input(x, self.in_features)
        z = x if self.norm is None else self.norm(x)
        y = self._mix([member(z) for member in self.members])
        if self.base is not None and self.base_weight is not None:
            y = y + matmul(BASE_FUNCTIONS[self.base](x), self.base_weight)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    @torch.no_grad()
    def select(self) -> KANLinear:
        """The winner as a plain layer with its own copy of the weights, its gate folded into its coefficients.

        It equals this layer with the other candidates taken away: exactly this layer once their gates are 0.
        """
        member = self._members()[self.winner]
        layer = copy.deepcopy(member)
        planes = [member.weight * self.gates[self.winner]]
        if self.base_weight is not None:
            planes.append(self.base_weight[None])
        layer.weight = nn.Parameter(torch.cat(planes))
        layer.base = self.base
        layer.norm = copy.deepcopy(self.norm)
        layer.bias = copy.deepcopy(self.bias)
        return layer.train(self.training)

    # Reading edges ----------------------------------------------------------------------------------------------

    def edge_function(self, output: int, input: int) -> Callable[[Tensor], Tensor]:
        """The learned univariate function of one edge, all candidates together, see :meth:`KANLinear.edge_function`.

        Raises:
            KANError: When there is no such edge.
        """
        check_edge(output, input, self.out_features, self.in_features)
        members = [member.edge_function(output, input) for member in self._members()]

        def phi(x: Tensor) -> Tensor:
            y = self._mix([member(x) for member in members])
            if self.base is None or self.base_weight is None:
                return y
            return y + self.base_weight[input, output] * BASE_FUNCTIONS[self.base](x)

        return phi

    def extra_repr(self) -> str:
        """The arguments, for ``repr``."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, base={self.base!r}, "
            f"bias={self.bias is not None}"
        )


def select_all(model: nn.Module) -> nn.Module:
    """Put the winner of every :class:`Selection` of `model` in its place; make the optimiser afterwards.

    Returns:
        `model`, changed in place; when it is itself such a layer, its winner.
    """
    if isinstance(model, Selection):
        return model.select()
    for name, child in model.named_children():
        setattr(model, name, select_all(child))
    return model
