"""Data sets: readers of public formats, verified folders of prepared data, batching."""
