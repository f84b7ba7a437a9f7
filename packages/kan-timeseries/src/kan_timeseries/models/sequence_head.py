"""From a sequence of feature vectors to the logits of classes; padded steps have no say."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from kan_core.errors import KANError

Pooling = Literal["mean", "lstm", "attention"]
LSTM_SIZE = 128


class SequenceHead(nn.Module):
    """One summary of all steps and an ordinary linear map, the same behind every feature extractor of a comparison.

    Args:
        features: D, the size of a step.
        num_classes: Outputs.
        pooling: ``"mean"`` over the steps; ``"lstm"``: the state of an LSTM of 128 units after the last step;
            ``"attention"``: a mean weighted by the softmax of one learned score per step.

    Raises:
        KANError: For another `pooling`.

    Shape:
        - Input: ``(B, T', D)`` and a mask ``(B, T')`` of the steps that count, each row with at least one True
        - Output: ``(B, classes)``

    Parameters: (D + 1) · classes; with attention D + 1 more; with an LSTM 4 · 128 · (D + 130) + 129 · classes in all.
    """

    def __init__(self, features: int, num_classes: int, pooling: Pooling = "mean") -> None:
        super().__init__()
        if pooling not in get_args(Pooling):
            raise KANError(f"pooling must be one of {', '.join(get_args(Pooling))}, got {pooling!r}")
        self.lstm = nn.LSTM(features, LSTM_SIZE, batch_first=True) if pooling == "lstm" else None
        self.score = nn.Linear(features, 1) if pooling == "attention" else None
        self.linear = nn.Linear(LSTM_SIZE if pooling == "lstm" else features, num_classes)

    def forward(self, steps: Tensor, mask: Tensor) -> Tensor:
        """Logits of the sequences."""
        if self.lstm is not None:
            places = torch.arange(mask.shape[1], device=mask.device)
            last = torch.where(mask, places, 0).amax(dim=1)
            states = self.lstm(steps)[0]
            summary = states.gather(1, last[:, None, None].expand(-1, 1, states.shape[2]))[:, 0]
        elif self.score is not None:
            scores = self.score(steps)[..., 0].masked_fill(~mask, -torch.inf)
            summary = (scores.softmax(dim=1)[:, None] @ steps)[:, 0]
        else:
            weight = mask.to(steps.dtype)
            summary = (weight[:, None] @ steps)[:, 0] / weight.sum(dim=1, keepdim=True)
        logits: Tensor = self.linear(summary)
        return logits


def step_mask(mask: Tensor | None, x: Tensor, patch: int, stride: int) -> Tensor:
    """Which patches of `x` ``(B, T, C)`` lie wholly inside `mask` ``(B, T)``: ``(B, T')``.

    A window shorter than a patch has none: its first patch counts.

    Raises:
        KANError: When the window of the network is shorter than a patch, or the mask is of another shape.
    """
    if mask is None:
        mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
    if mask.shape != x.shape[:2]:
        raise KANError(f"expected a mask of shape {tuple(x.shape[:2])}, got {tuple(mask.shape)}")
    whole = mask.unfold(1, patch, stride).all(dim=2)
    alone = ~whole.any(dim=1)
    first = torch.arange(whole.shape[1], device=x.device) == 0
    return whole | (alone[:, None] & first)


def check_window(x: Tensor, num_samples: int, channels: int) -> None:
    """Refuse windows of another shape than ``(B, num_samples, channels)``.

    Raises:
        KANError: When they have one.
    """
    if x.dim() != 3 or x.shape[1:] != (num_samples, channels):
        raise KANError(f"expected windows of shape (B, {num_samples}, {channels}), got {tuple(x.shape)}")
