"""The page of results and the table in kan-core's README say what the result files say."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture
def table():
    return runpy.run_path(str(ROOT / "scripts" / "kernel_table.py"))


def test_the_page_of_results_is_up_to_date(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    script = runpy.run_path(str(BENCHMARKS / "render.py"))
    assert script["OUT"].read_text() == script["render"](), "run: uv run benchmarks/render.py"


def test_the_table_of_kernels_in_the_readme_is_up_to_date(table):
    assert table["main"](["--check"]) == 0, "run: uv run scripts/kernel_table.py"


def test_a_changed_time_makes_the_readme_stale(table, tmp_path, monkeypatch):
    result = json.loads((BENCHMARKS / "results" / "kernels-cpu.json").read_text())
    for record in result["records"]:
        if "forward_ms" in record:
            record["forward_ms"] *= 2
    (tmp_path / "kernels-cpu.json").write_text(json.dumps(result))
    monkeypatch.setitem(table["main"].__globals__, "RESULTS", tmp_path)
    assert table["main"](["--check"]) == 1


def test_what_was_not_measured_is_called_so(table, tmp_path, monkeypatch):
    monkeypatch.setitem(table["main"].__globals__, "RESULTS", tmp_path)
    text = table["table"]()
    assert text.startswith("\nCPU: not measured. GPU: not measured.")
    assert text.count("| not measured") == 8 * len(table["ROWS"])


def test_every_row_of_the_table_is_a_case_of_the_benchmark(table, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from _kernels_ops import cases

    assert set(table["ROWS"]) <= {(case.op, case.title) for case in cases()}
