"""Scaling of windows: what brings every window to about the same size, and its output back."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from kan_core.errors import KANError

Scaler = Literal["last", "season", "standard", "robust", "identity"]


class WindowScaler(nn.Module):
    r"""Center and scale of each window, from its own values: reversible instance normalisation without an affine map.

    Equation: z = (x − c)/s, ŷ = c + s f(z): so f̂(a x + b) = a f̂(x) + b for a > 0, up to `eps`.

    Reference: RevIN (Kim et al., ICLR 2022), with c and s that can be chosen.

    Args:
        kind: What c and s are, per channel: ``"last"`` the last value and the standard deviation, ``"season"`` the mean
            of the last `season` steps and the standard deviation, ``"standard"`` the mean and the standard deviation
            (RevIN), ``"robust"`` the median and the range between the quartiles, ``"identity"`` 0 and 1.
        season: Steps of a period.
        eps: Added to the variance (or to the range), in the units of the values: what a constant window is divided by.

    Raises:
        KANError: For another kind.

    Shape:
        - Input: ``(B, L, C)``
        - Output: c and s, ``(B, 1, C)`` each
    """

    def __init__(self, kind: Scaler = "last", season: int = 1, eps: float = 1e-4) -> None:
        super().__init__()
        if kind not in get_args(Scaler):
            raise KANError(f"scaler must be one of {', '.join(get_args(Scaler))}, got {kind!r}")
        self.kind, self.season, self.eps = kind, season, eps

    def forward(self, past: Tensor) -> tuple[Tensor, Tensor]:
        """Center and scale of ``(B, L, C)`` windows."""
        if self.kind == "identity":
            return torch.zeros_like(past[:, :1]), torch.ones_like(past[:, :1])
        if self.kind == "robust":
            low, center, high = (past.quantile(q, dim=1, keepdim=True) for q in (0.25, 0.5, 0.75))
            return center, high - low + self.eps
        mean = past.mean(dim=1, keepdim=True)
        scale = ((past - mean).square().mean(dim=1, keepdim=True) + self.eps).sqrt()
        if self.kind == "last":
            return past[:, -1:], scale
        return (past[:, -self.season :].mean(dim=1, keepdim=True) if self.kind == "season" else mean), scale

    def extra_repr(self) -> str:
        """The arguments, for ``repr``."""
        return f"kind={self.kind!r}, season={self.season}"
