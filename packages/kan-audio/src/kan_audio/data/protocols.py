"""Protocol files: which recordings a spoofing set has, and whether each is bona fide or spoofed."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from kan_audio.data.utterances import BONAFIDE, NO_ATTACK, SPOOF
from kan_core.errors import KANError

UNKNOWN_ATTACK = "unknown"
"""The attack of a spoof whose protocol does not name it."""

SUBSETS = ("progress", "eval", "hidden")
"""The parts of the ASVspoof 2021 sets; official numbers use ``eval``."""

# The name of each column by how many there are; None is not used. The ASVspoof 5 files end in .tsv and yet are
# separated by spaces. The physical-access columns R M d r m s c (room, microphone, distances, ...) name no attack.
_COLUMNS: dict[int, tuple[str | None, ...]] = {
    5: ("speaker", "id", None, "attack", "key"),  # ASVspoof 2019
    6: ("speaker", "id", None, None, "attack", "key"),  # ASVspoof 5, first release
    8: ("speaker", "id", "codec", None, "attack", "key", None, "subset"),  # ASVspoof 2021 LA
    10: ("speaker", "id", None, "codec", None, None, None, "attack", "key", None),  # ASVspoof 5
    12: ("speaker", "id", *[None] * 7, "key", None, "subset"),  # ASVspoof 2021 PA
    13: ("speaker", "id", "codec", None, "attack", "key", None, "subset", *[None] * 5),  # ASVspoof 2021 DF
}
_WITH_SUBSETS = [_COLUMNS[count] for count in (8, 12, 13)]
_KEYS = {"bonafide": BONAFIDE, "bona-fide": BONAFIDE, "spoof": SPOOF}
_NOTHING = ("", "-", "none", "nocodec", "bonafide", "bona-fide")
_CSV_NAMES = {"id": "id", "path": "path", "file": "path", "label": "key", "key": "key"} | {
    name: name for name in ("speaker", "attack", "codec", "subset")
}


@dataclass(frozen=True)
class ProtocolRow:
    """One line of a protocol.

    Attributes:
        id: The utterance, as score files name it.
        path: The recording: `id`, unless the file has a column for each.
        key: ``"bonafide"`` or ``"spoof"``.
        speaker: None where the file does not say.
        attack: ``"-"`` for bona fide speech, ``"unknown"`` for a spoof of which the file does not say it.
        codec: ``"-"`` for none.
        subset: ``"-"`` where the file knows no subsets.
        line: Its number in the file, from 1.
    """

    id: str
    path: str
    key: str
    speaker: str | None
    attack: str
    codec: str
    subset: str
    line: int


def read_protocol(path: Path | str) -> list[ProtocolRow]:
    """Read a protocol; its format is told by the number of columns.

    | format | columns |
    |---|---|
    | ASVspoof 2019 | 5: speaker utterance - attack key |
    | ASVspoof 2021 LA ``trial_metadata.txt`` | 8: speaker trial codec transmission attack key trim subset |
    | ASVspoof 2021 DF | 13: speaker trial codec source attack key trim subset vocoder + 4 more |
    | ASVspoof 2021 PA | 12: speaker trial R M d r m s c key trim subset |
    | ASVspoof 5, track 1 | 10: speaker file gender codec quality seed tag attack key tmp |
    | ASVspoof 5, first release | 6: speaker file gender - attack key |
    | CSV with a header, In-the-Wild's ``meta.csv`` too | ``id`` or ``path`` or ``file``, ``label`` or ``key``; if there are: ``speaker``, ``attack``, ``codec``, ``subset``; others are left alone |

    Keys are ``bonafide`` (or ``bona-fide``) and ``spoof``. Empty lines are passed over.

    Args:
        path: The file.

    Returns:
        Its rows in their order.

    Raises:
        KANError: With file and line: another number of columns, an unknown key, an id that stands twice, bona fide
            speech with an attack; or when there is no such file or nothing in it.
    """  # noqa: E501  # the table
    path = Path(path)
    rows = list(_rows(path))
    if not rows:
        raise KANError(f"{path} is empty: a protocol has one line per utterance")
    lines: dict[str, int] = {}
    for row in rows:
        if row.id in lines:
            raise KANError(f"{path}, line {row.line}: the id {row.id} stands in line {lines[row.id]} already")
        lines[row.id] = row.line
    return rows


def _rows(path: Path) -> Iterator[ProtocolRow]:
    lines = [(number, line) for number, line in enumerate(_text(path).splitlines(), 1) if line.strip()]
    if not lines:
        return
    if "," in lines[0][1]:
        names = _csv_names(lines[0][1], path)
        records = ((number, next(csv.reader([line]))) for number, line in lines[1:])
    else:
        names = _COLUMNS.get(len(lines[0][1].split()), ())
        records = ((number, line.split()) for number, line in lines)
    for number, values in records:
        where = f"{path}, line {number}"
        if not names:
            raise KANError(
                f"{where}: {len(values)} column(s) are no known protocol; known are {', '.join(map(str, _COLUMNS))} "
                "columns separated by spaces, and CSV with a header"
            )
        if len(values) != len(names):
            raise KANError(f"{where}: {len(values)} column(s) where the first line has {len(names)}")
        row = _row({name: value.strip() for name, value in zip(names, values, strict=True) if name}, number, where)
        if names in _WITH_SUBSETS and row.subset not in SUBSETS:
            raise KANError(f"{where}: the subset of {row.id} is {row.subset!r}: use {', '.join(SUBSETS)}")
        yield row


def _row(values: Mapping[str, str], line: int, where: str) -> ProtocolRow:
    name, key = values.get("id") or values.get("path"), _KEYS.get(values["key"])
    if not name:
        raise KANError(f"{where}: the utterance has no name")
    if key is None:
        raise KANError(f"{where}: the key of {name} is {values['key']!r}: use bonafide or spoof")
    attack, codec, subset = (_something(values.get(column, "")) for column in ("attack", "codec", "subset"))
    if key == BONAFIDE and attack:
        raise KANError(f"{where}: {name} is bona fide and yet has the attack {attack}")
    return ProtocolRow(
        id=name,
        path=values.get("path") or name,
        key=key,
        speaker=_something(values.get("speaker", "")),
        attack=NO_ATTACK if key == BONAFIDE else attack or UNKNOWN_ATTACK,
        codec=codec or "-",
        subset=subset or "-",
        line=line,
    )


def _something(value: str) -> str | None:
    """`value`, or None where it is one of the ways to say "nothing"."""
    return None if value in _NOTHING else value


def _csv_names(header: str, path: Path) -> tuple[str | None, ...]:
    names = tuple(_CSV_NAMES.get(name.strip().lower()) for name in next(csv.reader([header])))
    for wanted, spellings in ((("id", "path"), "id or path (or file)"), (("key",), "label or key")):
        if not any(name in wanted for name in names):
            raise KANError(f"{path}, line 1: the header has no column {spellings}: found {header.strip()}")
    for name in names:
        if name and names.count(name) > 1:
            raise KANError(f"{path}, line 1: two columns for {name}: found {header.strip()}")
    return names


def _text(path: Path) -> str:
    if not path.is_file():
        raise KANError(f"{path}: there is no such protocol file")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise KANError(f"{path} is not text: a protocol has one line per utterance") from None
