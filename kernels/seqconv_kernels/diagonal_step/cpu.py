"""The step of diagonal state spaces in C++: in place where nothing forbids it, a PyTorch operator for the compiler.

What is called for every token and layer must not cost more than its work, so in eager mode the extension is called
directly; only under the compiler the operator is, which copies the states. Neither has gradients.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from .. import native
from ..dispatch import Call

_SUMS = {
    torch.float32: (torch.float32, torch.complex64),
    torch.bfloat16: (torch.float32, torch.complex64),
    torch.float16: (torch.float32, torch.complex64),
    torch.float64: (torch.float64, torch.complex128),
}
_ARGUMENTS = "Tensor u, Tensor offsets, Tensor residues, Tensor? head, Tensor? skip, Tensor hidden, Tensor? past"
torch.library.define(
    "seqconv::diagonal_step",
    f"({_ARGUMENTS}, bool complex) -> (Tensor, Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)


def refuse(call: Call) -> str | None:
    """Why this implementation cannot serve the call, or ``None``."""
    tensors, compiling = call.tensors, torch.compiler.is_compiling()
    u, hidden = tensors["u"], tensors["hidden"]
    assert u is not None
    assert hidden is not None
    real, complex = _SUMS.get(u.dtype, (None, None))
    if hidden.dtype is not real and hidden.dtype is not complex:
        return f"hidden of dtype {hidden.dtype} is not that of the sums for u of dtype {u.dtype}"
    learning = torch.is_grad_enabled()
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        if tensor.requires_grad and (learning or name in ("hidden", "past")):
            return f"{name} needs a gradient, which only the reference gives"
        if name in ("head", "past", "skip") and tensor.dtype is not real:
            return f"{name} has dtype {tensor.dtype}, the sums have {real}"
        if not tensor.is_cpu:
            return f"{name} is on {tensor.device}, the native kernels run on CPU"
        if type(tensor) is not Tensor and type(tensor) is not torch.nn.Parameter and not compiling:
            return f"{name} is a {type(tensor).__name__}, whose memory the native kernels cannot see"
    if not compiling and native.transformed():
        return "under torch.func or forward-mode differentiation, which the native step has no rule for"
    return native.unavailable()


def diagonal_step(
    u: Tensor,
    offsets: Tensor,
    residues: Tensor,
    head: Tensor | None,
    skip: Tensor | None,
    hidden: Tensor,
    past: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The output, and the states, overwritten."""
    if torch.compiler.is_compiling():
        y, after, later = torch.ops.seqconv.diagonal_step(
            u, _reals(offsets), _reals(residues), head, skip, _reals(hidden), past, hidden.is_complex()
        )
        shaped = torch.view_as_complex(after.view(*hidden.shape, 2)) if hidden.is_complex() else after
        return y, shaped, None if past is None else later
    hidden, past = _own(hidden), None if past is None else _own(past)
    y = _run(u, offsets, residues, head, skip, hidden, past, hidden.is_complex())
    for state in (hidden,) if past is None else (hidden, past):
        if not state.is_inference():
            increment_version(state)
    return y, hidden, past


def _own(state: Tensor) -> Tensor:
    """The state itself where it may be overwritten, else a copy."""
    frozen = state.is_inference() and not torch.is_inference_mode_enabled()
    return state.clone(memory_format=torch.contiguous_format) if frozen or not state.is_contiguous() else state


def _reals(numbers: Tensor) -> Tensor:
    """Complex numbers as pairs of neighbours."""
    return torch.view_as_real(numbers.resolve_conj()).flatten(-2) if numbers.is_complex() else numbers


def _run(
    u: Tensor,
    offsets: Tensor,
    residues: Tensor,
    head: Tensor | None,
    skip: Tensor | None,
    hidden: Tensor,
    past: Tensor | None,
    complex: bool,
) -> Tensor:
    """The output; the states are overwritten. Numbers of the modes are complex, or real with pairs as neighbours."""
    u, offsets, residues = native.dense_rows(u), _plain(offsets), _plain(residues)
    skip = None if skip is None else skip.contiguous()
    y, view = torch.empty_like(u, memory_format=torch.contiguous_format), native.view
    native.library().diagonal_step(
        view(u), _pairs(offsets), _pairs(residues), view(head), view(skip), _pairs(hidden), view(past), complex,
        view(y), torch.get_num_threads(),
    )  # fmt: skip
    return y


def _plain(numbers: Tensor) -> Tensor:
    """In row-major order, without a conjugation that is still to be done."""
    return numbers.resolve_conj() if numbers.is_contiguous() else numbers.contiguous()


def _pairs(numbers: Tensor) -> native.View:
    """View of contiguous numbers, complex ones as pairs of neighbours."""
    if not numbers.is_complex():
        return native.view(numbers)
    *leading, modes = numbers.shape
    strides = [2 * stride for stride in numbers.stride()[:-1]]
    code = 0 if numbers.dtype is torch.complex64 else 1
    return numbers.data_ptr(), code, (*leading, 2 * modes), (*strides, 1)


def _states(hidden: Tensor, past: Tensor | None) -> tuple[Tensor, Tensor]:
    return hidden.new_empty(hidden.shape), hidden.new_empty(0 if past is None else past.shape)


@torch.library.impl("seqconv::diagonal_step", "cpu")
def _step(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    u, offsets, residues, head, skip, hidden, past, complex = arguments
    after, later = _states(hidden, past)
    after.copy_(hidden)
    if past is not None:
        later.copy_(past)
    y = _run(u, offsets, residues, head, skip, after, None if past is None else later, complex)
    return y, after, later


torch.library.register_fake("seqconv::diagonal_step")(lambda *a: (a[0].new_empty(a[0].shape), *_states(*a[5:7])))
