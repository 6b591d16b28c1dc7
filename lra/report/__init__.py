"""Reports over run folders: tables, learning curves, artifacts, published results."""

from .page import write_report
from .runs import Run, find_runs, read_run

__all__ = ["Run", "find_runs", "read_run", "write_report"]
