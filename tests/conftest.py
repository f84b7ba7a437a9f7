"""Strict defaults for the whole suite: one thread per worker, a fixed seed, real data only where it is present."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).parents[1]
SHARED_DATA = REPOSITORY.parent / "shared" / "data"


@pytest.fixture(autouse=True, scope="session")
def _one_thread_per_worker() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture
def shared_data():
    """`shared_data("mnist")` is the folder of a real data set; the test is skipped where the set is absent."""

    def folder(name: str) -> Path:
        path = SHARED_DATA / name
        if not path.is_dir():
            pytest.skip(f"real data set {name!r} is not beside this checkout ({path})")
        return path

    return folder


@pytest.fixture
def undrawn(monkeypatch):
    """Figures are made, but saved as one pixel: to lay out and draw them takes most of a short run; other tests do."""
    from matplotlib.figure import Figure
    from PIL import Image

    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **_: Image.new("RGB", (1, 1)).save(path, "png"))


@pytest.fixture
def sketched(monkeypatch):
    """Figures are laid out and drawn, with all warnings, but once and coarsely: half of the time."""
    from matplotlib.figure import Figure

    draw = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **_: draw(figure, path, dpi=40))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `gpu` are skipped, with the reason, where there is no CUDA device."""
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))
