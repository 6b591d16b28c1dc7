"""Statistics over runs: seeds as one row, intervals, the table of six tasks, exports."""

import csv
import json
from io import StringIO
from pathlib import Path

import pytest
from scipy import stats

from lra.recipes.catalog import create_recipe
from lra.report.markup import csv_table, latex_table, markdown_table
from lra.report.page import write_report
from lra.report.published_results import TASKS
from lra.report.runs import Run
from lra.report.statistics import groups, wilson
from lra.report.tables import accuracy_table, differences_table, run_table, six_task_table


def made(task="listops", mixer="s4", seed=0, test=0.6, decisions=2000, folder="run", **changes) -> Run:
    """A finished run that never ran."""
    recipe = create_recipe(task, mixer).override({"seed": seed, **changes})
    about = {
        "recipe": json.loads(json.dumps(recipe.as_dict())),
        "data": {"origin": "generated", "fingerprint": "f" * 64},
        "parameters": {"all": 1000},
        "versions": {},
        "hardware": {},
    }
    spent = {"wall_s": 10.0, "cpu_s": 20.0, "steps": 5}
    result = {"accuracy": {"val": test, "test": test}, "baselines": {"val": {}}, "spent": spent, "sequences_per_s": 1.0}
    return Run(Path(folder), about, [], {**result, "decisions": {"val": decisions, "test": decisions}})


@pytest.mark.parametrize(("share", "count"), [(0.0, 10), (0.3, 10), (0.5963, 2000), (1.0, 7)])
def test_wilsons_interval_is_scipys(share, count):
    right = round(share * count)
    expected = stats.binomtest(right, count).proportion_ci(0.95, "wilson")
    assert wilson(right / count, count) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_several_seeds_are_one_row():
    runs = [made(seed=seed, test=test) for seed, test in enumerate((0.59, 0.60, 0.64))]
    header, row = accuracy_table(runs)
    low, high = wilson(0.61, 2000)
    assert header[3] == "95 % interval of test"
    assert row == [
        "s4",
        "61.0 ± 2.6 % (3)",
        "61.0 ± 2.6 % (3)",
        f"{100 * low:.1f} to {100 * high:.1f} %",
        "full, regenerated data",
    ]


def test_a_seed_counts_once():
    """A copied folder is no second seed."""
    unfinished = Run(Path("x"), made(seed=0).about, [], None)
    (group,) = groups([unfinished, made(seed=0, test=0.5), made(seed=0, test=0.6), made(seed=1, test=0.7)])
    assert (group.values("test"), group.repeated) == ([0.5, 0.7], 2)
    row = accuracy_table([made(seed=0, test=0.5), made(seed=0, test=0.5)])[1]
    assert row[2] == "50.0 %"
    assert row[-1] == "full, regenerated data; 1 more of the same seeds left out"


def test_runs_of_other_versions_are_changed_and_do_not_end_a_report(tmp_path):
    """A recipe that this version does not know, a field that it lost, a folder from before a field was there."""
    gone, lost, older = made(), made(), made()
    gone.recipe.update(task="listops2", name="listops2/s4")
    lost.recipe["label_smoothing"] = 0.1
    del older.recipe["model_options"], older.recipe["mlp_every"]
    assert gone.kind == "changed (recipe=unknown to this version), regenerated data"
    assert lost.kind == "changed (label_smoothing=0.1), regenerated data"
    assert older.kind == "full, regenerated data"
    assert "listops2" in write_report([gone, lost, older], tmp_path).read_text()


def test_language_models_have_bits_and_perplexity_everywhere(tmp_path):
    runs = [made("enwik8", "mega", seed=seed) for seed in (0, 1)]
    for run, bits in zip(runs, (1.0, 1.25), strict=True):
        run.result.update({name: {"val": bits, "test": bits} for name in ("bits", "perplexity")})
        run.about["data"]["score"] = "bits per byte"
    write_report(runs, tmp_path)
    assert r"1.1250 $\pm$ 0.1768 (2)" in (tmp_path / "enwik8-language.tex").read_text()
    rows = list(csv.DictReader(StringIO((tmp_path / "runs.csv").read_text())))
    assert [row["bits_test"] for row in rows] == ["1.0", "1.25"]


