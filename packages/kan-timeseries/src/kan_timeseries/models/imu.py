"""Spline layers as feature extractors of sensor windows: four arrangements behind one classifier."""

from __future__ import annotations

from functools import partial
from typing import Literal, get_args

from torch import Tensor, nn

from kan_core import bases
from kan_core.errors import KANError
from kan_core.layers import LayerFactory, activation_before, get
from kan_core.registry import parse_spec
from kan_timeseries.models._registry import CLASSIFIERS
from kan_timeseries.models._window import scaled_size
from kan_timeseries.models.sequence_head import Pooling, SequenceHead, check_window, step_mask

Arrangement = Literal["channel", "patch", "factored", "residual_linear"]

DEFAULT_LAYER = "bspline(grid_size=5, grid_range=(-3, 3))"
"""Five cubic pieces over three deviations: [-1, 1] would hold 68 % of a standard normal input."""


def spline_layer(layer: LayerFactory | str, edge_scale: bool = True) -> LayerFactory:
    """The factory of a layer of this family: a basis by name has no bias, and a factor per edge.

    ``"linear"`` is ``nn.Linear``; a layer of another form, or a callable, is taken as it is.
    """
    factory = get(layer)
    if isinstance(layer, str) and layer != "linear" and parse_spec(layer, kind="layer")[0] in bases.names():
        return partial(factory, bias=False, edge_scale=edge_scale)
    return factory


def patches(x: Tensor, patch: int, stride: int) -> Tensor:
    """``(B, T, C)`` to ``(B, T', C, patch)`` with T' = ⌊(T − patch)/stride⌋ + 1."""
    return x.unfold(1, patch, stride)


