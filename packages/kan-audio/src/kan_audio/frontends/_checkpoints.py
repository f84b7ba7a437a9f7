"""Weights of speech encoders from local files: plain tensors only, and they must fit exactly."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torchaudio import models as speech

from kan_core.errors import KANError

State = dict[str, Tensor]

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")

# transformers writes only what differs from the defaults of its configuration classes: these.
_DEFAULTS: dict[str, Any] = {
    "activation_dropout": 0.1,
    "attention_dropout": 0.1,
    "conv_bias": False,
    "conv_dim": [512] * 7,
    "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
    "conv_stride": [5, 2, 2, 2, 2, 2, 2],
    "do_stable_layer_norm": False,
    "feat_extract_norm": "group",
    "feat_proj_dropout": 0.0,
    "hidden_act": "gelu",
    "hidden_dropout": 0.1,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "max_bucket_distance": 800,
    "num_attention_heads": 12,
    "num_buckets": 320,
    "num_conv_pos_embedding_groups": 16,
    "num_conv_pos_embeddings": 128,
    "num_hidden_layers": 12,
}

_MODEL_TYPES = ("wav2vec2", "hubert", "wavlm")

# What pre-training and fine-tuning add around the encoder; everything else must find its place.
_OUTSIDE = ("masked_spec_embed", "quantizer.", "project_q.", "project_hid.", "lm_head.")

# (pattern, replacement), tried in this order on names without the prefix of the model's type; the first match counts
_WEIGHT_NORM = "encoder.transformer.pos_conv_embed.conv.parametrizations.weight.original"
_NAMES = (
    (r"encoder\.pos_conv_embed\.conv\.weight_g", f"{_WEIGHT_NORM}0"),
    (r"encoder\.pos_conv_embed\.conv\.weight_v", f"{_WEIGHT_NORM}1"),
    (r"encoder\.(.*)", r"encoder.transformer.\1"),
    (r"feature_projection\.(.*)", r"encoder.feature_projection.\1"),
)


def read_tensors(path: str | Path) -> State:
    """The tensors of a ``.safetensors`` file, or of one that torch.load reads with ``weights_only=True``.

    Raises:
        KANError: When the file is missing, cannot be read, or holds anything but named tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise KANError(f"there is no checkpoint {path}: give a file with a state dict")
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
        reason = str(error).split("\n", 1)[0]
        raise KANError(f"{path} cannot be read as a file of plain tensors: {reason}") from None
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise KANError(f"{path} holds more than a state dict: save the tensors alone, torch.save(model.state_dict())")
    return dict(state)


def load_strictly(model: nn.Module, state: State, where: str | Path) -> None:
    """Load weights that must name every tensor of the model, in its shape, and no other.

    Raises:
        KANError: One line with the names that are missing, unexpected or of another shape.
    """
    own = model.state_dict()
    problems = {
        "missing": [name for name in own if name not in state],
        "unexpected": [name for name in state if name not in own],
        "of another shape": [name for name in own if name in state and state[name].shape != own[name].shape],
    }
    if any(problems.values()):
        text = "; ".join(f"{len(names)} {kind}: {_some(names)}" for kind, names in problems.items() if names)
        raise KANError(f"the weights in {where} are not those of this architecture: {text}")
    model.load_state_dict(state)


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


