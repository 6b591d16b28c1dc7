"""Each token's predecessor: what RWKV's token shift mixes each token with."""

import torch
from jaxtyping import Shaped
from torch import Tensor


def token_before(
    x: Shaped[Tensor, "batch length *token"], last: Shaped[Tensor, "batch *token"] | None = None
) -> Shaped[Tensor, "batch length *token"]:
    """Each token's predecessor; before the first one comes ``last``, zero if not given.

    Never a length less than that of x: where a compiler or an export keeps it open, length - 1 may be 1, which they
    treat apart.
    """
    last = torch.zeros_like(x[:, 0]) if last is None else last
    return torch.cat([last[:, None].to(x.dtype), x], dim=1)[:, :-1]


def interpolate(
    x: Shaped[Tensor, "*batch token"], before: Shaped[Tensor, "*batch token"], share: Shaped[Tensor, "*#batch token"]
) -> Shaped[Tensor, "*batch token"]:
    """``x + share (before - x)`` in the dtype of x, which autocast and a state may leave apart from the others."""
    return torch.lerp(x, before.to(x.dtype), share.to(x.dtype))
