"""A trained network for other programs: an ONNX file and a torch.export program, both checked against the original."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from kan_core.errors import KANError
from kan_core.ops import use_backend
from kan_core.training.files import atomic_write
from kan_core.training.task import Task

TOLERANCE = 1e-4
"""The largest difference to the network in torch that an exported file may have."""


def export_task(task: Task, folder: Path, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Write ``model.onnx``, ``model.pt2`` and ``export.json`` into `folder`.

    The graph is that of the reference kernels: ordinary operators, so that neither file needs kan_core to run. The
    dimensions of `Task.export_dims` stay free where the network allows it, the others are those of
    `Task.example_input_array`. Both files are run on random inputs, of several batch sizes when that one is free.

    Args:
        task: With trained weights; left on the CPU, in evaluation mode.
        folder: Where to write; made when missing.
        metadata: What the user of the files must know (class names, normalisation); JSON values. It is stored in
            ``export.json`` and in the ONNX file.

    Returns:
        What ``export.json`` holds: `metadata`, the shapes with None for a free dimension, and for each file the largest
        absolute difference to the network.

    Raises:
        KANError: When the packages of the extra ``export`` are missing, the network cannot be exported, or a file
            differs from the network by more than 1e-4.
    """
    _check_packages()
    net = task.cpu().float().eval().net
    example = task.example_input_array
    if not isinstance(example, Tensor):
        raise KANError(f"export: {type(task).__name__} has no example_input_array of one tensor")
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(0)

    def inputs(batch: int) -> Tensor:
        return torch.randn(batch, *example.shape[1:], generator=generator)

    program = trace(net, inputs(2), task.export_dims)
    free = _free_dims(program)
    report = {
        **metadata,
        "input_shape": [None if d in free else n for d, n in enumerate(example.shape)],
        "max_abs_difference": {},
    }
    samples = [inputs(batch) for batch in ((1, 2, 3) if 0 in free else (2,))]
    with atomic_write(folder / "model.pt2") as temporary:
        torch.export.save(program, temporary)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own: it maps the file's bytes as tensors that must not be written
            loaded = torch.export.load(temporary).module()
        report["max_abs_difference"]["model.pt2"] = _difference("model.pt2", net, loaded, samples)
    with atomic_write(folder / "model.onnx") as temporary:
        write_onnx(program, temporary, metadata)
        report["max_abs_difference"]["model.onnx"] = _difference("model.onnx", net, onnx_module(temporary), samples)
    with atomic_write(folder / "export.json") as temporary:
        temporary.write_text(json.dumps(report, indent=2) + "\n")
    return report


def trace(net: nn.Module, example: Tensor, free: tuple[int, ...] = (0,)) -> ExportedProgram:
    """`net` as a torch.export program of the reference kernels.

    Args:
        net: In evaluation mode.
        example: An input whose free dimensions are larger than 1.
        free: Dimensions that stay free where the network allows it.

    Raises:
        KANError: When the network cannot be traced.
    """
    try:
        with use_backend("reference"), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.export.export(net, (example,), dynamic_shapes=(dict.fromkeys(free, Dim.AUTO),))
    except (RuntimeError, ValueError, TypeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise KANError(f"export: {type(net).__name__} cannot be traced: {reason}") from error


def write_onnx(program: ExportedProgram, path: Path, metadata: Mapping[str, Any]) -> None:
    """Write `program` as an ONNX file with input ``input``, output ``output`` and `metadata` as JSON strings.

    Raises:
        KANError: When torch's exporter lacks one of its operators.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own, about operators that it does not find
        try:
            converted = torch.onnx.export(
                program, dynamo=True, verbose=False, input_names=["input"], output_names=["output"]
            )
        except torch.onnx.OnnxExporterError as error:
            reason = re.search(r"torch\.ops\.([\w.]+)", str(error))
            what = f"the operator {reason[1]}" if reason else type(error).__name__
            raise KANError(f"export: torch's ONNX exporter does not convert this network ({what})") from error
    assert converted is not None
    converted.model.metadata_props.update({key: json.dumps(value) for key, value in metadata.items()})
    converted.save(path, external_data=False)


def onnx_module(path: Path) -> Any:
    """A function from a tensor to a tensor that runs an ONNX file in ONNX Runtime, on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])

    def run(x: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])

    return run


def _free_dims(program: ExportedProgram) -> set[int]:
    """Which dimensions of the one input are symbols."""
    (name,) = program.graph_signature.user_inputs
    (node,) = (node for node in program.graph.nodes if node.name == name)
    return {d for d, size in enumerate(node.meta["val"].shape) if not isinstance(size, int)}


@torch.no_grad()
def _difference(file: str, net: nn.Module, exported: Any, samples: list[Tensor]) -> float:
    difference = max(float((exported(x) - net(x)).abs().max()) for x in samples)
    if not difference <= TOLERANCE:
        raise KANError(f"export: {file} differs from the network by {difference:.3g}, more than {TOLERANCE:g}")
    return difference


def _check_packages() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        raise KANError(
            f'export needs {error.name}: install the extra with pip install "kan-core[lightning,export]"'
        ) from None
