"""The polynomial card (section 5 and the defects of section 3), one test for each fact, over every family it names."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.polynomial.legendre import leggauss
from scipy import special

from kan_core import KAN, KANError, KANLinear, bases
from kan_core.bases import Bernstein, Chebyshev, Gegenbauer, Gram, Hermite, Jacobi, Laguerre, Legendre
from kan_core.bases.gram import gram_beta

F64 = torch.float64

# name: a spec that lacks its degree, and u as the card (hermite, laguerre: the class) defines it
FAMILIES = {
    "chebyshev": ("chebyshev(degree={})", torch.tanh),
    "legendre": ("legendre(degree={})", torch.tanh),
    "jacobi": ("jacobi(degree={})", torch.tanh),
    "jacobi-uneven": ("jacobi(degree={}, alpha=-0.3, beta=2)", torch.tanh),
    "gegenbauer": ("gegenbauer(degree={}, alpha=0.7)", torch.tanh),
    "hermite": ("hermite(degree={})", torch.tanh),
    "laguerre": ("laguerre(degree={})", lambda x: 1 + torch.tanh(x)),
    "bernstein": ("bernstein(degree={})", torch.sigmoid),
    "gram": ("gram(degree={})", torch.tanh),
    "gram-trainable": ("gram(degree={}, trainable=True)", torch.tanh),
}
every_family = pytest.mark.parametrize(("family", "squash"), FAMILIES.values(), ids=list(FAMILIES))


def values(basis: bases.Basis, u: torch.Tensor | np.ndarray) -> torch.Tensor:
    """All functions at the numbers `u`: ``(points, K)``."""
    return basis(torch.as_tensor(u, dtype=F64)[:, None])[:, 0].detach()


def shown(value: object) -> str | None:
    """Test ids name the basis."""
    return repr(value) if isinstance(value, bases.Basis) else None


def make(family: str, degree: int) -> bases.Basis:
    """The family of that degree, with nothing to learn where the degree leaves nothing."""
    return bases.get(family.format(degree) if degree > 1 else family.replace(", trainable=True", "").format(degree))


# --- 1: values and identities ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("basis", "at", "expected"),
    [
        (Chebyshev(8, False), 1, [1.0] * 9),
        (Legendre(8, False), 1, [1.0] * 9),
        (Jacobi(8, False), 1, [special.binom(n + 1, n) for n in range(9)]),
        (Jacobi(8, False, -0.5, 0.3), 1, [special.binom(n - 0.5, n) for n in range(9)]),
        (Jacobi(8, False, 2.5, -0.9), 1, [special.binom(n + 2.5, n) for n in range(9)]),
        (Jacobi(8, False, 2.5, -0.9), -1, [(-1) ** n * special.binom(n - 0.9, n) for n in range(9)]),
        (Gegenbauer(8, False, 0.7), 1, [special.binom(n + 0.4, n) for n in range(9)]),
        (Laguerre(8, False), 0, [1.0] * 9),
        (Hermite(4, False), 0, [1, 0, -1 / math.sqrt(2), 0, 3 / math.sqrt(24)]),
        (Gram(3, False, 5), 1, [1, 1, 1 - 24 / 75, 1 - 24 / 75 - 84 / 375]),
    ],
    ids=shown,
)
def test_card_values_at_1_or_at_the_end_of_the_domain(basis, at, expected):
    got = values(basis, np.array([float(at)]))[0]
    np.testing.assert_allclose(got, expected, atol=1e-13, rtol=1e-13)


U = np.linspace(-1, 1, 201)


def test_jacobi_0_0_is_legendre():
    torch.testing.assert_close(values(Jacobi(8, False, 0, 0), U), values(Legendre(8, False), U), atol=1e-14, rtol=0)


def test_jacobi_minus_half_minus_half_is_proportional_to_chebyshev():
    # alpha + beta = -1: the general recurrence would divide by zero at n = 1
    factor = torch.tensor([special.binom(n - 0.5, n) for n in range(9)], dtype=F64)
    got = values(Jacobi(8, False, -0.5, -0.5), U)
    torch.testing.assert_close(got, factor * values(Chebyshev(8, False), U), atol=1e-13, rtol=0)


def test_gegenbauer_half_is_legendre():
    got = values(Gegenbauer(8, False, 0.5), U)
    torch.testing.assert_close(got, values(Legendre(8, False), U), atol=1e-14, rtol=0)


def test_gegenbauer_1_is_chebyshev_of_the_second_kind():
    expected = np.stack([special.eval_chebyu(n, U) for n in range(9)], axis=1)
    np.testing.assert_allclose(values(Gegenbauer(8, False, 1.0), U), expected, atol=1e-12)


def test_gegenbauer_is_not_the_cards_gottlieb_recurrence():
    alpha, u = 0.7, 0.4
    gottlieb_2 = 2 * (alpha + 1) * u * (2 * alpha * u) - (alpha + 2)
    true_2 = 2 * alpha * (alpha + 1) * u * u - alpha
    got = values(Gegenbauer(2, False, alpha), np.array([u]))[0, 2].item()
    assert got == pytest.approx(true_2, abs=1e-15)
    assert abs(got - gottlieb_2) > 1


@pytest.mark.parametrize(
    ("basis", "reference", "u"),
    [
        (Legendre(8, False), special.eval_legendre, U),
        (Jacobi(8, False), lambda n, u: special.eval_jacobi(n, 1, 1, u), U),
        (Jacobi(8, False, -0.3, 2.0), lambda n, u: special.eval_jacobi(n, -0.3, 2.0, u), U),
        (Jacobi(8, False, -0.7, -0.3), lambda n, u: special.eval_jacobi(n, -0.7, -0.3, u), U),
        (Jacobi(8, False, -0.99, -0.99), lambda n, u: special.eval_jacobi(n, -0.99, -0.99, u), U),
        (Gegenbauer(8, False, 0.7), lambda n, u: special.eval_gegenbauer(n, 0.7, u), U),
        (Gegenbauer(8, False, 2.0), lambda n, u: special.eval_gegenbauer(n, 2.0, u), U),
        (Hermite(8, False), lambda n, u: special.eval_hermitenorm(n, u) / math.sqrt(math.factorial(n)), 3 * U),
        (Laguerre(8, False), special.eval_laguerre, 2 + 2 * U),
        (Chebyshev(8, False), special.eval_chebyt, U),
    ],
    ids=shown,
)
def test_card_definitions_equal_scipy(basis, reference, u):
    expected = np.stack([reference(n, u) for n in range(9)], axis=1)
    np.testing.assert_allclose(values(basis, u), expected, atol=1e-12, rtol=1e-12)


def test_bernstein_is_the_closed_form_of_the_card():
    u = np.linspace(0, 1, 101)
    for d in (1, 2, 3, 8):
        expected = np.stack([math.comb(d, k) * u**k * (1 - u) ** (d - k) for k in range(d + 1)], axis=1)
        np.testing.assert_allclose(values(Bernstein(d, False), u), expected, atol=1e-14)


@every_family
def test_squash_of_the_card_is_where_the_polynomials_are_evaluated(family, squash):
    basis = make(family, 4)
    plain = make(family.replace("{}", "{}, squash=False"), 4)
    x = torch.linspace(-4, 4, 41, dtype=F64)[:, None]
    assert torch.equal(basis(x), plain(squash(x)))
    assert torch.equal(plain.argument(x), x)


def test_domains_without_a_squash_and_the_whole_line_with_it():
    plain = {"legendre": (-1, 1), "bernstein": (0, 1), "laguerre": (0, 14), "hermite": None, "gram": (-1, 1)}
    for name, domain in plain.items():
        assert bases.get(f"{name}(degree=3, squash=False)").domain == domain
        assert bases.get(f"{name}(degree=3)").domain is None
    outside = Laguerre(3, False).outside(torch.tensor([-0.1, 0.0, 14.0, 14.1]))
    assert outside.tolist() == [True, False, False, True]


# --- 2: Gauss quadrature -----------------------------------------------------------------------------------------


def jacobi_norms(a: float, b: float) -> list[float]:
    return [
        2 ** (a + b + 1) / (2 * n + a + b + 1) * math.gamma(n + a + 1) * math.gamma(n + b + 1)
        / (math.gamma(n + a + b + 1) * math.factorial(n))
        for n in range(7)
    ]  # fmt: skip


def gegenbauer_norms(alpha: float) -> list[float]:
    return [
        math.pi * 2 ** (1 - 2 * alpha) * math.gamma(n + 2 * alpha)
        / (math.factorial(n) * (n + alpha) * math.gamma(alpha) ** 2)
        for n in range(7)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("basis", "rule", "norms"),
    [
        (Legendre(6, False), leggauss(16), [2 / (2 * n + 1) for n in range(7)]),
        (Chebyshev(6, False), special.roots_chebyt(16), [math.pi] + [math.pi / 2] * 6),
        (Jacobi(6, False), special.roots_jacobi(16, 1, 1), jacobi_norms(1, 1)),
        (Jacobi(6, False, -0.3, 2), special.roots_jacobi(16, -0.3, 2), jacobi_norms(-0.3, 2)),
        (Gegenbauer(6, False, 0.7), special.roots_gegenbauer(16, 0.7), gegenbauer_norms(0.7)),
        (Hermite(6, False), special.roots_hermitenorm(16), [math.sqrt(2 * math.pi)] * 7),
        (Laguerre(6, False), special.roots_laguerre(16), [1.0] * 7),
    ],
    ids=shown,
)
def test_card_gauss_quadrature_gram_matrix_is_diagonal_with_the_known_norms(basis, rule, norms):
    nodes, weights = rule
    features = values(basis, nodes).numpy()
    np.testing.assert_allclose(features.T @ (weights[:, None] * features), np.diag(norms), atol=1e-10)


# --- 3: Gram -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trainable", [False, True], ids=["fixed", "trainable"])
@pytest.mark.parametrize("m", [5, 12])
def test_gram_card_orthogonality_on_equispaced_nodes(m, trainable):
    nodes = -1 + (2 * np.arange(1, m + 1) - 1) / m
    features = values(Gram(m - 1, False, m, trainable), nodes)
    norms = m * np.cumprod([1.0, *(gram_beta(n, m) for n in range(1, m))])  # down to 1.7e-8: compare unit vectors
    unit = features / torch.as_tensor(norms).sqrt()
    torch.testing.assert_close(unit.T @ unit, torch.eye(m, dtype=F64), atol=1e-12, rtol=0)


def test_gram_card_limit_of_many_nodes_is_monic_legendre():
    leading = np.array([special.binom(2 * n, n) / 2**n for n in range(7)])
    expected = np.stack([special.eval_legendre(n, U) for n in range(7)], axis=1) / leading
    np.testing.assert_allclose(values(Gram(6, False, num_nodes=10**7), U), expected, atol=1e-12)
    assert [gram_beta(n, 10**8) for n in (1, 2, 3)] == pytest.approx([n * n / (4 * n * n - 1) for n in (1, 2, 3)])


@pytest.mark.parametrize(("n", "coded", "true"), [(1, 2.25, 0.25), (2, 33.3, 0.148), (3, 137.8, 0.1125)])
def test_gram_card_betas_are_not_those_of_the_reference(n, coded, true):
    m = n + 1
    assert (m + n) * (m - n) * n**2 / (m**2 / (4 * n**2 - 1)) == pytest.approx(coded, rel=2e-3)
    assert gram_beta(n, m) == pytest.approx(true, rel=2e-3)
    assert Gram(n + 1, num_nodes=16, trainable=True).betas[-1].item() == gram_beta(n, 16)  # one m for all n


@pytest.mark.parametrize("degree", [2, 3, 4, 6])
def test_gram_has_only_the_recurrence_weights_that_are_used_and_each_gets_a_gradient(degree):
    basis = Gram(degree, trainable=True).bind(5)
    assert [(name, p.shape) for name, p in basis.named_parameters()] == [("betas", (degree - 1,))]
    basis(torch.randn(20, 5)).square().sum().backward()
    assert (basis.betas.grad.abs() > 0).all()
    assert list(Gram(degree).parameters()) == []


def test_gram_trained_betas_change_the_polynomials():
    basis = Gram(3, False, trainable=True)
    with torch.no_grad():
        basis.betas.zero_()
    u = torch.linspace(-1, 1, 11, dtype=F64)
    torch.testing.assert_close(values(basis, u), u[:, None] ** torch.arange(4), atol=1e-15, rtol=0)  # monomials


# --- 4: Bernstein ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("degree", [1, 3, 8])
def test_bernstein_card_partition_of_unity_non_negative_endpoints_and_not_constant(degree):
    basis = Bernstein(degree)
    features = values(basis, np.linspace(-40, 40, 401))
    torch.testing.assert_close(features.sum(-1), torch.ones(401, dtype=F64), atol=1e-14, rtol=0)
    assert (features >= 0).all()
    assert (features.std(0) > 0.03).all()  # the reference's stay exactly 1
    ends = values(Bernstein(degree, False), np.array([0.0, 1.0]))
    assert torch.equal(ends, torch.eye(degree + 1, dtype=F64)[[0, -1]])


# --- 5: saturation -----------------------------------------------------------------------------------------------


@every_family
@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=["f32", "f64"])
def test_card_gradient_is_finite_at_plus_and_minus_50_and_at_extremes(family, squash, dtype):
    basis = make(family, 5).bind(1, dtype=dtype)
    x = torch.tensor([[-1e4], [-50], [-9.5], [-1e-40], [0], [1e-40], [9.5], [50], [1e4]], dtype=dtype).requires_grad_()
    y = basis(x)
    y.square().sum().backward()
    assert y.isfinite().all()
    assert x.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in basis.parameters())


@every_family
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["f16", "bf16"])
def test_values_are_made_in_the_inputs_type_not_torchs_default(family, squash, dtype):
    """JacobiKAN's reference allocates in the default type, which breaks half precision."""
    basis = make(family, 3).bind(4, dtype=dtype)
    x = torch.linspace(-3, 3, 28).view(7, 4)
    assert basis(x.to(dtype)).dtype == dtype
    assert basis(x.double()).dtype == F64
    torch.testing.assert_close(basis(x.to(dtype)).float(), make(family, 3).bind(4)(x), atol=0.06, rtol=0.06)


