"""Pathfinder, Path-X and their sizes: generated, or read from the benchmark's folders."""
