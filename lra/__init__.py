"""Long Range Arena: tasks, generators, recipes, runs and reports, as ``python -m lra``."""
