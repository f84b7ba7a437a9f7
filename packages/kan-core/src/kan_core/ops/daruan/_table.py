"""What the kernels take of every edge, and from their sums the gradients of its angles: sines once per edge."""

from __future__ import annotations

import torch
from torch import Tensor


def edge_table(gates: Tensor, frequency: Tensor, factor: Tensor) -> Tensor:
    """The planes of a kernel's table: 3, then r each of four kinds, then 1.

    They are the Bloch vector before the first upload; w, shifts (reduced to [−π, π]), cosines and sines of the tilts;
    the factor.

    Args:
        gates: ``(r + 1, 2, in, out)``, the angles about z and about y; but for the first, those about z follow an
            upload.
        frequency: w, ``(r, in, out)``.
        factor: ``(in, out)``.

    Returns:
        ``(4r + 4, in, out)``, contiguous.
    """
    cos, sin = gates.cos(), gates.sin()
    start = torch.stack([cos[0, 0] * cos[0, 1], sin[0, 0], -cos[0, 0] * sin[0, 1]])
    shift = torch.atan2(sin[1:, 0], cos[1:, 0])
    return torch.cat([start, frequency, shift, cos[1:, 1], sin[1:, 1], factor.unsqueeze(0)])


def split_sums(sums: Tensor, gates: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of gates, frequency and factor.

    Args:
        sums: ``(3r + 4, in, out)``, the gradients of the start vector, of r shifts, tilts and frequencies, and of the
            factor.
        gates: As for :func:`edge_table`.
    """
    reps = len(gates) - 1
    start, turns, tilts, frequency, factor = torch.split(sums, [3, reps, reps, reps, 1])
    (turn_cos, tilt_cos), (turn_sin, tilt_sin) = gates[0].cos(), gates[0].sin()
    # back through the first tilt of (cos, sin, 0): the derivative by an angle is a component of state x adjoint
    ax, ay, az = start
    first_tilt = -ax * turn_cos * tilt_sin - az * turn_cos * tilt_cos
    first_turn = ay * turn_cos - (ax * tilt_cos - az * tilt_sin) * turn_sin
    first = torch.stack([first_turn, first_tilt]).unsqueeze(0)
    # copies: results of a custom op may not share memory
    dfrequency, dfactor = (t.clone(memory_format=torch.contiguous_format) for t in (frequency, factor[0]))
    return torch.cat([first, torch.stack([turns, tilts], dim=1)]), dfrequency, dfactor