@dataclass(frozen=True)
class TransformersFolder:
    """A folder that transformers has saved: ``config.json`` and the weights.

    Attributes:
        path: The folder.
        config: What ``config.json`` says, with transformers' defaults for the rest.
    """

    path: Path
    config: dict[str, Any]

    @classmethod
    def at(cls, path: str) -> TransformersFolder | None:
        """The folder, or None when there is none.

        Raises:
            KANError: When it has no readable ``config.json``, or one of another kind of model.
        """
        folder = Path(path)
        if not folder.is_dir():
            return None
        file = folder / "config.json"
        try:
            config = json.loads(file.read_text())
        except FileNotFoundError:
            raise KANError(f"{folder} has no config.json: an SSL folder is one that transformers has saved") from None
        except ValueError as error:
            raise KANError(f"{file} is not JSON: {error}") from None
        if not isinstance(config, dict) or config.get("model_type") not in _MODEL_TYPES:
            found = config.get("model_type") if isinstance(config, dict) else type(config).__name__
            raise KANError(f"{file}: model_type must be one of {', '.join(_MODEL_TYPES)}, found {found!r}")
        if config.get("hidden_act", "gelu") != "gelu":
            raise KANError(f"{file}: hidden_act must be 'gelu', found {config['hidden_act']!r}")
        return cls(folder, {**_DEFAULTS, **config})

    def model(self) -> Any:
        """The encoder in torchaudio's form, with the folder's weights.

        Raises:
            KANError: When the weights are missing or do not fit the configuration.
        """
        model = self._architecture()
        weights = next((self.path / name for name in _WEIGHTS if (self.path / name).is_file()), None)
        if weights is None:
            raise KANError(f"{self.path} has no {' and no '.join(_WEIGHTS)}")
        state = torchaudio_names(read_tensors(weights), str(self.config["model_type"]))
        load_strictly(model, state, weights)
        return model

    def _architecture(self) -> Any:
        c = self.config
        options: dict[str, Any] = {
            "extractor_mode": f"{c['feat_extract_norm']}_norm",
            "extractor_conv_layer_config": list(zip(c["conv_dim"], c["conv_kernel"], c["conv_stride"], strict=True)),
            "extractor_conv_bias": c["conv_bias"],
            "encoder_embed_dim": c["hidden_size"],
            "encoder_projection_dropout": c["feat_proj_dropout"],
            "encoder_pos_conv_kernel": c["num_conv_pos_embeddings"],
            "encoder_pos_conv_groups": c["num_conv_pos_embedding_groups"],
            "encoder_num_layers": c["num_hidden_layers"],
            "encoder_num_heads": c["num_attention_heads"],
            "encoder_attention_dropout": c["attention_dropout"],
            "encoder_ff_interm_features": c["intermediate_size"],
            "encoder_ff_interm_dropout": c["activation_dropout"],
            "encoder_dropout": c["hidden_dropout"],
            "encoder_layer_norm_first": c["do_stable_layer_norm"],
            "encoder_layer_drop": 0.0,
            "aux_num_out": None,
        }
        try:
            if c["model_type"] == "wavlm":
                return speech.wavlm_model(
                    **options,
                    encoder_num_buckets=c["num_buckets"],
                    encoder_max_distance=c["max_bucket_distance"],
                )
            return speech.wav2vec2_model(**options)
        except (TypeError, ValueError, AssertionError) as error:
            raise KANError(f"{self.path / 'config.json'} describes no encoder that can be made: {error}") from None


def torchaudio_names(state: Mapping[str, Tensor], model_type: str) -> State:
    """Weights of transformers under torchaudio's names.

    Encoders with a head carry the prefix ``wav2vec2.``; heads, quantisers and mask embeddings are left out. WavLM's
    three projections of queries, keys and values become one.

    Args:
        state: Names and tensors as transformers saves them.
        model_type: "wav2vec2", "hubert" or "wavlm".
    """
    renamed: State = {}
    for name, tensor in state.items():
        name = name.removeprefix(f"{model_type}.")
        if name.startswith(_OUTSIDE):
            continue
        pattern, replacement = next(((p, r) for p, r in _NAMES if re.fullmatch(p, name)), ("", ""))
        renamed[re.sub(pattern, replacement, name, count=1) if pattern else name] = tensor
    return _joined_projections(renamed) if model_type == "wavlm" else renamed


def _joined_projections(state: State) -> State:
    joined = dict(state)
    attentions = {match[1] for name in state if (match := re.fullmatch(r"(.*\.attention)\.q_proj\.weight", name))}
    for attention in attentions:
        for part in ("weight", "bias"):
            sources = [f"{attention}.{which}_proj.{part}" for which in "qkv"]
            if all(source in joined for source in sources):
                joined[f"{attention}.attention.in_proj_{part}"] = torch.cat([joined.pop(source) for source in sources])
            if f"{attention}.out_proj.{part}" in joined:
                joined[f"{attention}.attention.out_proj.{part}"] = joined.pop(f"{attention}.out_proj.{part}")
    return joined
