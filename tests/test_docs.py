"""Documentation that runs: Python blocks print what they say, shell blocks name files and options that exist."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import pytest
from pytest_examples import CodeExample, EvalExample, find_examples

from kan_audio.cli import main as train_audio
from kan_core.bases._base import REGISTRY
from kan_tabular.cli import main as train_tabular
from kan_timeseries.cli import main as train_timeseries
from kan_vision.cli import main as train_vision

REPOSITORY = Path(__file__).parents[1]
PAGES = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md"), *REPOSITORY.glob("packages/*/README.md")])
APPS = {
    "apps/train_audio.py": train_audio,
    "apps/train_tabular.py": train_tabular,
    "apps/train_timeseries.py": train_timeseries,
    "apps/train_vision.py": train_vision,
}
# Checkpoints that a reader has by then, and the configuration of their run.
RUNS = {
    "outputs/vision/cells-ukan_small/checkpoints/best.ckpt": "configs/vision/mask_folder.yaml",
    "outputs/audio/my-run/checkpoints/best.ckpt": "configs/audio/spoof_fsdd.yaml",
    "outputs/tabular/breast_cancer-kan/checkpoints/best.ckpt": "configs/tabular/breast_cancer.yaml",
}
# What commands write, and what their user has elsewhere or makes while following the page.
ELSEWHERE = ("outputs/", "dist/", "~/", "apps/train_wine.py")


def shown_as_file(example: CodeExample) -> bool:
    """Whether a block is a file of docs/new-domain-package.md; tests/packaging writes and runs those."""
    before = example.path.read_text().splitlines()[: example.start_line - 1]
    return bool(re.fullmatch(r"`[\w./-]+`", next((line for line in reversed(before) if line), "")))


def python_blocks() -> list[CodeExample]:
    # pytest 9 warns about an iterator as parameters
    return [example for example in find_examples(*PAGES) if not shown_as_file(example)]


def shell_lines() -> list[tuple[str, str]]:
    """Page and command, for every line of every bash block."""
    found = []
    for page in PAGES:
        for block in re.findall(r"^```bash\n(.*?)^```$", page.read_text(), flags=re.MULTILINE | re.DOTALL):
            found += [(page.relative_to(REPOSITORY).as_posix(), line) for line in block.splitlines() if line.strip()]
    return found


@pytest.mark.parametrize("example", python_blocks(), ids=lambda e: f"{e.path.relative_to(REPOSITORY)}:{e.start_line}")
def test_python_blocks_run(example: CodeExample, eval_example: EvalExample, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(REGISTRY, "_factories", dict(REGISTRY._factories))  # a page may register a basis
    eval_example.set_config(line_length=120)
    if eval_example.update_examples:
        eval_example.run_print_update(example)
    else:
        eval_example.run_print_check(example)


def test_every_page_for_users_has_a_python_block():
    pages = {example.path for example in python_blocks()}
    assert {REPOSITORY / "README.md", *REPOSITORY.glob("packages/*/README.md")} <= pages


@pytest.mark.parametrize(("page", "line"), shell_lines())
def test_shell_lines_name_what_exists(page, line, capsys):
    words = shlex.split(line, comments=True)
    for word in words:
        looks_like_a_path = "/" in word or word.endswith((".py", ".yaml", ".md"))
        if looks_like_a_path and not word.startswith(ELSEWHERE):
            assert (REPOSITORY / word).exists(), f"{page} names {word}"
    for app, main in APPS.items():
        if app in words:
            arguments = [
                str(Path(REPOSITORY, w)) if w.startswith("configs/") else w for w in words[words.index(app) + 1 :]
            ]
            if "--ckpt_path" in arguments:  # the reader has this run, whose configuration would be taken
                at = arguments.index("--ckpt_path")
                config = RUNS[arguments[at + 1]]
                arguments[at : at + 2] = ["--config", str(REPOSITORY / config)]
            if "--help" not in arguments:
                own_options = arguments[:1] in (["evaluate"], ["spoof"])
                arguments.append("--help" if own_options else "--print_config")
            assert main(arguments) == 0, capsys.readouterr().err


def test_wheel_names_are_those_that_are_built():
    versions = {}
    for file in REPOSITORY.glob("packages/*/pyproject.toml"):
        project = tomllib.loads(file.read_text())["project"]
        versions[project["name"].replace("-", "_")] = project["version"]
    named = {match for page in PAGES for match in re.findall(r"dist/(\w+)-([\d.]+)-py3-none-any", page.read_text())}
    assert named == set(versions.items())


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.relative_to(REPOSITORY)} links to {target}"


def test_nobody_is_told_to_install_a_name_that_is_not_ours():
    # until the packages are published, anybody may own their names on the public registry
    for page in PAGES:
        for line in re.findall(r"pip install[^\n`]*", page.read_text()):
            names = [word.strip("\"'") for word in line.split()[2:]]
            assert not any(re.match(r"kan-(core|vision|audio)\b", name) for name in names), f"{page}: {line}"
