"""The report about a GPU, at the sizes of the interpreter."""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from importlib import import_module
from types import SimpleNamespace

import pytest
import torch

import seqconv_kernels as K
from benchmarks.gpu import timed as timed_module
from benchmarks.gpu import tune, workers
from benchmarks.gpu.__main__ import jobs, run
from benchmarks.gpu.cases import HALF, checks
from benchmarks.gpu.checks import Check, items
from benchmarks.gpu.report import continued, empty, markdown, withdrawals
from benchmarks.gpu.speed import measure
from benchmarks.gpu.targets import Target
from benchmarks.gpu.timed import timed
from benchmarks.gpu.workers import Item, Job, rows_of, serve, work
from seqconv_kernels._core.registry import ops
from seqconv_kernels._core.triton import withdrawn

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NAME = {"op": "planted", "case": "five numbers", "dtype": "float32"}


def inputs(dtype):
    return {"x": torch.randn(5, generator=torch.Generator().manual_seed(0)).to(dtype)}


def row_of(run):
    (item,) = items([Check("planted", "five numbers", run, inputs, {}, HALF[:1])], DEVICE)
    (row,) = rows_of(item)
    return row


def options(folder, only, minutes=20.0, tuning=False, part="all"):
    return argparse.Namespace(out=folder, minutes=minutes, only=only, workers=2, tune=tuning, part=part, earlier=None)


@pytest.mark.slow  # three processes; the next test runs the same in two parts
@pytest.mark.skipif(torch.cuda.is_available(), reason="real sizes take minutes")
def test_the_whole_report_of_one_op(tmp_path):
    report = run(options(tmp_path, "vandermonde"), time.monotonic())
    assert {row["dtype"] for row in report["checks"]} == {"float32"}
    assert all(row["passed"] for row in report["checks"]), report["checks"]
    assert {row["direction"] for row in report["rows"]} == {"forward", "forward + backward"}
    assert {row["direction"] for row in report["prepared"]} == {"forward", "forward + backward"}
    text = (tmp_path / "gpu-interpreted.md").read_text()
    assert "| vandermonde | Shape(heads=2, channels=3, pairs=4, length=33) | float32 |" in text
    assert "| vandermonde | heads 1, channels 2, pairs 2, length 33 | float32 | forward |" in text


@pytest.mark.skipif(torch.cuda.is_available(), reason="real sizes take minutes")
def test_checks_first_and_times_in_a_later_run(tmp_path):
    first = run(options(tmp_path, "cauchy", part="checks"), time.monotonic())
    assert all(row["passed"] for row in first["checks"]), first["checks"]
    assert first["rows"] == first["prepared"] == []
    second = run(options(tmp_path, "cauchy", part="times"), time.monotonic())
    assert second["checks"] == first["checks"]
    for part in ("rows", "prepared"):
        assert {row["direction"] for row in second[part]} == {"forward", "forward + backward"}
    assert "| cauchy | Shape" in (tmp_path / "gpu-interpreted.md").read_text()


def test_results_of_another_machine_are_not_continued(tmp_path):
    earlier = empty(False) | {"checks": [NAME], "machine": {"gpu": "another"}}
    (tmp_path / "gpu.json").write_text(json.dumps(earlier))
    assert continued(False, "times", tmp_path / "gpu.json")["checks"] == []
    (tmp_path / "gpu.json").write_text(json.dumps(empty(False) | {"checks": [NAME]}))
    assert continued(False, "times", tmp_path / "gpu.json")["checks"] == [NAME]
    assert continued(False, "all", tmp_path / "gpu.json")["checks"] == []


@pytest.mark.parametrize("part", ["checks", "times"])
def test_the_command_line_of_each_part(tmp_path, part):
    """As on a GPU: arguments parsed, workers started, both files written, the exit status says what was not run."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--out", tmp_path, "--only", "linear_scan"]
    command += ["--part", part, "--minutes", "0", "--workers", "1"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, cwd=workers.ROOT, env=environment, capture_output=True, text=True)
    assert ("checks failed" in done.stderr) is (part == "checks"), done.stderr
    assert done.returncode == (part == "checks")
    assert len(list(tmp_path.iterdir())) == 2


def test_failed_kernels_are_withdrawn(monkeypatch):
    """The report's entry makes the default call take the next implementation and a named one raise."""
    row = {"op": "linear_scan", "case": "", "dtype": "float32", "passed": False, "note": ""}
    report = empty(False) | {"checks": [row]}
    (entry,) = withdrawals(report)
    assert entry in markdown(report)
    monkeypatch.setattr(withdrawn, "WITHDRAWN", eval("{" + entry + "}", {"torch": torch}))
    a = torch.rand(1, 5, 2, device=DEVICE)
    reason = re.escape("1 checks failed on none: Triton's interpreter, see benchmarks/results/gpu.md")
    with pytest.raises(ValueError, match=reason):
        K.linear_scan(a, a, implementation="triton")
    op = ops()["linear_scan"].op
    supported = op.report(op.inputs(a, a, a.new_zeros(1, 2)))
    other = next(name for name, reason in supported.items() if reason is None)
    assert other != "triton"
    assert torch.equal(K.linear_scan(a, a), K.linear_scan(a, a, implementation=other))
    K.linear_scan(a.double(), a.double(), implementation="triton")


