"""Augmentation of whole batches of images and masks: what moves, moves in both; colours change in the image alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from kan_core.errors import KANError

MaskAugment = Literal["none", "dihedral", "dihedral_colour", "strong"]


def augment_masks(
    images: Tensor, masks: Tensor, how: str, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Randomly change every image of a batch, and its mask with it.

    Args:
        images: ``(batch, channels, height, width)``, normalised.
        masks: ``(batch, height, width)`` class indices.
        how: One of

            - ``"none"``: as they are.
            - ``"dihedral"``: one of the 8 flips and quarter turns of the square, all equally likely; of the 4 that
              keep the shape where the sides differ.
            - ``"dihedral_colour"``: and then, in the image, contrast times 0.8 to 1.25 around the image's own mean
              and a brightness shift of up to 0.2, where 1 is a standard deviation of the training pixels.
            - ``"strong"``: before both, turned by up to 15 degrees and scaled by 0.8 to 1.25 around the centre; the
              image is interpolated, the mask takes the nearest pixel, both continue by reflection.

        generator: Where everything is drawn from, on the CPU; by default torch's global one.

    Returns:
        Batches of the same shapes and types.

    Raises:
        KANError: When `how` is none of these.
    """
    ways = get_args(MaskAugment)
    if how not in ways:
        raise KANError(f"augment must be one of {', '.join(ways)}, got {how!r}")
    if how == "none":
        return images, masks
    if how == "strong":
        images, masks = _zoomed(images, masks, generator)
    images, masks = _dihedral(images, masks, generator)
    return images if how == "dihedral" else _coloured(images, generator), masks


def _dihedral(images: Tensor, masks: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    chosen: Tensor = (torch.rand(3, len(images), generator=generator) < 0.5).to(images.device)
    changes: list[Callable[[Tensor], Tensor]] = [lambda values: values.flip(-2), lambda values: values.flip(-1)]
    if images.shape[-2] == images.shape[-1]:
        changes.append(lambda values: values.mT)
    for which, change in zip(chosen, changes, strict=False):
        images = torch.where(which.view(-1, 1, 1, 1), change(images), images)
        masks = torch.where(which.view(-1, 1, 1), change(masks), masks)
    return images, masks


def _coloured(images: Tensor, generator: torch.Generator | None) -> Tensor:
    contrast, brightness = torch.rand(2, len(images), 1, 1, 1, generator=generator).mul(2).sub(1).to(images)
    mean = images.mean((1, 2, 3), keepdim=True)
    return torch.addcmul(mean + 0.2 * brightness, images - mean, contrast.mul(math.log(1.25)).exp())


def _zoomed(images: Tensor, masks: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    n, _, height, width = images.shape
    angle, zoom = torch.rand(2, n, generator=generator).mul(2).sub(1)
    angle, zoom = angle * math.radians(15), zoom.mul(math.log(1.25)).exp()
    cos, sin, zero = angle.cos() * zoom, angle.sin() * zoom, torch.zeros(n)
    # a rotation in pixels: the sides of -1..1 have different lengths when the image is not square
    rows = [cos, -sin * height / width, zero, sin * width / height, cos, zero]
    maps = torch.stack(rows, dim=1).view(n, 2, 3).to(images)
    grid = F.affine_grid(maps, list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    # class indices up to 255 are exact in float32, and the nearest pixel is not a mixture
    classes = masks[:, None].float()
    nearest = F.grid_sample(classes, grid.float(), mode="nearest", padding_mode="reflection", align_corners=False)
    return moved, nearest[:, 0].to(masks)
