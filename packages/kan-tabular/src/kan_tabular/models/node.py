"""TabKAN's variants with node activations: MLPs with a few more numbers per layer, and no functions on edges.

TabKAN counts them among its KANs. Here they are what they are: in each layer one learned activation is shared by all
units, behind an ordinary linear map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kan_tabular.models._registry import register
from kan_tabular.models.mlp import _Variant

__all__ = ["FKAN", "JacobiRKANMLP", "PadeRKANMLP"]


@register("fkan")
class FKAN(_Variant):
    r"""An `MLP` with fKAN's activation P_d^(α,β)(2 σ(x)^γ - 1), shared by all units of a layer.

    One degree for each hidden layer: ``activation=("fractional-jacobi(degree=2)", "fractional-jacobi(degree=4)")``.

    Parameters: those of the `MLP`, + 3 for each hidden layer.

    Reference: TabKAN (arXiv 2504.06559), fKAN (arXiv 2406.07456).
    """

    def __init__(
        self,
        cardinalities: Sequence[int],
        num_outputs: int,
        hidden: Sequence[int] = (64, 64),
        activation: str | Sequence[str] = "fractional-jacobi(degree=3)",
        **kwargs: Any,
    ) -> None:
        super().__init__(cardinalities, num_outputs, hidden, activation=activation, **kwargs)


@register("jacobi-rkan")
class JacobiRKANMLP(_Variant):
    r"""An `MLP` with rKAN's activation P_d^(α,β)(x/√(x² + ι²)), shared by all units of a layer.

    Parameters: those of the `MLP`, + 3 for each hidden layer.

    Reference: TabKAN (arXiv 2504.06559), rKAN (arXiv 2406.14495), its Jacobi form.
    """

    def __init__(
        self,
        cardinalities: Sequence[int],
        num_outputs: int,
        hidden: Sequence[int] = (64, 64),
        activation: str | Sequence[str] = "rational-jacobi(degree=3)",
        **kwargs: Any,
    ) -> None:
        super().__init__(cardinalities, num_outputs, hidden, activation=activation, **kwargs)


@register("pade-rkan")
class PadeRKANMLP(_Variant):
    r"""An `MLP` with rKAN's Padé activation P(σ(x))/Q(σ(x)), shared by all units of a layer; Q is held above 0.1.

    Parameters: those of the `MLP`, + 6 + n_p + n_q for each hidden layer.

    Reference: TabKAN (arXiv 2504.06559), rKAN (arXiv 2406.14495), its Padé form.
    """

    def __init__(
        self,
        cardinalities: Sequence[int],
        num_outputs: int,
        hidden: Sequence[int] = (64, 64),
        activation: str | Sequence[str] = "pade(numerator=4, denominator=3)",
        **kwargs: Any,
    ) -> None:
        super().__init__(cardinalities, num_outputs, hidden, activation=activation, **kwargs)
