"""The gated residual KAN: two layers, a gate, a skip connection and a normalisation."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kan_core import bases
from kan_core.errors import KANError
from kan_core.layers._base import BASE_FUNCTIONS
from kan_core.layers._common import at_least_float32, check_input, check_sizes
from kan_core.layers._norm import make_norm
from kan_core.layers._registry import LayerFactory, get, register
from kan_core.registry import parse_spec

_OUTPUT_ACTIVATIONS = BASE_FUNCTIONS | {"sigmoid": torch.sigmoid, "softmax": partial(torch.softmax, dim=-1)}


@register("grkan")
class GatedResidualKAN(nn.Module):
    r"""Gated residual network with KAN layers: what a layer adds to its skip connection passes a learned gate.

    "GRKAN" here is *gated residual*. The *group-rational* KAN of KAT is another layer, registered as ``"gr-kan"``.
    With ``layer="linear"`` it is the gated residual network (GRN) of the MLP world, ELU included: its twin.

    Equation: y = φ(LN(W_s x + b_s + v ⊙ σ(g))), [v, g] = W_g KAN₂(KAN₁(x)) + b_g

    Reference: KAMoE (arXiv 2409.15161).

    Avoids: LayerNorm over a single output, which is a constant: one output is not normalised.

    Args:
        in_features: Size of each input sample.
        out_features: Size of each output sample.
        hidden_features: Width between the two layers; None for out_features.
        layer: What KAN₁ and KAN₂ are made by, or a pair of those. The name of a basis stands for a ``KANLinear``
            without a bias, whose base branch is ELU in KAN₁ and SiLU in KAN₂ (the code of the paper has ReLU there:
            give a pair of factories). ``"linear"`` as KAN₁ is followed by ELU. Anything else is taken as it is.
        activation: φ: None, ``"sigmoid"``, ``"softmax"`` (over the outputs), ``"silu"``, ``"identity"``, ``"relu"``,
            ``"gelu"``, ``"elu"`` or ``"tanh"``.
        project_skip: Project the skip connection always (the code of the paper). False keeps the input itself where
            in_features equals out_features (the paper).
        dropout: Probability of a zero after KAN₂.
        bias: Constants in the projections and in layers made by ``"linear"``.
        device: Where the parameters live.
        dtype: Type of the parameters.

    Raises:
        KANError: For an unknown layer or activation, a size below 1, or an input of another size.

    Shape:
        - Input: ``(..., in_features)``
        - Output: ``(..., out_features)``

    Parameters: with a B-spline of K functions, (in · out + out) + in · hidden · (K + 1) + hidden² · (K + 1) +
    2 (hidden · out + out) + 2 out.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        hidden_features: int | None = None,
        layer: LayerFactory | str | tuple[LayerFactory | str, LayerFactory | str] = "bspline(grid_size=3)",
        activation: str | None = None,
        project_skip: bool = True,
        dropout: float = 0.0,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        hidden = out_features if hidden_features is None else hidden_features
        check_sizes(in_features, out_features)
        check_sizes(in_features, hidden)
        if activation is not None and activation not in _OUTPUT_ACTIVATIONS:
            known = ", ".join(_OUTPUT_ACTIVATIONS)
            raise KANError(f"activation must be None or one of {known}, got {activation!r}")
        self.in_features = in_features
        self.out_features = out_features
        self.output_activation = activation
        linear = partial(nn.Linear, bias=bias, device=device, dtype=dtype)
        project = project_skip or in_features != out_features
        self.skip = linear(in_features, out_features) if project else nn.Identity()
        first, second = layer if isinstance(layer, tuple) else (layer, layer)
        self.first = _stage(first, "elu", bias)(in_features, hidden, device=device, dtype=dtype)
        self.activation = nn.ELU() if first == "linear" else nn.Identity()
        self.second = _stage(second, "silu", bias)(hidden, hidden, device=device, dtype=dtype)
        self.dropout = nn.Dropout(dropout)
        self.gate = linear(hidden, 2 * out_features)
        self.norm = make_norm("layer", out_features, device, dtype)

    def reset_parameters(self) -> None:
        """Draw new weights in every part."""
        reset_children(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., in_features)`` to ``(..., out_features)``."""
        check_input(x, self.in_features)
        hidden = self.dropout(self.second(self.activation(self.first(x))))
        gated: Tensor = self.gate(hidden)
        y: Tensor = self.skip(x) + F.glu(at_least_float32(gated), dim=-1)
        if self.norm is not None:
            y = at_least_float32(self.norm(y.to(self.gate.weight.dtype)))
        if self.output_activation is not None:
            y = _OUTPUT_ACTIVATIONS[self.output_activation](y)
        return y.to(gated.dtype)

    def extra_repr(self) -> str:
        """The arguments, for ``repr``."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"output_activation={self.output_activation!r}"
        )


def _stage(layer: LayerFactory | str, base: str, bias: bool) -> LayerFactory:
    """The factory of KAN₁ or KAN₂: the named bases get the paper's base branch and no bias."""
    if layer == "linear":
        return partial(nn.Linear, bias=bias)
    factory = get(layer)
    if isinstance(layer, str) and parse_spec(layer)[0] in bases.names():
        return partial(factory, base=base, bias=False)
    return factory


def reset_children(module: nn.Module) -> None:
    """Draw new weights in every part of a module: each resets itself, and parts that cannot are descended into."""
    for child in module.children():
        reset = getattr(child, "reset_parameters", None)
        if callable(reset):
            reset()
        else:
            reset_children(child)
