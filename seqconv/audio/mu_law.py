"""Waveforms as tokens: samples on a logarithmic scale, which resolves quiet sounds, rounded to ``Q = 2^bits`` levels.

``f(x) = sign(x) log(1 + μ|x|) / log(1 + μ)`` with ``μ = Q - 1``; the token is the whole part of
``(f(x) + 1) (Q - ε)/2 + ε/2``, ``ε = 0.01``, and the sample of a token t is ``f⁻¹(2t/Q - 1)``. Token ``Q/2`` is
silence.

Source: ITU-T G.711; levels as ``src/dataloaders/audio.py`` of state-spaces/s4 at e757cef, which scales each recording
to [-1, 1] first.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from seqconv_kernels._core.errors import argument_error

MARGIN = 0.01
"""ε: keeps samples of 1 below the last level's end."""


def mu_law_encode(samples: Float[Tensor, "*any"], bits: int = 8) -> Int[Tensor, "*any"]:
    """Tokens of samples in [-1, 1].

    Raises:
        ValueError: no samples, samples outside of [-1, 1] or not finite, fewer than 1 or more than 16 bits.
    """
    levels = _levels("mu_law_encode", bits)
    if samples.numel() == 0 or not bool((samples.abs() <= 1).all()):
        got = f"samples up to {samples.abs().max().item()}" if samples.numel() else "no samples"
        raise argument_error("mu_law_encode", got, "samples in [-1, 1]", "divide a recording by its largest value")
    companded = samples.sign() * torch.log1p((levels - 1) * samples.abs()) / math.log(levels)
    return ((companded + 1) / 2 * (levels - MARGIN) + MARGIN / 2).long()


def mu_law_decode(tokens: Int[Tensor, "*any"], bits: int = 8) -> Float[Tensor, "*any"]:
    """Samples in [-1, 1) of tokens.

    Raises:
        ValueError: tokens outside of the levels, fewer than 1 or more than 16 bits.
    """
    levels = _levels("mu_law_decode", bits)
    if tokens.numel() and not bool(((tokens >= 0) & (tokens < levels)).all()):
        got = f"tokens from {int(tokens.min())} to {int(tokens.max())}"
        raise argument_error("mu_law_decode", got, f"0 to {levels - 1}", "pass what mu_law_encode gave")
    companded = tokens / (levels / 2) - 1
    return companded.sign() * (float(levels) ** companded.abs() - 1) / (levels - 1)


def _levels(operation: str, bits: int) -> int:
    if not 1 <= bits <= 16:
        raise argument_error(operation, f"bits={bits}", "1 to 16", "take 8, as in the original")
    return 1 << bits
