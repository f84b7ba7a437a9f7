"""Levenberg-Marquardt: Gauss-Newton steps, damped; for a small model it solves what LBFGS only approaches."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap
from torch.nn.utils import parameters_to_vector

from kan_core.ops import use_backend

FIRST_DAMPING = 1e-2  # in units of the loss
LARGEST_DAMPING = 1e12  # in the same: steps that short change nothing
_ROWS = 1024  # samples differentiated at once: fewer, and starting each operation would be the cost


@torch.no_grad()
def levenberg_marquardt(model: nn.Module, x: Tensor, y: Tensor, steps: int, every: int) -> Iterator[int]:
    r"""Minimise the mean square error, and yield the number of steps after every `every` of them.

    A step solves (JᵀJ/n + μI) d = −Jᵀr/n with the residuals r = model(x) − y and their Jacobian J, and is taken if it
    lowers the loss. μ falls by up to 3 after a step that did what the linear model foretold, and grows after one that
    failed (Nielsen's rule). With more parameters than residuals the equal system in JJᵀ is solved. The algebra is in
    float64. Ends early when no step lowers the loss.

    The Jacobian has samples x outputs x parameters numbers, so this is for small models. `model` must treat every
    sample by itself (no batch normalisation), and `torch.func` must be able to differentiate it.
    """
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    vector = parameters_to_vector(parameters.values())

    def residuals() -> Tensor:
        prediction: Tensor = model(x)
        return (prediction - y).flatten().double()

    r = residuals()
    loss = r.square().mean()
    unit = loss.item()
    damping, growth = FIRST_DAMPING, 2.0
    system: _NormalEquations | None = None
    for step in range(1, steps + 1):
        if system is None:
            system = _NormalEquations(_jacobian(model, parameters, x), r)
        move = system.solve(damping * unit)
        _assign(parameters, vector + move)
        r_moved = residuals()
        loss_moved = r_moved.square().mean()
        if loss_moved < loss:
            foretold = move.dot(damping * unit * move - system.gradient)
            damping *= max(1 / 3, 1 - (2 * ((loss - loss_moved) / foretold).item() - 1) ** 3)
            growth = 2.0
            vector = parameters_to_vector(parameters.values())
            r, loss, system = r_moved, loss_moved, None
        else:  # of NaN, too
            _assign(parameters, vector)
            damping, growth = damping * growth, growth * 2
            if not damping < LARGEST_DAMPING:
                return
        if step % every == 0 or step == steps:
            yield step


class _NormalEquations:
    """(JᵀJ/n + μI) d = −Jᵀr/n, for several μ."""

    def __init__(self, jacobian: Tensor, r: Tensor) -> None:
        rows, columns = jacobian.shape
        self._jacobian, self._r = jacobian, r / rows
        self.gradient = jacobian.T @ self._r
        self._dual = columns > rows
        self._matrix = (jacobian @ jacobian.T if self._dual else jacobian.T @ jacobian) / rows

    def solve(self, damping: float) -> Tensor:
        """The step d; NaN when the matrix is not positive definite to working precision."""
        matrix = self._matrix.clone()
        matrix.diagonal().add_(damping)
        factor, failed = torch.linalg.cholesky_ex(matrix)
        right = self._r if self._dual else self.gradient
        step = -torch.cholesky_solve(right[:, None], factor)[:, 0]
        if self._dual:
            step = self._jacobian.T @ step
        return torch.where(failed > 0, torch.nan, step)


def _assign(parameters: dict[str, nn.Parameter], vector: Tensor) -> None:
    parts = torch.split(vector, [p.numel() for p in parameters.values()])
    for p, part in zip(parameters.values(), parts, strict=True):
        p.copy_(part.view_as(p))


def _jacobian(model: nn.Module, parameters: dict[str, nn.Parameter], x: Tensor) -> Tensor:
    """Derivatives of all outputs by all parameters, shape ``(samples x outputs, parameters)``."""

    def one(values: dict[str, Tensor], sample: Tensor) -> Tensor:
        output: Tensor = functional_call(model, values, (sample[None],))
        return output[0]

    values = {name: p.detach() for name, p in parameters.items()}
    with use_backend("reference"):  # the registered ops have no rule for vmap
        parts = vmap(jacrev(one), in_dims=(None, 0), chunk_size=_ROWS)(values, x)
    outputs = parts[next(iter(parts))].numel() // next(iter(values.values())).numel()
    return torch.cat([part.reshape(outputs, -1) for part in parts.values()], dim=1).double()
