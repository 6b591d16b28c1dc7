"""What the Triton implementations share on the host: when a call is unsupported, launching, splitting into chunks.

Importing this module imports no Triton. The kernels run on a GPU, or on CPU tensors inside Triton's interpreter where
``TRITON_INTERPRET=1`` was set before Triton was first imported. They convert every dtype to float32 (or float64) right
after loading it: the interpreter's arithmetic in bfloat16 is silently wrong.
"""

import os
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import cache, lru_cache
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..dispatch import device_type
from ..native import accumulator_dtype as accumulator_dtype
from ..native import transformed
from ..operator.inputs import given_tensors

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


@cache
def _installed() -> bool:
    return find_spec("triton") is not None


def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def unavailable(device_type: str) -> str | None:
    """Why no Triton kernel can run on such a device, or ``None``."""
    if device_type != "cuda" and not interpreted():
        return "Triton kernels run on GPUs, or on CPU tensors under TRITON_INTERPRET=1"
    return None if _installed() else "triton is not installed; install seqconv[triton]"


# What torch.compiler.assume_constant_result sets; calling that would import the whole compiler here.
unavailable._dynamo_marked_constant = True  # type: ignore[attr-defined]


def unsupported_reason(inputs: tuple[Any, ...], *, activation: str, parameters: Iterable[str] = ()) -> str | None:
    """Why no Triton kernel supports the inputs, or ``None``.

    Args:
        inputs: of the op.
        activation: name of the tensor whose dtype decides that of the accumulators: float64 for float64, else float32.
        parameters: names of the tensors that enter the accumulators as they are, so must not be wider than them.
    """
    reason: str | None = unavailable(device_type(inputs))
    if reason is not None:
        return reason
    tensors = given_tensors(inputs)
    accumulator = accumulator_dtype(tensors[activation])
    for name, tensor in tensors.items():
        if tensor.dtype not in DTYPES and (tensor.is_floating_point() or tensor.is_complex()):
            return f"{name} has dtype {tensor.dtype}, wanted float32, float64, bfloat16 or float16"
        if name in parameters and torch.promote_types(tensor.dtype, accumulator) != accumulator:
            return f"{name} of dtype {tensor.dtype} is wider than the accumulators, {accumulator}"
    if not torch.compiler.is_compiling() and transformed():
        return "under torch.func or forward-mode differentiation, which the operators of the kernels have no rule for"
    return None


def on_device(tensor: Tensor) -> AbstractContextManager[object]:
    """Make the device of ``tensor`` the current one, where Triton launches."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def count_segments(cu_seqlens: Tensor | None, batch: int | torch.SymInt) -> int | torch.SymInt:
    """Rows of a state: one per packed sequence, or the batch."""
    return batch if cu_seqlens is None else cu_seqlens.shape[0] - 1


class Chunks(NamedTuple):
    """Chunks of consecutive tokens, none of which crosses from one segment (sequence) to the next.

    A token counts on through the batch, packed or not. A packed batch may end in empty chunks, so that their number
    follows from shapes alone and nothing waits for the GPU.

    Attributes:
        starts: first token of each chunk.
        stops: token after the last one of each chunk.
        segments: segment of each chunk.
        cu_seqlens: first token of each segment, and the end.
        offsets: first chunk of each segment, and the end.
    """

    starts: Tensor
    stops: Tensor
    segments: Tensor
    cu_seqlens: Tensor
    offsets: Tensor

    @classmethod
    def split(cls, cu_seqlens: Tensor | None, x: Tensor, size: int) -> "Chunks":
        """Split the sequences of ``x`` (batch, length, ...) into chunks of at most ``size`` tokens."""
        batch, length = x.shape[:2]
        if cu_seqlens is None:
            return _equal_lengths(batch, length, size, x.device)
        # A segment of n tokens takes at most n // size + 1 chunks.
        return _split(cu_seqlens.to(x.device, torch.int64), length // size + cu_seqlens.shape[0] - 1, size)


@lru_cache(maxsize=64)
def _equal_lengths(batch: int, length: int, size: int, device: torch.device) -> Chunks:
    """The chunks of a batch that is not packed: they depend on its shape alone and recur at every training step."""
    cu_seqlens = torch.arange(batch + 1, device=device) * length
    return _split(cu_seqlens, batch * -(-length // size), size)


def _split(cu_seqlens: Tensor, count: int, size: int) -> Chunks:
    lengths = cu_seqlens.diff()
    offsets = F.pad(((lengths + size - 1) // size).cumsum(0), (1, 0))
    index = torch.arange(count, device=cu_seqlens.device)
    segments = torch.searchsorted(offsets[1:], index, right=True).clamp(max=max(len(lengths) - 1, 0))
    starts = cu_seqlens[segments] + (index - offsets[segments]) * size
    # A chunk after the last one of the last segment starts after its end: it is empty.
    return Chunks(starts, torch.minimum(starts + size, cu_seqlens[segments + 1]), segments, cu_seqlens, offsets)
