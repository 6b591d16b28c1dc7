"""Weights of linear layers in int8, for decoding on the CPU: ``y = x (scale ⊙ W)^T + b`` one scale per row or group.

Weight-only: activations and sums stay floating, so that no calibration is needed; a token reads a quarter of the bytes.
"""

from typing import TypeVar

import torch
from torch import Tensor, nn

from seqconv_kernels import skinny_linear
from seqconv_kernels._core.errors import argument_error
from seqconv_kernels.skinny_linear import eager_linear, quantize_rows

from .layers.linear import Linear
from .parameters import KeepFloat32

M = TypeVar("M", bound=nn.Module)


class Int8Linear(KeepFloat32):
    """A linear layer with an int8 weight. It has no attribute ``weight``: reading that raises.

    Args:
        linear: the layer whose values it takes.
        group_size: neighbouring inputs that share a scale; the whole row if not given.

    Raises:
        ValueError: a group size that does not divide the inputs.
    """

    def __init__(self, linear: nn.Linear, *, group_size: int | None = None) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight, scale = quantize_rows(linear.weight, group_size=group_size)
        self.register_buffer("weight_int8", weight)
        self.register_buffer("weight_scale", scale)
        self.keep_float32("weight_scale")
        bias = linear.bias
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)

    weight_int8: Tensor
    weight_scale: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """From (..., in_features) to (..., out_features), in the dtype of ``x``."""
        parameters = (self.weight_int8, self.bias)
        y = None if torch.compiler.is_compiling() else eager_linear(x, *parameters, self.weight_scale)
        if y is not None:
            return y
        rows = skinny_linear(x.reshape(-1, self.in_features), *parameters, scale=self.weight_scale)
        return rows.view(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        """Sizes, as of ``nn.Linear``."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


def quantize(model: M, bits: int = 8, *, group_size: int | None = None) -> M:
    """Replace the projections of a model's mixers, MLPs and heads by int8 ones, in place; returns the model.

    Filter networks, time steps and decays keep their precision. A head that shares the token embeddings gets a weight
    of its own. Gradients reach the inputs, not the weights. The result is for use in this process: ``from_pretrained``
    builds floating layers, so save the floating model and quantize what was loaded.

    Args:
        model: any module with :class:`~seqconv.layers.linear.Linear` layers.
        bits: of a weight; 8.
        group_size: neighbouring inputs that share a scale; the whole row if not given.

    Raises:
        ValueError: other bits; no layer to quantize; a group size that does not divide the inputs of a layer.
    """
    if bits != 8:
        raise argument_error("quantize", f"bits={bits}", "8", "leave bits out")
    parents = [(p, n, c) for p in model.modules() for n, c in p.named_children() if type(c) is Linear]
    if not parents:
        raise argument_error("quantize", type(model).__name__, "a module with Linear layers", "pass a whole model")
    made = {child: Int8Linear(child, group_size=group_size).train(child.training) for _, _, child in parents}
    for parent, name, child in parents:
        setattr(parent, name, made[child])
    return model
