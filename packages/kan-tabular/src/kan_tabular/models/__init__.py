"""Networks on encoded tables: plain modules, by name."""

from kan_tabular.models import kan as _kan  # noqa: F401  (registers itself)
from kan_tabular.models._registry import create, names, register
from kan_tabular.models.column_layer import ColumnLayer

__all__ = ["ColumnLayer", "create", "names", "register"]
