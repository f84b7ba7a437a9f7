"""The plain KAN: it learns a function, and its helpers work through the whole stack."""

from __future__ import annotations

import pytest
import torch

from kan_core import KAN
from kan_core.registry import parse_spec


def target(x: torch.Tensor) -> torch.Tensor:
    return torch.exp(torch.sin(torch.pi * x[:, :1]) + x[:, 1:] ** 2)


@pytest.mark.slow
def test_refinement_lowers_the_error_of_the_papers_first_example():
    """exp(sin(pi x) + y^2) with [2, 5, 1]: each extension starts where the coarser grid ended, and gets below it."""
    generator = torch.Generator().manual_seed(0)
    x, held_out = (torch.rand(1000, 2, dtype=torch.float64, generator=generator) * 2 - 1 for _ in range(2))
    net = KAN([2, 5, 1], "bspline(grid_size=3)", dtype=torch.float64)
    net.update_grid(x)
    errors = []
    for grid_size in (3, 6, 12):
        if grid_size > 3:
            net.update_grid(x)  # training moved the hidden layer's inputs; functions are kept inside the grid
            before = net(x)
            net.refine(grid_size)
            torch.testing.assert_close(net(x), before, atol=1e-6, rtol=1e-6)
        optimizer = torch.optim.LBFGS(net.parameters(), max_iter=120, line_search_fn="strong_wolfe", history_size=10)

        def closure(optimizer=optimizer):
            optimizer.zero_grad()
            loss = (net(x) - target(x)).square().mean()
            loss.backward()
            return loss

        optimizer.step(closure)
        errors.append((net(held_out) - target(held_out)).square().mean().sqrt().item())
    assert errors[1] < errors[0]
    assert errors[2] < errors[1]
    assert errors[2] < 5e-3


def test_regularization_sums_the_layers_and_reaches_every_parameter(spec):
    net = KAN([3, 4, 2], spec, bias=False, dtype=torch.float64)
    x = torch.randn(30, 3, dtype=torch.float64)
    l1, entropy = net.regularization(x)
    first, second = net.layers[0].regularization(x), net.layers[1].regularization(net.layers[0](x))
    torch.testing.assert_close(l1, first[0] + second[0])
    torch.testing.assert_close(entropy, first[1] + second[1])
    (l1 + entropy).backward()
    assert all(p.grad is not None for p in net.parameters())


def test_specs_are_read_without_evaluating_anything():
    assert parse_spec("rbf") == ("rbf", {})
    assert parse_spec(" gr-kan ") == ("gr-kan", {})
    assert parse_spec("bspline(grid_size=8, grid_range=(-2.5, 2))") == (
        "bspline",
        {"grid_size": 8, "grid_range": (-2.5, 2)},
    )
