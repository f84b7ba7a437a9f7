"""Files to batches: image sets as Lightning data modules."""

from kan_vision.data.base import ImageDataModule
from kan_vision.data.digits import Digits
from kan_vision.data.folder import ImageFolder
from kan_vision.data.idx_images import IdxImages
from kan_vision.data.images import ImageBatch

__all__ = ["Digits", "IdxImages", "ImageBatch", "ImageDataModule", "ImageFolder"]
