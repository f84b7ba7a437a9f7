"""What the polynomial families share: a degree, a squash into their domain, and the three-term recurrence."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Self

import torch
from torch import Tensor

from kan_core.bases._base import Basis, check_at_least
from kan_core.errors import KANError
from kan_core.ops.basis_linear.form import PlaneForm


class Polynomial(Basis):
    r"""Polynomials p_0 … p_degree of u = squash(x); K = degree + 1.

    Args:
        degree: Highest degree, at least 1.
        squash: Map the inputs into the family's domain. Without it they must already lie there.

    Attributes:
        interval: The domain without a squash; None for the whole line.
        squash_flops: Operations of :meth:`argument` for one input.

    Raises:
        KANError: When `degree` is below 1.
    """

    interval: ClassVar[tuple[float, float] | None] = (-1.0, 1.0)
    squash_flops: ClassVar[int] = 6

    def __init__(self, degree: int, squash: bool) -> None:
        super().__init__()
        self.degree = check_at_least("degree", degree, 1)
        self.squash = squash
        self.num_functions = degree + 1
        self.domain = None if squash else self.interval

    def argument(self, x: Tensor) -> Tensor:
        """u, shape of `x`: tanh(x), or x itself without a squash."""
        return torch.tanh(x) if self.squash else x

    def extra_repr(self) -> str:
        """The arguments, for ``repr``."""
        return f"degree={self.degree}, squash={self.squash}"


class ThreeTerm(Polynomial):
    r"""Polynomials by their recurrence: p_0 = 1, p_1 = a_0 u + b_0, p_{n+1} = (a_n u + b_n) p_n − c_n p_{n−1}.

    Attributes:
        middle: The middle of the squashed arguments, u = middle + tanh(x).
    """

    middle: ClassVar[float] = 0.0

    def __init__(self, degree: int, squash: bool) -> None:
        super().__init__(degree, squash)
        self.table: Tensor  # (degree + 1, 3, 1): a_n, b_n and c_n, for the kernels; filled when bound to inputs
        self.register_buffer("table", torch.empty(degree + 1, 3, 1), persistent=False)

    def recurrence(self, n: int) -> tuple[float, float, float | Tensor]:
        """a_n, b_n and c_n for n in 0 … degree − 1; c_0 is not used. A learned c_n is a tensor without dimensions."""
        raise NotImplementedError

    @property
    def flops_per_input(self) -> int:
        """The squash, and the products and sums of every step; a factor 1 and a shift 0 are not counted."""
        a, b, _ = self.recurrence(0)
        total = self.squash_flops * self.squash + (a != 1) + (b != 0)
        for n in range(1, self.degree):
            a, b, c = self.recurrence(n)
            total += 2 + (a != 1) + 2 * (b != 0) + (isinstance(c, Tensor) or c != 1)
        return total

    def planes(self, x: Tensor) -> Tensor:
        """All functions at all inputs: ``(..., in_features) -> (..., K, in_features)``."""
        u = self.argument(x)
        a, b, _ = self.recurrence(0)
        p = [torch.ones_like(u), u if (a, b) == (1, 0) else a * u + b]
        for n in range(1, self.degree):
            a, b, c = self.recurrence(n)
            # two passes over memory, three with a shift
            following = torch.addcmul(p[-2] * -c, u, p[-1], value=a)
            p.append(torch.add(following, p[-1], alpha=b) if b else following)
        return torch.stack(p, dim=-2)

    def plane_form(self) -> PlaneForm | None:
        """The recurrence's factors; None when they are learned, for which the kernels have no gradient."""
        if self._learned():
            return None
        if self.squash:
            return PlaneForm("polynomial-tanh", offset=self.middle, table=self.table)
        return PlaneForm("polynomial", table=self.table)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        # made again, not cast: also in a module of half precision the factors keep their digits
        if not self._learned():
            rows = [*map(self.recurrence, range(self.degree)), (0.0, 0.0, 0.0)]  # the last degree has no next one
            dtype = torch.promote_types(self.table.dtype, torch.float32)
            self.table = torch.tensor(rows, dtype=dtype, device=self.table.device).unsqueeze(-1)
        return self

    def _learned(self) -> bool:
        return any(isinstance(self.recurrence(n)[2], Tensor) for n in range(1, self.degree))


def check_above(name: str, value: float, bound: float) -> float:
    """`value` as a float when it is a finite number above `bound`.

    Raises:
        KANError: Otherwise.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not bound < value < float("inf"):
        raise KANError(f"{name} must be a finite number above {bound:g}, got {value!r}")
    return float(value)
