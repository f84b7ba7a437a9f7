"""The page that teaches a new domain package: its files, written down and run as it says."""

from __future__ import annotations

import json
import shlex
import sys

import pytest

from .conftest import fenced_files, install_into, run, shell_commands

# all commands in one process, which imports torch and lightning once; each is a script with its own arguments
RUN_ALL = """
import json, runpy, sys

for sys.argv in json.loads(sys.argv[1]):
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as ended:
        assert not ended.code, (sys.argv, ended.code)
    print("finished", *sys.argv, flush=True)
"""


@pytest.fixture(scope="module")
def page(repository):
    return (repository / "docs" / "new-domain-package.md").read_text()


def test_it_is_about_80_lines_of_code(page):
    code = [text for path, text in fenced_files(page).items() if path.endswith(".py")]
    lines = [line for text in code for line in text.splitlines() if line.strip()]
    assert len(lines) <= 100


@pytest.mark.slow
def test_the_steps_work(page, tmp_path):
    files = fenced_files(page)
    assert len(files) == 8
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    site = tmp_path / "site"
    install_into(site, tmp_path / "packages" / "kan-wine")

    commands = [shlex.split(command) for command in shell_commands(page)]
    assert [command[:3] for command in commands] == [["uv", "run", "apps/train_wine.py"]] * 3
    arguments = json.dumps([command[2:] for command in commands])
    result = run([sys.executable, "-c", RUN_ALL, arguments], tmp_path, PYTHONPATH=str(site))
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("finished apps/train_wine.py") == 3

    outputs = tmp_path / "outputs" / "wine"
    summary = json.loads((outputs / "wine-winenet" / "summary.json").read_text())
    assert summary["dataset"] == "wine"
    assert summary["metrics"]["test/accuracy"] >= 0.9
    assert summary["twin"]["parameters"] == pytest.approx(summary["parameters"], rel=0.05)
    assert (outputs / "wine-winenet" / "report.html").stat().st_size > 10_000
    splines = json.loads((outputs / "splines" / "summary.json").read_text())
    assert splines["twin"]["flops_per_sample"] == pytest.approx(splines["flops_per_sample"], rel=0.10)
