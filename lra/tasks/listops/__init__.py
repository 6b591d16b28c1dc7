"""ListOps: generated, or read from the benchmark's files."""
