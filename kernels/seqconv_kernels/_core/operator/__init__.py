"""Ops as operators of PyTorch: their inputs, schemas, derivatives and sizes."""
