"""The report about a GPU, at the sizes of the interpreter."""

import time
from importlib import import_module

import pytest
import torch

import seqconv_kernels as K
from benchmarks.gpu.__main__ import markdown, run
from benchmarks.gpu.cases import HALF, checks
from benchmarks.gpu.checks import Check, run_checks

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def inputs(dtype):
    return {"x": torch.randn(5, generator=torch.Generator().manual_seed(0)).to(dtype)}


def check(run):
    return Check("planted", "five numbers", run, inputs, {}, HALF[:1])


def test_the_whole_report_of_one_op():
    report = run(False, time.monotonic(), 5.0, "linear_scan")
    assert {row["dtype"] for row in report["checks"]} == {"float32", "bfloat16", "float16"}
    assert all(row["passed"] for row in report["checks"]), report["checks"]
    assert {row["direction"] for row in report["rows"]} == {"forward", "forward + backward"}
    assert "| linear_scan | 2, 37, 5 | float32 |" in markdown(report)


def test_what_the_time_does_not_allow_is_not_called_passed():
    rows = list(run_checks(list(checks("tiny"))[:2], DEVICE, time.monotonic() - 1))
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
    (row,) = run_checks([check(wrong)], DEVICE, time.monotonic() + 60)
    assert row["passed"] is False


def test_a_kernel_that_raises_is_reported_and_the_rest_goes_on():
    def broken(x, implementation):
        if implementation == "triton":
            raise RuntimeError("out of shared memory")
        return x

    first, second = run_checks([check(broken), check(lambda x, implementation: 2 * x)], DEVICE, time.monotonic() + 60)
    assert first["passed"] is False
    assert "out of shared memory" in first["note"]
    assert second["passed"]


def test_every_op_with_a_triton_kernel_is_checked():
    assert {name for name in K.__all__ if _serves(name)} <= {check.op for check in checks("tiny")}


def _serves(name):
    """Whether a whole-sequence op has a Triton kernel: its table of implementations is OP, or has its own name."""
    package = import_module(getattr(K, name).__module__)
    own = package.__name__.endswith(f".{name}")
    table = getattr(package, name.upper(), None) or (getattr(package, "OP", None) if own else None)
    return table is not None and "triton" in {i.name for i in table.implementations}
