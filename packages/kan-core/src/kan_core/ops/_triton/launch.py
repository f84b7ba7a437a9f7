"""From tensors to launches: which tiles, how many splits, and the sum of the partial results."""
# mypy: disable-error-code="import-untyped", allow-untyped-calls

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from kan_core.ops._triton import interpreter
from kan_core.ops._triton.kernels import forward_kernel, input_gradient_kernel, weight_gradient_kernel

INTERPRETED: bool = triton.knobs.runtime.interpret
interpreter.repair()

# Enough programs for two on every multiprocessor of an H100. A constant, not a property of the device: the splits,
# and with them the rounding, are the same everywhere.
PROGRAMS = 264
MAX_SPLITS = 3 if INTERPRETED else 64


class Planes(NamedTuple):
    """A basis as the kernels see it: jitted functions of a tile of x in float32.

    With z = locate(x, a, b, K, ORDER), a and b two numbers per input, plane c of K is value(z, c, ratio, K, ORDER); its
    slope in z is slope(z, c, ratio, K, ORDER), and chain(x, a, b, K, ORDER) is dz/dx. Some plane of a NaN is NaN.
    """

    locate: Any
    value: Any
    slope: Any
    chain: Any


class Tiles(NamedTuple):
    """Rows, inputs and outputs of a program's tiles."""

    BM: int
    BI: int
    BO: int


# The largest tiles of each kernel, for half precision (tensor cores) and for float32.
LARGEST = {
    ("forward", 2): Tiles(128, 64, 128),
    ("input_gradient", 2): Tiles(128, 64, 64),
    ("weight_gradient", 2): Tiles(64, 128, 128),
    ("forward", 4): Tiles(64, 32, 64),
    ("input_gradient", 4): Tiles(64, 32, 32),
    ("weight_gradient", 4): Tiles(32, 64, 64),
}
INTERPRETER_TILES = Tiles(16, 16, 16)
STAGES = 3  # of the software pipelines over the planes, outputs or rows


def choose_tiles(kernel: str, batch: int, features: int, outputs: int, dtype: torch.dtype) -> Tiles:
    """Powers of two, no larger than what is to be covered (so the batch counts by its power of two), at least 16."""
    largest = INTERPRETER_TILES if INTERPRETED else LARGEST[kernel, dtype.itemsize]
    sizes = zip((batch, features, outputs), largest, strict=True)
    return Tiles(*(min(max(triton.next_power_of_2(size), 16), most) for size, most in sizes))


def num_warps(tiles: Tiles) -> int:
    """Two groups of four warps for the large tiles of the tensor cores."""
    return 8 if max(tiles) >= 128 else 4


def choose_splits(programs: int, steps: int) -> int:
    """How many programs share one sum of `steps` terms, when it has `programs` results."""
    return max(min(PROGRAMS // programs, steps, MAX_SPLITS), 1)


class _Call:
    """What the three kernels of one op call have in common."""

    def __init__(
        self, x: Tensor, weight: Tensor, a: Tensor, b: Tensor,
        planes: Planes, order: int, ratio: float, silu: bool, dtype: torch.dtype,
    ) -> None:  # fmt: skip
        self.x, self.a, self.b = x.contiguous(), a.contiguous(), b.contiguous()
        self.batch, self.features = x.shape
        self.planes, self.ratio, self.dtype = planes, ratio, dtype
        self.num_planes, _, self.outputs = weight.shape
        self.options = {
            "IN": self.features,
            "OUT": self.outputs,
            "K": self.num_planes - silu,
            "ORDER": order,
            "SILU": silu,
            "LOCATE": planes.locate,
            "PRECISION": precision(),
        }

    def run(self, kernel: Any, name: str, inputs: tuple[Tensor, ...], shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """Launch over all tiles of the result; `name` tells which two of the three sizes those are."""
        if 0 in (self.batch, self.features, self.outputs):
            return torch.zeros(shape, dtype=dtype, device=self.x.device)
        tiles = choose_tiles(name, self.batch, self.features, self.outputs, self.dtype)
        rows, ins, outs = (
            triton.cdiv(size, tile) for size, tile in zip((self.batch, self.features, self.outputs), tiles, strict=True)
        )
        functions: dict[str, Any] = {"VALUE": self.planes.value}
        if name == "forward":
            programs, steps = rows * outs, ins
        elif name == "input_gradient":
            programs, steps = rows * ins, self.options["K"]
            functions = {"SLOPE": self.planes.slope, "CHAIN": self.planes.chain}
        else:
            programs, steps = self.num_planes * ins * outs, rows
        splits = choose_splits(programs, steps)
        partial = torch.empty((splits, *shape), dtype=torch.float32 if splits > 1 else dtype, device=self.x.device)
        with torch.cuda.device_of(self.x):
            kernel[(programs, splits)](
                *inputs, self.a, self.b, partial, self.batch, self.ratio, **self.options, **functions,
                **tiles._asdict(), num_warps=num_warps(tiles), num_stages=STAGES,
            )  # fmt: skip
        return partial[0] if splits == 1 else partial.sum(0).to(dtype)


def precision() -> str:
    """How float32 tiles are multiplied: exactly, or in tf32 where torch is told to do so for its own products."""
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee"


def forward(
    x: Tensor, weight: Tensor, a: Tensor, b: Tensor,
    planes: Planes, order: int, ratio: float, silu: bool, dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    """Return y (batch, out) of x (batch, in) and weight (P, in, out), multiplied and returned in `dtype`."""
    call = _Call(x, weight, a, b, planes, order, ratio, silu, dtype)
    inputs = (call.x, weight.to(dtype).contiguous())
    return call.run(forward_kernel, "forward", inputs, torch.Size((call.batch, call.outputs)), dtype)


def backward(
    grad: Tensor, x: Tensor, weight: Tensor, a: Tensor, b: Tensor,
    planes: Planes, order: int, ratio: float, silu: bool, dtype: torch.dtype,
    need_dx: bool, need_dw: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The gradients of x and of weight, in their dtypes; one that is not needed is an empty tensor."""
    call = _Call(x, weight, a, b, planes, order, ratio, silu, dtype)
    dx, dw = x.new_empty(0), weight.new_empty(0)
    grad = grad.to(dtype).contiguous()  # it may be expanded or transposed
    if need_dx:
        inputs = (grad, call.x, weight.to(dtype).contiguous())
        dx = call.run(input_gradient_kernel, "input_gradient", inputs, x.shape, x.dtype)
    if need_dw:
        dw = call.run(weight_gradient_kernel, "weight_gradient", (grad, call.x), weight.shape, weight.dtype)
    return dx, dw
