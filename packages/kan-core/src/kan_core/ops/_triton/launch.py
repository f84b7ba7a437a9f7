"""From tensors to launches: which tiles, how many splits, which chunks, and the sum of the partial results."""
# mypy: disable-error-code="import-untyped", allow-untyped-calls

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from kan_core.ops._triton import interpreter
from kan_core.ops._triton.kernels import expand_kernel, forward_kernel, input_gradient_kernel, weight_gradient_kernel

INTERPRETED: bool = triton.knobs.runtime.interpret
interpreter.repair()

# Enough programs for two on every multiprocessor of an H100. A constant, not a property of the device: the splits,
# and with them the rounding, are the same everywhere.
PROGRAMS = 264
MAX_SPLITS = 3 if INTERPRETED else 64

# The planes that the expand-once path keeps at a time: thousands of rows for the matrix product to share the weight.
CHUNK_BYTES = 1 << 28


class Planes(NamedTuple):
    """A basis as the kernels see it: jitted functions of a tile of x in float32.

    With z = locate(x, a, b, offset, K, ORDER), a and b two numbers per input or 0 and 1, plane c of K is
    value(z, c, state, rows, K, ORDER); its slope in z is slope(z, c, state, rows, K, ORDER), and
    chain(x, a, b, offset, K, ORDER) is dz/dx. `rows` is what the table holds for plane c, a tuple. Some plane of a NaN
    is NaN.

    A recurrence from plane to plane carries a tuple of tiles: begin(z, SLOPES) is that of plane 0, and
    follow(z, state, rows, SLOPES) takes it from plane c to c + 1 by the rows of c; SLOPES tells whether `slope` will be
    asked for. Other planes have neither; their state is an empty tuple.

    table_slopes(z, c, rows, K, ORDER), where the table has a gradient, are the slopes of plane c in its rows, a tuple.

    `heavy` names the kernels in which a plane takes so many registers that a program takes half as many inputs.
    """

    locate: Any
    value: Any
    slope: Any
    chain: Any
    begin: Any = None
    follow: Any = None
    table_slopes: Any = None
    heavy: tuple[str, ...] = ()


class Problem(NamedTuple):
    """The basis of one op call, and how it is to be multiplied.

    `a` and `b` are (in,) or None, `table` (K, rows, in), (K, rows, 1) when the inputs share it, or None; all float32.
    """

    planes: Planes
    order: int
    offset: float
    a: Tensor | None
    b: Tensor | None
    table: Tensor | None
    silu: bool
    dtype: torch.dtype


class Tiles(NamedTuple):
    """Rows, inputs and outputs of a program's tiles."""

    BM: int
    BI: int
    BO: int


# The largest tiles of each kernel, for half precision (tensor cores) and for float32; two kernels see no outputs.
LARGEST = {
    ("forward", 2): Tiles(128, 64, 128),
    ("input_gradient", 2): Tiles(128, 64, 64),
    ("weight_gradient", 2): Tiles(64, 128, 128),
    ("forward", 4): Tiles(64, 32, 64),
    ("input_gradient", 4): Tiles(64, 32, 32),
    ("weight_gradient", 4): Tiles(32, 64, 64),
    ("expand", 2): Tiles(32, 128, 16),
    ("contract", 2): Tiles(32, 128, 16),
    ("expand", 4): Tiles(32, 64, 16),
    ("contract", 4): Tiles(32, 64, 16),
}
INTERPRETER_TILES = Tiles(16, 16, 16)
STAGES = 3  # of the software pipelines over the planes, outputs or rows


