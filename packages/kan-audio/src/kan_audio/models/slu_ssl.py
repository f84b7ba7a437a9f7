"""A self-supervised speech encoder with a KAN in its dense head (spec card ``kan-slu.md``, sections 4 and 6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from kan_audio.frontends._waves import WaveNorm
from kan_audio.frontends.ssl import Freeze, Layers, SSLFrontEnd
from kan_audio.layers.dense_head import DenseHead, FinalActivation, head_twin
from kan_audio.layers.masked import masked_mean
from kan_audio.models._registry import register
from kan_core.errors import KANError

__all__ = ["SLUSSL"]


@register("slu_ssl")
class SLUSSL(nn.Module):
    """Hidden states of a speech encoder, their mean over the utterance's frames, a projection, dense head.

    Fine-tuned or frozen, and how pooled, the paper does not state: projection and mean are SUPERB's (arXiv 2105.01051).
    The logits of an utterance are the same alone and zero-padded in a batch, unless the encoder normalises over time:
    see `SSLFrontEnd`, which also says where weights come from (nothing is downloaded).

    Args:
        num_classes: Classes of each slot.
        sample_rate: Of the waveforms; the encoders take 16000 Hz only.
        placement: Where the head's KAN layers are, see `kan_audio.layers.dense_head.PLACEMENTS`.
        layer: What they are; ``"linear"`` for the ordinary twin.
        layer_kwargs: More arguments for them.
        width: Factor on the head's hidden widths.
        projection: Size of the embedding.
        hidden: The head's widths after its first and second layer.
        dropout: In the head's F groups.
        norm: Normalise what the KAN layers see.
        final_activation: Behind a last F, see `DenseHead`.
        ssl: The encoder: a name or a folder, see `SSLFrontEnd`.
        checkpoint: Its weights, None for random ones.
        wave_norm: What the weights expect of a waveform.
        ssl_layers: ``"last"``, or ``"weighted"`` for a learned sum of all layers.
        freeze: What stays as it is: ``"none"``, ``"extractor"`` (the convolutions) or ``"all"`` of the encoder.

    Raises:
        KANError: For another sample rate, and as `SSLFrontEnd` and `DenseHead`.

    Shape:
        - wave: ``(batch, samples)``; length: ``(batch,)`` samples that are sound, or None when all are
        - Output: ``(batch, sum(num_classes))`` logits, slot after slot

    Reference: "KAN you hear me?" (arXiv 2505.20176).
    """

    def __init__(
        self,
        num_classes: Sequence[int],
        sample_rate: int = 16000,
        placement: str = "FKF",
        layer: str = "bspline(grid_size=5, order=3)",
        layer_kwargs: dict[str, Any] | None = None,
        width: float = 1.0,
        projection: int = 256,
        hidden: tuple[int, int] = (256, 128),
        dropout: float = 0.1,
        norm: bool = True,
        final_activation: FinalActivation = "none",
        ssl: str = "small",
        checkpoint: str | None = None,
        wave_norm: WaveNorm = "none",
        ssl_layers: Layers = "weighted",
        freeze: Freeze = "none",
    ) -> None:
        super().__init__()
        if sample_rate != SSLFrontEnd.sample_rate:
            raise KANError(
                f"sample_rate is {sample_rate}, but speech encoders take {SSLFrontEnd.sample_rate}: resample"
            )
        self.features = SSLFrontEnd(ssl, checkpoint, wave_norm, ssl_layers, freeze)
        self.projection = nn.Linear(self.features.dim, projection)
        self.head = DenseHead(
            projection, sum(num_classes), placement, hidden, layer, layer_kwargs, width, dropout, norm, final_activation
        )

    twin_kwargs = staticmethod(head_twin)

    def embed(self, wave: Tensor, length: Tensor | None = None) -> Tensor:
        """``(batch, projection)``: the projected mean of the utterance's frames."""
        x, frames = self.features(wave, length)
        # the mean first: it commutes with the projection and is cheaper
        embedding: Tensor = self.projection(masked_mean(x.transpose(1, 2), frames.clamp(min=1)))
        return embedding

    def forward(self, wave: Tensor, length: Tensor | None = None) -> Tensor:
        """Logits of waveforms."""
        logits: Tensor = self.head(self.embed(wave, length))
        return logits
