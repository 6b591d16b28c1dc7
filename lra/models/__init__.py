"""Models that only these tasks need; the model and the optimiser groups of a recipe."""
