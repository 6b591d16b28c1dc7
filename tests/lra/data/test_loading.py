"""The data of a training step cost less than a twentieth of it; the long tasks have one layer instead of several."""

from pathlib import Path

import pytest
import torch

from benchmarks.lra_loading import compare

TASKS = (
    "listops-small",
    "listops",
    "text",
    "retrieval",
    "image",
    "pathfinder",
    "mqar",
    "mad-fuzzy-recall",
    "signal-delay",
)


@pytest.mark.parametrize("task", TASKS)
def test_data_never_limit(task: str, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        ms = compare(task, tmp_path, 0.2)["ms"]
    finally:
        torch.set_num_threads(threads)
    assert ms["seqconv"] < 0.05 * ms["training step"]
