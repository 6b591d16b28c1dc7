"""The step of diagonal state spaces in C++: in place where nothing forbids it, a PyTorch operator for the compiler.

What is called for every token and layer must not cost more than its work, so in eager mode the extension is called
directly; only under the compiler the operator is, which copies the states. Neither has gradients.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from .._core import native
from .._core.complex import view_output_as_complex
from .._core.errors import argument_error
from .._core.operator.operators import Operator
from .spec import Inputs

_SUMS = {
    torch.float32: (torch.float32, torch.complex64),
    torch.bfloat16: (torch.float32, torch.complex64),
    torch.float16: (torch.float32, torch.complex64),
    torch.float64: (torch.float64, torch.complex128),
}


class Reals(NamedTuple):
    """The inputs as the operator takes them: complex numbers of the modes as pairs of neighbours."""

    u: Tensor
    offsets: Tensor
    residues: Tensor
    head: Tensor | None
    skip: Tensor | None
    hidden: Tensor
    past: Tensor | None
    complex: bool


def unsupported_reason(inputs: Inputs) -> str | None:
    """Why this implementation does not support the inputs, or ``None``."""
    compiling, u, hidden = torch.compiler.is_compiling(), inputs.u, inputs.hidden
    if not compiling and u.shape[0] == 0:
        return "a batch of none"
    real, complex = _SUMS.get(u.dtype, (None, None))
    if hidden.dtype is not real and hidden.dtype is not complex:
        return f"hidden of dtype {hidden.dtype} is not that of the sums for u of dtype {u.dtype}"
    learning = torch.is_grad_enabled()
    for name, tensor in zip(inputs._fields, inputs, strict=True):
        if tensor is None:
            continue
        if not compiling and tensor.is_neg():
            return f"{name} is lazily negated: its memory does not hold its values"
        if tensor.is_cpu and not tensor.requires_grad and type(tensor) is Tensor:
            continue
        if tensor.requires_grad and (learning or name in ("hidden", "past")):
            return f"{name} needs a gradient, which only the reference gives"
        if not tensor.is_cpu:
            return f"{name} is on {tensor.device}, the native kernels run on CPU"
        if type(tensor) not in native.PLAIN and not compiling:
            return f"{name} is a {type(tensor).__name__}, whose memory the native kernels cannot see"
    for name, tensor in (("head", inputs.head), ("past", inputs.past), ("skip", inputs.skip)):
        if tensor is not None and tensor.dtype is not real:
            return f"{name} has dtype {tensor.dtype}, the sums have {real}"
    if not compiling and native.transformed():
        return "under torch.func or forward-mode differentiation, which the native step has no rule for"
    return native.unavailable()


def diagonal_step(inputs: Inputs) -> tuple[Tensor, Tensor, Tensor | None]:
    """The output, and the states, overwritten."""
    u, offsets, residues, head, skip, hidden, past = inputs
    complex = hidden.is_complex()
    if torch.compiler.is_compiling():
        y, after, later = _OPERATOR(
            Reals(u, _reals(offsets), _reals(residues), head, skip, _reals(hidden), past, complex)
        )
        shaped = view_output_as_complex(after.view(*hidden.shape, 2)) if complex else after
        return y, shaped, None if past is None else later
    hidden, past = _own(hidden), None if past is None else _own(past)
    y = _run(Reals(u, offsets, residues, head, skip, hidden, past, complex))
    for state in (hidden,) if past is None else (hidden, past):
        if not state.is_inference():
            increment_version(state)
    return y, hidden, past


class Prepared:
    """The parameters of a recurrence, checked once, so that a step looks only at what is new to it.

    Args:
        offsets, residues, head: as of :func:`seqconv_kernels.diagonal_step`.
    """

    def __init__(self, offsets: Tensor, residues: Tensor, head: Tensor | None) -> None:
        given = [offsets, residues] if head is None else [offsets, residues, head]
        self.modes, self.head = (_plain(offsets), _plain(residues)), head
        self.learning = any(t.requires_grad for t in given)
        self.dtype, self.real = offsets.dtype, offsets.real.dtype if offsets.is_complex() else offsets.dtype
        self.reach = 0 if head is None else head.shape[1]
        alike = offsets.shape == residues.shape and residues.dtype is offsets.dtype and offsets.dim() == 2
        fits = head is None or (head.shape[0] == offsets.shape[0] and head.dtype is self.real and self.reach > 0)
        plain = all(t.is_cpu and type(t) in native.PLAIN and not t.is_neg() for t in given)
        self.able = alike and fits and plain and native.unavailable() is None

    def step(self, u: Tensor, hidden: Tensor, past: Tensor, skip: Tensor | None) -> Tensor | None:
        """The output, the states overwritten; ``None`` where only :func:`seqconv_kernels.diagonal_step` serves."""
        asked = self.learning or u.requires_grad or (skip is not None and skip.requires_grad)
        if (
            not self.able
            or u.dim() != 2
            or hidden.requires_grad
            or past.requires_grad
            or (asked and torch.is_grad_enabled())
            or not all(map(native.holds_values, (u, hidden, past) if skip is None else (u, hidden, past, skip)))
        ):
            return None
        (batch, channels), sums = u.shape, _SUMS.get(u.dtype)
        if (
            batch == 0
            or hidden.shape != (batch, *self.modes[0].shape)
            or hidden.dtype is not self.dtype
            or not hidden.is_contiguous()
        ):
            return None
        if past.shape != (batch, self.reach, channels) or past.dtype is not self.real or not past.is_contiguous():
            return None
        if skip is not None and (skip.shape != (channels,) or skip.dtype is not self.real or not skip.is_cpu):
            return None
        inference = hidden.is_inference() or past.is_inference()
        if sums is None or sums[0] is not self.real or type(u) is not Tensor or not u.is_cpu or not hidden.is_cpu:
            return None
        if native.transformed() or (inference and not torch.is_inference_mode_enabled()):
            return None
        recent = past if self.reach else None
        y = _run(Reals(u, *self.modes, self.head, skip, hidden, recent, hidden.is_complex()))
        if not inference:
            increment_version((hidden, past))
        return y


def _own(state: Tensor) -> Tensor:
    """The state itself where it may be overwritten, else a copy."""
    frozen = state.is_inference() and not torch.is_inference_mode_enabled()
    taken = frozen or not state.is_contiguous() or state.is_conj()
    return state.clone(memory_format=torch.contiguous_format) if taken else state


def _reals(numbers: Tensor) -> Tensor:
    """Complex numbers as pairs of neighbours."""
    return torch.view_as_real(numbers.resolve_conj()).flatten(-2) if numbers.is_complex() else numbers


def _run(inputs: Reals) -> Tensor:
    """The output; the states are overwritten. Numbers of the modes are complex, or real with pairs as neighbours."""
    u, offsets, residues, head, skip, hidden, past, complex = inputs
    u, offsets, residues = native.dense_rows(u), _plain(offsets), _plain(residues)
    skip = None if skip is None else skip.contiguous()
    y = torch.empty_like(u, memory_format=torch.contiguous_format)
    batch, channels, modes = hidden.shape
    reach, steps = (0, (0, 0)) if head is None else (head.shape[1], head.stride())
    sizes = (batch, channels, modes if hidden.is_complex() or not complex else modes // 2, reach)
    native.library().diagonal_step(
        native.code(u), complex, sizes, (u.stride(0), *steps), u.data_ptr(), offsets.data_ptr(), residues.data_ptr(),
        _address(head), _address(skip), hidden.data_ptr(), _address(past), y.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    return y


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _plain(numbers: Tensor) -> Tensor:
    """In row-major order, without a conjugation that is still to be done."""
    return numbers.resolve_conj() if numbers.is_contiguous() else numbers.contiguous()


def _states(hidden: Tensor, past: Tensor | None) -> tuple[Tensor, Tensor]:
    return hidden.new_empty(hidden.shape), hidden.new_empty(0 if past is None else past.shape)


def _outputs(inputs: Reals) -> tuple[Tensor, Tensor, Tensor]:
    return inputs.u.new_empty(inputs.u.shape), *_states(inputs.hidden, inputs.past)


def _step(inputs: Reals) -> tuple[Tensor, Tensor, Tensor]:
    """The output and the next states, in new memory."""
    u, offsets, residues, hidden, past = inputs.u, inputs.offsets, inputs.residues, inputs.hidden, inputs.past
    if not (offsets.shape == residues.shape == hidden.shape[1:] and u.shape == hidden.shape[:2]):
        got = f"offsets {tuple(offsets.shape)}, residues {tuple(residues.shape)}, hidden {tuple(hidden.shape)}"
        raise argument_error("seqconv::diagonal_step", got, "matching shapes", "call seqconv_kernels.diagonal_step")
    after, later = _states(hidden, past)
    after.copy_(hidden)
    if past is not None:
        later.copy_(past)
    y = _run(inputs._replace(hidden=after, past=None if past is None else later))
    return y, after, later


_OPERATOR = Operator("diagonal_step", _step, _outputs)
