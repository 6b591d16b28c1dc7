"""Implicit filters: networks of the position."""
