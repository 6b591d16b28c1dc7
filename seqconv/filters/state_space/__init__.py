"""Filters of state space models, which have a recurrence: sums of exponentials and their initialisations."""
