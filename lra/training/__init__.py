"""Training: one run, its checkpoints, metrics and artifacts; time budgets, several processes, grids of runs.

:mod:`lra.training.run` has the functions that start and resume a run, :mod:`lra.training.evaluation` those that measure
it again.
"""
