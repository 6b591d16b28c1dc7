"""transformers' own models as they are and under ``seqconv.accelerate``: examples/accelerate_transformers.py, small.

Prefill of 2,048 tokens, 16 tokens decoded after a short prompt, a training step of 512 tokens with its memory. Random
weights, 3 layers, a vocabulary of 8,192.
"""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

EXAMPLE = Path(__file__).parents[1] / "examples" / "accelerate_transformers.py"
FAMILIES = ("mamba", "mamba2", "qwen3_next", "lfm2")
LAYERS = 3
REPEATS = 3
"""Measured runs of each kind: medians of these, whatever the seconds per row."""


def measure(seconds: float) -> list[dict[str, Any]]:
    """Rows of every family."""
    spec = spec_from_file_location("accelerate_transformers", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    example = module_from_spec(spec)
    spec.loader.exec_module(example)
    return [row for family in FAMILIES for row in example.rows(family, LAYERS, 1.0, 2048, 512, REPEATS)]
