"""Convolutions within blocks of the sequence: the exact ones, and the circular ones of the original Hyena code."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from ..chunking import block_count, cut_blocks, join_blocks, roll_rows


def convolve_blocks(
    v: Float[Tensor, "batch length channels"],
    convolve: Callable[[Tensor], Tensor],
    block: int,
    mask: Bool[Tensor, "batch length"] | None,
) -> Float[Tensor, "batch length channels"]:
    """Apply ``convolve`` to blocks of ``block`` tokens, the first of which begins with the first token of each row."""
    batch, length, channels = v.shape
    offsets = torch.zeros(batch, dtype=torch.int64, device=v.device) if mask is None else mask.int().argmax(1)
    padded = cut_blocks(v, block_count(length, block), block).flatten(1, 2)
    y = convolve(roll_rows(padded, offsets).reshape(-1, block, channels)).reshape(padded.shape)
    return join_blocks(roll_rows(y, -offsets)[:, None], length)  # type: ignore[no-any-return]


def convolve_circular(
    v: Float[Tensor, "batch length channels"],
    taps: Float[Tensor, "channels taps"],
    skip: Float[Tensor, " channels"] | None,
    blocks: int,
    *,
    delayed: bool,
) -> Float[Tensor, "batch length channels"]:
    """What HazyResearch/safari and hyena-dna compute: a circle of twice the block, so that taps wrap around.

    Equation, with n tokens per block and all indices modulo 2n: ``y_t = sum_{s<2n} h[s] v_{t-s-delay} + skip v_t``,
    where the delay is n//2 if ``delayed`` (their bidirectional form) and 0 otherwise.
    """
    rows = v.unflatten(1, (blocks, -1)).to(taps.dtype)
    size, delay = 2 * rows.shape[2], rows.shape[2] // 2 if delayed else 0
    spectrum = torch.fft.rfft(F.pad(rows, (0, 0, delay, 0)), n=size, dim=2) * torch.fft.rfft(taps.T, n=size, dim=0)
    y: Tensor = torch.fft.irfft(spectrum, n=size, dim=2)[:, :, : rows.shape[2]].flatten(1, 2)
    return (y if skip is None else y + skip * v).to(v.dtype)
