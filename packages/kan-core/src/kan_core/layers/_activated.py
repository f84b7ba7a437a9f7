"""Layers that are a learned activation and then a linear map: an edge is W[o, i] F_i(x)."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from kan_core.layers._common import at_least_float32, check_edge, check_input, check_sizes


class Activation(nn.Module):
    """Base of learned activations: a function of each number, in at least float32, returned in the input's type.

    A subclass implements :meth:`evaluate`, :meth:`reset_parameters` and :meth:`elementwise_flops`.
    """

    def evaluate(self, x: Tensor) -> Tensor:
        """The function at `x`, float32 or float64: ``(..., num_features)`` to the same shape."""
        raise NotImplementedError

    def reset_parameters(self) -> None:
        """Set the initial function; nothing is drawn."""
        raise NotImplementedError

    def elementwise_flops(self, numel: int) -> int:
        """Operations for an input of `numel` numbers."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., num_features)`` to the same shape and type."""
        return self.evaluate(at_least_float32(x)).to(x.dtype)


class ActivatedLinear(nn.Module):
    r"""y = W F(x) + c: a learned activation F FIRST, then an ordinary linear map.

    Args:
        activation: F, for `in_features` features.
        in_features: Size of each input sample.
        out_features: Size of each output sample.
        std: Standard deviation of the initial weights, or None, see :meth:`reset_parameters`.
        bias: Add one constant c per output.
        device: Where the parameters of the linear map live.
        dtype: Type of the parameters of the linear map.

    Attributes:
        activation: F.
        linear: W and c, an ``nn.Linear``: the weights of an MLP's layer can be copied into it.

    Raises:
        KANError: For sizes below 1, or an input of another size.

    Shape:
        - Input: ``(..., in_features)``
        - Output: ``(..., out_features)``
    """

    def __init__(
        self,
        activation: Activation,
        in_features: int,
        out_features: int,
        *,
        std: float | None = None,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_sizes(in_features, out_features)
        self.in_features = in_features
        self.out_features = out_features
        self.std = std
        self.activation = activation
        self.linear = nn.Linear(in_features, out_features, bias=bias, device=device, dtype=dtype)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        r"""F to its initial function, W normal with variance α/in_features, α = 1/E[F(z)²], z ~ N(0, 1); c = 0.

        So inputs of variance 1 give outputs of variance 1. With `std` that is W's standard deviation instead.
        """
        self.activation.reset_parameters()
        if self.linear.weight.is_meta:
            return
        std = self.std
        if std is None:
            exact = copy.deepcopy(self.activation).to("cpu", torch.float64).eval()
            std = 1 / math.sqrt(self.in_features * mean_square(exact, self.in_features))
        self.linear.weight.normal_(0.0, std)
        if self.linear.bias is not None:
            self.linear.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., in_features)`` to ``(..., out_features)``."""
        check_input(x, self.in_features)
        y: Tensor = self.linear(self.activation(x))
        return y

    def edge_function(self, output: int, input: int) -> Callable[[Tensor], Tensor]:
        """The function W[output, input] F_input(x) of one edge, differentiable, for tensors of any shape.

        Args:
            output: Row of the weight.
            input: Input feature.

        Raises:
            KANError: When there is no such edge.
        """
        check_edge(output, input, self.out_features, self.in_features)

        def phi(x: Tensor) -> Tensor:
            everywhere = x.unsqueeze(-1).expand(*x.shape, self.in_features)
            y: Tensor = self.linear.weight[output, input] * self.activation(everywhere)[..., input]
            return y

        return phi


def mean_square(function: Callable[[Tensor], Tensor], features: int = 1) -> float:
    """E[F(z)²] for z ~ N(0, 1), averaged over the features, by Gauss-Hermite quadrature with 128 nodes in float64."""
    z, weights = (torch.from_numpy(v) for v in np.polynomial.hermite_e.hermegauss(128))
    values = function(z[:, None].expand(-1, features)).square().mean(dim=1)
    return float((weights * values).sum() / weights.sum())