def choose_tiles(
    kernel: str, batch: int, features: int, outputs: int, dtype: torch.dtype, heavy: bool = False
) -> Tiles:
    """Powers of two, no larger than what is to be covered (so the batch counts by its power of two), at least 16."""
    largest = INTERPRETER_TILES if INTERPRETED else LARGEST[kernel, dtype.itemsize]
    if heavy and not INTERPRETED:
        largest = largest._replace(BI=largest.BI // 2)
    sizes = zip((batch, features, outputs), largest, strict=True)
    return Tiles(*(min(max(triton.next_power_of_2(size), 16), most) for size, most in sizes))


def num_warps(kernel: str, tiles: Tiles) -> int:
    """Two groups of four warps for the large tiles of the tensor cores."""
    return 8 if kernel not in ("expand", "contract") and max(tiles) >= 128 else 4


def choose_splits(programs: int, steps: int) -> int:
    """How many programs share one sum of `steps` terms, when it has `programs` results."""
    return max(min(PROGRAMS // programs, steps, MAX_SPLITS), 1)


def precision() -> str:
    """How float32 tiles are multiplied: exactly, or in tf32 where torch is told to do so for its own products."""
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee"


class _Call:
    """What the kernels of one op call have in common."""

    def __init__(self, x: Tensor, weight: Tensor, problem: Problem) -> None:
        self.x, self.given_weight, self.dtype = x.contiguous(), weight, problem.dtype
        self.batch, self.features = x.shape
        self.num_planes, _, self.outputs = weight.shape
        self.empty = 0 in (self.batch, self.features, self.outputs)
        self.planes, self.offset = problem.planes, problem.offset
        self.basis = tuple(t if t is None else t.contiguous() for t in (problem.a, problem.b, problem.table))
        table = problem.table
        self.num_rows = 0 if table is None else table.shape[1]
        self.num_functions = self.num_planes - problem.silu
        self.options = {
            "IN": self.features,
            "K": self.num_functions,
            "ORDER": problem.order,
            "SILU": problem.silu,
            "ROWS": self.num_rows,
            "SHARED": table is not None and table.shape[2] == 1,
            "LOCATE": problem.planes.locate,
            "BEGIN": problem.planes.begin,
            "FOLLOW": problem.planes.follow,
        }

    @cached_property
    def weight(self) -> Tensor:
        """In the dtype of the products; a weight gradient alone does without it."""
        return self.given_weight.to(self.dtype).contiguous()

    def tiles(self, kernel: str, rows: int, heavy: bool = False) -> tuple[Tiles, tuple[int, int, int]]:
        """Their sizes, and how many cover the rows, inputs and outputs."""
        heavy = heavy or kernel in self.planes.heavy
        tiles = choose_tiles(kernel, rows, self.features, self.outputs, self.dtype, heavy)
        sizes = zip((rows, self.features, self.outputs), tiles, strict=True)
        rows, ins, outs = (triton.cdiv(size, tile) for size, tile in sizes)
        return tiles, (rows, ins, outs)

    def launch(self, name: str, kernel: Any, grid: tuple[int, int], tiles: Tiles, *args: Any, **options: Any) -> None:
        """Run a kernel of the given name on all tiles."""
        sizes = {size: value for size, value in tiles._asdict().items() if size in kernel.arg_names}
        with torch.cuda.device_of(self.x):
            kernel[grid](
                *args, self.offset, **self.options, **options, **sizes,
                num_warps=num_warps(name, tiles), num_stages=STAGES,
            )  # fmt: skip

    def partial(self, splits: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Room for the partial results of each split, which are added up in float32."""
        return torch.empty((splits, *shape), dtype=torch.float32 if splits > 1 else dtype, device=self.x.device)

    # The fused path ---------------------------------------------------------------------------------------------

    def forward(self) -> Tensor:
        tiles, (rows, ins, outs) = self.tiles("forward", self.batch)
        splits = choose_splits(rows * outs, ins)
        y = self.partial(splits, (self.batch, self.outputs), self.dtype)
        self.launch(
            "forward", forward_kernel, (rows * outs, splits), tiles, self.x, self.weight, *self.basis, y, self.batch,
            VALUE=self.planes.value, OUT=self.outputs, PRECISION=precision(),
        )  # fmt: skip
        return _total(y, self.dtype)

    def input_gradient(
        self, grad: Tensor, x: Tensor, need_dtable: bool, *, expanded: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Gradients of x and of the table, from that of y or, `expanded`, of all planes."""
        name = "contract" if expanded else "input_gradient"
        tiles, (rows, ins, _) = self.tiles(name, len(x), heavy=need_dtable)
        splits = choose_splits(rows * ins, self.num_functions)
        dx, dtable = self.partial(splits, x.shape, x.dtype), None
        if need_dtable:
            shape = (rows, self.num_functions, self.num_rows, self.features)
            dtable = torch.empty(shape, dtype=torch.float32, device=x.device)
        weight = grad if expanded else self.weight
        self.launch(
            name, input_gradient_kernel, (rows * ins, splits), tiles,
            grad, x, weight, *self.basis, dx, dtable, len(x),
            OUT=self.outputs, EXPANDED=expanded, SLOPE=self.planes.slope, CHAIN=self.planes.chain,
            TABLE_SLOPES=self.planes.table_slopes, PRECISION=precision(),
        )  # fmt: skip
        if dtable is not None:
            dtable = dtable.sum(0)
            if self.options["SHARED"]:
                dtable = dtable.sum(2, keepdim=True)
        return _total(dx, x.dtype), dtable

    def weight_gradient(self, grad: Tensor) -> Tensor:
        tiles, (rows, ins, outs) = self.tiles("weight_gradient", self.batch)
        programs = self.num_planes * ins * outs
        splits = choose_splits(programs, rows)
        dtype = self.given_weight.dtype
        dw = self.partial(splits, self.given_weight.shape, dtype)
        self.launch(
            "weight_gradient", weight_gradient_kernel, (programs, splits), tiles,
            grad, self.x, *self.basis, dw, self.batch,
            VALUE=self.planes.value, OUT=self.outputs, PRECISION=precision(),
        )  # fmt: skip
        return _total(dw, dtype)

    # The expand-once path ---------------------------------------------------------------------------------------

    def chunks(self) -> Iterator[tuple[slice, Tensor]]:
        """Blocks of rows, and the one buffer (rows, planes * in) that all of them use."""
        width = self.num_planes * self.features
        most = max(CHUNK_BYTES // (width * self.dtype.itemsize), 1)
        most = min(most // 128 * 128 or most, self.batch)
        buffer = torch.empty(most, width, dtype=self.dtype, device=self.x.device)
        for first in range(0, self.batch, most):
            rows = slice(first, min(first + most, self.batch))
            yield rows, buffer[: rows.stop - rows.start]

    def expand(self, x: Tensor, planes: Tensor) -> None:
        """Write all planes of some rows of x."""
        tiles, (rows, ins, _) = self.tiles("expand", len(x))
        splits = choose_splits(rows * ins, self.num_functions)
        self.launch(
            "expand", expand_kernel, (rows * ins, splits), tiles, x, *self.basis, planes, len(x),
            VALUE=self.planes.value,
        )  # fmt: skip

    def expanded_forward(self) -> Tensor:
        y = torch.empty(self.batch, self.outputs, dtype=self.dtype, device=self.x.device)
        for rows, planes in self.chunks():
            self.expand(self.x[rows], planes)
            torch.mm(planes, self.weight.flatten(0, 1), out=y[rows])
        return y

    def expanded_backward(
        self, grad: Tensor, need_dx: bool, need_dw: bool, need_dtable: bool
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The gradients of x, weight and table; chunks are added up in order, in float32."""
        parts_of_dx: list[Tensor] = []
        dw, dtable = None, None
        for rows, buffer in self.chunks():
            x, g = self.x[rows], grad[rows]
            if need_dw:
                self.expand(x, buffer)
                part = torch.mm(buffer.T, g).float()
                dw = part if dw is None else dw.add_(part)
            if need_dx or need_dtable:
                torch.mm(g, self.weight.flatten(0, 1).T, out=buffer)
                part_of_dx, part_of_table = self.input_gradient(buffer, x, need_dtable, expanded=True)
                parts_of_dx.append(part_of_dx)
                if part_of_table is not None:
                    dtable = part_of_table if dtable is None else dtable.add_(part_of_table)
        dx = None
        if parts_of_dx:
            dx = parts_of_dx[0] if len(parts_of_dx) == 1 else torch.cat(parts_of_dx)
        return dx, None if dw is None else dw.view(self.given_weight.shape), dtable


def _total(partial: Tensor, dtype: torch.dtype) -> Tensor:
    return partial[0].to(dtype) if len(partial) == 1 else partial.sum(0).to(dtype)


def forward(x: Tensor, weight: Tensor, problem: Problem, expand: bool) -> Tensor:
    """Return y (batch, out) of x (batch, in) and weight (P, in, out), multiplied and returned in `problem.dtype`."""
    call = _Call(x, weight, problem)
    if call.empty:
        return x.new_zeros(call.batch, call.outputs, dtype=call.dtype)
    with torch.autocast(x.device.type, enabled=False):
        return call.expanded_forward() if expand else call.forward()


def backward(
    grad: Tensor, x: Tensor, weight: Tensor, problem: Problem, expand: bool,
    need_dx: bool, need_dw: bool, need_dtable: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The gradients of x, weight and table, in the dtypes of those; one that is not needed is an empty tensor."""
    call = _Call(x, weight, problem)
    grad = grad.to(call.dtype).contiguous()  # it may be expanded or transposed
    dx, dw, dtable = None, None, None
    with torch.autocast(x.device.type, enabled=False):
        if call.empty:
            dx, dw = torch.zeros_like(call.x), torch.zeros(weight.shape, dtype=weight.dtype, device=x.device)
            dtable = None if problem.table is None else torch.zeros(problem.table.shape, device=x.device)
        elif expand:
            dx, dw, dtable = call.expanded_backward(grad, need_dx, need_dw, need_dtable)
        else:
            if need_dx or need_dtable:
                dx, dtable = call.input_gradient(grad, call.x, need_dtable)
            if need_dw:
                dw = call.weight_gradient(grad)
    return (
        dx if need_dx and dx is not None else x.new_empty(0),
        dw.to(weight.dtype) if need_dw and dw is not None else weight.new_empty(0),
        dtable if need_dtable and dtable is not None else x.new_empty(0, dtype=torch.float32),
    )
