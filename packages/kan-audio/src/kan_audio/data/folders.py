"""Finding audio: in folders, in zip archives, and by the names that protocols and tables give."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from kan_audio.data.audio import SUFFIXES, read_zip
from kan_audio.data.utterances import AudioSource, Utterance, check_unique
from kan_core.errors import KANError


def audio_files(folder: Path) -> list[Path]:
    """The audio files in `folder` at any depth, sorted; hidden ones are left out.

    Raises:
        KANError: When there is no such folder, or no audio file in it.
    """
    if not folder.is_dir():
        raise KANError(f"{folder}: there is no such folder")
    files = sorted(path for path in folder.rglob("*") if _is_audio(path))
    if not files:
        raise KANError(f"{folder} holds no audio file: looked for {', '.join(sorted(SUFFIXES))}")
    return files


def members(where: Path, page: str) -> Mapping[str, AudioSource]:
    """The recordings of a set by their name in it, such as ``recordings/7_anna_0.wav``, sorted.

    Args:
        where: A zip archive; a folder of audio files at any depth; or a folder that holds neither but one archive.
        page: Where the set is to be had, for the message.

    Raises:
        KANError: When there is nothing to read, or no audio in it.
    """
    archives = sorted(where.glob("*.zip")) if where.is_dir() else [where]
    found: Mapping[str, AudioSource]
    if where.is_dir() and len(archives) != 1:
        files = sorted(path for path in where.rglob("*") if _is_audio(path))
        found = {path.relative_to(where).as_posix(): path for path in files}
    else:
        found = read_zip(present(archives[0], page))
    if not found:
        raise KANError(f"{where} holds no audio file: fetch the set from {page}")
    return found


def present(path: Path, page: str) -> Path:
    """`path`, which must be there.

    Raises:
        KANError: When it is not; it names the project page.
    """
    if not path.exists():
        raise KANError(
            f"{path} is missing: fetch it from {page}, or name another data root with --data.root or KAN_DATA"
        )
    return path


class AudioFolder:
    """Finds the files that the lines of a protocol or table mean; each folder is listed once.

    Args:
        folder: What names are relative to.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._listings: dict[Path, defaultdict[str, list[Path]]] = {}

    def find(self, name: str, where: str) -> Path:
        """The file called `name`, with or without the suffix of an audio file.

        Args:
            name: Relative to the folder, or absolute.
            where: File and line, for the message.

        Raises:
            KANError: When there is none, or several that differ in their suffix.
        """
        path = self.folder / name
        listing = self._listing(path.parent)
        found = [other for other in listing[path.name] if other.name == path.name] or listing[path.name]
        if len(found) != 1:
            what = f"is there as {' and as '.join(sorted(p.name for p in found))}" if found else "is missing"
            raise KANError(f"{where}: the audio of {name} {what} in {path.parent}")
        return found[0]

    def _listing(self, folder: Path) -> defaultdict[str, list[Path]]:
        """The audio files in `folder`, by their names with and without suffix."""
        if folder not in self._listings:
            listing = self._listings[folder] = defaultdict(list)
            for path in folder.iterdir() if folder.is_dir() else ():
                if _is_audio(path):
                    listing[path.name].append(path)
                    listing[path.stem].append(path)
        return self._listings[folder]


def unlabelled(names: Sequence[str]) -> list[Utterance]:
    """Files, and the audio files in folders, as utterances without labels; their paths are their ids.

    Args:
        names: Files and folders; a file may have any suffix.

    Raises:
        KANError: When one is missing or named twice, or when there is none.
    """
    if not names:
        raise KANError("predict_files is empty: name files or folders")
    utterances = []
    for path in (Path(name).expanduser() for name in names):
        if not path.exists():
            raise KANError(f"{path}: there is no such file or folder")
        files = audio_files(path) if path.is_dir() else [path]
        utterances += [Utterance(str(file), file, {}) for file in files]
    check_unique(utterances, "predict_files")
    return utterances


def _is_audio(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.name[0] != "." and path.is_file()
