"""Checks of what is asked of a fit, before any work is done."""

import torch
from jaxtyping import Float
from torch import Tensor

from seqconv_kernels._core.errors import argument_error


def checked_taps(h: Tensor, head: int) -> Float[Tensor, "channels length"]:
    """The taps in float64 on the CPU.

    Raises:
        ValueError: complex or not two axes, fewer than 2 taps, taps that are not finite, a head outside [1, length).
    """
    if torch.as_tensor(h).is_complex():
        got, remedy = (
            f"h of dtype {torch.as_tensor(h).dtype}",
            "distil real and imaginary parts as channels of their own",
        )
        raise argument_error("distill_filter", got, "real impulse responses", remedy)
    taps = torch.as_tensor(h).detach().cpu().double().clone()
    if taps.dim() != 2 or taps.shape[0] < 1 or taps.shape[1] < 2:
        got, wanted = f"h of shape {tuple(taps.shape)}", "(channels, length) with at least 2 taps"
        raise argument_error("distill_filter", got, wanted, "pass impulse responses, lag 0 first")
    if not bool(taps.isfinite().all()):
        bad = (~taps.isfinite()).any(1).nonzero().flatten().tolist()
        got = f"taps that are not finite in channels {bad[:8]}"
        raise argument_error("distill_filter", got, "finite taps", "repair the filter")
    if not 1 <= head < taps.shape[1]:
        wanted = f"between 1 and {taps.shape[1] - 1}"
        raise argument_error("distill_filter", f"fir_head={head}", wanted, "keep fewer taps exactly than there are")
    return taps


def check_fit(
    taps: Float[Tensor, "channels length"],
    dtype: torch.dtype,
    weight: Tensor | None,
    beyond: Tensor | None,
    refine_steps: int | None,
) -> None:
    """Raise for options that no fit can follow, or that would make its certificate false.

    Raises:
        ValueError: a dtype that is not real floating point; weights or bounds of other shapes, negative or not numbers;
            a channel without any weight; a negative number of steps.
    """
    channels, length = taps.shape
    if not dtype.is_floating_point:
        remedy = "pass torch.float32 or torch.float64"
        raise argument_error("distill_filter", f"dtype={dtype}", "a real floating point dtype", remedy)
    if refine_steps is not None and refine_steps < 0:
        raise argument_error("distill_filter", f"refine_steps={refine_steps}", "at least 0", "raise it")
    if weight is not None:
        usable = weight.shape == (channels, length + 1) and bool((weight.isfinite() & (weight >= 0)).all())
        if not usable or not bool((weight > 0).any(1).all()):
            got = f"weight of shape {tuple(weight.shape)}" + (" with values that are no power spectrum" * (not usable))
            wanted = f"({channels}, {length + 1}) finite values of at least 0, some above it in every channel"
            raise argument_error("distill_filter", got, wanted, "pass the power spectrum of the input")
    if beyond is not None and not (beyond.shape == (channels,) and bool((beyond >= 0).all())):
        got, wanted = f"beyond={beyond.tolist()}", f"{channels} bounds of at least 0"
        raise argument_error("distill_filter", got, wanted, "pass the sum of the absolute taps left out, per channel")
