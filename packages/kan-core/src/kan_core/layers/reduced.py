"""Layers that reduce each input's basis values to one number before the matrix: AF-KAN, PRKAN and SechKAN."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from kan_core import bases
from kan_core.bases import Basis
from kan_core.bases.af import AF
from kan_core.bases.sech import Sech
from kan_core.errors import KANError
from kan_core.layers._base import BASE_FUNCTIONS
from kan_core.layers._common import ACTIVATION_FLOPS, at_least_float32, check_input, check_sizes
from kan_core.layers._norm import Norm, make_norm
from kan_core.layers._registry import register

Reduction = Literal["attention", "scaled-attention", "linear", "sum"]

# operations per number besides the products with the planes: exp, sum, quotient and weight; and the temperature
_REDUCTION_FLOPS = {"attention": 4, "scaled-attention": 5, "linear": 0, "sum": 0}


class ReducedKANLinear(nn.Module):
    r"""y = W a(norm(g)) + c, where g_i reduces the K basis values of input i to one number.

    The matrix costs in · out instead of in · out · K. In return all outputs share an input's curve, and the norm and
    the attention couple the inputs of a row: there is no function per edge. Rows never depend on each other.

    The reductions of the planes F_k,i = φ_k(x_i) are

    - ``"sum"``: g_i = Σ_k F_k,i
    - ``"linear"``: g_i = Σ_k v_k F_k,i, plus v_0 where no norm would take it out again
    - ``"attention"``: g_i = w_i Σ_k F_k,i, w = in · softmax over the inputs of s_i = Σ_k v_k F_k,i
    - ``"scaled-attention"``: the same with s_i / max(T, 1), T learned, √in at the start

    With a factor `in` the attention weights have mean 1. Papers leave it out; the norm that follows takes it out
    again, but without it g is so small for many inputs that the norm's ε swamps it. A constant added to s would have
    no effect, so there is none. Attention over one input is the plain sum, and one input is not normalised.

    Args:
        in_features: Size of each input sample.
        out_features: Size of each output sample.
        basis: A :class:`~kan_core.bases.Basis` or a spec.
        reduction: One of the four above.
        input_norm: Normalise the basis's input: ``"layer"`` over the features, ``"batch"`` over the samples, or None.
        norm: The same for g.
        act: The function a: ``"silu"``, ``"identity"``, ``"relu"``, ``"gelu"``, ``"elu"`` or ``"tanh"``.
        bias: Add one constant c per output.
        device: Where parameters and grids live.
        dtype: Type of parameters and grids.

    Raises:
        KANError: For an unknown basis, reduction, norm or act, or an input of another size.

    Shape:
        - Input: ``(..., in_features)``
        - Output: ``(..., out_features)``

    Parameters: in · out, + out with bias, + 2 in for each norm, + the basis's, + K for all reductions but the sum,
    + 1 for T or v_0.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        basis: Basis | str = "rbf",
        reduction: Reduction = "attention",
        input_norm: Norm | None = None,
        norm: Norm | None = "layer",
        act: str = "silu",
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_sizes(in_features, out_features)
        if reduction not in _REDUCTION_FLOPS:
            raise KANError(f"reduction must be one of {', '.join(_REDUCTION_FLOPS)}, got {reduction!r}")
        if act not in BASE_FUNCTIONS:
            raise KANError(f"act must be one of {', '.join(BASE_FUNCTIONS)}, got {act!r}")
        self.in_features = in_features
        self.out_features = out_features
        self.reduction: Reduction = "sum" if in_features == 1 and "attention" in reduction else reduction
        self.act = act
        self.basis = bases.get(basis).bind(in_features, device=device, dtype=dtype)
        self.input_norm = make_norm(input_norm, in_features, device, dtype)
        self.norm = make_norm(norm, in_features, device, dtype)

        def parameter(size: int, needed: bool) -> nn.Parameter | None:
            return nn.Parameter(torch.empty(size, device=device, dtype=dtype)) if needed else None

        self.reduce_weight = parameter(self.basis.num_functions, self.reduction != "sum")
        self.reduce_bias = parameter(1, self.reduction == "linear" and self.norm is None)
        self.temperature = parameter(1, self.reduction == "scaled-attention")
        self.linear = nn.Linear(in_features, out_features, bias=bias, device=device, dtype=dtype)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """W and c as ``nn.Linear``; v and v_0 uniform in ±1/√K; T = √in. What the basis learns stays as it is."""
        self.linear.reset_parameters()
        bound = 1 / math.sqrt(self.basis.num_functions)
        for parameter in (self.reduce_weight, self.reduce_bias):
            if parameter is not None:
                parameter.uniform_(-bound, bound)
        if self.temperature is not None:
            self.temperature.fill_(math.sqrt(self.in_features))
        for norm in (self.input_norm, self.norm):
            if isinstance(norm, nn.LayerNorm | nn.BatchNorm1d):
                norm.reset_parameters()

    def reduce(self, planes: Tensor) -> Tensor:
        """The numbers g from the basis's planes: ``(..., K, in_features) -> (..., in_features)``."""
        if self.reduce_weight is None:
            return planes.sum(dim=-2)
        weight = self.reduce_weight.to(planes.dtype)
        if self.reduction == "linear":
            g = _products(weight[None], planes)[..., 0, :]
            return g if self.reduce_bias is None else g + self.reduce_bias.to(g.dtype)
        # scores and sums in one pass over the planes
        score, total = _products(torch.stack([weight, torch.ones_like(weight)]), planes).unbind(dim=-2)
        if self.temperature is not None:
            score = score / self.temperature.to(score.dtype).clamp_min(1)
        return self.in_features * score.softmax(dim=-1) * total

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., in_features)`` to ``(..., out_features)``."""
        check_input(x, self.in_features)
        z = x if self.input_norm is None else self.input_norm(x)
        with torch.autocast(x.device.type, enabled=False):
            g = self.reduce(self.basis.planes(at_least_float32(z)))
        g = g.to(self.linear.weight.dtype)
        hidden = BASE_FUNCTIONS[self.act](at_least_float32(g if self.norm is None else self.norm(g)))
        y: Tensor = self.linear(hidden.to(self.linear.weight.dtype))
        return y

    def elementwise_flops(self, numel: int) -> int:
        """Operations outside matrix products for an input of `numel` numbers: basis, softmax and a."""
        per_input = self.basis.flops_per_input + _REDUCTION_FLOPS[self.reduction] + ACTIVATION_FLOPS[self.act]
        return numel * (per_input + (self.basis.num_functions - 1 if self.reduction == "sum" else 0))

    def extra_repr(self) -> str:
        """The arguments, for ``repr``."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, reduction={self.reduction!r}, "
            f"act={self.act!r}, bias={self.linear.bias is not None}"
        )


