"""A token of a stack of layers as a list of small ops, which one call of the C++ kernels runs in order.

A token reads every weight once. Between two weights, calls of small ops from Python take as long as reading the weight
does: their code and objects have left the caches, which the weights went through. The list is therefore written first,
layer by layer, and run by one team of threads with a barrier after each op (``cpu/kernel.cpp``).

Rows between ops are float32, whatever the dtype of the model; what enters, leaves, and is kept as a state has its own.
States are overwritten when the list runs. The list holds addresses: it is for one token, and keeps its tensors alive.

Equations of the ops, for every row b::

    norm       out = (x - mean) / sqrt(var + eps) w + b         rms: without the mean; copy: out = x
    linear     out = residual + f(x W^T + b)                    W floating, or int8 with scales
    conv       out = f(sum_k w[:, k] x[t - taps + 1 + k] + b)   depthwise, the earlier inputs a state
    scan       h = exp(d A) h + d B u, d = softplus(delta + b), A = -exp(A_log); out = (C h + D u) silu(z)
    gate       out = f(a) b
    attention  out = softmax(R q · R k scale) v per head, over the cached tokens and the own one, which joins them
"""

from functools import cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from .._core import native
from .._core.steps import state_to_overwrite
from ..skinny_linear.cpu import transformed
from ..skinny_linear.spec import MAX_ROWS

Activation = Literal["none", "silu", "gelu", "gelu_tanh", "relu", "relu2", "tanh", "sigmoid"]
NormKind = Literal["copy", "rms", "layer"]

_ACTIVATIONS = ("none", "silu", "gelu", "gelu_tanh", "relu", "relu2", "tanh", "sigmoid")
_NORMS = ("copy", "rms", "layer")
_NORM, _LINEAR, _CONV, _SCAN, _GATE, _ATTENTION = range(6)
_DTYPES = {torch.float32: 0, torch.bfloat16: 2, torch.float16: 3}
"""Of activations, parameters and states, as the extension calls them."""
_INT8 = -1
_FLOAT_BYTES = 4
WIDEST_HEAD = 256
MOST_TAPS = 16


class Unfused(Exception):
    """A module or a call that cannot be written as ops of a list; it is called as a module instead."""


class Rows(NamedTuple):
    """Rows of the batch: the first number's address, the code of the dtype, and the distance of rows in bytes."""

    address: int
    dtype: int
    stride: int

    def columns(self, first: int) -> "Rows":
        """The same rows of float32 from a column on."""
        return Rows(self.address + first * _FLOAT_BYTES, self.dtype, self.stride)


NOTHING = Rows(0, 0, 0)


def unsupported_reason(x: Tensor) -> str | None:
    """Why no list serves tokens ``x`` (rows, channels), or ``None``.

    Where something is to see every call (a compiler, a tracer, a profiler, autograd, a transform, autocast), layers are
    called one by one.
    """
    if torch.compiler.is_compiling() or torch.is_grad_enabled():
        return "under the compiler, or where gradients are recorded"
    if type(x) is not Tensor or not x.is_cpu or x.is_neg() or x.dtype not in _DTYPES:
        return "tokens that are no plain float32, bfloat16 or float16 on the CPU"
    if x.dim() != 2 or not 0 < x.shape[0] <= MAX_ROWS:
        return f"more than {MAX_ROWS} rows, or none"
    if transformed() or torch._C._autograd._profiler_enabled():
        return "under a mode, a transform, autocast or a profiler"
    return native.unavailable()


