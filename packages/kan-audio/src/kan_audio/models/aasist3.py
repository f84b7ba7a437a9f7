"""AASIST3: AASIST's graph attention with KAN layers for its maps, on self-supervised or log-mel features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from kan_audio.frontends._waves import WaveNorm, check_wave_norm, normalise, pre_emphasis
from kan_audio.frontends.log_mel import LogMel
from kan_audio.frontends.ssl import Freeze, Layers, SSLFrontEnd
from kan_audio.layers.graph import Activation, Layer
from kan_audio.models._registry import register
from kan_audio.models.aasist import GraphHead, ResidualEncoder, SpectrumNorm, scaled
from kan_core import bases, layers
from kan_core.errors import KANError
from kan_core.registry import parse_spec

__all__ = ["AASIST3", "AASIST3Head", "AASIST3Mel"]

LAYER = "bspline(grid_size=16, order=4)"
"""The published layer: quartic splines on 16 intervals of [-1, 1]."""

KAN_KWARGS: dict[str, Any] = {"base": "prelu", "edge_scale": True, "bias": False}
"""The rest of the published layer: PReLU as base function, one factor per edge, no bias."""


def default_layer_kwargs(layer: Layer, layer_kwargs: dict[str, Any] | None) -> dict[str, Any]:
    """`layer_kwargs`, or when None the published ones for a layer that is made of a basis, and none for others."""
    if layer_kwargs is not None:
        return layer_kwargs
    of_basis = isinstance(layer, str) and parse_spec(layer, kind="layer")[0] in bases.names()
    return KAN_KWARGS if of_basis else {}


class AASIST3Head(nn.Module):
    """Everything of AASIST3 behind its features: bridge, encoder without time pooling, graph attention, four branches.

    The bridge is one KAN layer on every frame; what it makes is the frequency axis of the encoder.

    Args:
        in_features: Features per frame.
        frames: For which the table of temporal positions is made; for other lengths it is interpolated.
        bridge_features: Outputs of the bridge.
        channels: Of the encoder's blocks, at ``width=1``.
        graph_dims: Features of a node in the first attention and in the branches, at ``width=1``.
        ratios: Shares of nodes that the pools keep: spectral, temporal, branches.
        temperatures: Of the attentions: spectral, temporal, branches.
        branches: How many.
        hsgal_activation: Behind the branches' attention: "none", as in the authors' code, or "selu".
        layer: Kind of every map, see :func:`kan_core.layers.get`.
        layer_kwargs: More arguments for the maps; None: those of the published layer, or for a layer that is not made
            of a basis, such as "linear", nothing.
        width: Factor on `channels` and `graph_dims`, for matched twins.
        legacy_preact: Own the batch norms that the reference throws away, see :class:`~kan_audio.models.aasist.AASIST`.
        checkpoint: Compute maps of pairs again in the backward pass: less memory, more time.

    Raises:
        KANError: For an option out of its range, or fewer than 3 frames.

    Shape:
        - Input: ``(batch, frames, in_features)``
        - Output: logits ``(batch, 2)`` of spoof and bona fide

    Parameters: 271 040 (G + K + 2) + 82 + 220 226 with splines of degree K on G intervals and 1024 features: 6 183 188
    with the published G = 16, K = 4.

    Reference: Borodin et al., AASIST3 (arXiv 2408.17352); card facts only, no code of the authors was used.
    """

    def __init__(
        self,
        in_features: int,
        frames: int,
        bridge_features: int = 128,
        channels: Sequence[int] = (32, 32, 64, 64, 64, 64),
        graph_dims: tuple[int, int] = (64, 32),
        ratios: tuple[float, float, float] = (0.5, 0.7, 0.5),
        temperatures: tuple[float, float, float] = (2.0, 2.0, 100.0),
        branches: int = 4,
        hsgal_activation: Activation = "none",
        layer: Layer = LAYER,
        layer_kwargs: dict[str, Any] | None = None,
        width: float = 1.0,
        legacy_preact: bool = True,
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        layer_kwargs = default_layer_kwargs(layer, layer_kwargs)
        channels = scaled(channels, width)
        inside, outside = scaled(graph_dims, width)
        self.bridge = layers.get(layer)(in_features, bridge_features, **layer_kwargs)
        self.spectrum = SpectrumNorm()
        self.encoder = ResidualEncoder(channels, pool_time=False, legacy_preact=legacy_preact)
        self.graph = GraphHead(
            channels[-1],
            bands=bridge_features // 3,
            graph_dims=(inside, outside),
            ratios=ratios,
            temperatures=temperatures,
            branches=branches,
            frames=frames // 3,
            hsgal_activation=hsgal_activation,
            layer=layer,
            layer_kwargs=layer_kwargs,
            checkpoint=checkpoint,
        )
        self.embedding_features = self.graph.embedding_features

    def features(self, x: Tensor) -> Tensor:
        """The encoder's map: ``(batch, channels, bridge_features // 3, frames // 3)``."""
        if x.shape[1] < 3:
            raise KANError(f"AASIST3 needs at least 3 frames of features, got {x.shape[1]}: use longer waveforms")
        e: Tensor = self.encoder(self.spectrum(self.bridge(x).transpose(1, 2)))
        return e

    def embed(self, x: Tensor) -> Tensor:
        """``(batch, frames, in_features) -> (batch, embedding_features)``; in training after dropout 0.5."""
        return self.graph.embed(self.features(x))

    def forward(self, x: Tensor) -> Tensor:
        """Logits of spoof and bona fide, ``(batch, 2)``."""
        logits: Tensor = self.graph(self.features(x))
        return logits


