"""How `kernels.py` measures one case: who takes part, whether they are right, and how long they take."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from _timing import Call, alternate, forward_backward, inference, median_ratio, peak_allocated
from kan_core.errors import KANError
from kan_core.ops import BACKENDS, explain, use_backend

# ||error|| / ||float64 reference|| of the result and of every gradient. Twice the error of the eager reference in the
# same dtype is allowed too: on a fine grid float32 places x no better.
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}
GATE_ROWS = 512  # rows of the float64 reference, spread over the batch
MOST_SECONDS = 3.0  # of one repetition
CPU_BYTES = 4 << 30  # of one repetition
COMPILED_ELEMENTS = 1 << 26  # of the largest operand, on a CPU


@dataclass(frozen=True)
class Baseline:
    """Something to be compared with: a module, and how it relates to our layer.

    Attributes:
        module: The module.
        columns: Features of an input of its own; None for the input of our layer.
        same: Whether it computes our layer's function, and must pass the gate.
        needs: Kind of device it runs on; None for any.
    """

    module: nn.Module
    columns: int | None = None
    same: bool = False
    needs: str | None = None


@dataclass(frozen=True)
class Case:
    """One op in one shape.

    Attributes:
        op: Name of the op.
        shape: What describes it, the batch first, then the inputs.
        layer: Makes our layer.
        baselines: Makes what it is compared with.
        elements: Numbers in the largest operand.
        flops: Of the matrix product of the forward pass (the backward pass has twice as many), which bounds the time;
            0 for elementwise ops, which the bandwidth bounds; None where neither is a bound.
        draw: Makes the input of a shape.
        gradients: Whether the backward pass is timed; without, calls are in inference mode.
        compiled: Whether the compiled reference takes part.
        quick: Whether ``--quick`` selects it.
    """

    op: str
    shape: Mapping[str, int]
    layer: Callable[[], nn.Module]
    baselines: Callable[[nn.Module], dict[str, Baseline]]
    elements: int
    flops: int | None
    draw: Callable[..., Tensor] = torch.randn
    gradients: bool = True
    compiled: bool = True
    quick: bool = False

    @property
    def title(self) -> str:
        """Shape and mode as a string: the sizes, then what else describes them."""
        batch, inputs, *rest = self.shape.items()
        words = [str(batch[1]), str(inputs[1])]
        if rest and rest[0][0] == "out":
            words[1] += f" -> {rest.pop(0)[1]}"
        words += [f"{name} {value}" for name, value in rest] + ([] if self.gradients else ["inference"])
        return ", ".join(words)

    @property
    def size(self) -> tuple[int, int]:
        """Batch and inputs."""
        batch, inputs, *_ = self.shape.values()
        return batch, inputs


@dataclass
class Setting:
    """Where and how long to measure, and what the device can do there."""

    device: str
    dtype: torch.dtype
    ceilings: dict[str, float]
    repeats: int
    seconds: float
    compile: bool

    @property
    def most_bytes(self) -> float:
        """Memory that one contender may take."""
        return CPU_BYTES if self.device == "cpu" else 0.6 * torch.cuda.get_device_properties().total_memory


class Run(nn.Module):
    """A module in one backend and, for half precision, under autocast."""

    def __init__(self, module: nn.Module, dtype: torch.dtype, backend: str = "auto") -> None:
        super().__init__()
        self.module, self.dtype, self.backend = module, dtype, backend

    def forward(self, x: Tensor) -> Tensor:
        """The module's result."""
        half = self.dtype in (torch.bfloat16, torch.float16)
        autocast: AbstractContextManager[Any] = torch.autocast(x.device.type, self.dtype) if half else nullcontext()
        with use_backend(self.backend), autocast:
            y: Tensor = self.module(x)
        return y


