"""The cases of `kernels.py`: every op in the shapes of the specifications, and what it is compared with."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from _kernels import Baseline, Case
from group_rational import Copy, Gelu
from kan_core import KANLinear
from kan_core.layers import QKANLinear, Rational
from layers import CoxDeBoorLinear, Gemm

# (batch, in, out, grid size, order): MLP widths, published layers, narrow and wide ones, a transformer's block
SPLINES = [
    (2048, 256, 256, 5, 3),
    (1024, 784, 64, 5, 3),
    (1024, 64, 64, 5, 3),
    (100, 1000, 1000, 5, 3),
    (65536, 64, 64, 5, 3),
    (4096, 1024, 1024, 5, 3),
    (2048, 256, 256, 100, 3),
    (50432, 768, 768, 5, 3),
    (8192, 2048, 2048, 20, 3),
]
CROSSOVER = [5, 10, 20, 50, 100, 200]  # grid sizes at (2048, 256 -> 256), in inference
CHEBYSHEV = [(128, 40, 256, 8), (64, 256, 512, 15), (32, 512, 1024, 24)]  # (batch, in, out, degree) of PolyKAN
DENSE = ["rbf", "rswaf", "chebyshev", "legendre", "hermite", "bernstein", "fourier", "relu-kan"]
RATIONALS = [
    (64 * 197, 768),
    (64 * 197, 384),
    (64 * 197, 192),
    (1024 * 197, 768),
    (1024 * 197, 3072),
]  # in 8 groups: widths of a group 96, 48, 24, 96, 384

CIRCUITS = [(2048, 256, 256, 3), (256, 64, 64, 3), (1024, 10, 10, 1)]  # (batch, in, out, uploads); the last is HQKAN's


def within(*shape: int, device: str) -> Tensor:
    """Numbers between -1 and 1, the range of every grid."""
    return 2 * torch.rand(*shape, device=device) - 1


def kan(d_in: int, d_out: int, basis: str, base: str | None = "silu") -> KANLinear:
    """A layer whose result depends on its basis: by default the base branch is a thousand times larger at the start."""
    return KANLinear(d_in, d_out, basis=basis, base=base, init_scale=1.0)


def linears(d_in: int, d_out: int, planes: int) -> dict[str, Baseline]:
    """What every dense layer is compared with."""
    return {
        "gemm": Baseline(Gemm(planes * d_in, d_out), columns=planes * d_in),
        "linear": Baseline(nn.Linear(d_in, d_out)),
        "linear, same parameters": Baseline(nn.Linear(d_in, planes * d_out)),
    }


def dense(
    op: str, shape: dict[str, int], planes: int, layer: Callable[[], nn.Module], more: Any = None, **options: Any
) -> Case:
    """A layer that is one matrix product of `planes` functions of every input."""
    batch, d_in, d_out, *_ = shape.values()

    def baselines(layer: nn.Module) -> dict[str, Baseline]:
        return linears(d_in, d_out, planes) | (more(layer) if more else {})

    elements, flops = batch * planes * d_in, 2 * batch * planes * d_in * d_out
    return Case(op, shape, layer, baselines, elements, flops, draw=within, **options)


def spline(batch: int, d_in: int, d_out: int, grid_size: int, order: int, **options: Any) -> Case:
    shape = {"batch": batch, "in": d_in, "out": d_out, "G": grid_size, "k": order}

    def textbook(layer: nn.Module) -> dict[str, Baseline]:
        assert isinstance(layer, KANLinear)
        return {"Cox-de Boor": Baseline(CoxDeBoorLinear(layer, grid_size, order), same=True)}

    layer = partial(kan, d_in, d_out, f"bspline(grid_size={grid_size}, order={order})")
    crossover = not options.get("gradients", True)
    return dense("bspline_linear", shape, grid_size + order + 1, layer, None if crossover else textbook, **options)


def chebyshev(batch: int, d_in: int, d_out: int, degree: int) -> Case:
    """Without a base branch, as PolyKAN's layer."""
    shape = {"batch": batch, "in": d_in, "out": d_out, "degree": degree}
    layer = partial(kan, d_in, d_out, f"chebyshev(degree={degree})", base=None)
    return dense("chebyshev_linear", shape, degree + 1, layer, quick=degree == 8)


def other_basis(name: str) -> Case:
    layer = partial(kan, 256, 256, name)
    return dense(f"{name} KANLinear", {"batch": 2048, "in": 256, "out": 256}, len(layer().weight), layer)


def rational(batch: int, features: int, quick: bool = False) -> Case:
    """KAT's activation: one numerator of degree 5, denominators of degree 4 in 8 groups, started as swish."""

    def baselines(layer: nn.Module) -> dict[str, Baseline]:
        assert isinstance(layer, Rational)
        found = {"gelu": Baseline(Gelu()), "copy": Baseline(Copy())}
        if find_spec("triton"):
            from _flashkat_style import FlashKATStyle

            style = FlashKATStyle(layer.numerator, layer.denominator)
            found["FlashKAT style"] = Baseline(style, same=True, needs="cuda")
        return found

    shape = {"rows": batch, "features": features}
    return Case("group_rational", shape, partial(Rational, features), baselines, batch * features, 0, quick=quick)


def circuits(batch: int, d_in: int, d_out: int, reps: int, trainable: bool) -> Case:
    """DARUAN: without trainable frequencies one product of cos nx, sin nx and SiLU(x), else every edge on its own."""
    shape = {"batch": batch, "in": d_in, "out": d_out, "r": reps}
    layer = partial(QKANLinear, d_in, d_out, reps=reps, trainable_frequencies=trainable)
    op = f"daruan, {'trainable' if trainable else 'frozen'}"
    planes = 2 * reps + 1
    if not trainable:
        return dense(op, shape, planes, layer, quick=d_in == 10)
    return Case(op, shape, layer, lambda layer: linears(d_in, d_out, planes), batch * d_in, None, draw=within)


def cases() -> list[Case]:
    """All of them."""
    splines = [spline(*shape, quick=shape[0] == 1024) for shape in SPLINES]
    crossover = [
        spline(2048, 256, 256, grid_size, 3, gradients=False, compiled=False, quick=grid_size in (5, 50))
        for grid_size in CROSSOVER
    ]
    return list(
        chain(
            splines,
            crossover,
            (chebyshev(*shape) for shape in CHEBYSHEV),
            map(other_basis, DENSE),
            (rational(*shape, quick=shape[1] == 192) for shape in RATIONALS),
            (circuits(*shape, trainable) for shape in CIRCUITS for trainable in (False, True)),
        )
    )
