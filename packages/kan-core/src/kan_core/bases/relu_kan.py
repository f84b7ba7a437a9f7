"""Bumps made of two rectifiers, with trainable supports (ReLU-KAN)."""

from __future__ import annotations

import math
from typing import Self

import torch
from torch import Tensor, nn

from kan_core.bases._base import REGISTRY, Basis, check_at_least, check_interval
from kan_core.ops.basis_linear.form import PlaneForm

_LEAST_LOG_WIDTH = -14.0  # a support stays wider than 2e-6: 1/h and its gradient stay finite


@REGISTRY.register("relu-kan")
class ReLUKAN(Basis):
    r"""Bumps of height 1 on supports [s_k, e_k] that every input has of its own: K = grid_size + order functions.

    With centre c = (s + e)/2 and half-width h = (e − s)/2 the function is relu(1 − ((x − c)/h)²)². c and log h are the
    parameters, so that e > s and height 1 hold for whatever training makes of them. They start from `grid_size`
    intervals with supports order + 1 intervals wide. Functions are C¹, and all are 0 beyond order more intervals.

    Equation: φ_k(x) = [relu(e_k − x) relu(x − s_k)]² · 16/(e_k − s_k)⁴

    Reference: ReLU-KAN (2406.02075).

    Avoids: the reference freezes the factor 16/(e − s)⁴ while it trains s and e, so that its peaks drift away from 1.

    Args:
        grid_size: Number of intervals G.
        order: Overlap k: supports are k + 1 intervals wide.
        grid_range: Where inputs are expected; the paper has (0, 1) and does not squash, (-1, 1) suits centred inputs.
        trainable: Learn the supports (2 in K numbers) instead of keeping them as buffers.

    Raises:
        KANError: For an argument out of its range.
    """

    def __init__(
        self,
        grid_size: int = 5,
        order: int = 3,
        grid_range: tuple[float, float] = (0.0, 1.0),
        trainable: bool = True,
    ) -> None:
        super().__init__()
        self.grid_size = check_at_least("grid_size", grid_size, 1)
        self.order = check_at_least("order", order, 0)
        self.domain = low, high = check_interval("grid_range", grid_range)
        self.trainable = trainable
        self.num_functions = grid_size + order
        half_width = (order + 1) * (high - low) / (2 * grid_size)
        start = low + torch.arange(-order, grid_size, dtype=torch.float64)[:, None] * ((high - low) / grid_size)
        self.centers: Tensor  # (K, in_features); a prototype has one column for all
        self.log_half_widths: Tensor  # likewise
        self._set("centers", start + half_width)
        self._set("log_half_widths", torch.full_like(start, math.log(half_width)))

    def _set(self, name: str, value: Tensor) -> None:
        if self.trainable:
            self.register_parameter(name, nn.Parameter(value))
        else:
            self.register_buffer(name, value)

    @property
    def supports(self) -> tuple[Tensor, Tensor]:
        """Ends s and e of every function and input, shapes ``(K, in_features)``."""
        half = self.log_half_widths.clamp_min(_LEAST_LOG_WIDTH).exp()
        return self.centers - half, self.centers + half

    @property
    def flops_per_input(self) -> int:
        """Difference, scale, square, complement, relu and square for each function."""
        return 6 * self.num_functions

    def _inverse_half_widths(self, dtype: torch.dtype) -> Tensor:
        return self.log_half_widths.to(dtype).clamp_min(_LEAST_LOG_WIDTH).neg().exp()

    def planes(self, x: Tensor) -> Tensor:
        """All functions at all inputs: ``(..., in_features) -> (..., K, in_features)``."""
        z = (x.unsqueeze(-2) - self.centers.to(x.dtype)) * self._inverse_half_widths(x.dtype)
        return (1 - z.square()).relu().square()

    def plane_form(self) -> PlaneForm:
        """Centres and inverse half-widths of every input."""
        dtype = torch.promote_types(self.centers.dtype, torch.float32)
        numbers = torch.stack([self.centers.to(dtype), self._inverse_half_widths(dtype)], dim=1)
        return PlaneForm("relu-kan", table=numbers)

    def bind(
        self, in_features: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Self:
        """A fresh copy with one column of supports for each input."""
        bound = super().bind(in_features, device, dtype)
        for name in ("centers", "log_half_widths"):
            bound._set(name, getattr(bound, name).detach()[:, :1].repeat(1, in_features))
        return bound

    def extra_repr(self) -> str:
        """The arguments, for ``repr``."""
        return f"grid_size={self.grid_size}, order={self.order}, grid_range={self.domain}, trainable={self.trainable}"
