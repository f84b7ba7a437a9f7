"""The command ``evaluate``: its numbers, its files, its one-line errors, and its figures."""

from __future__ import annotations

import json

import numpy as np
import pytest

from kan_audio.cli import main
from kan_audio.figures_scores import det_figure, score_histogram
from kan_audio.metrics.calibration import fit_calibration
from kan_audio.metrics.spoofing import cllr, eer, eer_threshold, min_dcf, rates, reference_eer
from kan_audio.scores import write_scores
from kan_core.errors import KANError

ATTACKS = ("A07", "A08")


class Set:
    """A score file and its protocol, with what they hold."""

    def __init__(self, folder, name, seed=0, count=60, speakers=6, shift=1.5, llrs=False):
        rng = np.random.default_rng(seed)
        self.ids = [f"{name}_{n}" for n in range(3 * count)]
        self.labels = np.array([1] * count + [0] * 2 * count)
        self.scores = 4 * (rng.normal(0, 1, 3 * count) + shift * self.labels) + 3
        self.attacks = np.array(["-"] * count + [ATTACKS[n % 2] for n in range(2 * count)])
        self.score_file, self.protocol = folder / f"{name}.txt", folder / f"{name}.protocol"
        write_scores(self.score_file, self.ids, self.scores, 0.5 * self.scores if llrs else None)
        self.protocol.write_text(
            "".join(
                f"S{n % speakers} {name} - {attack} {'bonafide' if label else 'spoof'}\n"
                for n, (name, attack, label) in enumerate(zip(self.ids, self.attacks, self.labels, strict=True))
            )
        )

    @property
    def files(self):
        return [str(self.score_file), str(self.protocol)]


def run(capsys, *args):
    code = main(["evaluate", *(str(arg) for arg in args)])
    return code, *capsys.readouterr()


def test_the_numbers_and_the_files(tmp_path, capsys):
    heard = Set(tmp_path, "eval")
    code, out, err = run(capsys, *heard.files, "--bootstrap", 50, "--output", tmp_path / "out")
    assert (code, err) == (0, "")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["det.png", "metrics.json", "scores.png"]
    assert all((tmp_path / "out" / name).read_bytes()[1:4] == b"PNG" for name in ("det.png", "scores.png"))
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    detection, given = found["metrics"]["detection"], found["metrics"]["as given"]
    assert detection["eer"]["value"] == eer(heard.scores, heard.labels)
    assert detection["eer_reference"]["value"] == reference_eer(heard.scores, heard.labels)[0]
    assert detection["min_dcf"]["value"] == min_dcf(heard.scores, heard.labels)
    assert given["cllr"]["value"] == cllr(heard.scores, heard.labels)
    assert detection["eer"]["low"] < detection["eer"]["value"] < detection["eer"]["high"]
    assert found["trials"] == {"bonafide": 60, "spoof": 120}
    assert found["costs"] == {"miss": 1.0, "fa": 10.0, "spoof_prior": 0.05}
    assert (found["dev_threshold"], found["calibration"], found["subset"]) == (None, None, None)
    assert [(row["attack"], row["bonafide"], row["spoof"]) for row in found["table"]] == [
        ("pooled", 60, 120),
        ("A07", 60, 60),
        ("A08", 60, 60),
    ]
    part = (heard.attacks != "A08") | (heard.labels == 1)
    assert found["table"][1]["metrics"]["eer"]["value"] == eer(heard.scores[part], heard.labels[part])
    assert "60 bona fide, 120 spoof; higher = bona fide" in out
    assert f"{100 * eer(heard.scores, heard.labels):.2f}" in out
    assert "50 bootstrap resamples over 6 speakers" in out
    for word in ("EER (reference) %", "minDCF", "actDCF", "Cllr", "min Cllr", "A07", "A08"):
        assert word in out
    assert "flipped" not in out


def test_the_same_command_gives_the_same_file(tmp_path, capsys):
    heard = Set(tmp_path, "eval")
    for name in ("one", "two"):
        run(capsys, *heard.files, "--bootstrap", 20, "--output", tmp_path / name)
    assert (tmp_path / "one" / "metrics.json").read_bytes() == (tmp_path / "two" / "metrics.json").read_bytes()


