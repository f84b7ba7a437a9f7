"""Building and installing without touching the project's own environment."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

UV = os.environ.get("UV") or shutil.which("uv")
"""The uv that runs the tests (`uv run` sets UV), else the one on the path."""

NO_UV = "uv is needed to build and install packages: pip install uv"


def run(command: list[str | Path], cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `command` in `cwd` without the variables that would point it back at the project's environment."""
    inherited = {
        k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "PYTHONPATH", "UV_PROJECT_ENVIRONMENT")
    }
    return subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**inherited, "OMP_NUM_THREADS": "1", "COLUMNS": "160", **environment},
        capture_output=True,
        text=True,
        timeout=500,
    )


def run_uv(*arguments: str | Path, cwd: Path) -> None:
    """Run uv from its cache alone, and with the network only when the cache lacks something."""
    if UV is None:
        pytest.skip(NO_UV)
    result = run([UV, *arguments, "--offline"], cwd)
    if result.returncode:
        result = run([UV, *arguments], cwd)
    assert result.returncode == 0, result.stderr


def install_into(target: Path, package: Path) -> None:
    """Build the package in folder `package` and put it, without its dependencies, into folder `target`."""
    to_target = ["--python", sys.executable, "--target", target, "--no-deps", "--no-sources"]
    run_uv("pip", "install", *to_target, package, cwd=package)


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """A folder with the wheels and source distributions of all packages."""
    dist: Path = tmp_path_factory.mktemp("dist")
    run_uv("build", "--all-packages", "--out-dir", dist, cwd=repository)
    return dist


@pytest.fixture(scope="session")
def wheel(wheels: Path) -> Callable[[str], Path]:
    """`wheel("kan_core")` is that package's wheel."""

    def find(name: str) -> Path:
        found = sorted(wheels.glob(f"{name}-*.whl"))
        assert len(found) == 1, sorted(path.name for path in wheels.iterdir())
        return found[0]

    return find


def fenced_files(page: str) -> dict[str, str]:
    """The files that a page shows: fenced blocks with a path in backticks on the line above."""
    return dict(re.findall(r"^`([\w./-]+)`\n\n```\w+\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL))


def shell_commands(page: str) -> list[str]:
    """The lines of a page's bash blocks."""
    blocks = re.findall(r"^```bash\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line and not line.startswith("#")]
