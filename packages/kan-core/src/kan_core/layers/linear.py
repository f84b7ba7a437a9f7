"""The fully connected KAN layer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from kan_core.bases import Basis, BSpline
from kan_core.errors import KANError
from kan_core.layers._base import KANLayer
from kan_core.layers._common import check_input, check_sizes, matmul
from kan_core.layers._norm import Norm
from kan_core.ops import bspline_linear
from kan_core.ops.basis_linear import basis_linear


class KANLinear(KANLayer):
    r"""A layer whose edges are learned univariate functions: y_o = Σ_i φ_{o,i}(x_i) + bias_o.

    φ_{o,i}(x) = Σ_k C[o,i,k] basis_k(z) + W_b[o,i] b(x), z = norm(x). It takes the place of ``nn.Linear`` *and* of the
    activation before it: stack it without activations.

    Args:
        in_features: Size of each input sample.
        out_features: Size of each output sample.
        basis: A :class:`~kan_core.bases.Basis` or a spec such as ``"bspline(grid_size=8)"``.
        base: The base branch's function b: ``"silu"``, ``"identity"``, ``"relu"``, ``"gelu"``, ``"elu"``, ``"tanh"``,
            ``"prelu"`` (one slope for the layer, learned from 0.25), or None.
        norm: Normalise the basis's input (the base branch sees x itself): ``"layer"`` over the features, ``"batch"``
            over the samples, or None.
        bias: Add one constant per output.
        edge_scale: Learn one more factor per edge on its basis part (efficient-kan's standalone scaler).
        init_scale: Standard deviation of the basis part of an output at the start, see :meth:`reset_parameters`.
        backend: How the layer is computed, see :data:`kan_core.ops.BACKENDS`: :func:`kan_core.ops.bspline_linear` for
            a uniform B-spline, :func:`kan_core.ops.basis_linear` for other bases that have kernels. The rest is plain
            torch, and takes "auto" and "reference" only.
        device: Where parameters and grids live.
        dtype: Type of parameters and grids.

    Raises:
        KANError: For an unknown basis, base, norm or backend, or an input of another size.

    Shape:
        - Input: ``(..., in_features)``
        - Output: ``(..., out_features)``
        - weight: ``(K + 1, in_features, out_features)``, plane-major; K planes without a base branch

    Parameters: in · out · (K + 1) with a base branch, + in · out with edge_scale, + out with bias, + 2 in with norm,
    + 1 with base "prelu".

    Example:
        >>> KANLinear(64, 32, basis="bspline(grid_size=5, order=3)")(torch.zeros(10, 64)).shape
        torch.Size([10, 32])

    References: KAN (arXiv 2404.19756); in one matrix product as efficient-kan does.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        basis: Basis | str = "bspline",
        *,
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
        super().__init__(
            in_features,
            out_features,
            basis=basis,
            base=base,
            norm=norm,
            bias=bias,
            edge_scale=edge_scale,
            init_scale=init_scale,
            weight_shape=lambda planes: (planes, in_features, out_features),
            device=device,
            dtype=dtype,
        )
        self.in_features = in_features
        self.out_features = out_features
        self.backend = backend
        self.reset_parameters()

    @property
    def fan_in(self) -> int:
        """How many edges end in one output."""
        return self.in_features

    def as_planes(self, tensor: Tensor) -> Tensor:
        """The weight's layout already is ``(planes, in_features, out_features)``."""
        return tensor

    def from_planes(self, planes: Tensor) -> Tensor:
        """The weight's layout already is ``(planes, in_features, out_features)``."""
        return planes

    def as_rows(self, x: Tensor) -> Tensor:
        """``(..., in_features) -> (samples, in_features)``."""
        return x.reshape(-1, self.in_features)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., in_features)`` to ``(..., out_features)``."""
        check_input(x, self.in_features)
        weight = self.effective_weight()
        op = self._op()
        # A SiLU base branch that sees the same input is one more plane.
        fused = op is not None and self.norm is None and self.base in (None, "silu")
        coefficients, base = (weight, None) if fused else self._split(weight)
        z = self._normalised(x)
        if op is not None:
            y = op(z, coefficients, silu=fused and self.base is not None, backend=self.backend)
        elif self.backend in ("auto", "reference"):
            y = matmul(self._planes(z).flatten(-2), coefficients.flatten(0, 1))
        else:
            raise KANError(f"backend is {self.backend!r}, but there is no kernel for {self.basis!r}; use 'auto'")
        if base is not None:
            y = y + matmul(self._base(x), base[0])
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def _op(self) -> Callable[..., Tensor] | None:
        """The op that computes this basis, None where only torch does."""
        if isinstance(self.basis, BSpline) and self.basis.fused:
            lo, step = self.basis.low, self.basis.step
            return partial(bspline_linear, lo=lo, step=step, order=self.basis.order, edge=self.basis.edge)
        form = self.basis.plane_form()
        return None if form is None else partial(basis_linear, form=form, planes=self.basis.planes)

    def extra_repr(self) -> str:
        """The arguments, for ``repr``."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, base={self.base!r}, "
            f"bias={self.bias is not None}"
        )
