"""The tables in kan-core's README say what the classes say."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from kan_core import bases, layers

SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "family_table.py"))


def test_the_tables_in_the_readme_are_up_to_date():
    assert SCRIPT["main"](["--check"]) == 0, "run: uv run scripts/family_table.py"


def test_the_tables_have_a_row_for_every_name():
    text = SCRIPT["README"].read_text()
    for name in [*bases.names(), *layers.names()]:
        if name != "linear":
            assert f"| `{name}` |" in text


def test_a_docstring_without_the_three_paragraphs_is_refused():
    with pytest.raises(ValueError, match="begins with 'Equation:'"):
        SCRIPT["facts"](lambda: None)
