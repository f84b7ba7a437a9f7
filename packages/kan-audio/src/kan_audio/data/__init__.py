"""From files to batches: reading, windows, protocols, splits and data modules."""

from kan_audio.data.barista import Barista
from kan_audio.data.base import AudioDataModule, PaddedDataModule, WindowedDataModule
from kan_audio.data.fluent import FluentSpeechCommands
from kan_audio.data.fsdd import FSDD
from kan_audio.data.labelled_folders import LabelledFolders
from kan_audio.data.labelled_speech import LabelledSpeech
from kan_audio.data.ljspeech_vocoded import LJSpeechVocoded
from kan_audio.data.protocol_spoof import ASVspoof2019LA, ProtocolSpoof
from kan_audio.data.resynthesised import ResynthesisedSpoof
from kan_audio.data.speech_commands import SpeechCommands
from kan_audio.data.utterances import AudioBatch, Utterance

__all__ = [
    "FSDD",
    "ASVspoof2019LA",
    "AudioBatch",
    "AudioDataModule",
    "Barista",
    "FluentSpeechCommands",
    "LJSpeechVocoded",
    "LabelledFolders",
    "LabelledSpeech",
    "PaddedDataModule",
    "ProtocolSpoof",
    "ResynthesisedSpoof",
    "SpeechCommands",
    "Utterance",
    "WindowedDataModule",
]
