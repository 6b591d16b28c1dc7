"""The recurrent cells against a loop in PyTorch, and torch's own layers where they have one head, float32.

The loop takes one matrix product and about ten elementwise operations per token, as code without a kernel does.
"""

from functools import partial

import torch
from torch import Tensor

import seqconv_kernels as K
from seqconv_kernels.rnn.cases import SHAPES, Shape, example_inputs

from .case import Case, Run

CELLS = ("lstm", "gru", "slstm")
WIDE, SINGLE = "4 heads of 64, 1024 tokens", "one head of 256, 1024 tokens"
NAMES = (*(f"{cell}, {WIDE}" for cell in CELLS), f"lstm, {SINGLE}")
SWEEP = (256, 512, 1024, 2048)


def case(name: str) -> Case:
    """One shape of the table."""
    cell, shape = name.split(", ", 1)
    return _case(SHAPES[shape], cell, name)


def sweep(length: int) -> Case:
    """The shape of the plots."""
    return _case(Shape(8, length, 4, 64), "lstm", f"lstm, 4 heads of 64, {length} tokens")


def _case(shape: Shape, cell: str, name: str) -> Case:
    contenders: dict[str, Run] = {
        "seqconv": partial(K.rnn, cell=cell, implementation="cpu"),
        "loop": partial(K.rnn, cell=cell, implementation="reference"),
    }
    if shape.heads == 1 and cell == "lstm":
        contenders["torch"] = _torch_lstm
    inputs = example_inputs(shape, cell)
    products = 2.0 * inputs["x"][0, 0].numel() * shape.head_dim
    return Case("rnn", name, shape.length, inputs, contenders, operations=shape.batch * shape.length * products)


def _torch_lstm(x: Tensor, recurrent_weight: Tensor, bias: Tensor) -> Tensor:
    """``nn.LSTM`` on projected inputs: its input projection is the identity, which it multiplies all the same."""
    projected = x.flatten(2)
    width = recurrent_weight.shape[-1]
    identity = torch.eye(projected.shape[-1], dtype=x.dtype)
    weights = [identity, recurrent_weight.flatten(0, 2), torch.zeros_like(bias).flatten(), bias.flatten()]
    zero = x.new_zeros(1, x.shape[0], width)
    y, *_ = torch.lstm(projected, (zero, zero), weights, True, 1, 0.0, False, False, True)
    return y[:, :, None]
