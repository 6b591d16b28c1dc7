"""Readers of state space layers of other projects."""
