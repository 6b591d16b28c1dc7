"""The job array and the page of commands name every published recipe."""

import os
import re
import subprocess
from itertools import product
from pathlib import Path

import pytest

from lra.recipes.catalog import PUBLISHED, create_recipe
from lra.recipes.published import _KEYS, FOLDER, read_table

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "lra_job_array.sh"
TASKS = ("listops", "text", "retrieval", "image", "pathfinder", "pathx")


def start(number: int, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {"PATH": os.environ["PATH"], "PYTHON": "echo", "SLURM_ARRAY_TASK_ID": str(number), **environment}
    return subprocess.run(["bash", SCRIPT], env=variables, capture_output=True, text=True, timeout=60)


def test_every_job_is_another_run_of_a_published_recipe(tmp_path):
    last = int(re.search(r"--array=0-(\d+)", SCRIPT.read_text())[1])
    assert last + 1 == len(TASKS) * len(PUBLISHED) * 3
    found = [start(number, LRA_RUNS=str(tmp_path)).stdout.split() for number in (0, 1, 5, 55, last)]
    assert found[0] == [
        "-m",
        "lra",
        "run",
        "listops",
        "s4",
        "seed=1",
        "--out",
        f"{tmp_path}/listops-s4-1",
        "--pause",
        "11h",
    ]
    assert [words[3:6] for words in found] == [
        ["listops", "s4", "seed=1"],
        ["listops", "s4", "seed=2"],
        ["listops", "s4d", "seed=3"],
        ["image", "s4", "seed=2"],
        ["pathx", "attention", "seed=3"],
    ]
    beyond = start(last + 1)
    assert beyond.returncode != 0
    assert f"the array ends at {last}" in beyond.stderr


def test_a_job_goes_on_where_it_was_stopped_and_takes_overrides(tmp_path):
    options = {"LRA_RUNS": str(tmp_path), "LRA_PAUSE": "30m", "LRA_OPTIONS": "compile=true lr=0.002"}
    words = start(0, **options).stdout.split()
    assert words[5:8] == ["seed=1", "compile=true", "lr=0.002"]
    assert words[-2:] == ["--pause", "30m"]
    (tmp_path / "listops-s4-1").mkdir()
    (tmp_path / "listops-s4-1" / "run.json").write_text("{}")
    assert start(0, **options).stdout.split() == ["-m", "lra", "resume", f"{tmp_path}/listops-s4-1", "--pause", "30m"]


@pytest.mark.parametrize("mixer", PUBLISHED)
def test_the_page_has_a_command_for_every_published_recipe(mixer):
    page = (ROOT / "docs" / "lra_runs.md").read_text()
    published = [task for task in read_table(FOLDER / f"{mixer}.toml") if task not in _KEYS]
    for task in set(TASKS) & set(published):
        assert f"`python -m lra run {task} {mixer}`" in page
    assert set(TASKS) <= set(published)


def test_the_mixers_of_the_script_are_the_published_ones():
    mixers = re.search(r"mixers=\((.*)\)", SCRIPT.read_text())[1].split()
    assert set(mixers) == set(PUBLISHED)
    assert all("no published" not in create_recipe(task, mixer).source for task, mixer in product(TASKS, mixers))
