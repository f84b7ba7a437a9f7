"""The functions of every form in ordinary torch ops: what the kernels compute, and what is differentiated twice."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from kan_core.ops.basis_linear.form import PlaneForm
from kan_core.ops.bspline_linear.recursion import recursion_planes
from kan_core.ops.bspline_linear.reference import bspline_planes


def form_planes(x: Tensor, form: PlaneForm, num_functions: int) -> Tensor:
    """All functions at all inputs: (..., in) -> (..., K, in); see :class:`PlaneForm` for what its numbers mean."""
    family, edge = form.family.split("-")[0], form.family.rsplit("-")[-1]
    if family == "bspline":
        assert form.a is not None
        assert form.b is not None
        return bspline_planes(x, form.a, form.b, num_functions, form.order, edge)
    if family == "fourier":
        k = torch.arange(1, num_functions // 2 + 1, dtype=x.dtype, device=x.device).unsqueeze(-1)
        angle, scale = x.unsqueeze(-2) * k, k**-form.order
        return torch.cat([angle.cos() * scale, angle.sin() * scale], dim=-2)
    assert form.table is not None
    table = form.table.to(x.dtype)
    if family == "knots":
        knots = torch.cat([table[:, 0], table[-1, 1:]])  # the first of every function, and the others of the last
        return recursion_planes(x, knots.T, form.order, edge)
    if family == "polynomial":
        u = torch.tanh(x) + form.offset if edge == "tanh" else x
        values = [torch.ones_like(u), table[0, 0] * u + table[0, 1]]
        for a, b, c in table[1:-1]:
            values.append((a * u + b) * values[-1] - c * values[-2])
        return torch.stack(values[:num_functions], dim=-2)
    v = (x.unsqueeze(-2) - table[:, 0]) * table[:, 1]
    if family == "rbf":
        return torch.exp(-v.square())
    if family == "rswaf":
        return 1 - torch.tanh(v).square()
    return (1 - v.square()).relu().square()  # relu-kan


def form_linear(x: Tensor, weight: Tensor, form: PlaneForm, silu: bool) -> Tensor:
    """What the custom op computes: x (batch, in) and weight (K (+ 1), in, out) to (batch, out)."""
    planes = form_planes(x, form, weight.shape[0] - int(silu))
    if silu:
        planes = torch.cat([planes, F.silu(x).unsqueeze(-2)], dim=-2)
    return planes.flatten(-2) @ weight.flatten(0, 1)
