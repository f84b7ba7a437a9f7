"""What a basis says of itself, so that kernels can compute its planes without calling it."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class PlaneForm(NamedTuple):
    r"""A family of functions that the kernels know, and its numbers; what those mean depends on the family.

    ================== ================== ====== ============== ========================================================
    family             order              offset a, b           table of plane c
    ================== ================== ====== ============== ========================================================
    bspline-decay      degree                    left end, cell none; `kan_core.ops.bspline_linear` on uniform grids
    bspline-clamp      degree                    left end, cell none
    knots-decay        degree k                                 knots t_c … t_{c+k+1} of its B-spline, uneven
    knots-clamp        degree k                  grid's ends    the same; beyond the grid the value of its end
    rbf                                                         g, s in exp(−v²), v = (x − g) s
    rswaf                                                       g, s in 1 − tanh²(v)
    relu-kan                                                    g, s in relu(1 − v²)²
    polynomial                                                  a_c, b_c, c_c in p_{c+1} = (a_c u + b_c) p_c − c_c
                                                                p_{c−1}, p_0 = 1, p_{−1} = 0, u = x
    polynomial-tanh                       shift                 the same, u = tanh(x) + offset
    fourier            power p of k^−p                          none; cos(kx)/k^p, then sin(kx)/k^p, k = 1 … K/2
    ================== ================== ====== ============== ========================================================

    Attributes:
        family: Name in the table above.
        order: A small whole number that is compiled into the kernels.
        offset: One number for all inputs.
        a: One number per input, shape (in,), or None where the family has none. Receives no gradient.
        b: Another one, likewise.
        table: Numbers per plane and input, shape (K, rows, in), or (K, rows, 1) where all inputs share them. Those of
            "rbf", "rswaf" and "relu-kan" receive gradients.
    """

    family: str
    order: int = 0
    offset: float = 0.0
    a: Tensor | None = None
    b: Tensor | None = None
    table: Tensor | None = None
