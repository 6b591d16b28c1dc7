"""Linear layers of few rows: see :mod:`.api`."""

from .api import MAX_ROWS, eager_linear, quantize_rows, skinny_linear

__all__ = ["MAX_ROWS", "eager_linear", "quantize_rows", "skinny_linear"]
