"""Score and key files of every ecosystem: what they say, and every way in which they can be wrong."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kan_audio.metrics.spoofing import eer
from kan_audio.metrics.tandem import asv_rates, min_adcf
from kan_audio.scores import join, read_keys, read_scores, read_tandem, write_scores
from kan_core.errors import KANError

PROTOCOL = """\
LA_0039 LA_E_1 - - bonafide
LA_0014 LA_E_2 - A07 spoof
LA_0040 LA_E_3 - A08 spoof
LA_0041 LA_E_4 - - bonafide
"""
# In another order than the protocol.
VALUES = {"LA_E_3": -3.5, "LA_E_1": 1.25, "LA_E_4": 4e-1, "LA_E_2": -2.0}


def lines(template):
    return "".join(template.format(id=name, score=score) for name, score in VALUES.items())


LAYOUTS = {
    "asvspoof 5 track 1": "filename\tcm-score\n" + lines("{id}\t{score}\n"),
    "asvspoof 5, spaces": "filename cm-score\n" + lines("{id} {score}\n"),
    "asvspoof 2021": lines("{id} {score}\n"),
    "tabs, no header": lines("{id}\t{score}\n"),
    "csv": "id,score\n" + lines("{id},{score}\n"),
    "csv, more columns": "split,utterance_id,Score,seconds\n" + lines("eval,{id},{score},3.2\n"),
    "semicolons": "id;score\n" + lines("{id};{score}\n"),
    "quoted csv": '"id","score"\n' + lines('"{id}","{score}"\n'),
    "byte order mark, windows": "\ufeffid,score\r\n" + lines("{id},{score}\r\n"),
    "empty lines": "\n" + lines("{id}   {score}\n\n"),
}


@pytest.fixture
def write(tmp_path):
    def file(name, text):
        path = tmp_path / name
        path.write_bytes(text.encode())
        return path

    return file


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_read_and_joined_by_id(write, layout):
    keys = write("protocol.txt", PROTOCOL)
    trials = join(read_scores(write("scores.txt", LAYOUTS[layout])), read_keys(keys), keys)
    assert trials.ids == ["LA_E_1", "LA_E_2", "LA_E_3", "LA_E_4"]
    assert trials.scores.tolist() == [1.25, -2.0, -3.5, 0.4]
    assert trials.scores.dtype == np.float64
    assert trials.labels.tolist() == [1, 0, 0, 1]
    assert trials.attacks == ["-", "A07", "A08", "-"]
    assert trials.speakers == ["LA_0039", "LA_0014", "LA_0040", "LA_0041"]
    assert (trials.codecs, trials.llrs) == (None, None)


def test_aasist_layout_has_the_score_last_and_its_key_is_checked(write):
    keys = write("protocol.txt", PROTOCOL)
    text = "LA_E_2 A07 spoof -2.0\nLA_E_1 - bonafide 1.25\nLA_E_4 - bonafide 0.4\nLA_E_3 A08 spoof -3.5\n"
    trials = join(read_scores(write("scores.txt", text)), read_keys(keys), keys)
    assert trials.scores.tolist() == [1.25, -2.0, -3.5, 0.4]
    wrong = write("wrong.txt", text.replace("- bonafide 0.4", "A07 spoof 0.4"))
    with pytest.raises(KANError, match=r"wrong\.txt, line 3: LA_E_4 is said to be spoof, but .*line 4, says bonafide"):
        join(read_scores(wrong), read_keys(keys), keys)


def test_written_scores_are_read_back_exactly_and_are_what_asvspoof_5_reads(tmp_path):
    ids, scores = ["a", "b.flac", "c d"], np.array([1 / 3, -1e-17, 2.5e300])
    write_scores(tmp_path / "plain.tsv", ids, scores)
    assert (tmp_path / "plain.tsv").read_text().splitlines()[:2] == ["filename\tcm-score", "a\t0.3333333333333333"]
    assert [(row.id, row.score, row.llr) for row in read_scores(tmp_path / "plain.tsv").rows] == list(
        zip(ids, scores, [None] * 3, strict=True)
    )
    write_scores(tmp_path / "deep" / "llr.tsv", ids, scores, llrs=torch.tensor([0.1, 0.2, 0.3]).numpy())
    rows = read_scores(tmp_path / "deep" / "llr.tsv").rows
    assert [row.llr for row in rows] == [float(np.float32(value)) for value in (0.1, 0.2, 0.3)]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["llr.tsv"]


# --- keys ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "filename\tcm-label\nx1\tspoof\nx2\tbonafide\n",
        "filename cm-label\nx1 spoof\nx2 bonafide\n",
        "x1 spoof\nx2 bonafide\n",
        "x1,spoof\nx2,bonafide\n",
        "id,label\nx1,spoof\nx2,bonafide\n",
    ],
)
def test_two_columns_are_id_and_key(write, text):
    rows = read_keys(write("keys.tsv", text))
    assert [(row.id, row.key, row.speaker) for row in rows] == [("x1", "spoof", None), ("x2", "bonafide", None)]
    scores = read_scores(write("scores.txt", "x2 1\nx1 0\n"))
    trials = join(scores, rows, "keys.tsv")
    assert trials.labels.tolist() == [0, 1]
    assert (trials.speakers, trials.attacks, trials.codecs) == (None, None, None)


def test_numbers_as_keys_are_refused_since_ecosystems_disagree(write):
    with pytest.raises(KANError, match=r"keys\.txt, line 2: the key of b is 0, which means opposite things"):
        read_keys(write("keys.txt", "a spoof\nb 0\n"))


def test_key_files_that_cannot_be_read(write, tmp_path):
    with pytest.raises(KANError, match=r"line 1: the key is 'fake': use spoof or bonafide"):
        read_keys(write("keys.txt", "a fake\nb spoof\n"))
    with pytest.raises(KANError, match=r"repeats 1 trial\(s\): a$"):
        read_keys(write("keys.txt", "a spoof\na spoof\n"))
    with pytest.raises(KANError, match="is a parquet file: write it as CSV"):
        read_keys(write("keys.parquet", "PAR1...."))
    with pytest.raises(KANError, match="there is no such file"):
        read_keys(tmp_path / "nowhere.txt")


METADATA_2021 = """\
LA_0009 LA_E_1 alaw ita_tx A07 spoof notrim progress
LA_0010 LA_E_2 none - bonafide bonafide notrim eval
LA_0011 LA_E_3 pstn loc_tx A08 spoof notrim eval
LA_0012 LA_E_4 pstn loc_tx bonafide bonafide notrim eval
LA_0013 LA_E_5 gsm loc_tx A08 spoof trim hidden
"""


def test_a_subset_of_asvspoof_2021_leaves_the_other_scores_alone(write):
    keys_path = write("trial_metadata.txt", METADATA_2021)
    keys = read_keys(keys_path)
    everything = write("scores.txt", "".join(f"LA_E_{n} {n}\n" for n in range(1, 6)))
    trials = join(read_scores(everything), keys, keys_path, subset="eval")
    assert trials.ids == ["LA_E_2", "LA_E_3", "LA_E_4"]
    assert trials.codecs == ["-", "pstn", "pstn"]
    only_eval = write("eval.txt", "LA_E_3 1\nLA_E_2 2\nLA_E_4 3\n")
    assert join(read_scores(only_eval), keys, keys_path, subset="eval").scores.tolist() == [2, 1, 3]
    with pytest.raises(KANError, match="no trial of the subset 'test': its subsets are eval, hidden, progress"):
        join(read_scores(everything), keys, keys_path, subset="test")
    with pytest.raises(KANError, match=r"has no score for 2 trial\(s\)"):
        join(read_scores(only_eval), keys, keys_path)


# --- files that do not fit each other --------------------------------------------------------------------------------


def refused(write, scores, message, protocol=PROTOCOL):
    keys = write("protocol.txt", protocol)
    path = write("scores.txt", scores)
    with pytest.raises(KANError, match=message) as error:
        join(read_scores(path), read_keys(keys), keys)
    text = str(error.value)
    assert "\n" not in text
    assert "scores.txt" in text


def test_missing_trials_are_listed(write):
    refused(write, "LA_E_1 1\nLA_E_3 2\n", r"has no score for 2 trial\(s\) of .*protocol\.txt: LA_E_2, LA_E_4$")


def test_extra_trials_are_listed(write):
    refused(write, lines("{id} {score}\n") + "LA_E_9 1\n", r"scores 1 trial\(s\) not in .*protocol\.txt: LA_E_9$")


def test_only_the_first_ten_are_listed(write):
    protocol = "".join(f"s u{n} - A01 spoof\n" for n in range(15))
    refused(write, "u0 1\n", r"has no score for 14 trial.*: u1, .*, u10 and 4 more$", protocol)


def test_repeated_trials_are_listed_even_with_equal_scores(write):
    refused(write, lines("{id} {score}\n") + "LA_E_2 -2.0\nLA_E_1 7\n", r"repeats 2 trial\(s\): LA_E_1, LA_E_2$")


def test_files_of_two_different_sets_show_one_id_of_each(write):
    refused(write, "LA_E_1.flac 1\nLA_E_2.flac 2\n", r"no trial in common: the first is LA_E_1\.flac in one and LA_E_1")


@pytest.mark.parametrize("text", ["nan", "NaN", "inf", "-Infinity", "1_0"])
def test_a_score_that_is_not_finite(write, text):
    refused(write, lines("{id} {score}\n").replace("0.4", text), rf"line 3: the score '{text}' is not a finite number")


@pytest.mark.parametrize("text", ["abc", "0,4", "-", "[0.4]", "tensor(0.4)"])
def test_a_score_that_is_not_a_number(write, text):
    refused(write, lines("{id} {score}\n").replace("0.4", text), r"line 3: the score .* is not a number")


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("filename\tcm-score\n", "has a header and no trial"),
        ("LA_E_1 1\nLA_E_2\n", r"line 2: 1 value\(s\), line 1 has 2"),
        ("id,score\nLA_E_1,1\nLA_E_2,\n", r"line 3: 1 value\(s\), line 1 has 2"),
        ("LA_E_1 1\n\nLA E 2 1\n", r"line 3: 4 value\(s\), line 1 has 2"),
        ("LA_E_1 1 2\n", r"line 1: 3 column\(s\) and no header: use 'id score'"),
        ("id,score,cm-score\nLA_E_1,1,2\n", "one id column .* and one score column .* are needed"),
        ("name,value\nLA_E_1,1\n", "line 1: the score 'value' is not a number"),
        ("spk filename cm-score asv-score sasv-score\ns LA_E_1 1 1 1\n", "track 2 .*read_tandem"),
        ("LA_E_1 A07 fake 1\n", "line 1: the key is 'fake'"),
    ],
)
def test_malformed_score_files(write, scores, message):
    refused(write, scores, message)


def test_binary_and_missing_files(tmp_path):
    (tmp_path / "scores.txt").write_bytes(b"\xff\xfe\x00a")
    with pytest.raises(KANError, match=r"scores\.txt is not text"):
        read_scores(tmp_path / "scores.txt")
    for path in (tmp_path, tmp_path / "none.txt"):
        with pytest.raises(KANError, match="there is no such file"):
            read_scores(path)


@pytest.mark.parametrize(
    ("ids", "scores", "llrs", "message"),
    [
        (["a", "b"], [1.0], None, "2 ids need as many scores"),
        (["a", "b"], [1.0, float("nan")], None, "the score of b is nan"),
        (["a"], [1.0], [float("inf")], "the score of a is inf"),
        (["a", "a"], [1.0, 2.0], None, r"repeats 1 trial\(s\): a"),
        (["a\tb"], [1.0], None, "cannot stand in a score file"),
        ([""], [1.0], None, "cannot stand in a score file"),
    ],
)
def test_scores_that_could_not_be_read_back_are_not_written(tmp_path, ids, scores, llrs, message):
    with pytest.raises(KANError, match=message):
        write_scores(tmp_path / "scores.tsv", ids, scores, llrs)
    assert not list(tmp_path.iterdir())


# --- ASVspoof 5 track 2 ----------------------------------------------------------------------------------------------

TANDEM_KEYS = "spk filename cm-label asv-label\n" + "".join(
    f"S{n // 3} E_{n} {'spoof' if kind == 'spoof' else 'bonafide'} {kind}\n"
    for n, kind in enumerate(["target"] * 3 + ["nontarget"] * 3 + ["spoof"] * 3)
)
SASV = [2, 1, 3, -1, 0, 0.5, 1.5, -2, -3]


def tandem_scores(row="S{spk} E_{n} - {asv} {sasv}\n"):
    rows = [row.format(spk=n // 3, n=n, asv=n, sasv=score) for n, score in reversed(list(enumerate(SASV)))]
    return "spk\tfilename\tcm-score\tasv-score\tsasv-score\n" + "".join(rows).replace(" ", "\t")


def test_track_2_gives_the_golden_adcf(write):
    trials = read_tandem(write("scores.tsv", tandem_scores()), write("keys.tsv", TANDEM_KEYS))
    assert trials.cm is None
    assert trials.asv.tolist() == list(range(9))
    groups = [
        [s for s, kind in zip(trials.sasv, trials.kinds, strict=True) if kind == k] for k in dict.fromkeys(trials.kinds)
    ]
    assert min_adcf(*groups) == pytest.approx(0.2801120448, abs=5e-11)
    assert asv_rates(trials.asv[:3], trials.asv[3:6], trials.asv[6:], threshold=2).p_miss == pytest.approx(2 / 3)


def test_track_2_one_file_with_two_claimed_speakers_is_two_trials(write):
    keys = "spk filename cm-label asv-label\nA E_1 bonafide target\nB E_1 bonafide nontarget\nA E_2 spoof spoof\n"
    scores = "spk filename cm-score asv-score sasv-score\nB E_1 1 -1 -1\nA E_1 1 2 2\nA E_2 -1 3 -2\n"
    trials = read_tandem(write("scores.tsv", scores), write("keys.tsv", keys))
    assert trials.asv.tolist() == [2, -1, 3]
    assert eer(trials.cm, [kind != "spoof" for kind in trials.kinds]) == 0


@pytest.mark.parametrize(
    ("scores", "keys", "message"),
    [
        (tandem_scores().replace("\t2\n", "\t-\n"), TANDEM_KEYS, r"line 10: the score '-' is not a number"),
        (tandem_scores().replace("E_3", "E_30"), TANDEM_KEYS, r"has no score for 1 trial\(s\) .*: S1 E_3$"),
        (tandem_scores() + "S9\tE_9\t-\t1\t1\n", TANDEM_KEYS, r"scores 1 trial\(s\) not in .*: S9 E_9$"),
        (tandem_scores() + "S0\tE_0\t-\t1\t1\n", TANDEM_KEYS, r"repeats 1 trial\(s\): S0 E_0$"),
        (
            tandem_scores(),
            TANDEM_KEYS.replace("bonafide target", "spoof target", 1),
            "line 2: cm-label spoof contradicts",
        ),
        (tandem_scores(), TANDEM_KEYS.replace("nontarget", "impostor"), "asv-label is 'impostor'"),
        (LAYOUTS["asvspoof 5 track 1"], TANDEM_KEYS, "the header must name spk filename cm-score asv-score sasv-score"),
    ],
)
def test_track_2_files_that_are_wrong(write, scores, keys, message):
    with pytest.raises(KANError, match=message) as error:
        read_tandem(write("scores.tsv", scores), write("keys.tsv", keys))
    assert "\n" not in str(error.value)
