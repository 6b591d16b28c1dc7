"""Arguments of transformers' collators and of the Mamba world that say where packed sequences begin.

``cu_seqlens`` or ``cu_seq_lens_q`` and ``cu_seq_lens_k`` (boundaries), ``seq_idx`` (the number of each token's
sequence) and ``position_ids`` that start again at 0. All become boundaries in the batch laid out row after row, so that
they hold for any number of rows.
"""

from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from seqconv_kernels._core.errors import argument_error


def packed_bounds(
    operation: str,
    shape: tuple[int, int],
    *,
    cu_seqlens: Int[Tensor, " bounds"] | None,
    position_ids: Int[Tensor, "rows length"] | None,
    mask: Tensor | None,
    arguments: dict[str, Any],
) -> Int[Tensor, " segments_and_one"] | None:
    """Boundaries of packed sequences in the rows one after the other; ``None`` where nothing is packed.

    Args:
        operation: for messages.
        shape: rows and length of the inputs.
        cu_seqlens, position_ids, mask: of the call.
        arguments: further arguments of the call, from which those about packing are taken out.

    Raises:
        ValueError: arguments that disagree, or of another shape than the inputs.
    """
    first = arguments.pop("cu_seq_lens_q", None)
    keys, seq_idx = arguments.pop("cu_seq_lens_k", None), arguments.pop("seq_idx", None)
    arguments.pop("max_length_q", None), arguments.pop("max_length_k", None)  # lengths that the boundaries say too
    given = {"cu_seqlens": cu_seqlens, "cu_seq_lens_q": first, "cu_seq_lens_k": keys}
    found = {name: _with_rows(operation, name, b, shape) for name, b in given.items() if b is not None}
    if seq_idx is not None:
        if seq_idx.shape != shape:
            got, remedy = f"seq_idx of shape {tuple(seq_idx.shape)}", "give every token its sequence's number"
            raise argument_error(operation, got, f"(batch, length) = {shape}", remedy)
        found["seq_idx"] = _bounds(seq_idx[:, 1:] != seq_idx[:, :-1], shape)
    names = list(found)
    for name in names[1:]:
        if not torch.equal(found[name], found[names[0]].to(found[name].device)):
            remedy = "pass one of them"
            raise argument_error(operation, f"{names[0]} and {name} that disagree", "the same boundaries", remedy)
    # With a cache the mask also covers the tokens before this call: the last columns are those of the inputs.
    covers = mask is not None and mask.dim() == 2 and mask.shape[0] == shape[0] and mask.shape[1] >= shape[1]
    real = mask[:, -shape[1] :].bool() if covers and mask is not None else None
    if found:
        bounds = found[names[0]]
        return bounds if real is None else _apart_from_padding(bounds, real)
    if position_ids is None or shape[1] < 2 or position_ids.shape[-1] != shape[1]:
        return None
    starts = position_ids[:, 1:].expand(shape[0], -1) == 0
    starts = starts if real is None else starts & real[:, 1:] & real[:, :-1]  # after padding nothing starts again
    if not bool(starts.any()):
        return None
    return _bounds(starts, shape) if real is None else _apart_from_padding(_bounds(starts, shape), real)


def _bounds(starts: Bool[Tensor, "batch later"], shape: tuple[int, int]) -> Int[Tensor, " bounds"]:
    """Boundaries from marks at all tokens of a row but the first, which always begins a sequence."""
    marks = torch.cat([starts.new_ones(shape[0], 1), starts], dim=1).flatten().nonzero()[:, 0]
    return torch.cat([marks, marks.new_tensor([shape[0] * shape[1]])]).int()


def _with_rows(
    operation: str, name: str, bounds: Int[Tensor, " given"], shape: tuple[int, int]
) -> Int[Tensor, " bounds"]:
    """Given boundaries without empty sequences; with several rows also where each begins.

    Raises:
        ValueError: boundaries that do not go from 0 to the end.
    """
    total = shape[0] * shape[1]
    if len(bounds) < 2 or bounds[0] != 0 or bounds[-1] != total or bool((bounds.diff() < 0).any()):
        wanted = f"numbers that rise from 0 to batch * length = {total}"
        remedy = "make padding at the end a sequence of its own, and cut what belongs to other inputs"
        raise argument_error(operation, f"{name}={bounds.tolist()}", wanted, remedy)
    rows = torch.arange(0, total + 1, shape[1], device=bounds.device, dtype=torch.int32)
    together: Tensor = torch.unique(torch.cat([bounds.int(), rows]))
    return together


def _apart_from_padding(bounds: Int[Tensor, " given"], real: Bool[Tensor, "batch length"]) -> Int[Tensor, " bounds"]:
    """Boundaries that also separate padding from the sequences next to it."""
    marks = _bounds(real[:, 1:] != real[:, :-1], (real.shape[0], real.shape[1]))
    together: Tensor = torch.unique(torch.cat([bounds.to(marks.device), marks]))
    return together
