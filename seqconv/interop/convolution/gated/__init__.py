"""Readers of gated convolutions of other projects."""
