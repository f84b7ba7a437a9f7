"""Kolmogorov-Arnold Networks for tables: estimators, feature selection, explanations."""

from kan_tabular.encoding import TableEncoder
from kan_tabular.estimators import KANClassifier, KANRegressor
from kan_tabular.selection import KANSelector

__all__ = ["KANClassifier", "KANRegressor", "KANSelector", "TableEncoder"]
