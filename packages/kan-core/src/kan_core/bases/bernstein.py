"""Bernstein polynomials: the weights of a Bézier curve."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kan_core.bases._base import REGISTRY
from kan_core.bases._polynomial import Polynomial


@REGISTRY.register("bernstein")
class Bernstein(Polynomial):
    r"""Bernstein polynomials of degree d at u = sigmoid(x): non-negative, they sum to 1; K = degree + 1.

    An edge function starts at its first coefficient and ends at its last, and stays between the least and the
    greatest.

    Equation: φ_k(x) = binom(d, k) u^k (1−u)^(d−k), k = 0 … d

    Reference: BernsteinKAN of IvanDrokin/torch-conv-kan (no paper).

    Avoids: a triangular scheme that starts from ones everywhere, so that every function stays the constant 1 and
    nothing is learned but a constant.

    Args:
        degree: d, at least 1.
        squash: Apply the sigmoid. Without it the inputs must already lie in [0, 1].

    Raises:
        KANError: When `degree` is below 1.
    """

    interval = (0.0, 1.0)
    squash_flops = 4

    def __init__(self, degree: int = 3, squash: bool = True) -> None:
        super().__init__(degree, squash)

    @property
    def flops_per_input(self) -> int:
        """The squash, 1 − u, the powers of both, and for each function between the ends a product and its scale."""
        return self.squash_flops * self.squash + 1 + 4 * (self.degree - 1)

    def argument(self, x: Tensor) -> Tensor:
        """u, shape of `x`: sigmoid(x), or x itself without a squash."""
        return torch.sigmoid(x) if self.squash else x

    def planes(self, x: Tensor) -> Tensor:
        """All functions at all inputs: ``(..., in_features) -> (..., K, in_features)``."""
        u = self.argument(x)
        up, down = [u], [1 - u]  # first to highest power
        for _ in range(1, self.degree):
            up.append(up[-1] * u)
            down.append(down[-1] * down[0])
        between = [math.comb(self.degree, k) * up[k - 1] * down[self.degree - k - 1] for k in range(1, self.degree)]
        return torch.stack([down[-1], *between, up[-1]], dim=-2)