def test_threshold_and_calibration_come_from_dev_alone(tmp_path, capsys):
    heard, dev = Set(tmp_path, "eval"), Set(tmp_path, "dev", seed=1, shift=1.2)
    code, out, _ = run(
        capsys, *heard.files, "--calibrate-on", *dev.files, "--bootstrap", 20, "--output", tmp_path / "out"
    )
    assert code == 0
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    threshold = eer_threshold(dev.scores, dev.labels)
    assert found["dev_threshold"] == threshold
    at = rates(heard.scores, heard.labels, threshold)
    applied = found["metrics"]["at the dev threshold"]
    assert [applied[name]["value"] for name in ("hter", "accuracy")] == [at.hter, at.accuracy]
    fitted = fit_calibration(dev.scores, dev.labels)
    assert found["calibration"] == {"scale": fitted.scale, "offset": fitted.offset}
    before, after = (found["metrics"][name]["cllr"]["value"] for name in ("as given", "calibrated on dev"))
    assert after == cllr(fitted.llr(heard.scores), heard.labels)
    assert after < before
    assert f"EER threshold {threshold:.6g}" in out
    assert found["calibrated_on"] == dev.files


def test_a_column_of_log_likelihood_ratios_is_what_calibration_is_judged_on(tmp_path, capsys):
    heard = Set(tmp_path, "eval", llrs=True)
    _, out, _ = run(capsys, *heard.files, "--bootstrap", 0, "--output", tmp_path / "out")
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert found["metrics"]["as given"]["cllr"] == {
        "value": cllr(0.5 * heard.scores, heard.labels),
        "low": None,
        "high": None,
    }
    assert "natural-log" not in out
    assert "bootstrap" not in out


def test_flipped_polarity_is_hinted_at(tmp_path, capsys):
    heard = Set(tmp_path, "eval")
    write_scores(heard.score_file, heard.ids, -heard.scores)
    code, out, _ = run(capsys, *heard.files, "--bootstrap", 0)
    assert code == 0
    value = 100 * eer(heard.scores, heard.labels)
    assert f"EER {100 - value:.2f} % is above 50 %: the polarity seems flipped" in out
    assert f"negated, these have {value:.2f} %" in out


def test_the_reference_eer_in_every_row(tmp_path, capsys):
    heard = Set(tmp_path, "eval")
    for flags, names in (([], {"eer", "min_dcf"}), (["--reference-eer"], {"eer", "eer_reference", "min_dcf"})):
        run(capsys, *heard.files, *flags, "--bootstrap", 0, "--output", tmp_path / "out")
        found = json.loads((tmp_path / "out" / "metrics.json").read_text())
        assert all(set(row["metrics"]) == names for row in found["table"])


def test_codecs_and_subsets_of_asvspoof_2021(tmp_path, capsys):
    heard = Set(tmp_path, "eval", count=20)
    codecs, subsets = ("alaw", "none"), ("eval", "eval", "eval", "hidden")
    heard.protocol.write_text(
        "".join(
            f"S{n % 5} {name} {codecs[n % 2]} x {attack if not label else 'bonafide'} "
            f"{'bonafide' if label else 'spoof'} notrim {subsets[n % 4]}\n"
            for n, (name, attack, label) in enumerate(zip(heard.ids, heard.attacks, heard.labels, strict=True))
        )
    )
    code, out, err = run(capsys, *heard.files, "--bootstrap", 0, "--output", tmp_path / "all")
    assert (code, err) == (0, "")
    assert "The subsets eval, hidden are taken together; official numbers use --subset eval." in out
    code, out, _ = run(capsys, *heard.files, "--bootstrap", 0, "--subset", "eval", "--output", tmp_path / "eval")
    assert "taken together" not in out
    found = [json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("all", "eval")]
    assert found[0]["trials"] == {"bonafide": 20, "spoof": 40}
    assert found[1]["trials"] == {"bonafide": 15, "spoof": 30}
    cells = {(row["attack"], row["codec"]): row for row in found[1]["table"]}
    assert len(cells) == 9
    kept = np.array([subsets[n % 4] == "eval" for n in range(60)])
    alaw = kept & (np.arange(60) % 2 == 0)
    assert cells["pooled", "alaw"]["metrics"]["eer"]["value"] == eer(heard.scores[alaw], heard.labels[alaw])
    # attacks alternate as the codecs do: one attack never meets one codec
    lonely = [row for row in cells.values() if not row["spoof"]]
    assert lonely
    assert all(row["metrics"]["eer"]["value"] is None for row in lonely)


def test_one_speaker_falls_back_to_utterances_and_says_so(tmp_path, capsys):
    heard = Set(tmp_path, "eval", count=20, speakers=1)
    _, out, _ = run(capsys, *heard.files, "--bootstrap", 20)
    assert "over utterances (fewer than two speakers per class are known)" in out


