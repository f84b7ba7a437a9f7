"""Dense classification heads with KAN layers in chosen places (spec card ``kan-slu.md``, sections 2, 3 and 6)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

from torch import Tensor, nn

from kan_core import bases, layers
from kan_core.errors import KANError
from kan_core.registry import parse_spec

__all__ = ["PLACEMENTS", "DenseHead", "FinalActivation", "check_head", "head_twin"]

PLACEMENTS = ("FFF", "K", "FFK", "FKK", "FKF", "FK")
"""Kinds of layer from the embedding to the logits; the paper's tables call ``"K"`` KAN."""

FinalActivation = Literal["none", "gelu"]


class DenseHead(nn.Module):
    """From an embedding to logits through up to three layers, each an ordinary group (F) or a KAN layer (K).

    F is Linear → GELU → Dropout → BatchNorm, and a plain Linear where it is the last. K stands in for such a group as a
    whole: it has no activation, dropout or norm behind it. Before it stands a LayerNorm without parameters, for most
    values of an embedding lie outside the grid of the functions otherwise.

    With the default layer the blocks 512 → 256 → 128 → 31 have 168 991 (FFF), 158 720 (K), 204 672 (FFK), 499 200
    (FKK), 463 519 (FKF) and 211 200 (FK) parameters. Hidden widths, grid, dropout and norm are our choice: the paper
    states none of them.

    Args:
        in_features: Size of the embedding.
        num_classes: Logits.
        placement: One of `PLACEMENTS`.
        hidden: Widths after the first and the second layer, as far as there are such.
        layer: What K is, see :func:`kan_core.layers.get`; ``"linear"`` makes every K an F, the ordinary twin.
        layer_kwargs: More arguments of the K layers. A basis gets ``{"edge_scale": True, "bias": False}`` unless they
            say otherwise.
        width: Factor on the hidden widths (rounded), for twins of equal size.
        dropout: Of the F groups.
        norm: Normalise what the K layers see.
        final_activation: ``"gelu"`` puts one behind a last F as well, as the paper's formula has it; such logits cannot
            fall below -0.17.

    Raises:
        KANError: For another placement, a layer or arguments that do not fit, or a final activation behind a K.

    Shape:
        - Input: ``(batch, in_features)``, at least two rows while training a placement with a hidden F
        - Output: ``(batch, num_classes)``

    Reference: "KAN you hear me?" (arXiv 2505.20176).
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        placement: str = "FKF",
        hidden: tuple[int, int] = (256, 128),
        layer: str = "bspline(grid_size=5, order=3)",
        layer_kwargs: dict[str, Any] | None = None,
        width: float = 1.0,
        dropout: float = 0.1,
        norm: bool = True,
        final_activation: FinalActivation = "none",
    ) -> None:
        super().__init__()
        kinds = check_head(placement, layer, final_activation)
        inner = [max(1, round(size * width)) for size in hidden[: len(kinds) - 1]]
        sizes = [in_features, *inner, num_classes]
        make_kan = _kan_layer(layer, layer_kwargs, norm)
        groups: list[nn.Module] = []
        for index, kind in enumerate(kinds):
            n_in, n_out = sizes[index], sizes[index + 1]
            if kind == "K":
                groups.append(make_kan(n_in, n_out))
            elif index < len(kinds) - 1:
                groups.append(_ordinary(n_in, n_out, dropout))
            else:
                groups.append(nn.Linear(n_in, n_out))
        if final_activation == "gelu":
            groups.append(nn.GELU())
        self.groups = nn.Sequential(*groups)
        self._needs_pairs = "F" in kinds[:-1]

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, in_features)`` to ``(batch, num_classes)``."""
        if self.training and self._needs_pairs and len(x) < 2:
            raise KANError("batch_size=1: batch normalisation of the head needs at least 2 utterances to train on")
        logits: Tensor = self.groups(x)
        return logits


def check_head(placement: str, layer: str, final_activation: str = "none") -> str:
    """The kinds of a head's layers, once its K layers are what `layer` says: F for ``"linear"``.

    Raises:
        KANError: For an unknown placement or final activation, or one that would stand behind a KAN layer.
    """
    if placement not in PLACEMENTS:
        raise KANError(f"placement must be one of {', '.join(PLACEMENTS)}, got {placement!r}")
    if final_activation not in get_args(FinalActivation):
        raise KANError(
            f"final_activation must be one of {', '.join(get_args(FinalActivation))}, got {final_activation!r}"
        )
    kinds = placement.replace("K", "F") if layer == "linear" else placement
    if final_activation == "gelu" and kinds.endswith("K"):
        raise KANError(
            f"final_activation='gelu' belongs behind a last F, but placement={placement!r} ends in a KAN layer"
        )
    return kinds


def head_twin(model_kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of the ordinary network of a model with such a head: `model_kwargs` themselves for FFF."""
    if model_kwargs.get("placement") == "FFF" or model_kwargs.get("layer") == "linear":
        return model_kwargs
    return {key: value for key, value in model_kwargs.items() if key != "layer_kwargs"} | {"layer": "linear"}


def _ordinary(n_in: int, n_out: int, dropout: float) -> nn.Module:
    return nn.Sequential(nn.Linear(n_in, n_out), nn.GELU(), nn.Dropout(dropout), nn.BatchNorm1d(n_out))


def _kan_layer(layer: str, layer_kwargs: dict[str, Any] | None, norm: bool) -> Callable[[int, int], nn.Module]:
    factory = layers.get(layer)
    is_basis = parse_spec(layer, kind="layer")[0] in bases.names()
    options = {**({"edge_scale": True, "bias": False} if is_basis else {}), **(layer_kwargs or {})}

    def make(n_in: int, n_out: int) -> nn.Module:
        try:
            kan = factory(n_in, n_out, **options)
        except TypeError as error:
            raise KANError(f"layer {layer!r} refuses its layer_kwargs: {error}") from None
        return nn.Sequential(nn.LayerNorm(n_in, elementwise_affine=False), kan) if norm else kan

    return make
