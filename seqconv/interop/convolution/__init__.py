"""Readers of convolutional layers of other projects."""
