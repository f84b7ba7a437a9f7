"""Products of two shifted activations (the functions of AF-KAN)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kan_core.bases._base import REGISTRY, Basis, check_at_least, check_interval
from kan_core.errors import KANError

# name -> (function, elementwise operations; exp counts 1)
ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
    "silu": (F.silu, 5),
    "gelu": (F.gelu, 14),
    "elu": (F.elu, 4),
    "selu": (F.selu, 5),
    "relu": (F.relu, 1),
    "softplus": (F.softplus, 3),
    "sigmoid": (torch.sigmoid, 4),
    "leaky_relu": (F.leaky_relu, 2),
    "tanh": (torch.tanh, 6),
}

COMBINATIONS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], int]] = {
    "quad1": (lambda a, b: (a * b).square(), 2),
    "quad2": (lambda a, b: a * b + a.square() + b.square(), 5),
    "sum": (lambda a, b: a + b, 1),
    "prod": (lambda a, b: a * b, 1),
    "sum_prod": (lambda a, b: a + b + a * b, 3),
    "cubic1": (lambda a, b: (a + b) * (a.square() + b.square()), 5),
    "cubic2": (lambda a, b: (a * b) ** 3, 2),
}


@REGISTRY.register("af")
class AF(Basis):
    r"""A rising and a falling activation a = act(x − l_k), b = act(h_k − x), combined: K = grid_size + order functions.

    l_k and h_k are trainable and shared by all inputs; they start from `grid_size` intervals, h − l being order + 1 of
    them. Values grow with |x| as `combine` and `act` say: with the default silu and quad1 they fall back to 0 on both
    sides, cubic2 of leaky_relu reaches 1e18 at |x| = 1e4 (float32 holds it).

    Equation: φ_k(x) = (act(x − l_k) act(h_k − x))²; `combine` names six other ways to join the two

    Reference: AF-KAN (2503.06112).

    Avoids: the reference normalises by the batch's extremes, which couples its rows; here no row sees another one.

    Args:
        grid_size: Number of intervals G.
        order: Overlap k.
        grid_range: Where inputs are expected.
        act: ``"silu"``, ``"gelu"``, ``"elu"``, ``"selu"``, ``"relu"``, ``"softplus"``, ``"sigmoid"``, ``"leaky_relu"``
            or ``"tanh"``.
        combine: ``"quad1"`` (ab)², ``"quad2"`` ab + a² + b², ``"sum"`` a + b, ``"prod"`` ab, ``"sum_prod"`` a + b + ab,
            ``"cubic1"`` (a + b)(a² + b²) or ``"cubic2"`` (ab)³.

    Raises:
        KANError: For an argument out of its range.
    """

    def __init__(
        self,
        grid_size: int = 3,
        order: int = 3,
        grid_range: tuple[float, float] = (0.0, 1.0),
        act: str = "silu",
        combine: str = "quad1",
    ) -> None:
        super().__init__()
        self.grid_size = check_at_least("grid_size", grid_size, 1)
        self.order = check_at_least("order", order, 0)
        self.domain = low, high = check_interval("grid_range", grid_range)
        if act not in ACTIVATIONS:
            raise KANError(f"act must be one of {', '.join(ACTIVATIONS)}, got {act!r}")
        if combine not in COMBINATIONS:
            raise KANError(f"combine must be one of {', '.join(COMBINATIONS)}, got {combine!r}")
        self.act, self.combine = act, combine
        self.num_functions = grid_size + order
        step = (high - low) / grid_size
        start = low + torch.arange(-order, grid_size, dtype=torch.float64) * step
        self.low = nn.Parameter(start)  # (K,)
        self.high = nn.Parameter(start + (order + 1) * step)

    @property
    def flops_per_input(self) -> int:
        """Two differences, two activations and their combination for each function."""
        return (2 + 2 * ACTIVATIONS[self.act][1] + COMBINATIONS[self.combine][1]) * self.num_functions

    def planes(self, x: Tensor) -> Tensor:
        """All functions at all inputs: ``(..., in_features) -> (..., K, in_features)``."""
        act, combine = ACTIVATIONS[self.act][0], COMBINATIONS[self.combine][0]
        column = x.unsqueeze(-2)
        rising, falling = column - self.low[:, None].to(x.dtype), self.high[:, None].to(x.dtype) - column
        return combine(act(rising), act(falling))

    def extra_repr(self) -> str:
        """The arguments, for ``repr``."""
        return (
            f"grid_size={self.grid_size}, order={self.order}, grid_range={self.domain}, act={self.act!r}, "
            f"combine={self.combine!r}"
        )
