"""Files to batches: image sets as Lightning data modules."""

from kan_vision.data.base import ImageDataModule, VisionDataModule
from kan_vision.data.cifar import CifarBinary
from kan_vision.data.digits import Digits
from kan_vision.data.dsb2018 import DSB2018
from kan_vision.data.folder import ImageFolder
from kan_vision.data.idx_images import IdxImages
from kan_vision.data.images import ImageBatch
from kan_vision.data.mask_folder import MaskFolder
from kan_vision.data.masks import IGNORE, LabelledImages, MaskBatch, MaskDataModule
from kan_vision.data.npz import NpzImages

__all__ = [
    "DSB2018",
    "IGNORE",
    "CifarBinary",
    "Digits",
    "IdxImages",
    "ImageBatch",
    "ImageDataModule",
    "ImageFolder",
    "LabelledImages",
    "MaskBatch",
    "MaskDataModule",
    "MaskFolder",
    "NpzImages",
    "VisionDataModule",
]
