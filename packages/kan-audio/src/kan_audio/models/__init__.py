"""From waveforms to logits: plain modules, one file per family, made by name with `create`."""

from kan_audio.models import aasist, aasist3, slu_cnn, slu_ssl  # noqa: F401  (their import registers them)
from kan_audio.models._registry import create, names, register

__all__ = ["create", "names", "register"]
