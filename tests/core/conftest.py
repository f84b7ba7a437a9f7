"""Every basis and layer, in the forms that the parametrised tests run over; a new family is added here alone."""

from __future__ import annotations

import pytest

BASES = {
    "bspline": "bspline(grid_size=4, order=3)",
    "bspline-quadratic": "bspline(grid_size=3, order=2, grid_range=(-2, 1))",
    "bspline-clamp": "bspline(edge='clamp')",
    "bspline-linear": "bspline(edge='linear')",
    "bspline-matrix": "bspline(evaluator='matrix')",
    "bspline-matrix-linear": "bspline(order=4, edge='linear', evaluator='matrix')",
    "bspline-recursion": "bspline(evaluator='recursion')",
    "rbf": "rbf(num_centers=5)",
    "rbf-trainable": "rbf(num_centers=4, trainable=True)",
    "rswaf": "rswaf(num_centers=5)",
    "rswaf-trainable": "rswaf(num_centers=4, trainable=True)",
    "chebyshev": "chebyshev(degree=3)",
    "legendre": "legendre(degree=3)",
    "jacobi": "jacobi(degree=3)",
    "jacobi-uneven": "jacobi(degree=3, alpha=0.5, beta=-0.5)",
    "gegenbauer": "gegenbauer(degree=3, alpha=0.7)",
    "hermite": "hermite(degree=3)",
    "laguerre": "laguerre(degree=3)",
    "bernstein": "bernstein(degree=3)",
    "gram": "gram(degree=3)",
    "gram-trainable": "gram(degree=4, trainable=True)",
    "fourier": "fourier(num_frequencies=3)",
    "fourier-smooth": "fourier(num_frequencies=3, smooth=True)",
    "bsrbf": "bsrbf(grid_size=4)",
    "sine": "sine(num_frequencies=4)",
    "sine-integer": "sine(num_frequencies=3, integer_frequencies=True)",
    "relu-kan": "relu-kan(grid_size=4, order=2, grid_range=(-1, 1))",
    "relu-kan-frozen": "relu-kan(trainable=False)",
    "wavelet": "wavelet(num_centers=5)",
    "wavelet-morlet": "wavelet(mother='morlet', num_centers=4)",
    "wavelet-dog": "wavelet(mother='dog', num_centers=4, trainable=True)",
    "wavelet-meyer": "wavelet(mother='meyer', num_centers=4)",
    "wavelet-shannon": "wavelet(mother='shannon', num_centers=4, trainable=True)",
    "sech": "sech(num_centers=5)",
    "sech-width": "sech(num_centers=4, width=0.7)",
    "sech-frozen": "sech(trainable=False)",
    "af": "af",
    "af-cubic": "af(act='tanh', combine='cubic1')",
}

# Layers that are not one basis times coefficients, in the forms that test_layers_family.py runs over.
LAYERS = {
    "af-kan": "af-kan",
    "cauchy": "cauchy",
    "cauchy-shared": "cauchy(per_feature=False)",
    "gr-kan": "gr-kan",
    "gr-kan-abs-of-sum": "gr-kan(form='abs_of_sum', init='gelu')",
    "grkan": "grkan",
    "grkan-linear": "grkan(layer='linear')",
    "hqkan": "hqkan",
    "kaf": "kaf",
    "kamoe": "kamoe",
    "mixture": "mixture",
    "mixture-top2": "mixture(top_k=2)",
    "mlp-kan": "mlp-kan",
    "multkan": "multkan",
    "multkan-affine": "multkan(products=2, arity=(2, 3), affine=True)",
    "pade": "pade",
    "pr-kan": "pr-kan",
    "qkan": "qkan",
    "qkan-fast": "qkan(readout='fast')",
    "qkan-frequencies": "qkan(trainable_frequencies=True)",
    "qkan-rpz": "qkan(ansatz='rpz')",
    "rkan": "rkan",
    "s-kan": "s-kan",
    "sech-kan": "sech-kan",
    "skan": "skan",
    "skan-arctan": "skan(function='arctan')",
    "wav-kan": "wav-kan",
    "wav-kan-meyer": "wav-kan(mother='meyer')",
}


@pytest.fixture
def all_layer_specs() -> list[str]:
    """Every form of every layer outside the linear-in-coefficients form."""
    return list(LAYERS.values())


@pytest.fixture
def all_specs() -> list[str]:
    """Every form of every family."""
    return list(BASES.values())


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes `spec` runs once for every basis, with `layer_spec` for every other layer."""
    if "spec" in metafunc.fixturenames:
        metafunc.parametrize("spec", list(BASES.values()), ids=list(BASES))
    if "layer_spec" in metafunc.fixturenames:
        metafunc.parametrize("layer_spec", list(LAYERS.values()), ids=list(LAYERS))
    if "feed_forward_spec" in metafunc.fixturenames:
        both = {**BASES, **LAYERS}
        metafunc.parametrize("feed_forward_spec", list(both.values()), ids=list(both))
