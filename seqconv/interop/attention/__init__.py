"""Readers of attention layers of other projects."""