# --- 6 and 9: what lies in the span ------------------------------------------------------------------------------


@every_family
def test_card_degree_1_layer_is_an_affine_map_of_u_exactly(family, squash):
    layer = KANLinear(3, 2, make(family, 1), base=None, bias=False, dtype=F64)
    slope, constant = torch.randn(3, 2, dtype=F64), torch.randn(3, 2, dtype=F64)
    x = torch.randn(50, 3, dtype=F64)
    # the two functions at u = 0 and u = 1 determine their coefficients
    plain = make(family.replace("{}", "{}, squash=False"), 1)
    at_0_and_1 = values(plain, np.array([0.0, 1.0]))
    with torch.no_grad():
        wanted = torch.stack([constant, constant + slope])  # (2, in, out)
        layer.weight.copy_(torch.linalg.solve(at_0_and_1, wanted.flatten(1)).view(2, 3, 2))
    torch.testing.assert_close(layer(x), squash(x) @ slope + constant.sum(0), atol=1e-14, rtol=1e-14)


@every_family
@pytest.mark.parametrize("degree", [3, 5])
def test_card_lstsq_of_a_cubic_in_u_is_exact(family, squash, degree):
    x = torch.linspace(-3, 3, 200, dtype=F64)
    u = squash(x)
    y = 0.3 - 2 * u + 1.5 * u**2 - 0.7 * u**3
    features = values(make(family, degree), x)
    fitted = torch.linalg.lstsq(features, y[:, None], driver="gelsd").solution
    torch.testing.assert_close((features @ fitted)[:, 0], y, atol=1e-12, rtol=0)


