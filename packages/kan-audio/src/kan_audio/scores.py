"""Score files and their keys: read in the layouts of every ecosystem, joined by id and never by row order."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kan_audio.data.protocols import UNKNOWN_ATTACK, ProtocolRow, read_protocol
from kan_audio.data.utterances import BONAFIDE, KEYS, NO_ATTACK, SPOOF
from kan_core.errors import KANError
from kan_core.training.files import atomic_write

Floats = NDArray[np.float64]

_IDS = ("filename", "file", "utterance_id", "utterance", "utt", "id", "trial", "trial_id", "path")
_SCORES = ("cm-score", "cm_score", "score")
_TANDEM_SCORES = ("cm-score", "asv-score", "sasv-score")
_TANDEM_LABELS = ("target", "nontarget", "spoof")
_LABELS = ("cm-label", "label", "key")
_ABSENT = "-"
LISTED = 10
"""How many ids a message about missing, extra or repeated trials names."""


class ScoreRow(NamedTuple):
    """One trial of a score file.

    Attributes:
        id: The utterance.
        score: Higher is more bona fide.
        llr: Natural-log likelihood ratio, where the file has a column ``llr``.
        key: ``"bonafide"`` or ``"spoof"``, where the file repeats it.
        line: Where it stands, from 1.
    """

    id: str
    score: float
    llr: float | None
    key: str | None
    line: int


@dataclass(frozen=True)
class ScoreFile:
    """The trials of a score file, each once.

    Attributes:
        path: The file.
        rows: In the order of the file.
    """

    path: Path
    rows: Sequence[ScoreRow]


@dataclass(frozen=True)
class Trials:
    """Scores joined with what a protocol says, in the protocol's order.

    Attributes:
        ids: Of the utterances.
        scores: ``(trials,)``, higher is more bona fide.
        labels: ``(trials,)`` 1 = bona fide, 0 = spoof.
        llrs: ``(trials,)``, where the score file has them.
        speakers: None where the protocol does not name that of every trial.
        attacks: ``"-"`` for bona fide; None where the protocol names none.
        codecs: None where the protocol names none.
    """

    ids: Sequence[str]
    scores: Floats
    labels: NDArray[np.int64]
    llrs: Floats | None
    speakers: Sequence[str] | None
    attacks: Sequence[str] | None
    codecs: Sequence[str] | None


def read_scores(path: Path | str) -> ScoreFile:
    """Read the scores of a spoofing detector; separator, header and layout are told from the first line.

    | layout | columns |
    |---|---|
    | ASVspoof 5 track 1, and `write_scores` | header ``filename cm-score``, perhaps ``llr`` |
    | ASVspoof 2021, speech_spoof_bench | ``id score``, no header |
    | AASIST | ``id attack key score``, no header; the key is compared with the protocol's |
    | others with a header | ``id`` or ``filename`` or ``utt`` ..., ``score`` or ``cm-score``, perhaps ``key`` |

    Columns are separated by commas, semicolons, tabs or spaces. For ASVspoof 5 track 2 see `read_tandem`.

    Args:
        path: The file.

    Raises:
        KANError: With file and line: a score that is no finite number, another number of columns, an unknown layout; or
            with the ids that stand there twice.
    """
    path = Path(path)
    names, lines = _read_table(path)
    if "asv-score" in names and "spk" in names:
        raise KANError(f"{path} holds scores of ASVspoof 5 track 2 (spk filename cm-score asv-score ...): read_tandem")
    at_id, at_score, at_llr, at_key = _columns(path, names, len(lines[0][1]))
    rows = [
        ScoreRow(
            id=fields[at_id],
            score=_number(fields[at_score], path, number),
            llr=None if at_llr is None else _number(fields[at_llr], path, number),
            key=None if at_key is None else _word(fields[at_key], KEYS, "key", path, number),
            line=number,
        )
        for number, fields in lines
    ]
    _refuse_repeated([row.id for row in rows], path)
    return ScoreFile(path, rows)


def read_keys(path: Path | str) -> list[ProtocolRow]:
    """Read what the trials are: any protocol of `kan_audio.data.protocols.read_protocol`, or two columns.

    Two columns are ``id key``, or the key file of ASVspoof 5 track 1 with its header ``filename cm-label``; keys are
    ``bonafide`` and ``spoof`` in words, since 0 and 1 mean opposite things in different ecosystems.

    Args:
        path: The file.

    Raises:
        KANError: As `read_protocol`; for numbers as keys; for ids that stand there twice; for a parquet file.
    """
    path = Path(path)
    first = next(_split(_text(path)), (1, [""]))[1]
    if len(first) == 2 and (first[1].lower() == "cm-label" or not _is_header(first)):
        _, lines = _read_table(path)
        _refuse_repeated([fields[0] for _, fields in lines], path)
        return [_key_row(fields, path, number) for number, fields in lines]
    return read_protocol(path)


def join(scores: ScoreFile, keys: Sequence[ProtocolRow], keys_path: Path | str, subset: str | None = None) -> Trials:
    """Bring scores and keys together by id.

    Args:
        scores: What `read_scores` gave.
        keys: What `read_keys` gave.
        keys_path: Its file, for messages.
        subset: Only the trials of this subset of the protocol; scores of its other trials may stand in the file.

    Raises:
        KANError: When trials have no score, or scores have no trial (the first ten are listed), when the score file
            says another key than the protocol, or when the subset is unknown.
    """
    wanted = keys if subset is None else [row for row in keys if row.subset == subset]
    if not wanted:
        known = sorted({row.subset for row in keys} - {"-"})
        has = f"its subsets are {', '.join(known)}" if known else "it names no subsets"
        raise KANError(f"{keys_path} has no trial of the subset {subset!r}: {has}")
    by_id = {row.id: row for row in scores.rows}
    if not any(row.id in by_id for row in wanted):
        raise KANError(
            f"{scores.path} and {keys_path} have no trial in common: the first is {scores.rows[0].id} in one and "
            f"{wanted[0].id} in the other"
        )
    _refuse_any([row.id for row in wanted if row.id not in by_id], f"{scores.path} has no score for", f"of {keys_path}")
    trials = {row.id for row in keys}
    _refuse_any([row.id for row in scores.rows if row.id not in trials], f"{scores.path} scores", f"not in {keys_path}")
    found = [by_id[row.id] for row in wanted]
    for row, trial in zip(found, wanted, strict=True):
        if row.key not in (None, trial.key):
            raise KANError(
                f"{scores.path}, line {row.line}: {row.id} is said to be {row.key}, "
                f"but {keys_path}, line {trial.line}, says {trial.key}"
            )
    llrs = [row.llr for row in found if row.llr is not None]
    speakers = [row.speaker for row in wanted if row.speaker is not None]
    attacks, codecs = [row.attack for row in wanted], [row.codec for row in wanted]
    return Trials(
        ids=[row.id for row in wanted],
        scores=np.array([row.score for row in found]),
        labels=np.array([KEYS.index(row.key) for row in wanted]),
        llrs=np.array(llrs) if llrs else None,
        speakers=speakers if len(speakers) == len(wanted) else None,
        attacks=attacks if not set(attacks) <= {NO_ATTACK, UNKNOWN_ATTACK} else None,
        codecs=codecs if set(codecs) != {"-"} else None,
    )


def write_scores(path: Path | str, ids: Sequence[str], scores: ArrayLike, llrs: ArrayLike | None = None) -> None:
    """Write scores as ASVspoof 5 track 1 does, tab separated under the header ``filename cm-score``, atomically.

    Args:
        path: The file.
        ids: Of the utterances, each once, without tabs and line breaks.
        scores: ``(trials,)`` finite, higher is more bona fide; written so that reading gives the same float64.
        llrs: ``(trials,)`` a third column ``llr``.

    Raises:
        KANError: For numbers that are not finite, columns of different lengths, or ids that cannot be read back.
    """
    columns = [np.asarray(column, np.float64) for column in (scores, llrs) if column is not None]
    for column in columns:
        if column.shape != (len(ids),):
            raise KANError(f"{path}: {len(ids):,} ids need as many scores, got shape {column.shape}")
        if not np.isfinite(column).all():
            at = int(np.argmin(np.isfinite(column)))
            raise KANError(f"{path}: the score of {ids[at]} is {column[at]}: scores must be finite numbers")
    for name in ids:
        if not name or name != name.strip() or any(mark in name for mark in '\t\r\n"'):
            raise KANError(f"{path}: the id {name!r} cannot stand in a score file")
    _refuse_repeated(ids, path)
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        file.write("\t".join(("filename", "cm-score", "llr")[: 1 + len(columns)]) + "\n")
        for name, *numbers in zip(ids, *columns, strict=True):
            file.write("\t".join((name, *(repr(float(number)) for number in numbers))) + "\n")


@dataclass(frozen=True)
class TandemTrials:
    """Trials of ASVspoof 5 track 2, for `kan_audio.metrics.tandem`.

    Attributes:
        kinds: ``"target"``, ``"nontarget"`` or ``"spoof"``, of each trial.
        cm: ``(trials,)`` countermeasure scores, None where the file has only ``-``.
        asv: ``(trials,)`` speaker verification scores, or None.
        sasv: ``(trials,)`` scores of the joint decision, or None.
    """

    kinds: Sequence[str]
    cm: Floats | None
    asv: Floats | None
    sasv: Floats | None


def read_tandem(scores_path: Path | str, keys_path: Path | str) -> TandemTrials:
    """Read the score and the key file of ASVspoof 5 track 2.

    Scores: ``spk filename cm-score asv-score sasv-score`` with ``-`` in a column that a system does not have; keys:
    ``spk filename cm-label asv-label``. A trial is a claimed speaker with a file; the trials come in the key's order.

    Raises:
        KANError: With file and line for what is no number, a column that is partly ``-``, labels that contradict each
            other; with the first ten of missing, extra and repeated trials.
    """
    scores_path, keys_path = Path(scores_path), Path(keys_path)
    scores = _tandem_rows(scores_path, _TANDEM_SCORES)
    keys = _tandem_rows(keys_path, ("cm-label", "asv-label"))
    _refuse_any([name for name in keys if name not in scores], f"{scores_path} has no score for", f"of {keys_path}")
    _refuse_any([name for name in scores if name not in keys], f"{scores_path} scores", f"not in {keys_path}")
    kinds = []
    for number, (cm, asv) in keys.values():
        kind = _word(asv, _TANDEM_LABELS, "asv-label", keys_path, number)
        if _word(cm, KEYS, "cm-label", keys_path, number) != (SPOOF if kind == "spoof" else BONAFIDE):
            raise KANError(f"{keys_path}, line {number}: cm-label {cm} contradicts asv-label {asv}")
        kinds.append(kind)
    columns = {}
    for at, column in enumerate(_TANDEM_SCORES):
        given = [(scores[name][0], scores[name][1][at]) for name in keys]
        wanted = any(text != _ABSENT for _, text in given)
        columns[column] = np.array([_number(text, scores_path, number) for number, text in given]) if wanted else None
    return TandemTrials(kinds, columns["cm-score"], columns["asv-score"], columns["sasv-score"])


def _tandem_rows(path: Path, wanted: Sequence[str]) -> dict[str, tuple[int, list[str]]]:
    names, lines = _read_table(path)
    header = ("spk", "filename", *wanted)
    if not set(header) <= set(names):
        raise KANError(f"{path}, line 1: the header must name {' '.join(header)}, found {' '.join(names) or 'none'}")
    at = [names.index(name) for name in header]
    rows = [(number, [fields[column] for column in at]) for number, fields in lines]
    _refuse_repeated([" ".join(fields[:2]) for _, fields in rows], path)
    return {" ".join(fields[:2]): (number, fields[2:]) for number, fields in rows}


def _read_table(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header in lower case (empty when there is none), and the fields of every other line with its number."""
    lines = list(_split(_text(path)))
    if not lines:
        raise KANError(f"{path} is empty: one line per trial is expected")
    width = len(lines[0][1])
    for number, fields in lines:
        if len(fields) != width or not all(fields):
            raise KANError(f"{path}, line {number}: {len(list(filter(None, fields)))} value(s), line 1 has {width}")
    if not _is_header(lines[0][1]):
        return [], lines
    if len(lines) == 1:
        raise KANError(f"{path} has a header and no trial")
    return [field.lower() for field in lines[0][1]], lines[1:]


