"""Packed sequences inside an op: each segment becomes a row of a batch, padded on the right, and back."""

from collections.abc import Callable

import torch
from torch import Tensor

from .checks import check_cu_seqlens


def count_rows(operation: str, cu_seqlens: Tensor | None, x: Tensor) -> int:
    """Rows of the states: one per segment, or the batch without bounds.

    Raises:
        ValueError: bounds that do not increase to the length, a batch other than one.
    """
    if cu_seqlens is None:
        return x.shape[0]
    check_cu_seqlens(operation, cu_seqlens, x)
    return len(cu_seqlens) - 1


def over_segments(
    run: Callable[..., tuple[Tensor, Tensor]], cu_seqlens: Tensor | None, *packed: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Outputs and final states of ``run(*packed)``, which takes a batch, for packed sequences with checked bounds.

    The rows that fill a segment up are zeros, which must change no state.
    """
    if cu_seqlens is None:
        return run(*packed)
    segments = Segments(cu_seqlens, cu_seqlens.device if packed[0] is None else packed[0].device)
    padded, final_state = run(*(None if t is None else segments.unpack(t) for t in packed))
    return segments.pack(padded), final_state


class Segments:
    """Where the segments of a batch of one lie.

    An op unpacks its inputs with fill values that change no state (a zero key, a decay of one), runs as on any
    batch, and packs its output: initial and final states then have one row per segment.

    Args:
        cu_seqlens: checked bounds of the segments.
    """

    def __init__(self, cu_seqlens: Tensor, device: torch.device) -> None:
        starts, lengths = cu_seqlens[:-1].to(device), cu_seqlens.diff().to(device)
        offsets = torch.arange(int(lengths.max()), device=device)
        self.real = offsets < lengths[:, None]
        self.index = (starts[:, None] + offsets).clamp(max=int(cu_seqlens[-1]) - 1)

    def unpack(self, packed: Tensor, fill: float = 0.0) -> Tensor:
        """``(1, total, ...)`` to ``(segments, longest, ...)``."""
        real = self.real.reshape(*self.real.shape, *[1] * (packed.dim() - 2))
        return packed[0][self.index].masked_fill(~real, fill)

    def pack(self, padded: Tensor) -> Tensor:
        """``(segments, longest, ...)`` to ``(1, total, ...)``."""
        return padded[self.real][None]
