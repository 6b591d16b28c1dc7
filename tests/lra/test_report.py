"""Reports: every run in one page, with figures, unfinished ones marked."""

import pytest

from lra.report import find_runs, read_run, write_report


def test_the_report_holds_every_run_in_one_page(finished, tmp_path):
    page = write_report(find_runs(finished.folder.parent), tmp_path / "report", "A & B", ["a <note>"])
    html, markdown = page.read_text(), page.with_suffix(".md").read_text()
    assert "<h1>A &amp; B</h1>" in html
    assert "a &lt;note&gt;" in html
    assert html.count("<svg") == 3
    assert "src=" not in html
    assert "http-equiv" not in html
    for text in ("majority class", "root operator", "s4d", "reduced, regenerated data", "optimiser steps"):
        assert text in html or text in markdown
    accuracy = f"{100 * finished.accuracy['val']:.1f} %"
    assert f"| s4d | {accuracy} |" in markdown
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
def test_a_report_of_nothing_is_refused(find, tmp_path):
    with pytest.raises(ValueError, match=r"report: received no run.* start one with 'python -m lra run'"):
        find(tmp_path)
