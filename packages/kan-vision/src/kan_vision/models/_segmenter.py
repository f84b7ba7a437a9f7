"""What every segmentation network shares: images of any size, and a registry of names."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from kan_core import KANError
from kan_core.registry import Registry

__all__ = ["SEGMENTERS", "Segmenter", "create_segmenter", "register_segmenter"]


class Segmenter(nn.Module):
    """Images to logits of the same height and width; a subclass implements :meth:`forward_logits`.

    :meth:`forward` takes images of any size: it pads them on the right and at the bottom, by reflection, to a multiple
    of `multiple`, and cuts the logits back. Where an image has fewer pixels to reflect than the padding needs, its last
    row or column is repeated for the rest. The top left corner never moves, so that strided layers see the same phase
    at every size.

    Args:
        in_chans: Channels of the images.
        num_classes: Channels of the logits: 1 for a binary mask, else one per class.
        multiple: What :meth:`forward_logits` needs the height and the width to be multiples of.

    Raises:
        KANError: For sizes below 1, or for images of another shape than ``(batch, in_chans, height, width)``.

    Shape:
        - Input: ``(batch, in_chans, height, width)``, height and width at least 1
        - Output: ``(batch, num_classes, height, width)``, raw logits
    """

    def __init__(self, *, in_chans: int, num_classes: int, multiple: int) -> None:
        super().__init__()
        for name, value in (("in_chans", in_chans), ("num_classes", num_classes), ("multiple", multiple)):
            if value < 1:
                raise KANError(f"{name} must be at least 1, got {value}")
        self.in_chans = in_chans
        self.num_classes = num_classes
        self.multiple = multiple

    def forward_logits(self, x: Tensor) -> Tensor:
        """``(batch, in_chans, H, W) -> (batch, num_classes, H, W)`` for H and W that are multiples of `multiple`."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, in_chans, height, width) -> (batch, num_classes, height, width)`` for any height and width."""
        if x.ndim != 4 or x.shape[1] != self.in_chans or min(x.shape[-2:]) < 1:
            raise KANError(f"images must have the shape (batch, {self.in_chans}, height, width), got {tuple(x.shape)}")
        height, width = x.shape[-2:]
        logits = self.forward_logits(pad_to_multiple(x, self.multiple))
        return logits[..., :height, :width]


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Pad ``(batch, channels, height, width)`` on the right and at the bottom, as :class:`Segmenter` says."""
    down, right = (-size % multiple for size in x.shape[-2:])
    if not (down or right):
        return x
    reflected_down, reflected_right = min(down, x.shape[-2] - 1), min(right, x.shape[-1] - 1)
    x = F.pad(x, (0, reflected_right, 0, reflected_down), mode="reflect")
    return F.pad(x, (0, right - reflected_right, 0, down - reflected_down), mode="replicate")


SEGMENTERS: Registry[Segmenter] = Registry("segmentation model", "kan_vision.segmenters")
"""Segmentation networks by name; an installed package adds its own through this entry-point group."""

register_segmenter = SEGMENTERS.register


def create_segmenter(name: str, **kwargs: Any) -> Segmenter:
    """Build the segmentation network that is registered as `name`.

    Args:
        name: One of ``SEGMENTERS.names()``, such as "ukan_base".
        **kwargs: Its arguments; each network takes `in_chans`, `num_classes`, `layer`, `layer_kwargs` and `width`.

    Raises:
        KANError: When there is no such name (the message lists those that exist), or for an argument that the network
            or its layers do not have.
    """
    factory = SEGMENTERS.factory(name)
    try:
        return factory(**kwargs)
    except TypeError as error:
        raise KANError(f"segmentation model {name!r} refuses its arguments: {error}") from error
