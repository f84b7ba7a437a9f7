"""The expectation of a qubit that x has turned r times, by the rotations of its Bloch vector."""

from __future__ import annotations

import torch
from torch import Tensor


def daruan(x: Tensor, theta: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """φ(x) = ⟨Z⟩ in [−1, 1] after r data re-uploads: a turn of the Bloch vector (1, 0, 0) by every gate.

    The circuit is Rz(θ_0) Ry(θ_0') Rz(w_0 x + b_0) … Rz(w_{r−1} x + b_{r−1}) Rz(θ_r) Ry(θ_r') from left to right in
    time. An upload w x + b and the Rz after it turn about one axis: here by b + θ, then by w x. Only w x depends on the
    sample, and the sines of all other angles are taken once per edge; adding them to a large w x first would cost the
    sum its digits in float32.

    Args:
        x: Inputs, broadcast against the edges ``theta.shape[:-2]``.
        theta: ``(*edges, r + 1, 2)``, the angles of Rz and Ry ("pz"), or ``(*edges, r + 1, 1)``, Ry only ("rpz").
        weight: w, ``(*edges, r)`` or, the same for all edges, ``(r,)``; r at least 1.
        bias: b, likewise.

    Returns:
        φ at all edges, in the shape that `x` and the edges broadcast to.
    """
    # gates first: their slices are contiguous over the edges
    gates = theta.movedim((-2, -1), (0, 1)).contiguous()
    tilt_cos, tilt_sin = gates[:, -1].cos(), gates[:, -1].sin()
    weight, shift = weight.movedim(-1, 0).contiguous(), bias.movedim(-1, 0)
    first = torch.zeros_like(gates[0, 0])
    if gates.shape[1] == 2:
        first, shift = gates[0, 0], shift + gates[1:, 0]
    shift_cos, shift_sin = shift.cos(), shift.sin()
    vx, vy, vz = first.cos(), first.sin(), torch.zeros_like(first)
    for n in range(weight.shape[0]):
        vz, vx = rotate(vz, vx, tilt_cos[n], tilt_sin[n])
        vx, vy = rotate(vx, vy, shift_cos[n], shift_sin[n])
        angle = weight[n] * x
        vx, vy = rotate(vx, vy, angle.cos(), angle.sin())
    return torch.addcmul(vz * tilt_cos[-1], vx, tilt_sin[-1], value=-1)


def rotate(a: Tensor, b: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """The point (a, b) turned by an angle: (a cos − b sin, a sin + b cos)."""
    return torch.addcmul(a * cos, b, sin, value=-1), torch.addcmul(a * sin, b, cos)


def daruan_linear_reference(
    x: Tensor, theta: Tensor, weight: Tensor, bias: Tensor, factor: Tensor, *, readout: str
) -> Tensor:
    """The definition of the fused op: y_o = Σ_i factor_oi read(φ_oi(x_i)), by way of all (rows, out, in) values.

    Args:
        x: ``(rows, in)``.
        theta: ``(out, in, r + 1, 2 or 1)``.
        weight: w, ``(out, in, r)``.
        bias: b, likewise.
        factor: ``(out, in)``.
        readout: ``"exact"`` for ⟨Z⟩ or ``"fast"`` for :func:`fast_readout`.

    Returns:
        ``(rows, out)``.
    """
    z = daruan(x.unsqueeze(1), theta, weight, bias)
    return (factor * (fast_readout(z) if readout == "fast" else z)).sum(dim=-1)


def fast_readout(z: Tensor) -> Tensor:
    """|α| − |β| of the state α|0⟩ + β|1⟩ whose ⟨Z⟩ is `z`: √((1 + z)/2) − √((1 − z)/2).

    At z = ±1, where one of the roots has infinite slope, that root gives no gradient.
    """
    return _root((1 + z) / 2) - _root((1 - z) / 2)


def _root(p: Tensor) -> Tensor:
    """√p, 0 with zero slope where rounding leaves p ≤ 0; NaN stays NaN."""
    vanishes = p <= 0
    return torch.where(vanishes, 0.0, torch.where(vanishes, 1.0, p).sqrt())
