"""Speech encoders: published sizes, frames, the closing norm, short utterances, freezing, local weights."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from safetensors.torch import save_file

from kan_audio.frontends._checkpoints import TransformersFolder, torchaudio_names
from kan_audio.frontends.ssl import SSLFrontEnd, names
from kan_core.errors import KANError

TINY = {
    "conv_dim": [8] * 7,
    "feat_extract_norm": "layer",
    "conv_bias": True,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}


def size(module):
    return sum(p.numel() for p in module.parameters())


def waves(*lengths, seed=0):
    wave = 0.1 * torch.randn(len(lengths), max(lengths), generator=torch.Generator().manual_seed(seed))
    length = torch.tensor(lengths)
    return wave * (torch.arange(wave.shape[1]) < length[:, None]), length


@pytest.fixture
def small():
    torch.manual_seed(0)
    return SSLFrontEnd("small").eval()


# --- architectures -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parameters", "dim"),
    [
        ("wav2vec2_base", 94_370_944, 768),
        ("hubert_base", 94_370_944, 768),
        ("wavlm_base", 94_381_168, 768),
        ("wav2vec2_large", 315_427_968, 1024),
        ("wav2vec2_xlsr_300m", 315_437_696, 1024),
        ("small", 595_392, 96),
    ],
)
def test_published_sizes(name, parameters, dim):
    with torch.device("meta"):
        module = SSLFrontEnd(name)
        assert size(module) == parameters
        assert module(torch.zeros(2, 64600))[0].shape == (2, 201, dim)


def test_frames_of_card_lengths(small):
    assert [small.frames(n) for n in (64600, 64000, 400, 399, 0)] == [201, 199, 1, 0, 0]
    lengths = torch.arange(0, 5000, 7)
    assert torch.equal(small.frames(lengths), ((lengths - 400).div(320, rounding_mode="floor") + 1).clamp_min(0))


def test_frames_are_those_of_the_features(small):
    wave, length = waves(6460, 3200)
    features, frames = small(wave, length)
    assert features.shape == (2, 19, 96)
    assert frames.tolist() == [19, 9]
    assert small(wave)[1].tolist() == [19, 19]


def test_too_few_samples_are_refused_in_one_line(small):
    small(torch.zeros(1, 400))
    with pytest.raises(KANError, match=r"^the SSL front end needs at least 400 samples for one frame, got 399$"):
        small(torch.zeros(1, 399))


def test_last_hidden_state_includes_the_closing_norm_which_extract_features_leaves_out(small):
    wave, _ = waves(4000)
    features, _ = small(wave)
    torch.testing.assert_close(features, small.model(wave)[0])
    assert (features - small.model.extract_features(wave)[0][-1]).abs().max() > 0.1


@pytest.mark.parametrize("name", ["small", "post-norm"])
def test_weighted_sum_starts_as_the_mean_of_all_layers(name, tmp_path):
    torch.manual_seed(0)
    module = SSLFrontEnd(name if name == "small" else tiny_folder(tmp_path, "wav2vec2"), layers="weighted").eval()
    wave, _ = waves(4000)
    outputs = module.model.extract_features(wave)[0]
    outputs[-1] = module.model(wave)[0]
    torch.testing.assert_close(module(wave)[0], torch.stack(outputs).mean(dim=0))


@pytest.mark.parametrize("layers", ["last", "weighted"])
def test_every_parameter_gets_a_gradient(layers):
    module = SSLFrontEnd("small", layers=layers)
    module(waves(2000)[0])[0].square().sum().backward()
    assert all(p.grad is not None for p in module.parameters())


def test_the_front_end_can_be_copied(small):
    wave, _ = waves(2000)
    torch.testing.assert_close(copy.deepcopy(small)(wave)[0], small(wave)[0])


# --- short utterances, normalisation ---------------------------------------------------------------------------------


@pytest.mark.parametrize("wave_norm", ["none", "peak", "zscore"])
def test_a_padded_utterance_has_the_features_of_the_utterance_alone(wave_norm):
    torch.manual_seed(0)
    module = SSLFrontEnd("small", wave_norm=wave_norm).eval()
    wave, length = waves(6460, 3300)
    features, frames = module(wave + 0.1 * (wave != 0), length)
    alone, _ = module(wave[1:, :3300] + 0.1)
    torch.testing.assert_close(features[1:, : frames[1]], alone, atol=2e-4, rtol=1e-3)


def test_wavlm_masks_short_utterances_too(tmp_path):
    torch.manual_seed(0)
    module = SSLFrontEnd(tiny_folder(tmp_path, "wavlm")).eval()
    wave, length = waves(6460, 3300)
    features, frames = module(wave, length)
    torch.testing.assert_close(features[1:, : frames[1]], module(wave[1:, :3300])[0], atol=1e-5, rtol=1e-4)


def test_peak_and_zscore_take_a_gain_away():
    wave, _ = waves(3000)
    for wave_norm, invariant in [("none", False), ("peak", True), ("zscore", True)]:
        torch.manual_seed(0)
        module = SSLFrontEnd("small", wave_norm=wave_norm).eval()
        difference = (module(wave)[0] - module(4 * wave)[0]).abs().max()
        assert (difference < 1e-3) == invariant, wave_norm


def test_unknown_options_are_refused():
    for options, message in [
        ({"wave_norm": "rms"}, "wave_norm must be one of none, peak, zscore, got 'rms'"),
        ({"layers": "first"}, "layers must be one of last, weighted, got 'first'"),
        ({"freeze": "some"}, "freeze must be one of none, extractor, all, got 'some'"),
        ({"name": "wav2vec3"}, "unknown SSL model 'wav2vec3': choose one of hubert_base"),
    ]:
        with pytest.raises(KANError, match=f"^{message}"):
            SSLFrontEnd(**options)


# --- freezing --------------------------------------------------------------------------------------------------------


def test_a_frozen_extractor_is_the_convolutions_alone():
    module = SSLFrontEnd("small", freeze="extractor")
    frozen = {name for name, p in module.named_parameters() if not p.requires_grad}
    assert frozen == {
        f"model.feature_extractor.{name}" for name, _ in module.model.feature_extractor.named_parameters()
    }


def test_a_frozen_encoder_has_no_dropout_and_leaves_the_layer_weights_to_learn():
    module = SSLFrontEnd("small", freeze="all", layers="weighted").train()
    wave, _ = waves(2000)
    features = module(wave)[0]
    torch.testing.assert_close(features, module(wave)[0])
    features.square().sum().backward()
    assert [name for name, p in module.named_parameters() if p.grad is not None] == ["layer_weights"]
    trained = SSLFrontEnd("small").train()
    assert not torch.equal(trained(wave)[0], trained(wave)[0])


# --- local weights: torchaudio's own ----------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_state_dict_of_the_architecture_is_loaded(tmp_path, small, suffix):
    path = tmp_path / f"weights{suffix}"
    state = small.model.state_dict()
    torch.save(state, path) if suffix == ".pt" else save_file(state, path)
    torch.manual_seed(7)
    other = SSLFrontEnd("small", checkpoint=str(path)).eval()
    wave, _ = waves(2000)
    torch.testing.assert_close(other(wave)[0], small(wave)[0])


def test_weights_that_do_not_fit_are_listed_in_one_line(tmp_path, small):
    state = small.model.state_dict()
    del state["encoder.transformer.layer_norm.bias"]
    state["lm_head.weight"] = torch.zeros(2)
    state["encoder.transformer.layer_norm.weight"] = torch.zeros(97)
    torch.save(state, tmp_path / "weights.pt")
    with pytest.raises(KANError) as error:
        SSLFrontEnd("small", checkpoint=str(tmp_path / "weights.pt"))
    assert str(error.value) == (
        f"the weights in {tmp_path / 'weights.pt'} are not those of this architecture: 1 missing: "
        "encoder.transformer.layer_norm.bias; 1 unexpected: lm_head.weight; 1 of another shape: "
        "encoder.transformer.layer_norm.weight"
    )


def test_files_that_are_not_plain_tensors_are_refused(tmp_path, small):
    pickled, wrapped, broken = (tmp_path / name for name in ("module.pt", "wrapped.pt", "broken.safetensors"))
    torch.save(small.model.feature_extractor, pickled)
    torch.save({"state_dict": small.model.state_dict()}, wrapped)
    broken.write_bytes(b"not tensors at all")
    for path, message in [
        (pickled, "cannot be read as a file of plain tensors"),
        (wrapped, "holds more than a state dict"),
        (broken, "cannot be read as a file of plain tensors"),
        (tmp_path / "none.pt", "there is no checkpoint"),
    ]:
        with pytest.raises(KANError, match=message) as error:
            SSLFrontEnd("small", checkpoint=str(path))
        assert "\n" not in str(error.value)
        assert path.name in str(error.value)


# --- local weights: transformers' folders -----------------------------------------------------------------------------


def transformers_state(state, model_type, prefix=""):
    """torchaudio's tensors as transformers names them (the inverse of what is tested, written on its own)."""
    renamed = {}
    for name, tensor in state.items():
        name = name.replace("encoder.feature_projection.", "feature_projection.").replace(
            "encoder.transformer.", "encoder."
        )
        name = name.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        )
        if model_type == "wavlm" and ".in_proj_" in name:
            stem, part = name.split(".attention.in_proj_")
            for letter, third in zip("qkv", tensor.chunk(3), strict=True):
                renamed[f"{prefix}{stem}.{letter}_proj.{part}"] = third.clone()
            continue
        renamed[prefix + name.replace("attention.attention.out_proj", "attention.out_proj")] = tensor
    return renamed


