"""How fla preconditions keys: by the running mean of their squares, see :mod:`.preconditioned`."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from seqconv_kernels import dplr_delta_rule, linear_scan

from .layout import Layout, Op
from .per_value import recurrence

Tokens = dict[str, Tensor | None]

CENTER = -0.2
"""``log_atk_scale`` if it is not given."""


class Preconditioner(NamedTuple):
    """What the keys are preconditioned by.

    Attributes:
        log_decay: of the running squares, (batch, length, heads).
        beta: strength of a token's square, (batch, length, heads).
        x: bound of the factors.
        eps: under the logarithm.
        center: of the logarithms, a number or (heads).
    """

    log_decay: Tensor
    beta: Tensor
    x: float
    eps: float
    center: Tensor | float | None

    def scan(self, k: Tensor) -> Tokens:
        """Arguments of the scan of A, one head per head of the strength."""
        keys = _heads(k, self.beta.shape[2])
        keys = keys.to(torch.promote_types(keys.dtype, torch.float32))
        decay = self.log_decay.to(keys.dtype).exp()[..., None].expand_as(keys)
        return {"a": decay, "x": self.beta.to(keys.dtype)[..., None] * keys.square()}

    def keys(self, k: Tensor, squares: Tensor) -> Tensor:
        """The preconditioned keys, p, from k and A."""
        center = CENTER if self.center is None else self.center
        center = center[:, None] if isinstance(center, Tensor) and center.dim() else center
        distance = (squares + self.eps).log() - center
        exponent = -distance / (1 + distance.abs())
        factor = (exponent * math.log(self.x)).exp() if self.x > 0 else torch.ones_like(exponent)
        return _heads(k, squares.shape[2]) * factor


def preconditioned(
    q: Tensor,
    k: Tensor,
    by: Preconditioner,
    cu_seqlens: Tensor | None,
    initial_state: Tensor | None,
    output_final_state: bool,
) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor | None]:
    """q, k and p; and the last A."""
    squares, last = Layout(cu_seqlens).run(linear_scan, by.scan(k), initial_state, output_final_state)
    return (q, k, by.keys(k, squares)), last


def scan_of(
    keys: tuple[Tensor, Tensor, Tensor], v: Tensor, decay: Tensor | None, beta: Tensor, gv: Tensor | None = None
) -> tuple[Op, Tokens]:
    """The op and its arguments: the generalised delta rule, or token by token where value channels differ."""
    q, k, p = keys
    if gv is not None or beta.dim() == v.dim():
        return recurrence, {"q": q, "k": k, "v": v, "log_decay": decay, "gv": gv, "beta": beta, "p": p}
    strength = beta[..., None]
    read = -strength * _heads(k, v.shape[2])
    if decay is not None:
        factor = decay.to(torch.promote_types(decay.dtype, torch.float32)).exp()
        read = read * (factor if factor.dim() == v.dim() else factor[..., None])
    written = (strength * v).to(v.dtype)
    return dplr_delta_rule, {"q": q, "k": p, "v": written, "a": read.to(p.dtype), "log_decay": decay}


def _heads(x: Tensor, heads: int) -> Tensor:
    """Heads repeated next to each other."""
    return x if x.shape[2] == heads else x.repeat_interleave(heads // x.shape[2], dim=2)
