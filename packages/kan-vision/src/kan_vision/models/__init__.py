"""Vision networks, one file per family; importing registers the classifiers with timm and the segmenters by name."""

from __future__ import annotations

from kan_vision.models._segmenter import SEGMENTERS, Segmenter, create_segmenter, register_segmenter
from kan_vision.models.ka_conv import KAConvNet, KAConvResNet, KAConvVGG
from kan_vision.models.kan_conv import KANConvNet
from kan_vision.models.kan_mlp import KANMLP
from kan_vision.models.karat import KArAt
from kan_vision.models.kat import KAT
from kan_vision.models.kkan import KKAN
from kan_vision.models.medvit_v2 import MedViTV2
from kan_vision.models.rkan import RKANResNet, add_rkan
from kan_vision.models.sconvkan import SConvKAN
from kan_vision.models.ukagnet import UKAGNet
from kan_vision.models.ukan import UKAN
from kan_vision.models.vikan import ViKAN

__all__ = [
    "KANMLP",
    "KAT",
    "KKAN",
    "SEGMENTERS",
    "UKAN",
    "KAConvNet",
    "KAConvResNet",
    "KAConvVGG",
    "KANConvNet",
    "KArAt",
    "MedViTV2",
    "RKANResNet",
    "SConvKAN",
    "Segmenter",
    "UKAGNet",
    "ViKAN",
    "add_rkan",
    "create_segmenter",
    "register_segmenter",
]
