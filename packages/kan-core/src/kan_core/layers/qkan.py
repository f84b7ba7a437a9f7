"""QKAN: single-qubit data re-uploading functions (DARUAN) on every edge."""

from __future__ import annotations

import contextlib
import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kan_core.bases._base import check_at_least
from kan_core.errors import KANError
from kan_core.layers._common import ACTIVATION_FLOPS, at_least_float32, check_input, matmul
from kan_core.layers._edges import EdgeLinear, _result_dtype, in_pieces
from kan_core.layers._registry import register
from kan_core.ops.daruan import daruan, fast_readout, op, rotate


@register("qkan")
class QKANLinear(EdgeLinear):
    r"""Edges that are simulated one-qubit circuits: y_o = Σ_i m_oi (p_oi φ_oi(x_i) + c_oi SiLU(x_i)) + bias_o.

    φ = ⟨Z⟩ of a qubit that starts in H|0⟩ and is turned by Rz(θ) Ry(θ') Rz(w x + b), `reps` times, then by one last
    Rz(θ) Ry(θ'). Without trainable frequencies (w = 1) and with the exact read-out, φ is a trigonometric polynomial of
    degree `reps`: its coefficients follow from θ, and the layer is one matrix product with the features cos nx, sin nx
    and SiLU(x). Otherwise every edge is simulated: by kernels that add over the inputs as they go
    (:func:`kan_core.ops.daruan.daruan_linear`), or in pieces of bounded memory (:class:`EdgeLinear`).

    Equation: φ(x) = p ⟨Z⟩ + c SiLU(x), H|0⟩ turned by Rz(θ_l) Ry(θ'_l) Rz(w_l x + b_l), l < r, then Rz(θ_r) Ry(θ'_r)

    Reference: QKAN (arXiv 2509.14026), DARUAN.

    Avoids: the reference's constant base weight 0.5 (all outputs start with one base sum), the forgotten prune mask
    when a layer is extended, and a (batch, out, in) tensor for the default layer.

    Args:
        in_features: Size of each input sample.
        out_features: Size of each output sample.
        reps: r, how often x is uploaded, at least 1: the degree of φ.
        ansatz: ``"pz"``, or ``"rpz"`` with Ry only between the uploads, whose phases b are then always learned.
        readout: ``"exact"`` for ⟨Z⟩ = |α|² − |β|², or ``"fast"`` for |α| − |β|.
        trainable_frequencies: Learn w and b of every upload; w = 3^l reaches all frequencies up to (3^r − 1)/2.
        base: Add a SiLU with a weight of its own on every edge, drawn as ``nn.Linear`` draws weights.
        post_weight: Learn the factor p on every φ (1 otherwise).
        groups: Store this many circuits, and give input i the circuit i mod groups at *every* output: without `base`
            or `post_weight` all outputs are then equal but for the bias. None for a circuit per edge.
        bias: Add one constant per output.
        backend: How edges are simulated: ``"auto"``, ``"reference"``, ``"native"`` or ``"triton"``, see
            :data:`kan_core.ops.BACKENDS`. A layer that is one matrix product has no other way: "auto" or "reference".
        device: Where the parameters live.
        dtype: Type of the parameters.

    Attributes:
        mask: Buffer m, 1 for a present edge and 0 for a pruned one, see :meth:`prune`.

    Raises:
        KANError: For an argument out of its range, an input of another size, or a backend that cannot take it.

    Shape:
        - Input: ``(..., in_features)``
        - Output: ``(..., out_features)``
        - theta: ``(out_features, in_features, reps + 1, 2)``, last size 1 for ``"rpz"``; ``(groups, ...)`` with groups

    Parameters: per edge 2 (r + 1) for ``"pz"`` or 2r + 1 for ``"rpz"``, + 2r (r for ``"rpz"``) with trainable
    frequencies, + 1 with base, + 1 with post_weight; + out with bias.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        reps: int = 3,
        ansatz: Literal["pz", "rpz"] = "pz",
        readout: Literal["exact", "fast"] = "exact",
        trainable_frequencies: bool = False,
        base: bool = True,
        post_weight: bool = False,
        groups: int | None = None,
        bias: bool = True,
        backend: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias=bias, device=device, dtype=dtype)
        self.reps = check_at_least("reps", reps, 1)
        if ansatz not in ("pz", "rpz"):
            raise KANError(f"ansatz must be 'pz' or 'rpz', got {ansatz!r}")
        if readout not in ("exact", "fast"):
            raise KANError(f"readout must be 'exact' or 'fast', got {readout!r}")
        if groups is not None and check_at_least("groups", groups, 1) > in_features:
            raise KANError(f"groups must be at most in_features = {in_features}, got {groups}")
        self.ansatz, self.readout, self.groups, self.backend = ansatz, readout, groups, backend

        def parameter(wanted: bool, *shape: int) -> nn.Parameter | None:
            return nn.Parameter(torch.empty(shape, device=device, dtype=dtype)) if wanted else None

        edges = (out_features, in_features)
        circuits = edges if groups is None else (groups,)
        angles = (reps + 1, 2 if ansatz == "pz" else 1)
        self.theta = nn.Parameter(torch.empty(*circuits, *angles, device=device, dtype=dtype))
        self.frequency = parameter(trainable_frequencies, *circuits, reps)
        self.phase = parameter(trainable_frequencies or ansatz == "rpz", *circuits, reps)
        self.base_weight = parameter(base, *edges)
        self.post_weight = parameter(post_weight, *edges)
        self.mask: Tensor
        self.register_buffer("mask", torch.ones(edges, device=device, dtype=dtype))
        self.reset_parameters()

    @property
    def kept(self) -> int:
        """How many numbers :meth:`edges` leaves for its backward pass per edge and row."""
        return 9 * self.reps + 6 * (self.readout == "fast")

    @property
    def is_dense(self) -> bool:
        """Whether the layer is evaluated as one matrix product."""
        return self.frequency is None and self.readout == "exact"

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Xavier-normal θ as the paper's, w = 1, b = 0, p = 1, no edge pruned; base weights as ``nn.Linear``'s."""
        nn.init.xavier_normal_(self.theta)
        for ones in (self.frequency, self.post_weight, self.mask):
            if ones is not None:
                ones.fill_(1.0)
        if self.phase is not None:
            self.phase.zero_()
        if self.base_weight is not None:
            bound = 1 / math.sqrt(self.in_features)
            self.base_weight.uniform_(-bound, bound)
        super().reset_parameters()

    # Evaluation -------------------------------------------------------------------------------------------------

    def edge_parameters(self) -> tuple[Tensor, ...]:
        """θ, w, b, the factor m p on φ and, with a base branch, its weight m c, for every edge."""
        edges = (self.out_features, self.in_features)
        circuits = (self._tiled(t) for t in self._circuits())
        return *(t.expand(*edges, *t.shape[2:]) for t in circuits), *self._factors()

    def edges(self, x: Tensor, *parameters: Tensor) -> Tensor:
        """The edges m (p φ(x) + c SiLU(x)): ``(rows, 1, in) -> (rows, out, in)``."""
        theta, frequency, phase, factor, *base = parameters
        phi = daruan(x, theta, frequency, phase)
        y = factor * (fast_readout(phi) if self.readout == "fast" else phi)
        return y + base[0] * F.silu(x) if base else y

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., in_features)`` to ``(..., out_features)``."""
        check_input(x, self.in_features)
        if self.is_dense:
            return self._product(x)
        backend = op.choose(x, self.backend)
        return super().forward(x) if backend == "reference" else self._fused(x, backend)

    def _product(self, x: Tensor) -> Tensor:
        """The layer as one matrix product."""
        if self.backend not in ("auto", "reference"):
            raise KANError(f"backend {self.backend!r} simulates circuits, but this layer is one matrix product")
        planes = self._planes()
        wide = at_least_float32(x)
        features = harmonics(wide, self.reps)
        if self.base_weight is not None:
            features.append(F.silu(wide))
        weight = planes[1:].to(self.theta.dtype)
        y = matmul(torch.stack(features, dim=-2).flatten(-2), weight.flatten(0, 1))
        constant = planes[0].sum(dim=0)
        return y + (constant if self.bias is None else constant + self.bias).to(y.dtype)

    def _fused(self, x: Tensor, backend: str) -> Tensor:
        """The simulation without a value per row and edge; the base branch is a matrix product of its own."""
        theta, frequency, phase, factor, *base = (at_least_float32(p) for p in self.edge_parameters())
        wide = at_least_float32(x)
        y = op.run(backend, wide, theta, frequency, phase, factor, self.readout)
        if base:
            y = y + matmul(F.silu(wide), base[0].T)
        if self.bias is not None:
            y = y + self.bias
        return y.to(_result_dtype(x, self.theta))

    def _circuits(self) -> tuple[Tensor, Tensor, Tensor]:
        """θ, w and b as ``(out or 1, in or groups, ...)``."""
        theta = self.theta if self.groups is None else self.theta.unsqueeze(0)
        uploads = (*theta.shape[:2], self.reps)
        frequency, phase = (
            theta.new_full((), value).expand(uploads) if p is None else p.view(uploads)
            for p, value in ((self.frequency, 1.0), (self.phase, 0.0))
        )
        return theta, frequency, phase

    def _tiled(self, circuits: Tensor) -> Tensor:
        """Groups, dimension 1, repeated over the inputs."""
        if self.groups is None:
            return circuits
        times = math.ceil(self.in_features / self.groups)
        return circuits.repeat(1, times, *[1] * (circuits.dim() - 2))[:, : self.in_features]

    def _factors(self) -> tuple[Tensor, ...]:
        """The factors m p and, with a base branch, m c: each ``(out, in)``."""
        factor = self.mask if self.post_weight is None else self.mask * self.post_weight
        return (factor,) if self.base_weight is None else (factor, self.mask * self.base_weight)

    def _planes(self) -> Tensor:
        """Weights of 1, cos x, sin x, cos 2x, …, sin rx and SiLU(x): ``(planes, in, out)``."""
        theta, _, phase = (at_least_float32(t) for t in self._circuits())
        points = _points(self.reps, theta).unsqueeze(0)
        kept = points.numel() * self.kept
        coefficients = self._tiled(in_pieces(self._coefficients, points, (theta, phase), kept)[0])
        factor, *base = (at_least_float32(t).T for t in self._factors())
        return torch.cat([coefficients * factor, *(t.unsqueeze(0) for t in base)])

    def _coefficients(self, points: Tensor, theta: Tensor, phase: Tensor) -> Tensor:
        """Fourier coefficients of some circuits from φ at ``(1, 2r + 1)`` points: ``(1, 2r + 1, in, out)``."""
        values = daruan(points[0, :, None, None], theta, theta.new_ones(self.reps), phase)
        with contextlib.nullcontext() if values.is_meta else torch.autocast(values.device.type, enabled=False):
            coefficients = fourier_analysis(self.reps, values) @ values.flatten(1)
        return coefficients.view(values.shape).transpose(1, 2).unsqueeze(0)

    # Changing the layer -----------------------------------------------------------------------------------------

    @torch.no_grad()
    def extend(self, reps: int) -> None:
        """Append uploads without changing the function: their θ are 0, so they turn about the axis that is read.

        :attr:`theta` and what else counts uploads become new parameters, so make the optimiser afterwards. The mask
        stays.

        Args:
            reps: New number of uploads, not below the present one.

        Raises:
            KANError: When it is.
        """
        if check_at_least("reps", reps, 1) < self.reps:
            raise KANError(f"reps can only grow: the layer has {self.reps}, got {reps}")
        more = reps - self.reps
        self.theta = _padded(self.theta, (0, 0, 0, more), 0.0)
        if self.frequency is not None:
            self.frequency = _padded(self.frequency, (0, more), 1.0)
        if self.phase is not None:
            self.phase = _padded(self.phase, (0, more), 0.0)
        self.reps = reps

    @torch.no_grad()
    def prune(self, keep: Tensor) -> None:
        """Remove the edges, φ and base, where `keep` ``(out_features, in_features)`` is False or 0, for good.

        Raises:
            KANError: For another shape.
        """
        if keep.shape != self.mask.shape:
            raise KANError(f"keep must have shape {tuple(self.mask.shape)}, got {tuple(keep.shape)}")
        self.mask *= keep.to(self.mask).ne(0)

    # Describing the layer ---------------------------------------------------------------------------------------

    def elementwise_flops(self, numel: int) -> int:
        """Operations outside matrix products for an input of `numel` numbers, without those on parameters alone.

        The dense form takes one sine and cosine per number and 6 operations per harmonic; the simulation 21 per upload
        (less 9 in the first) and edge.
        """
        silu = 0 if self.base_weight is None else ACTIVATION_FLOPS["silu"]
        if self.is_dense:
            return numel * (2 + 6 * (self.reps - 1) + silu)
        per_edge = 21 * self.reps - 9 + 2 + 2 * bool(silu) + 7 * (self.readout == "fast")
        return numel * (self.out_features * per_edge + silu)

    def extra_repr(self) -> str:
        """The arguments, for ``repr``."""
        return (
            f"{super().extra_repr()}, reps={self.reps}, ansatz={self.ansatz!r}, readout={self.readout!r}, "
            f"trainable_frequencies={self.frequency is not None}, base={self.base_weight is not None}, "
            f"post_weight={self.post_weight is not None}, groups={self.groups}"
        )


def harmonics(x: Tensor, degree: int) -> list[Tensor]:
    """Cos x, sin x, cos 2x, …, sin(degree x), by rotation: n x itself would lose digits of a large x."""
    cos, sin = x.cos(), x.sin()
    waves = [cos, sin]
    for _ in range(1, degree):
        waves += rotate(waves[-2], waves[-1], cos, sin)
    return waves


def fourier_analysis(degree: int, like: Tensor) -> Tensor:
    """The matrix from values at :func:`_points` to coefficients of 1, cos x, sin x, …, sin(degree x)."""
    count = 2 * degree + 1
    number = torch.arange(count, device=like.device)
    turns = (number[1 : degree + 1, None] * number % count).to(like.dtype)  # whole numbers: exact in any type
    angle = turns * (2 * math.pi / count)
    waves = torch.stack([angle.cos(), angle.sin()], dim=1).flatten(0, 1)
    return torch.cat([torch.ones_like(waves[:1]), 2 * waves]) / count


def _points(degree: int, like: Tensor) -> Tensor:
    """2 degree + 1 points over one period: as many as a trigonometric polynomial of that degree has coefficients."""
    count = 2 * degree + 1
    return torch.arange(count, device=like.device).to(like.dtype) * (2 * math.pi / count)


def _padded(parameter: nn.Parameter, pad: tuple[int, ...], value: float) -> nn.Parameter:
    return nn.Parameter(F.pad(parameter, pad, value=value), requires_grad=parameter.requires_grad)
