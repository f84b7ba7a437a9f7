"""The folder of a run: where it is, that an older one is kept, and that it can be written to."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_only

from kan_core.errors import KANError
from kan_core.training.checkpoints import FOLDER as CHECKPOINTS
from kan_core.training.files import remove_leftovers


def run_name(given: str | None, dataset: str, model: str) -> str:
    """The name of a run: what ``--name`` says, else ``<dataset>-<model>`` in lower case.

    Raises:
        KANError: When the given name is not one folder name.
    """
    if given is None:
        return re.sub(r"[^a-z0-9._-]+", "-", f"{dataset}-{model}".lower()).strip("-.")
    if not re.fullmatch(r"[\w+=,.-]+", given) or set(given) <= {"."}:
        raise KANError(f"--name {given!r}: use letters, digits and the characters . _ - + = , only")
    return given


class RunFolder:
    """The folder of one run. Only rank 0 touches the disk.

    Args:
        path: Where it is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._older: Path | None = None
        self._fresh = False

    @classmethod
    def of_checkpoint(cls, checkpoint: Path) -> RunFolder | None:
        """The run folder that `checkpoint` lies in, or None when it lies elsewhere."""
        return cls(checkpoint.parent.parent) if checkpoint.parent.name == CHECKPOINTS else None

    def create(self, resume: bool) -> None:
        """Make the folder; an existing one is renamed to NAME.1, NAME.2, ... unless the run is resumed in it.

        Raises:
            KANError: When it cannot be made or written to.
        """
        if not is_rank_zero():
            return
        try:
            if resume:
                remove_leftovers(self.path)
            else:
                self._set_older_aside()
                self._fresh = True
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / ".writable"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise KANError(
                f"cannot write to the output folder {self.path}: {error.strerror}; give another one with --output"
            ) from None

    def _set_older_aside(self) -> None:
        if not self.path.is_dir():
            return
        number = 1
        while (older := self.path.with_name(f"{self.path.name}.{number}")).exists():
            number += 1
        self.path.rename(older)
        self._older = older

    def abandon(self) -> None:
        """After an error: if nothing was trained in the new folder, remove it and give the older one its name back."""
        if not is_rank_zero() or not self._fresh or (self.path / CHECKPOINTS / "last.ckpt").exists():
            return
        shutil.rmtree(self.path, ignore_errors=True)
        if self._older is not None and not self.path.exists():
            self._older.rename(self.path)


def is_rank_zero() -> bool:
    """Whether this process is the one that writes and prints; also before the processes of a run know each other."""
    return int(getattr(rank_zero_only, "rank", 0) or 0) == 0
