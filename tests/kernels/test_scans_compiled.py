"""The scanning ops under torch.compile, torch.export and activation checkpointing: values and gradients unchanged."""

import pytest
import torch
from scan_cases import assert_same, values_and_gradients
from torch.utils.checkpoint import checkpoint

from seqconv_kernels import delta_rule, gated_linear_attention, linear_scan, ssd
from seqconv_kernels.delta_rule import shapes as delta_rule_shapes
from seqconv_kernels.gated_linear_attention import shapes as gated_linear_attention_shapes
from seqconv_kernels.linear_scan import shapes as linear_scan_shapes
from seqconv_kernels.ssd import shapes as ssd_shapes
from tolerances import assert_near

OPS = {
    "delta_rule": (delta_rule, delta_rule_shapes),
    "gated_linear_attention": (gated_linear_attention, gated_linear_attention_shapes),
    "linear_scan": (linear_scan, linear_scan_shapes),
    "ssd": (ssd, ssd_shapes),
}
each_op = pytest.mark.parametrize("name", OPS)


def op_and_inputs(name):
    op, shapes = OPS[name]
    inputs = shapes.example_inputs(shapes.SHAPES["tiny"], dtype=torch.float64, initial_state=True)
    return (lambda **arguments: op(**arguments, return_final_state=True)), inputs


@each_op
@pytest.mark.usefixtures("unannotated")
def test_compiles_without_graph_breaks(name):
    op, inputs = op_and_inputs(name)
    torch.compiler.reset()
    compiled = torch.compile(op, fullgraph=True, backend="aot_eager")
    assert_same(values_and_gradients(compiled, inputs), values_and_gradients(op, inputs), name)


@each_op
@pytest.mark.usefixtures("unannotated")
def test_exports(name):
    op, inputs = op_and_inputs(name)
    tensors = {k: v for k, v in inputs.items() if isinstance(v, torch.Tensor)}
    rest = {k: v for k, v in inputs.items() if k not in tensors}

    class Layer(torch.nn.Module):
        def forward(self, tensors):
            return op(**tensors, **rest)

    exported = torch.export.export(Layer(), (tensors,)).module()
    for got, want in zip(exported(tensors), op(**inputs), strict=True):
        assert_near(got, want)


def test_linear_scan_is_a_proper_operator():
    inputs = linear_scan_shapes.example_inputs(linear_scan_shapes.SHAPES["tiny"], dtype=torch.float64)
    state = torch.randn(2, 5, dtype=torch.float64)
    linear_scan(**inputs)
    torch.library.opcheck(
        torch.ops.seqconv_kernels.linear_scan.default,
        (inputs["a"].requires_grad_(), inputs["x"].requires_grad_(), state.requires_grad_()),
    )


@each_op
def test_recomputes_in_the_backward_pass(name):
    op, inputs = op_and_inputs(name)

    def recomputed(**arguments):
        return checkpoint(op, use_reentrant=False, **arguments)

    assert_same(values_and_gradients(recomputed, inputs), values_and_gradients(op, inputs), name)
