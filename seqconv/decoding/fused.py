"""A decoding step of a stack of layers as one list of small ops: the modules that have that form, and the guard.

``write_block`` appends the ops of one layer to a :class:`~seqconv_kernels.token_program.TokenProgram` where each module
is exactly of one of this library's classes and nothing else takes part in its call (:func:`plain`). Hooks, adapters,
wrapped layers, those of other quantisers, parametrisations, sharding and a ``forward`` of an instance all make it raise
:class:`Unfused`; the layer is then called as a module. This is checked again for every token.

Parts are looked up in ``_modules`` and ``_parameters``: ``nn.Module.__getattr__`` would take longer than all else here.

A mixer takes part by a method ``_write_step(program, x, state)``, which adds its output to the stream of the program.
"""

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from seqconv_kernels.token_program import Rows, TokenProgram, Unfused, unsupported_reason
from seqconv_kernels.token_program.program import NOTHING, Activation

from ..blocks import Block, BlockState
from ..layers.linear import Linear
from ..layers.mlp import GATED, MLP
from ..layers.norms import LayerNorm, NoNorm, RMSNorm
from ..layers.residual import Dropout, DropPath, Sum
from ..layers.short_convolution import ShortConvolution
from ..mixer import Mixer
from ..quantization import Int8Linear

ModuleT = TypeVar("ModuleT", bound=nn.Module)

ACTIVATIONS: Mapping[str, Activation] = {
    "gelu": "gelu", "gelu_tanh": "gelu_tanh", "relu": "relu", "relu2": "relu2", "silu": "silu", "tanh": "tanh",
    "glu": "sigmoid", "bilinear": "none", "geglu": "gelu", "geglu_tanh": "gelu_tanh", "reglu": "relu", "swiglu": "silu",
}  # fmt: skip
"""Of the kinds of MLP."""


def plain(module: nn.Module | None, kind: type[ModuleT]) -> ModuleT:
    """The module, if a call of it is a call of that class's ``forward`` and nothing else.

    Raises:
        Unfused: another class (as parametrisations, adapters and sharding make one), a hook, a ``forward`` of its own,
            a compiled call.
    """
    if type(module) is not kind:
        raise Unfused
    own = module.__dict__
    if (
        own["_forward_hooks"]
        or own["_forward_pre_hooks"]
        or own["_backward_hooks"]
        or own["_backward_pre_hooks"]
        or "forward" in own
        or own.get("_compiled_call_impl") is not None
    ):
        raise Unfused
    return module


def can_step(x: Tensor, dropout: nn.Module) -> bool:
    """Whether a token may be read by a list of ops, as far as that does not depend on the layers."""
    if type(dropout) is not Dropout or nn.modules.module._has_any_global_hook():
        return False
    return unsupported_reason(x) is None


