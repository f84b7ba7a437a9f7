"""The nuclei of the Data Science Bowl 2018: microscopy images with one mask file per nucleus."""

from __future__ import annotations

import zipfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from kan_core.errors import KANError
from kan_core.training.paths import data_root
from kan_vision.data.augment_masks import MaskAugment
from kan_vision.data.decode import ColourMode, Readable
from kan_vision.data.labelled_images import LabelledImages, MaskSplits, leak_free_masks, read_all
from kan_vision.data.mask_files import Pair, PairedFiles
from kan_vision.data.masks import MaskDataModule
from kan_vision.data.repeats import described

PAGE = "https://bbbc.broadinstitute.org/BBBC038"


class DSB2018(MaskDataModule):
    """``stage1_train`` of the Data Science Bowl 2018 (BBBC038), or a part of it: nuclei against the rest.

    Reads ``<id>/images/<id>.png`` and ``<id>/masks/*.png``, at any depth, from the zip archive as it is or from the
    unpacked folder. The mask of an image is the union of its nuclei.

    There is no official split. This one has no randomness in it: of the ids in ascending order, every 5th image, from
    the first on, is for the test. The rest, first the dark images (fluorescence) and then the bright ones (stained
    tissue and bright field: mean above a half), each in ascending order, gives every 5th image to validation, so that
    both kinds are in it in their proportion; the others are for training.

    Args:
        file: The zip archive, the unpacked folder, or a folder that holds either, relative to the data root (or
            absolute).
        root: The data root; by default ``$KAN_DATA``, else ``~/.cache/kan``.
        val_fold: Which of the 5 possible validation sets, 0 to 4; the others are in training.
        mode: ``"rgb"`` or ``"grey"``.
        crop_size: Height and width, or the side, of training crops in pixels; the smallest image is 256 x 256.
        crops_per_image: How many crops of each training image an epoch has.
        predict_folder: Images without masks, at any depth, that ``predict`` runs on instead of the test images.
        batch_size: Crops per training batch.
        num_workers: Loader processes.
        augment: What happens to training batches.
    """

    def __init__(
        self,
        file: str = "dsb2018",
        root: str | None = None,
        val_fold: int = 0,
        mode: ColourMode = "rgb",
        crop_size: int | tuple[int, int] = 128,
        crops_per_image: int = 4,
        predict_folder: str | None = None,
        batch_size: int = 8,
        num_workers: int = 0,
        augment: MaskAugment = "dihedral_colour",
    ) -> None:
        if not 0 <= val_fold < 5:
            raise KANError(f"val_fold must be 0 to 4, got {val_fold}")
        super().__init__(root, mode, crop_size, crops_per_image, predict_folder, batch_size, num_workers, augment)
        self.file = file
        self.val_fold = val_fold

    def load(self) -> MaskSplits:
        """Read everything into memory."""
        where = data_root(self.root) / self.file
        with members(where) as files:
            pairs = paired(files, where)
            if len(pairs) < 10:
                raise KANError(f"{where} holds {len(pairs)} image(s): fewer than 10 cannot be split")
            # nothing is left to read when the archive is closed; loader processes could not share it anyway
            images, keys = read_all(PairedFiles(pairs, self.mode), memory=2**63)
        parts = [
            (images.part(positions), [keys[i] for i in positions.tolist()])
            for positions in fifths(images, self.val_fold)
        ]
        return leak_free_masks(parts, ("background", "nucleus"), str(where))

    @property
    def name(self) -> str:  # type: ignore[override]
        """``dsb2018``, the number of images when it is not that of the whole set, and what was left out."""
        splits = self.splits
        total = len(splits.train) + len(splits.val) + len(splits.test) + splits.repeats
        return described("dsb2018" if total in (664, 670) else f"dsb2018 ({total} images)", splits.repeats)


@contextmanager
def members(where: Path) -> Iterator[list[tuple[tuple[str, ...], Readable]]]:
    """The PNG files of an archive or folder, each with the parts of its path inside, readable in the ``with`` block.

    Args:
        where: A zip archive, a folder of PNGs at any depth, or one that holds a single ``stage1_train*.zip``.

    Raises:
        KANError: When there is none, or the archive is damaged.
    """
    if where.is_dir():
        files = sorted(where.rglob("*.png"))
        if files:
            yield [(path.relative_to(where).parts, path) for path in files]
            return
        archives = sorted(where.glob("stage1_train*.zip"))
        if len(archives) > 1:
            raise KANError(f"{where} holds {len(archives)} archives: name one, such as --data.file {archives[0]}")
        where = archives[0] if archives else where / "stage1_train.zip"
    if not where.is_file():
        raise KANError(
            f"{where} is missing: put stage1_train.zip from {PAGE} there, "
            "or name another data root with --data.root or KAN_DATA"
        )
    try:
        archive = zipfile.ZipFile(where)
    except zipfile.BadZipFile as error:
        raise KANError(f"{where} is not a whole zip archive ({error}); fetch it again from {PAGE}") from None
    with archive:
        root = zipfile.Path(archive)
        yield [(tuple(name.split("/")), root / name) for name in sorted(archive.namelist()) if name.endswith(".png")]


def paired(files: Sequence[tuple[tuple[str, ...], Readable]], where: Path) -> list[Pair]:
    """Images with their masks, by ascending id.

    Args:
        files: What `members` returns.
        where: For the messages.

    Raises:
        KANError: When an id has no image, several, or no masks.
    """
    images: defaultdict[str, list[Readable]] = defaultdict(list)
    masks: defaultdict[str, list[Readable]] = defaultdict(list)
    for parts, file in files:
        if len(parts) >= 3 and parts[-2] in ("images", "masks") and "__MACOSX" not in parts:
            (images if parts[-2] == "images" else masks)[parts[-3]].append(file)
    if not images:
        raise KANError(f"{where} holds no <id>/images/<id>.png: it must be laid out as stage1_train of {PAGE}")
    for name in sorted(images.keys() | masks.keys()):
        if len(images[name]) != 1 or not masks[name]:
            raise KANError(
                f"{where}: {name} has {len(images[name])} image(s) and {len(masks[name])} mask(s), "
                "must have one image and at least one mask"
            )
    return [Pair(name, images[name][0], (tuple(masks[name]),)) for name in sorted(images)]


def fifths(images: LabelledImages, val_fold: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Positions to train, validate and test with, each ascending; the rule is that of `DSB2018`."""
    rest = [i for i in range(len(images)) if i % 5]
    by_kind = sorted(rest, key=lambda i: float(images.image(i).mean()) > 0.5)  # stable: ids stay in order
    val = set(by_kind[val_fold::5])
    train = [i for i in rest if i not in val]
    return torch.tensor(train), torch.tensor(sorted(val)), torch.arange(0, len(images), 5)
