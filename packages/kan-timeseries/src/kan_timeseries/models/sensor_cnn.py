"""Ordinary networks on sensor windows, to compare with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from kan_core.errors import KANError
from kan_timeseries.models._registry import CLASSIFIERS
from kan_timeseries.models._window import scaled_size
from kan_timeseries.models.imu import check_patches
from kan_timeseries.models.sequence_head import Pooling, SequenceHead, check_window, step_mask


class ConvFeatures(nn.Module):
    """Conv1d(C→D, m, s), BatchNorm and ReLU: the extractor to be beaten, ``(B, T, C) -> (B, T', D)``.

    Parameters: (C·m + 1)·D + 2·D.
    """

    def __init__(self, channels: int, features: int, patch: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, features, patch, stride)
        self.norm = nn.BatchNorm1d(features)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, T, C)`` to ``(B, T', D)``."""
        return torch.relu(self.norm(self.conv(x.transpose(1, 2)))).transpose(1, 2)


@CLASSIFIERS.register("imu_cnn")
class ImuCNN(nn.Module):
    """The convolutional twin of :class:`~kan_timeseries.models.imu.ImuKAN`: same patches, features and head.

    Args:
        num_samples: T, samples of a window.
        channels: C.
        num_classes: Outputs.
        features: D.
        patch: m, the first kernel.
        stride: s, of the first convolution.
        depth: Convolutions; those after the first work within a step.
        pooling: See :class:`~kan_timeseries.models.sequence_head.SequenceHead`.
        width: Factor on D.

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
        features: int = 64,
        patch: int = 16,
        stride: int = 8,
        depth: int = 1,
        pooling: Pooling = "mean",
        width: float = 1.0,
    ) -> None:
        super().__init__()
        check_patches(num_samples, patch, stride, depth)
        self.num_samples, self.channels = num_samples, channels
        self.patch, self.stride = patch, stride
        size = scaled_size(features, width)
        first = ConvFeatures(channels, size, patch, stride)
        self.extractor = nn.Sequential(first, *[ConvFeatures(size, size, 1, 1) for _ in range(depth - 1)])
        self.head = SequenceHead(size, num_classes, pooling)

    @staticmethod
    def twin_kwargs(model_kwargs: dict[str, Any]) -> dict[str, Any]:
        """It is an ordinary network already."""
        return model_kwargs

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits of windows."""
        check_window(x, self.num_samples, self.channels)
        logits: Tensor = self.head(self.extractor(x), step_mask(mask, x, self.patch, self.stride))
        return logits


@CLASSIFIERS.register("deepconvlstm")
class DeepConvLSTM(nn.Module):
    """Four convolutions along time that all channels share, two LSTM layers, and the last step's state.

    torch's LSTM has two bias vectors and no peepholes, so counts differ from the original's. The convolutions are
    blind to how many channels there are: 62 016 parameters with 64 filters.

    Reference: Ordóñez and Roggen, DeepConvLSTM (Sensors 2016).

    Args:
        num_samples: T, samples of a window, at least 17.
        channels: C.
        num_classes: Outputs.
        filters: Of each convolution, with a kernel of 5 steps and no padding.
        hidden: Units of each LSTM layer.
        width: Factor on `filters` and `hidden`.

    Raises:
        KANError: For windows that are too short, or sizes below 1.

    Shape:
        - Input: ``(B, T, C)`` and optionally ``(B, T)``, False on padding, which comes last
        - Output: ``(B, classes)``
    """

    KERNEL, DEPTH = 5, 4

    def __init__(
        self,
        num_samples: int,
        channels: int,
        num_classes: int,
        *,
        filters: int = 64,
        hidden: int = 128,
        width: float = 1.0,
    ) -> None:
        super().__init__()
        self.num_samples, self.channels = num_samples, channels
        self.patch = self.DEPTH * (self.KERNEL - 1) + 1
        if num_samples < self.patch:
            raise KANError(f"four convolutions need windows of {self.patch} samples, got {num_samples}")
        count, units = scaled_size(filters, width), scaled_size(hidden, width)
        inputs = [1] + [count] * (self.DEPTH - 1)
        layers = [nn.Sequential(nn.Conv2d(n, count, (self.KERNEL, 1)), nn.ReLU()) for n in inputs]
        self.extractor = nn.Sequential(*layers)
        self.lstm = nn.LSTM(count * channels, units, num_layers=2, batch_first=True)
        self.linear = nn.Linear(units, num_classes)

    @staticmethod
    def twin_kwargs(model_kwargs: dict[str, Any]) -> dict[str, Any]:
        """It is an ordinary network already."""
        return model_kwargs

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits of windows."""
        check_window(x, self.num_samples, self.channels)
        steps = self.extractor(x[:, None]).transpose(1, 2).flatten(2)  # (B, T', filters · C)
        states = self.lstm(steps)[0]
        whole = step_mask(mask, x, self.patch, 1)
        last = torch.where(whole, torch.arange(whole.shape[1], device=x.device), 0).amax(dim=1)
        logits: Tensor = self.linear(states.gather(1, last[:, None, None].expand(-1, 1, states.shape[2]))[:, 0])
        return logits
