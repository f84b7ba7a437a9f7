"""Parameters, and the FLOPs of one forward counted on the actual graph."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from kan_core.errors import KANError
from kan_core.layers._common import ACTIVATION_FLOPS
from kan_core.ops import use_backend

BATCH_NORM_FLOPS = 4  # the same source
LAYER_NORM_FLOPS = 7  # sum, centre, square, sum of squares, divide, scale, shift


def count_parameters(model: nn.Module, trainable_only: bool = True) -> int:
    """Number of parameter values of `model`; a tensor that several modules share counts once.

    Args:
        model: Any module. Buffers (grids, running statistics) are not parameters.
        trainable_only: Leave out parameters that are frozen (``requires_grad=False``).
    """
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable_only)


def count_flops(model: nn.Module, sample: Tensor) -> int:
    """FLOPs of one forward of `sample` through `model`, in evaluation mode; divide by the batch size for one sample.

    A multiply-add is 2. Counted are matrix products, convolutions and attention (biases are not), the activations of
    `ACTIVATION_FLOPS`, batch, layer and group normalisation, and for every KAN layer what it says of itself
    (``elementwise_flops``: its basis and base activation, once per scalar input). Other elementwise work (sums,
    pooling, softmax) is not. The result does not depend on the kernel backend, on the device or on the training mode,
    and `model` is left as it was.

    Args:
        model: Any module that takes one tensor.
        sample: Input with its batch dimension; the count is proportional to the batch size, but for what a layer
            computes from its weights alone.
    """
    kan_layers = _KANLayers()
    counter = FlopCounterMode(display=False, custom_mapping=_elementwise_formulas(kan_layers))
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(_plain_kernels())
        stack.enter_context(_evaluation_mode(model))
        stack.enter_context(kan_layers.watch(model))
        stack.enter_context(counter)
        model(sample)
    return int(counter.get_total_flops()) + kan_layers.flops


def activation_flops(name: str | None) -> int:
    """FLOPs per element of the activation `name`; None is no activation.

    Raises:
        KANError: When the cost of `name` is not known.
    """
    if name is None:
        return 0
    if name not in ACTIVATION_FLOPS:
        raise KANError(f"no FLOP count for the activation {name!r}: known are {', '.join(ACTIVATION_FLOPS)}")
    return ACTIVATION_FLOPS[name]


class _KANLayers:
    """Adds up basis evaluations, and knows whether a KAN layer is running: what it does inside is charged there."""

    def __init__(self) -> None:
        self.flops = 0
        self.depth = 0

    @contextlib.contextmanager
    def watch(self, model: nn.Module) -> Iterator[None]:
        handles = []
        for layer in (m for m in model.modules() if hasattr(m, "elementwise_flops")):
            handles += [layer.register_forward_pre_hook(self._enter), layer.register_forward_hook(self._leave)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, layer: Any, inputs: tuple[Tensor, ...]) -> None:
        self.depth += 1
        self.flops += layer.elementwise_flops(inputs[0].numel())

    def _leave(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.depth -= 1


def _elementwise_formulas(kan_layers: _KANLayers) -> dict[Any, Callable[..., int]]:
    """Formulas for the operators that torch's counter does not charge, functional calls included."""

    def per_element(flops: int, *, inside_kan_layers: bool) -> Callable[..., int]:
        def formula(input_shape: tuple[int, ...], *args: Any, **kwargs: Any) -> int:
            charged = inside_kan_layers or kan_layers.depth == 0
            return flops * torch.Size(input_shape).numel() if charged else 0

        return formula

    aten = torch.ops.aten
    formulas = {
        getattr(aten, name + suffix): per_element(ACTIVATION_FLOPS[name], inside_kan_layers=False)
        for name in ("relu", "sigmoid", "silu", "elu", "tanh", "gelu")
        for suffix in ("", "_")
    }
    batch_norms = (aten.native_batch_norm, aten.cudnn_batch_norm, aten._native_batch_norm_legit_no_training)
    formulas |= {norm: per_element(BATCH_NORM_FLOPS, inside_kan_layers=True) for norm in batch_norms}
    layer_norms = (aten.native_layer_norm, aten.native_group_norm)
    return formulas | {norm: per_element(LAYER_NORM_FLOPS, inside_kan_layers=True) for norm in layer_norms}


@contextlib.contextmanager
def _plain_kernels() -> Iterator[None]:
    """Run matrix products as matrix products: torch's counter does not see into every fused kernel."""
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with use_backend("reference"), sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)


@contextlib.contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    training = [m for m in model.modules() if m.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
