"""Self-supervised speech encoders (wav2vec 2.0, HuBERT, WavLM) as front ends, made and loaded without a network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeVar, get_args

import torch
from torch import Tensor, nn
from torchaudio import models as speech

from kan_audio.frontends._checkpoints import TransformersFolder, load_strictly, read_tensors
from kan_audio.frontends._waves import WaveNorm, check_wave_norm, normalise
from kan_core.errors import KANError

__all__ = ["SSLFrontEnd", "names"]

Layers = Literal["last", "weighted"]
Freeze = Literal["none", "extractor", "all"]
Count = TypeVar("Count", int, Tensor)

_SMALL: dict[str, Any] = {
    "extractor_mode": "layer_norm",
    "extractor_conv_layer_config": [(64, 10, 5)] + [(64, 3, 2)] * 4 + [(64, 2, 2)] * 2,
    "extractor_conv_bias": True,
    "encoder_embed_dim": 96,
    "encoder_projection_dropout": 0.1,
    "encoder_pos_conv_kernel": 128,
    "encoder_pos_conv_groups": 16,
    "encoder_num_layers": 4,
    "encoder_num_heads": 4,
    "encoder_attention_dropout": 0.1,
    "encoder_ff_interm_features": 384,
    "encoder_ff_interm_dropout": 0.1,
    "encoder_dropout": 0.1,
    "encoder_layer_norm_first": True,
    "aux_num_out": None,
}

_ARCHITECTURES: dict[str, Callable[..., Any]] = {
    "hubert_base": speech.hubert_base,
    "hubert_large": speech.hubert_large,
    "small": lambda **kwargs: speech.wav2vec2_model(**_SMALL, **kwargs),
    "wav2vec2_base": speech.wav2vec2_base,
    "wav2vec2_large": speech.wav2vec2_large,
    "wav2vec2_large_lv60k": speech.wav2vec2_large_lv60k,
    "wav2vec2_xlsr_300m": speech.wav2vec2_xlsr_300m,
    "wavlm_base": speech.wavlm_base,
    "wavlm_large": speech.wavlm_large,
}


def names() -> list[str]:
    """The architectures that can be made without a file."""
    return sorted(_ARCHITECTURES)


class SSLFrontEnd(nn.Module):
    """The hidden states of a speech encoder: one vector for every 320 samples at 16 kHz.

    Nothing is ever downloaded. A *name* makes torchaudio's architecture with random weights, or with those of a local
    file; a *folder* brings architecture and weights in the format of transformers. Weights are read as plain tensors
    on the CPU and must fit exactly. Layer drop is off: it would leave parameters without gradients at random.

    The last hidden state includes the encoder's closing LayerNorm, as in transformers' ``last_hidden_state``. In
    pre-norm encoders (the large ones and "small") the last entry of torchaudio's ``extract_features`` does *not*.
    The encoders "wav2vec2_base", "hubert_base" and "wavlm_base" normalise their first convolution over time, zeros
    behind a short utterance included, so there an utterance's features depend on how far its batch is padded.

    Args:
        name: One of :func:`names` ("small" is a wav2vec 2.0 of 0.6 million parameters, 96 features and 4 layers, to be
            trained from scratch), or a folder with ``config.json`` and ``model.safetensors`` or ``pytorch_model.bin``.
        checkpoint: File with the state dict of the torchaudio model `name`: ``.safetensors``, or one that torch.load
            reads with ``weights_only=True``. None leaves random weights. A folder brings its own.
        wave_norm: What the weights expect of a waveform: ``"none"`` (wav2vec 2.0 base and large, HuBERT base),
            ``"zscore"`` (mean 0, variance 1: XLSR, HuBERT large) or ``"peak"`` (largest magnitude 1: AASIST3).
        layers: ``"last"``, or ``"weighted"``: the sum of all layers' outputs (the last with the closing LayerNorm) by
            a learned softmax, equal at the start (SUPERB, arXiv 2105.01051).
        freeze: ``"none"``; ``"extractor"``: the convolutions stay; ``"all"``: everything but the layer weights stays,
            and dropout is off in training too.

    Attributes:
        dim: Features per frame.
        layer_weights: Logits of the weighted sum, shape ``(layers,)``, or None.

    Raises:
        KANError: For an unknown name or option, a file that is missing or does not fit, and waveforms too short for
            one frame (400 samples).

    Shape:
        - wave: ``(batch, samples)`` at 16 kHz; length: ``(batch,)`` samples that are sound, or None when all are
        - Output: features ``(batch, frames, dim)``, where those behind an utterance's last frame mean nothing; frames
          ``(batch,)`` int64, floor((length − 400) / 320) + 1, 0 for an utterance below 400 samples

    Reference: wav2vec 2.0 (arXiv 2006.11477), HuBERT (arXiv 2106.07447), WavLM (arXiv 2110.13900).

    Example:
        >>> SSLFrontEnd("small")(torch.zeros(2, 64600))[0].shape
        torch.Size([2, 201, 96])
    """

    sample_rate = 16000

    def __init__(
        self,
        name: str = "small",
        checkpoint: str | None = None,
        wave_norm: WaveNorm = "none",
        layers: Layers = "last",
        freeze: Freeze = "none",
    ) -> None:
        super().__init__()
        check_wave_norm(wave_norm)
        for option, value, choices in (("layers", layers, get_args(Layers)), ("freeze", freeze, get_args(Freeze))):
            if value not in choices:
                raise KANError(f"{option} must be one of {', '.join(choices)}, got {value!r}")
        self.model: Any = _make(name, checkpoint)
        for attention in _attentions_without_masks(self.model):
            attention.register_forward_pre_hook(_mask_keys, with_kwargs=True)
        self.wave_norm = wave_norm
        self.freeze = freeze
        transformer = self.model.encoder.transformer
        self.dim = int(transformer.pos_conv_embed.embed_dim)
        self.layer_weights: nn.Parameter | None = None
        if layers == "weighted":
            self.layer_weights = nn.Parameter(torch.zeros(len(transformer.layers)))
        frozen = {"none": None, "extractor": self.model.feature_extractor, "all": self.model}[freeze]
        if frozen is not None:
            frozen.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> SSLFrontEnd:
        """As in torch, but what is frozen altogether stays in evaluation mode."""
        super().train(mode)
        if self.freeze == "all":
            self.model.eval()
        return self

    def frames(self, samples: Count) -> Count:
        """Frames of an utterance of so many samples; a number for a number, int64 for a tensor."""
        for layer in self.model.feature_extractor.conv_layers:
            samples = (samples - layer.kernel_size) // layer.stride + 1
        return samples * (samples > 0)

    def forward(self, wave: Tensor, length: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Features and frames of every utterance."""
        all_samples = torch.full(wave.shape[:1], wave.shape[1], device=wave.device)
        counts = self.frames(all_samples if length is None else length)
        fewest = self._fewest_samples()
        if wave.shape[1] < fewest:
            raise KANError(f"the SSL front end needs at least {fewest} samples for one frame, got {wave.shape[1]}")
        # not the model's forward, which for layer drop asks a random number of the host at every layer
        outputs = self.model.extract_features(normalise(wave, length, self.wave_norm), length)[0]
        transformer = self.model.encoder.transformer
        last: Tensor = outputs[-1]
        if not transformer.layer_norm_first:  # a pre-norm encoder: its closing LayerNorm is not in the list
            last = transformer.layer_norm(last)
        if self.layer_weights is None:
            return last, counts
        shares = self.layer_weights.softmax(dim=0)
        return torch.einsum("l,lbtd->btd", shares, torch.stack([*outputs[:-1], last])), counts

    def _fewest_samples(self) -> int:
        samples = 1
        for layer in reversed(self.model.feature_extractor.conv_layers):
            samples = (samples - 1) * layer.stride + layer.kernel_size
        return samples


def _make(name: str, checkpoint: str | None) -> Any:
    if name in _ARCHITECTURES:
        model = _ARCHITECTURES[name](encoder_layer_drop=0.0)
        if checkpoint is not None:
            load_strictly(model, read_tensors(checkpoint), checkpoint)
        return model
    folder = TransformersFolder.at(name)
    if folder is None:
        raise KANError(f"unknown SSL model {name!r}: choose one of {', '.join(names())}, or an existing folder")
    if checkpoint is not None:
        raise KANError(f"the SSL folder {name} brings its own weights: leave out the checkpoint {checkpoint}")
    return folder.model()


def _attentions_without_masks(model: nn.Module) -> list[nn.Module]:
    """WavLM's: torchaudio 2.11 hands them the mask of short utterances by an argument that they refuse."""
    return [m for m in model.modules() if isinstance(m, speech.wav2vec2.wavlm_attention.WavLMSelfAttention)]


def _mask_keys(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Say with `key_padding_mask` what `attention_mask` ``(batch, 1, frames, frames)`` says in every row."""
    mask = kwargs.get("attention_mask")
    if mask is None:
        return args, kwargs
    return args, {**kwargs, "attention_mask": None, "key_padding_mask": mask[:, 0, 0]}