def test_nothing_is_written_without_output(tmp_path, capsys, monkeypatch):
    heard = Set(tmp_path, "eval", count=10)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert run(capsys, *heard.files, "--bootstrap", 0)[0] == 0
    assert not list((tmp_path / "here").iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda files, tmp: ["nowhere.txt", files[1]], "nowhere.txt: there is no such file"),
        (lambda files, tmp: [files[0], "nokeys.txt"], "nokeys.txt: there is no such file"),
        (lambda files, tmp: files[:1], "the following arguments are required: protocol"),
        (lambda files, tmp: [*files, "--calibrate-on", files[0]], "expected 2 arguments"),
        (lambda files, tmp: [*files, "--bootstrap", "-1"], "--bootstrap -1: the number of resamples"),
        (lambda files, tmp: [*files, "--bootstrap", "many"], "invalid int value: 'many'"),
        (lambda files, tmp: [*files, "--subset", "eval"], "no trial of the subset 'eval': it names no subsets"),
        (lambda files, tmp: [*files, "--cm_key", "x"], "unrecognized arguments: --cm_key x"),
        (lambda files, tmp: [*files, "--output", files[0]], "a file stands there, name a folder"),
        (lambda files, tmp: [files[0], str(tmp / "half.protocol")], "scores 90 trial(s) not in"),
        (lambda files, tmp: [files[0], str(tmp / "spoofs.protocol")], "got 0 bona fide and 180 spoof"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(tmp_path, capsys, change, message):
    heard = Set(tmp_path, "eval")
    rows = heard.protocol.read_text().splitlines()
    (tmp_path / "half.protocol").write_text("\n".join(rows[:90]))
    (tmp_path / "spoofs.protocol").write_text("\n".join(row.replace("- bonafide", "A09 spoof") for row in rows))
    code, out, err = run(capsys, *change(heard.files, tmp_path))
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert err.startswith("error: ")
    assert message in err


def test_debug_shows_the_traceback(capsys):
    code, _, err = run(capsys, "nowhere.txt", "keys.txt", "--debug")
    assert code == 2
    assert "Traceback" in err


def test_help(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0
    assert "--calibrate-on" in out


# --- figures ---------------------------------------------------------------------------------------------------------


def test_normal_scores_are_a_straight_line_in_the_det_figure():
    """On probit axes N(2, 1) against N(0, 1) is y = -x - 2."""
    rng = np.random.default_rng(0)
    scores, labels = np.concatenate([rng.normal(2, 1, 5000), rng.normal(0, 1, 5000)]), np.repeat([1, 0], 5000)
    (axes,) = det_figure({"net": (scores, labels), "twin": (0.5 * scores, labels)}).axes
    curve = axes.get_lines()[1]
    x, y = curve.get_data()
    inner = (x > -2) & (x < 0)
    np.testing.assert_allclose(y[inner], -x[inner] - 2, atol=0.12)
    assert [text.get_text().split(":")[0] for text in axes.get_legend().get_texts()] == ["net", "twin"]
    assert "5,000 bona fide, 5,000 spoof" in axes.get_legend().get_texts()[0].get_text()


def test_a_perfect_detector_can_be_drawn(tmp_path):
    det_figure({"perfect": ([1, 2, -1, -2], [1, 1, 0, 0])}).savefig(tmp_path / "det.png")
    assert (tmp_path / "det.png").stat().st_size > 1000


def test_the_histogram_shows_both_classes_as_shares_and_the_threshold():
    (axes,) = score_histogram([0, 0, 1, 5, 5], [0, 0, 0, 1, 1], threshold=2.5, bins=5).axes
    heights = [sum(patch.get_height() for patch in container) for container in axes.containers]
    assert heights == pytest.approx([1, 1])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "spoof (3)",
        "bona fide (2)",
        "threshold 2.5",
    ]
    assert axes.get_lines()[0].get_xdata()[0] == 2.5


def test_figures_refuse_what_metrics_refuse():
    with pytest.raises(KANError, match="both classes are needed"):
        det_figure({"x": ([1, 2], [1, 1])})
    with pytest.raises(KANError, match="score 0 is nan"):
        score_histogram([float("nan"), 1], [1, 0])


def test_the_vocoded_ljspeech_protocol(shared_data, tmp_path, capsys):
    """25 bona fide recordings against five of each of seven vocoders, all of one speaker."""
    protocol = shared_data("ljspeech-vocoded") / "protocol.txt"
    rows = [line.split() for line in protocol.read_text().splitlines()]
    write_scores(tmp_path / "scores.tsv", [row[1] for row in rows], [float(row[4] == "bonafide") for row in rows])
    code, out, _ = run(capsys, tmp_path / "scores.tsv", protocol, "--bootstrap", 20, "--output", tmp_path / "out")
    assert code == 0
    table = json.loads((tmp_path / "out" / "metrics.json").read_text())["table"]
    assert [(row["bonafide"], row["spoof"]) for row in table] == [(25, 35)] + [(25, 5)] * 7
    assert all(row["metrics"]["eer"] == {"value": 0.0, "low": 0.0, "high": 0.0} for row in table)
    assert "over utterances" in out