# --- 7 and 8: gradients and rows ---------------------------------------------------------------------------------


@every_family
@pytest.mark.parametrize("reach", [1.5, 50.0], ids=["inside", "saturated"])
def test_card_gradcheck_of_the_input_and_of_the_recurrence_weights(family, squash, reach):
    basis = make(family, 5)
    names = [name for name, _ in basis.named_parameters()]
    assert names == (["betas"] if "trainable" in family else [])
    x = (torch.rand(4, 2, dtype=F64, generator=torch.Generator().manual_seed(0)) * 2 - 1) * reach

    def function(x, *parameters):
        return torch.func.functional_call(basis, dict(zip(names, parameters, strict=True)), (x,))

    inputs = (x.requires_grad_(), *(p.detach().requires_grad_() for p in basis.parameters()))
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


@every_family
def test_card_rows_are_independent_and_a_constant_batch_is_finite(family, squash):
    """KAL-Net scales by the extremes of the whole batch: rows are coupled and a constant batch is 0/0."""
    basis = make(family, 4)
    x = torch.randn(6, 3, dtype=F64)
    changed = x.clone()
    changed[1:] *= 100
    assert torch.equal(basis(changed)[0], basis(x)[0])
    assert torch.equal(basis(x[:1]), basis(x)[:1])
    assert basis(torch.full((6, 3), 2.0, dtype=F64)).isfinite().all()


