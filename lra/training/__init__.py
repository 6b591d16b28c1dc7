"""Training: one run, its checkpoints, metrics and artifacts; time budgets, several processes, grids of runs.

:mod:`lra.training.run` has the functions that start, resume and evaluate a run.
"""
