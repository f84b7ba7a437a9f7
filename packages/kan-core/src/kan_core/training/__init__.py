"""Training: function fitting, and the Lightning glue of every domain package (task, callbacks, command line, reports).

Needs the extra: ``pip install "kan-core[lightning]"``. ``import kan_core`` does not import this package.
"""

from __future__ import annotations

try:
    import jsonargparse  # noqa: F401
    import lightning.pytorch  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f'kan_core.training needs {error.name}: install the extra with pip install "kan-core[lightning]"',
        name=error.name,
    ) from None

from kan_core.training.callbacks import GridUpdate, OutsideGrid, Regularization
from kan_core.training.cli import run
from kan_core.training.files import atomic_write
from kan_core.training.fit import FitRecord, FitResult, fit
from kan_core.training.model_task import ModelTask
from kan_core.training.optim import adamw_cosine, parameter_groups
from kan_core.training.paths import data_root
from kan_core.training.task import Task

__all__ = [
    "FitRecord",
    "FitResult",
    "GridUpdate",
    "ModelTask",
    "OutsideGrid",
    "Regularization",
    "Task",
    "adamw_cosine",
    "atomic_write",
    "data_root",
    "fit",
    "parameter_groups",
    "run",
]
