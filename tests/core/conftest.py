"""Every basis, in the forms that the parametrised tests run over. A new family is added here and nowhere else."""

from __future__ import annotations

import pytest

BASES = {
    "bspline": "bspline(grid_size=4, order=3)",
    "bspline-quadratic": "bspline(grid_size=3, order=2, grid_range=(-2, 1))",
    "bspline-clamp": "bspline(edge='clamp')",
    "bspline-linear": "bspline(edge='linear')",
    "rbf": "rbf(num_centers=5)",
    "rbf-trainable": "rbf(num_centers=4, trainable=True)",
    "rswaf": "rswaf(num_centers=5)",
    "rswaf-trainable": "rswaf(num_centers=4, trainable=True)",
    "chebyshev": "chebyshev(degree=3)",
    "fourier": "fourier(num_frequencies=3)",
    "fourier-smooth": "fourier(num_frequencies=3, smooth=True)",
}


@pytest.fixture
def all_specs() -> list[str]:
    """Every form of every family."""
    return list(BASES.values())


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes `spec` runs once for every basis."""
    if "spec" in metafunc.fixturenames:
        metafunc.parametrize("spec", list(BASES.values()), ids=list(BASES))
