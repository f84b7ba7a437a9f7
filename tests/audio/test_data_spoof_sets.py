"""The spoofing sets: their layouts, what is held out, no leaks, and what is wrong with a copy of them."""

from __future__ import annotations

from collections import Counter

import jsonargparse
import numpy as np
import pytest
import soundfile
import torch

from kan_audio import data
from kan_audio.data.attacks import ATTACKS, PEAK
from kan_audio.data.ljspeech_vocoded import LEVEL, LJSpeechVocoded, levelled
from kan_audio.data.protocol_spoof import ASVspoof2019LA, ProtocolSpoof
from kan_audio.data.resynthesised import HELD_OUT, ResynthesisedSpoof, evenly
from kan_audio.data.splits import check_speakers
from kan_audio.data.utterances import Utterance
from kan_core.errors import KANError

RATE = 8000


def write_wav(path, frames=300, rate=RATE, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).uniform(-0.5, 0.5, frames)
    soundfile.write(path, noise, rate)
    return path


def attacks_of(part):
    return Counter(u.attack for u in part)


# protocols


def write_asvspoof2019(folder):
    for part, suffix, attacks in (("train", "trn", "A01 A02"), ("dev", "trl", "A01 A02"), ("eval", "trl", "A07 A19")):
        rows = []
        for i, attack in enumerate(["-", "-", *attacks.split()]):
            name = f"LA_{part[0].upper()}_{i}"
            write_wav(folder / f"ASVspoof2019_LA_{part}" / "flac" / f"{name}.flac")
            rows.append(f"LA_{part}{i % 2} {name} - {attack} {'bonafide' if attack == '-' else 'spoof'}\n")
        protocol = folder / "ASVspoof2019_LA_cm_protocols" / f"ASVspoof2019.LA.cm.{part}.{suffix}.txt"
        protocol.parent.mkdir(exist_ok=True)
        protocol.write_text("".join(rows))
    return folder


def test_asvspoof_2019_layout(tmp_path):
    write_asvspoof2019(tmp_path / "LA")
    module = ASVspoof2019LA(root=str(tmp_path), num_samples=500, sample_rate=RATE)
    assert [set(attacks_of(part)) - {"-"} for part in module.splits] == [{"A01", "A02"}, {"A01", "A02"}, {"A07", "A19"}]
    assert [u.id for u in module.splits.test] == ["LA_E_0", "LA_E_1", "LA_E_2", "LA_E_3"]
    (batch,) = module.test_dataloader()
    assert batch.label.tolist() == [[1], [1], [0], [0]]
    assert batch.wave.shape == (4, 500)


def test_asvspoof_2019_names_its_page_and_refuses_leaks(tmp_path):
    module = ASVspoof2019LA(root=str(tmp_path))
    with pytest.raises(KANError, match=r"train\.trn\.txt is missing: fetch it from https://www\.asvspoof\.org"):
        module.setup("fit")
    folder = write_asvspoof2019(tmp_path / "LA")
    protocol = folder / "ASVspoof2019_LA_cm_protocols" / "ASVspoof2019.LA.cm.dev.trl.txt"
    protocol.write_text(protocol.read_text().replace("LA_dev0", "LA_train0"))
    with pytest.raises(KANError, match="the speaker LA_train0 is in the train part and in the val part"):
        module.setup("fit")


def test_a_protocol_naming_a_missing_file_is_an_error_with_line_and_file(tmp_path):
    folder = write_asvspoof2019(tmp_path / "LA")
    (folder / "ASVspoof2019_LA_eval" / "flac" / "LA_E_2.flac").unlink()
    with pytest.raises(KANError, match=r"eval\.trl\.txt, line 3: the audio of LA_E_2 is missing in .*flac"):
        ASVspoof2019LA(root=str(tmp_path)).setup("fit")


