"""The linear forecast in closed form: what every network here starts from, and is compared with."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from kan_core.errors import KANError


class RidgeForecast(nn.Module):
    r"""A linear map from the past to the horizon, fitted in closed form: one for all, and deviations for groups.

    Equation: ŷ = x (W + D_g), W = argmin Σ ‖y − x W‖² + λ ‖W‖² over all rows, D_g = argmin Σ_{rows of g} ‖y − x W − x
    D‖² + μ ‖D‖². x and y are relative to a center of the window (its last value: NLinear).

    Reference: ridge NLinear (LTSF-Linear, arXiv 2205.13504, solved instead of trained); deviations from a common line
    are our own.

    Args:
        input_length: L.
        horizon: H.
        groups: How many deviations; 0: all rows share W.
        penalty: λ, in squared units of the values.
        group_penalty: μ.

    Attributes:
        weight: Buffer ``(1 + groups, L, H)``: W, and W + D_g of each group.

    Shape:
        - Input: ``(B, C, L)`` and the group of each row, ``(B, C)``: -1, or no groups given, for W itself
        - Output: ``(B, C, H)``
    """

    weight: Tensor

    def __init__(
        self, input_length: int, horizon: int, groups: int = 0, penalty: float = 1e3, group_penalty: float = 1e3
    ) -> None:
        super().__init__()
        if penalty <= 0 or group_penalty <= 0:
            raise KANError(f"ridge penalties must be above 0, got {penalty} and {group_penalty}")
        self.groups, self.penalty, self.group_penalty = groups, penalty, group_penalty
        self.register_buffer("weight", torch.zeros(1 + groups, input_length, horizon))

    def forward(self, x: Tensor, group: Tensor | None = None) -> Tensor:
        """The line through ``(B, C, L)``; `group` is ``(B, C)``, of no use without groups."""
        if not self.groups or group is None:
            return x @ self.weight[0]
        if bool((group == group[:1]).all()):  # channels: every row of the batch has the same groups
            return torch.einsum("bcl,clh->bch", x, self.weight[1 + group[0]])
        return torch.einsum("bcl,bclh->bch", x, self.weight[1 + group])

    @torch.no_grad()
    def fit(self, batches: Iterable[tuple[Tensor, Tensor, Tensor]]) -> None:
        """Solve for the weights.

        Args:
            batches: x ``(B, C, L)``, y ``(B, C, H)`` with NaN where unknown (such rows are left out) and the group
                ``(B, C)``; gone through once, in float64, with the memory of one (L, L + H) matrix per group.
        """
        length, horizon = self.weight.shape[1:]
        moments = torch.zeros(max(self.groups, 1), length, length + horizon, dtype=torch.float64)
        for x, y, group in batches:
            rows = torch.cat([x, y], dim=-1).flatten(0, 1).double()
            of = group.flatten() if self.groups else torch.zeros(len(rows), dtype=torch.long)
            whole = rows.isfinite().all(dim=-1)
            for g in torch.unique(of[whole]).tolist():
                mine = rows[whole & (of == g)]
                moments[g] += mine[:, :length].T @ mine
        total = moments.sum(dim=0)
        shared = solve(total[:, :length], total[:, length:], self.penalty)
        self.weight[0] = shared.to(self.weight.dtype)
        for g, moment in enumerate(moments[: self.groups]):
            gram, cross = moment[:, :length], moment[:, length:]
            self.weight[1 + g] = (shared + solve(gram, cross - gram @ shared, self.group_penalty)).to(self.weight.dtype)


def solve(gram: Tensor, cross: Tensor, penalty: float) -> Tensor:
    """(G + λ I)⁻¹ B, by Cholesky in float64."""
    eye = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    return torch.cholesky_solve(cross, torch.linalg.cholesky(gram + penalty * eye))
