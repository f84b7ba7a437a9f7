"""What every family of univariate functions promises, and the registry that names them."""

from __future__ import annotations

import copy
from typing import Self

import torch
from torch import Tensor, nn

from kan_core.errors import KANError
from kan_core.ops.basis_linear.form import PlaneForm
from kan_core.registry import Registry

REGISTRY: Registry[Basis] = Registry("basis", "kan_core.bases")


class Basis(nn.Module):
    r"""K univariate functions φ₁ … φ_K, evaluated at every input feature and shared by all outputs.

    A family subclasses this, sets `num_functions` and implements :meth:`planes`. What it learns or adapts is

    - shared by all inputs: a parameter or buffer made in the constructor (RSWAF's centres), or
    - one per input: made in :meth:`bind` (the knots of :class:`BSpline`).

    An instance made by a user is a prototype: layers call :meth:`bind` and never change the prototype itself.

    Attributes:
        num_functions: K.
        domain: The interval where the family resolves functions; None where that is the whole line.
        adaptive: Whether :meth:`update_grid` can move the functions to the data.
        in_features: The number of inputs it is bound to, None for a prototype.

    Shape:
        - Input: ``(..., in_features)``
        - Output: ``(..., in_features, K)``, a view of plane-major memory ``(..., K, in_features)``

    Reference: the linear-in-coefficients form y_o = Σ_i Σ_k C[o,i,k] φ_k(x_i) that nearly every KAN shares.
    """

    num_functions: int
    domain: tuple[float, float] | None = None
    adaptive: bool = False

    def __init__(self) -> None:
        super().__init__()
        self.in_features: int | None = None

    def planes(self, x: Tensor) -> Tensor:
        """All functions at all inputs, one plane per function: ``(..., in_features) -> (..., K, in_features)``."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """All functions at all inputs: ``(..., in_features) -> (..., in_features, K)``."""
        return self.planes(x).transpose(-1, -2)

    def plane_form(self) -> PlaneForm | None:
        """These functions as the kernels of :func:`kan_core.ops.basis_linear` know them; None where there is no kernel.

        None also where the kernels have no gradient for a parameter. Only for an instance that is bound to inputs.
        """
        return None

    @property
    def flops_per_input(self) -> int:
        """Elementwise operations to evaluate all K functions at one number (exp, sin, cos count 1 each)."""
        return 4 * self.num_functions

    def bind(
        self, in_features: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Self:
        """A fresh copy for `in_features` inputs, with its own parameters and state.

        The type is torch's default unless said; a prototype keeps float64 state, so that a float64 layer is exact.
        """
        bound = copy.deepcopy(self)
        bound.in_features = in_features
        return bound.to(device=device, dtype=dtype or torch.get_default_dtype())

    def outside(self, x: Tensor) -> Tensor:
        """Boolean mask, shape of `x`: where an input lies outside :attr:`domain`."""
        if self.domain is None:
            return torch.zeros_like(x, dtype=torch.bool)
        return (x < self.domain[0]) | (x > self.domain[1])

    def update_grid(self, x: Tensor) -> None:
        """Move the functions to the data `x` of shape ``(samples, in_features)``; coefficients are the layer's care.

        Raises:
            KANError: When the family has nothing to adapt (:attr:`adaptive` is False).
        """
        raise KANError(f"{type(self).__name__} has no grid to update: choose an adaptive basis such as 'bspline'")

    def refine(self, grid_size: int) -> None:
        """Change the number of functions, keeping the domain (grid extension).

        Raises:
            KANError: When the family has no grid to extend.
        """
        raise KANError(f"{type(self).__name__} has no grid to refine: choose a basis with a grid such as 'bspline'")

    def fit_points(self) -> Tensor:
        """Points ``(points, in_features)`` that determine all coefficients, for least-squares refits."""
        raise KANError(f"{type(self).__name__} has no grid, so there is nothing to refit")


def check_interval(name: str, value: tuple[float, float]) -> tuple[float, float]:
    """`value` as an increasing pair of finite floats.

    Raises:
        KANError: When it is not one.
    """
    try:
        low, high = (float(v) for v in value)
    except (TypeError, ValueError):
        raise KANError(f"{name} must be two numbers (low, high), got {value!r}") from None
    if not (-float("inf") < low < high < float("inf")):
        raise KANError(f"{name} must be increasing and finite (low, high), got {value!r}")
    return low, high


def check_at_least(name: str, value: int, least: int) -> int:
    """`value` when it is a whole number of at least `least`.

    Raises:
        KANError: Otherwise.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise KANError(f"{name} must be a whole number of at least {least}, got {value!r}")
    return value


def check_positive(name: str, value: float) -> float:
    """`value` when it is a finite number above zero.

    Raises:
        KANError: Otherwise.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise KANError(f"{name} must be a finite number above zero, got {value!r}")
    return float(value)
