"""What every data module keeps: order, windows, padding, labels, files to predict, and no item that is swapped."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import soundfile
import torch

from kan_audio.data import waves as waves_module
from kan_audio.data.base import PaddedDataModule, WindowedDataModule
from kan_audio.data.folders import AudioFolder, audio_files, members, unlabelled
from kan_audio.data.utterances import Splits, Utterance
from kan_audio.data.waves import Waves
from kan_core.errors import KANError

RATE = 16_000


def ramp(index, length):
    """Samples that tell which utterance and which position they are from."""
    return (index + torch.arange(length) / 8192) / 16


def spoofs(lengths, start=0):
    return [
        Utterance(f"u{start + i}", ramp(i, n), {"key": "spoof" if i % 2 else "bonafide"}, sample_rate=RATE)
        for i, n in enumerate(lengths)
    ]


def words(values, start=0, length=500):
    return [
        Utterance(f"u{start + i}", ramp(i, length + i), {"word": v, "size": "big"}, sample_rate=RATE)
        for i, v in enumerate(values)
    ]


class Spoofs(WindowedDataModule):
    """A set in memory."""

    def __init__(self, train, val=None, test=None, **options):
        super().__init__(**{"num_samples": 100, **options})
        val, test = val or spoofs([100, 100], 1000), test or spoofs([100, 100], 2000)
        self.given = Splits(train, val, test)

    def load(self):
        return self.given

    @property
    def name(self):
        return "given"


class Words(PaddedDataModule):
    """A set in memory."""

    def __init__(self, train, val=None, test=None, **options):
        super().__init__(**options)
        self.given = Splits(train, val or words(["no", "yes"], 1000), test or words(["yes", "no"], 2000))

    load = Spoofs.load
    name = Spoofs.name


def write_wav(path, samples, rate=RATE, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.asarray(samples, dtype=np.float32), rate, **options)
    return path


def batches(loader):
    return list(loader)


# windows


def test_training_starts_are_uniform_over_the_inclusive_range():
    module = Spoofs(spoofs([103] * 400))
    waves = torch.cat([batch.wave - (batch.position.unsqueeze(1) / 16) for batch in module.train_dataloader()])
    starts = (waves[:, 0] * 16 * 8192).round().int()
    counts = torch.bincount(starts, minlength=4)
    assert len(counts) == 4
    assert counts.min() > 0.6 * 384 / 4


def test_evaluation_takes_the_first_window_in_order():
    module = Spoofs(spoofs([100, 100]), test=spoofs([150, 100, 120], 2000), batch_size=2)
    first, second = batches(module.test_dataloader())
    assert first.position.tolist() + second.position.tolist() == [0, 1, 2]
    assert torch.equal(torch.cat([first.wave, second.wave]), torch.stack([ramp(i, 100) for i in range(3)]))
    assert first.length.tolist() == [100, 100]


@pytest.mark.parametrize("length", [1, 99, 100, 101, 200])
def test_short_files_are_repeated_never_padded(length):
    module = Spoofs(spoofs([length, length]), test=spoofs([length, length], 2000))
    for loader in (module.train_dataloader(), module.test_dataloader()):
        for batch in loader:
            assert batch.wave.shape == (2, 100)
            if length < 100:
                expected = torch.stack([ramp(i, length).repeat(100)[:100] for i in batch.position.tolist()])
                assert torch.equal(batch.wave, expected)


def test_keys_are_spoof_zero_and_bona_fide_one():
    module = Spoofs(spoofs([100, 100]))
    (batch,) = module.test_dataloader()
    assert module.slots == {"key": ["spoof", "bonafide"]}
    assert batch.label.tolist() == [[1], [0]]
    assert batch.label.dtype == torch.int64


def test_an_unknown_key_is_an_error():
    wrong = [*spoofs([100, 100], 2000), Utterance("odd", ramp(0, 100), {"key": "genuine"}, sample_rate=RATE)]
    with pytest.raises(KANError, match="key is 'genuine' for odd"):
        Spoofs(spoofs([100, 100]), test=wrong).setup("fit")


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_a_part_of_one_class_is_an_error(part):
    with pytest.raises(KANError, match=f"the {part} part holds no spoof utterance"):
        Spoofs(**{"train": spoofs([100, 100]), part: spoofs([100], 3000)}).setup("fit")


# padding


def test_padding_is_zero_behind_the_length():
    module = Words(words(["no", "yes", "no"]), test=words(["yes", "no"], 2000))
    (batch,) = module.test_dataloader()
    assert batch.wave.shape == (2, 501)
    assert batch.length.tolist() == [500, 501]
    assert torch.equal(batch.wave[0, :500], ramp(0, 500))
    assert batch.wave[0, 500] == 0


def test_what_is_longer_than_the_cap_is_cut():
    module = Words(words(["no", "yes"]), max_seconds=0.03)
    (batch,) = module.test_dataloader()
    assert batch.length.tolist() == [480, 480]
    assert torch.equal(batch.wave[0], ramp(0, 480))


def test_an_utterance_shorter_than_one_frame_is_an_error_that_names_it():
    with pytest.raises(KANError, match="u1: 399 samples at 16000 Hz are too few, at least 400"):
        Words([*words(["no"]), Utterance("u1", ramp(0, 399), {"word": "yes", "size": "big"}, sample_rate=RATE)]).setup(
            "fit"
        )


def test_classes_are_sorted_and_do_not_depend_on_the_order_of_the_set():
    values = ["yes", "no", "yes", "maybe"]
    module, turned = Words(words(values)), Words(words(values)[::-1])
    assert module.slots == turned.slots == {"word": ["maybe", "no", "yes"], "size": ["big"]}
    (batch,) = module.test_dataloader()
    assert batch.label.tolist() == [[2, 0], [1, 0]]


@pytest.mark.parametrize("part", ["val", "test"])
def test_a_value_not_seen_in_training_is_an_error_that_lists_it(part):
    module = Words(words(["no", "yes"]), **{part: words(["yes", "perhaps"], 3000)})
    with pytest.raises(KANError, match=r"word is 'perhaps' for u3001, which no training utterance has: .* no, yes"):
        module.setup("test")


def test_a_missing_slot_is_an_error():
    lacking = [Utterance("u9", ramp(0, 500), {"word": "no"}, sample_rate=RATE)]
    with pytest.raises(KANError, match="u9 has no value for size"):
        Words(words(["no", "yes"]), test=lacking).setup("fit")


# loaders


def test_training_order_comes_from_the_global_generator():
    module = Spoofs(spoofs([110] * 12), batch_size=4)
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        runs.append(batches(module.train_dataloader()))
    first, again, other = ([(b.position.tolist(), b.wave.sum().item()) for b in run] for run in runs)
    assert first == again != other


def test_the_last_smaller_batch_is_dropped_in_training_alone():
    module = Spoofs(spoofs([100] * 5), test=spoofs([100] * 5, 2000), batch_size=2)
    assert [len(b.wave) for b in module.train_dataloader()] == [2, 2]
    assert [len(b.wave) for b in module.test_dataloader()] == [2, 2, 1]
    assert [len(b.wave) for b in Spoofs(spoofs([100] * 5), batch_size=64).train_dataloader()] == [5]


def test_loader_processes_give_the_same_evaluation_and_repeatable_training():
    module = Spoofs(spoofs([110] * 8), test=spoofs([100] * 5, 2000), batch_size=2, num_workers=2)
    plain = Spoofs(spoofs([110] * 8), test=spoofs([100] * 5, 2000), batch_size=2)
    for ours, theirs in zip(module.test_dataloader(), plain.test_dataloader(), strict=True):
        assert torch.equal(ours.wave, theirs.wave)
        assert torch.equal(ours.position, theirs.position)
    runs = []
    for _ in range(2):
        torch.manual_seed(5)
        runs.append(torch.cat([b.wave for b in module.train_dataloader()]))
    assert torch.equal(*runs)
    starts = {round(float(row[0]) * 8192 * 16) % 8192 for row in runs[0]}
    assert len(starts) > 2, "the processes draw different windows"


def test_a_loader_can_be_sent_to_processes_that_are_started_anew():
    loader = Spoofs(spoofs([100] * 4), augment=["noise(snr=(0, 1), p=1.0)"]).train_dataloader()
    again = pickle.loads(pickle.dumps(loader.dataset))
    torch.manual_seed(0)
    wave, label, position = again[1]
    torch.manual_seed(0)
    assert torch.equal(wave, loader.dataset[1][0])
    assert (label.tolist(), position) == ([0], 1)


def test_augmentation_touches_training_utterances_only():
    module = Spoofs(spoofs([100] * 4), test=spoofs([100] * 4, 2000), augment=["noise(snr=(0, 1), p=1.0)"])
    clean = torch.stack([ramp(i, 100) for i in range(4)])
    torch.manual_seed(0)
    (train,) = module.train_dataloader()
    (test,) = module.test_dataloader()
    assert (train.wave - clean[train.position]).abs().amax(dim=1).min() > 1e-3
    assert torch.equal(test.wave, clean)


@pytest.mark.parametrize(
    ("option", "value"), [("batch_size", 0), ("sample_rate", 0), ("num_workers", -1), ("num_samples", 0)]
)
def test_options_out_of_range_are_refused(option, value):
    with pytest.raises(KANError, match=f"{option} must be at least"):
        Spoofs(spoofs([100, 100]), **{option: value})


def test_max_seconds_must_hold_one_frame():
    with pytest.raises(KANError, match=r"max_seconds must be at least 0\.025"):
        Words(words(["a"]), max_seconds=0.01)


def test_an_unknown_augmentation_is_refused_at_once():
    with pytest.raises(KANError, match="nosuch"):
        Spoofs(spoofs([100, 100]), augment=["nosuch(p=1)"])


# memory


def test_short_sets_are_decoded_once(tmp_path):
    path = write_wav(tmp_path / "a.wav", np.linspace(0, 0.5, 300))
    kept = Waves([Utterance("a", path, {})], RATE)
    assert kept.in_memory
    before = kept[0]
    path.unlink()
    assert torch.equal(kept[0], before)


def test_a_set_over_the_limit_is_decoded_when_asked(tmp_path):
    paths = [write_wav(tmp_path / f"{i}.wav", np.full(300, 0.1 * i)) for i in range(3)]
    lazy = Waves([Utterance(p.stem, p, {}) for p in paths], RATE, memory=4 * 899)
    assert not lazy.in_memory
    assert Waves(lazy.utterances, RATE, memory=4 * 900).in_memory
    assert lazy[2].mean().item() == pytest.approx(0.2, abs=1e-4)
    paths[1].unlink()
    with pytest.raises(KANError, match=r"1\.wav"):  # an error, not another item
        lazy[1]


def test_the_limit_counts_samples_after_resampling(tmp_path):
    path = write_wav(tmp_path / "a.wav", np.zeros(800), rate=8000)
    assert not Waves([Utterance("a", path, {})], 16_000, memory=4 * 1599).in_memory
    assert Waves([Utterance("a", path, {})], 16_000, memory=4 * 1600).in_memory


def test_damaged_items_of_a_lazy_set_stop_the_loader(tmp_path, monkeypatch):
    monkeypatch.setattr(waves_module.Waves.__init__, "__defaults__", (1, 0))
    good, bad = write_wav(tmp_path / "good.wav", np.zeros(300)), tmp_path / "bad.wav"
    bad.write_bytes(b"RIFF....WAVE")
    keys = {"key": "spoof"}, {"key": "bonafide"}
    train = [Utterance("g", good, keys[0]), Utterance("b", bad, keys[1])]
    module = Spoofs(spoofs([100, 100]), test=train)
    with pytest.raises(KANError, match=r"bad\.wav"):
        batches(module.test_dataloader())


BAD_FILES = {
    "empty": lambda p: p.write_bytes(b""),
    "no samples": lambda p: write_wav(p, []),
    "NaN": lambda p: write_wav(p, [0, np.nan, 0], subtype="FLOAT"),
    "infinite": lambda p: write_wav(p, [0, np.inf, 0], subtype="FLOAT"),
    "text": lambda p: p.write_text("not audio"),
    "cut off": lambda p: p.write_bytes(write_wav(p, np.zeros(500)).read_bytes()[:400]),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_bad_file_is_a_one_line_error_that_names_it(tmp_path, kind):
    path = tmp_path / "broken.wav"
    BAD_FILES[kind](path)
    module = Spoofs([*spoofs([100, 100]), Utterance("x", path, {"key": "spoof"})])
    with pytest.raises(KANError, match=r"broken\.wav") as error:
        module.setup("fit")
    assert "\n" not in str(error.value)


GOOD_FILES = {
    "one sample": ([0.25], RATE),
    "silent": (np.zeros(150), RATE),
    "clipped": (np.sign(np.sin(np.arange(150) + 0.5)), RATE),
    "8 kHz": (np.zeros(80), 8000),
    "48 kHz": (np.zeros(500), 48_000),
    "stereo": (np.tile([[0.5, -0.25]], (150, 1)), RATE),
}


def test_odd_but_readable_files_and_mixed_rates_are_used(tmp_path):
    every = [
        Utterance(kind, write_wav(tmp_path / f"{kind}.wav", samples, rate), {"key": "spoof" if i % 2 else "bonafide"})
        for i, (kind, (samples, rate)) in enumerate(GOOD_FILES.items())
    ]
    (batch,) = Spoofs(spoofs([100, 100]), test=every).test_dataloader()
    assert batch.wave.shape == (6, 100)
    assert batch.wave.isfinite().all()
    assert torch.equal(batch.wave[0], torch.full((100,), 0.25))
    assert batch.wave[2].abs().min() > 0.99
    assert batch.wave[5].mean().item() == pytest.approx(0.125, abs=1e-4)


# predict


class Unavailable(Spoofs):
    """A set that is not on this machine."""

    def load(self):
        raise KANError("the training data is not here")


def test_predict_on_files_does_not_need_the_set(tmp_path):
    for name in ("b.wav", "deep/c.flac", "a.wav"):
        write_wav(tmp_path / "in" / name, np.full(150, 0.5))
    single = write_wav(tmp_path / "one.wav", np.full(50, 0.25))
    module = Unavailable([], predict_files=[str(single), str(tmp_path / "in")])
    module.setup("predict")
    (batch,) = module.predict_dataloader()
    assert [u.id for u in module.predict_utterances] == [
        str(single), *(str(tmp_path / "in" / name) for name in ("a.wav", "b.wav", "deep/c.flac"))
    ]  # fmt: skip
    assert batch.label.tolist() == [[-1]] * 4
    assert batch.position.tolist() == [0, 1, 2, 3]
    assert torch.equal(batch.wave[0], torch.full((100,), 0.25))
    with pytest.raises(KANError, match="the training data is not here"):
        module.setup("fit")


def test_predict_without_files_is_the_test_part():
    module = Spoofs(spoofs([100, 100]), test=spoofs([100] * 3, 2000))
    module.setup("predict")
    assert module.predict_utterances is module.splits.test
    (batch,) = module.predict_dataloader()
    assert batch.label.tolist() == [[1], [0], [1]]


def test_predict_on_files_of_a_speech_set(tmp_path):
    module = Words([], predict_files=[str(write_wav(tmp_path / "a.wav", np.zeros(900)))])
    module.setup("predict")
    (batch,) = module.predict_dataloader()
    assert batch.label.tolist() == [[-1]]
    assert batch.length.tolist() == [900]


def test_files_to_predict_that_cannot_be_used_are_named(tmp_path):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("x")
    wav = write_wav(tmp_path / "a.wav", np.zeros(9))
    for files, message in (
        ([tmp_path / "absent.wav"], r"absent\.wav: there is no such file or folder"),
        ([tmp_path / "text"], "holds no audio file"),
        ([], "predict_files is empty"),
        ([wav, wav], r"the id .*a\.wav stands there twice"),
    ):
        with pytest.raises(KANError, match=message):
            unlabelled([str(f) for f in files])
    (tmp_path / "bad.wav").write_text("not audio")
    with pytest.raises(KANError, match=r"bad\.wav"):
        Unavailable([], predict_files=[str(tmp_path / "bad.wav")]).setup("predict")


# finding files


def test_audio_is_found_with_or_without_suffix(tmp_path):
    flac = write_wav(tmp_path / "LA_T_1.flac", np.zeros(9))
    dotted = write_wav(tmp_path / "v1.0.wav", np.zeros(9))
    (tmp_path / "deep").mkdir()
    deep = write_wav(tmp_path / "deep" / "a.ogg", np.zeros(9))
    folder = AudioFolder(tmp_path)
    names = ["LA_T_1", "LA_T_1.flac", "v1.0", "deep/a", str(deep)]
    assert [folder.find(name, "p, line 1") for name in names] == [flac, flac, dotted, deep, deep]
    with pytest.raises(KANError, match="p, line 7: the audio of LA_T_2 is missing in"):
        folder.find("LA_T_2", "p, line 7")
    wav = write_wav(tmp_path / "LA_T_1.wav", np.zeros(9))
    assert AudioFolder(tmp_path).find("LA_T_1.wav", "p, line 1") == wav
    with pytest.raises(KANError, match=r"is there as LA_T_1\.flac and as LA_T_1\.wav"):
        AudioFolder(tmp_path).find("LA_T_1", "p, line 1")


def test_hidden_files_are_not_audio(tmp_path):
    write_wav(tmp_path / "._a.wav", np.zeros(9))
    seen = write_wav(tmp_path / "A.WAV", np.zeros(9), format="WAV")
    assert audio_files(tmp_path) == [seen]


def test_a_missing_set_names_its_page(tmp_path):
    (tmp_path / "bare").mkdir()
    with pytest.raises(KANError, match=r"bare holds no audio file: fetch the set from https://x\.org"):
        members(tmp_path / "bare", "https://x.org")
    with pytest.raises(KANError, match=r"absent is missing: fetch it from https://x\.org, or name another data root"):
        members(tmp_path / "absent", "https://x.org")
