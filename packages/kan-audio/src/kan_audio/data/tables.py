"""CSV tables of recordings, as sets of spoken commands come with."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from kan_audio.data.folders import AudioFolder
from kan_audio.data.utterances import Utterance
from kan_core.errors import KANError


def read_table(path: Path, columns: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """The rows of a CSV file with a header, each with the number of its line.

    Args:
        path: The file.
        columns: Names that the header must have.

    Raises:
        KANError: When the file cannot be read, a column is missing, or a row has more or fewer values than the header.
    """
    if not path.is_file():
        raise KANError(f"{path}: there is no such file")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            header = reader.fieldnames or ()
            for column in columns:
                if column not in header:
                    raise KANError(f"{path}: the header has no column {column!r}: found {', '.join(header) or 'none'}")
            rows = [(reader.line_num, row) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise KANError(f"{path} cannot be read as CSV: {error}") from None
    if not rows:
        raise KANError(f"{path} has a header but no rows")
    for line, row in rows:
        if None in row or None in row.values():
            raise KANError(f"{path}, line {line}: the number of values is not that of the header ({len(header)})")
    return rows


def labelled(path: Path, folder: Path, slots: Sequence[str], speaker: str | None = None) -> list[Utterance]:
    """The recordings of a table with a column ``path``, its values as ids.

    Args:
        path: The table.
        folder: What the paths are relative to.
        slots: The columns that hold labels; blanks around a value do not count.
        speaker: The column that holds the speaker, if one does.

    Raises:
        KANError: As `read_table`; and for a value that is empty, or a file that is missing.
    """
    needed = ["path", *slots, *([speaker] if speaker else [])]
    audio, utterances = AudioFolder(folder), []
    for line, row in read_table(path, needed):
        place = f"{path}, line {line}"
        for column in needed:
            if not row[column].strip():
                raise KANError(f"{place}: {column} is empty: give it a value, such as none")
        utterances.append(
            Utterance(
                id=row["path"],
                source=audio.find(row["path"], place),
                labels={slot: row[slot].strip() for slot in slots},
                speaker=row[speaker].strip() if speaker else None,
            )
        )
    return utterances
