"""Second-order blocks: real coordinates for pairs of poles, and least squares in their basis.

A block ``1 / (1 - a z^-1 - b z^-2)`` holds a conjugate pair or two real poles in the same two numbers, and moves
smoothly from one to the other. With poles p and q, ``u[t] = (p^t + q^t) / 2`` and ``v[t] = (p^t - q^t) / (p - q)``
span its modes, so a response is ``sum_k c_k u_k[t] + c'_k v_k[t]``, linear in c.
"""

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from .poles import stable

CUTOFF = 1e-13
"""Singular values of the column-scaled basis below this share of the largest are left out."""


def from_poles(poles: Complex[Tensor, "channels order"]) -> Float[Tensor, "channels blocks 2"]:
    """Conjugates share a block, real poles two by two another; an odd one out is joined by a pole at zero."""
    return torch.stack([_pair_up(channel) for channel in poles])


def to_poles(blocks: Float[Tensor, "channels blocks 2"]) -> Complex[Tensor, "channels order"]:
    """The two roots of ``z^2 - a z - b`` of every block, side by side; conjugates exactly so."""
    a, b = blocks.unbind(2)
    root = torch.sqrt((a * a / 4 + b).to(torch.complex128))
    larger = a / 2 + torch.where(a < 0, -1, 1) * root
    product = torch.where(larger == 0, larger, -b / torch.where(larger == 0, torch.ones_like(larger), larger))
    second = torch.where(root.imag == 0, product, larger.conj())
    return torch.stack([larger, second], dim=2).flatten(1)


def responses(
    blocks: Float[Tensor, "channels blocks 2"], length: int
) -> tuple[Float[Tensor, "channels order length"], Float[Tensor, "channels blocks padded"]]:
    """All u and then all v; and the derivative by a of ``v[t + 1]``, the impulse response of a block, at t + 2.

    By doubling: ``u[m + n] = u[m] u[n] + d v[m] v[n]`` and ``v[m + n] = u[m] v[n] + v[m] u[n]``, which keep their
    digits however near to each other the poles are, with d the squared half of their distance. The derivative by b is
    the one by a, one step later.
    """
    a, b = blocks[..., None].unbind(2)
    d = a * a / 4 + b
    count = blocks.shape[1]
    both, slope = blocks.new_zeros(len(blocks), 2 * count, length + 1), blocks.new_zeros(len(blocks), count, length + 3)
    u, v = both.split(count, dim=1)
    u[..., :2], v[..., 1], slope[..., 3] = torch.cat([torch.ones_like(a), a / 2], dim=2), 1, 1
    n = 1
    while n < length:
        m = min(n, length - n)
        un, vn = u[..., n, None], v[..., n, None]
        early, new = slice(1, m + 1), slice(n + 1, n + m + 1)
        torch.mul(u[..., early], un, out=u[..., new]).addcmul_(v[..., early], d * vn)
        torch.mul(u[..., early], vn, out=v[..., new]).addcmul_(v[..., early], un)
        now, before = slope[..., n + 2, None], slope[..., n + 1, None]
        out = torch.mul(v[..., 2 : m + 2], now, out=slope[..., n + 3 : n + m + 3])
        out.addcmul_(slope[..., 3 : m + 3], v[..., n + 1, None])
        out.addcmul_(v[..., early], b * before).addcmul_(slope[..., 2 : m + 2], b * vn)
        n += m
    return both[..., :length], slope[..., : length + 2]


def coloured(
    x: Float[Tensor, "channels *k length"], spectrum: Float[Tensor, "channels bins"]
) -> Float[Tensor, "channels *k padded"]:
    """``x`` through a filter of magnitude ``sqrt(spectrum)``: its energy is ``mean_omega |X|^2 spectrum``."""
    size = 2 * (spectrum.shape[1] - 1)
    root = spectrum.sqrt().reshape(len(spectrum), *[1] * (x.dim() - 2), -1)
    filtered: Tensor = torch.fft.irfft(torch.fft.rfft(x, n=size) * root, n=size)
    return filtered


def stabilised(blocks: Float[Tensor, "channels blocks 2"]) -> Float[Tensor, "channels blocks 2"]:
    """The same blocks with their poles reflected and clamped into the unit circle."""
    one, two = stable(to_poles(blocks)).unflatten(1, (-1, 2)).unbind(2)
    return torch.stack([(one + two).real, -(one * two).real], dim=2)


def _pair_up(poles: Complex[Tensor, " order"]) -> Float[Tensor, "blocks 2"]:
    negligible = 1e-12
    upper = [p for p in poles.tolist() if p.imag > negligible * abs(p)]
    real_ones = sorted((p.real for p in poles.tolist() if abs(p.imag) <= negligible * abs(p)), reverse=True)
    real_ones += [0.0] * (len(real_ones) % 2)
    blocks = [(2 * p.real, -(abs(p) ** 2)) for p in upper]
    blocks += [(x + y, -x * y) for x, y in zip(real_ones[::2], real_ones[1::2], strict=True)]
    return torch.tensor(blocks, dtype=poles.real.dtype)


def powers_of(poles: Complex[Tensor, "channels modes"], length: int) -> Complex[Tensor, "channels modes length"]:
    """``poles ** t`` for t = 0 .. length - 1, by doubling."""
    powers, base = torch.ones_like(poles)[:, :, None], poles
    while powers.shape[2] < length:
        powers, base = torch.cat([powers, powers * base[:, :, None]], dim=2), base * base
    return powers[:, :, :length]