def test_legendre_evaluates_a_changed_tensor_anew_and_has_fresh_gradients():
    """KAL-Net memoises the basis on the tensor: values and graphs of an earlier step come back."""
    basis, x = Legendre(3), torch.full((2, 2), 0.3, requires_grad=True)
    first = basis(x)
    first.sum().backward()
    with torch.no_grad():
        x += 1
    again = basis(x)
    again.sum().backward()  # a graph of its own
    assert not torch.equal(first, again)


# --- 10: counts --------------------------------------------------------------------------------------------------


def chebykan_net(widths: list[int], basis: str) -> int:
    """Parameters of the cards' nets: LayerNorm between layers, nothing else."""
    net = KAN(widths, basis, norm="layer", input_norm=False, base=None, bias=False, device="meta")
    return sum(p.numel() for p in net.parameters())


@every_family
def test_card_parameter_counts_128_896_and_105_856(family, squash):
    trained = "trainable" in family  # three layers, each with the degree - 1 betas that are used
    assert chebykan_net([784, 32, 16, 10], family.format(4)) == 128_896 + 3 * 3 * trained
    assert chebykan_net([784, 32, 32, 10], family.format(3)) == 105_856 + 3 * 2 * trained


def test_jacobikan_and_gramkan_parameter_counts_derived_from_the_card():
    assert chebykan_net([784, 32, 16, 10], "jacobi(degree=3)") == 4 * (784 * 32 + 32 * 16 + 16 * 10) + 2 * (32 + 16)
    one = sum(p.numel() for p in KANLinear(784, 64, "gram(degree=3, trainable=True)", norm="layer").parameters())
    # coefficients and SiLU base, LayerNorm, bias, and 2 of the reference's 4 recurrence weights
    assert one == 784 * 64 * (3 + 1 + 1) + 2 * 784 + 64 + 2


