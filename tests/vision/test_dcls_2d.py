"""DCLS over images: the original's numbers where an image has one row, where taps lie, errors."""

import pytest
import torch

from golden_cases import assert_close, load_case
from seqconv import from_original
from seqconv.filters.explicit.dcls_2d import DCLSFilter2d
from seqconv.vision import create_mixer_2d

ORIGINAL = "K-H-Ismail/Dilated-Convolution-with-Learnable-Spacings-PyTorch:Dcls2d"


@pytest.mark.parametrize("name", ["dcls1d_v1", "dcls1d_max"])
def test_one_row_is_the_original_in_one_dimension(name):
    """Taps in the middle row alone, of no width: the golden numbers of sequences."""
    case = load_case(name)
    params = case.group("param")
    params["P"] = torch.cat([params["P"], torch.zeros_like(params["P"])])  # columns, then rows
    if "SIG" in params:
        params["SIG"] = torch.cat([params["SIG"], torch.zeros_like(params["SIG"])])
    module = from_original(ORIGINAL, params, **case.hyper)
    x = case.tensors["in.x"].movedim(1, -1)  # (batch, length, channels)
    want = case.tensors["out.y"].movedim(1, -1)
    row = case.hyper["padding"] - case.hyper["dilated_kernel_size"] // 2  # where the middle of the window meets it
    assert_close(module(x[:, None])[:, row], want, 1e-6, 1e-6 * want.abs().max().item())


@pytest.mark.parametrize(("version", "first"), [("v0", "row"), ("v1", "column"), ("max", "column")])
def test_places_of_taps(version, first):
    """A tap one row down and two columns to the right; the original's order of axes depends on the version."""
    filter = DCLSFilter2d(1, kernel_count=1, span=5, version=version)
    with torch.no_grad():
        filter.weight.fill_(1.0)
        filter.position[:, 0, 0] = torch.tensor([1.0, 2.0])
    want = torch.zeros(5, 5)
    want[3, 4] = 1
    assert_close(filter()[0], want, 1e-6, 1e-6)
    row_first = torch.tensor([1.0, 2.0]) if first == "row" else torch.tensor([2.0, 1.0])
    params = {"weight": torch.ones(1, 1, 1), "P": row_first.view(2, 1, 1, 1), "bias": torch.zeros(1)}
    params |= {"SIG": torch.zeros(2, 1, 1, 1)} if version == "max" else {}
    hyper = {"in_channels": 1, "out_channels": 1, "kernel_count": 1, "dilated_kernel_size": 5, "version": version}
    assert_close(from_original(ORIGINAL, params, **hyper).filter()[0], want, 1e-6, 1e-6)


def test_a_tap_between_cells_is_shared_out():
    filter = DCLSFilter2d(1, kernel_count=1, span=3, version="v1")
    with torch.no_grad():
        filter.weight.fill_(1.0)
        filter.position[:, 0, 0] = torch.tensor([0.25, -0.5])
    want = torch.tensor([[0.0, 0.0, 0.0], [0.375, 0.375, 0.0], [0.125, 0.125, 0.0]])
    assert_close(filter()[0], want, 1e-5, 1e-6)


def test_errors_say_what_to_do(unannotated):
    sizes = {"in_channels": 1, "out_channels": 1, "kernel_count": 1}
    cases = {
        r"span=4.*odd": lambda: create_mixer_2d("dcls", 4, span=4),
        r"version 'v2'.*one of": lambda: create_mixer_2d("dcls", 4, version="v2"),
        r"kernel_count=0": lambda: create_mixer_2d("dcls", 4, kernel_count=0),
        r"dilated_kernel_size=\[3, 5\].*square": lambda: from_original(
            ORIGINAL, {}, **sizes, dilated_kernel_size=[3, 5]
        ),
        r"stride=2": lambda: from_original(ORIGINAL, {}, **sizes, stride=2),
    }
    for pattern, use in cases.items():
        with pytest.raises(ValueError, match=pattern):
            use()