def test_several_changed_settings_of_a_task_are_named_in_the_six_task_table():
    row = six_task_table([made(lr=0.5), made(lr=0.25), made("text")])[1:3]
    assert [cells[-1] for cells in row] == ["changed; the first of several settings of listops", "full"]


def test_other_settings_are_other_rows_and_unfinished_seeds_are_counted():
    runs = [made(seed=0), made(seed=1), made(seed=0, lr=0.5), Run(Path("x"), made(seed=2).about, [], None)]
    assert [len(group.runs) for group in groups(runs)] == [3, 1]
    rows = accuracy_table(runs)[1:]
    assert rows[0][1] == "60.0 ± 0.0 % (2)"
    assert rows[0][4] == "full, regenerated data; 1 unfinished"
    assert rows[1][4] == "changed (lr=0.5), regenerated data"


def test_six_tasks_have_an_average_when_all_are_there():
    tests = dict(zip(TASKS, (0.6, 0.8, 0.9, 0.7, 0.5, 0.4), strict=True))
    runs = [made(task=task, test=test) for task, test in tests.items()]
    runs += [made(task="listops", mixer="attention", test=0.4)]
    header, s4, attention, *published = six_task_table(runs)
    assert header == ["model", *TASKS, "average", "kind"]
    assert s4 == ["s4", "60.0 %", "80.0 %", "90.0 %", "70.0 %", "50.0 %", "40.0 %", "65.0 %", "full"]
    assert attention[1:3] == ["40.0 %", "-"]
    assert attention[-2] == "-"
    rows = {row[0]: row for row in published}
    assert rows["S4 (second version)"][-2:] == ["86.09 %", "published: S4 paper, table 10"]
    assert rows["Transformer"][-2:] == ["53.66 %", "published: LRA paper, table 1"]
    assert len(six_task_table([made(task="recall", mixer="s4")])) == 1


def test_tables_are_exported(tmp_path):
    runs = [made(seed=seed, folder=f"run, {seed}") for seed in (0, 1)]
    write_report(runs, tmp_path)
    rows = list(csv.reader(StringIO((tmp_path / "runs.csv").read_text())))
    assert rows[0][:5] == ["folder", "task", "model", "seed", "kind"]
    assert rows[0][8:13] == ["steps", "wall_s", "cpu_s", "peak_mb", "sequences_per_s"]
    assert rows[1][8:] == ["5", "10.0", "20.0", "", "1.0", "", "", "", ""]
    assert [row[0] for row in rows[1:]] == ["run, 0", "run, 1"]
    assert float(rows[1][6]) == 0.6
    latex = (tmp_path / "listops-accuracy.tex").read_text()
    assert latex.startswith(r"\begin{tabular}{lcccc}")
    assert r"60.0 $\pm$ 0.0 \% (2) &" in latex
    assert (tmp_path / "six-tasks.tex").exists()


def test_cells_are_escaped():
    table = [["a|b", "50 % & more"], ["x_1", "#{}"]]
    assert markdown_table(table).startswith("| a\\|b |")
    assert r"a|b & 50 \% \& more \\" in latex_table(table)
    assert r"x\_1 & \#\{\} \\" in latex_table(table)
    assert list(csv.reader(StringIO(csv_table(table)))) == table


def test_reports_list_what_differs_from_the_source():
    table = differences_table([made(task="image", mixer="sgconv"), made(task="image", mixer="mamba")])
    rows = {row[1]: row for row in table[1:]}
    assert {row[0] for row in table[1:]} == {"image/sgconv"}
    assert rows["steps"][2].startswith("180000, not 200000: ")
    assert "drop_last" in rows


def test_unfinished_runs_have_empty_cells():
    assert run_table([Run(Path("x"), made().about, [], None)])[1][5:7] == ["", ""]
