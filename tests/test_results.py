"""The page of results says what the result files say."""

from __future__ import annotations

import runpy
from pathlib import Path

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def test_the_page_of_results_is_up_to_date(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    script = runpy.run_path(str(BENCHMARKS / "render.py"))
    assert script["OUT"].read_text() == script["render"](), "run: uv run benchmarks/render.py"
