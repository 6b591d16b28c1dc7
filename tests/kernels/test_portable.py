"""Forms for ONNX against PyTorch's own operations."""

import pytest
import torch

from seqconv_kernels import linear_scan
from seqconv_kernels._core import portable
from seqconv_kernels.linear_scan import chunked
from tolerances import assert_near


@pytest.fixture
def exporting(monkeypatch):
    for module in (portable, chunked):
        monkeypatch.setattr(module, "is_exporting_to_onnx", lambda: True)


def numbers(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(len(shape)))


@pytest.mark.parametrize("n", [1, 2, 7, 16])
def test_triangular_systems(exporting, n):
    matrix, known = numbers(2, 3, n, n), numbers(2, 3, n, 4)
    want = torch.linalg.solve_triangular(matrix, known, upper=False, unitriangular=True)
    assert_near(portable.solve_unit_lower(matrix, known), want)


@pytest.mark.parametrize("n", [1, 5, 16])
def test_dense_systems(exporting, n):
    matrix, known = numbers(3, n, n) + 2 * n * torch.eye(n, dtype=torch.float64), numbers(3, n, 2)
    assert_near(portable.solve(matrix, known), torch.linalg.solve(matrix, known))


@pytest.mark.parametrize("length", [1, 2, 13])
def test_running_maxima_and_scans(exporting, length):
    x = numbers(2, length, 3)
    assert_near(portable.running_max(x), x.cummax(1).values)
    a = torch.complex(x.sigmoid(), x)
    want = linear_scan(a, x + 0j, initial_state=a[:, 0], implementation="reference")
    assert_near(linear_scan(a, x + 0j, initial_state=a[:, 0], implementation="chunked"), want)
