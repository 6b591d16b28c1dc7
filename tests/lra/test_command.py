"""``python -m lra``: every command on small options; mistakes end with one line and status 2."""

import json
import sys

import pytest

from lra.cli import main

SIZES = ["task.train=64", "task.val=32", "task.test=32", "d_model=8", "n_layers=1", "mixer.d_state=4"]
TINY = [*SIZES, "steps=2", "eval_every=1", "batch_size=16", "warmup_steps=1"]


def lra(monkeypatch, *arguments):
    """Run the command; its exit status."""
    monkeypatch.setattr(sys, "argv", ["lra", *map(str, arguments)])
    with pytest.raises(SystemExit) as left:
        main()
    return left.value.code


def test_list_shows_every_task(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    assert lra(monkeypatch, "list") == 0
    output = capsys.readouterr().out
    for word in (
        "listops-small",
        "MAD: compression into the last state",
        "pathx",
        "mqar",
        "tcnca",
        "80,000",
        "state-spaces/s4",
    ):
        assert word in output


def test_show_names_what_can_be_overridden(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    assert lra(monkeypatch, "show", "listops-small", "mamba", "lr=0.0625", "mixer.d_state=7", "task.seed=41") == 0
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    for row in (
        ["lr", "0.0625", "float"],
        ["mixer.d_state", "7", "int"],
        ["mixer.bidirectional", "True", "bool"],
        ["task.seed", "41", "int"],
    ):
        assert row in rows


def test_prepare_run_evaluate_report(monkeypatch, capsys, tmp_path):
    data = ("--data", tmp_path / "data", "--quiet")
    assert lra(monkeypatch, "prepare", "listops-small", "train=64", "val=32", "test=32", "--workers", 1, *data) == 0
    assert "train 64, val 32, test 32; fingerprint" in capsys.readouterr().out
    out = tmp_path / "runs" / "one"
    assert lra(monkeypatch, "run", "listops-small", "s4d", *TINY, "--budget", "1h", *data, "--out", out) == 0
    printed = capsys.readouterr()
    assert "majority class" in printed.out
    assert "━" not in printed.out + printed.err
    assert "shards" not in printed.err
    assert lra(monkeypatch, "evaluate", out, "--split", "val", *data) == 0
    accuracy = json.loads((out / "result.json").read_text())["accuracy"]["val"]
    assert f"val: {100 * accuracy:.2f} %" in capsys.readouterr().out
    assert lra(monkeypatch, "report", tmp_path / "runs", "--out", tmp_path) == 0
    assert (tmp_path / "report.html").exists()
    assert lra(monkeypatch, "resume", out, *data) == 0


def test_a_sweep_trains_reports_and_evaluates_elsewhere(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("COLUMNS", "200")
    here = ("--data", tmp_path / "data", "--quiet")
    words = ("sweep", "listops-small", "s4d", *TINY, "lr=0.001,0.01", "--out", tmp_path / "s")
    assert lra(monkeypatch, *words, *here) == 0
    out = capsys.readouterr().out
    assert "2 of 2: " in out
    assert "95 % interval of test" in out
    assert (tmp_path / "s" / "report.html").exists()
    folder = next((tmp_path / "s").glob("*lr=0.01*/seed-0"))
    assert lra(monkeypatch, "evaluate", folder, "--override", "task.test=16", "--override", "task.seed=3", *here) == 0
    assert capsys.readouterr().out.startswith("test: ")


def test_a_budget_is_announced(monkeypatch, capsys, tmp_path):
    out = ("--data", tmp_path / "data", "--quiet", "--out", tmp_path / "run", "--budget", "300h")
    assert lra(monkeypatch, "run", "listops-small", "s4d", *TINY, *out) == 0
    assert "2 steps: reduced protocol" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "listop", "s4"], "did you mean 'listops'"),
        (["run", "listops", "s44"], "did you mean 's4'"),
        (["run", "listops", "s4", "stpes=3"], "did you mean 'steps'"),
        (["run", "listops", "s4", "steps"], "wanted name=value"),
        (["run", "listops", "s4", "--budget", "soon"], "a time such as 90s"),
        (["prepare", "listops-small", "sed=3"], "did you mean 'seed'"),
        (["prepare", "text", "convention=tf"], "wanted one of s4, jax"),
        (["resume", "nowhere"], "no run.json in nowhere"),
        (["evaluate", "nowhere"], "no run.json in nowhere"),
        (["report", "nowhere"], "no run below nowhere"),
        (["sweep", "listops", "s4", "stpes=3,4"], "did you mean 'steps'"),
        (["sweep", "listops", "s4", "seeds=0"], "seeds=0; wanted at least 1"),
    ],
)
def test_mistakes_are_one_line_and_status_2(monkeypatch, capsys, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert lra(monkeypatch, *arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error


def test_small_runs_collects_and_rejects(monkeypatch, capsys, tmp_path):
    here = ("--out", tmp_path / "runs", "--data", tmp_path / "data")
    some = ("--quick", "--seeds", 1, "--workers", 1, "--task", "induction", "--mixer", "hyena", "--quiet")
    assert lra(monkeypatch, "small", *some, *here) == 0
    assert "1 of 1: induction/hyena-0" in capsys.readouterr().out
    assert lra(monkeypatch, "small", *some, *here, "--collect", "--results", tmp_path) == 0
    assert json.loads((tmp_path / "lra_small.json").read_text())["rows"][0]["model"] == "hyena"
    assert lra(monkeypatch, "small", *here, "--mixer", "hiena") == 2
    assert "did you mean 'hyena'" in capsys.readouterr().err