def write_own(folder, attacks=("-", "T1", "T2"), speakers=6, each=2):
    rows = ["path,label,speaker,attack"]
    for s in range(speakers):
        for attack in attacks:
            for i in range(each):
                name = f"s{s}/{attack.replace('-', 'real')}_{i}.wav"
                write_wav(folder / "audio" / name)
                rows.append(f"{name},{'bonafide' if attack == '-' else 'spoof'},s{s},{attack}")
    (folder / "all.csv").write_text("\n".join(rows) + "\n")
    return folder


def own(tmp_path, **options):
    return ProtocolSpoof("own", ["all.csv"], ["audio"], root=str(tmp_path), sample_rate=RATE, **options)


def test_one_protocol_is_split_by_speaker(tmp_path):
    write_own(tmp_path / "own")
    module = own(tmp_path)
    check_speakers(module.splits, "own")
    assert sum(map(len, module.splits)) == 36
    assert module.name == "own"


def test_one_protocol_with_an_attack_held_out(tmp_path):
    write_own(tmp_path / "own")
    module = own(tmp_path, split="attack", held_out=["T2"])
    assert [set(attacks_of(part)) for part in module.splits] == [{"-", "T1"}, {"-", "T1"}, {"-", "T2"}]
    assert module.name == "own (T2 held out)"


def test_three_protocols_and_a_subset_of_the_test(tmp_path):
    write_asvspoof2019(tmp_path / "LA")
    rows = [
        "LA_9 LA_E_0 none - bonafide bonafide notrim eval",
        "LA_9 LA_E_1 alaw ita_tx bonafide bonafide notrim hidden",
        "LA_9 LA_E_2 alaw ita_tx A07 spoof notrim eval",
        "LA_9 LA_E_3 gsm ita_tx A19 spoof notrim progress",
    ]
    (tmp_path / "LA" / "trial_metadata.txt").write_text("\n".join(rows))
    protocols = [
        *(f"ASVspoof2019_LA_cm_protocols/ASVspoof2019.LA.cm.{name}.txt" for name in ("train.trn", "dev.trl")),
        "trial_metadata.txt",
    ]
    audio = [f"ASVspoof2019_LA_{part}/flac" for part in ("train", "dev", "eval")]
    module = ProtocolSpoof("LA", protocols, audio, test_subset="eval", root=str(tmp_path))
    assert [(u.id, u.codec) for u in module.splits.test] == [("LA_E_0", "-"), ("LA_E_2", "alaw")]
    assert module.name == "LA (subset eval)"
    with pytest.raises(KANError, match="no row of subset 'secret': found eval, hidden, progress"):
        ProtocolSpoof("LA", protocols, audio, test_subset="secret", root=str(tmp_path)).setup("test")