class AASIST3(nn.Module):
    """AASIST3 on the hidden states of a self-supervised speech encoder.

    Waveforms are pre-emphasised, normalised each by itself, encoded, and judged by :class:`AASIST3Head`. The reference
    pre-emphasises a file before it is cut; here the first sample of a window counts as if silence came before it.
    Nothing is downloaded: without a checkpoint or a folder the encoder's weights are random.

    Args:
        sample_rate: Of the waveforms; the encoders are made for 16000 Hz.
        ssl: Name of the encoder, or a folder that transformers has saved: see
            :class:`~kan_audio.frontends.ssl.SSLFrontEnd`.
        ssl_checkpoint: Local file with the encoder's weights.
        ssl_layers: ``"last"`` hidden state, or the ``"weighted"`` sum of all.
        ssl_freeze: What of the encoder is not trained: ``"none"``, ``"extractor"``, ``"all"``.
        wave_norm: ``"peak"`` as published, ``"zscore"`` or ``"none"``.
        emphasis: Coefficient of the pre-emphasis; 0 for none.
        num_samples: Length of the training windows, for the table of temporal positions.
        **head: More arguments of :class:`AASIST3Head`, such as ``layer``, ``layer_kwargs`` and ``width``.

    Raises:
        KANError: For an option out of its range, or waveforms of fewer than 1040 samples.

    Shape:
        - Input: ``(batch, samples)``
        - Output: logits ``(batch, 2)`` of spoof and bona fide; the second one is the score

    Parameters: of the encoder (315 437 696 for "wav2vec2_xlsr_300m") and of the head (6 183 188).
    """

    def __init__(
        self,
        sample_rate: int = 16000,
        ssl: str = "wav2vec2_xlsr_300m",
        ssl_checkpoint: str | None = None,
        ssl_layers: Layers = "last",
        ssl_freeze: Freeze = "none",
        wave_norm: WaveNorm = "peak",
        emphasis: float = 0.97,
        num_samples: int = 64600,
        **head: Any,
    ) -> None:
        super().__init__()
        if sample_rate != SSLFrontEnd.sample_rate:
            raise KANError(
                f"speech encoders are made for sample_rate={SSLFrontEnd.sample_rate}, got {sample_rate}: resample, or "
                "use aasist3_mel"
            )
        self.emphasis = emphasis
        self.front_end = SSLFrontEnd(ssl, ssl_checkpoint, wave_norm, ssl_layers, ssl_freeze)
        frames = self.front_end.frames(num_samples)
        self.head = AASIST3Head(self.front_end.dim, frames, **head)
        self.embedding_features = self.head.embedding_features

    def features(self, wave: Tensor) -> Tensor:
        """The encoder's hidden states, ``(batch, frames, features)``."""
        hidden: Tensor = self.front_end(pre_emphasis(wave, self.emphasis))[0]
        return hidden

    def embed(self, wave: Tensor) -> Tensor:
        """``(batch, samples) -> (batch, embedding_features)``; in training after dropout 0.5."""
        return self.head.embed(self.features(wave))

    def forward(self, wave: Tensor) -> Tensor:
        """Logits of spoof and bona fide, ``(batch, 2)``."""
        logits: Tensor = self.head(self.features(wave))
        return logits


