"""The per-token network after the mixer: ``W_2 φ(W_1 x)``, or gated ``W_2 (φ(a) ⊙ b)`` with ``(a, b) = W_1 x``."""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error, unknown_name

from .linear import Linear
from .residual import Dropout


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def _squared_relu(x: Tensor) -> Tensor:
    return F.relu(x).square()


def _identity(x: Tensor) -> Tensor:
    return x


PLAIN: Mapping[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": _gelu_tanh,
    "relu": F.relu,
    "relu2": _squared_relu,
    "silu": F.silu,
    "tanh": torch.tanh,
}
GATED: Mapping[str, Callable[[Tensor], Tensor]] = {
    "glu": torch.sigmoid,
    "bilinear": _identity,
    "geglu": F.gelu,
    "geglu_tanh": _gelu_tanh,
    "reglu": F.relu,
    "swiglu": F.silu,
}


class MLP(nn.Module):
    """Two linear maps with a nonlinearity between them.

    Args:
        d_model: width of inputs and outputs.
        kind: one of ``PLAIN`` or ``GATED``.
        hidden: width between the maps (of each half, if gated).
        dropout: probability for the hidden activations.
        bias: whether the maps have biases.
        tie_dropout: drop a channel at all tokens of a row together.
        down_bias: whether the second map has a bias; as ``bias`` if not given.

    Raises:
        ValueError: unknown kind (the nearest are named), ``hidden < 1``.
    """

    def __init__(
        self,
        d_model: int,
        *,
        kind: str = "gelu",
        hidden: int,
        dropout: float = 0.0,
        bias: bool = True,
        tie_dropout: bool = False,
        down_bias: bool | None = None,
    ) -> None:
        super().__init__()
        if kind not in PLAIN and kind not in GATED:
            raise unknown_name("MLP", "kind", kind, [*PLAIN, *GATED])
        if hidden < 1:
            raise argument_error("MLP", f"hidden={hidden}", "at least 1", "raise mlp_ratio or the hidden width")
        self.kind = kind
        self.up = Linear(d_model, 2 * hidden if kind in GATED else hidden, bias=bias)
        self.dropout = Dropout(dropout, tied=tie_dropout)
        self.down = Linear(hidden, d_model, bias=bias if down_bias is None else down_bias)

    def forward(self, x: Float[Tensor, "batch *length d_model"]) -> Float[Tensor, "batch *length d_model"]:
        if self.kind in PLAIN:
            hidden = PLAIN[self.kind](self.up(x))
        else:
            gate, value = self.up(x).chunk(2, dim=-1)
            hidden = GATED[self.kind](gate) * value
        y: Tensor = self.down(self.dropout(hidden))
        return y
