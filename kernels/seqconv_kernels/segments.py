"""Packed sequences inside an op: each segment becomes a row of a batch, padded on the right, and back."""

import torch
from torch import Tensor


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
