"""What all KAN layers share: one basis, one plane-major weight, and everything that reads or refits them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from kan_core import bases
from kan_core.bases import Basis
from kan_core.errors import KANError
from kan_core.layers._common import ACTIVATION_FLOPS, at_least_float32, check_edge
from kan_core.layers._norm import Norm, make_norm

BASE_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "identity": lambda x: x,
    "relu": F.relu,
    "gelu": F.gelu,
    "elu": F.elu,
    "tanh": torch.tanh,
}
PRELU = "prelu"
"""The one base function with a parameter: max(0, x) + slope · min(0, x), one learned slope per layer."""

_BASE_FLOPS = ACTIVATION_FLOPS | {PRELU: 2}  # the source has none for it: compare and multiply

# Edge values kept at once while regularising (64 MiB of float32); beyond it, blocks of inputs are recomputed.
_MAX_EDGE_VALUES = 1 << 24


class KANLayer(nn.Module):
    r"""Base of :class:`KANLinear` and the convolutions: edges φ_{o,i}(x) = Σ_k C[o,i,k] basis_k(z) + W_b[o,i] b(x).

    Here z = norm(x), or x without a norm; the base branch b always sees x itself. An *edge* is one pair of an input
    and an output; in a convolution, one triple of those and a kernel position.

    Attributes:
        basis: The functions, bound to this layer's inputs (see :class:`~kan_core.bases.Basis`).
        base: Name of b, or None without a base branch.
        norm: Normalisation of the basis's input, or None.
        weight: Coefficients of all planes: those of the basis functions, then, when there is one, of the base branch.
        scale: One factor per edge on its basis part, or None.
        bias: One constant per output, or None.
        slope: The learned slope of base "prelu", shape ``(1,)``, or None.
        plane_dim: The dimension of `weight` that counts planes.
    """

    plane_dim: int = 0

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        basis: Basis | str,
        base: str | None,
        norm: Norm | None,
        bias: bool,
        edge_scale: bool,
        init_scale: float | None,
        weight_shape: Callable[[int], tuple[int, ...]],
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        if base is not None and base not in (*BASE_FUNCTIONS, PRELU):
            raise KANError(f"base must be None or one of {', '.join((*BASE_FUNCTIONS, PRELU))}, got {base!r}")
        self.base = base
        self.init_scale = init_scale
        self.basis = bases.get(basis).bind(in_features, device=device, dtype=dtype)
        self.norm = make_norm(norm, in_features, device, dtype)
        shape = weight_shape(self.basis.num_functions + (base is not None))
        self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.scale: nn.Parameter | None = None
        if edge_scale:
            self.scale = nn.Parameter(torch.empty(weight_shape(1), device=device, dtype=dtype))
        self.bias: nn.Parameter | None = None
        if bias:
            self.bias = nn.Parameter(torch.empty(out_features, device=device, dtype=dtype))
        self.slope: nn.Parameter | None = None
        if base == PRELU:
            self.slope = nn.Parameter(torch.empty(1, device=device, dtype=dtype))

    # What the two kinds of layer say about themselves -----------------------------------------------------------

    @property
    def fan_in(self) -> int:
        """How many edges end in one output."""
        raise NotImplementedError

    def as_planes(self, tensor: Tensor) -> Tensor:
        """A tensor laid out as :attr:`weight`, as ``(planes, in_features, edges per input)``."""
        raise NotImplementedError

    def from_planes(self, planes: Tensor) -> Tensor:
        """The inverse of :meth:`as_planes`."""
        raise NotImplementedError

    def as_rows(self, x: Tensor) -> Tensor:
        """The layer's input as ``(samples, in_features)``."""
        raise NotImplementedError

    # Initialisation ---------------------------------------------------------------------------------------------

    @torch.no_grad()
    def reset_parameters(self) -> None:
        r"""Draw new weights from torch's global generator, as ``nn.Linear`` does; nothing is ever reseeded.

        Coefficients are normal with standard deviation s / √(fan_in · E[Σ_k basis_k(z)²]), z ~ N(0, 1), so that the
        basis part of an output has variance about s². s is `init_scale`, or when that is None 1 without a base branch
        and 0.001 beside one: the base branch then carries early training. Base weights and the bias are uniform in
        ±1/√fan_in as in ``nn.Linear``. Edge scales start at 1, the slope of base "prelu" at 0.25 as in ``nn.PReLU``.
        """
        if self.weight.is_meta:
            return
        coefficients, base_weight = self._split(self.weight, self.plane_dim)
        scale = self.init_scale if self.init_scale is not None else (0.001 if self.base else 1.0)
        coefficients.normal_(0.0, scale / math.sqrt(max(self.fan_in * self._mean_square(), 1e-12)))
        bound = 1 / math.sqrt(self.fan_in)
        if base_weight is not None:
            base_weight.uniform_(-bound, bound)
        if self.scale is not None:
            self.scale.fill_(1.0)
        if self.bias is not None:
            self.bias.uniform_(-bound, bound)
        if self.slope is not None:
            self.slope.fill_(0.25)

    def _mean_square(self) -> float:
        """E[Σ_k basis_k(z)²] for z ~ N(0, 1), averaged over inputs, by the quantiles of the normal distribution."""
        share = (torch.arange(64, dtype=torch.float64) + 0.5) / 64
        assert self.basis.in_features is not None
        z = torch.special.ndtri(share).to(self.weight)[:, None].expand(-1, self.basis.in_features)
        return self._planes(z).square().sum(dim=-2).mean().item()

    # Evaluation -------------------------------------------------------------------------------------------------

    def _planes(self, z: Tensor) -> Tensor:
        """The basis, evaluated in at least float32: differences of nearby knots do not survive half precision."""
        return self.basis.planes(at_least_float32(z))

    def _normalised(self, x: Tensor) -> Tensor:
        return x if self.norm is None else self.norm(x)

    def _base(self, x: Tensor) -> Tensor:
        assert self.base is not None
        if self.slope is not None:
            return F.prelu(x, self.slope.to(x.dtype))
        return BASE_FUNCTIONS[self.base](x)

    def _split(self, weight: Tensor, dim: int = 0) -> tuple[Tensor, Tensor | None]:
        """Coefficients and, when there is a base branch, its weights, along the dimension of the planes."""
        if self.base is None:
            return weight, None
        coefficients, base = torch.split(weight, [weight.shape[dim] - 1, 1], dim=dim)
        return coefficients, base

    def effective_weight(self) -> Tensor:
        """:attr:`weight` with every edge's :attr:`scale` folded into its coefficients."""
        if self.scale is None:
            return self.weight
        coefficients, base = self._split(self.weight, self.plane_dim)
        scaled = coefficients * self.scale
        return scaled if base is None else torch.cat([scaled, base], dim=self.plane_dim)

    def elementwise_flops(self, numel: int) -> int:
        """Operations outside matrix products for an input of `numel` numbers: the basis and b(x), once per number."""
        return numel * (self.basis.flops_per_input + _BASE_FLOPS[self.base or "zero"])

    # Reading edges ----------------------------------------------------------------------------------------------

    @property
    def coefficients(self) -> Tensor:
        """C, scales folded in, as ``(edges per input, in_features, K)``: for a linear layer ``(out, in, K)``."""
        return self._split(self.as_planes(self.effective_weight()), 0)[0].permute(2, 1, 0)

    @property
    def base_weight(self) -> Tensor | None:
        """W_b as ``(edges per input, in_features)``, or None without a base branch."""
        base = self._split(self.as_planes(self.weight), 0)[1]
        return None if base is None else base[0].T

    def edge_function(self, output: int, input: int) -> Callable[[Tensor], Tensor]:
        """The learned univariate function of one edge, differentiable, for tensors of any shape.

        A layer without a norm is the sum of its edge functions and its bias. With a norm, the function is that of the
        normalised input in its basis part.

        Args:
            output: Row of :attr:`coefficients`.
            input: Input feature (channel).

        Raises:
            KANError: When there is no such edge.
        """
        edges, inputs = self.coefficients.shape[:2]
        check_edge(output, input, edges, inputs)

        def phi(x: Tensor) -> Tensor:
            everywhere = x.unsqueeze(-1).expand(*x.shape, inputs)
            y = self._planes(everywhere)[..., input] @ self.coefficients[output, input]
            return y if self.base_weight is None else y + self.base_weight[output, input] * self._base(x)

        return phi

    # The data and the grid --------------------------------------------------------------------------------------

    @torch.no_grad()
    def outside_fraction(self, x: Tensor) -> Tensor:
        """Share of the basis's inputs that lie outside its grid for layer input `x`: a scalar in [0, 1]."""
        return self.basis.outside(self._normalised_in_eval(x)).float().mean()

    def _normalised_in_eval(self, x: Tensor) -> Tensor:
        """Rows of basis inputs; batch statistics are used but not updated."""
        training, rows = self.training, self.as_rows(x)
        try:
            self.eval()
            return self._normalised(rows)
        finally:
            self.train(training)

    @torch.no_grad()
    def update_grid(self, x: Tensor) -> None:
        """Fit the grid to the layer input `x` and refit the coefficients, so that the learned functions stay.

        Least squares in float64 over the samples and, lightly weighted, over points in every interval: functions stay
        put off the samples too, and constant or repeated samples leave no coefficient undetermined.

        Raises:
            KANError: When the basis does not adapt, or `x` is empty or not finite.
        """
        z = self._normalised_in_eval(x)
        before = copy.deepcopy(self.basis)
        self.basis.update_grid(z)
        self._refit(before, z)

    @torch.no_grad()
    def refine(self, grid_size: int) -> None:
        """Grid extension: as many intervals as `grid_size` over the same range, functions kept.

        Exact when the new size is a multiple of the old one. :attr:`weight` becomes a new parameter, so make the
        optimiser afterwards.

        Raises:
            KANError: When the basis has no grid.
        """
        before = copy.deepcopy(self.basis)
        self.basis.refine(grid_size)
        self._refit(before, None)

    def _refit(self, before: Basis, samples: Tensor | None) -> None:
        """Coefficients on the present basis that reproduce the functions they describe on `before`.

        Per input, T = argmin ‖basis(z) T − before(z)‖; it serves all of the input's edges: C_new = T C_old.
        """
        points = self.basis.fit_points()
        weight = 1.0
        if samples is not None:
            # a share of 1e-3 of the total squared weight: enough to determine what the samples leave open
            weight = math.sqrt(1e-3 * len(samples) / len(points))
        now, then = copy.deepcopy(self.basis).double(), before.double()
        new, old = weight * now.planes(points), weight * then.planes(points)
        if samples is not None:
            z = samples.double()
            new, old = torch.cat([now.planes(z), new]), torch.cat([then.planes(z), old])
        # (in, K_new, K_old); "gels" is the one driver that CUDA has too, and the points make the system full rank
        transfer = torch.linalg.lstsq(new.permute(2, 0, 1), old.permute(2, 0, 1), driver="gels").solution
        coefficients, base = self._split(self.as_planes(self.weight.double()), 0)
        planes = torch.einsum("ikl,lie->kie", transfer, coefficients)
        if base is not None:
            planes = torch.cat([planes, base])
        refitted = self.from_planes(planes).to(self.weight.dtype)
        if refitted.shape == self.weight.shape:
            self.weight.copy_(refitted)
        else:
            self.weight = nn.Parameter(refitted.contiguous(), requires_grad=self.weight.requires_grad)

    # Sparsity ---------------------------------------------------------------------------------------------------

    def edge_magnitudes(self, x: Tensor, max_samples: int = 256) -> Tensor:
        """|φ|_1 of every edge: the mean of |φ(x)| over the samples (KAN paper, section 2.5.1).

        Args:
            x: The layer's input; rows are taken evenly from it when there are more than `max_samples`.
            max_samples: Rows used: bounds the cost, which is rows x edges.

        Returns:
            Shape ``(edges per input, in_features)``, differentiable.
        """
        rows = self.as_rows(x)
        rows = rows[:: max(1, math.ceil(len(rows) / max_samples))]
        features = self._planes(self._normalised(rows))
        if self.base is not None:
            features = torch.cat([features, self._base(rows).unsqueeze(-2).to(features.dtype)], dim=-2)
        planes = self.as_planes(self.effective_weight()).to(features.dtype)

        def mean_abs(features: Tensor, planes: Tensor) -> Tensor:
            return torch.einsum("npi,pie->nie", features, planes).abs().mean(dim=0).T

        inputs = planes.shape[1]
        block = max(1, _MAX_EDGE_VALUES // max(1, len(rows) * planes.shape[2]))
        if block >= inputs:
            return mean_abs(features, planes)
        parts = [
            checkpoint(mean_abs, f, p, use_reentrant=False)
            for f, p in zip(torch.split(features, block, dim=2), torch.split(planes, block, dim=1), strict=True)
        ]
        return torch.cat(parts, dim=1)

    def regularization(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """L1 and entropy of the layer at input `x` (KAN paper, section 2.5.1), two differentiable scalars.

        L1 = Σ |φ|_1 over edges; entropy = −Σ p log p with p = |φ|_1 / L1. A layer of zeros gives 0 and 0, with finite
        gradients.
        """
        magnitudes = self.edge_magnitudes(x)
        tiny = torch.finfo(magnitudes.dtype).eps  # relative to L1 nothing smaller counts; 1/tiny must stay finite
        l1 = magnitudes.sum()
        p = magnitudes / l1.clamp_min(tiny)
        return l1, -(p * p.clamp_min(tiny).log()).sum()


def kan_layers(model: nn.Module) -> Sequence[tuple[str, KANLayer]]:
    """All KAN layers of a model with their names, in the order of definition."""
    return [(name, module) for name, module in model.named_modules() if isinstance(module, KANLayer)]
