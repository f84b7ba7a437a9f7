"""A package of somebody else adds a family of functions; nothing of ours knows about it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from kan_vision.cli import main

from .conftest import install_into, run

PYPROJECT = """
[project]
name = "ricker-basis"
version = "1.0"
dependencies = ["kan-core"]

[project.entry-points."kan_core.bases"]
ricker = "ricker_basis:Ricker"

[build-system]
requires = ["hatchling>=1.27"]
build-backend = "hatchling.build"
"""

MODULE = '''
"""Ricker wavelets at fixed centres."""

import torch
from kan_core.bases import Basis


class Ricker(Basis):
    domain = (-2.0, 2.0)

    def __init__(self, num_centers: int = 5) -> None:
        super().__init__()
        self.num_functions = num_centers
        self.register_buffer("centers", torch.linspace(-2, 2, num_centers))

    def planes(self, x):
        square = (x.unsqueeze(-2) - self.centers[:, None]).square()
        return (1 - square) * torch.exp(-square / 2)
'''

# by name, then on the command line: torch is imported once for both
USE = """
import runpy
import sys
import torch
from kan_core import KANConv2d, KANError, KANLinear, bases
from kan_core.compare import count_flops

assert "ricker" in bases.names()
assert "ricker_basis" not in sys.modules, "an entry point is loaded when its name is used, not before"

layer = KANLinear(3, 2, basis="ricker(num_centers=7)", base=None, bias=False)
assert layer.weight.shape == (7, 3, 2)
x = torch.randn(10, 3)
y = torch.stack([sum(layer.edge_function(o, i)(x[:, i]) for i in range(3)) for o in range(2)], dim=1)
torch.testing.assert_close(layer(x), y)
assert count_flops(layer, x) == 10 * (2 * 3 * 2 * 7 + 3 * layer.basis.flops_per_input)
assert KANConv2d(1, 4, 3, basis="ricker")(torch.randn(2, 1, 8, 8)).shape == (2, 4, 6, 6)

try:
    KANLinear(3, 2, basis="ricker(centers=7)")
except KANError as error:
    assert "ricker" in str(error) and "centers" in str(error)
else:
    raise AssertionError("an argument that the basis does not take must be refused")
print("known by name", flush=True)

app = sys.argv.pop(1)
sys.argv[0] = app
runpy.run_path(app, run_name="__main__")
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A folder with the installed third-party package."""
    project = tmp_path_factory.mktemp("ricker")
    (project / "pyproject.toml").write_text(PYPROJECT)
    (project / "ricker_basis.py").write_text(MODULE)
    site: Path = tmp_path_factory.mktemp("site")
    install_into(site, project)
    return site


@pytest.mark.slow
def test_the_basis_is_known_by_name_and_on_the_command_line(site, tmp_path, repository):
    app = repository / "apps" / "train_vision.py"
    options = ["--model.model_kwargs.layer", "ricker(num_centers=4)", "--trainer.max_epochs", "1", "--twin", "none"]
    result = run([sys.executable, "-c", USE, app, *options], tmp_path, PYTHONPATH=str(site))
    assert "known by name" in result.stdout, result.stderr
    assert result.returncode == 0, result.stderr
    [path] = (tmp_path / "outputs" / "vision").glob("*/summary.json")
    summary = json.loads(path.read_text())
    # 64 inputs, 64 hidden units, 10 classes; four functions and a base branch per edge, one bias per output
    assert summary["parameters"] == (64 * 64 + 64 * 10) * 5 + 64 + 10
    assert "ricker" in summary["model"]


def test_without_the_package_the_name_is_refused_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["--model.model_kwargs.layer", "ricker"]) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1
    assert "'ricker'" in error
    assert "bspline" in error
