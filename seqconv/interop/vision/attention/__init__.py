"""Readers of the originals with attention over images."""