class ChannelFeatures(nn.Module):
    """K(C→D) at every time step, then the mean over a patch: static curves, blind to the order within a patch."""

    def __init__(self, channels: int, features: int, patch: int, stride: int, layer: LayerFactory | str) -> None:
        super().__init__()
        self.patch, self.stride = patch, stride
        self.curves = spline_layer(layer)(channels, features)
        self.activation = activation_before(layer)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, T, C)`` to ``(B, T', D)``."""
        return patches(self.activation(self.curves(x)), self.patch, self.stride).mean(dim=3)


class PatchFeatures(nn.Module):
    """K(C·m→D) on m consecutive steps: a convolution whose kernel entries are functions."""

    def __init__(self, channels: int, features: int, patch: int, stride: int, layer: LayerFactory | str) -> None:
        super().__init__()
        self.patch, self.stride = patch, stride
        self.curves = spline_layer(layer)(channels * patch, features)
        self.activation = activation_before(layer)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, T, C)`` to ``(B, T', D)``."""
        y: Tensor = self.activation(self.curves(patches(x, self.patch, self.stride).flatten(2)))
        return y


class FactoredFeatures(nn.Module):
    """K(m→d) on each channel's patch, the same for all channels, then K(C·d→D) over the channels.

    The first stage does not know how many channels there are: it can be moved to another set of sensors.
    """

    def __init__(
        self, channels: int, features: int, patch: int, stride: int, layer: LayerFactory | str, per_channel: int
    ) -> None:
        super().__init__()
        self.patch, self.stride = patch, stride
        self.time = spline_layer(layer)(patch, per_channel)
        self.channels = spline_layer(layer)(channels * per_channel, features)
        self.activation = activation_before(layer)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, T, C)`` to ``(B, T', D)``."""
        each = self.per_channel(x)
        y: Tensor = self.activation(self.channels(each.flatten(2)))
        return y

    def per_channel(self, x: Tensor) -> Tensor:
        """The first stage alone: ``(B, T, C)`` to ``(B, T', C, d)``."""
        y: Tensor = self.activation(self.time(patches(x, self.patch, self.stride)))
        return y


class ResidualLinearFeatures(nn.Module):
    """Linear(C·m→D) and, on its normalised responses, K(D→D): filters first, curves on what they say.

    Equation: y = f + K(LN(f)), f = W·patch + b. The curves see inputs of unit size, and where those leave the grid the
    filters still have a gradient.
    """

    def __init__(self, channels: int, features: int, patch: int, stride: int, layer: LayerFactory | str) -> None:
        super().__init__()
        self.patch, self.stride = patch, stride
        self.filters = nn.Linear(channels * patch, features)
        self.norm = nn.LayerNorm(features) if features > 1 else nn.Identity()  # of one number it is a constant
        self.activation = activation_before(layer)
        self.curves = spline_layer(layer)(features, features)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, T, C)`` to ``(B, T', D)``."""
        responses = self.filters(patches(x, self.patch, self.stride).flatten(2))
        y: Tensor = responses + self.curves(self.activation(self.norm(responses)))
        return y


def make_features(
    arrangement: Arrangement,
    channels: int,
    features: int,
    patch: int,
    stride: int,
    layer: LayerFactory | str = DEFAULT_LAYER,
    per_channel: int = 16,
) -> nn.Module:
    """One stage of an extractor, ``(B, T, C) -> (B, T', D)``.

    Parameters of cubic splines on five intervals (10 numbers per edge): channel 10·C·D; patch 10·C·m·D; factored
    10·(m·d + C·d·D); residual_linear (C·m + 1)·D + 2·D + 10·D².

    Raises:
        KANError: For another arrangement.
    """
    if arrangement not in get_args(Arrangement):
        raise KANError(f"arrangement must be one of {', '.join(get_args(Arrangement))}, got {arrangement!r}")
    if arrangement == "factored":
        return FactoredFeatures(channels, features, patch, stride, layer, per_channel)
    kinds = {"channel": ChannelFeatures, "patch": PatchFeatures, "residual_linear": ResidualLinearFeatures}
    return kinds[arrangement](channels, features, patch, stride, layer)


class Stages(nn.Module):
    """Feature extractors behind each other, each followed by a LayerNorm over D (none where D is 1).

    Args:
        stages: The first makes patches; the others keep T'.
        features: D.
    """

    def __init__(self, stages: list[nn.Module], features: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.norms = nn.ModuleList([nn.LayerNorm(features) if features > 1 else nn.Identity() for _ in stages])

    def forward(self, x: Tensor) -> Tensor:
        """``(B, T, C)`` to ``(B, T', D)``."""
        for stage, norm in zip(self.stages, self.norms, strict=True):
            x = norm(stage(x))
        return x


@CLASSIFIERS.register("imu_kan")
class ImuKAN(nn.Module):
    r"""Features of short patches by spline layers, a summary over the patches, and a linear classifier.

    Four arrangements, our reading of the four variants that the paper's abstract speaks of (its text was not
    available): ``"channel"``, ``"patch"``, ``"factored"`` and ``"residual_linear"``; see the classes of this module.
    With ``layer="linear"`` each is an ordinary network with SiLU: the twin.

    Coefficients start as those of every KAN layer here, small noise beside the SiLU branch; the grid stays where it is
    unless the trainer has the callback ``GridUpdate``.

    Reference: Liu et al., KAN feature extractors for HAR (arXiv 2406.11914); KAN at the edges of the network, not
    everywhere: KAN-MLP-Mixer (arXiv 2605.19031).

    Args:
        num_samples: T, samples of a window.
        channels: C.
        num_classes: Outputs.
        arrangement: Of the extractor.
        features: D.
        patch: m, samples seen at once.
        stride: s, samples from one patch to the next.
        depth: Stages; those after the first work within a step.
        per_channel: d, features of one channel's patch, of ``"factored"``.
        pooling: See :class:`~kan_timeseries.models.sequence_head.SequenceHead`.
        layer: What makes the spline layers; inputs are z-scores.
        width: Factor on D and d.

    Raises:
        KANError: For an unknown name, sizes below 1, or a patch longer than the window.

    Shape:
        - Input: ``(B, T, C)`` and optionally ``(B, T)``, False on padding; patches that touch padding do not count
        - Output: ``(B, classes)``
    """

    def __init__(
        self,
        num_samples: int,
        channels: int,
        num_classes: int,
        *,
        arrangement: Arrangement = "residual_linear",
        features: int = 32,
        patch: int = 16,
        stride: int = 8,
        depth: int = 1,
        per_channel: int = 8,
        pooling: Pooling = "mean",
        layer: LayerFactory | str = DEFAULT_LAYER,
        width: float = 1.0,
    ) -> None:
        super().__init__()
        check_patches(num_samples, patch, stride, depth)
        self.num_samples, self.channels = num_samples, channels
        self.patch, self.stride = patch, stride
        size, each = scaled_size(features, width), scaled_size(per_channel, width)
        within: Arrangement = "residual_linear" if arrangement == "residual_linear" else "patch"
        stages = [make_features(arrangement, channels, size, patch, stride, layer, each)]
        stages += [make_features(within, size, size, 1, 1, layer) for _ in range(depth - 1)]
        self.extractor = Stages(stages, size)
        self.head = SequenceHead(size, num_classes, pooling)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits of windows."""
        check_window(x, self.num_samples, self.channels)
        steps: Tensor = self.extractor(x)
        logits: Tensor = self.head(steps, step_mask(mask, x, self.patch, self.stride))
        return logits


def check_patches(num_samples: int, patch: int, stride: int, depth: int) -> None:
    """Refuse patches that do not fit into the window.

    Raises:
        KANError: When they do not, or a number is below 1.
    """
    if min(patch, stride, depth) < 1:
        raise KANError(f"patch, stride and depth must be at least 1, got {patch}, {stride} and {depth}")
    if patch > num_samples:
        raise KANError(f"patch={patch} is longer than the window of {num_samples} samples: give longer windows")
