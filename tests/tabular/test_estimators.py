"""Both estimators keep scikit-learn's contract, with no exception."""

from __future__ import annotations

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from kan_tabular import KANClassifier, KANRegressor


@pytest.mark.filterwarnings("default")
@parametrize_with_checks([KANClassifier(), KANRegressor()])
def test_scikit_learns_checks_pass_with_no_exception(estimator, check):
    check(estimator)