class AASIST3Mel(nn.Module):
    """AASIST3's head, small, on log-mel features: trains from scratch on a CPU.

    Waveforms are pre-emphasised and normalised to their peak as in :class:`AASIST3`. The log-mel features keep their
    mean over time, which tells channels and vocoders apart; batch normalisation of each band brings them onto the grid
    of the bridge's functions.

    Args:
        sample_rate: Of the waveforms, in Hz.
        n_mels: Bands of the features.
        wave_norm: ``"peak"``, ``"zscore"`` or ``"none"``.
        emphasis: Coefficient of the pre-emphasis; 0 for none.
        num_samples: Length of the training windows, for the table of temporal positions; None: one second.
        layer: Kind of every map, see :func:`kan_core.layers.get`; fewer intervals than in the published layer.
        **head: More arguments of :class:`AASIST3Head`; its sizes are smaller here by default.

    Raises:
        KANError: For an option out of its range, or waveforms of fewer than 2 hops (20 ms).

    Shape:
        - Input: ``(batch, samples)``
        - Output: logits ``(batch, 2)`` of spoof and bona fide; the second one is the score
    """

    def __init__(
        self,
        sample_rate: int = 16000,
        n_mels: int = 64,
        wave_norm: WaveNorm = "peak",
        emphasis: float = 0.97,
        num_samples: int | None = None,
        layer: Layer = "bspline(grid_size=5, order=3)",
        **head: Any,
    ) -> None:
        super().__init__()
        check_wave_norm(wave_norm)
        self.wave_norm = wave_norm
        self.emphasis = emphasis
        self.front_end = LogMel(sample_rate, n_mels, mean_norm=False)
        self.norm = nn.BatchNorm1d(n_mels)
        frames = 1 + (num_samples or sample_rate) // self.front_end.hop
        small = {"bridge_features": 48, "channels": (16,) * 6, "graph_dims": (16, 8), "legacy_preact": False}
        self.head = AASIST3Head(n_mels, frames, layer=layer, **{**small, **head})
        self.embedding_features = self.head.embedding_features

    def features(self, wave: Tensor) -> Tensor:
        """Normalised log-mel features, ``(batch, frames, n_mels)``."""
        wave = normalise(pre_emphasis(wave, self.emphasis), None, self.wave_norm)
        bands: Tensor = self.norm(self.front_end(wave)[0])
        return bands.transpose(1, 2)

    def embed(self, wave: Tensor) -> Tensor:
        """``(batch, samples) -> (batch, embedding_features)``; in training after dropout 0.5."""
        return self.head.embed(self.features(wave))

    def forward(self, wave: Tensor) -> Tensor:
        """Logits of spoof and bona fide, ``(batch, 2)``."""
        logits: Tensor = self.head(self.features(wave))
        return logits


@register("aasist3")
def aasist3(**kwargs: Any) -> AASIST3:
    """AASIST3 as published: XLSR (300 million parameters) and a head of 6 183 188."""
    return AASIST3(**kwargs)


@register("aasist3_small")
def aasist3_small(**kwargs: Any) -> AASIST3:
    """AASIST3 on a speech encoder of 0.6 million parameters, to be trained from scratch."""
    return AASIST3(**{"ssl": "small", **kwargs})


@register("aasist3_mel")
def aasist3_mel(**kwargs: Any) -> AASIST3Mel:
    """AASIST3's head on log-mel features, about 0.13 million parameters."""
    return AASIST3Mel(**kwargs)
