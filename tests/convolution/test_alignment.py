"""Parameters are read as complex numbers at any address: checkpoint files align to 8 bytes, a complex128 is 16 wide."""

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import seqconv
import seqconv_kernels
from seqconv.filters.state_space.modal import ModalFilter
from seqconv.filters.state_space.pole_residue import PoleResidueFilter
from seqconv.filters.state_space.s4 import S4Filter
from seqconv.filters.state_space.s4d import S4DFilter
from seqconv_kernels._core.complex import as_complex


def misaligned(tensor: Tensor) -> Tensor:
    """The same values at an address that 8 divides and 16 does not."""
    buffer = torch.empty(tensor.numel() + 2, dtype=tensor.dtype)
    start = 1 if buffer.data_ptr() % 16 == 0 else 2
    copy = buffer[start : start + tensor.numel()].view(tensor.shape)
    assert copy.data_ptr() % 16 == 8
    return copy.copy_(tensor)


def modal() -> ModalFilter:
    poles = 0.9 * torch.exp(1j * torch.rand(5, 8, dtype=torch.float64))
    return ModalFilter(poles, torch.randn(5, 8, dtype=torch.complex128), torch.randn(5, 2).double())


FILTERS = {
    "modal": modal,
    "pole_residue": lambda: PoleResidueFilter(5, d_state=7),
    "s4d": lambda: S4DFilter(5, d_state=8),
    "s4": lambda: S4Filter(5, d_state=8, l_max=40),
}


@pytest.mark.parametrize("build", FILTERS.values(), ids=FILTERS)
def test_filters_accept_parameters_at_any_address(build):
    torch.manual_seed(0)
    filter = build().double()
    u = torch.randn(2, 40, 5, dtype=torch.float64)
    recurrence = filter.recurrence()
    want, steps = filter(40), recurrence.prefill(u, recurrence.init_state(2))[0]
    for parameter in filter.parameters():
        parameter.data = misaligned(parameter.data)
    recurrence = filter.recurrence()
    torch.testing.assert_close(filter(40), want)
    torch.testing.assert_close(recurrence.prefill(u, recurrence.init_state(2))[0], steps)
    filter(40).sum().backward()


def test_complex_numbers_are_made_from_parts_of_any_layout():
    parts = torch.randn(2, 4, 3, dtype=torch.float64).transpose(1, 2)[..., :2]
    assert torch.equal(torch.view_as_real(as_complex(parts)), parts)
    leaf = nn.Parameter(misaligned(torch.randn(3, 2).double()))
    assert torch.autograd.gradcheck(lambda p: as_complex(p).abs(), (leaf,))


def test_the_library_has_no_other_view_as_complex():
    views = re.compile(r"view_as_complex\(|\.view\(torch\.complex")
    roots = [Path(package.__file__).parent for package in (seqconv, seqconv_kernels)]
    found = [path.name for root in roots for path in root.rglob("*.py") if views.search(path.read_text())]
    assert found == ["complex.py"]
