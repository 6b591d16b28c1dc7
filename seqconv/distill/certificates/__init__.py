"""Certificates: bounds of the error of a recurrence, and the state that a tolerance needs."""
