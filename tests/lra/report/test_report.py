"""Reports: every run in one page, with figures, unfinished ones marked."""

import json
from pathlib import Path

import numpy as np
import pytest

from lra.recipes.catalog import create_recipe
from lra.report.figures import example_images
from lra.report.page import write_report
from lra.report.runs import Run, find_runs, read_run, unique_names
from lra.report.statistics import wilson
from lra.training.artifacts import kernels, read_artifacts
from seqconv import create_mixer
from seqconv.convolution.replacement import long_convolutions


def test_the_report_holds_every_run_in_one_page(finished, tmp_path):
    page = write_report(find_runs(finished.folder.parent), tmp_path / "report", "A & B", ["a <note>"])
    html, markdown = page.read_text(), page.with_suffix(".md").read_text()
    assert "<h1>A &amp; B</h1>" in html
    assert "a &lt;note&gt;" in html
    assert html.count("<svg") == 3
    assert "src=" not in html
    assert "http-equiv" not in html
    for text in (
        "majority class",
        "root operator",
        "s4d",
        "reduced (d_model=8, n_layers=1, batch_size=16, steps=4",
        "optimiser steps",
    ):
        assert text in html or text in markdown
    val, test = (f"{100 * finished.accuracy[split]:.1f} %" for split in ("val", "test"))
    low, high = wilson(finished.accuracy["test"], 64)
    assert f"| s4d | {val} | {test} | {100 * low:.1f} to {100 * high:.1f} % |" in markdown
    assert "peak memory, MB" in markdown
    for name in (
        "listops-small-learning-curves.svg",
        "listops-small-confusion-s4d.svg",
        "listops-small-kernels-s4d.svg",
    ):
        assert f"({name})" in markdown
        assert (page.parent / name).read_text().startswith("<svg")


def test_an_unfinished_run_is_reported_as_such(finished, tmp_path):
    folder = tmp_path / "runs" / "cut"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text((finished.folder / "run.json").read_text())
    (folder / "metrics.jsonl").write_text((finished.folder / "metrics.jsonl").read_text() + '{"step": 5, "lo')
    page = write_report([read_run(folder)], tmp_path / "report")
    assert "unfinished" in page.read_text()


@pytest.mark.parametrize("find", [read_run, find_runs])
def test_a_report_of_nothing_is_rejected(find, tmp_path):
    with pytest.raises(ValueError, match=r"report: received no run.* start one with 'python -m lra run'"):
        find(tmp_path)


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, "full"),
        ({"seed": 7, "task.seed": 3}, "full"),
        ({"precision": "bfloat16"}, "changed (precision=bfloat16)"),
        ({"steps": 10, "mixer.d_state": 8}, "changed (steps=10, mixer.d_state=8)"),
        ({"task.train": 100}, "changed (task.train=100)"),
        ({"eval_every": 7}, "changed (eval_every=7)"),
        ({"steps": 10, "reduced": True}, "reduced (steps=10)"),
    ],
)
def test_a_row_says_what_it_may_be_compared_with(changes, kind):
    """Every override is shown with its value, and no run that has one is called full."""
    recipe = json.loads(json.dumps(create_recipe("listops", "s4d").override(changes).as_dict()))
    run = Run(Path("run"), {"recipe": recipe, "data": {"origin": "generated here"}}, [], None)
    assert run.kind == f"{kind}, regenerated data"


def test_runs_of_one_model_are_told_apart():
    def made(name, seed, folder):
        return Run(Path(folder), {"recipe": {"name": f"task/{name}", "seed": seed}}, [], None)

    runs = [made("s4", 0, "a"), made("s4d", 0, "b"), made("s4d", 1, "c"), made("s4d, circular", 0, "d")]
    assert unique_names(runs) == ["s4", "s4d, seed 0", "s4d, seed 1", "s4d, circular"]
    assert unique_names([*runs, made("s4d", 1, "e")])[2:] == ["s4d, seed 1, c", "s4d, circular", "s4d, seed 1, e"]


def test_example_images_are_shown_with_their_labels():
    pixels = np.random.default_rng(0).integers(0, 255, (3, 8, 8), np.uint8)
    svg = example_images("s4", {"images": pixels, "labels": np.array([0, 1, 1]), "answers": np.array([0, 0, 1])})
    assert svg.count("<image") == 3
    for text in ("label 0, right", "label 1, answered 0", "label 1, right"):
        assert f"<!-- {text} -->" in svg


def test_learned_kernels_are_those_of_the_model(finished):
    shown = read_artifacts(finished.folder)
    (convolution, *_) = long_convolutions(finished.model).values()
    past, future = convolution.filter(len(shown["lags"]) // 2 + 1).detach().chunk(2)
    zero = list(shown["lags"]).index(0)
    channel = shown["channels"][-1]
    assert np.allclose(shown["kernels"][-1, zero:][:9], past[channel, :9])
    assert np.allclose(shown["kernels"][-1, :zero][::-1][:9], future[channel, :9])
    assert list(shown["lags"]) == list(range(-zero, len(shown["lags"]) - zero))
    assert kernels(create_mixer("attention", 8), 16) == {}