def _products(rows: Tensor, planes: Tensor) -> Tensor:
    """Every row of weights times the planes: ``(R, K)``, ``(..., K, in)`` to ``(..., R, in)``.

    Expanding keeps this a batched product; torch.matmul would copy the planes into another order to fold the batch.
    """
    return rows.expand(*planes.shape[:-2], *rows.shape) @ planes


@register("af-kan")
def af_kan(
    in_features: int,
    out_features: int,
    *,
    grid_size: int = 3,
    order: int = 3,
    act: str = "silu",
    combine: str = "quad1",
    reduction: Reduction = "scaled-attention",
    norm: Norm | None = "layer",
    bias: bool = False,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> ReducedKANLinear:
    r"""AF-KAN: products of an activation and its mirror image on learned intervals, reduced by attention.

    Its "L2MM" normalisation, min-max over the whole tensor, is left out: it lets one row of a batch change the others
    and divides 0 by 0 on constant batches. Within a row it would be a scale and a shift of all planes, which the norm
    after the reduction takes out again but for the attention's temperature, which is learned.

    Equation: φ_k(x) = (a(x − l_k) a(h_k − x))²; y = W a(LN(g)), g_i = w_i Σ_k φ_k(x_i), w = softmax_i(v · φ(x_i) / T)

    Reference: AF-KAN (arXiv 2503.06112).

    Avoids: the coupling of the rows of a batch through a whole-tensor normalisation, and tensors that no output uses.

    Args:
        in_features: Size of each input sample.
        out_features: Size of each output sample.
        grid_size: G, intervals of the unit interval.
        order: k; there are K = G + k functions.
        act: Activation inside the basis and before the matrix: ``"silu"``, ``"relu"``, ``"gelu"``, ``"elu"`` or
            ``"tanh"``.
        combine: How the basis combines the two activations, see :class:`~kan_core.bases.af.AF`.
        reduction: See :class:`ReducedKANLinear`.
        norm: Normalisation of g: ``"layer"``, ``"batch"`` or None.
        bias: Add one constant per output; the paper's code does not.
        device: Where the parameters live.
        dtype: Type of the parameters.

    Raises:
        KANError: For an unknown option or a size out of range.

    Parameters: in · out + 2 in + 2K + K + 1, + out with bias.
    """
    return ReducedKANLinear(
        in_features,
        out_features,
        basis=AF(grid_size=grid_size, order=order, act=act, combine=combine),
        reduction=reduction,
        norm=norm,
        act=act,
        bias=bias,
        device=device,
        dtype=dtype,
    )


@register("pr-kan")
def pr_kan(
    in_features: int,
    out_features: int,
    *,
    basis: Basis | str = "rbf(num_centers=8, grid_range=(-1.5, 1.5))",
    reduction: Reduction = "attention",
    input_norm: Norm | None = None,
    norm: Norm | None = "layer",
    act: str = "silu",
    bias: bool = True,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> ReducedKANLinear:
    r"""PRKAN: eight Gaussians per input, reduced by attention over the inputs.

    Equation: φ_k(x) = exp(−((x − c_k)/h)²); y = W a(LN(g)) + c, g_i = w_i Σ_k φ_k(x_i), w = softmax_i(v · φ(x_i))

    Reference: PRKAN (arXiv 2501.07032).

    Avoids: the weights of every other reduction, allocated and never used: half of the reference's parameters.

    Args:
        in_features: Size of each input sample.
        out_features: Size of each output sample.
        basis: A :class:`~kan_core.bases.Basis` or a spec.
        reduction: See :class:`ReducedKANLinear`.
        input_norm: Normalisation of the input (the paper's norm position 1).
        norm: Normalisation of g (position 2, its default).
        act: Activation before the matrix.
        bias: Add one constant per output.
        device: Where the parameters live.
        dtype: Type of the parameters.

    Raises:
        KANError: For an unknown option or a size out of range.

    Parameters: in · out + 2 in + K, + out with bias, + 2 in with input_norm.
    """
    return ReducedKANLinear(
        in_features,
        out_features,
        basis=basis,
        reduction=reduction,
        input_norm=input_norm,
        norm=norm,
        act=act,
        bias=bias,
        device=device,
        dtype=dtype,
    )


@register("sech-kan")
def sech_kan(
    in_features: int,
    out_features: int,
    *,
    num_centers: int = 8,
    grid_range: tuple[float, float] = (-2.0, 2.0),
    input_norm: Norm | None = "layer",
    norm: Norm | None = "layer",
    act: str = "silu",
    bias: bool = True,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> ReducedKANLinear:
    r"""SechKAN: hyperbolic secants on learned centres, reduced by one weight per centre.

    Equation: φ_k(x) = sech(x − c_k); y = W a(LN(g)) + c, g_i = Σ_k v_k φ_k(LN(x)_i)

    Reference: SechKAN, in the All-KAN collection (hoangthangta/All-KAN, 2026).

    Avoids: a second matrix as large as the first that the reference allocates and never uses, and a scale and two
    constants that its other parameters make redundant.

    Args:
        in_features: Size of each input sample.
        out_features: Size of each output sample.
        num_centers: K.
        grid_range: First and last centre at the start.
        input_norm: Normalisation of the input, or None.
        norm: Normalisation of g, or None.
        act: Activation before the matrix.
        bias: Add one constant per output.
        device: Where the parameters live.
        dtype: Type of the parameters.

    Raises:
        KANError: For an unknown option or a size out of range.

    Parameters: in · out + 4 in + 2K, + out with bias.
    """
    basis = Sech(num_centers=num_centers, grid_range=grid_range)
    for name in ("scale", "bias"):  # the weights v already scale the bells, and the norm or v_0 takes a constant
        value = getattr(basis, name).detach()
        delattr(basis, name)
        basis.register_buffer(name, value)
    return ReducedKANLinear(
        in_features,
        out_features,
        basis=basis,
        reduction="linear",
        input_norm=input_norm,
        norm=norm,
        act=act,
        bias=bias,
        device=device,
        dtype=dtype,
    )
