"""Lightning modules that train the networks."""

from kan_tabular.tasks.tabular import TabularTask

__all__ = ["TabularTask"]
