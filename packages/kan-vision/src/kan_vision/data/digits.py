"""The handwritten digits that scikit-learn brings along: 1,797 grey images of 8 x 8, nothing to download."""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits

from kan_vision.data.base import Augment, ImageDataModule
from kan_vision.data.images import ArrayImages, Splits, stratified_split


class Digits(ImageDataModule):
    """scikit-learn's digits in a fixed stratified split of 60/20/20: 1077 to train, 360 to validate, 360 to test.

    The split does not depend on the seed of the run.

    Args:
        batch_size: Images per batch.
        num_workers: Loader processes.
        augment: What happens to training batches.
    """

    def __init__(
        self,
        batch_size: int = 64,
        num_workers: int = 0,
        augment: Augment = "none",
    ) -> None:
        super().__init__(None, batch_size, num_workers, augment)

    def load(self) -> Splits:
        """The values 0..16 are scaled to 0..1."""
        digits = load_digits()
        pixels = torch.from_numpy(digits.images).float().div_(16).unsqueeze(1)
        images = ArrayImages(pixels, torch.from_numpy(digits.target))
        rest, test = stratified_split(images.labels, 0.2, seed=0, what="digits")
        train, val = stratified_split(images.labels[rest], 0.25, seed=0, what="digits")
        names = tuple(str(name) for name in digits.target_names)
        return Splits(images.part(rest[train]), images.part(rest[val]), images.part(test), names)

    @property
    def name(self) -> str:  # type: ignore[override]
        """The name of the data."""
        return "digits"