def tiny_folder(folder, model_type, prefix="", weights="model.safetensors", extra=None, **config):
    """A small encoder with random weights, saved as transformers saves it."""
    config = {"model_type": model_type, **TINY, **config}
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    state = TransformersFolder.at(str(folder))._architecture().state_dict()
    state = {**transformers_state(state, model_type, prefix), **(extra or {})}
    if weights == "model.safetensors":
        save_file(state, folder / weights)
    elif weights:
        torch.save(state, folder / weights)
    return str(folder)


@pytest.mark.parametrize("stable", [False, True])
@pytest.mark.parametrize("model_type", ["wav2vec2", "hubert", "wavlm"])
def test_a_transformers_folder_becomes_the_same_encoder(tmp_path, model_type, stable):
    torch.manual_seed(0)
    folder = tiny_folder(tmp_path, model_type, do_stable_layer_norm=stable)
    torch.manual_seed(0)
    expected = TransformersFolder.at(folder)._architecture().eval()
    module = SSLFrontEnd(folder).eval()
    wave, _ = waves(2000)
    torch.testing.assert_close(module(wave)[0], expected(wave)[0])
    assert module.dim == 16


def test_heads_and_mask_embeddings_are_left_out_and_bin_files_are_read(tmp_path):
    extra = {"wav2vec2.masked_spec_embed": torch.zeros(16), "lm_head.weight": torch.zeros(3, 16)}
    extra |= {
        "quantizer.codevectors": torch.zeros(4),
        "project_q.bias": torch.zeros(4),
        "project_hid.bias": torch.zeros(4),
    }
    folder = tiny_folder(tmp_path, "wav2vec2", prefix="wav2vec2.", weights="pytorch_model.bin", extra=extra)
    assert SSLFrontEnd(folder)(torch.zeros(1, 800))[0].shape == (1, 2, 16)


