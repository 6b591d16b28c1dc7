"""Blocks of image models: the numbers of the original code."""

import pytest

from golden_cases import Imported, assert_close, check_gradients, load_case
from seqconv import from_original

CHANNELS_LAST = {"parcnetv2_block", "sequencer2d_block", "sequencer2d_gru_block", "ecoformer_attention"}
BLOCKS = [
    "aff_block",
    "ecoformer_attention",
    "parcnetv2_block",
    "parcnetv2_oversize_conv",
    "restormer_block",
    "sequencer2d_block",
    "sequencer2d_gru_block",
    "spanet_block",
]


def read(name):
    """The case, its importer, and the images with channels last."""
    case = load_case(f"vision/{name}")
    params = {k: v.double() if v.is_floating_point() else v for k, v in case.group("param").items()}
    imported = Imported(case.meta["original"], params, case.hyper)
    x = case.tensors["in.x"].double()
    return case, params, imported, x if name in CHANNELS_LAST else x.movedim(1, -1)


def check(got, want, rtol, what):
    assert_close(got, want.to(got.dtype), rtol, rtol * want.abs().max().item(), what)


@pytest.mark.parametrize("name", BLOCKS)
def test_outputs_and_gradients_of_the_original(name):
    case, params, imported, x = read(name)
    x = x.contiguous().requires_grad_()
    y = imported(x)
    last = (lambda t: t) if name in CHANNELS_LAST else (lambda t: t.movedim(1, -1))
    check(y, last(case.tensors["out.y"]), 1e-9, "output")
    (y * last(case.tensors["cot.y"])).sum().backward()
    gradients = case.group("grad")
    check(x.grad, last(gradients.pop("in.x")), 1e-6, "gradient of the images")
    largest = max(t.abs().max().item() for t in gradients.values())
    check_gradients(imported, {k: v.double() for k, v in gradients.items()}, 1e-6, 1e-6 * largest)
    check(from_original(case.meta["original"], params, **case.hyper)(x), y, 1e-12, "output of the loaded block")
