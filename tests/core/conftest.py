from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location("families", Path(__file__).with_name("families.py"))
assert _spec
assert _spec.loader
families = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(families)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes `spec` runs once for every basis."""
    if "spec" in metafunc.fixturenames:
        metafunc.parametrize("spec", list(families.BASES.values()), ids=list(families.BASES))
