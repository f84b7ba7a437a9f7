"""Rational activations: Padé units (PAU), KAT's group-rational KAN, and the linear layers behind them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from kan_core.bases._base import check_at_least
from kan_core.errors import KANError
from kan_core.layers._activated import ActivatedLinear, Activation
from kan_core.layers._common import at_least_float32, check_input
from kan_core.layers._rational_fits import FITS
from kan_core.layers._registry import register
from kan_core.ops.group_rational import DENOMINATORS, group_rational

FORMS: dict[str, str] = {**{form: form for form in DENOMINATORS}, "noisy": "abs_of_sum"}
"""The forms of Q, and the form that computes each."""

_INITS = ("identity", *FITS, "silu")


class Rational(Activation):
    r"""A learned rational function F = P/Q per contiguous group of features, P = Σ_{i=0..m} a_i xⁱ.

    Forms of Q (sums over i = 1..n; the letters are PAU's):

    - ``"sum_of_abs"`` (A): 1 + Σ |b_i| |x|ⁱ, never below 1; what KAT's released kernels compute
    - ``"abs_of_sum"`` (B): 1 + |Σ b_i xⁱ|, never below 1; PAU's default and KAT's equation
    - ``"floor"`` (C): 0.1 + |b_0 + Σ b_i xⁱ|, never below 0.1
    - ``"noisy"`` (D): B with uniform ±10 % noise on every a_i in training, from torch's global generator
    - ``"free"`` (N): 1 + Σ b_i xⁱ: training may move a pole onto the data

    The initial coefficients (``scripts/fit_rational.py``) use only b_2, b_4 ≥ 0, where all forms are the same
    function: an initialisation is never that of another form. Largest errors on [−3, 3]: sigmoid 1.8e-9, swish 4.6e-7,
    tanh 1.4e-6, gelu 1.4e-3, relu and leaky_relu (slope 0.01) 1.4e-2; "identity" is exact. With m = n + 1 every F
    grows as (a_m/|b_n|) x at both ends, so far outside the fit leaves its target: normalise large inputs.

    The derivative of |b_i| and |Σ| at 0 is +1 as in KAT's kernels: with that of ``torch.abs``, 0, the zero
    denominators of "identity" would never learn. In float32 F is finite for |x| ≤ 1e7 when |a_i| ≤ 1, m = 5
    (see :mod:`kan_core.ops.group_rational.reference`). Half-precision inputs are evaluated in float32.

    Args:
        num_features: Size of the last dimension.
        groups: g, a divisor of `num_features`: features i with equal ⌊i g / num_features⌋ share a function.
        form: One of the five above.
        init: ``"identity"``, ``"swish"`` or ``"silu"``, ``"gelu"``, ``"relu"``, ``"leaky_relu"``, ``"tanh"`` or
            ``"sigmoid"``. All but the identity need m ≥ 5 and n ≥ 4; higher coefficients start at 0.
        numerator: m, degree of P, at least 1.
        denominator: n, degree of Q, at least 1.
        share_numerator: One numerator for all groups.
        share_denominator: One denominator for all groups.
        backend: ``"auto"``, ``"reference"``, ``"cpu"``, ``"native"`` or ``"triton"``, see
            :data:`kan_core.ops.BACKENDS`.
        device: Where the coefficients live.
        dtype: Type of the coefficients.

    Raises:
        KANError: For a size, form, init or degree that is not allowed, or an input of another size.

    Shape:
        - Input: ``(..., num_features)``
        - Output: the same
        - numerator: ``(1 or g, m + 1)``; denominator: ``(1 or g, n)``, with b_0 ``(1 or g, n + 1)`` for "floor"

    Parameters: m + 1 + n g by default: 38 for KAT's (5, 4) in 8 groups, 10 for PAU's one group.

    References: PAU (arXiv 1907.06732); KAT (arXiv 2409.10594), sections 4.2 and 4.3.
    """

    def __init__(
        self,
        num_features: int,
        *,
        groups: int = 8,
        form: str = "sum_of_abs",
        init: str = "swish",
        numerator: int = 5,
        denominator: int = 4,
        share_numerator: bool = True,
        share_denominator: bool = False,
        backend: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.num_features = check_at_least("num_features", num_features, 1)
        self.groups = check_at_least("groups", groups, 1)
        if num_features % groups:
            raise KANError(f"groups must divide num_features, got groups={groups} and num_features={num_features}")
        if form not in FORMS:
            raise KANError(f"form must be one of {', '.join(FORMS)}, got {form!r}")
        self.form = form
        self.init = init
        self.backend = backend
        self.degrees = check_at_least("numerator", numerator, 1), check_at_least("denominator", denominator, 1)
        a, b = self._initial()

        def parameter(size: int, shared: bool) -> nn.Parameter:
            return nn.Parameter(torch.empty(1 if shared else groups, size, device=device, dtype=dtype))

        self.numerator = parameter(len(a), share_numerator)
        self.denominator = parameter(len(b), share_denominator)
        self.reset_parameters()

    def _initial(self) -> tuple[list[float], list[float]]:
        """a_0 … a_m and b_1 … b_n (from b_0 for "floor") of the initial function."""
        m, n = self.degrees
        if self.init not in _INITS:
            raise KANError(f"init must be one of {', '.join(_INITS)}, got {self.init!r}")
        if self.init != "identity" and (m < 5 or n < 4):
            raise KANError(
                f"init={self.init!r} is fitted for numerator=5 and denominator=4 or more, got {m} and {n}: "
                "below them only init='identity' exists"
            )
        fitted = FITS.get("swish" if self.init == "silu" else self.init, ((0.0, 1.0), ()))
        a, b = ([*values] + [0.0] * (size - len(values)) for values, size in zip(fitted, (m + 1, n), strict=True))
        return a, [0.9, *b] if self.form == "floor" else b

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Set the coefficients of `init` in every group; nothing is drawn."""
        for parameter, values in zip((self.numerator, self.denominator), self._initial(), strict=True):
            parameter.copy_(torch.tensor(values, dtype=torch.float64))

    def evaluate(self, x: Tensor) -> Tensor:
        """F at `x`, of any floating type: ``(..., num_features)`` to the same shape and type."""
        check_input(x, self.num_features)
        numerator = at_least_float32(self.numerator)
        if self.form == "noisy" and self.training:
            numerator = numerator * torch.empty_like(numerator).uniform_(0.9, 1.1)
        return group_rational(x, numerator, self.denominator, form=FORMS[self.form], backend=self.backend)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., num_features)`` to the same shape and type; the op widens half precision itself."""
        return self.evaluate(x)

    def elementwise_flops(self, numel: int) -> int:
        """KAT's count: 2m + 2n + 3 for each of `numel` numbers."""
        m, n = self.degrees
        return numel * (2 * m + 2 * n + 3)

    def extra_repr(self) -> str:
        """The arguments, for ``repr``."""
        m, n = self.degrees
        return (
            f"num_features={self.num_features}, groups={self.groups}, form={self.form!r}, init={self.init!r}, "
            f"numerator={m}, denominator={n}, share_numerator={len(self.numerator) < self.groups}, "
            f"share_denominator={len(self.denominator) < self.groups}"
        )


