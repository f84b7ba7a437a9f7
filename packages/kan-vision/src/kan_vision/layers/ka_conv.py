"""Kolmogorov-Arnold convolutions: learned functions of every pixel, one convolution, then normalisation and activation.

The family of Drokin (arXiv 2407.01092). Each kind is a basis of :mod:`kan_core.bases` in a :class:`kan_core.KANConv2d`
(or its 1D and 3D forms), and what makes the kinds differ is one row of :data:`KINDS`' table: the function of the base
branch, where the norm stands, and the activation after it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from kan_core import KANConv1d, KANConv2d, KANConv3d, KANError
from kan_core.bases import Basis, Bernstein, BSpline, Chebyshev, GaussianRBF, Gram, Jacobi, Legendre, ReLUKAN
from kan_core.bases.wavelet import MOTHERS, check_mother, mother_flops
from kan_vision.layers.instance_norm import instance_norm

ConvNorm = Literal["instance", "batch"]
Size = int | tuple[int, ...]

# With it both branches of a layer start with about the same variance for inputs from N(0, 1), as with the published
# code's kaiming draws: a base weight is uniform in ±1/√fan_in, and E[silu(x)²] / 3 is about (1/3)².
_BASIS_SHARE = 1 / 3

# Output channels whose wavelets are evaluated together: as many planes of the input as a B-spline layer has.
_WAVELETS_AT_ONCE = 8

_CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_KAN_CONV = {1: KANConv1d, 2: KANConv2d, 3: KANConv3d}
_BATCH_NORM = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_DROPOUT = {1: nn.Dropout1d, 2: nn.Dropout2d, 3: nn.Dropout3d}
_BASE: dict[str, type[nn.Module]] = {"silu": nn.SiLU, "gelu": nn.GELU, "identity": nn.Identity}


class SiLUGram(Gram):
    r"""SiLU of the Gram polynomials of tanh(x), with learned recurrence weights: φ_n(x) = silu(p_n(tanh x)).

    The weights start at the values that make the polynomials orthogonal (see :class:`kan_core.bases.Gram`); with all
    of them at 0, p_n(u) = u^n. The published layer starts them near 0 and has two more, which never get a gradient.

    Args:
        degree: Highest degree, at least 1; 1 has no recurrence weight to learn.
    """

    def __init__(self, degree: int = 3) -> None:
        super().__init__(degree, trainable=degree > 1)

    def planes(self, x: Tensor) -> Tensor:
        """All functions at all inputs: ``(..., in_features) -> (..., K, in_features)``."""
        return F.silu(super().planes(x))

    def plane_form(self) -> None:
        """None: the kernels know no activation of a basis."""

    @property
    def flops_per_input(self) -> int:
        """The polynomials, and SiLU (5) of each."""
        return super().flops_per_input + 5 * self.num_functions


@dataclass(frozen=True)
class _Kind:
    """One row of the family: its basis, the function of the base branch, and the activation after the norm."""

    basis: Callable[..., Basis] | None
    base: str | None
    activation: type[nn.Module]


_KINDS = {
    "linear": _Kind(None, "identity", nn.SiLU),
    "bspline": _Kind(BSpline, "gelu", nn.PReLU),
    "rbf": _Kind(GaussianRBF, "silu", nn.Identity),
    "legendre": _Kind(partial(Legendre, degree=3), "identity", nn.SiLU),
    "chebyshev": _Kind(partial(Chebyshev, degree=3), None, nn.Identity),
    "gram": _Kind(SiLUGram, "silu", nn.SiLU),
    "jacobi": _Kind(Jacobi, "identity", nn.SiLU),
    "bernstein": _Kind(Bernstein, "identity", nn.SiLU),
    "relu-kan": _Kind(ReLUKAN, "silu", nn.SiLU),
    "wavelet": _Kind(None, "silu", nn.Identity),
}

KINDS = tuple(_KINDS)
"""Names of the kinds of :class:`KAConv`."""

BOTTLENECK_KINDS = tuple(kind for kind in KINDS if kind not in ("rbf", "wavelet"))
"""Names of the kinds of :class:`BottleneckKAConv`: one basis of the input, a norm on the output."""


class WaveletConv(nn.Module):
    r"""One wavelet for every pair of channels: y = M ∗ z, z_o = Σ_i W[o,i] ∗ ψ((x_i − t[o,i]) / s[o,i]).

    M is a 1 x 1 convolution between the outputs of a group. The wavelets differ from output to output, so there are
    no planes to share: they are evaluated for a few outputs at a time and again in the backward pass, which bounds the
    memory at a few times the input's. The scale is learned as log s, so it stays positive.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Size of the kernel, one per dimension.
        stride: Step of the kernel.
        padding: Pixels on each side; a padded pixel contributes nothing.
        dilation: Spacing of the kernel's entries.
        groups: Blocks of channels that do not see each other.
        mother: ψ: one of :data:`kan_core.bases.wavelet.MOTHERS`.
        spatial: Number of spatial dimensions.

    Raises:
        KANError: For an unknown mother.

    Shape:
        - Input: ``(batch, in_channels, *spatial)``
        - Output: ``(batch, out_channels, *spatial_out)``

    Parameters: in · out/groups · (prod(kernel_size) + 2) + out²/groups.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: tuple[int, ...],
        stride: Size,
        padding: Size,
        dilation: Size,
        groups: int,
        mother: str = "mexican-hat",
        spatial: int = 2,
    ) -> None:
        super().__init__()
        self.mother = check_mother(mother)
        self.groups = groups
        self.spatial = spatial
        self.geometry = {"stride": stride, "padding": padding, "dilation": dilation}
        edges = (groups, out_channels // groups, in_channels // groups)
        self.weight = nn.Parameter(torch.empty(*edges, *kernel_size))
        self.translation = nn.Parameter(torch.empty(edges))
        self.log_scale = nn.Parameter(torch.empty(edges))
        self.mix = _CONV[spatial](out_channels, out_channels, 1, groups=groups, bias=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Start at t = 0 and s = 1, with normal weights with which z has variance about 1 for x ~ N(0, 1)."""
        share = (torch.arange(64, dtype=torch.float64, device="cpu") + 0.5) / 64
        mean_square = MOTHERS[self.mother](torch.special.ndtri(share)).square().mean().item()
        self.weight.normal_(0.0, 1 / math.sqrt(self.weight[0, 0].numel() * mean_square))
        self.translation.zero_()
        self.log_scale.zero_()
        self.mix.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, in_channels, *spatial)`` to ``(batch, out_channels, *spatial_out)``."""
        evaluate = self._outputs
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            evaluate = partial(checkpoint, self._outputs, use_reentrant=False, preserve_rng_state=False)
        grouped = torch.unflatten(x, 1, (self.groups, 1, -1))
        parameters = (self.weight, self.translation, self.log_scale)
        blocks = zip(*(torch.split(p, _WAVELETS_AT_ONCE, dim=1) for p in parameters), strict=True)
        z = torch.cat([evaluate(grouped, *block) for block in blocks], dim=2)
        out: Tensor = self.mix(z.flatten(1, 2))
        return out

    def _outputs(self, x: Tensor, weight: Tensor, translation: Tensor, log_scale: Tensor) -> Tensor:
        """Some outputs of every group: ``(N, g, 1, in/g, *spatial) -> (N, g, outputs, *spatial_out)``."""
        kind = torch.promote_types(x.dtype, torch.float32)
        shape = (*translation.shape, *(1,) * self.spatial)
        argument = (x.to(kind) - translation.to(kind).view(shape)) * torch.exp(-log_scale.to(kind)).view(shape)
        planes = MOTHERS[self.mother](argument).flatten(1, 3)
        convolution: Callable[..., Tensor] = getattr(F, f"conv{self.spatial}d")
        kernels = weight.flatten(0, 1)
        outputs = convolution(planes.to(weight.dtype), kernels, groups=len(kernels), **self.geometry)
        return torch.unflatten(outputs, 1, weight.shape[:2])

    def elementwise_flops(self, numel: int) -> int:
        """Operations for an input of `numel` numbers: shift, scale and ψ for each output of their group."""
        return numel * self.weight.shape[1] * (2 + mother_flops(self.mother))

    def extra_repr(self) -> str:
        """The arguments, for ``repr``."""
        return f"groups={self.groups}, mother={self.mother!r}, weight={tuple(self.weight.shape)}"


class _NormedConv(nn.Module):
    """y = Dropout(a(Norm(conv(x) + base(x)))): what a layer of the family is, whatever its branches are."""

    def __init__(
        self, conv: nn.Module, base: nn.Module | None, norm: nn.Module, activation: nn.Module, dropout: nn.Module
    ) -> None:
        super().__init__()
        self.conv = conv
        self.base = base
        self.norm = norm
        self.activation = activation
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, in_channels, *spatial)`` to ``(batch, out_channels, *spatial_out)``."""
        y = self.conv(x)
        if self.base is not None:
            y = y + self.base(x)
        out: Tensor = self.dropout(self.activation(self.norm(y)))
        return out

    def no_weight_decay(self) -> set[str]:
        """What weight decay must not draw to 0: the shapes and places of the functions, not their weights."""
        places = ("basis.", "translation", "log_scale")
        return {name for name, _ in self.named_parameters() if any(place in name for place in places)}


class KAConv(_NormedConv):
    r"""A Kolmogorov-Arnold convolution with its normalisation and activation; no bias anywhere.

    Equation: y = Dropout(a(Norm(Σ_i Σ_k C[o,i,k] ∗ φ_k(x_i) + Σ_i W[o,i] ∗ b(x_i)))), basis first: φ_k and b of every
    pixel, then one ordinary convolution; a padded pixel contributes nothing, not φ_k(0).

    ============ ============================ ========= ========== ==========================
    kind         φ (options, defaults)        b         a          published as
    ============ ============================ ========= ========== ==========================
    "linear"     none                         x         SiLU       the ordinary twin
    "bspline"    B-splines (grid_size=5,      GELU      PReLU      KANConv
                 order=3, grid_range=(-1, 1))
    "rbf"        Gaussians (num_centers=8,    SiLU      none       FastKANConv; Norm acts on the
                 grid_range=(-2, 2))                               input of φ, none on y
    "legendre"   P_n(tanh x) (degree=3)       x         SiLU       KALNConv
    "chebyshev"  T_n(tanh x) (degree=3)       no branch none       KACNConv
    "gram"       silu(p_n(tanh x)) (degree=3) SiLU      SiLU       KAGNConv
    "jacobi"     P_n^(α,β)(tanh x) (degree=3, x         SiLU       KAJNConv
                 alpha=1, beta=1)
    "bernstein"  Bernstein polynomials of     x         SiLU       KABNConv
                 sigmoid x (degree=3)
    "relu-kan"   bumps with learned supports  SiLU      SiLU       ReLUKANConv
                 (grid_size=5, order=3)
    "wavelet"    :class:`WaveletConv`         SiLU      none       WavKANConv
                 (mother="mexican-hat")
    ============ ============================ ========= ========== ==========================

    Differences from the published code, on purpose: Legendre's argument is tanh x, not x scaled by the least and
    greatest value of the whole batch, which ties predictions to batch mates and is 0/0 for a constant input; Gram's
    two recurrence weights without a gradient are left out; every group of channels sees all planes of its own inputs;
    dropout of whole channels follows the activation in every kind, so that it never blanks an image. A Chebyshev layer
    has neither base branch nor activation, and instance normalisation removes the mean that its last layer would give
    to global pooling: use ``norm="batch"`` with it.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Size of the kernel, one number or one per dimension.
        stride: Step of the kernel.
        padding: Pixels on each side; None for d (k − 1) // 2, which keeps the size when the kernel is odd and the
            stride 1.
        dilation: Spacing d of the kernel's entries.
        groups: Blocks of channels that do not see each other.
        kind: One of :data:`KINDS`.
        norm: ``"instance"``, ``"batch"`` or None.
        affine: Let the norm learn a factor and an offset per channel.
        dropout: Probability that an output channel is 0 in training.
        spatial: Number of spatial dimensions, 1 to 3.
        options: Arguments of the kind's basis, such as ``degree=5``; see the table.

    Raises:
        KANError: For an unknown kind, norm or option, or sizes that do not fit.

    Shape:
        - Input: ``(batch, in_channels, *spatial)``
        - Output: ``(batch, out_channels, *spatial_out)``, spatial_out as for ``nn.Conv``

    Reference: Drokin, arXiv 2407.01092 (repository IvanDrokin/torch-conv-kan).

    Parameters: in · out/groups · k² · (K + 1), K without a base branch; + 2 out for the norm (2 in for "rbf");
    + degree − 1 for "gram", 1 for "bspline", 2 K in for "relu-kan". "wavelet": 2 in · out/groups · (k² + 1) +
    out²/groups + 2 out.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size = 3,
        stride: Size = 1,
        padding: Size | None = None,
        dilation: Size = 1,
        groups: int = 1,
        *,
        kind: str = "gram",
        norm: ConvNorm | None = "instance",
        affine: bool = True,
        dropout: float = 0.0,
        spatial: int = 2,
        **options: Any,
    ) -> None:
        row = _row(kind, KINDS)
        geometry = _geometry(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, spatial)
        make_norm = partial(_norm, norm, affine=affine, spatial=spatial)
        # these two have a base branch of their own: it sees the input before the norm, or there are no planes to join
        base = row.base if kind in ("rbf", "wavelet") else None
        conv: nn.Module
        if kind == "linear":
            _no_options(kind, options)
            conv = _CONV[spatial](in_channels, out_channels, bias=False, **geometry)
        elif kind == "wavelet":
            conv = _with_options(
                kind, partial(WaveletConv, in_channels, out_channels, spatial=spatial, **geometry), options
            )
        else:
            conv = _KAN_CONV[spatial](
                in_channels,
                out_channels,
                basis=_basis(kind, options),
                base=None if base else row.base,
                bias=False,
                init_scale=_BASIS_SHARE if row.base else 1.0,
                **geometry,
            )
        if kind == "rbf":
            conv = nn.Sequential(make_norm(in_channels), conv)
        super().__init__(
            conv,
            None if base is None else _base_branch(base, in_channels, out_channels, geometry, spatial),
            nn.Identity() if kind == "rbf" else make_norm(out_channels),
            row.activation(),
            _dropout(dropout, spatial),
        )


