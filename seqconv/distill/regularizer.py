"""Training for distillability: how much of each filter a recurrence of low order must leave out, as a penalty.

With the Hankel operator ``Gamma[i, j] = g[i + j]`` of the taps g after the exact ones, zero beyond their end, the
penalty of a channel is the share of its energy outside of the ``order`` leading singular vectors::

    1 - ||Q' Gamma||² / ||Gamma||²  >=  sum_{n > order} sigma_n² / sum_n sigma_n²        Q: order orthonormal vectors
    ||Gamma||² = sum_t (t + 1) g[t]²

Q comes from random probes, by subspace iteration with FFT products, and is constant for the gradient: at the singular
vectors the penalty is smallest over all Q, so its gradient there is that of the singular values.
Source of the iteration: Halko, Martinsson and Tropp 2011, SIAM Review 53, algorithm 4.4.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error
from seqconv_kernels._core.precision import no_autocast

from ..convolution.replacement import long_convolutions
from .certificates.hankel import hankel_product

OVERSAMPLING = 8
"""Probes beyond the order."""


def regularizer(
    model: nn.Module,
    order: int = 8,
    *,
    length: int | None = None,
    fir_head: int = 1,
    iterations: int = 1,
    generator: torch.Generator | None = None,
) -> Float[Tensor, ""]:
    """Mean share of the Hankel energy that recurrences of ``order`` leave out, over all channels that have none.

    To be added to a loss in training, with a weight of 0.01 to 1: filters of which a low order leaves little out can be
    distilled to it.

    Args:
        model: a model or mixer with long convolutions.
        order: real order that the filters will be distilled to.
        length: taps that count; by default as many as each filter defines.
        fir_head: leading taps that distillation keeps exactly.
        iterations: steps of the subspace iteration beyond the first; more come closer to the singular values.
        generator: of the probes.

    Raises:
        ValueError: no long convolution without a recurrence, a filter without end and no ``length``, an order, head or
            number of iterations that is too small, or not smaller than the number of taps.
    """
    convolutions = {n: c for n, c in long_convolutions(model).items() if c.state_kind == "growing"}
    if not convolutions:
        got, remedy = f"a {type(model).__name__} without any", "leave the penalty out"
        raise argument_error("regularizer", got, "long convolutions without a recurrence", remedy)
    shares = []
    for name, convolution in convolutions.items():
        reach = [n for n in (length, convolution.filter.max_length) if n is not None]
        if not reach:
            wanted = "a length"
            raise argument_error("regularizer", f"a filter without end in {name!r}", wanted, "pass length")
        taps: Tensor = convolution.filter(min(reach))
        if min(order, fir_head) < 1 or iterations < 0 or order + fir_head >= taps.shape[1]:
            got = f"order={order}, fir_head={fir_head}, iterations={iterations} for {taps.shape[1]} taps"
            raise argument_error("regularizer", got, "fewer than there are taps, at least 1", "correct the sizes")
        shares.append(hankel_tail(taps[:, fir_head:], order, iterations=iterations, generator=generator))
    return torch.cat(shares).mean()


def hankel_tail(
    g: Float[Tensor, "channels length"],
    order: int,
    *,
    iterations: int = 1,
    generator: torch.Generator | None = None,
) -> Float[Tensor, " channels"]:
    """Share of the energy of each Hankel operator outside of its ``order`` leading singular vectors, from above."""
    size = 1 << (2 * g.shape[1] - 2).bit_length()
    with torch.no_grad(), no_autocast(g):
        vectors = _leading_vectors(g.detach(), order, size, iterations, generator)
    kept = hankel_product(torch.fft.rfft(g, n=size), vectors, size).square().sum((1, 2))
    energy = (g.square() * torch.arange(1, g.shape[1] + 1, device=g.device)).sum(1)
    empty = energy == 0
    return torch.where(empty, 0.0, 1 - kept / torch.where(empty, 1.0, energy))


def _leading_vectors(
    g: Float[Tensor, "channels length"], order: int, size: int, iterations: int, generator: torch.Generator | None
) -> Float[Tensor, "channels order length"]:
    """Ritz vectors of the largest Ritz values after some steps of subspace iteration."""
    g = g / g.abs().amax(1, keepdim=True).clamp_min(torch.finfo(g.dtype).tiny)
    spectrum, count = torch.fft.rfft(g, n=size), min(order + OVERSAMPLING, g.shape[1])
    device = g.device if generator is None else generator.device
    probes = torch.randn(len(g), count, g.shape[1], dtype=g.dtype, device=device, generator=generator).to(g.device)
    for _ in range(iterations + 1):
        probes = hankel_product(spectrum, probes, size)
        probes = torch.linalg.qr(probes.transpose(1, 2)).Q.transpose(1, 2)
    ritz = hankel_product(spectrum, probes, size) @ probes.transpose(1, 2)
    values, rotation = torch.linalg.eigh((ritz + ritz.transpose(1, 2)) / 2)
    largest = values.abs().argsort(dim=1, descending=True)[:, :order]
    taken = rotation.gather(2, largest[:, None].expand(-1, count, -1))
    leading: Tensor = taken.transpose(1, 2) @ probes
    return leading