@register("gr-kan")
class GroupRationalLinear(ActivatedLinear):
    r"""KAT's GR-KAN: a rational function per group of inputs FIRST, then a linear map.

    KAT's block is ``FeedForward(d, layer=("gr-kan(init='identity')", "gr-kan(init='swish')"))``. To start from a
    trained ViT, copy the MLP's layers into :attr:`linear` of both and take ``init="gelu"`` for the second.

    Equation: φ_{o,i}(x) = W[o,i] P(x)/Q_g(x), P = Σ_{j≤5} a_j xʲ, Q_g = 1 + Σ_{1≤j≤4} |b_{g,j}| |x|ʲ, g = group of i

    Reference: KAT (arXiv 2409.10594), sections 4.2 to 4.4.

    Avoids: a fallback that computes another function than the kernel (with poles), a "gelu" fitted for another form
    (error 1.5), features that are dropped when the groups do not divide, and the overwritten variance-preserving draw.

    Args:
        in_features: Size of each input sample.
        out_features: Size of each output sample.
        groups: A divisor of `in_features`; None for the greatest that also divides KAT's 8.
        form: Form of the denominator, see :class:`Rational`.
        init: Initial function, see :class:`Rational`.
        numerator: Degree of P.
        denominator: Degree of Q.
        share_numerator: One numerator for all groups.
        share_denominator: One denominator for all groups.
        std: Standard deviation of the initial weights: 0.02 is what KAT's released runs used; None keeps the variance
            of standard normal inputs, see :meth:`~kan_core.layers._activated.ActivatedLinear.reset_parameters`.
        bias: Add one constant per output.
        backend: Of the activation, see :class:`Rational`.
        device: Where the parameters live.
        dtype: Type of the parameters.

    Raises:
        KANError: For what :class:`Rational` refuses, sizes below 1 or an input of another size.

    Shape:
        - Input: ``(..., in_features)``
        - Output: ``(..., out_features)``

    Parameters: in · out + 6 + 4 · groups, + out with bias.

    Example:
        >>> GroupRationalLinear(64, 32)(torch.zeros(10, 64)).shape
        torch.Size([10, 32])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        groups: int | None = None,
        form: str = "sum_of_abs",
        init: str = "swish",
        numerator: int = 5,
        denominator: int = 4,
        share_numerator: bool = True,
        share_denominator: bool = False,
        std: float | None = None,
        bias: bool = True,
        backend: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        activation = Rational(
            in_features,
            groups=math.gcd(8, in_features) if groups is None else groups,
            form=form,
            init=init,
            numerator=numerator,
            denominator=denominator,
            share_numerator=share_numerator,
            share_denominator=share_denominator,
            backend=backend,
            device=device,
            dtype=dtype,
        )
        super().__init__(activation, in_features, out_features, std=std, bias=bias, device=device, dtype=dtype)


@register("pade")
class PadeLinear(GroupRationalLinear):
    r"""A Padé activation unit and then a linear map: one rational function for the whole layer.

    Equation: φ_{o,i}(x) = W[o,i] P(x)/Q(x), P = Σ_{j≤5} a_j xʲ, Q = 1 + |Σ_{1≤j≤4} b_j xʲ|

    Reference: PAU (arXiv 1907.06732).

    Avoids: initial coefficients taken from a table that was fitted for another form of the denominator.

    Args:
        in_features: Size of each input sample.
        out_features: Size of each output sample.
        form: Form of the denominator, see :class:`Rational`.
        init: Initial function, see :class:`Rational`.
        numerator: Degree of P.
        denominator: Degree of Q.
        std: Standard deviation of the initial weights; None keeps the variance of standard normal inputs.
        bias: Add one constant per output.
        backend: Of the activation, see :class:`Rational`.
        device: Where the parameters live.
        dtype: Type of the parameters.

    Raises:
        KANError: For what :class:`Rational` refuses, sizes below 1 or an input of another size.

    Parameters: in · out + 10, + out with bias.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        form: str = "abs_of_sum",
        init: str = "leaky_relu",
        numerator: int = 5,
        denominator: int = 4,
        std: float | None = None,
        bias: bool = True,
        backend: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            in_features,
            out_features,
            groups=1,
            form=form,
            init=init,
            numerator=numerator,
            denominator=denominator,
            std=std,
            bias=bias,
            backend=backend,
            device=device,
            dtype=dtype,
        )