class BottleneckKAConv(_NormedConv):
    r"""A KA-convolution whose functions live between few channels: y = Dropout(a(Norm(W ∗ b(x) + U · F(D · x)))).

    D and U are 1 x 1 convolutions from and to n inner channels, F is the kind's convolution of the basis, n → n, and
    the base branch alone keeps the full width. So the basis costs n² K k² weights instead of in · out · K k².
    n = int(max(i, o) / reduction), and where that is below 16, min(16, i, o), with i and o the channels of a group.
    For ``"linear"`` F is SiLU and an ordinary convolution.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Size of the kernel, one number or one per dimension.
        stride: Step of the kernel.
        padding: Pixels on each side; None for d (k − 1) // 2.
        dilation: Spacing d of the kernel's entries.
        groups: Blocks of channels that do not see each other.
        reduction: How many channels become one, above 0.
        kind: One of :data:`BOTTLENECK_KINDS`; b, a and the options as in :class:`KAConv`.
        norm: ``"instance"``, ``"batch"`` or None.
        affine: Let the norm learn a factor and an offset per channel.
        dropout: Probability that an output channel is 0 in training.
        spatial: Number of spatial dimensions, 1 to 3.
        options: Arguments of the kind's basis, such as ``degree=5``.

    Raises:
        KANError: For an unknown kind, norm or option, or sizes that do not fit.

    Shape:
        - Input: ``(batch, in_channels, *spatial)``
        - Output: ``(batch, out_channels, *spatial_out)``

    Reference: Drokin, arXiv 2407.01092 (BN-KAGN).

    Parameters, of one group: i o k² + i n + n o + n² K k² + 2 o, and those of the basis.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size = 3,
        stride: Size = 1,
        padding: Size | None = None,
        dilation: Size = 1,
        groups: int = 1,
        *,
        reduction: float = 4,
        kind: str = "gram",
        norm: ConvNorm | None = "instance",
        affine: bool = True,
        dropout: float = 0.0,
        spatial: int = 2,
        **options: Any,
    ) -> None:
        row = _row(kind, BOTTLENECK_KINDS)
        geometry = _geometry(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, spatial)
        if not reduction > 0:
            raise KANError(f"reduction must be above 0, got {reduction!r}")
        inner = groups * inner_width(in_channels // groups, out_channels // groups, reduction)
        functions: nn.Module
        if kind == "linear":
            _no_options(kind, options)
            functions = _base_branch("silu", inner, inner, geometry, spatial)
        else:
            functions = _KAN_CONV[spatial](
                inner, inner, basis=_basis(kind, options), base=None, bias=False, init_scale=1.0, **geometry
            )
        conv = _CONV[spatial]
        super().__init__(
            nn.Sequential(
                conv(in_channels, inner, 1, groups=groups, bias=False),
                functions,
                conv(inner, out_channels, 1, groups=groups, bias=False),
            ),
            None if row.base is None else _base_branch(row.base, in_channels, out_channels, geometry, spatial),
            _norm(norm, out_channels, affine=affine, spatial=spatial),
            row.activation(),
            _dropout(dropout, spatial),
        )


def inner_width(in_channels: int, out_channels: int, reduction: float) -> int:
    """Inner channels n of :class:`BottleneckKAConv`, from the channels of one group."""
    n = int(max(in_channels, out_channels) / reduction)
    return n if n >= 16 else min(16, in_channels, out_channels)


def _row(kind: str, kinds: tuple[str, ...]) -> _Kind:
    if kind not in kinds:
        raise KANError(f"unknown kind of KA-convolution {kind!r}: choose one of {', '.join(kinds)}")
    return _KINDS[kind]


def _geometry(
    in_channels: int,
    out_channels: int,
    kernel_size: Size,
    stride: Size,
    padding: Size | None,
    dilation: Size,
    groups: int,
    spatial: int,
) -> dict[str, Any]:
    """The arguments that every convolution takes, checked."""
    if spatial not in _CONV:
        raise KANError(f"spatial must be 1, 2 or 3, got {spatial!r}")
    if min(in_channels, out_channels, groups) < 1 or in_channels % groups or out_channels % groups:
        raise KANError(
            f"in_channels and out_channels must be positive multiples of groups, got in_channels={in_channels}, "
            f"out_channels={out_channels}, groups={groups}"
        )
    kernel, spacing = _sizes("kernel_size", kernel_size, spatial), _sizes("dilation", dilation, spatial)
    if padding is None:
        padding = tuple(d * (k - 1) // 2 for d, k in zip(spacing, kernel, strict=True))
    return {
        "kernel_size": kernel,
        "stride": _sizes("stride", stride, spatial),
        "padding": _sizes("padding", padding, spatial, least=0),
        "dilation": spacing,
        "groups": groups,
    }


def _sizes(name: str, value: Size, spatial: int, least: int = 1) -> tuple[int, ...]:
    sizes = (value,) * spatial if isinstance(value, int) else tuple(value)
    if len(sizes) != spatial or min(sizes) < least:
        raise KANError(f"{name} must be one number or {spatial}, each at least {least}, got {value!r}")
    return sizes


def _norm(norm: str | None, channels: int, *, affine: bool, spatial: int) -> nn.Module:
    if norm is None:
        return nn.Identity()
    if norm not in get_args(ConvNorm):
        raise KANError(f"norm must be None, 'instance' or 'batch', got {norm!r}")
    return instance_norm(channels, affine) if norm == "instance" else _BATCH_NORM[spatial](channels, affine=affine)


def _dropout(p: float, spatial: int) -> nn.Module:
    if not 0 <= p < 1:
        raise KANError(f"dropout must lie in [0, 1), got {p!r}")
    return _DROPOUT[spatial](p) if p else nn.Identity()


def _base_branch(base: str, in_channels: int, out_channels: int, geometry: dict[str, Any], spatial: int) -> nn.Module:
    return nn.Sequential(_BASE[base](), _CONV[spatial](in_channels, out_channels, bias=False, **geometry))


def _basis(kind: str, options: dict[str, Any]) -> Basis:
    make = _KINDS[kind].basis
    assert make is not None
    basis: Basis = _with_options(kind, make, options)
    return basis


def _with_options(kind: str, make: Callable[..., Any], options: dict[str, Any]) -> Any:
    try:
        return make(**options)
    except TypeError as error:
        raise KANError(f"KA-convolution {kind!r}: {error}") from None


def _no_options(kind: str, options: dict[str, Any]) -> None:
    if options:
        raise KANError(f"the kind {kind!r} takes no options, got {', '.join(options)}")