def test_what_belongs_nowhere_is_refused(tmp_path):
    folder = tiny_folder(tmp_path, "wav2vec2", extra={"adapter.layers.0.conv.bias": torch.zeros(4)})
    with pytest.raises(KANError, match=r"1 unexpected: adapter\.layers\.0\.conv\.bias$"):
        SSLFrontEnd(folder)


def test_names_of_transformers_find_their_place():
    table = {
        "feature_extractor.conv_layers.3.conv.weight": "feature_extractor.conv_layers.3.conv.weight",
        "feature_extractor.conv_layers.0.layer_norm.bias": "feature_extractor.conv_layers.0.layer_norm.bias",
        "feature_projection.projection.weight": "encoder.feature_projection.projection.weight",
        "encoder.pos_conv_embed.conv.weight_g": "encoder.transformer.pos_conv_embed.conv."
        "parametrizations.weight.original0",
        "encoder.pos_conv_embed.conv.parametrizations.weight.original1": "encoder.transformer.pos_conv_embed.conv."
        "parametrizations.weight.original1",
        "encoder.layers.11.feed_forward.intermediate_dense.bias": "encoder.transformer.layers.11.feed_forward."
        "intermediate_dense.bias",
        "encoder.layers.0.final_layer_norm.weight": "encoder.transformer.layers.0.final_layer_norm.weight",
    }
    tensors = {f"hubert.{name}": torch.tensor(float(i)) for i, name in enumerate(table)}
    assert {k: v.item() for k, v in torchaudio_names(tensors, "hubert").items()} == {
        name: float(i) for i, name in enumerate(table.values())
    }


def test_fields_that_a_config_leaves_out_have_transformers_defaults(tmp_path):
    for model_type, parameters in [("wav2vec2", 94_370_944), ("hubert", 94_370_944), ("wavlm", 94_381_168)]:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
        with torch.device("meta"):
            assert size(TransformersFolder.at(str(tmp_path))._architecture()) == parameters


def test_folders_that_are_not_speech_encoders_are_refused_in_one_line(tmp_path):
    folder = tmp_path / "model"
    tiny_folder(folder, "wav2vec2", weights="")
    cases = [("has no model.safetensors and no pytorch_model.bin", None)]
    cases += [("model_type must be one of wav2vec2, hubert, wavlm, found 'bert'", {"model_type": "bert"})]
    cases += [("hidden_act must be 'gelu', found 'relu'", {**TINY, "model_type": "hubert", "hidden_act": "relu"})]
    cases += [("describes no encoder that can be made", {**TINY, "model_type": "hubert", "num_attention_heads": 3})]
    for message, config in cases:
        if config:
            (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(KANError, match=message) as error:
            SSLFrontEnd(str(folder))
        assert "\n" not in str(error.value)
    (folder / "config.json").write_text("{")
    with pytest.raises(KANError, match="is not JSON"):
        SSLFrontEnd(str(folder))
    (folder / "config.json").unlink()
    with pytest.raises(KANError, match=r"has no config\.json"):
        SSLFrontEnd(str(folder))


def test_a_folder_and_a_checkpoint_together_are_refused(tmp_path):
    with pytest.raises(KANError, match=r"brings its own weights: leave out the checkpoint w\.pt"):
        SSLFrontEnd(tiny_folder(tmp_path, "wav2vec2"), checkpoint="w.pt")


def test_names_lists_what_can_be_made():
    assert {"wav2vec2_base", "hubert_base", "wavlm_base", "wav2vec2_xlsr_300m", "small"} <= set(names())