class Contender:
    """A run at an input x, whose gradient is wanted or not, with an upstream gradient.

    The first `rows` of x are run to see what the result looks like. `grads` has the upstream gradients of the
    contenders so far: those with results of one kind share theirs.
    """

    def __init__(
        self, run: Run, x: Tensor, *, same: bool, gradients: bool, grads: dict[Any, Tensor], rows: int = 1
    ) -> None:
        self.run, self.same, self.gradients = run, same, gradients
        self.x = x.detach().requires_grad_(gradients)
        with torch.set_grad_enabled(gradients):
            y = run(self.x if rows == len(x) else self.x[:rows])
        kind = ((len(x) if gradients else 0, *y.shape[1:]), y.dtype)
        if kind not in grads:
            grads[kind] = torch.randn(kind[0], device=y.device).to(y.dtype)
        self.grad = grads[kind]

    def call(self, *, cold: bool = True) -> Call:
        """What `alternate` repeats."""
        if self.gradients:
            return forward_backward(self.run, self.x, self.grad, cold=cold)
        return inference(self.run, self.x, cold=cold)

    def peak(self) -> int:
        """Bytes that one call takes beside its input and parameters."""
        self.clear()
        return peak_allocated(self.call(), self.x.device.type)

    def clear(self) -> None:
        """Forget all gradients."""
        for tensor in (self.x, *self.run.parameters()):
            tensor.grad = None

    def part(self, rows: int) -> Contender:
        """The same with the first rows of x."""
        return Contender(self.run, self.x[:rows], same=self.same, gradients=self.gradients, grads={})


class Expected:
    """Result and gradients in float64, for an upstream gradient that is zero but in some rows, spread over the batch.

    The contenders compute the whole batch, in the very configuration that is timed, and must get these rows of the
    result and of the gradient of x, zero in the gradient's other rows, and the gradients of the parameters.
    """

    def __init__(self, layer: nn.Module, x: Tensor, gradients: bool) -> None:
        self.rows = torch.linspace(0, len(x) - 1, min(GATE_ROWS, len(x)), dtype=torch.float64, device=x.device).long()
        exact = Run(copy.deepcopy(layer).double(), torch.float64, "reference")
        part = x.detach()[self.rows].double().requires_grad_(gradients)
        with torch.set_grad_enabled(gradients):
            y = exact(part)
        self.values = {"y": y.detach()}
        if gradients:
            self.grad = torch.randn_like(y).to(x.dtype).double()  # which the contenders get without a rounding
            y.backward(self.grad)
            self.values["dx"] = part.grad
            self.values |= {f"d{name}": p.grad for name, p in exact.module.named_parameters() if p.grad is not None}

    def errors(self, contender: Contender) -> dict[str, float]:
        """Relative RMS errors of what the contender computes."""
        contender.clear()
        with torch.set_grad_enabled(contender.gradients):
            y = contender.run(contender.x)
        got = {"y": y.detach()[self.rows]}
        if contender.gradients:
            grad = torch.zeros_like(y)
            grad[self.rows] = self.grad.to(y.dtype)
            y.backward(grad)
            dx = contender.x.grad
            got["dx"] = dx[self.rows]
            dx[self.rows] = 0
            if dx.any():
                got["dx"] = got["dx"] * torch.nan
            named = contender.run.module.named_parameters()
            got |= {f"d{name.removeprefix('_orig_mod.')}": p.grad for name, p in named if p.grad is not None}
            contender.clear()
        return {
            name: ((got[name].double() - want).norm() / want.norm().clamp(min=1e-30)).item()
            for name, want in self.values.items()
            if name in got  # a baseline may have parameters of its own
        }


