"""Augmentation of whole batches: one small geometric map per image, and what is usual on top of it."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import TrivialAugmentWide

from kan_core.errors import KANError

_Maps = Callable[[int, int, int, torch.Generator | None], Tensor]
_Step = Callable[[Tensor, Tensor, Tensor, torch.Generator | None], Tensor]


def augment(
    images: Tensor,
    how: str,
    background: Tensor,
    generator: torch.Generator | None = None,
    white: Tensor | None = None,
) -> Tensor:
    """Randomly change every image of a batch.

    Args:
        images: ``(batch, channels, height, width)``.
        how: One of

            - ``"none"``: as they are.
            - ``"affine"``: rotated by up to 10 degrees, shifted by up to a tenth of the size, scaled by 0.9 to 1.1.
            - ``"flip_crop"``: mirrored left-right with probability 1/2 and shifted by whole pixels, up to an eighth of
              the size: what padding and random cropping do.
            - ``"flip_crop_cutout"``: as ``"flip_crop"``; then a window of a quarter of each side, whose centre is
              anywhere in the image, is set to 0, the mean of normalised images (DeVries and Taylor, arXiv 1708.04552).
            - ``"trivial_augment"``: as ``"flip_crop_cutout"`` with torchvision's `TrivialAugmentWide` (Müller and
              Hutter, arXiv 2103.10158) before the cutout, image by image: the slowest, about half a
              millisecond for 32 x 32 pixels.

        background: ``(channels,)`` black: the value of the pixels that move in from outside.
        generator: Where everything is drawn from, on the CPU; by default torch's global one.
        white: ``(channels,)`` the value of the brightest pixels, 1 by default; ``"trivial_augment"`` needs to know the
            range.

    Returns:
        A batch of the same shape.

    Raises:
        KANError: When `how` is none of these.
    """
    if how == "none":
        return images
    if how not in _STEPS:
        raise KANError(f"augment must be one of none, {', '.join(_STEPS)}, got {how!r}")
    black = background.to(images).view(-1, 1, 1)
    bright = torch.ones_like(black) if white is None else white.to(images).view(-1, 1, 1)
    for step in _STEPS[how]:
        images = step(images, black, bright, generator)
    return images


def _moved(maps: _Maps) -> _Step:
    """The step that resamples every image through its own map."""

    def move(images: Tensor, black: Tensor, white: Tensor, generator: torch.Generator | None) -> Tensor:
        theta = maps(images.shape[0], images.shape[2], images.shape[3], generator).to(images)
        grid = F.affine_grid(theta, list(images.shape), align_corners=False)
        # grid_sample pads with zeros, so the background is made zero first
        return F.grid_sample(images - black, grid, align_corners=False).add_(black)

    return move


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


def _cutout(images: Tensor, black: Tensor, white: Tensor, generator: torch.Generator | None) -> Tensor:
    n, _, height, width = images.shape
    centre_y, centre_x = torch.rand(2, n, generator=generator)
    inside = _window(centre_y, height)[:, None, :, None] & _window(centre_x, width)[:, None, None, :]
    return images.masked_fill(inside.to(images.device), 0.0)


def _window(centre: Tensor, size: int) -> Tensor:
    """``(n, size)``: the places within an eighth of `size` from the pixel at the share `centre` of it."""
    offset = torch.arange(size) - (centre * size).floor()[:, None]
    side = max(size // 4, 1)
    return (offset >= -(side // 2)) & (offset < side - side // 2)


def _trivial(images: Tensor, black: Tensor, white: Tensor, generator: torch.Generator | None) -> Tensor:
    if generator is not None:  # torchvision draws from the global generator only
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**63 - 1, (), generator=generator)))
            return _trivial(images, black, white, None)
    transform = TrivialAugmentWide()
    pixels = ((images - black) / (white - black)).clamp(0, 1).mul(255).round().to(torch.uint8)
    changed = torch.stack([transform(image) for image in pixels])
    return changed.to(images).div_(255) * (white - black) + black


_flip_crop = _moved(_flip_crop_maps)
_STEPS: dict[str, tuple[_Step, ...]] = {
    "affine": (_moved(_affine_maps),),
    "flip_crop": (_flip_crop,),
    "flip_crop_cutout": (_flip_crop, _cutout),
    "trivial_augment": (_flip_crop, _trivial, _cutout),
}
