"""Weights of linear layers in int8, for decoding on the CPU: ``y = x (scale ⊙ W)^T + b`` one scale per row or group.

Weight-only: activations and sums stay floating, so that no calibration is needed; a token reads a quarter of the bytes.
:func:`int8_layers` names the layers of a model that were replaced, which its configuration keeps, and
:func:`place_int8_layers` puts empty ones in their place before a checkpoint is read.
"""

from collections.abc import Mapping
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
        linear: the layer whose values it takes; on the meta device for none.
        group_size: neighbouring inputs that share a scale; the whole row if not given.

    Raises:
        ValueError: a group size that does not divide the inputs.
    """

    def __init__(self, linear: nn.Linear, *, group_size: int | None = None) -> None:
        super().__init__()
        self.in_features, self.out_features, self.group_size = linear.in_features, linear.out_features, group_size
        self._made_empty = linear.weight.is_meta
        weight, scale = quantize_rows(linear.weight, group_size=group_size)
        self.register_buffer("weight_int8", weight)
        self.register_buffer("weight_scale", scale)
        self.keep_float32("weight_scale")
        bias = linear.bias
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)

    weight_int8: Tensor
    weight_scale: Tensor

    @property
    def is_empty(self) -> bool:
        """Whether it was made without values, for a checkpoint, and has memory now."""
        return self._made_empty and not self.weight_int8.is_meta

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
    of its own. Gradients reach the inputs, not the weights. Models write and read checkpoints with int8 weights by
    ``save_pretrained`` and ``from_pretrained``.

    Args:
        model: any module with :class:`~seqconv.layers.linear.Linear` layers.
        bits: of a weight; 8.
        group_size: neighbouring inputs that share a scale; the whole row if not given.

    Raises:
        ValueError: other bits; no layer to quantize; a group size that does not divide the inputs of a layer.
    """
    if bits != 8:
        raise argument_error("quantize", f"bits={bits}", "8", "leave bits out")
    parents = [(p, n, c) for p in model.modules() for n, c in p.named_children() if isinstance(c, Linear)]
    if not parents:
        raise argument_error("quantize", type(model).__name__, "a module with Linear layers", "pass a whole model")
    made = {child: Int8Linear(child, group_size=group_size).train(child.training) for _, _, child in parents}
    for parent, name, child in parents:
        setattr(parent, name, made[child])
    return model


def int8_layers(module: nn.Module) -> dict[str, int | None]:
    """Names of the layers inside a module that :func:`quantize` made, with their group sizes."""
    return {name: layer.group_size for name, layer in module.named_modules() if isinstance(layer, Int8Linear)}


def place_int8_layers(module: nn.Module, layers: Mapping[str, int | None]) -> None:
    """Replace linear layers by int8 ones of the same sizes, ready for the checkpoint of a quantized module.

    Args:
        module: the model.
        layers: their names, with group sizes, as :func:`int8_layers` gives them.

    Raises:
        ValueError: a name that is no ``Linear`` of the module; a group size that does not divide its inputs.
    """
    for name, group_size in layers.items():
        parent, _, child = name.rpartition(".")
        holder = module if not parent else dict(module.named_modules()).get(parent)
        layer = getattr(holder, child, None)
        if holder is None or not isinstance(layer, Linear):
            remedy = "load it with the configuration it was saved with"
            raise argument_error(
                "place_int8_layers", f"an int8 layer at {name!r}", "the name of a Linear layer", remedy
            )
        setattr(holder, child, Int8Linear(layer, group_size=group_size).train(layer.training))


def without_int8(model: nn.Module, tied: Mapping[str, str]) -> dict[str, str]:
    """Pairs of tied parameters, by name, without those of layers with int8 weights, which are their own."""
    int8 = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, Int8Linear)}
    return {name: other for name, other in tied.items() if not int8 & {name, other}}
