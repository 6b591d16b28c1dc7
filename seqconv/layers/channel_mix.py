"""Channel mixes: what a block applies after its mixer, by name.

Without a state: one of ``PLAIN`` or ``GATED`` (:class:`~seqconv.layers.mlp.MLP`), or ``moe``
(:class:`~seqconv.layers.experts.MixtureOfExperts`). With one, a :class:`~seqconv.mixer.Mixer` in the block's second
place:

``rwkv7``   ``y_t = V relu(K (x_t + x_k ⊙ (x_{t-1} - x_t)))²``, ``x_{-1} = 0`` (token shift)
``rwkv6``   the same times ``σ(R (x_t + x_r ⊙ (x_{t-1} - x_t)))``

Source: RWKV_CMix_x070 in RWKV-v7/train_temp/src/model.py of BlinkDL/RWKV-LM at d4a6c3b, RWKV_CMix_x060 in
RWKV-v5/src/model.py there at 524481d5; RWKV-4's is that of RWKV-6 with ``x = 1 - time_mix``.
"""

from collections.abc import Callable, Mapping
from functools import partial
from inspect import signature
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error, unknown_name

from ..mixer import Mixer
from ..packing import zero_padding
from ..state import State, state_class
from ..types import LayerContext, StateKind
from .experts import MixtureOfExperts
from .linear import Linear
from .mlp import GATED, MLP, PLAIN
from .residual import Dropout
from .token_shift import interpolate, token_before


@state_class
class TokenShiftState(State):
    """The last input."""

    last: Float[Tensor, "batch d_model"]


class TokenShiftMLP(Mixer):
    """RWKV's channel mix: two projections and a squared ReLU, on inputs that are mixed with the token before.

    Args:
        d_model: width of inputs and outputs.
        hidden: width between the projections.
        dropout: probability for the hidden activations.
        bias: whether the projections have biases; the original has none.
        gated: multiply the outputs by the sigmoid of a third projection (RWKV-4 to RWKV-6).
        tie_dropout: drop a channel at all tokens of a row together.
        layer: place in the stack, on which the initial mixing weights depend; the first of one by default.

    Raises:
        ValueError: ``hidden < 1``.
    """

    name = "rwkv channel mix"

    def __init__(
        self,
        d_model: int,
        *,
        hidden: int,
        dropout: float = 0.0,
        bias: bool = False,
        gated: bool = False,
        tie_dropout: bool = False,
        layer: LayerContext | None = None,
    ) -> None:
        super().__init__(d_model)
        if hidden < 1:
            raise argument_error(self.name, f"hidden={hidden}", "at least 1", "raise mlp_ratio or the hidden width")
        self.layer = layer or LayerContext(0, 1)
        self.x_k = nn.Parameter(torch.empty(d_model))
        self.key = Linear(d_model, hidden, bias=bias)
        self.dropout = Dropout(dropout, tied=tie_dropout)
        self.value = Linear(hidden, d_model, bias=bias)
        self.x_r = nn.Parameter(torch.empty(d_model)) if gated else None
        self.receptance = Linear(d_model, d_model, bias=bias) if gated else None
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initial values as in the original: later layers look at the token before less, outputs start at zero."""
        exponent = 4 if self.x_r is None else 3
        channel = torch.arange(self.d_model, device=self.x_k.device) / self.d_model
        shift = 1 - channel ** ((1 - self.layer.index / self.layer.depth) ** exponent)
        self.x_k.copy_(shift)
        bound = 0.5 * self.d_model**-0.5
        nn.init.uniform_(self.key.weight, -bound, bound)
        nn.init.zeros_(self.value.weight)
        if self.x_r is not None and self.receptance is not None:
            self.x_r.copy_(shift)
            nn.init.zeros_(self.receptance.weight)

    @property
    def state_kind(self) -> StateKind:
        """The state is one token."""
        return "constant"

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return self._mix(x, token_before(x))

    def _init_state(self, batch_size: int, max_length: int | None, device: torch.device, dtype: torch.dtype) -> State:
        return TokenShiftState(torch.zeros(batch_size, self.d_model, device=device, dtype=dtype))

    def _prefill(self, x: Tensor, state: State, mask: Tensor | None) -> tuple[Tensor, State]:
        assert isinstance(state, TokenShiftState)
        x = zero_padding(x, mask)
        return self._mix(x, token_before(x, state.last)), TokenShiftState(x[:, -1])

    def _step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        assert isinstance(state, TokenShiftState)
        return self._mix(x_t, state.last), TokenShiftState(x_t)

    def _mix(self, x: Tensor, before: Tensor) -> Tensor:
        y: Tensor = self.value(self.dropout(F.relu(self.key(interpolate(x, before, self.x_k))).square()))
        if self.receptance is None or self.x_r is None:
            return y
        return y * torch.sigmoid(self.receptance(interpolate(x, before, self.x_r)))


CHANNEL_MIXES: Mapping[str, Callable[..., TokenShiftMLP]] = {
    "rwkv7": TokenShiftMLP,
    "rwkv6": partial(TokenShiftMLP, gated=True),
}
"""Channel mixes with a state, in addition to the kinds of :class:`~seqconv.layers.mlp.MLP`."""

_OF_EVERY_KIND = ("self", "d_model", "hidden", "dropout", "bias", "tie_dropout")
EXPERT_OPTIONS = [name for name in signature(MixtureOfExperts.__init__).parameters if name not in _OF_EVERY_KIND]


def create_channel_mix(
    kind: str,
    d_model: int,
    *,
    hidden: int,
    dropout: float = 0.0,
    bias: bool | None = None,
    tie_dropout: bool = False,
    layer: LayerContext | None = None,
    **options: Any,
) -> MLP | MixtureOfExperts | Mixer:
    """Build a channel mix by name.

    Args:
        kind: one of ``PLAIN``, ``GATED`` or ``CHANNEL_MIXES``, or ``"moe"``.
        d_model, hidden, dropout, tie_dropout: as :class:`~seqconv.layers.mlp.MLP`.
        bias: whether the projections have biases; ``None``: as in the original.
        layer: place in the stack, for kinds whose initial values depend on it.
        **options: those of :class:`~seqconv.layers.experts.MixtureOfExperts` for ``"moe"``; none otherwise.

    Raises:
        ValueError: unknown kind or option (the nearest are named), ``hidden < 1``.
    """
    known = EXPERT_OPTIONS if kind == "moe" else []
    for option in options:
        if option not in known:
            raise unknown_name(f"create_channel_mix({kind!r})", "option", option, known)
    if kind == "moe":
        sizes: dict[str, Any] = {"hidden": hidden, "dropout": dropout, "bias": bool(bias), "tie_dropout": tie_dropout}
        return MixtureOfExperts(d_model, **sizes, **options)
    if kind in CHANNEL_MIXES:
        made = CHANNEL_MIXES[kind]
        return made(d_model, hidden=hidden, dropout=dropout, bias=bool(bias), tie_dropout=tie_dropout, layer=layer)
    if kind not in PLAIN and kind not in GATED:
        raise unknown_name("create_channel_mix", "mlp", kind, [*PLAIN, *GATED, *CHANNEL_MIXES, "moe"])
    return MLP(d_model, kind=kind, hidden=hidden, dropout=dropout, bias=bias is not False, tie_dropout=tie_dropout)
