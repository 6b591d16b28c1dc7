"""Models that only these tasks need, and the model and optimiser groups of a recipe."""
