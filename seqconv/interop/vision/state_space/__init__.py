"""Readers of the originals that scan images with state spaces."""
