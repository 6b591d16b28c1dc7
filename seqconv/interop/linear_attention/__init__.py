"""Readers of linear attention layers of other projects."""
