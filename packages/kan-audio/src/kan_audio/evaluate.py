"""``kan-audio evaluate SCORES PROTOCOL``: every metric of anyone's scores."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.table import Table

from kan_audio.commands import CommandParser
from kan_audio.data.utterances import NO_ATTACK
from kan_audio.figures_scores import det_figure, score_histogram
from kan_audio.metrics.bootstrap import Estimate, Metric, bootstrap
from kan_audio.metrics.calibration import Calibration, fit_calibration
from kan_audio.metrics.spoofing import eer_threshold
from kan_audio.metrics.tables import Cell, breakdown, estimate_as_json, head_of, in_words, print_ready
from kan_audio.metrics.tally import Costs, Floats, Tally
from kan_audio.scores import Trials, join, read_keys, read_scores
from kan_core.errors import KANError
from kan_core.training.files import atomic_write

MOST_CURVES = 9
"""With more attacks the DET figure shows the pooled curve only; its colours would repeat."""
SEED = 0
"""Of the bootstrap: the same files give the same intervals."""

DETECTION: Mapping[str, Metric] = {
    "eer": Tally.eer,
    "eer_reference": lambda tally: tally.eer("reference"),
    "min_dcf": Tally.min_dcf,
    "min_cllr": Tally.min_cllr,
}
CALIBRATION: Mapping[str, Metric] = {"act_dcf": Tally.act_dcf, "cllr": Tally.cllr}


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found.

    Attributes:
        trials: What was evaluated.
        groups: Title -> metric -> estimate.
        cells: The same per attack and codec; the first is everything.
        calibration: Fitted on the dev set, if there was one.
        threshold: Of the equal error rate on the dev set, if there was one.
        notes: What a reader must know beside the numbers.
    """

    trials: Trials
    groups: dict[str, dict[str, Estimate]]
    cells: list[Cell]
    calibration: Calibration | None
    threshold: float | None
    notes: list[str]

    def as_json(self) -> dict[str, Any]:
        """The content of metrics.json but for where the numbers come from."""
        return {
            "trials": {"bonafide": self.cells[0].bonafide, "spoof": self.cells[0].spoof},
            "costs": asdict(Costs()),
            "metrics": {
                title: {name: estimate_as_json(estimate) for name, estimate in group.items()}
                for title, group in self.groups.items()
            },
            "dev_threshold": self.threshold,
            "calibration": asdict(self.calibration) if self.calibration else None,
            "table": [cell.as_json() for cell in self.cells],
            "notes": self.notes,
        }


def command(args: Sequence[str]) -> None:
    """Print the metrics of a score file, and write them when told where.

    Args:
        args: The words after ``evaluate``.

    Raises:
        KANError: For a mistake in them or in the files.
    """
    _run(_parser().parse_args(args))


def evaluate(
    trials: Trials, dev: Trials | None = None, resamples: int = 1000, reference_per_attack: bool = False
) -> Evaluation:
    """Every metric of spoofing detection, with intervals; nothing but the dev set chooses a threshold or a calibration.

    Intervals are over speakers where the protocol names at least two per class, else over utterances.

    Args:
        trials: Scores and keys.
        dev: Of another set: fits the calibration and gives the threshold.
        resamples: Of the bootstrap, 0 for no intervals.
        reference_per_attack: Add the equal error rate of the ASVspoof packages to every cell.

    Raises:
        KANError: When a class is empty.
    """
    speakers, unit = _resampled_unit(trials)

    def estimates(scores: Floats, metrics: Mapping[str, Metric]) -> dict[str, Estimate]:
        return bootstrap(scores, trials.labels, metrics, speakers, resamples, seed=SEED)

    llrs = trials.scores if trials.llrs is None else trials.llrs
    per_cell = ["eer", *(["eer_reference"] if reference_per_attack else []), "min_dcf"]
    cells = breakdown(
        trials.scores,
        trials.labels,
        trials.attacks,
        trials.codecs,
        {name: DETECTION[name] for name in per_cell},
        speakers,
        resamples,
        SEED,
    )
    rest = estimates(trials.scores, {name: metric for name, metric in DETECTION.items() if name not in per_cell})
    detection = {**cells[0].metrics, **rest}
    groups = {"detection": {name: detection[name] for name in DETECTION}, "as given": estimates(llrs, CALIBRATION)}
    notes = [f"Intervals: 95 %, {resamples:,} bootstrap resamples over {unit}."] if resamples else []
    if trials.llrs is None:
        notes.append("actDCF and Cllr as given read the scores as natural-log likelihood ratios.")
    calibration, threshold = None, None
    if dev is not None:
        calibration = fit_calibration(dev.scores, dev.labels)
        threshold = eer_threshold(dev.scores, dev.labels)
        groups["calibrated on dev"] = estimates(calibration.llr(trials.scores), CALIBRATION)
        groups["at the dev threshold"] = estimates(trials.scores, _at(threshold))
        notes.append(f"Dev: EER threshold {threshold:.6g}, accept at or above; calibration {_formula(calibration)}.")
    eer = groups["detection"]["eer"].value
    if eer > 0.5:
        notes.append(
            f"EER {100 * eer:.2f} % is above 50 %: the polarity seems flipped. Scores must be higher for bona fide; "
            f"negated, these have {100 * (1 - eer):.2f} %."
        )
    return Evaluation(trials, groups, cells, calibration, threshold, notes)