def test_what_failed_in_the_committed_report_is_withdrawn():
    """And nothing else: a kernel that passes again comes back."""
    file = workers.ROOT / "benchmarks" / "results" / "gpu.json"
    report = json.loads(file.read_text()) if file.exists() else empty(False)
    wanted = eval("{" + "".join(withdrawals(report)) + "}", {"torch": torch})
    assert withdrawn.WITHDRAWN.keys() == wanted.keys()


@pytest.mark.parametrize("op", ["gated_linear_attention", "delta_rule"])
def test_fla_is_timed_where_it_is_installed(monkeypatch, op):
    """A module of fla that is there runs; one that is not leaves a note, and seqconv is timed all the same."""
    shape = next(shape for shape in timed(True, DEVICE) if shape.op == op)
    modules = {
        "gated_linear_attention": ("gla", "chunk_gla"),
        "delta_rule": ("gated_delta_rule", "chunk_gated_delta_rule"),
    }
    path, name = modules[op]
    monkeypatch.setattr(timed_module, "_there", lambda package: package == "fla")
    row = measure(shape.make(1), "forward", None)
    assert f"fla.ops.{path}" in row["notes"]["fla"]
    assert row["ms"]["seqconv"] > 0

    def chunk(g, **inputs):
        return getattr(K, op)(log_decay=g, **inputs), None

    monkeypatch.setitem(sys.modules, f"fla.ops.{path}", SimpleNamespace(**{name: chunk}))
    monkeypatch.setattr(timed_module, "import_module", lambda module: sys.modules[module])
    row = measure(shape.make(1), "forward", None)
    assert row["notes"] == {}
    assert row["ms"]["fla"] > 0


def test_what_the_time_does_not_allow_is_not_called_passed(tmp_path):
    report = run(options(tmp_path, "linear_scan", minutes=0.0), time.monotonic())
    rows = [*report["checks"], *report["rows"]]
    assert {row["passed"] for row in rows} == {None}
    assert all("not run" in row["note"] for row in rows)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x, implementation: x * (2 if implementation == "reference" else 2.001),
        lambda x, implementation: 2 * x if implementation == "reference" else x + x.detach(),
        lambda x, implementation: 2 * x if implementation == "reference" else x * torch.nan,
        lambda x, implementation: x if implementation == "reference" else x + 1e-6 * torch.rand(5),
    ],
    ids=["value", "gradient", "nan", "other bits"],
)
def test_a_wrong_kernel_is_found(wrong):
    assert row_of(wrong)["passed"] is False


def test_a_kernel_that_raises_is_reported_and_the_rest_goes_on(capsys):
    def broken(x, implementation):
        raise RuntimeError("out of shared memory" + 1000 * "." + "the end")

    row = row_of(broken)
    assert row["passed"] is False
    assert "out of shared memory" in row["note"]
    assert row["note"].endswith("the end")
    assert len(row["note"]) < 800
    planted = [Check("planted", "five numbers", f, inputs, {}, HALF[:1]) for f in (broken, lambda x, implementation: x)]
    serve(items(planted, DEVICE))
    assert capsys.readouterr().out.count(workers.DONE) == 2


def test_memory_that_others_hold_is_waited_for():
    tries = []

    def rows():
        tries.append(1)
        if len(tries) < 2:
            raise torch.OutOfMemoryError("none left")
        yield NAME

    assert list(rows_of(Item(NAME, rows), patience=0)) == [NAME]


