"""The generalised delta rule in Triton against the reference, run by test_triton.py."""

from itertools import product

import pytest
import torch
from scan_cases import assert_same, check_finite_differences, values_and_gradients
from triton_cases import check_operator, device_and_layout, each_dtype

from benchmarks.gpu.interpreter import rounds_to_nearest
from seqconv_kernels import dplr_delta_rule
from seqconv_kernels.dplr_delta_rule.cases import Shape, example_inputs

each_kind = pytest.mark.parametrize(
    ("decay", "low_rank"), [*product(["vector", "scalar", "none"], ["own", "key"])]
)  # fmt: skip
TOKENS = ("q", "k", "v", "a", "b", "log_decay")


def run(implementation):
    def call(**inputs):
        return dplr_delta_rule(**inputs, return_final_state=True, implementation=implementation)

    return call


def check(inputs, layout="contiguous"):
    want = {k: v.double() if v.is_floating_point() else v for k, v in inputs.items()}
    activations = tuple(name for name in TOKENS if name in inputs)
    got = values_and_gradients(run("triton"), device_and_layout(inputs, layout, activations))
    assert_same(got, values_and_gradients(run("reference"), want), str(inputs["v"].shape))


@each_kind
def test_every_kind(decay, low_rank):
    shape = Shape(1, 19, 2, 6, 5, key_heads=1)
    check(example_inputs(shape, dtype=torch.float64, decay=decay, low_rank=low_rank, initial_state=True))


@each_dtype
def test_every_dtype(dtype):
    with rounds_to_nearest():
        check(example_inputs(Shape(1, 18, 1, 16, 16), dtype=dtype, initial_state=True))


@pytest.mark.parametrize("length", [1, 16, 17, 40])
def test_every_length_and_several_blocks_of_columns(length):
    check(example_inputs(Shape(1, length, 1, 5, 35), dtype=torch.float64, initial_state=length % 2 == 0))


@pytest.mark.parametrize("layout", ["sliced", "transposed"])
def test_every_layout(layout):
    check(example_inputs(Shape(2, 7, 4, 3, 4, key_heads=2), dtype=torch.float64, initial_state=True), layout)


def test_packed_and_empty():
    inputs = example_inputs(Shape(1, 45, 2, 3, 4), dtype=torch.float64)
    inputs["initial_state"] = torch.randn(3, 2, 3, 4, dtype=torch.float64)
    check(inputs | {"cu_seqlens": torch.tensor([0, 1, 20, 45])})
    check(example_inputs(Shape(0, 5, 2, 3, 4), initial_state=True))


def test_is_an_operator_with_exact_gradients_of_gradients():
    inputs = device_and_layout(example_inputs(Shape(1, 2, 1, 2, 2), dtype=torch.float64, initial_state=True))
    check_finite_differences(run("triton"), inputs, twice=True, fast=True)
    tokens = [inputs[name] for name in TOKENS]
    operator = torch.ops.seqconv.dplr_delta_rule_triton.default
    check_operator(operator, *tokens, 0.5, inputs["initial_state"], None, True)
    check_operator(operator, *tokens, 0.5, None, torch.tensor([0, 2], device=tokens[0].device), True)


def test_keys_that_do_not_fit_a_program_raise():
    inputs = device_and_layout(example_inputs(Shape(1, 1, 1, 257, 2)))
    with pytest.raises(ValueError, match=r"d_k = 257, wanted at most 256"):
        dplr_delta_rule(**inputs, implementation="triton")
