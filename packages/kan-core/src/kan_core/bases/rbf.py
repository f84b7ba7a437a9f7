"""Radial families on fixed centres: Gaussian (FastKAN, arXiv 2405.06721) and reflectional switch (FasterKAN)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from kan_core.bases._base import REGISTRY, Basis, check_at_least, check_interval, check_positive
from kan_core.ops.basis_linear.form import PlaneForm


class _Radial(Basis):
    """Shared by both: `num_centers` centres over `grid_range`, and a width that defaults to their spacing."""

    family: ClassVar[str | None] = None  # that kernels know

    def __init__(
        self,
        num_centers: int = 8,
        grid_range: tuple[float, float] = (-2.0, 2.0),
        width: float | None = None,
        trainable: bool = False,
    ) -> None:
        super().__init__()
        self.num_functions = check_at_least("num_centers", num_centers, 2)
        self.domain = low, high = check_interval("grid_range", grid_range)
        spacing = (high - low) / (num_centers - 1)
        h = spacing if width is None else check_positive("width", width)
        self.centers: Tensor
        self.inverse_width: Tensor
        state = {
            "centers": torch.linspace(low, high, num_centers, dtype=torch.float64),
            "inverse_width": torch.tensor(1 / h, dtype=torch.float64),
        }
        for name, value in state.items():
            if trainable:
                self.register_parameter(name, nn.Parameter(value))
            else:
                self.register_buffer(name, value)

    def _scaled(self, x: Tensor) -> Tensor:
        """(x − g) / h for every centre: ``(..., K, in)``, in one pass over that many numbers."""
        scale = self.inverse_width.to(x.dtype)
        return (x * scale).unsqueeze(-2) - (self.centers.to(x.dtype) * scale)[:, None]

    def plane_form(self) -> PlaneForm | None:
        """Centres and inverse widths, shared by all inputs."""
        if self.family is None:
            return None
        numbers = torch.stack([self.centers, self.inverse_width.expand_as(self.centers)], dim=1)
        return PlaneForm(self.family, table=numbers.unsqueeze(-1))

    def extra_repr(self) -> str:
        """The arguments, for ``repr``."""
        return (
            f"num_centers={self.num_functions}, grid_range={self.domain}, width={1 / self.inverse_width.item():.4g}, "
            f"trainable={isinstance(self.centers, nn.Parameter)}"
        )


@REGISTRY.register("rbf")
class GaussianRBF(_Radial):
    r"""Gaussians φ_g(x) = exp(−((x − g)/h)²) on evenly spaced centres g.

    Inside the range they sum to √π (ripple 1e-4) when h is the spacing, so they are a smooth stand-in for cubic
    B-splines. They have no adaptive grid: normalise the inputs instead (``norm="layer"``, as FastKAN does).

    Equation: φ_k(x) = exp(−((x − g_k)/h)²)

    Reference: FastKAN (2405.06721).

    Avoids: the reference's LayerNorm makes a single input feature 0; our layers leave one feature as it is.

    Args:
        num_centers: K, at least 2.
        grid_range: First and last centre.
        width: h; None for the spacing of the centres.
        trainable: Learn the centres and the width (shared by all inputs) instead of keeping them as buffers.

    Raises:
        KANError: For an argument out of its range.
    """

    family = "rbf"

    @property
    def flops_per_input(self) -> int:
        """Difference, scale, square, sign and exp for each function."""
        return 5 * self.num_functions

    def planes(self, x: Tensor) -> Tensor:
        """All functions at all inputs: ``(..., in_features) -> (..., K, in_features)``."""
        return torch.exp(-self._scaled(x).square())


@REGISTRY.register("rswaf")
class RSWAF(_Radial):
    r"""Reflectional switch activations φ_g(x) = 1 − tanh²((x − g)/h) on evenly spaced centres g.

    With h equal to the spacing they sum to 2 inside the range (ripple 0.6 %). FasterKAN uses ``num_centers=8,
    grid_range=(-1.2, 0.2), width=2`` after a LayerNorm, without a base branch.

    Equation: φ_k(x) = 1 − tanh²((x − g_k)/h)

    Reference: FasterKAN (repository AthanasiosDelis/faster-kan).

    Avoids: the reference's own backward has a factor 1/h that its forward lacks, so its gradients are wrong.

    Args:
        num_centers: K, at least 2.
        grid_range: First and last centre.
        width: h; None for the spacing of the centres.
        trainable: Learn the centres and the width (shared by all inputs) instead of keeping them as buffers.

    Raises:
        KANError: For an argument out of its range.
    """

    family = "rswaf"

    @property
    def flops_per_input(self) -> int:
        """Difference, scale, tanh (6), square and complement for each function."""
        return 10 * self.num_functions

    def planes(self, x: Tensor) -> Tensor:
        """All functions at all inputs: ``(..., in_features) -> (..., K, in_features)``."""
        return 1 - torch.tanh(self._scaled(x)).square()
