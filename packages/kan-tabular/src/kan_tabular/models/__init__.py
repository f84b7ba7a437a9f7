"""Networks on encoded tables: plain modules, by name."""

from kan_tabular.models import edgewise, kan, mixer, mlp, node  # noqa: F401  (they register themselves)
from kan_tabular.models._registry import create, names, register
from kan_tabular.models.column_layer import ColumnLayer

__all__ = ["ColumnLayer", "create", "names", "register"]