WORKER = f"""
import os, sys, time
for place in sys.argv[1].split(","):
    if place == "1":
        {{fault}}
    print('{workers.ROW}{{{{"op": "planted", "place": ' + place + '}}}}', flush=True)
    print('{workers.DONE}', flush=True)
"""


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("os.abort()", "the process ended with -6"),
        ("sys.exit('no such symbol')", "no such symbol"),
        ("time.sleep(60)", "nothing came within 3 seconds"),
    ],
)
def test_what_breaks_a_worker_breaks_nothing_else(monkeypatch, fault, said):
    script = WORKER.format(fault=fault)
    monkeypatch.setattr(workers, "command", lambda kind, places: [workers.sys.executable, "-c", script, places])
    names = [NAME | {"place": place} for place in (0, 1, 2)]
    rows = [row for _, row in work([Job("speed", [0, 1, 2], names, 3.0)], 1, time.monotonic() + 60)]
    assert [row["place"] for row in rows] == [0, 1, 2]
    assert said in rows[1]["note"]
    assert rows[1]["passed"] is False


def test_every_op_with_a_triton_kernel_is_checked_and_timed():
    served = {name for name in K.__all__ if _serves(name)}
    assert served <= {check.op for check in checks("tiny")}
    assert served <= {shape.op for shape in timed(True, DEVICE)} == {shape.op for shape in timed(False, DEVICE)}


def test_everything_has_a_job_of_its_own_kind_once():
    for tuning in (False, True):
        for job in (job for part in jobs(tuning, "") for job in part):
            assert len(job.places) == len(job.names) == len(set(job.places))


def test_choices_are_undone_and_the_first_is_what_the_code_has():
    before = _blocks()
    choices = list(tune.choices(False, DEVICE))
    for choice in choices:
        with choice.change():
            assert (_blocks() == before) is (choice.words == "as it is"), choice
    assert _blocks() == before
    for op in ("selective_scan", "fft_conv", "gated_linear_attention", "delta_rule", "causal_conv1d", "linear_scan"):
        assert next(c for c in choices if c.timed.op == op).words == "as it is"


@pytest.mark.skipif(torch.cuda.is_available(), reason="real sizes take minutes")
def test_choices_of_one_op_are_timed(tmp_path):
    report = run(options(tmp_path, "causal_conv1d", tuning=True), time.monotonic())
    assert report["prepared"] == []
    assert next(row["choice"] for row in report["alternatives"]) == "as it is"
    assert all(len(row["ms"]) == 2 for row in report["alternatives"])
    assert "| as it is |" in (tmp_path / "tune-interpreted.md").read_text()


def test_targets_are_answered_or_said_to_be_open():
    row = {"op": "selective_scan", "case": "a shape", "dtype": "bfloat16", "direction": "forward", "moved": 6e9,
           "operations": 0.0, "ms": {"seqconv": 2.0, "PyTorch scan": 50.0}, "kernels": {}}  # fmt: skip
    report = empty(False) | {"rows": [row], "ceilings": {"copy": 4e12, "multiply": 7e14}}
    text = markdown(report)
    assert "seqconv, of copy bandwidth | 0.45 | 0.75 | reached |" in text
    assert "seqconv, times faster than PyTorch scan | 20.0 | 25.00 | reached |" in text
    assert "seqconv, times faster than mamba-ssm | 1.0 | – | mamba-ssm was not there to be timed |" in text
    assert "not timed" in text
    missed = Target("selective_scan", "", "bfloat16", "forward", "seqconv", "PyTorch scan", 40.0)
    assert missed.reached(row, {}) == 25.0


def _blocks():
    """All that a choice may change."""
    names = {
        "selective_scan.triton": ("PROGRAMS", "FORWARD_STATES", "BACKWARD_STATES", "PREFETCH", "CHECKPOINT"),
        "fft_conv.triton_passes": ("PROGRAMS", "LANES", "PREFETCH_POINTS", "REGISTER_POINTS"),
        "causal_conv1d.triton": ("BLOCK_T", "BLOCK_C"),
        "linear_scan.triton": ("BLOCK", "MIN_CHUNK"),
        "_linear_attention.triton_blocks": ("CHUNK",),
    }
    found = [getattr(import_module(f"seqconv_kernels.{m}"), n) for m, wanted in names.items() for n in wanted]
    plan, blocks = (import_module(f"seqconv_kernels.{m}") for m in ("fft_conv.plan", "_linear_attention.triton_blocks"))
    points = [dict(table) for table in (plan.TILES, plan.LARGEST, plan.LARGEST_INNER)]
    sizes = [blocks.Sizes(128, 128, True, vector, delta) for vector in (False, True) for delta in (False, True)]
    return [*found, *points, *((s.intra_chunk(), s.state_passing(96), s.intra_chunk_backward()) for s in sizes)]


def _serves(name):
    """Whether a whole-sequence op has a Triton kernel."""
    entry = ops().get(name)
    return entry is not None and "triton" in {i.name for i in entry.op.implementations}
