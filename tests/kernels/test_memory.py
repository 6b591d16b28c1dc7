"""What the ops take beyond their inputs at long lengths: resident memory of a process of its own."""

from pathlib import Path

import pytest

from benchmarks.memory import extra
from seqconv_kernels import native

pytestmark = [
    pytest.mark.skipif(native.unavailable() is not None, reason=str(native.unavailable())),
    pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak can only be reset on Linux"),
]


@pytest.mark.parametrize(
    ("op", "case", "direction", "megabytes"),
    [
        ("selective_scan", "mamba-130m, 8192 tokens", "forward", 60),
        ("selective_scan", "mamba-130m, 8192 tokens", "forward + backward", 300),
        ("fft_conv", "16k, 256 channels", "forward", 422 / 5),
        ("fft_conv", "16k, 256 channels", "forward + backward", 1004 / 5),
    ],
)
def test_extra_memory(op, case, direction, megabytes):
    assert extra(op, case, "seqconv", direction) <= megabytes
