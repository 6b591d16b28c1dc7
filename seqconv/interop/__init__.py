"""Reading the layers and checkpoints of the original projects."""

from .checkpoint import list_checkpoints, load_checkpoint
from .importer import from_original, list_originals

__all__ = ["from_original", "list_checkpoints", "list_originals", "load_checkpoint"]
