"""AdamW with the usual exemptions from weight decay, a short linear warm-up and a cosine to one per cent."""

from __future__ import annotations

import math
from typing import Any

from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from kan_core.errors import KANError

FINAL_FRACTION = 0.01


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """The trainable parameters of `module` in two groups, decayed and not, for an optimiser.

    Not decayed: biases and every other parameter of at most one dimension (norms, scales), and what a submodule names
    in its own ``no_weight_decay()``, a set of parameter names relative to that submodule.
    """
    exempt: set[str] = set()
    for prefix, part in module.named_modules():
        names = getattr(part, "no_weight_decay", None)
        if callable(names):
            exempt.update(f"{prefix}.{name}" if prefix else name for name in names())
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            (kept if parameter.ndim <= 1 or name in exempt else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": kept, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def adamw_cosine(
    module: nn.Module, *, lr: float, weight_decay: float, total_steps: float, warmup_steps: int
) -> dict[str, Any]:
    """AdamW and its schedule, in the form that ``configure_optimizers`` returns; the schedule moves once per step.

    The learning rate rises linearly to `lr` over `warmup_steps` steps and falls along a cosine to ``0.01 * lr`` at
    `total_steps`.

    Args:
        module: Whose parameters are trained.
        lr: The highest learning rate.
        weight_decay: Decoupled decay of the parameters that :func:`parameter_groups` does not exempt.
        total_steps: Optimiser steps of the whole training, Lightning's ``trainer.estimated_stepping_batches``.
        warmup_steps: Steps of the warm-up, below `total_steps`.

    Raises:
        KANError: When the training has no end (``max_epochs: -1``), for a cosine needs one.
    """
    if not math.isfinite(total_steps):
        raise KANError("trainer.max_epochs -1: the cosine schedule needs an end; give a number of epochs or steps")
    optimizer = AdamW(parameter_groups(module, weight_decay), lr=lr)

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        progress = min(1.0, (step - warmup_steps) / max(1.0, total_steps - warmup_steps))
        return FINAL_FRACTION + (1 - FINAL_FRACTION) * 0.5 * (1 + math.cos(math.pi * progress))

    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}}
