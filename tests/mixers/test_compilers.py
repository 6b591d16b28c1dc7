"""Every mixer under torch.compile and torch.export with an open length."""

import pytest
import torch

from mixer_cases import build, each_default, inputs
from tolerances import assert_near

LENGTHS = (12, 5, 33, 70)


def longest(mixer):
    """The longest sequence that is tested: FMLP raises beyond its circle."""
    return mixer.l_max if mixer.name == "fmlp" else 1024


def lengths(mixer):
    return [length for length in LENGTHS if length <= longest(mixer)]


@each_default
@pytest.mark.usefixtures("unannotated")
def test_compiles_once_for_all_lengths(case):
    """The first length is compiled for itself, the second one opens the size; no later one compiles again."""
    mixer = build(case)
    torch.compiler.reset()
    compiled = torch.compile(mixer, fullgraph=True, backend="eager")
    with torch._dynamo.config.patch(recompile_limit=2):
        for length in lengths(mixer):
            assert_near(compiled(inputs(length)), mixer(inputs(length)), what=f"length {length}")


@each_default
@pytest.mark.usefixtures("unannotated")
def test_exports_with_an_open_length(case):
    mixer = build(case)
    length = torch.export.Dim("length", min=2, max=longest(mixer))
    program = torch.export.export(mixer, (inputs(12),), dynamic_shapes={"x": {1: length}}, strict=False)
    for n in lengths(mixer):
        assert_near(program.module()(inputs(n)), mixer(inputs(n)), what=f"length {n}")


@pytest.mark.parametrize(
    "name",
    [
        "s4",
        "striped_hyena",
        "sgconv",
        "ckconv",
        "fmlp",
        "fno",
        "longconv",
        "mesa_net",
        "multires",
        "rtf",
        "smpconv",
        "path_attention",
        "log_linear_mamba2",
    ],
)
@pytest.mark.usefixtures("unannotated")
def test_gradients_through_operators_that_hide_their_steps(name):
    """Their backward passes compose the function again: what autograd finds in eager mode."""
    mixer = build((name, {}))
    torch.compiler.reset()
    compiled = torch.compile(mixer, fullgraph=True, backend="aot_eager", dynamic=True)
    for length in LENGTHS[:2]:
        found = [
            torch.autograd.grad((f(inputs(length)) ** 2).sum(), list(mixer.parameters())) for f in (compiled, mixer)
        ]
        for (parameter, _), got, want in zip(mixer.named_parameters(), *found, strict=True):
            assert_near(got, want, what=f"gradient of {parameter} at length {length}")
