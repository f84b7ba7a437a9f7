"""Learned activations of a whole layer: TabKAN's node functions, and one B-spline for each unit."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kan_core.bases import BSpline
from kan_core.bases._base import check_at_least
from kan_core.errors import KANError
from kan_core.layers import JacobiRKAN
from kan_core.layers._activated import Activation
from kan_core.layers._common import at_least_float32
from kan_core.layers.rkan import jacobi
from kan_core.registry import parse_spec

PLAIN = {"relu": nn.ReLU, "silu": nn.SiLU, "gelu": nn.GELU}
"""The activations that learn nothing."""

LEAST_Q = 0.1
"""The denominator of `PadeRKAN` is held at this."""


def make_activation(spec: str, units: int) -> nn.Module:
    """An activation for a layer of so many units.

    Args:
        spec: ``"relu"``, ``"silu"`` or ``"gelu"``; ``"spline"`` (`UnitSpline`), ``"fractional-jacobi"``
            (`FractionalJacobi`), ``"rational-jacobi"`` (`kan_core.layers.JacobiRKAN`) or ``"pade"`` (`PadeRKAN`), with
            arguments where there are any: ``"rational-jacobi(degree=4)"``.
        units: Units of the layer.

    Raises:
        KANError: For an unknown name, or arguments that do not fit.
    """
    name, arguments = parse_spec(spec, kind="activation")
    learned: dict[str, Callable[..., nn.Module]] = {
        "spline": lambda **kwargs: UnitSpline(units, **kwargs),
        "fractional-jacobi": FractionalJacobi,
        "rational-jacobi": JacobiRKAN,
        "pade": PadeRKAN,
    }
    factories: dict[str, Callable[..., nn.Module]] = {**PLAIN, **learned}
    if name not in factories:
        raise KANError(f"unknown activation {name!r}: choose one of {', '.join(factories)}")
    try:
        return factories[name](**arguments)
    except TypeError as error:
        raise KANError(f"activation {spec!r}: {error}") from None


class _Fractional(nn.Module):
    """Jacobi polynomials P_d^(α,β)(2 z^γ - 1) of z = sigmoid(x), with α, β > -1 and γ in (0, 1) learned.

    α and β come from an ELU, which keeps them above -0.999, and γ from a sigmoid; they start at 1, 1 and 1/2. z^γ is
    exp(γ log sigmoid(x)), whose slope in x is finite everywhere, though that of z^γ in z is not at 0.
    """

    def __init__(self) -> None:
        super().__init__()
        self.raw_alpha, self.raw_beta, self.raw_gamma = (nn.Parameter(torch.empty(())) for _ in range(3))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        self.raw_alpha.fill_(1.0)
        self.raw_beta.fill_(1.0)
        self.raw_gamma.fill_(0.0)

    def forward(self, x: Tensor, degrees: range) -> list[Tensor]:
        """The polynomials of these degrees, each of the shape of `x`."""
        alpha, beta = (F.elu(at_least_float32(raw), alpha=0.999) for raw in (self.raw_alpha, self.raw_beta))
        gamma = torch.sigmoid(at_least_float32(self.raw_gamma))
        u = 2 * torch.exp(gamma * F.logsigmoid(x)) - 1
        return [jacobi(degree, alpha, beta, u) for degree in degrees]


class FractionalJacobi(Activation):
    r"""fKAN's activation F(x) = P_d^(α,β)(2 σ(x)^γ - 1): one fractional Jacobi function for all units of a layer.

    Not a function for each edge: a network with it is an MLP with three more numbers per layer.

    Args:
        degree: d, at least 1.

    Raises:
        KANError: When `degree` is below 1.

    Shape:
        - Input: any
        - Output: the same

    Parameters: 3, from α = β = 1 and γ = 1/2.

    Reference: fKAN (arXiv 2406.07456), as TabKAN (arXiv 2504.06559) uses it.
    """

    def __init__(self, degree: int = 3) -> None:
        super().__init__()
        self.degree = check_at_least("degree", degree, 1)
        self.functions = _Fractional()

    def reset_parameters(self) -> None:
        """α = β = 1, γ = 1/2; nothing is drawn."""
        self.functions.reset_parameters()

    def evaluate(self, x: Tensor) -> Tensor:
        """F at `x`, float32 or float64, any shape."""
        return self.functions(x, range(self.degree, self.degree + 1))[0]  # type: ignore[no-any-return]

    def elementwise_flops(self, numel: int) -> int:
        """The map (log-sigmoid, power; 8) and the recurrence for each of `numel` numbers."""
        return numel * (10 + 6 * (self.degree - 1))

    def extra_repr(self) -> str:
        """The arguments, for ``repr``."""
        return f"degree={self.degree}"


class PadeRKAN(Activation):
    r"""rKAN's Padé activation F(x) = P(z)/max(Q(z), 0.1), z = σ(x): one rational function for all units of a layer.

    P(z) = w_0 + w_1 z + Σ_{2≤d<n} w_d P_d^(α,β)(2 z^γ - 1), and Q likewise with numbers of its own. The reference has
    no guard: there Q may cross zero on the data. Here Q is held at 0.1 where it falls below, so |F| ≤ 10 |P|; wherever
    Q ≥ 0.1 the functions are the same, and numerator and denominator may change sign together.

    Not a function for each edge: a network with it is an MLP with a few more numbers per layer.

    Args:
        numerator: n of P: its number of coefficients, at least 3 (the degree is n - 1, as in the reference, which fails
            for 1; with 2 no polynomial would be left).
        denominator: n of Q, at least 3.

    Raises:
        KANError: When one is below 3.

    Shape:
        - Input: any
        - Output: the same

    Parameters: 6 + numerator + denominator: the coefficients from 1, α = β = 1 and γ = 1/2.

    Reference: rKAN (arXiv 2406.14495), its Padé form, as TabKAN (arXiv 2504.06559) uses it.
    """

    def __init__(self, numerator: int = 4, denominator: int = 3) -> None:
        super().__init__()
        self.above = nn.Parameter(torch.empty(check_at_least("numerator", numerator, 3)))
        self.below = nn.Parameter(torch.empty(check_at_least("denominator", denominator, 3)))
        self.above_functions, self.below_functions = _Fractional(), _Fractional()
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """All coefficients 1, α = β = 1, γ = 1/2; nothing is drawn."""
        self.above.fill_(1.0)
        self.below.fill_(1.0)
        self.above_functions.reset_parameters()
        self.below_functions.reset_parameters()

    def numerator(self, x: Tensor) -> Tensor:
        """P at σ(`x`)."""
        return _series(self.above, self.above_functions, x)

    def denominator(self, x: Tensor) -> Tensor:
        """Q at σ(`x`), before it is held."""
        return _series(self.below, self.below_functions, x)

    def evaluate(self, x: Tensor) -> Tensor:
        """F at `x`, float32 or float64, any shape."""
        return self.numerator(x) / self.denominator(x).clamp_min(LEAST_Q)

    def elementwise_flops(self, numel: int) -> int:
        """The sigmoid (4), both maps (10 each), the recurrences and sums, and the quotient, for each number."""
        terms = sum(6 * (n - 2) + 2 * n for n in (len(self.above), len(self.below)))
        return numel * (24 + terms + 2)

    def extra_repr(self) -> str:
        """The arguments, for ``repr``."""
        return f"numerator={len(self.above)}, denominator={len(self.below)}"


def _series(weights: Tensor, functions: _Fractional, x: Tensor) -> Tensor:
    w = at_least_float32(weights)
    total = torch.addcmul(w[0], w[1], torch.sigmoid(x))
    for weight, values in zip(w[2:], functions(x, range(2, len(w))), strict=True):
        total = torch.addcmul(total, weight, values)
    return total


class UnitSpline(Activation):
    r"""F_u(x) = Σ_k C[u, k] B_k(x): a learned B-spline for each unit, as in the fair comparison's ablation.

    There such an MLP closes the gap to a KAN on symbolic tasks, and helps nowhere else. How it starts is not stated;
    here every unit starts as the least-squares fit of SiLU on the grid, and goes on along its tangents beyond.

    Args:
        units: Size of the last dimension.
        grid_size: Intervals G.
        order: Polynomial degree k.
        grid_range: The grid's ends; inputs of a unit lie mostly inside (-3, 3).

    Raises:
        KANError: For an argument out of its range.

    Shape:
        - Input: ``(..., units)``
        - Output: the same

    Parameters: units · (G + k).

    Reference: Yu, Yu, Wang, "KAN or MLP: A Fairer Comparison" (arXiv 2407.16674).
    """

    def __init__(
        self, units: int, grid_size: int = 5, order: int = 3, grid_range: tuple[float, float] = (-3.0, 3.0)
    ) -> None:
        super().__init__()
        self.basis = BSpline(grid_size, order, grid_range, edge="linear").bind(units)
        self.coefficients = nn.Parameter(torch.empty(self.basis.num_functions, units))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """The least-squares fit of SiLU; nothing is drawn."""
        if self.coefficients.is_meta:
            return
        points = self.basis.fit_points()[:, :1]
        values = BSpline(self.basis.grid_size, self.basis.order, self._ends, edge="linear").planes(points)[..., 0]
        self.coefficients.copy_(torch.linalg.lstsq(values, F.silu(points)).solution.expand_as(self.coefficients))

    @property
    def _ends(self) -> tuple[float, float]:
        return float(self.basis.grid[0, 0]), float(self.basis.grid[0, -1])

    def evaluate(self, x: Tensor) -> Tensor:
        """F at `x`, float32 or float64: ``(..., units)`` to the same shape."""
        planes = self.basis.planes(x)
        return (planes * self.coefficients.to(planes.dtype)).sum(dim=-2)

    def elementwise_flops(self, numel: int) -> int:
        """The basis, and a multiply-add for each function, for each of `numel` numbers."""
        return numel * (self.basis.flops_per_input + 2 * self.basis.num_functions)

    def extra_repr(self) -> str:
        """The size, for ``repr``."""
        return f"units={self.coefficients.shape[1]}"


def activations(spec: str | Sequence[str], sizes: list[int]) -> nn.ModuleList:
    """One activation for each hidden layer: `spec` for all, or one of each.

    Raises:
        KANError: For another number of specs than hidden layers, and as `make_activation`.
    """
    specs = [spec] * len(sizes) if isinstance(spec, str) else list(spec)
    if len(specs) != len(sizes):
        raise KANError(f"activation has {len(specs)} entries for {len(sizes)} hidden layers")
    return nn.ModuleList(make_activation(one, size) for one, size in zip(specs, sizes, strict=True))