class StepProgram(TokenProgram):
    """A list of ops with modules in the place of their parameters.

    Args:
        x: the token.
        linear: class of projections with floating weights.

    Attributes:
        dtype: of the tokens, and of the floating weights.
        stream: the residual stream.
    """

    def __init__(self, x: Tensor, linear: type[nn.Linear] = Linear) -> None:
        super().__init__(x.shape[0])
        self.dtype, self.width, self._linear = x.dtype, x.shape[1], linear
        self.stream = self.buffer(self.width)

    def read(self, x: Tensor) -> None:
        """Let the stream be ``x``."""
        self.norm(self.tensor_rows(x), self.stream, self.width, "copy")

    def written(self) -> Tensor:
        """The stream as a tensor in the dtype of the tokens; runs all ops."""
        return self._written(lambda out: self.norm(self.stream, out, self.width, "copy"))

    def written_normalised(self, norm: nn.Module) -> Tensor:
        """``norm`` of the stream; runs all ops."""
        mark = self.mark()
        try:
            return self._written(lambda out: self.write_norm(norm, self.stream, out))
        except Unfused:
            self.cut(mark)
            y: Tensor = norm(self.written())
            return y

    def _written(self, write: Callable[[Rows], object]) -> Tensor:
        y = torch.empty(self.rows, self.width, dtype=self.dtype)
        write(self.tensor_rows(y))
        self.run()
        return y

    def write_linear(
        self,
        module: nn.Module,
        x: Rows,
        out: Rows | None = None,
        *,
        residual: Rows = NOTHING,
        activation: Activation = "none",
    ) -> Rows:
        """Append a projection; returns where its outputs are."""
        weight: Tensor | None
        bias: Tensor | None
        scale: Tensor | None = None
        if type(module) is Int8Linear:
            narrow = plain(module, Int8Linear)
            weight, bias, scale = narrow.weight_int8, narrow.bias, narrow.weight_scale
        else:
            own = plain(module, self._linear)._parameters
            weight, bias = own["weight"], own["bias"]
        if weight is None or (scale is None and weight.dtype is not self.dtype):
            raise Unfused
        out = self.buffer(weight.shape[0]) if out is None else out
        self.linear(x, out, weight, bias, scale, residual=residual, activation=activation)
        return out

    def write_norm(self, module: nn.Module | None, x: Rows, out: Rows | None = None, width: int | None = None) -> Rows:
        """Append a norm; returns where its outputs are."""
        if type(module) is NoNorm and out in (None, x):
            plain(module, NoNorm)
            return x
        width = self.width if width is None else width
        out = self.buffer(width) if out is None else out
        if type(module) is RMSNorm:
            rms = plain(module, RMSNorm)
            if rms.eps_outside:
                raise Unfused
            self.norm(x, out, width, "rms", rms.weight, rms.bias, eps=rms.eps, unit_offset=rms.unit_offset)
        else:
            layer = plain(module, LayerNorm)
            self.norm(x, out, width, "layer", layer.weight, layer.bias, eps=layer.eps)
        return out

    def write_conv(self, module: nn.Module, x: Rows, state: Tensor) -> tuple[Rows, Tensor]:
        """Append a short convolution; returns where its outputs are, and its state."""
        conv1d, after = plain(module, ShortConvolution), self.state(state)
        weight = conv1d.weight
        out = self.buffer(weight.shape[0])
        self.conv(x, out, after, weight, conv1d.bias, activation=conv1d.activation or "none")
        return out, after

    def write_mlp(self, module: nn.Module, x: Rows) -> None:
        """Append a per-token network, whose outputs join the stream."""
        mlp = plain(module, MLP)
        plain(mlp.dropout, Dropout)
        activation = ACTIVATIONS[mlp.kind]
        if mlp.kind not in GATED:
            hidden = self.write_linear(mlp.up, x, activation=activation)
        else:
            both, width = self.write_linear(mlp.up, x), mlp.up.out_features // 2
            hidden = self.buffer(width)
            self.gate(both, both.columns(width), hidden, width, activation=activation)
        self.write_linear(mlp.down, hidden, self.stream, residual=self.stream)


def write_block(program: StepProgram, block: Block, x: Tensor, state: BlockState) -> BlockState:
    """Append a layer's step on the stream; returns the state after it, whose tensors are written when the list runs.

    Raises:
        Unfused: a module with a part in it that has no such form; a state that no step of the mixer has checked.
    """
    parts, mlp, before = block._modules, block.mlp, state.mixer
    mixer = parts.get("mixer")
    if not isinstance(mixer, Mixer) or before is None or isinstance(mlp, Mixer):
        raise Unfused
    if "_write_step" not in vars(type(mixer)):  # a class derived from a mixer may have another step
        raise Unfused
    checked = before.checked
    if checked is None or block.training or mixer.residual_inside or checked != mixer._fits(x):
        raise Unfused
    plain(block, Block)
    plain(mixer, type(mixer))
    plain(parts["dropout"], Dropout)
    plain(parts["drop_path"], DropPath)
    program.reuse_buffers(1)
    pre = block.norm_placement == "pre"
    norm = parts["mixer_norm"]
    after = mixer._write_step(program, _enter(program, norm, pre), before)
    after.checked = checked
    _join(program, parts["mixer_residual"], norm, pre)
    if mlp is not None:
        norm = parts["mlp_norm"]
        program.write_mlp(mlp, _enter(program, norm, pre))
        _join(program, parts["mlp_residual"], norm, pre)
    return BlockState(after, None)


def _enter(program: StepProgram, norm: nn.Module | None, pre: bool) -> Rows:
    return program.write_norm(norm, program.stream) if pre else program.stream


def _join(program: StepProgram, residual: nn.Module | None, norm: nn.Module | None, pre: bool) -> None:
    """The layer has added its output to the stream, which is what a residual connection of this kind does."""
    join = plain(residual, Sum)
    if join.alpha != 1.0 or join.beta != 1.0:
        raise Unfused
    if not pre:
        program.write_norm(norm, program.stream, program.stream)