def test_an_unknown_label_in_a_protocol_is_an_error(tmp_path):
    folder = write_own(tmp_path / "own")
    table = folder / "all.csv"
    table.write_text(table.read_text().replace("s0/T1_1.wav,spoof", "s0/T1_1.wav,fake"))
    with pytest.raises(KANError, match=r"all\.csv, line 5: the key of s0/T1_1\.wav is 'fake'"):
        own(tmp_path).setup("fit")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocols": ["a", "b"]}, "name one file, or three .* got 2"),
        ({"protocols": ["a", "b", "c"], "audio": ["x", "y"]}, "name one folder or 3"),
        ({"protocols": ["a", "b", "c"], "held_out": ["A01"], "split": "attack"}, "held_out needs one protocol"),
        ({"protocols": ["a"], "test_subset": "eval"}, "test_subset needs three protocols"),
        ({"protocols": ["a"], "held_out": ["A01"]}, "held_out names attacks to test on with split=attack"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(KANError, match=message):
        ProtocolSpoof("own", **options)


# labelled folders


def write_folders(folder, attacks=("tts", "vc"), each=5):
    for i in range(each):
        write_wav(folder / "bonafide" / "deep" / f"{i}.wav")
        for attack in attacks:
            write_wav(folder / "spoof" / attack / f"{i}.wav")
    return folder


def folders(tmp_path, **options):
    return data.LabelledFolders("sorted", root=str(tmp_path), **options)


def test_folders_give_keys_and_attacks(tmp_path):
    write_folders(tmp_path / "sorted")
    write_wav(tmp_path / "sorted" / "spoof" / "loose.wav")
    write_wav(tmp_path / "sorted" / "spoof" / "loose2.wav")
    write_wav(tmp_path / "sorted" / "spoof" / "loose3.wav")
    splits = folders(tmp_path).splits
    every = [u for part in splits for u in part]
    assert attacks_of(every) == {"-": 5, "tts": 5, "vc": 5, "unknown": 3}
    assert all(u.is_bonafide == u.id.startswith("bonafide/deep/") for u in every)


def test_folders_that_are_split_already_are_left_so(tmp_path):
    for part in ("train", "val", "test"):
        write_folders(tmp_path / "sorted" / part, each=2)
    splits = folders(tmp_path).splits
    assert [len(part) for part in splits] == [6, 6, 6]
    assert splits.val[0].id == "val/bonafide/deep/0.wav"
    with pytest.raises(KANError, match="is split into train, val, test already"):
        folders(tmp_path, split="attack-id", held_out=["tts"]).setup("fit")


def test_folders_hold_attacks_out(tmp_path):
    write_folders(tmp_path / "sorted")
    splits = folders(tmp_path, split="attack-id", held_out=["vc"]).splits
    assert [set(attacks_of(part)) for part in splits] == [{"-", "tts"}, {"-", "tts"}, {"-", "vc"}]


def test_a_folder_of_another_name_is_an_error_not_a_spoof(tmp_path):
    write_folders(tmp_path / "sorted")
    write_wav(tmp_path / "sorted" / "en_US" / "1.wav")  # as M-AILABS has them
    with pytest.raises(KANError, match="bonafide and spoof and no other: found bonafide, en_US, spoof"):
        folders(tmp_path).setup("fit")


def test_a_recording_beside_the_folders_is_an_error(tmp_path):
    write_folders(tmp_path / "sorted")
    write_wav(tmp_path / "sorted" / "stray.wav")
    with pytest.raises(KANError, match=r"stray\.wav has no label"):
        folders(tmp_path).setup("fit")
    with pytest.raises(KANError, match="there is no such folder"):
        data.LabelledFolders("absent", root=str(tmp_path)).setup("fit")
    with pytest.raises(KANError, match="folders name no speakers"):
        folders(tmp_path, split="speaker")


# vocoded LJSpeech

VOCODERS = {
    "kan-bayashi_wavegan",
    "r9y9_wavegan",
    "kan-bayashi_melgan",
    "kan-bayashi_mb-melgan",
    "kan-bayashi_fb-melgan",
    "kan-bayashi_style-melgan",
    "kan-bayashi_hifigan",
}


def sentence(utterance):
    return utterance.id.rpartition("/")[2]


def test_real_ljspeech_holds_one_vocoder_out_and_no_test_sentence_is_bona_fide_in_training(shared_data):
    root = str(shared_data("ljspeech-vocoded").parent)
    module = LJSpeechVocoded(root=root, held_out="r9y9_wavegan")
    train, val, test = module.splits
    others = VOCODERS - {"r9y9_wavegan"}
    assert attacks_of(train) == {"-": 14} | dict.fromkeys(others, 2)
    assert attacks_of(val) == {"-": 5} | dict.fromkeys(others, 1)
    assert attacks_of(test) == {"-": 6, "r9y9_wavegan": 5}
    tested = {sentence(u) for u in test if u.is_bonafide}
    assert tested.isdisjoint(sentence(u) for part in (train, val) for u in part)


def test_real_ljspeech_has_one_level_and_no_repeated_window(shared_data):
    module = LJSpeechVocoded(root=str(shared_data("ljspeech-vocoded").parent))
    every = [u for part in module.splits for u in part]
    assert all(u.source.square().mean().sqrt().item() == pytest.approx(LEVEL, rel=1e-4) for u in every)
    assert all(u.source.abs().max() < 1 for u in every)
    assert all(len(u.source) > module.num_samples for u in every)
    assert all(u.sample_rate == 16_000 for u in every)


def test_ljspeech_mistakes_are_named(tmp_path, shared_data):
    with pytest.raises(KANError, match=r"protocol\.txt is missing: fetch it from https://github\.com/kan-bayashi"):
        LJSpeechVocoded(root=str(tmp_path)).setup("fit")
    root = str(shared_data("ljspeech-vocoded").parent)
    with pytest.raises(
        KANError, match="held_out: ljspeech-vocoded has no attack 'wavenet': choose from kan-bayashi_fb-"
    ):
        LJSpeechVocoded(root=root, held_out="wavenet").setup("fit")
    folder = tmp_path / "ljspeech-vocoded"
    name = write_wav(folder / "wav" / "bonafide" / "LJ001-0001.wav").relative_to(folder).as_posix()
    (folder / "protocol.txt").write_text(f"LJ {name} - - bonafide\nLJ wav/x/LJ050-0029.wav - x spoof\n")
    with pytest.raises(KANError, match=r"line 2: the audio of wav/x/LJ050-0029\.wav is missing"):
        LJSpeechVocoded(root=str(tmp_path), held_out="x").setup("fit")
    other = write_wav(folder / "wav" / "x" / "LJ049-0001.wav").relative_to(folder).as_posix()
    (folder / "protocol.txt").write_text(f"LJ {other} - x spoof\n")
    with pytest.raises(KANError, match=r"LJ049-0001\.wav is not of chapter LJ001 or LJ050"):
        LJSpeechVocoded(root=str(tmp_path), held_out="x").setup("fit")


def test_silence_stays_silence_when_levelled():
    assert not levelled(torch.zeros(10)).any()


# resynthesis


@pytest.fixture(scope="module")
def resynthesised(tmp_path_factory):
    """12 recordings of 4 speakers and what is made of them, by cheap attacks."""
    root = tmp_path_factory.mktemp("speech")
    for s in range(4):
        for i in range(3):
            write_wav(root / "talk" / f"s{s}" / f"{i}.wav", 1200 + 100 * i + s, seed=10 * s + i)
    module = ResynthesisedSpoof(
        "talk", ["A04", "A05"], ["A03", "A09"], root=str(root), sample_rate=16_000, num_samples=1000
    )
    module.setup("fit")
    return module


def test_held_out_attacks_are_in_the_test_only(resynthesised):
    train, val, test = resynthesised.splits
    assert attacks_of(train) == {"-": 6, "A04": 3, "A05": 3}
    assert attacks_of(val) == {"-": 3, "A04": 2, "A05": 1}
    assert attacks_of(test) == dict.fromkeys(["-", "A03", "A04", "A05", "A09"], 3)


def test_speakers_of_resynthesised_speech_are_apart(resynthesised):
    check_speakers(resynthesised.splits, "talk")
    assert len({u.speaker for part in resynthesised.splits for u in part}) == 4


def test_every_recording_went_through_the_chain_and_spoofs_are_as_long_as_their_original(resynthesised):
    every = {u.id: u for part in resynthesised.splits for u in part}
    for utterance in every.values():
        assert utterance.source.abs().max().item() == pytest.approx(PEAK, rel=1e-3)
        assert utterance.sample_rate == RATE, "the recording's own rate, not the higher one of the module"
        original = every[utterance.id.partition("-")[0]]
        assert original.is_bonafide
        assert len(utterance.source) == len(original.source)


def test_resynthesis_is_deterministic_and_leaves_the_global_generator_alone(resynthesised):
    options = {"root": resynthesised.root, "sample_rate": 16_000, "num_samples": 1000}
    before = torch.get_rng_state()
    again = ResynthesisedSpoof("talk", ["A04", "A05"], ["A03", "A09"], **options)
    for ours, theirs in zip(again.splits.test, resynthesised.splits.test, strict=True):
        assert ours.id == theirs.id
        assert torch.equal(ours.source, theirs.source)
    assert torch.equal(before, torch.get_rng_state())


def test_a_limit_takes_as_many_of_each_speaker_and_the_name_says_so(resynthesised):
    module = ResynthesisedSpoof(
        "talk", ["A04"], ["A09"], max_utterances=8, root=resynthesised.root, sample_rate=RATE, num_samples=1000
    )
    bonafide = [u for part in module.splits for u in part if u.is_bonafide]
    assert Counter(u.speaker for u in bonafide) == {f"s{s}": 2 for s in range(4)}
    assert module.name == "talk resynthesised (8 utterances, A09 held out)"


def test_evenly_keeps_the_order_and_all_when_there_are_fewer():
    every = [Utterance(f"{s}{i}", None, {}, s) for s in "ab" for i in range(4)]
    assert evenly(every, 99, seed=0) == every
    some = evenly(every, 4, seed=0)
    assert [u for u in every if u in some] == some
    assert Counter(u.speaker for u in some) == {"a": 2, "b": 2}


def test_the_default_needs_no_data():
    module = ResynthesisedSpoof(train_attacks=["A04"], held_out_attacks=["A05"], max_utterances=16, num_samples=8000)
    module.setup("fit")
    (batch,) = module.train_dataloader()
    assert batch.wave.shape == (len(module.splits.train), 8000)
    assert batch.label.float().mean() == 0.5
    assert module.name == "synthetic resynthesised (16 utterances, A05 held out)"


def test_default_attacks_are_all_of_them_with_two_held_out():
    module = ResynthesisedSpoof()
    assert module.held_out_attacks == list(HELD_OUT)
    assert sorted([*module.train_attacks, *HELD_OUT]) == sorted(ATTACKS)


def test_real_digits_are_a_source_of_speech(shared_data):
    module = ResynthesisedSpoof(
        "fsdd", ["A04"], ["A05"], max_utterances=24, root=str(shared_data("fsdd").parent), sample_rate=RATE
    )
    assert [Counter(u.is_bonafide for u in part)[True] for part in module.splits] == [8, 8, 8]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_attacks": ["A01"], "held_out_attacks": ["A01"]}, "A01 is in train_attacks too"),
        ({"train_attacks": ["A77"]}, "train_attacks: kan_audio.data.attacks has no attack 'A77'"),
        ({"held_out_attacks": ["A77"]}, "held_out_attacks: kan_audio.data.attacks has no attack 'A77'"),
        ({"train_attacks": []}, "no attack in this option"),
        ({"max_utterances": 2}, "max_utterances must be at least 3"),
    ],
)
def test_attacks_that_do_not_fit_are_refused(options, message):
    with pytest.raises(KANError, match=message):
        ResynthesisedSpoof(**options)


