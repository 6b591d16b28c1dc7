"""Synthetic tasks: rows drawn one by one at any length, labels exact."""
