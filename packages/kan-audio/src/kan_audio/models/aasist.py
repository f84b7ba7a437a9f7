"""AASIST: spoofing detection by attention over the spectral and temporal nodes of a waveform's filter bank."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kan_audio.frontends.sinc import SincFilters
from kan_audio.layers.graph import Activation, GraphAttention, GraphPool, HeterogeneousGraphAttention, Layer
from kan_audio.models._registry import register
from kan_core import layers
from kan_core.errors import KANError

__all__ = ["AASIST", "GraphHead", "ResidualEncoder", "SpectrumNorm", "scaled"]

MIN_SAMPLES = 2315
"""128 samples go to the filters, and then seven poolings by three must leave one frame."""


class SpectrumNorm(nn.Module):
    """Magnitudes, max-pooled 3 x 3 over bands and time, batch normalised, SELU: the encoder's input of one channel.

    Parameters: 2.
    """

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1)

    def forward(self, bands: Tensor) -> Tensor:
        """``(batch, bands, frames) -> (batch, 1, bands // 3, frames // 3)``."""
        return F.selu(self.norm(F.max_pool2d(bands.abs()[:, None], 3)))


class ResidualBlock(nn.Module):
    """conv 2 x 3, batch norm, SELU, conv 2 x 3, plus a shortcut; then, with `pool_time`, a third of the frames.

    The first convolution pads one band and one frame on each side, the second one frame: sizes stay. The shortcut is a
    convolution 1 x 3 where the channels change.

    Args:
        in_channels: Channels before.
        out_channels: Channels after.
        pool_time: Max-pool three frames to one.
        legacy_preact: Own the batch norm that the reference computes before the first convolution and throws away. It
            is frozen and never runs; it is there for the published counts and weights.
    """

    def __init__(self, in_channels: int, out_channels: int, pool_time: bool, legacy_preact: bool) -> None:
        super().__init__()
        if legacy_preact:
            self.unused_norm = nn.BatchNorm2d(in_channels).requires_grad_(False)
        self.conv1 = nn.Conv2d(in_channels, out_channels, (2, 3), padding=(1, 1))
        self.norm = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, (2, 3), padding=(0, 1))
        same = in_channels == out_channels
        self.shortcut = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, (1, 3), padding=(0, 1))
        self.pool = nn.MaxPool2d((1, 3)) if pool_time else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, in_channels, bands, frames) -> (batch, out_channels, bands, frames or frames // 3)``."""
        y = self.conv2(F.selu(self.norm(self.conv1(x))))
        pooled: Tensor = self.pool(y + self.shortcut(x))
        return pooled


class ResidualEncoder(nn.Sequential):
    """Residual blocks from one channel on (RawNet2's encoder over two axes).

    Args:
        channels: Output channels of each block.
        pool_time: Max-pool three frames to one in every block.
        legacy_preact: See :class:`ResidualBlock`; the first block has none.
    """

    def __init__(self, channels: Sequence[int], pool_time: bool, legacy_preact: bool) -> None:
        super().__init__(
            *(
                ResidualBlock(before, after, pool_time, legacy_preact and index > 0)
                for index, (before, after) in enumerate(pairwise([1, *channels]))
            )
        )


class Branch(nn.Module):
    """Two heterogeneous attention layers with a stack node of their own, pooled in between; the second is residual.

    Args:
        in_features: Features of a node before.
        out_features: Features of a node after.
        ratio: Share of the nodes of both kinds that stay between the layers.
        **attention: Arguments of both :class:`~kan_audio.layers.graph.HeterogeneousGraphAttention`.
    """

    def __init__(self, in_features: int, out_features: int, ratio: float, **attention: Any) -> None:
        super().__init__()
        maps = {key: attention[key] for key in ("layer", "layer_kwargs")}
        self.stack = nn.Parameter(torch.randn(1, 1, in_features))
        self.first = HeterogeneousGraphAttention(in_features, out_features, **attention)
        self.pool_temporal = GraphPool(out_features, ratio, **maps)
        self.pool_spectral = GraphPool(out_features, ratio, **maps)
        self.second = HeterogeneousGraphAttention(out_features, out_features, **attention)

    def forward(self, temporal: Tensor, spectral: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Temporal nodes, spectral nodes, stack node."""
        temporal, spectral, stack = self.first(temporal, spectral, self.stack)
        temporal, spectral = self.pool_temporal(temporal), self.pool_spectral(spectral)
        more_temporal, more_spectral, more_stack = self.second(temporal, spectral, stack)
        return temporal + more_temporal, spectral + more_spectral, stack + more_stack


class GraphHead(nn.Module):
    """From an encoder's map to an embedding and logits: attention per axis, then branches over both, then a readout.

    Spectral nodes are the maxima over time of the map's magnitude, temporal nodes those over bands. The branches'
    results meet in their element-wise maximum. The embedding holds the largest magnitude and the mean over the temporal
    nodes, the same over the spectral nodes, and the stack node.

    Args:
        channels: Of the encoder's map.
        bands: Of the encoder's map: one learned position each.
        graph_dims: Features of a node in the first attention, and in the branches.
        ratios: Shares that the pools keep: of the spectral nodes, of the temporal ones, of both in a branch.
        temperatures: Of the attentions: spectral, temporal, branches.
        branches: How many.
        frames: Length of the table of learned temporal positions, interpolated linearly for other lengths; None for no
            temporal positions.
        hsgal_activation: Behind the attention of the branches, "selu" or "none".
        layer: Kind of every map, see :func:`kan_core.layers.get`.
        layer_kwargs: More arguments for the maps.
        checkpoint: See :class:`~kan_audio.layers.graph.GraphAttention`.
        num_classes: Logits.

    Attributes:
        embedding_features: Five times the features of a node in a branch.
    """

    def __init__(
        self,
        channels: int,
        bands: int,
        graph_dims: tuple[int, int],
        ratios: tuple[float, float, float],
        temperatures: tuple[float, float, float],
        branches: int = 2,
        frames: int | None = None,
        hsgal_activation: Activation = "selu",
        layer: Layer = "linear",
        layer_kwargs: dict[str, Any] | None = None,
        checkpoint: bool = False,
        num_classes: int = 2,
    ) -> None:
        super().__init__()
        inside, outside = graph_dims
        factory = layers.get(layer)  # once: looking a name up reads the entry points of all installed packages
        maps: dict[str, Any] = {"layer": factory, "layer_kwargs": layer_kwargs}
        self.spectral_positions = nn.Parameter(torch.randn(1, bands, channels))
        self.temporal_positions: nn.Parameter | None = None
        if frames is not None:
            self.temporal_positions = nn.Parameter(torch.randn(1, frames, channels))
        self.spectral = GraphAttention(channels, inside, temperatures[0], checkpoint=checkpoint, **maps)
        self.temporal = GraphAttention(channels, inside, temperatures[1], checkpoint=checkpoint, **maps)
        self.pool_spectral = GraphPool(inside, ratios[0], **maps)
        self.pool_temporal = GraphPool(inside, ratios[1], **maps)
        self.branches = nn.ModuleList(
            Branch(
                inside,
                outside,
                ratios[2],
                temperature=temperatures[2],
                activation=hsgal_activation,
                checkpoint=checkpoint,
                **maps,
            )
            for _ in range(branches)
        )
        self.branch_dropout = nn.Dropout(0.2)
        self.dropout = nn.Dropout(0.5)
        self.embedding_features = 5 * outside
        self.out = factory(5 * outside, num_classes, **(layer_kwargs or {}))

    def embed(self, x: Tensor) -> Tensor:
        """``(batch, channels, bands, frames) -> (batch, embedding_features)``."""
        magnitude = x.abs()
        spectral = magnitude.amax(dim=3).transpose(1, 2) + self.spectral_positions
        temporal = magnitude.amax(dim=2).transpose(1, 2)
        if self.temporal_positions is not None:
            temporal = temporal + _resized(self.temporal_positions, temporal.shape[1])
        spectral = self.pool_spectral(self.spectral(spectral))
        temporal = self.pool_temporal(self.temporal(temporal))
        results = zip(*(branch(temporal, spectral) for branch in self.branches), strict=True)
        t, s, stack = (reduce(torch.maximum, map(self.branch_dropout, parts)) for parts in results)
        read = [t.abs().amax(dim=1), t.mean(dim=1), s.abs().amax(dim=1), s.mean(dim=1), stack.squeeze(1)]
        embedding: Tensor = self.dropout(torch.cat(read, dim=1))
        return embedding

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, channels, bands, frames) -> (batch, num_classes)``."""
        logits: Tensor = self.out(self.embed(x))
        return logits


def _resized(positions: Tensor, frames: int) -> Tensor:
    """A table ``(1, n, channels)`` for another number of frames, by linear interpolation; itself for its own."""
    if positions.shape[1] == frames:
        return positions
    return F.interpolate(positions.transpose(1, 2), size=frames, mode="linear").transpose(1, 2)


def scaled(sizes: Sequence[int], width: float) -> tuple[int, ...]:
    """Hidden sizes times `width`, rounded, at least 1.

    Raises:
        KANError: When `width` is not positive.
    """
    if not width > 0:
        raise KANError(f"width must be positive, got {width!r}")
    return tuple(max(1, round(size * width)) for size in sizes)


class AASIST(nn.Module):
    """Audio anti-spoofing with integrated spectro-temporal graph attention, on raw waveforms of any length.

    Sinc filters (fixed), residual encoder, attention over spectral and temporal nodes, two branches over both, readout.
    No weight depends on the length; training is on 64600 samples at 16 kHz, about 4 s.

    Tensors and their numbers are those of the published checkpoints with `legacy_preact` (229 tensors, 299 550 values
    for AASIST), under names of our own; whether a published file fits once renamed could not be checked offline.

    Args:
        sample_rate: Of the waveforms, in Hz; the filters' bands end at half of it.
        channels: Of the encoder's blocks, at ``width=1``.
        graph_dims: Features of a node in the first attention and in the branches, at ``width=1``.
        ratios: Shares of nodes that the pools keep: spectral, temporal, branches.
        temperatures: Of the attentions: spectral, temporal, branches.
        hsgal_activation: Behind the branches' attention, "selu" or "none".
        layer: Kind of every map of the graph part, see :func:`kan_core.layers.get`. The encoder stays convolutional.
        layer_kwargs: More arguments for the maps.
        width: Factor on `channels` and `graph_dims`, for parameter- or FLOP-matched twins.
        legacy_preact: Own the five batch norms of the encoder that the reference computes and throws away: frozen here,
            never run, but in the published counts and weights.
        freq_aug: In training, silence a random run of filters, see :class:`~kan_audio.frontends.sinc.SincFilters`.
        checkpoint: Compute maps of pairs again in the backward pass: less memory, more time.

    Raises:
        KANError: For an option out of its range, or a waveform of fewer than 2315 samples.

    Shape:
        - Input: ``(batch, samples)``
        - Output: logits ``(batch, 2)`` of spoof and bona fide; the second one is the score

    Parameters: 297 866 (AASIST), 85 306 (AASIST-L); of those 512 and 272 are `legacy_preact`'s, frozen.

    Reference: Jung et al., AASIST (arXiv 2110.01200).
    """

    def __init__(
        self,
        sample_rate: int = 16000,
        channels: Sequence[int] = (32, 32, 64, 64, 64, 64),
        graph_dims: tuple[int, int] = (64, 32),
        ratios: tuple[float, float, float] = (0.5, 0.7, 0.5),
        temperatures: tuple[float, float, float] = (2.0, 2.0, 100.0),
        hsgal_activation: Activation = "selu",
        layer: Layer = "linear",
        layer_kwargs: dict[str, Any] | None = None,
        width: float = 1.0,
        legacy_preact: bool = True,
        freq_aug: bool = False,
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        channels = scaled(channels, width)
        inside, outside = scaled(graph_dims, width)
        self.filters = SincFilters(sample_rate, freq_aug=freq_aug)
        self.spectrum = SpectrumNorm()
        self.encoder = ResidualEncoder(channels, pool_time=True, legacy_preact=legacy_preact)
        self.head = GraphHead(
            channels[-1],
            bands=len(self.filters.filters) // 3,
            graph_dims=(inside, outside),
            ratios=ratios,
            temperatures=temperatures,
            hsgal_activation=hsgal_activation,
            layer=layer,
            layer_kwargs=layer_kwargs,
            checkpoint=checkpoint,
        )
        self.embedding_features = self.head.embedding_features

    def features(self, wave: Tensor) -> Tensor:
        """The encoder's map: ``(batch, samples) -> (batch, channels, 23, frames)``."""
        if wave.shape[1] < MIN_SAMPLES:
            raise KANError(f"AASIST needs waveforms of at least {MIN_SAMPLES} samples, got {wave.shape[1]}")
        e: Tensor = self.encoder(self.spectrum(self.filters(wave)))
        return e

    def embed(self, wave: Tensor) -> Tensor:
        """``(batch, samples) -> (batch, embedding_features)``; in training after dropout 0.5."""
        return self.head.embed(self.features(wave))

    def forward(self, wave: Tensor) -> Tensor:
        """Logits of spoof and bona fide, ``(batch, 2)``."""
        logits: Tensor = self.head(self.features(wave))
        return logits


@register("aasist")
def aasist(**kwargs: Any) -> AASIST:
    """AASIST as published: 297 866 parameters."""
    return AASIST(**kwargs)


@register("aasist_l")
def aasist_l(**kwargs: Any) -> AASIST:
    """AASIST-L, the light one: 85 306 parameters."""
    light = {"channels": (32, 32, 24, 24, 24, 24), "graph_dims": (24, 32), "ratios": (0.4, 0.5, 0.7)}
    return AASIST(**{**light, **kwargs})
