"""The sets of spoken commands: their layouts, splits, slots and what is wrong with a copy of them."""

from __future__ import annotations

import json
import zipfile

import numpy as np
import pytest
import soundfile
import torch

from kan_audio.data.barista import Barista
from kan_audio.data.fluent import FluentSpeechCommands
from kan_audio.data.fsdd import FSDD
from kan_audio.data.labelled_speech import LabelledSpeech
from kan_audio.data.speech_commands import SpeechCommands
from kan_core.errors import KANError

RATE = 8000


def write_wav(path, value=0.1, frames=240):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.full(frames, value, dtype=np.float32), RATE)
    return path


def ids(part):
    return [u.id for u in part]


# FSDD


def write_fsdd(folder, speakers=("anna", "bert", "carl"), digits=range(10), indices=(0, 4, 5, 9, 10)):
    for speaker in speakers:
        for digit in digits:
            for index in indices:
                write_wav(folder / "recordings" / f"{digit}_{speaker}_{index}.wav", digit / 20)
    return folder


def test_fsdd_official_test_is_recordings_0_to_4(tmp_path):
    write_fsdd(tmp_path / "fsdd")
    module = FSDD(root=str(tmp_path))
    train, val, test = (sorted({int(name.split("_")[2]) for name in ids(part)}) for part in module.splits)
    assert (train, val, test) == ([10], [5, 9], [0, 4])
    assert [len(part) for part in module.splits] == [30, 60, 60]
    assert module.slots == {"digit": list("0123456789")}


def test_fsdd_held_out_speaker_is_in_the_test_alone(tmp_path):
    write_fsdd(tmp_path / "fsdd")
    module = FSDD(root=str(tmp_path), protocol="speaker", held_out="bert")
    speakers = [{u.speaker for u in part} for part in module.splits]
    assert speakers == [{"anna", "carl"}, {"anna", "carl"}, {"bert"}]
    assert {int(name.split("_")[2]) for name in ids(module.splits.val)} == {5, 9}
    assert {int(name.split("_")[2]) for name in ids(module.splits.train)} == {0, 4, 10}
    assert len(module.splits.test) == 50
    assert module.name == "fsdd (speaker bert held out)"


def test_fsdd_zip_and_folder_give_the_same_batches(tmp_path):
    folder = write_fsdd(tmp_path / "plain", indices=(0, 5, 10))
    (tmp_path / "packed").mkdir()
    with zipfile.ZipFile(tmp_path / "packed" / "fsdd.zip", "w") as archive:
        for path in folder.rglob("*.wav"):
            archive.write(path, path.relative_to(folder))
        archive.writestr("README.md", "about")
    plain, packed = (FSDD(name, root=str(tmp_path), sample_rate=16_000) for name in ("plain", "packed"))
    for ours, theirs in zip(packed.test_dataloader(), plain.test_dataloader(), strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocol": "speaker"}, "held_out names the speaker"),
        ({"held_out": "anna"}, "held_out names the speaker"),
        ({"protocol": "random"}, "protocol must be official or speaker"),
    ],
)
def test_fsdd_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(KANError, match=message):
        FSDD(**options)


def test_fsdd_unknown_speaker_lists_those_there_are(tmp_path):
    write_fsdd(tmp_path / "fsdd")
    with pytest.raises(KANError, match="no speaker 'dora' in fsdd: anna, bert, carl"):
        FSDD(root=str(tmp_path), protocol="speaker", held_out="dora").setup("fit")


def test_fsdd_must_be_complete_and_named_right(tmp_path):
    with pytest.raises(KANError, match=r"fsdd is missing: fetch it from https://github\.com/Jakobovski"):
        FSDD(root=str(tmp_path)).setup("fit")
    write_fsdd(tmp_path / "fsdd", digits=range(9))
    with pytest.raises(KANError, match="no recording of digit 9 by anna"):
        FSDD(root=str(tmp_path)).setup("fit")
    write_wav(tmp_path / "fsdd" / "recordings" / "ten_anna_0.wav")
    with pytest.raises(KANError, match=r"ten_anna_0\.wav: recordings of this set are called"):
        FSDD(root=str(tmp_path)).setup("fit")


def test_real_fsdd_has_2700_recordings_that_are_not_for_the_test(shared_data):
    root = str(shared_data("fsdd").parent)
    splits = FSDD(root=root, sample_rate=8000).splits
    assert [len(part) for part in splits] == [2400, 300, 300]
    assert {u.speaker for u in splits.test} == {"george", "jackson", "lucas", "nicolas", "theo", "yweweler"}
    theo = FSDD(root=root, protocol="speaker", held_out="theo").splits
    assert [len(part) for part in theo] == [2250, 250, 500]


