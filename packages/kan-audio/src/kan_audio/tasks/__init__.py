"""From outputs to losses, metrics and figures."""

from kan_audio.tasks._base import AudioTask
from kan_audio.tasks.slots import SlotTask
from kan_audio.tasks.spoofing import SpoofingTask

__all__ = ["AudioTask", "SlotTask", "SpoofingTask"]
