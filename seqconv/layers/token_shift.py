"""RWKV's token shift: what a layer mixes each token with, the token before it."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def token_before(
    x: Float[Tensor, "batch length d_model"], last: Float[Tensor, "batch d_model"] | None = None
) -> Float[Tensor, "batch length d_model"]:
    """Each token's predecessor; before the first one comes ``last``, zero if not given."""
    return F.pad(x, (0, 0, 1, -1)) if last is None else torch.cat([last[:, None], x[:, :-1]], dim=1)
