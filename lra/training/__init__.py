"""Runs: training, checkpoints, metrics, several processes."""
