"""The plain KAN: a stack of fully connected KAN layers, with product nodes where they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from kan_core.bases import Basis
from kan_core.errors import KANError
from kan_core.layers import KANLinear
from kan_core.layers.product import MultKANLinear

Width = int | Sequence[int]
"""n sum nodes, or a pair of n_s sum nodes and n_m product nodes."""


class KAN(nn.Module):
    r"""KAN [n_0, …, n_L]: x_{l+1,j} = Σ_i φ_{l,j,i}(x_{l,i}), one :class:`~kan_core.layers.KANLinear` per l.

    Args:
        widths: n_0, …, n_L, at least two entries. An entry ``[n_s, n_m]`` stands for n_s sum nodes and n_m product
            nodes after them (MultKAN); its layer is a :class:`~kan_core.layers.product.MultKANLinear`.
        basis: A :class:`~kan_core.bases.Basis` or its spec, for every layer.
        mult_arity: Factors of every product node; or for each layer a number or one number per product node.
        input_norm: Whether `norm`, when given among the layer arguments, also applies to the first layer.
        layer_kwargs: More arguments for every layer, such as ``base``, ``norm``, ``bias``, ``device``, ``dtype``.

    Raises:
        KANError: For fewer than two widths, an entry that is no width, product nodes among the inputs, or what a layer
            refuses.

    Shape:
        - Input: ``(..., n_0)``
        - Output: ``(..., n_L)``

    Example:
        >>> KAN([2, 5, 1], basis="bspline(grid_size=5)")(torch.zeros(100, 2)).shape
        torch.Size([100, 1])
        >>> KAN([2, [5, 2], 1])(torch.zeros(100, 2)).shape  # five sums and two products
        torch.Size([100, 1])

    Reference: KAN (arXiv 2404.19756), section 2.2; product nodes: KAN 2.0 (arXiv 2408.10205).
    """

    def __init__(
        self,
        widths: Sequence[Width],
        basis: Basis | str = "bspline",
        *,
        mult_arity: int | Sequence[int | Sequence[int]] = 2,
        input_norm: bool = True,
        **layer_kwargs: Any,
    ) -> None:
        super().__init__()
        if len(widths) < 2:
            raise KANError(f"widths must name at least an input and an output size, got {list(widths)}")
        self.widths = [list(width) if isinstance(width, Sequence) else width for width in widths]
        nodes = [sum(_sums_and_products(width)) for width in self.widths]
        if _sums_and_products(self.widths[0])[1]:
            raise KANError(f"the first entry of widths are the inputs and has no product nodes, got {widths[0]}")
        arities = [mult_arity] * (len(nodes) - 1) if isinstance(mult_arity, int) else list(mult_arity)
        if len(arities) != len(nodes) - 1:
            raise KANError(f"mult_arity must be one number or one entry for each of the {len(nodes) - 1} layers")
        self.layers = nn.ModuleList()
        for index, ((n_in, n_out), width, arity) in enumerate(
            zip(pairwise(nodes), self.widths[1:], arities, strict=True)
        ):
            kwargs = layer_kwargs if input_norm or index > 0 else {**layer_kwargs, "norm": None}
            if isinstance(width, Sequence):
                layer = MultKANLinear(n_in, n_out, products=width[1], arity=arity, basis=basis, **kwargs)
                self.layers.append(layer)
            else:
                self.layers.append(KANLinear(n_in, n_out, basis, **kwargs))

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

    def _kan_layers(self) -> list[KANLinear | MultKANLinear]:
        """:attr:`layers`, with the type that they have."""
        return [layer for layer in self.layers if isinstance(layer, KANLinear | MultKANLinear)]


def _sums_and_products(width: Width) -> tuple[int, int]:
    """n_s and n_m of one entry of `widths`."""
    pair = tuple(width) if isinstance(width, Sequence) else (width, 0)
    if len(pair) != 2 or min(pair) < 0 or sum(pair) < 1:
        raise KANError(f"an entry of widths must be a number of nodes or a pair [sums, products], got {width!r}")
    return pair
