"""Light augmentation of whole batches: one small geometric map per image."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from kan_core.errors import KANError


def augment(images: Tensor, how: str, background: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Randomly move every image of a batch.

    Args:
        images: ``(batch, channels, height, width)``.
        how: One of

            - ``"none"``: as they are.
            - ``"affine"``: rotated by up to 10 degrees, shifted by up to a tenth of the size, scaled by 0.9 to 1.1.
            - ``"flip_crop"``: mirrored left-right with probability 1/2 and shifted by whole pixels, up to an eighth of
              the size: what padding and random cropping do.
        background: ``(channels,)`` value of the pixels that move in from outside.
        generator: Where the maps are drawn from, on the CPU; by default torch's global one.

    Returns:
        A batch of the same shape.

    Raises:
        KANError: When `how` is none of these.
    """
    if how == "none":
        return images
    if how not in _MAPS:
        raise KANError(f"augment must be one of none, {', '.join(_MAPS)}, got {how!r}")
    maps = _MAPS[how](images.shape[0], images.shape[2], images.shape[3], generator).to(images)
    fill = background.to(images).view(-1, 1, 1)
    grid = F.affine_grid(maps, list(images.shape), align_corners=False)
    # grid_sample pads with zeros, so the background is made zero first
    return F.grid_sample(images - fill, grid, align_corners=False).add_(fill)


def _affine_maps(n: int, height: int, width: int, generator: torch.Generator | None) -> Tensor:
    """``(n, 2, 3)`` maps from output to input, in the coordinates of `affine_grid`: -1 to 1 along each side."""
    angle, zoom, dx, dy = torch.rand(4, n, generator=generator).mul(2).sub(1)
    angle, zoom = angle * math.radians(10), 1 / (1 + 0.1 * zoom)
    cos, sin = angle.cos() * zoom, angle.sin() * zoom
    # a rotation in pixels: the sides of -1..1 have different lengths when the image is not square
    rows = [cos, -sin * height / width, 0.2 * dx, sin * width / height, cos, 0.2 * dy]
    return torch.stack(rows, dim=1).view(n, 2, 3)


def _flip_crop_maps(n: int, height: int, width: int, generator: torch.Generator | None) -> Tensor:
    """As `_affine_maps`; the shifts are whole pixels, so nothing is blurred."""
    flip, dx, dy = torch.rand(3, n, generator=generator)
    shift_x = (dx * (2 * (width // 8) + 1)).floor() - width // 8
    shift_y = (dy * (2 * (height // 8) + 1)).floor() - height // 8
    zero, one = torch.zeros(n), torch.ones(n)
    rows = [torch.where(flip < 0.5, -one, one), zero, 2 * shift_x / width, zero, one, 2 * shift_y / height]
    return torch.stack(rows, dim=1).view(n, 2, 3)


_MAPS = {"affine": _affine_maps, "flip_crop": _flip_crop_maps}