def _is_header(fields: Sequence[str]) -> bool:
    names = {field.lower() for field in fields}
    return not names.isdisjoint(_IDS) and not names.isdisjoint((*_SCORES, *_LABELS))


def _text(path: Path) -> str:
    if not path.is_file():
        raise KANError(f"{path}: there is no such file")
    content = path.read_bytes()
    if content.startswith(b"PAR1"):
        raise KANError(f"{path} is a parquet file: write it as CSV, keys as id,label with bonafide or spoof in words")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise KANError(f"{path} is not text: one line per trial is expected") from None


def _split(text: str) -> Iterator[tuple[int, list[str]]]:
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    separator = next((mark for mark in ",;\t" if lines and mark in lines[0][1]), None)
    for number, line in lines:
        fields = line.split() if separator is None else next(csv.reader([line], delimiter=separator))
        yield number, [field.strip() for field in fields]


def _columns(path: Path, names: list[str], width: int) -> tuple[int, int, int | None, int | None]:
    """Where id, score, log-likelihood ratio and key stand."""
    if not names:
        if width == 2:
            return 0, 1, None, None
        if width == 4:
            return 0, 3, None, 2
        raise KANError(
            f"{path}, line 1: {width} column(s) and no header: use 'id score', 'id attack key score', "
            "or a header such as 'filename cm-score'"
        )
    ids, scores = ([at for at, name in enumerate(names) if name in known] for known in (_IDS, _SCORES))
    if len(ids) != 1 or len(scores) != 1:
        raise KANError(
            f"{path}, line 1: one id column ({', '.join(_IDS)}) and one score column ({', '.join(_SCORES)}) "
            f"are needed, the header is {' '.join(names)}"
        )
    return ids[0], scores[0], _position(names, "llr"), _position(names, "key")