class Measurement:
    """All contenders of one case: `records` gives one record each, with times or why there are none."""

    def __init__(self, case: Case, setting: Setting) -> None:
        self.case, self.setting = case, setting
        self.errors: dict[str, dict[str, float]] = {}
        self.grads: dict[Any, Tensor] = {}

    def records(self) -> Iterator[dict[str, Any]]:
        """Measure."""
        torch.manual_seed(0)
        if reason := self._too_large():
            yield self._record("all", left_out=reason)
            return
        self.layer = self.case.layer().to(self.setting.device)
        self.x = self._input(self.case.size[1])
        self.expected = Expected(self.layer, self.x, self.case.gradients)
        contenders: dict[str, Contender] = {}
        for name, make in self._candidates():
            try:
                contender = make()
                outcome = self._trial(name, contender)
            except KANError as error:
                outcome = {"refused": str(error)}
            except Exception as error:  # a kernel that fails on this device is a result, too
                outcome = {"failed": f"{type(error).__name__}: {str(error).strip().splitlines()[:1]}"}
            if outcome:
                yield self._record(name, **outcome)
            else:
                contenders[name] = contender
        yield from self._timed(contenders)

    def _record(self, contender: str, **content: Any) -> dict[str, Any]:
        case = self.case
        key = {"op": case.op, "title": case.title, "shape": dict(case.shape), "gradients": case.gradients}
        dtype = str(self.setting.dtype).removeprefix("torch.")
        return {**key, "dtype": dtype, "contender": contender, **content}

    def _too_large(self) -> str:
        """Why the whole case is left out on this device; empty when it is not."""
        passes = 3 if self.case.gradients else 1
        seconds = passes * (self.case.flops or 0) / self.setting.ceilings["product_flops_per_second"]
        if seconds > MOST_SECONDS:
            return f"its matrix products take {seconds:.0f} s at the measured rate, more than {MOST_SECONDS:.0f}"
        needed = 4 * self.case.elements * self.setting.dtype.itemsize
        if needed > self.setting.most_bytes:
            return f"four tensors of its largest operand take {needed / 2**30:.1f} GiB"
        return ""

    def _input(self, columns: int) -> Tensor:
        return self.case.draw(self.case.size[0], columns, device=self.setting.device).to(self.setting.dtype)

    def _candidates(self) -> Iterator[tuple[str, Callable[[], Contender]]]:
        """Reference first, our other backends, and the baselines."""
        for backend in BACKENDS[1:]:
            yield backend, partial(self._ours, backend)
        if self.setting.compile and self.case.compiled:
            yield "reference compiled", self._compiled
        for name, baseline in self.case.baselines(self.layer).items():
            yield name, partial(self._other, baseline)

    def _ours(self, backend: str) -> Contender:
        """Our layer in one backend, which is asked for by name and must be what runs."""
        run = Run(self.layer, self.setting.dtype, backend)
        names = self._choices(run)
        if names != {backend} and backend != "reference":
            ran = f"its ops run in {', '.join(sorted(names))}" if names else "it calls no op that has backends"
            raise KANError(f"the layer is asked for {backend!r}, but {ran}")
        return Contender(run, self.x, same=True, gradients=self.case.gradients, grads=self.grads)

    def _compiled(self) -> Contender:
        """The reference, compiled for this batch alone, and only where it surely fits into memory."""
        if self.setting.device == "cpu" and self.case.elements > COMPILED_ELEMENTS:
            raise KANError("the largest operand is too large, but what compiled code takes is not known beforehand")
        torch.compiler.reset()
        run = Run(torch.compile(self.layer, dynamic=False), self.setting.dtype, "reference")
        gradients = self.case.gradients
        return Contender(run, self.x, same=True, gradients=gradients, grads=self.grads, rows=len(self.x))

    def _other(self, baseline: Baseline) -> Contender:
        if baseline.needs not in (None, self.setting.device):
            raise KANError(f"the device is {self.setting.device}, but it needs {baseline.needs}")
        x = self.x if baseline.columns is None else self._input(baseline.columns)
        run = Run(baseline.module.to(self.setting.device), self.setting.dtype)
        return Contender(run, x, same=baseline.same, gradients=self.case.gradients, grads=self.grads)

    def _choices(self, run: Run) -> set[str]:
        """Backends that the ops inside take for our input, with or without gradients to come."""

        def call(x: Tensor) -> Tensor:
            with torch.set_grad_enabled(self.case.gradients):
                y: Tensor = run(x)
            return y

        return {choice.name for choice in explain(call, self.x[:2].clone().requires_grad_(self.case.gradients))}

    def _trial(self, name: str, contender: Contender) -> dict[str, Any]:
        """Left out for its size, or for a wrong result; empty when the contender takes part."""
        if name != "reference compiled" and (reason := self._too_slow(contender)):
            return {"left_out": reason}
        if not contender.same:
            return {}
        self.errors[name] = errors = self.expected.errors(contender)
        reference, tolerance = self.errors.get("reference", {}), TOLERANCES[self.setting.dtype]
        bound = {key: max(tolerance, 2 * reference.get(key, 0.0)) for key in errors}
        missed = [f"{key} is off by {e:.1e} > {bound[key]:.0e}" for key, e in errors.items() if not e <= bound[key]]
        return {"wrong": ", ".join(missed), "errors": errors} if missed else {}

    def _too_slow(self, contender: Contender) -> str:
        """What an eighth of a large batch says about all of it; compiled code, made for one size, is not asked."""
        rows = len(contender.x) // 8
        if rows < 128:
            return ""
        part = contender.part(rows)
        try:
            call = part.call()
            seconds, needed = 8 * min(call()[1] for _ in range(3)), 8 * part.peak()
        except torch.OutOfMemoryError:
            return "an eighth of the batch does not fit into memory"
        finally:
            part.clear()
        if seconds > MOST_SECONDS or needed > self.setting.most_bytes:
            return f"an eighth of the batch asks for {seconds:.1f} s and {needed / 2**30:.1f} GiB in all"
        return ""

    def _timed(self, contenders: dict[str, Contender]) -> Iterator[dict[str, Any]]:
        setting = self.setting
        times = alternate({n: c.call() for n, c in contenders.items()}, setting.repeats, setting.seconds)
        warm = {}
        if setting.device == "cuda":
            warm = alternate({n: c.call(cold=False) for n, c in contenders.items()}, setting.repeats, setting.seconds)
        auto = self._choices(Run(self.layer, setting.dtype)) or {"reference"}
        for name, contender in contenders.items():
            forward, total = (statistics.median(t[i] for t in times[name]) for i in range(2))
            backward = statistics.median(t[1] - t[0] for t in times[name])
            content = {
                "auto": auto == {name},
                "repeats": len(times[name]),
                "forward_ms": 1e3 * forward,
                **({"backward_ms": 1e3 * backward, "forward_backward_ms": 1e3 * total} if contender.gradients else {}),
                "fastest_ms": 1e3 * min(t for _, t in times[name]),
                **({"warm_ms": 1e3 * statistics.median(t for _, t in warm[name])} if warm else {}),
                "peak_mib": contender.peak() / 2**20,
                "parameters": sum(p.numel() for p in contender.run.parameters()),
            }
            if contender.same or name in ("gemm", "gelu"):
                content |= self._shares(forward, backward if contender.gradients else None)
            if name in self.errors:
                content["errors"] = self.errors[name]
            content["ratios"] = {
                other: {"forward": median_ratio(times[name], times[other], 0)}
                | ({"forward_backward": median_ratio(times[name], times[other], 1)} if contender.gradients else {})
                for other in contenders
                if other != name and (other not in BACKENDS or other == "reference")
            }
            contender.clear()
            yield self._record(name, **content)

    def _shares(self, forward: float, backward: float | None) -> dict[str, float]:
        """Parts of the rate or of the bandwidth that were reached: the fewest operations or bytes over the time."""
        flops, ceilings = self.case.flops, self.setting.ceilings
        if flops is None:
            return {}
        if flops:
            work, limit = (flops, 2 * flops), ceilings["product_flops_per_second"]
        else:  # x and y; grad, x and dx
            size = self.case.elements * self.setting.dtype.itemsize
            work, limit = (2 * size, 3 * size), ceilings["copy_bytes_per_second"]
        shares = {"forward_share": work[0] / forward / limit}
        return shares if backward is None else {**shares, "backward_share": work[1] / backward / limit}
