"""The plain KAN: a stack of fully connected KAN layers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from kan_core.bases import Basis
from kan_core.errors import KANError
from kan_core.layers import KANLinear


class KAN(nn.Module):
    r"""KAN [n_0, …, n_L]: x_{l+1,j} = Σ_i φ_{l,j,i}(x_{l,i}), one :class:`~kan_core.layers.KANLinear` per l.

    Args:
        widths: n_0, …, n_L, at least two numbers.
        basis: A :class:`~kan_core.bases.Basis` or its spec, for every layer.
        input_norm: Whether `norm`, when given among the layer arguments, also applies to the first layer.
        layer_kwargs: More arguments for every layer, such as ``base``, ``norm``, ``bias``, ``device``, ``dtype``.

    Raises:
        KANError: For fewer than two widths, or what a layer refuses.

    Shape:
        - Input: ``(..., n_0)``
        - Output: ``(..., n_L)``

    Example:
        >>> KAN([2, 5, 1], basis="bspline(grid_size=5)")(torch.zeros(100, 2)).shape
        torch.Size([100, 1])

    Reference: KAN (arXiv 2404.19756), section 2.2.
    """

    def __init__(
        self, widths: Sequence[int], basis: Basis | str = "bspline", *, input_norm: bool = True, **layer_kwargs: Any
    ) -> None:
        super().__init__()
        if len(widths) < 2:
            raise KANError(f"widths must name at least an input and an output size, got {list(widths)}")
        self.widths = list(widths)
        first = layer_kwargs if input_norm else {**layer_kwargs, "norm": None}
        self.layers = nn.ModuleList(
            KANLinear(n_in, n_out, basis, **(first if index == 0 else layer_kwargs))
            for index, (n_in, n_out) in enumerate(pairwise(widths))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., n_0)`` to ``(..., n_L)``."""
        for layer in self.layers:
            x = layer(x)
        return x

    @torch.no_grad()
    def update_grid(self, x: Tensor) -> None:
        """Fit every layer's grid to its input when the net sees `x` of shape ``(samples, n_0)``, front to back."""
        for layer in self._kan_layers():
            layer.update_grid(x)
            x = layer(x)

    def refine(self, grid_size: int) -> None:
        """Grid extension of every layer, functions kept; make the optimiser afterwards."""
        for layer in self._kan_layers():
            layer.refine(grid_size)

    def regularization(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """L1 and entropy, each summed over the layers, when the net sees `x` of shape ``(samples, n_0)``."""
        l1 = entropy = torch.zeros((), device=x.device, dtype=x.dtype)
        for layer in self._kan_layers():
            layer_l1, layer_entropy = layer.regularization(x)
            l1, entropy = l1 + layer_l1, entropy + layer_entropy
            x = layer(x)
        return l1, entropy

    def _kan_layers(self) -> list[KANLinear]:
        return [layer for layer in self.layers if isinstance(layer, KANLinear)]
