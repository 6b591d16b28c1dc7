"""What the ops take beyond their inputs at long lengths: resident memory of a process of its own."""

from pathlib import Path

import pytest
import torch

from benchmarks.memory import extra
from seqconv_kernels._core import native

pytestmark = [
    pytest.mark.skipif(native.unavailable() is not None, reason=str(native.unavailable())),
    pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak can only be reset on Linux"),
]


@pytest.mark.parametrize(
    ("op", "case", "direction", "megabytes", "threads"),
    [
        ("selective_scan", "mamba-130m, 8192 tokens", "forward", 60, 1),
        ("selective_scan", "mamba-130m, 8192 tokens", "forward + backward", 300, 1),
        ("fft_conv", "16k, 256 channels", "forward", 422 / 5, 1),
        pytest.param("fft_conv", "16k, 256 channels", "forward", 422 / 5, 2, marks=pytest.mark.slow),
        ("fft_conv", "16k, 256 channels", "forward + backward", 1004 / 5, 1),
        pytest.param("fft_conv", "16k, 256 channels", "forward + backward", 1004 / 5, 2, marks=pytest.mark.slow),
    ],
)
def test_extra_memory(op, case, direction, megabytes, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)  # which the process that is measured takes over
    try:
        assert extra(op, case, "seqconv", direction) <= megabytes
    finally:
        torch.set_num_threads(before)
