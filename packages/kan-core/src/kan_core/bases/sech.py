"""Hyperbolic secants at trainable centres (the basis of SechKAN)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from kan_core.bases._base import REGISTRY, Basis, check_at_least, check_interval, check_positive


@REGISTRY.register("sech")
class Sech(Basis):
    r"""Bells a sech((x − g_k)/w) + b at centres g_k, with one scale a, bias b and width w for all functions.

    Everything is shared by all inputs. The centres may cross while training; the functions do not sum to a constant.

    Equation: φ_k(x) = a sech((x − g_k)/w) + b

    Reference: SechKAN (All-KAN repository, July 2026).

    Avoids: the reference adds the K bells up before its matrix, one curve per input; here every edge has its own.

    Args:
        num_centers: K, at least 2.
        grid_range: First and last centre at the start.
        width: w at the start, learned as exp(log w); None keeps it 1.
        trainable: Learn centres, scale, bias and width instead of keeping them as buffers.

    Raises:
        KANError: For an argument out of its range.
    """

    def __init__(
        self,
        num_centers: int = 8,
        grid_range: tuple[float, float] = (-2.0, 2.0),
        width: float | None = None,
        trainable: bool = True,
    ) -> None:
        super().__init__()
        self.num_functions = check_at_least("num_centers", num_centers, 2)
        self.domain = low, high = check_interval("grid_range", grid_range)
        self.trainable = trainable
        self.centers: Tensor
        self.scale: Tensor
        self.bias: Tensor
        self.log_width: Tensor | None
        log_width = None if width is None else math.log(check_positive("width", width))
        state = {
            "centers": torch.linspace(low, high, num_centers, dtype=torch.float64),
            "scale": torch.tensor(1.0, dtype=torch.float64),
            "bias": torch.tensor(0.0, dtype=torch.float64),
            "log_width": None if log_width is None else torch.tensor(log_width, dtype=torch.float64),
        }
        for name, value in state.items():
            if trainable:
                self.register_parameter(name, None if value is None else nn.Parameter(value))
            else:
                self.register_buffer(name, value)

    @property
    def flops_per_input(self) -> int:
        """Difference, cosh (3), reciprocal, scale and bias for each function; the clamp and the width of x."""
        return 7 * self.num_functions + 1 + (self.log_width is not None)

    def planes(self, x: Tensor) -> Tensor:
        """All functions at all inputs: ``(..., in_features) -> (..., K, in_features)``."""
        scale, centers = self.scale.to(x.dtype), self.centers.to(x.dtype)
        if self.log_width is not None:
            inverse = torch.exp(-self.log_width.to(x.dtype))
            x, centers = x * inverse, centers * inverse
        # Both clamped, their difference has a finite cosh; sech is below 1e-17 there even in float32.
        far = 0.49 * math.log(torch.finfo(x.dtype).max)
        distance = x.clamp(-far, far).unsqueeze(-2) - centers.clamp(-far, far)[:, None]
        return torch.addcmul(self.bias.to(x.dtype), torch.cosh(distance).reciprocal(), scale)

    def extra_repr(self) -> str:
        """The arguments, for ``repr``."""
        width = None if self.log_width is None else round(self.log_width.exp().item(), 4)
        return f"num_centers={self.num_functions}, grid_range={self.domain}, width={width}, trainable={self.trainable}"
