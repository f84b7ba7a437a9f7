"""Patch embedding that loses no pixels."""

from __future__ import annotations

from timm.layers.patch_embed import PatchEmbed

Size = tuple[int, int]


class PaddedPatchEmbed(PatchEmbed):
    """timm's patch embedding for images of any size: the last row and column of patches are filled up with zeros.

    timm cuts off what exceeds a multiple of the patch: of a 28 x 28 image, 16 x 16 patches would see one corner.
    To be made with ``dynamic_img_pad=True``, which pads the images; the grid here counts the patches that this gives.

    Shape:
        - Input: ``(batch, in_chans, height, width)``
        - Output: ``(batch, ⌈height / patch⌉ · ⌈width / patch⌉, embed_dim)``
    """

    def _init_img_size(self, img_size: int | Size | None) -> tuple[Size | None, Size | None, int | None]:
        if img_size is None:
            return None, None, None
        size, _, _ = super()._init_img_size(img_size)
        rows, columns = (-(-side // patch) for side, patch in zip(size, self.patch_size, strict=True))
        return size, (rows, columns), rows * columns