def test_sources_that_cannot_be_used_are_named(tmp_path):
    write_wav(tmp_path / "loose" / "a.wav")
    with pytest.raises(KANError, match=r"a\.wav is in no folder of a speaker"):
        ResynthesisedSpoof("loose", root=str(tmp_path)).setup("fit")
    with pytest.raises(KANError, match="there is no such folder"):
        ResynthesisedSpoof("absent", root=str(tmp_path)).setup("fit")
    for s in range(3):
        soundfile.write(write_wav(tmp_path / "quiet" / f"s{s}" / "a.wav"), np.zeros(300), RATE)
    with pytest.raises(KANError, match=r"s\d/a\.wav is silent, so that its spoof would be the same"):
        ResynthesisedSpoof("quiet", root=str(tmp_path)).setup("fit")


# all of them


MODULES = [
    value
    for value in vars(data).values()
    if isinstance(value, type)
    and issubclass(value, data.AudioDataModule)
    and value not in (data.AudioDataModule, data.WindowedDataModule, data.PaddedDataModule)
]


@pytest.mark.parametrize("module", MODULES, ids=lambda m: m.__name__)
def test_the_command_line_sees_every_option(module):
    parser = jsonargparse.ArgumentParser()
    parser.add_class_arguments(module, "data")
    own_option = "num_samples" if issubclass(module, data.WindowedDataModule) else "max_seconds"
    options = {action.dest.removeprefix("data.") for action in parser._actions}
    shared = {"root", "sample_rate", "batch_size", "num_workers", "augment", "predict_files"}
    assert shared | {own_option} <= options