@pytest.mark.parametrize(
    ("spec_text", "expected"),
    [
        ("chebyshev(degree=4)", 6 + 3 * 3),
        ("legendre(degree=4)", 6 + 3 * 4),
        ("legendre(degree=4, squash=False)", 3 * 4),
        ("jacobi(degree=3)", 6 + 1 + 2 * 4),
        ("jacobi(degree=3, alpha=0.5)", 6 + 2 + 2 * 6),
        ("gram(degree=3)", 6 + 2 * 3),
        ("gram(degree=3, trainable=True)", 6 + 2 * 3),
        ("laguerre(degree=2)", 7 + 2 + 6),
        ("bernstein(degree=1)", 4 + 1),
        ("bernstein(degree=3)", 4 + 1 + 4 + 4),
    ],
)
def test_flops_count_the_squash_and_every_step(spec_text, expected):
    assert bases.get(spec_text).flops_per_input == expected


# --- arguments ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec_text", "message"),
    [
        *((f"{name}(degree=0)", "degree must be a whole number of at least 1, got 0") for name in
          ("legendre", "jacobi", "gegenbauer", "hermite", "laguerre", "bernstein", "gram")),
        ("legendre(degree=2.5)", "degree must be a whole number of at least 1, got 2.5"),
        ("jacobi(alpha=-2)", "alpha must be a finite number above -1, got -2"),
        ("jacobi(beta=-1)", "beta must be a finite number above -1, got -1"),
        ("jacobi(beta='1')", "beta must be a finite number above -1, got '1'"),
        ("jacobi(alpha=1e999)", "alpha must be a finite number above -1, got inf"),
        ("gegenbauer(alpha=0)", "alpha must be a finite number above zero, got 0"),
        ("gram(degree=3, num_nodes=3)", "num_nodes must be a whole number of at least 4, got 3"),
        ("gram(degree=1, trainable=True)", "trainable=True needs a degree of at least 2"),
        ("gram(nodes=3)", "unexpected keyword argument 'nodes'"),
    ],
)  # fmt: skip
def test_bad_arguments_are_refused_in_one_clear_line(spec_text, message):
    with pytest.raises(KANError, match=message) as caught:
        bases.get(spec_text)
    assert "\n" not in str(caught.value)


@every_family
def test_repr_is_a_spec_of_the_same_family(family, squash):
    basis = make(family, 3)
    text = repr(basis)
    again = bases.get(text[0].lower() + text[1:])
    x = torch.randn(5, 1, dtype=F64)
    assert torch.equal(again(x), basis(x))
    assert repr(again) == text


@pytest.mark.parametrize("family", [Chebyshev, Legendre, Jacobi, Gegenbauer, Hermite, Laguerre, Bernstein, Gram])
def test_docstring_has_the_paragraphs_of_the_readme_table(family):
    starts = [paragraph.strip().split(":")[0] for paragraph in family.__doc__.split("\n\n")]
    assert [start for start in starts if start in ("Equation", "Reference", "Avoids")] == [
        "Equation",
        "Reference",
        "Avoids",
    ]