class TokenProgram:
    """A list of ops on rows of the batch; methods append ops, :meth:`run` runs and empties it.

    Methods raise :class:`Unfused` for what the kernels do not serve.

    Args:
        rows: of the batch.
    """

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self._words: list[int] = []
        self._constants: list[float] = []
        self._kept: list[Tensor] = []
        self._states: list[Tensor] = []
        self._buffers: list[tuple[int, Tensor]] = []
        self._used = 0

    def buffer(self, width: int) -> Rows:
        """Float32 rows for the numbers between ops."""
        if self._used == len(self._buffers) or self._buffers[self._used][0] != width:
            made = (width, torch.empty(self.rows, width, dtype=torch.float32))
            self._kept.append(made[1])
            self._buffers[self._used : self._used + 1] = [made]
        tensor = self._buffers[self._used][1]
        self._used += 1
        return Rows(tensor.data_ptr(), 0, width)

    def reuse_buffers(self, but: int = 0) -> None:
        """Let later ops write into the buffers so far, except the first ones."""
        self._used = but

    def mark(self) -> tuple[int, int, int]:
        """The end of the list, to which :meth:`cut` goes back."""
        return len(self._words), len(self._constants), len(self._states)

    def cut(self, mark: tuple[int, int, int]) -> None:
        """Forget the ops after a mark."""
        del self._words[mark[0] :], self._constants[mark[1] :], self._states[mark[2] :]

    def run(self) -> None:
        """Run the ops so far; what they wrote is there afterwards."""
        if self._words:
            native.library().token_program(self._words, self._constants, self.rows, torch.get_num_threads())
            increment_version([state for state in self._states if not state.is_inference()])
        self._words, self._constants, self._states = [], [], []

    def tensor_rows(self, x: Tensor, *, wide: bool = False) -> Rows:
        """Rows of a tensor (rows, channels), whose last axis is dense; float32 ones on request, by an op if need be."""
        if wide and x.dtype is not torch.float32:
            rows = self.buffer(x.shape[1])
            self.norm(self.tensor_rows(x), rows, x.shape[1], "copy")
            return rows
        if x.dtype not in _DTYPES or (x.stride(-1) != 1 and x.shape[-1] != 1):
            raise Unfused
        self._kept.append(x)
        return Rows(x.data_ptr(), _DTYPES[x.dtype], x.stride(0))

    def state(self, tensor: Tensor, *, in_place: bool = False) -> Tensor:
        """A state that ops may overwrite: the tensor itself, or a copy where that is allowed."""
        if type(tensor) is not Tensor or tensor.dtype not in _DTYPES or tensor.is_neg() or not tensor.is_cpu:
            raise Unfused
        made = state_to_overwrite(tensor, tensor.dtype)
        if in_place and made is not tensor:
            raise Unfused
        self._kept.append(made)
        self._states.append(made)
        return made

    def norm(
        self, x: Rows, out: Rows, width: int, kind: NormKind, weight: Tensor | None = None, bias: Tensor | None = None,
        *, eps: float = 0.0, unit_offset: bool = False,
    ) -> None:  # fmt: skip
        """Normalise ``width`` channels; ``out`` may be ``x``. ``unit_offset``: the factor is one plus the weight."""
        parameters = (*self._vector(weight, width), *self._vector(bias, width))
        self._words += (_NORM, *x, *out, *parameters, width, _NORMS.index(kind), int(unit_offset))
        self._constants.append(eps)

    def linear(
        self, x: Rows, out: Rows, weight: Tensor, bias: Tensor | None = None, scale: Tensor | None = None,
        *, residual: Rows = NOTHING, activation: Activation = "none",
    ) -> None:  # fmt: skip
        """Multiply by a weight (outputs, inputs), int8 with its scales; ``residual`` may be ``out``."""
        if type(weight) not in native.PLAIN or not weight.is_cpu or weight.dim() != 2 or weight.stride(1) != 1:
            raise Unfused
        outputs, inputs = weight.shape
        code, factors, groups = _DTYPES.get(weight.dtype), 0, 1
        if scale is not None:
            code, groups = (_INT8 if weight.dtype is torch.int8 else None), 1 if scale.dim() == 1 else scale.shape[1]
            factors = self._vector(scale, outputs * groups)[0]
            code = code if scale.dtype is torch.float32 and inputs % groups == 0 else None
        if code is None or x.dtype != 0:
            raise Unfused
        self._kept.append(weight)
        stride = weight.stride(0) if outputs > 1 else inputs
        self._words += (
            _LINEAR, *x, *out, *residual, weight.data_ptr(), code, stride, factors, groups,
            *self._vector(bias, outputs), inputs, outputs, _ACTIVATIONS.index(activation),
        )  # fmt: skip

    def conv(
        self, x: Rows, out: Rows, state: Tensor, weight: Tensor, bias: Tensor | None, *, activation: Activation
    ) -> None:
        """Convolve channels with ``weight`` (channels, taps), and overwrite the state.

        Args:
            state: (rows, taps - 1 or more, channels), the last inputs with the newest at the end, of any strides.
        """
        channels, taps = weight.shape[0], weight.shape[-1]
        fits = state.dim() == 3 and state.shape[0] == self.rows and state.shape[2] == channels
        if taps > MOST_TAPS or not fits or state.shape[1] < taps - 1:
            raise Unfused
        self._words += (
            _CONV, *x, *out, state.data_ptr(), _DTYPES[state.dtype], state.shape[1], *state.stride(),
            *self._vector(weight, channels * taps), *self._vector(bias, channels), channels, taps,
            _ACTIVATIONS.index(activation),
        )  # fmt: skip

    def scan(
        self, u: Rows, delta: Rows, B: Rows, C: Rows, z: Rows, out: Rows, A_log: Tensor, bias: Tensor | None,
        D: Tensor | None, state: Tensor,
    ) -> None:  # fmt: skip
        """A step of a selective scan; ``state`` (rows, channels, d_state) of float32 is overwritten."""
        channels, d_state = A_log.shape
        if A_log.dtype is not torch.float32 or state.dtype is not torch.float32:
            raise Unfused
        if state.shape != (self.rows, channels, d_state):
            raise Unfused
        self._words += (
            _SCAN, *u, *delta, *z, *B, *C, *out, self._vector(A_log, channels * d_state)[0],
            *self._vector(bias, channels), *self._vector(D, channels), state.data_ptr(), channels, d_state,
        )  # fmt: skip

    def gate(self, a: Rows, b: Rows, out: Rows, width: int, *, activation: Activation) -> None:
        """Multiply ``f(a)`` by ``b``."""
        self._words += (_GATE, *a, *b, *out, width, _ACTIVATIONS.index(activation))

    def attention(
        self, qkv: Rows, out: Rows, key: Tensor, value: Tensor, tokens: Tensor, *, heads: int, rotary_dim: int,
        base: float, scaling: float, scale: float,
    ) -> None:  # fmt: skip
        """Attend from the queries in ``qkv`` (queries, keys and values side by side) to the tokens of a cache.

        Args:
            key, value: (rows, tokens, groups, head_dim) with a last token for the own one, which is written.
            tokens: (rows,) of int64, the real ones of each row before this; others lead as padding.
            heads: of queries.
            rotary_dim: channels of a head that turn with the position, by ``rates = base ** -(i / half)``.
            scaling: what positions are divided by.
            scale: factor of the scores.
        """
        _, places, groups, width = key.shape
        inner = (groups * width, width, 1)
        fits = key.shape == value.shape and key.stride() == value.stride() and key.stride()[1:] == inner
        if not fits or width > WIDEST_HEAD or key.dtype is not value.dtype or key.dtype not in _DTYPES:
            raise Unfused
        if tokens.dtype is not torch.int64 or not tokens.is_contiguous():
            raise Unfused
        rates = _rates(rotary_dim // 2, base)
        self._kept += (key, value, tokens, rates)
        self._words += (
            _ATTENTION, *qkv, *out, key.data_ptr(), value.data_ptr(), _DTYPES[key.dtype], key.stride(0), places - 1,
            tokens.data_ptr(), heads, groups, width, rotary_dim, rates.data_ptr(),
        )  # fmt: skip
        self._constants += (scaling, scale)

    def _vector(self, parameter: Tensor | None, size: int) -> tuple[int, int]:
        """Address and dtype of a parameter of that many numbers in a row."""
        if parameter is None:
            return 0, 0
        code = _DTYPES.get(parameter.dtype)
        plain = type(parameter) in native.PLAIN and parameter.is_cpu and not parameter.is_neg()
        if code is None or not plain or parameter.numel() != size or not parameter.is_contiguous():
            raise Unfused
        self._kept.append(parameter)
        return parameter.data_ptr(), code


@cache
def _rates(half: int, base: float) -> Tensor:
    """Angles per position, in the order of operations of the whole sequence: far positions amplify rounding."""
    return base ** -(torch.arange(half, dtype=torch.float32) / half)
