"""Adaptive embedding and softmax over a large vocabulary."""