def test_real_fsdd_decodes_to_the_published_length(shared_data):
    module = FSDD(root=str(shared_data("fsdd").parent), sample_rate=8000, batch_size=300)
    module.setup("fit")
    module.setup("test")
    waves = [module._sound(part) for part in ("train", "val", "test")]
    assert all(w.in_memory for w in waves)
    assert sum(len(w[i]) for w in waves for i in range(len(w))) / 8000 == pytest.approx(1312, abs=1)
    (batch,) = module.test_dataloader()
    assert torch.bincount(batch.label[:, 0]).tolist() == [30] * 10


# Speech Commands


def write_speech_commands(folder, words=("cat", "dog", "go")):
    for word in words:
        for speaker in ("0a", "1b", "2c", "3d"):
            write_wav(folder / word / f"{speaker}_nohash_0.wav")
    write_wav(folder / "_background_noise_" / "tap.wav")
    (folder / "validation_list.txt").write_text("".join(f"{w}/1b_nohash_0.wav\n" for w in words))
    (folder / "testing_list.txt").write_text("".join(f"{w}/2c_nohash_0.wav\n" for w in words))
    return folder


def test_speech_commands_lists_decide_and_noise_is_no_word(tmp_path):
    write_speech_commands(tmp_path / "speech_commands_v0.02")
    module = SpeechCommands(root=str(tmp_path))
    assert [sorted({u.speaker for u in part}) for part in module.splits] == [["0a", "3d"], ["1b"], ["2c"]]
    assert module.slots == {"word": ["cat", "dog", "go"]}
    assert ids(module.splits.val) == ["cat/1b_nohash_0.wav", "dog/1b_nohash_0.wav", "go/1b_nohash_0.wav"]


def test_speech_commands_chosen_words(tmp_path):
    write_speech_commands(tmp_path / "sc")
    module = SpeechCommands("sc", words=["go", "cat"], root=str(tmp_path))
    assert module.slots == {"word": ["cat", "go"]}
    assert module.name == "speech-commands (2 words)"
    with pytest.raises(KANError, match=r"no folder house in .*: found cat, dog, go"):
        SpeechCommands("sc", words=["house"], root=str(tmp_path)).setup("fit")


def test_speech_commands_bad_copies_are_refused(tmp_path):
    with pytest.raises(KANError, match=r"is missing: fetch it from https://www\.tensorflow\.org"):
        SpeechCommands(root=str(tmp_path)).setup("fit")
    folder = write_speech_commands(tmp_path / "sc")
    (folder / "dog" / "2c_nohash_0.wav").unlink()
    with pytest.raises(KANError, match=r"testing_list\.txt names dog/2c_nohash_0\.wav, which is missing"):
        SpeechCommands("sc", root=str(tmp_path)).setup("fit")
    (folder / "testing_list.txt").write_text("dog/1b_nohash_0.wav\n")
    with pytest.raises(KANError, match=r"dog/1b_nohash_0\.wav is in both lists"):
        SpeechCommands("sc", root=str(tmp_path)).setup("fit")
    write_wav(folder / "dog" / "bark.wav")
    write_speech_commands(folder)
    with pytest.raises(KANError, match=r"bark\.wav: recordings of this set are called"):
        SpeechCommands("sc", root=str(tmp_path)).setup("fit")


# Fluent Speech Commands


FLUENT = {
    "train": [("s1", "activate", "lights", "kitchen"), ("s1", "deactivate", "music", "none")],
    "valid": [("s2", "activate", "music", "none")],
    "test": [("s3", "deactivate", "lights", "kitchen")],
}


