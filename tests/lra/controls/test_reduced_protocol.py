"""The reduced protocol: its cells run, resume and are collected; the committed results are what the pages show."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks.lra_listops import record_of, sentence
from lra.controls.cells import COMPARED, CONTROLLED, CONTROLLED_TASK, MIXERS, TASKS, Cell, cells
from lra.controls.negative_controls import OPTIONS, negative_control
from lra.controls.results import collect, write_results
from lra.controls.runner import run_cells
from lra.controls.tables import SECTION, tables
from lra.recipes.catalog import MIXERS as KNOWN
from lra.report.markup import marks, put_into
from lra.training import grid
from seqconv import create_mixer

ROOT = Path(__file__).parents[3]
RESULTS = ROOT / "benchmarks" / "results"
OPENS, CLOSES = marks(SECTION)
CHOSEN = [
    Cell("listops-small", "s4d", 0),
    Cell("listops-small", "s4d", 1),
    Cell("listops-small", "s4d", 0, "circular"),
    *(Cell(task, "hyena", 0) for task in ("pathfinder", "recall", "induction", "selective-copying")),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def folder(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    ended = run_cells(CHOSEN, folder, data_root=root, workers=2, quick=True, quiet=True)
    assert list(ended) == [(cell, None) for cell in CHOSEN]
    return folder


def test_every_cell_has_a_recipe_and_a_folder_of_its_own():
    everything = cells(seeds=3)
    assert len({cell.folder for cell in everything}) == len(everything) == 3 * (len(MIXERS) * len(TASKS) + len(OPTIONS))
    for cell in everything:
        recipe = cell.recipe()
        assert recipe.reduced
        assert recipe.seed == cell.seed
        assert (cell.control or "our own") in recipe.source
    assert set(MIXERS) <= set(KNOWN)
    assert all(cell.recipe().steps <= 600 for cell in everything if cell.task == "listops-small")


def test_what_is_compared_with_controls_trains_from_as_many_seeds():
    everything = cells()
    assert len(everything) == len(MIXERS) * len(TASKS) + 2 * len(OPTIONS) + len(COMPARED)
    for cell in everything:
        if cell.control is not None:
            assert Cell(cell.task, cell.mixer, cell.seed) in everything
    assert {cell.seed for cell in everything if cell.control == "circular"} == {0, 1}
    assert [cell.task for cell in cells(["recall"], ["s4d"])] == ["recall"]


@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_circular_convolution_is_one(bidirectional):
    torch.manual_seed(0)
    convolution = create_mixer(CONTROLLED, 4, d_state=4, bidirectional=bidirectional).double().convolution
    u, skip = torch.randn(3, 11, 4, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    u[1, 7:] = 0  # padding
    (kernel,) = convolution.kernels(11)
    expected = u * skip
    for row, length in enumerate((11, 7, 11)):
        circle = u[row, :length]
        expected[row, :length] += sum(kernel.past[:, s] * circle.roll(s, 0) for s in range(11))
        if kernel.future is not None:
            expected[row, :length] += sum(kernel.future[:, s] * circle.roll(-s - kernel.lag, 0) for s in range(11))
    right = convolution(u, skip=skip)
    with negative_control("circular"):
        assert torch.allclose(convolution(u, skip=skip), expected, atol=1e-6)
    assert not torch.allclose(right, expected, atol=1e-2)
    assert torch.equal(convolution(u, skip=skip), right), "the control outlives its block"
    assert not torch.nn.modules.module._has_any_global_hook(), "a hook outlives its block"


def test_without_mixing_tokens_do_not_depend_on_each_other():
    torch.manual_seed(0)
    mixer = create_mixer(CONTROLLED, 8, **Cell("listops-small", CONTROLLED, 0, "no mixing").recipe().mixer_options)
    x = torch.randn(1, 9, 8)
    changed = x.clone()
    changed[:, 4] += 1.0
    moved = (mixer(changed) - mixer(x)).abs().amax(2)[0]
    assert moved[4] > 1e-3
    assert moved[[0, 1, 2, 3, 5, 6, 7, 8]].max() < 1e-6


def test_far_off_time_steps_make_flat_taps():
    options = Cell("listops-small", CONTROLLED, 0, "time step x 0.001").recipe().mixer_options
    taps = create_mixer(CONTROLLED, 8, **options).convolution.filter(96)
    assert ((taps[:, -1] - taps[:, 0]).abs() < 0.2 * taps[:, 0].abs() + 1e-5).all()


def test_unknown_controls_are_rejected():
    with (
        pytest.raises(ValueError, match=r"control 'circle'; wanted .*did you mean 'circular'"),
        negative_control("circle"),
    ):
        pass


def test_finished_cells_are_not_run_again_and_others_go_on(folder, root, monkeypatch):
    cut = CHOSEN[1]
    assert {json.loads((folder / cell.folder / "run.json").read_text())["recipe"]["seed"] for cell in CHOSEN} == {0, 1}
    (folder / cut.folder / "result.json").unlink()
    again = []

    def note(recipe, place, **options):
        again.append((place, options["resume"]))
        return run(recipe, place, **options)

    run = grid.run
    monkeypatch.setattr(grid, "run", note)
    list(run_cells(CHOSEN, folder, data_root=root, workers=1, quick=True, quiet=True))
    assert again == [(folder / cut.folder, True)]
    assert (folder / cut.folder / "result.json").exists()


def test_a_cell_that_fails_is_recorded_and_the_others_go_on(folder, root, tmp_path, monkeypatch):
    """Whatever it raises; the next try takes it up again, and its error is gone when that succeeds."""
    cut, run = CHOSEN[:2], grid.run
    for cell in cut:
        (folder / cell.folder / "result.json").unlink()

    def fail(recipe, place, **options):
        if place == folder / cut[0].folder:
            raise RuntimeError("out of memory")
        return run(recipe, place, **options)

    monkeypatch.setattr(grid, "run", fail)
    ended = list(run_cells(CHOSEN, folder, data_root=root, workers=1, quick=True, quiet=True))
    assert ended == [(cut[0], "RuntimeError: out of memory"), *((cell, None) for cell in CHOSEN[1:])]
    record = collect(CHOSEN, folder, root)
    assert record["failed"] == {cut[0].folder: "RuntimeError: out of memory"}
    assert f"Failed: {cut[0].folder}: RuntimeError: out of memory" in tables(record)
    monkeypatch.undo()
    assert all(error is None for _, error in run_cells(cut, folder, data_root=root, workers=1, quick=True))
    assert collect(CHOSEN, folder, root)["failed"] == {}


def test_results_are_collected_by_model_and_task(folder, root, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{OPENS}old\n{CLOSES}\nafter\n")
    written = write_results([*CHOSEN, Cell("recall", "s4", 0)], folder, tmp_path, page, root)
    record = json.loads((tmp_path / "lra_small.json").read_text())
    assert record["missing"] == ["recall/s4-0"]
    first = record["rows"][0]
    assert (first["task"], first["model"], first["seeds"]) == ("listops-small", "s4d", [0, 1])
    assert first["test"] == pytest.approx(sum(first["by_seed"]["test"]) / 2)
    assert first["tokens_per_s"] > 0
    assert first["parameters"] > 0
    assert [row["negative_control"] for row in record["rows"][:2]] == [None, "circular"]
    assert record["baselines"]["pathfinder"]["test"]["chance"] == 0.5
    assert tables(record) in written.read_text()
    assert page.read_text() == f"before\n{OPENS}\n{tables(record)}\n{CLOSES}\nafter\n"
    put_into(page, "new", SECTION)
    assert page.read_text() == f"before\n{OPENS}\nnew\n{CLOSES}\nafter\n"


def test_mistakes_are_rejected(root, tmp_path):
    with pytest.raises(ValueError, match=r"no finished run below .*run it without --collect"):
        write_results(CHOSEN, tmp_path, tmp_path, None, root)
    page = tmp_path / "page.md"
    page.write_text("nothing")
    with pytest.raises(ValueError, match=r"without the marks; wanted both marks"):
        put_into(page, "text", SECTION)
    assert collect([], tmp_path)["rows"] == []


@pytest.mark.skipif(not (RESULTS / "lra_small.json").exists(), reason="measured results are not part of this copy")
def test_the_committed_results_are_shown_and_tell_right_from_wrong():
    record = json.loads((RESULTS / "lra_small.json").read_text())
    assert tables(record) in (RESULTS / "lra_small.md").read_text()
    assert tables(record) in (ROOT / "docs" / "lra.md").read_text()
    found = {(row["task"], row["model"]): row["val"] for row in record["rows"]}
    assert min(found["listops-small", mixer] for mixer in ("s4", "s4d")) > 0.41
    assert max(found[CONTROLLED_TASK, f"{CONTROLLED}, {name}"] for name in OPTIONS) < found[CONTROLLED_TASK, CONTROLLED]


@pytest.mark.skipif(not (RESULTS / "lra_listops.json").exists(), reason="measured results are not part of this copy")
def test_the_page_quotes_how_far_full_listops_got():
    record = json.loads((RESULTS / "lra_listops.json").read_text())
    assert record["recipe"]["task"] == "listops"
    assert sentence(record) in " ".join((ROOT / "docs" / "lra.md").read_text().split())


def test_the_record_of_a_run_says_where_it_got(folder):
    cell = CHOSEN[0]
    record = record_of(folder / cell.folder)
    best = max(line.get("eval_accuracy", 0.0) for line in record["metrics"])
    assert sentence(record).startswith(f"{100 * best:.1f} % on validation after ")
    assert sentence(record).endswith("2 of 2 steps were done")
    assert "native kernels" not in record["hardware"]
