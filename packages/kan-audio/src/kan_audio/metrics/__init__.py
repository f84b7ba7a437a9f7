"""How good scores and predictions are."""