def write_fluent(folder, rows=FLUENT):
    for part, commands in rows.items():
        lines = [",path,speakerId,transcription,action,object,location"]
        for i, (speaker, *slots) in enumerate(commands):
            path = f"wavs/speakers/{speaker}/{part}{i}.wav"
            write_wav(folder / path)
            lines.append(f'{i},{path},{speaker},"Turn it on, please",{",".join(slots)}')
        (folder / "data").mkdir(exist_ok=True)
        (folder / "data" / f"{part}_data.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_fluent_slots_and_parts(tmp_path):
    write_fluent(tmp_path / "fluent")
    module = FluentSpeechCommands("fluent", root=str(tmp_path))
    assert module.slots == {
        "action": ["activate", "deactivate"],
        "object": ["lights", "music"],
        "location": ["kitchen", "none"],
    }
    (batch,) = module.test_dataloader()
    assert batch.label.tolist() == [[1, 0, 0]]
    assert batch.wave.shape == (1, 480)


def test_permuting_the_rows_leaves_the_label_maps_unchanged(tmp_path):
    write_fluent(tmp_path / "a")
    write_fluent(tmp_path / "b", {part: rows[::-1] for part, rows in FLUENT.items()})
    a, b = (FluentSpeechCommands(name, root=str(tmp_path)) for name in "ab")
    assert a.slots == b.slots


def test_fluent_unseen_slot_value_is_an_error_that_lists_it(tmp_path):
    write_fluent(tmp_path / "fluent", {**FLUENT, "test": [("s3", "bring", "lights", "kitchen")]})
    with pytest.raises(KANError, match="action is 'bring' for wavs/speakers/s3/test0"):
        FluentSpeechCommands("fluent", root=str(tmp_path)).setup("fit")


def test_fluent_speaker_in_two_parts_is_a_leak(tmp_path):
    write_fluent(tmp_path / "fluent", {**FLUENT, "test": [("s1", "activate", "lights", "kitchen")]})
    with pytest.raises(KANError, match="the speaker s1 is in the train part and in the test part"):
        FluentSpeechCommands("fluent", root=str(tmp_path)).setup("fit")


def test_fluent_bad_copies_are_refused(tmp_path):
    folder = write_fluent(tmp_path / "fluent")
    module = FluentSpeechCommands("fluent", root=str(tmp_path))
    (folder / "wavs/speakers/s2/valid0.wav").unlink()
    with pytest.raises(
        KANError, match=r"valid_data\.csv, line 2: the audio of wavs/speakers/s2/valid0\.wav is missing"
    ):
        module.setup("fit")
    table = folder / "data" / "valid_data.csv"
    table.write_text(table.read_text().replace("location", "place"))
    with pytest.raises(KANError, match=r"valid_data\.csv: the header has no column 'location'"):
        module.setup("fit")
    table.unlink()
    with pytest.raises(KANError, match=r"valid_data\.csv is missing: fetch it from https://fluent\.ai"):
        module.setup("fit")


# your own tables


def write_table(folder, text):
    for name in "abcdefgh":
        write_wav(folder / f"{name}.wav")
    (folder / "table.csv").write_text(text)
    return folder


TABLE = "path,speaker,split,intent,room\n" + "".join(
    f"{name}.wav,s{i // 2},{part},{'on' if i % 2 else 'off'}, hall \n"
    for i, (name, part) in enumerate(zip("abcdefgh", ["train"] * 4 + ["val"] * 2 + ["test"] * 2, strict=True))
)


def own(tmp_path, text=TABLE, **options):
    write_table(tmp_path / "own", text)
    return LabelledSpeech("own/table.csv", ["intent", "room"], root=str(tmp_path), **options)


def test_a_split_column_is_followed_and_values_are_stripped(tmp_path):
    module = own(tmp_path, split="column")
    assert [ids(part) for part in module.splits] == [
        ["a.wav", "b.wav", "c.wav", "d.wav"], ["e.wav", "f.wav"], ["g.wav", "h.wav"]
    ]  # fmt: skip
    assert module.slots == {"intent": ["off", "on"], "room": ["hall"]}
    assert module.name == "table"


def test_the_speaker_split_keeps_speakers_apart(tmp_path):
    speakers = [{u.speaker for u in part} for part in own(tmp_path).splits]
    assert set.union(*speakers) == {"s0", "s1", "s2", "s3"}
    assert sum(map(len, speakers)) == 4


def test_the_random_split_is_stratified_by_the_first_slot(tmp_path):
    splits = own(tmp_path, split="random", val_fraction=0.25, test_fraction=0.25).splits
    assert [sorted(u.labels["intent"] for u in part) for part in splits[1:]] == [["off", "on"]] * 2


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (("b.wav,s0,train", "b.wav,s0,dev"), {"split": "column"}, r"line 3: split is 'dev': use train, val, test"),
        (("h.wav,s3", "h.wav,s0"), {"split": "column"}, "the speaker s0 is in the train part and in the test part"),
        (("b.wav", "a.wav"), {"split": "column"}, r"the id a\.wav stands there twice"),
        (("b.wav", "z.wav"), {}, r"line 3: the audio of z\.wav is missing"),
        (("b.wav,s0,train,on", "b.wav,s0,train,"), {}, "line 3: intent is empty"),
        (("b.wav,s0,train,on, hall ", "b.wav,s0,train,on"), {}, "line 3: the number of values is not that of"),
        (("b.wav,s0,train,on, hall ", "b.wav,s0,train,on,hall,x"), {}, "line 3: the number of values is not that of"),
        (("speaker", "who"), {}, "the header has no column 'speaker'"),
        (("split", "part"), {"split": "column"}, "the header has no column 'split'"),
    ],
)
def test_a_wrong_table_is_refused_with_its_line(tmp_path, change, options, message):
    with pytest.raises(KANError, match=message):
        own(tmp_path, TABLE.replace(*change), **options).setup("fit")


