"""Sweeps: every combination and seed once, resumable, mistakes found before anything runs."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lra.training.evaluation import evaluate
from lra.training.grid import finish_or_record
from lra.training.run import read_recipe, run
from lra.training.sweep import run_trials, split_values, trials
from lra.training.trainer import check_trackers
from tiny_run import tiny


def test_every_combination_is_trained_from_every_seed():
    chosen = trials(tiny(), {"lr": "0.001,0.002", "mixer.d_state": "4,8", "seeds": "2"})
    assert [trial.folder for trial in chosen[:2]] == [
        "lr=0.001,mixer.d_state=4/seed-0",
        "lr=0.001,mixer.d_state=8/seed-0",
    ]
    assert len({trial.folder for trial in chosen}) == len(chosen) == 8
    found = {(t.recipe.lr, t.recipe.mixer_options["d_state"], t.recipe.seed) for t in chosen}
    assert found == {(lr, d, seed) for lr in (0.001, 0.002) for d in (4, 8) for seed in (0, 1)}
    assert [trial.folder for trial in trials(tiny(), {})] == ["recipe/seed-0"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lrr": "1,2"}, r"override 'lrr'; .*did you mean 'lr'"),
        ({"mixer.d_stat": "1"}, r"did you mean 'd_state'"),
        ({"lr": "0.1,fast"}, r"lr='fast'; wanted float"),
        ({"lr": "0.1,0.1"}, r"sweep: received lr=0.1,0.1; wanted different values"),
        ({"lr": "0.1,"}, r"sweep: received lr=0.1,; wanted different values"),
        (
            {"lr": "0.01,1e-2"},
            r"the same training, .*lr=1e-2/seed-0, for {'lr': '0.01'} and {'lr': '1e-2'}",
        ),
        ({"seed": "3", "seeds": "2"}, r"the same training.*give either seed or seeds"),
        ({"seeds": "0"}, r"sweep: received seeds=0; wanted at least 1"),
        ({"seeds": "few"}, r"seeds='few'; wanted int"),
    ],
)
def test_mistakes_are_found_before_anything_runs(settings, message):
    with pytest.raises(ValueError, match=message):
        trials(tiny(), settings)


def test_lists_are_one_value():
    assert split_values("mixer.lr", '{"A": 1, "B": 2}') == ['{"A": 1, "B": 2}']


def test_a_sweep_goes_on_and_a_failed_training_does_not_end_it(root, tmp_path):
    chosen = trials(tiny(steps=2), {"lr": "0.001,1e30", "max_grad_norm": "0"})
    done = {trial.folder: error for trial, error in run_trials(chosen, tmp_path, data_root=root, quiet=True)}
    good, bad = (trial.folder for trial in chosen)
    assert done[good] is None
    assert "wanted finite numbers" in done[bad]
    written = (tmp_path / good / "result.json").stat().st_mtime_ns
    again = {trial.folder: error for trial, error in run_trials(chosen[:1], tmp_path, data_root=root, quiet=True)}
    assert again == {good: None}
    assert (tmp_path / good / "result.json").stat().st_mtime_ns == written


def test_a_finished_run_of_another_recipe_is_no_result(finished, root):
    """As after a recipe was corrected: the folder's numbers are of the earlier one."""
    recipe = read_recipe(finished.folder)
    assert finish_or_record(replace(recipe, source="in other words"), finished.folder, root) is None
    told = finish_or_record(replace(recipe, dropout=0.5), finished.folder, root)
    assert "a changed recipe: dropout=0.5 (was 0.0)" in told
    (finished.folder / "failure.txt").unlink()


def test_an_output_folder_that_cannot_be_written_to(root, tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "run", Path("/proc/run")):
        with pytest.raises(ValueError, match=r"run: received .*; wanted a folder that can be written to.*--out"):
            run(tiny(), folder, data_root=root, quiet=True)


def test_a_model_is_evaluated_on_other_data(finished, root):
    accuracy = evaluate(finished.folder, overrides={"task.seed": 5, "task.test": 32}, data_root=root, quiet=True)
    assert accuracy * 32 == pytest.approx(round(accuracy * 32))
    with pytest.raises(ValueError, match=r"evaluate: received an override of lr; wanted task.<option> or batch_size"):
        evaluate(finished.folder, overrides={"lr": 1.0}, data_root=root)


def test_results_count_decisions_and_memory(finished):
    result = json.loads((finished.folder / "result.json").read_text())
    assert result["decisions"] == {"val": 64, "test": 64}
    assert 50 < result["spent"]["peak_mb"] < 100_000


@pytest.mark.parametrize(
    ("tracker", "message"),
    [
        ("tensorbord", r"tracker 'tensorbord'.*did you mean 'tensorboard'"),
        ("swanlab", r"--track swanlab; .*pip install"),
    ],
)
def test_trackers_that_cannot_work_are_named_before_anything_runs(root, tmp_path, tracker, message):
    with pytest.raises(ValueError, match=message):
        run(tiny(), tmp_path / "run", data_root=root, quiet=True, track=[tracker])
    assert not (tmp_path / "run").exists()
    check_trackers(["tensorboard"])
