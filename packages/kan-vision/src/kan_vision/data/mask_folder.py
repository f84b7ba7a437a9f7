"""A folder of images beside a folder of masks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from kan_core.errors import KANError
from kan_core.training.paths import data_root
from kan_vision.data.augment_masks import MaskAugment
from kan_vision.data.decode import SUFFIXES, ColourMode
from kan_vision.data.labelled_images import IGNORE, MaskSplits, leak_free_masks, read_all
from kan_vision.data.mask_files import Pair, PairedFiles
from kan_vision.data.masks import MaskDataModule
from kan_vision.data.repeats import described

MASK_SUFFIX = "_mask"
"""What a mask may have at the end of its image's name."""


class MaskFolder(MaskDataModule):
    """Images in ``images`` and their masks in ``masks``, paired by file name without suffix.

    The masks of ``images/a.jpg`` are one of

    - ``masks/a.png`` or ``masks/a_mask.png``: 0 and 255 (or 0 and 1); with three or more `class_names`, class indices,
      of which 255 means unknown;
    - ``masks/<class>/a.png`` (or ``a_mask.png``), one 0/255 mask per class folder: class 0 is ``background``, the
      folders follow in alphabetical order, or in that of `class_names`; where classes overlap, the later one counts;
    - ``masks/a/*.png``: one 0/255 mask per object, united. An empty folder is an image without objects.

    Folders in ``masks`` are objects when they bear the names of more than half of the images, else classes. A mask is
    PNG, BMP or TIFF (JPEG with `mask_threshold`) in grey or with a palette.

    ``images`` and ``masks`` are either in ``train``, ``val`` (or ``valid``) and ``test``, or directly in the folder,
    which is then split by image, seeded. With ``train`` and ``test`` but no ``val``, validation is split off ``train``.
    An image that a later split holds too, pixel for pixel, is left out of the earlier one, and `name` says so. Every
    file is decoded once before training starts, and kept in memory when its split takes no more than 2 GiB.

    Args:
        folder: Where the images are, relative to the data root (or absolute).
        images: Name of the folder of images.
        masks: Name of the folder of masks.
        root: The data root; by default ``$KAN_DATA``, else ``~/.cache/kan``.
        class_names: In label order, the background first. By default ``background`` and ``foreground``, or the
            background and the class folders.
        mask_threshold: The share of the full scale above which a pixel of a 0/255 mask is set, such as 0.5 for soft
            or JPEG masks. By default any value between is an error, for it may well be a class index.
        mode: ``"rgb"`` or ``"grey"``.
        val_fraction: Share held out for selection where the folder does not say.
        test_fraction: Share held out for the test where the folder does not say.
        split_seed: Of the split; the seed of the run does not change it.
        crop_size: Height and width, or the side, of training crops in pixels.
        crops_per_image: How many crops of each training image an epoch has.
        predict_folder: Images without masks, at any depth, that ``predict`` runs on instead of the test images.
        batch_size: Crops per training batch.
        num_workers: Loader processes.
        augment: What happens to training batches.
    """

    def __init__(
        self,
        folder: str,
        images: str = "images",
        masks: str = "masks",
        root: str | None = None,
        class_names: list[str] | None = None,
        mask_threshold: float | None = None,
        mode: ColourMode = "rgb",
        val_fraction: float = 0.2,
        test_fraction: float = 0.2,
        split_seed: int = 0,
        crop_size: int | tuple[int, int] = 128,
        crops_per_image: int = 1,
        predict_folder: str | None = None,
        batch_size: int = 8,
        num_workers: int = 0,
        augment: MaskAugment = "dihedral_colour",
    ) -> None:
        if not (min(val_fraction, test_fraction) > 0 and val_fraction + test_fraction < 1):
            raise KANError(
                "val_fraction and test_fraction must be above 0 and their sum below 1, got "
                f"{val_fraction:g} and {test_fraction:g}"
            )
        if class_names is not None and not 2 <= len(class_names) <= IGNORE:
            raise KANError(f"class_names must name 2 to {IGNORE} classes, the background first, got {len(class_names)}")
        if mask_threshold is not None and not 0 <= mask_threshold < 1:
            raise KANError(f"mask_threshold must be at least 0 and below 1, got {mask_threshold:g}")
        super().__init__(root, mode, crop_size, crops_per_image, predict_folder, batch_size, num_workers, augment)
        self.folder = folder
        self.images = images
        self.masks = masks
        self.names = class_names
        self.mask_threshold = mask_threshold
        self.val_fraction = val_fraction
        self.test_fraction = test_fraction
        self.split_seed = split_seed

    def load(self) -> MaskSplits:
        """Pair the files and decode each once."""
        folder = data_root(self.root) / self.folder
        if not folder.is_dir():
            raise KANError(
                f"{folder} is missing: it must hold the folders {self.images!r} and {self.masks!r}; "
                "name another data root with --data.root or KAN_DATA"
            )
        parts = self._given(folder) if (folder / "train").is_dir() else self._divided(folder)
        return leak_free_masks([read_all(self._files(*part)) for part in parts], parts[0][1], str(folder))

    @property
    def name(self) -> str:  # type: ignore[override]
        """The folder's name, and how many repeated images were left out."""
        return described(Path(self.folder).name, self.splits.repeats)

    def _files(self, pairs: Sequence[Pair], names: tuple[str, ...]) -> PairedFiles:
        is_indexed = len(pairs[0].masks) == 1 and len(names) > 2
        return PairedFiles(pairs, self.mode, len(names) if is_indexed else None, self.mask_threshold)

    def _given(self, folder: Path) -> list[tuple[list[Pair], tuple[str, ...]]]:
        """The pairs of each split that the folder itself defines, and their classes."""
        if not (folder / "test").is_dir():
            raise KANError(
                f"{folder} has a 'train' but no 'test' folder: add one, or put {self.images!r} and {self.masks!r} "
                "side by side"
            )
        train, names = self._paired(folder / "train")
        test, test_names = self._paired(folder / "test")
        val_folder = next((folder / name for name in ("val", "valid") if (folder / name).is_dir()), None)
        if val_folder is None:
            (train, val), val_names = self._split(train, [self.val_fraction], folder / "train"), names
        else:
            val, val_names = self._paired(val_folder)
        for other, where in ((val_names, val_folder), (test_names, folder / "test")):
            if other != names:
                raise KANError(
                    f"{where} must have the classes of 'train' ({', '.join(names)}), found {', '.join(other)}"
                )
        return [(train, names), (val, names), (test, names)]

    def _divided(self, folder: Path) -> list[tuple[list[Pair], tuple[str, ...]]]:
        """The pairs of splits made here."""
        pairs, names = self._paired(folder)
        train, val, test = self._split(pairs, [self.val_fraction, self.test_fraction], folder)
        return [(train, names), (val, names), (test, names)]

    def _split(self, pairs: list[Pair], fractions: Sequence[float], folder: Path) -> list[list[Pair]]:
        """The rest, and one part of at least one pair for each of `fractions`; every part in the order of the files."""
        sizes = [max(round(fraction * len(pairs)), 1) for fraction in fractions]
        rest = len(pairs) - sum(sizes)
        if rest < 1:
            raise KANError(f"{folder}: {len(pairs)} image(s) are too few for {len(sizes) + 1} splits")
        order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(self.split_seed))
        return [[pairs[i] for i in sorted(part.tolist())] for part in torch.split(order, [rest, *sizes])]

    def _paired(self, folder: Path) -> tuple[list[Pair], tuple[str, ...]]:
        """The pairs of one folder, in the order of their names, and the classes."""
        image_folder, mask_folder = folder / self.images, folder / self.masks
        for path in (image_folder, mask_folder):
            if not path.is_dir():
                raise KANError(f"{path} is missing: {folder} must hold {self.images!r} and {self.masks!r}")
        images = _by_stem(image_folder, ())
        if not images:
            raise KANError(f"{image_folder} holds no images ({', '.join(sorted(SUFFIXES))})")
        folders = sorted(path for path in mask_folder.iterdir() if path.is_dir() and not path.name.startswith("."))
        if 2 * sum(path.name in images for path in folders) > len(images):
            masks, names = self._objects(folders, images, mask_folder), self._two_names(mask_folder)
        elif folders:
            masks, names = self._classes(folders, images, mask_folder)
        else:
            files = _matching(images, _by_stem(mask_folder, images), mask_folder)
            masks = {stem: ((file,),) for stem, file in files.items()}
            names = tuple(self.names or ("background", "foreground"))
        return [Pair(str(file), file, masks[stem]) for stem, file in images.items()], names

    def _objects(
        self, folders: list[Path], images: dict[str, Path], mask_folder: Path
    ) -> dict[str, tuple[tuple[Path, ...], ...]]:
        """One folder of masks per image."""
        matching = _matching(images, {path.name: path for path in folders}, mask_folder)
        return {stem: (tuple(_image_files(path)),) for stem, path in matching.items()}

    def _two_names(self, mask_folder: Path) -> tuple[str, ...]:
        names = tuple(self.names or ("background", "foreground"))
        if len(names) != 2:
            raise KANError(
                f"{mask_folder} holds one folder of masks per image, which gives two classes, "
                f"but class_names has {len(names)}"
            )
        return names

    def _classes(
        self, folders: list[Path], images: dict[str, Path], mask_folder: Path
    ) -> tuple[dict[str, tuple[tuple[Path, ...], ...]], tuple[str, ...]]:
        """One folder of masks per class."""
        by_name = {path.name: path for path in folders}
        names = tuple(self.names or ("background", *by_name))
        if set(names[1:]) != set(by_name):
            raise KANError(
                f"class_names after the background ({', '.join(names[1:])}) must be the folders of {mask_folder} "
                f"({', '.join(by_name)})"
            )
        files = [_matching(images, _by_stem(by_name[name], images), by_name[name]) for name in names[1:]]
        return {stem: tuple((of_class[stem],) for of_class in files) for stem in images}, names


def _image_files(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and path.is_file() and not path.name.startswith(".")
    )


def _by_stem(folder: Path, images: Iterable[str]) -> dict[str, Path]:
    """The files of a folder by the name of the image they belong to, `images` being the names that there are."""
    files: dict[str, Path] = {}
    known = set(images)
    for path in _image_files(folder):
        stem = path.stem
        if known and stem not in known:
            stem = stem.removesuffix(MASK_SUFFIX)
        if stem in files:
            raise KANError(f"{folder} holds both {files[stem].name} and {path.name}: which one is {stem!r}?")
        files[stem] = path
    return files


def _matching(images: dict[str, Path], masks: dict[str, Path], folder: Path) -> dict[str, Path]:
    """`masks`, checked to be one for each of `images`."""
    alone = sorted(images.keys() - masks.keys())
    if alone:
        raise KANError(
            f"{images[alone[0]]} has no mask in {folder} ({len(alone)} such image(s)): "
            "an image without objects needs an empty (all-zero) one"
        )
    orphans = sorted(masks.keys() - images.keys())
    if orphans:
        raise KANError(f"{masks[orphans[0]]} has no image of that name ({len(orphans)} such mask(s))")
    return masks