def _position(names: list[str], name: str) -> int | None:
    return names.index(name) if name in names else None


def _key_row(fields: list[str], path: Path, number: int) -> ProtocolRow:
    name, key = fields
    if key in ("0", "1"):
        raise KANError(
            f"{path}, line {number}: the key of {name} is {key}, which means opposite things in different ecosystems: "
            "write bonafide or spoof"
        )
    key = _word(key, KEYS, "key", path, number)
    attack = NO_ATTACK if key == BONAFIDE else UNKNOWN_ATTACK
    return ProtocolRow(name, name, key, speaker=None, attack=attack, codec="-", subset="-", line=number)


def _word(text: str, known: Collection[str], what: str, path: Path, number: int) -> str:
    if text not in known:
        raise KANError(f"{path}, line {number}: the {what} is {text!r}: use {' or '.join(known)}")
    return text


def _number(text: str, path: Path, number: int) -> float:
    try:
        value = float(text) if "_" not in text else math.nan
    except ValueError:
        raise KANError(f"{path}, line {number}: the score {text!r} is not a number") from None
    if not math.isfinite(value):
        raise KANError(f"{path}, line {number}: the score {text!r} is not a finite number")
    return value


def _refuse_repeated(ids: Sequence[str], path: Path | str) -> None:
    if len(set(ids)) < len(ids):
        _refuse_any([name for name, count in Counter(ids).items() if count > 1], f"{path} repeats", "")


def _refuse_any(ids: Sequence[str], message: str, end: str) -> None:
    if ids:
        more = f" and {len(ids) - LISTED:,} more" if len(ids) > LISTED else ""
        raise KANError(f"{message} {len(ids):,} trial(s) {end}".rstrip() + f": {', '.join(ids[:LISTED])}{more}")
