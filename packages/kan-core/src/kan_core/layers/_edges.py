"""Layers whose functions have nonlinear parameters on every edge: no features that the outputs could share."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kan_core.layers._common import at_least_float32, check_edge, check_input, check_sizes

# Numbers that a call may leave for its backward pass (256 MiB of float32); beyond it, pieces are computed again there.
_MAX_KEPT = 1 << 26


class EdgeLinear(nn.Module):
    """Base of layers y_o = Σ_i φ(x_i; p_{o,i}) + bias_o with parameters p of each edge inside φ.

    A subclass says what an edge's parameters are (:meth:`edge_parameters`) and evaluates φ (:meth:`edges`). All edges
    at all rows are rows · in · out values. A call that would leave more than 2²⁶ numbers for its backward pass is
    evaluated in pieces (of outputs and, if need be, of rows) that the backward pass computes again, so its memory is
    bounded at about 256 MiB of float32 for the price of one more forward. Compiled and exported graphs hold one piece,
    whatever its size: Inductor fuses φ and the sum, so that its forward pass never writes the values.

    Attributes:
        bias: One constant per output, or None.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        check_sizes(in_features, out_features)
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.bias: nn.Parameter | None = None
        if bias:
            self.bias = nn.Parameter(torch.empty(out_features, device=device, dtype=dtype))

    @property
    def kept(self) -> int:
        """How many numbers :meth:`edges` leaves for its backward pass per edge and row."""
        raise NotImplementedError

    def edge_parameters(self) -> tuple[Tensor, ...]:
        """What φ takes besides x: tensors of shape ``(out_features, in_features, ...)``."""
        raise NotImplementedError

    def edges(self, x: Tensor, *parameters: Tensor) -> Tensor:
        """φ on some edges: x ``(rows, 1, in)`` and parameters ``(out, in, ...)`` give ``(rows, out, in)``."""
        raise NotImplementedError

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the bias as ``nn.Linear`` does, uniform in ±1/√in_features; subclasses draw the edges' parameters."""
        if self.bias is not None:
            bound = 1 / math.sqrt(self.in_features)
            self.bias.uniform_(-bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., in_features)`` to ``(..., out_features)``."""
        check_input(x, self.in_features)
        parameters = self.edge_parameters()
        dtype = _result_dtype(x, parameters[0])
        rows = at_least_float32(x).reshape(-1, self.in_features)
        y = in_pieces(self._sums, rows, tuple(at_least_float32(p) for p in parameters), self.kept)
        if self.bias is not None:
            y = y + self.bias
        return y.to(dtype).view(*x.shape[:-1], self.out_features)

    def _sums(self, x: Tensor, *parameters: Tensor) -> Tensor:
        return self.edges(x.unsqueeze(1), *parameters).sum(dim=-1)

    def edge_function(self, output: int, input: int) -> Callable[[Tensor], Tensor]:
        """φ of one edge, differentiable, for tensors of any shape; the layer is their sum and its bias.

        Args:
            output: Output feature.
            input: Input feature.

        Raises:
            KANError: When there is no such edge.
        """
        check_edge(output, input, self.out_features, self.in_features)

        def phi(x: Tensor) -> Tensor:
            one = (at_least_float32(p[output : output + 1, input : input + 1]) for p in self.edge_parameters())
            return self.edges(x.reshape(-1, 1, 1), *one).view(x.shape)

        return phi

    def extra_repr(self) -> str:
        """The arguments, for ``repr``."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


def in_pieces(function: Callable[..., Tensor], x: Tensor, parameters: tuple[Tensor, ...], kept: int) -> Tensor:
    """``function(x, *parameters)`` in bounded memory.

    Args:
        function: Takes some rows of `x` and the parameters of some outputs, and returns ``(rows, ..., outputs)``.
        x: ``(rows, ...)``.
        parameters: Each ``(outputs, inputs, ...)``.
        kept: Numbers left for the backward pass per row, output and input.
    """
    outputs, inputs = parameters[0].shape[:2]
    if torch.compiler.is_compiling() or len(x) * outputs * inputs * kept <= _MAX_KEPT:
        return function(x, *parameters)
    rows = min(len(x), max(1, _MAX_KEPT // (inputs * kept)))
    block = max(1, _MAX_KEPT // (rows * inputs * kept))
    if torch.is_grad_enabled():
        function = partial(checkpoint, function, use_reentrant=False, preserve_rng_state=False)
    blocks = list(zip(*(torch.split(p, block) for p in parameters), strict=True))
    return torch.cat([torch.cat([function(part, *some) for some in blocks], dim=-1) for part in torch.split(x, rows)])


def _result_dtype(x: Tensor, parameter: Tensor) -> torch.dtype:
    """What a matrix product with `parameter` would return."""
    kind = x.device.type
    if kind != "meta" and torch.is_autocast_enabled(kind) and torch.float64 not in (x.dtype, parameter.dtype):
        return torch.get_autocast_dtype(kind)
    return parameter.dtype