def _run(options: argparse.Namespace) -> None:
    if options.bootstrap < 0:
        raise KANError(f"--bootstrap {options.bootstrap}: the number of resamples is 0 (no intervals) or more")
    if options.output and options.output.exists() and not options.output.is_dir():
        raise KANError(f"--output {options.output}: a file stands there, name a folder")
    trials, notes = _load(options.scores, options.protocol, options.subset)
    dev = None
    if options.calibrate_on:
        dev_scores, dev_protocol = options.calibrate_on
        dev, _ = _load(dev_scores, dev_protocol, None)
    found = evaluate(trials, dev, options.bootstrap, options.reference_eer)
    found.notes[:0] = notes
    console = Console()
    _print(console, f"{options.scores.name} by {options.protocol.name}", found)
    if options.output:
        source = {"scores": str(options.scores), "protocol": str(options.protocol), "subset": options.subset}
        source["calibrated_on"] = [str(path) for path in options.calibrate_on or []]
        _write(options.output, {**source, **found.as_json(), "resamples": options.bootstrap}, _figures(found))
        _say(console, f"Everything is in {options.output}")


def _load(scores: Path, protocol: Path, subset: str | None) -> tuple[Trials, list[str]]:
    keys = read_keys(protocol)
    trials = join(read_scores(scores), keys, protocol, subset)
    subsets = sorted({row.subset for row in keys})
    if subset is None and len(subsets) > 1:
        return trials, [f"The subsets {', '.join(subsets)} are taken together; official numbers use --subset eval."]
    return trials, []


def _resampled_unit(trials: Trials) -> tuple[Sequence[str] | None, str]:
    if trials.speakers is not None:
        speakers = np.asarray(trials.speakers)
        counts = [len(set(speakers[trials.labels == label])) for label in (0, 1)]
        if min(counts) > 1:
            return trials.speakers, f"{len(set(trials.speakers))} speakers"
    return None, "utterances (fewer than two speakers per class are known)"


def _at(threshold: float) -> dict[str, Metric]:
    return {
        "hter": lambda tally: tally.rates(threshold).hter,
        "p_miss": lambda tally: tally.rates(threshold).p_miss,
        "p_fa": lambda tally: tally.rates(threshold).p_fa,
        "accuracy": lambda tally: tally.rates(threshold).accuracy,
    }


def _formula(calibration: Calibration) -> str:
    return f"LLR = {calibration.scale:.6g} score {calibration.offset:+.6g}"


def _print(console: Console, title: str, found: Evaluation) -> None:
    everything = found.cells[0]
    _say(console, f"{title}: {everything.bonafide:,} bona fide, {everything.spoof:,} spoof; higher = bona fide")
    table = Table(box=box.SIMPLE_HEAD)
    for head in ("", "value", "95 % interval", ""):
        table.add_column(head, justify="right" if head else "left")
    for group, estimates in found.groups.items():
        for name, estimate in estimates.items():
            table.add_row(head_of(name), *in_words(name, estimate), "" if group == "detection" else group)
    console.print(table)
    if len(found.cells) > 1:
        console.print(print_ready(found.cells, "Per attack: all bona fide trials against its spoofs"))
    for note in found.notes:
        _say(console, note)


def _say(console: Console, line: str) -> None:
    console.print(line, soft_wrap=True, highlight=False, markup=False)


def _figures(found: Evaluation) -> dict[str, Figure]:
    trials = found.trials
    curves = {"pooled": (trials.scores, trials.labels)}
    attacks = np.asarray(trials.attacks or [])
    names = [name for name in np.unique(attacks).tolist() if name != NO_ATTACK]
    for name in names if len(names) <= MOST_CURVES else ():
        taken = (trials.labels == 1) | (attacks == name)
        curves[name] = (trials.scores[taken], trials.labels[taken])
    return {
        "det": det_figure(curves),
        "scores": score_histogram(trials.scores, trials.labels, found.threshold),
    }


def _write(folder: Path, content: Mapping[str, Any], figures: Mapping[str, Figure]) -> None:
    with atomic_write(folder / "metrics.json") as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")
    for name, figure in figures.items():
        with atomic_write(folder / f"{name}.png") as temporary:
            figure.savefig(temporary, dpi=120, facecolor="white")


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="kan-audio evaluate",
        description="EER, minDCF, actDCF, Cllr of spoofing scores (higher = bona fide), with the costs of ASVspoof 5.",
    )
    parser.add_argument("scores", type=Path, help="score file of any ecosystem: 'id score', ASVspoof 5, AASIST, CSV")
    parser.add_argument("protocol", type=Path, help="ASVspoof 2019, 2021 or 5 protocol, key file, or CSV with a header")
    parser.add_argument(
        "--calibrate-on",
        nargs=2,
        type=Path,
        metavar=("SCORES", "PROTOCOL"),
        help="dev set: fits an affine calibration and gives the threshold for HTER and accuracy",
    )
    parser.add_argument("--reference-eer", action="store_true", help="the ASVspoof packages' EER in every row as well")
    parser.add_argument("--subset", help="only this subset of the protocol: progress, eval or hidden (ASVspoof 2021)")
    parser.add_argument(
        "--bootstrap", type=int, default=1000, metavar="N", help="resamples; 0: no intervals (%(default)s)"
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="write metrics.json, det.png and scores.png there")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser
