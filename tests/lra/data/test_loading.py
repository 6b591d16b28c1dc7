"""The data of a training step cost less than a twentieth of it; the long tasks have one layer instead of several."""

from pathlib import Path

import pytest
import torch

from benchmarks import lra_efficiency
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


def test_the_efficiency_table_has_time_and_memory_of_every_mixer():
    rows = lra_efficiency.compare(64, ("attention", "s4d"), 0.0)
    assert [row["direction"] for row in rows] == ["attention", "s4d"]
    assert all(value > 0 for row in rows for part in ("ms", "mb") for value in row[part].values())
    assert rows[0]["ms"]["seqconv"] == rows[1]["ms"]["attention"]
