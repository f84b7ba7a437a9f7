"""What models of one window share: channels as rows and back, a learned scale of channels, a clip, hidden sizes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kan_core.bases._base import check_at_least
from kan_core.errors import KANError
from kan_core.layers import KANLinear

LIMIT = 3.0
"""Clipped values lie within ±LIMIT, where the default grids are."""


def check_lengths(input_length: int, horizon: int, channels: int, num_outputs: int) -> None:
    """Refuse lengths and counts below 1.

    Raises:
        KANError: When one is.
    """
    check_at_least("input_length", input_length, 1)
    check_at_least("horizon", horizon, 1)
    check_at_least("channels", channels, 1)
    check_at_least("num_outputs", num_outputs, 1)


def check_past(past: Tensor, input_length: int, channels: int) -> None:
    """Refuse windows of another shape than ``(B, input_length, channels)``.

    Raises:
        KANError: When they have one.
    """
    if past.dim() != 3 or past.shape[1:] != (input_length, channels):
        raise KANError(f"expected windows of shape (B, {input_length}, {channels}), got {tuple(past.shape)}")


def channels_as_rows(past: Tensor) -> Tensor:
    """``(B, L, C)`` to ``(B · C, L)``: every channel is a window of its own."""
    return past.transpose(1, 2).reshape(-1, past.shape[1])


def rows_as_channels(rows: Tensor, channels: int, horizon: int, num_outputs: int) -> Tensor:
    """``(B · C, H · Q)``, or ``(B, C · H · Q)``, to ``(B, H, C, Q)``."""
    return rows.reshape(-1, channels, horizon, num_outputs).transpose(1, 2)


def scaled_size(size: int, width: float) -> int:
    """A hidden size times `width`, rounded, at least 1.

    Raises:
        KANError: For a size or a width that is not positive.
    """
    if size < 1 or not width > 0:
        raise KANError(f"hidden sizes and width must be positive, got {size} and {width}")
    return max(1, round(size * width))


def scaled_sizes(hidden: Sequence[int], width: float) -> list[int]:
    """:func:`scaled_size` of each."""
    return [scaled_size(size, width) for size in hidden]


def output_part(layer: nn.Module) -> nn.Module:
    """What of a layer can be set to zero so that it returns zeros and still learns: never two factors of a product.

    Of kinds of layers that are not known here that is nothing.
    """
    part = getattr(layer, "linear", getattr(layer, "expand", layer))
    if isinstance(part, nn.Linear | nn.LayerNorm | nn.BatchNorm1d):
        return part
    return layer if isinstance(layer, KANLinear) and layer.scale is None else nn.Identity()


class ChannelAffine(nn.Module):
    r"""γ_c x + β_c for each channel c, and its inverse: the learned part of RevIN.

    Equation: γ = exp(g), so that no step of an optimiser can make it 0, where the inverse would divide by it.

    Reference: RevIN (ICLR 2022), section 3; its γ is learned as it is.

    Parameters: 2 C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(channels))
        self.shift = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, L, C)`` to the same shape."""
        return x * self.log_scale.exp() + self.shift

    def inverse(self, y: Tensor) -> Tensor:
        """``(B, H, C, Q)`` to the same shape."""
        return (y - self.shift.unsqueeze(-1)) * (-self.log_scale).exp().unsqueeze(-1)


class SmoothClip(nn.Module):
    """u/√(1 + (u/limit)²): increasing, about u near 0, within ±limit, without statistics or parameters."""

    def __init__(self, limit: float = LIMIT) -> None:
        super().__init__()
        if not limit > 0:
            raise KANError(f"limit must be positive, or None for no clip, got {limit}")
        self.limit = float(limit)

    def forward(self, u: Tensor) -> Tensor:
        """Element by element."""
        # clamped, for the last digit rounds beyond the limit
        return (u * torch.rsqrt(1 + (u / self.limit).square())).clamp(-self.limit, self.limit)

    def extra_repr(self) -> str:
        """The limit, for ``repr``."""
        return f"limit={self.limit:g}"
