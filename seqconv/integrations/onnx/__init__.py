"""Models in ONNX: see :mod:`.export`."""

from .export import export_onnx

__all__ = ["export_onnx"]
