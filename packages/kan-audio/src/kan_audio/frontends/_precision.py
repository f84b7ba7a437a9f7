"""Signal processing that half precision would spoil."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def without_autocast(x: Tensor) -> AbstractContextManager[object]:
    """Products on the device of `x` in the dtypes of their operands; nothing in a graph where autocast is off."""
    device = x.device.type
    autocast = device != "meta" and torch.is_autocast_enabled(device)  # which raises for meta
    return torch.autocast(device, enabled=False) if autocast else nullcontext()
