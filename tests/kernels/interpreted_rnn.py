"""The recurrent cells in Triton against the reference, run by test_triton.py."""

import pytest
import torch
from scan_cases import assert_same, check_finite_differences, values_and_gradients
from triton_cases import check_operator, device_and_layout, each_dtype

from seqconv_kernels import rnn
from seqconv_kernels.rnn.cases import Shape, example_inputs
from seqconv_kernels.rnn.cells import CELLS

each_cell = pytest.mark.parametrize("cell", CELLS)


def run(cell, implementation):
    def call(**inputs):
        return rnn(**inputs, cell=cell, return_final_state=True, implementation=implementation)

    return call


def check(cell, inputs, layout="contiguous"):
    want = {k: v.double() if v.is_floating_point() else v for k, v in inputs.items()}
    got = values_and_gradients(run(cell, "triton"), device_and_layout(inputs, layout, ("x",)))
    assert_same(got, values_and_gradients(run(cell, "reference"), want), cell)


@each_dtype
@each_cell
def test_every_dtype(cell, dtype):
    inputs = example_inputs(Shape(3, 6, 2, 5), cell, dtype=dtype, initial_state=True)
    check(cell, inputs)


@each_cell
def test_more_sequences_than_a_block_and_a_bare_call(cell):
    inputs = example_inputs(Shape(18, 3, 1, 17), cell, dtype=torch.float64)
    del inputs["bias"]
    check(cell, inputs, "sliced")


@each_cell
def test_packed_padded_and_empty(cell):
    inputs = example_inputs(Shape(1, 12, 2, 3), cell, dtype=torch.float64)
    inputs["initial_state"] = example_inputs(Shape(3, 1, 2, 3), cell, dtype=torch.float64, initial_state=True)[
        "initial_state"
    ]
    check(cell, inputs | {"cu_seqlens": torch.tensor([0, 1, 8, 12])})
    inputs = example_inputs(Shape(3, 7, 2, 3), cell, dtype=torch.float64, initial_state=True)
    check(cell, inputs | {"starts": torch.tensor([0, 4, 7])})
    check(cell, example_inputs(Shape(0, 5, 2, 3), cell, initial_state=True))


@each_cell
def test_is_an_operator_with_exact_gradients_of_gradients(cell):
    inputs = device_and_layout(example_inputs(Shape(1, 2, 1, 2), cell, dtype=torch.float64, initial_state=True))
    check_finite_differences(run(cell, "triton"), inputs, twice=True, fast=True)
    arguments = (inputs["x"], inputs["recurrent_weight"], inputs["bias"], cell, inputs["initial_state"], None, None)
    check_operator(torch.ops.seqconv.rnn_triton.default, *arguments, True)


def test_heads_that_do_not_stay_on_chip_raise():
    inputs = device_and_layout(example_inputs(Shape(1, 2, 1, 65)))
    with pytest.raises(ValueError, match=r"heads of 65 channels, whose weights do not stay on chip beyond 64"):
        rnn(**inputs, cell="lstm", implementation="triton")
