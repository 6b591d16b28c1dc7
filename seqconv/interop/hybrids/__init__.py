"""Readers of checkpoints whose layers differ: recurrent or convolutional mixers, attention, MLPs and experts."""
