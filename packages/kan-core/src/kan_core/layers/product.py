"""Product nodes after a KAN layer (MultKAN, KAN 2.0)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from itertools import groupby

import torch
from torch import Tensor, nn

from kan_core.bases import Basis
from kan_core.errors import KANError
from kan_core.layers._common import at_least_float32, check_sizes
from kan_core.layers._norm import Norm
from kan_core.layers._registry import register
from kan_core.layers.linear import KANLinear


@register("multkan")
class MultKANLinear(nn.Module):
    r"""A KAN layer some of whose outputs multiply: node m is the product of the next a_m sub-nodes of one KANLinear.

    The sub-nodes are the outputs s = KANLinear(x). The first out_features − products of them are the sum nodes. The
    sub-nodes after them are cut into consecutive blocks, one for each product node, whose factors they are. A product
    of arity 1 is a sum node.

    Equation: y_o = s_o for sum nodes, y_{n_s+m} = Π_{f in block m} s_f, s_f(x) = Σ_i φ_{f,i}(x_i)

    Reference: KAN 2.0 (arXiv 2408.10205), MultKAN.

    Avoids: the wrong stride with which the reference's formulas pick the factors of two products of arity 3 (its issue
    404); here one list of owners serves the forward pass, attribution and pruning.

    Args:
        in_features: Size of each input sample.
        out_features: Number of nodes, sums and products together.
        products: How many of them are products, the last ones; None for half of them, rounded down.
        arity: Factors of every product node, or one number for each.
        affine: Learn a scale and a constant of every sub-node and of every node (KAN 2.0's affines, which it too
            leaves at identity unless asked). The constants of the sub-nodes then double `bias`.
        basis: As in :class:`KANLinear`, like all that follow.
        base: The base branch's function, or None.
        norm: Normalisation of the basis's input, or None.
        bias: Add one constant per sub-node.
        edge_scale: Learn one more factor per edge on its basis part.
        init_scale: Standard deviation of the basis part of a sub-node at the start.
        backend: How a uniform B-spline layer is computed.
        device: Where parameters and grids live.
        dtype: Type of parameters and grids.

    Raises:
        KANError: For more products than outputs, an arity below 1, or what :class:`KANLinear` refuses.

    Attributes:
        inner: The KANLinear whose outputs are the sub-nodes: edge functions are read there.
        arities: One number for each product node.

    Shape:
        - Input: ``(..., in_features)``
        - Output: ``(..., out_features)``, sums first

    Parameters: those of a KANLinear with out_features − products + Σ arity outputs, + 2 for each of those and each
    node with affine. With products = 0 and no affine it is that KANLinear.

    Example:
        >>> MultKANLinear(2, 3, products=1, arity=2).inner.out_features  # two sums and two factors
        4
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        products: int | None = None,
        arity: int | Sequence[int] = 2,
        affine: bool = False,
        basis: Basis | str = "bspline",
        base: str | None = "silu",
        norm: Norm | None = None,
        bias: bool = True,
        edge_scale: bool = False,
        init_scale: float | None = None,
        backend: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_sizes(in_features, out_features)
        products = out_features // 2 if products is None else products
        if not 0 <= products <= out_features:
            raise KANError(f"products must lie between 0 and out_features = {out_features}, got {products}")
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.arities = _check_arities(arity, products)
        subnodes = self.sums + sum(self.arities)
        self.inner = KANLinear(
            in_features,
            subnodes,
            basis,
            base=base,
            norm=norm,
            bias=bias,
            edge_scale=edge_scale,
            init_scale=init_scale,
            backend=backend,
            device=device,
            dtype=dtype,
        )
        sizes = {"subnode": subnodes, "node": out_features} if affine else {"subnode": None, "node": None}
        self.subnode_affine = _identity(sizes["subnode"], device, dtype)
        self.node_affine = _identity(sizes["node"], device, dtype)

    @property
    def products(self) -> int:
        """Number of product nodes, the last outputs."""
        return len(self.arities)

    @property
    def sums(self) -> int:
        """Number of sum nodes, the first outputs."""
        return self.out_features - len(self.arities)

    @property
    def owners(self) -> list[int]:
        """For each sub-node, the node that it is or is a factor of."""
        return [*range(self.sums), *(self.sums + m for m, arity in enumerate(self.arities) for _ in range(arity))]

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw new weights from torch's global generator; affines become the identity again."""
        self.inner.reset_parameters()
        for affine in (self.subnode_affine, self.node_affine):
            if affine is not None:
                affine[0].fill_(1.0)
                affine[1].zero_()

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., in_features)`` to ``(..., out_features)``."""
        y: Tensor = self.inner(x)
        nodes = _affine(at_least_float32(y), self.subnode_affine)
        if self.arities:
            nodes = torch.cat([nodes[..., : self.sums], *_multiply(nodes[..., self.sums :], self.arities)], dim=-1)
        return _affine(nodes, self.node_affine).to(y.dtype)

    def update_grid(self, x: Tensor) -> None:
        """Fit the grid to the layer input `x`, functions kept, see :meth:`KANLinear.update_grid`."""
        self.inner.update_grid(x)

    def refine(self, grid_size: int) -> None:
        """Grid extension, functions kept, see :meth:`KANLinear.refine`."""
        self.inner.refine(grid_size)

    def regularization(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """L1 and entropy of the edges into the sub-nodes, see :meth:`KANLinear.regularization`."""
        return self.inner.regularization(x)

    def extra_repr(self) -> str:
        """The arguments, for ``repr``."""
        arity = self.arities[0] if len(set(self.arities)) == 1 else self.arities
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, products={self.products}, "
            f"arity={arity}, affine={self.node_affine is not None}"
        )


def edges_and_owners(layer: KANLinear | MultKANLinear) -> tuple[KANLinear, list[int]]:
    """The KANLinear that holds a layer's edges, and for each of its outputs the node that it belongs to."""
    if isinstance(layer, MultKANLinear):
        return layer.inner, layer.owners
    return layer, list(range(layer.out_features))


def _check_arities(arity: int | Sequence[int], products: int) -> tuple[int, ...]:
    arities = (arity,) * products if isinstance(arity, int) else tuple(arity)
    if len(arities) != products:
        raise KANError(f"arity must be one number or one for each of the {products} product nodes, got {arity!r}")
    if any(a < 1 for a in (*arities, arity if isinstance(arity, int) else 1)):
        raise KANError(f"arity must be at least 1, got {arity!r}")
    return arities


def _identity(size: int | None, device: torch.device | str | None, dtype: torch.dtype | None) -> nn.Parameter | None:
    """Scale and constant of `size` numbers, shape ``(2, size)``, at the identity."""
    if size is None:
        return None
    ones = torch.ones(size, device=device, dtype=dtype)
    return nn.Parameter(torch.stack([ones, torch.zeros_like(ones)]))


def _affine(x: Tensor, affine: Tensor | None) -> Tensor:
    return x if affine is None else x * affine[0] + affine[1]


def _multiply(factors: Tensor, arities: Sequence[int]) -> list[Tensor]:
    """Products of consecutive blocks ``(..., Σ a) -> (..., nodes)``, one tensor for each run of equal arities.

    Chained products, not ``torch.prod``: its gradient looks at the data for zeros, here it is the product rule.
    """
    runs = [(arity, len(list(group))) for arity, group in groupby(arities)]
    blocks = torch.split(factors, [arity * nodes for arity, nodes in runs], dim=-1)
    return [
        reduce(torch.mul, torch.unflatten(block, -1, (nodes, arity)).unbind(-1))
        for block, (arity, nodes) in zip(blocks, runs, strict=True)
    ]
