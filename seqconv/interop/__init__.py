"""Reading the layers and checkpoints of the original projects."""

from .importer import from_original, list_originals

__all__ = ["from_original", "list_originals"]