def test_a_table_must_be_there_and_hold_rows(tmp_path):
    with pytest.raises(KANError, match="has a header but no rows"):
        own(tmp_path, TABLE.splitlines()[0] + "\n").setup("fit")
    with pytest.raises(KANError, match=r"absent\.csv: there is no such file"):
        LabelledSpeech("absent.csv", ["intent"], root=str(tmp_path)).setup("fit")
    with pytest.raises(KANError, match="slots is empty"):
        LabelledSpeech("table.csv", [])
    with pytest.raises(KANError, match="split must be speaker, column or random"):
        LabelledSpeech("table.csv", ["intent"], split="fold")


# Barista


def order(**slots):
    return {"intent": "orderDrink", "slots": slots}


def write_barista(folder, recordings=10, entries=None):
    labels = {f"u{i}.wav": order(coffeeDrink="mocha", milkAmount=" soy milk" if i % 2 else "cream") for i in range(10)}
    labels["u99.wav"] = order(coffeeDrink="latte", roast="dark roast")
    for i in range(recordings):
        write_wav(folder / "clean" / f"u{i}.wav")
    (folder / "label.json").write_text(json.dumps(entries or labels))
    return folder


def test_barista_absent_slots_are_none_and_values_are_stripped(tmp_path):
    write_barista(tmp_path / "barista")
    module = Barista(root=str(tmp_path))
    assert module.slots == {
        "coffeeDrink": ["latte", "mocha"],
        "roast": ["dark roast", "none"],
        "size": ["none"],
        "numberOfShots": ["none"],
        "milkAmount": ["cream", "none", "soy milk"],
        "sugarAmount": ["none"],
    }
    (batch,) = module.test_dataloader()
    assert batch.label[:, [0, 1, 2]].tolist() == [[1, 1, 0]] * 2


def test_barista_folds_test_every_order_once(tmp_path):
    write_barista(tmp_path / "barista")
    tested = [u.id for i in range(5) for u in Barista(fold=i, root=str(tmp_path)).splits.test]
    assert sorted(tested) == sorted(f"u{i}" for i in range(10))
    assert Barista(fold=3, root=str(tmp_path)).name == "barista (fold 3 of 5)"


def test_barista_bad_copies_are_refused(tmp_path):
    with pytest.raises(KANError, match=r"is missing: fetch it from https://github\.com/Picovoice"):
        Barista(root=str(tmp_path)).setup("fit")
    folder = write_barista(tmp_path / "barista", recordings=5, entries={"u0.wav": order(coffeeDrink="mocha")})
    with pytest.raises(KANError, match=r"u1\.wav: label\.json in barista has no entry u1\.wav"):
        Barista(root=str(tmp_path)).setup("fit")
    (folder / "label.json").write_text(json.dumps({"u0.wav": order(cup="large")}))
    with pytest.raises(KANError, match=r"u0\.wav has the slot 'cup': the slots are coffeeDrink"):
        Barista(root=str(tmp_path)).setup("fit")
    for text in ("{", "[1]", '{"u0.wav": {"intent": 1}}', '{"u0.wav": {"slots": {"size": 3}}}'):
        (folder / "label.json").write_text(text)
        with pytest.raises(KANError, match=r"label\.json must map each file to"):
            Barista(root=str(tmp_path)).setup("fit")


def test_real_barista_has_the_counted_values(shared_data):
    module = Barista(root=str(shared_data("barista").parent))
    assert [len(part) for part in module.splits] == [57, 19, 20]
    sizes = {slot: len(values) for slot, values in module.slots.items()}
    assert sizes == {
        "coffeeDrink": 10,  # always said; the others have "none" too
        "roast": 3 + 1,
        "size": 7 + 1,
        "numberOfShots": 3 + 1,
        "milkAmount": 36 + 1,
        "sugarAmount": 18 + 1,
    }
    module.setup("test")
    lengths = torch.cat([batch.length for batch in module.test_dataloader()])
    assert lengths.min() >= 4.6 * 16_000 - 1600
    assert lengths.max() < 15 * 16_000
