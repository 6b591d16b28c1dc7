"""The data of a training step cost less than a twentieth of it; the long tasks have one layer instead of several."""

import json
import re
from pathlib import Path

import pytest
import torch

from benchmarks import __main__ as benchmarks
from benchmarks import lra_efficiency, results_page
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


def test_the_efficiency_table_has_time_and_memory_of_every_mixer(tmp_path, monkeypatch):
    monkeypatch.setattr(lra_efficiency, "LENGTHS", (64,))
    monkeypatch.setattr(lra_efficiency, "MIXERS", ("attention", "s4d"))
    monkeypatch.setattr(benchmarks, "RESULTS", tmp_path)
    benchmarks._run_own("lra_efficiency-2-threads", lra_efficiency, 0.0)
    rows = json.loads((tmp_path / "lra_efficiency-2-threads.json").read_text())["rows"]
    assert [row["direction"] for row in rows] == ["attention", "s4d"]
    assert all(value > 0 for row in rows for part in ("ms", "mb") for value in row[part].values())
    assert rows[0]["ms"]["seqconv"] == rows[1]["ms"]["attention"]
    written = (tmp_path / "lra_efficiency-2-threads.md").read_text()
    assert "| steps per second (times attention); memory over attention's | 64 tokens |" in written
    assert re.search(r"\| attention \| [\d.]+ \(1\.00 ×\); 1\.00 \|", written)
    page = results_page.table(tmp_path)
    assert "`python -m benchmarks lra_efficiency --threads 2`" in page
    assert "attention 1.0 ×; s4d" in page
