"""RWKV-4's time mix: an average of values, weighted by keys and by age, with a weight for the own token.

Equation, per channel, with ``x'_t`` the token before and ``x_i = x + μ_i ⊙ (x' - x)``::

    r, k, v = W_r x_r, W_k x_k, W_v x_v                        w = exp(time_decay)
    n_t = e^{-w} n_{t-1} + e^{k_t} v_t                         d_t = e^{-w} d_{t-1} + e^{k_t}
    o_t = (n_{t-1} + e^{u + k_t} v_t) / (d_{t-1} + e^{u + k_t})
    y = W_o (σ(r) ⊙ o)

The state is one token, both sums and the exponent ``m_t = max(m_{t-1} - w, k_t)`` that they are scaled by, so that no
exponential overflows: 3 numbers per channel. Cost O(length · d_model) between the projections.

Source: Peng et al. 2023 (arXiv 2305.13048), "RWKV: Reinventing RNNs for the Transformer Era"; RWKV-v4/src/model.py of
BlinkDL/RWKV-LM at 524481d5 (initial values); ``RwkvSelfAttention`` of transformers 5.23.0. Published results were not
looked up.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels import linear_scan
from seqconv_kernels._core.portable import running_max
from seqconv_kernels._core.precision import accumulation_dtype

from ....layers.initialisation import reset_orthogonal
from ....layers.linear import Linear
from ....layers.token_shift import interpolate, token_before
from ....mixer import Mixer
from ....parameters import set_optimizer_options
from ....registry import register
from ....state import State, state_class
from ....types import LayerContext, StateKind

LEAST = -1e38
"""Exponent of a sum of nothing, and of the keys of padding."""


@state_class
class RWKV4State(State):
    """The last input; numerator and denominator, divided by the exponential of ``exponent``."""

    last: Float[Tensor, "batch d_model"]
    sums: Float[Tensor, "batch 2 channels"]
    exponent: Float[Tensor, "batch channels"]


@register("rwkv4", examples=({"expand": 1.5},))
class RWKV4(Mixer):
    """Average of values weighted by keys and age (RWKV-4's time mix).

    Args:
        d_model: width of inputs and outputs.
        expand: channels of the average per input channel.
        layer: place in the stack, on which the initial values depend; the first of one by default.
    """

    def __init__(self, d_model: int, *, expand: int | float = 1, layer: LayerContext | None = None) -> None:
        super().__init__(d_model)
        self.layer, self.d_inner = layer or LayerContext(0, 1), int(d_model * expand)
        self.x_r, self.x_k, self.x_v = (nn.Parameter(torch.empty(d_model)) for _ in range(3))
        self.time_decay, self.bonus = (nn.Parameter(torch.empty(self.d_inner)) for _ in range(2))
        self.r_proj, self.k_proj, self.v_proj = (Linear(d_model, self.d_inner, bias=False) for _ in range(3))
        self.o_proj = Linear(self.d_inner, d_model, bias=False)
        self.keep_float32("time_decay", "bonus")
        set_optimizer_options(self, "time_decay", "bonus", "x_r", "x_k", "x_v", weight_decay=0.0)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """As in the original: token shifts, decays and weights of the own token by channel and depth."""
        share, left = self.layer.index / max(self.layer.depth - 1, 1), 1 - self.layer.index / self.layer.depth
        channel = torch.arange(self.d_model, device=self.x_k.device, dtype=torch.float32) / self.d_model
        self.x_k.copy_(1 - channel**left)
        self.x_v.copy_(1 - channel**left - 0.3 * share)
        self.x_r.copy_(1 - channel ** (0.5 * left))
        n = torch.arange(self.d_inner, device=self.x_k.device, dtype=torch.float32)
        self.time_decay.copy_(-5 + 8 * (n / max(self.d_inner - 1, 1)) ** (0.7 + 1.3 * share))
        self.bonus.copy_(math.log(0.3) + 0.5 * ((n + 1) % 3 - 1))
        reset_orthogonal(self.v_proj.weight)
        for projection in (self.r_proj, self.k_proj, self.o_proj):
            projection.weight.zero_()

    @property
    def state_kind(self) -> StateKind:
        """The state has a fixed size."""
        return "constant"

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        state = self._init_state(x.shape[0], None, x.device, x.dtype)
        assert isinstance(state, RWKV4State)
        return self._attend(x, state, mask)[0]

    def _init_state(self, batch_size: int, max_length: int | None, device: torch.device, dtype: torch.dtype) -> State:
        wide = torch.promote_types(dtype, torch.float32)
        sums = torch.zeros(batch_size, 2, self.d_inner, device=device, dtype=wide)
        last = torch.zeros(batch_size, self.d_model, device=device, dtype=dtype)
        return RWKV4State(last, sums, torch.full_like(sums[:, 0], LEAST))

    def _prefill(self, x: Tensor, state: State, mask: Tensor | None) -> tuple[Tensor, State]:
        assert isinstance(state, RWKV4State)
        return self._attend(x, state, mask)

    def _step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        assert isinstance(state, RWKV4State)
        y, state = self._attend(x_t[:, None], state, None)
        return y[:, 0], state

    def _attend(self, x: Tensor, state: RWKV4State, mask: Tensor | None) -> tuple[Tensor, State]:
        before = token_before(x, state.last)
        x_r, x_k, x_v = (interpolate(x, before, shift) for shift in (self.x_r, self.x_k, self.x_v))
        gate, k, v = torch.sigmoid(self.r_proj(x_r)), self.k_proj(x_k), self.v_proj(x_v)
        k, v = (t.to(accumulation_dtype(t, self.time_decay)) for t in (k, v))
        if mask is not None:
            k = k.masked_fill(~mask[..., None], LEAST)
        o, sums, exponent = average(k, v, self.time_decay, self.bonus, state.sums, state.exponent)
        y: Tensor = self.o_proj(gate * o.to(gate.dtype))
        return y, RWKV4State(x[:, -1], sums, exponent)


def average(
    k: Tensor, v: Tensor, time_decay: Tensor, bonus: Tensor, sums: Tensor, exponent: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The averages of whole sequences from a state.

    Args:
        k, v: keys and values in the dtype of the sums, (batch, length, channels).
        time_decay: logarithm of w, (channels).
        bonus: u, (channels).
        sums: numerator and denominator before, (batch, 2, channels).
        exponent: of the sums, (batch, channels).

    Returns:
        The averages, the last sums and their exponent.
    """
    decay, sums = -time_decay.to(k.dtype).exp(), sums.to(k.dtype)
    exponents = _exponents(k.detach(), decay.detach(), exponent.to(k.dtype))
    earlier, own = exponents[:, :-1], exponents[:, 1:]
    weight = (k - own).exp()
    inflow = torch.stack([weight * v, weight], dim=2)
    factor = (decay + earlier - own).exp()[:, :, None].expand_as(inflow)
    pair = linear_scan(factor, inflow, initial_state=sums, return_final_state=True)
    before = token_before(pair[0], sums)
    largest = torch.maximum(earlier, (bonus + k).detach())
    past, now = (earlier - largest).exp(), (bonus + k - largest).exp()
    o = (past * before[:, :, 0] + now * v) / (past * before[:, :, 1] + now)
    return o, pair[1], exponents[:, -1]


def _exponents(k: Tensor, decay: Tensor, first: Tensor) -> Tensor:
    """``m_t = max(m_{t-1} + decay, k_t)`` with ``m_{-1} = first`` in front: (batch, length + 1, channels).

    As a running maximum of ``k_t - t decay``. What is rounded there changes nothing: the exponents only have to be
    close to the largest term, since numerator and denominator are divided by the same ones.
    """
    time = torch.arange(k.shape[1] + 1, device=k.device, dtype=k.dtype)[:, None] * decay
    shifted = torch.cat([first[:, None], k - time[1:]], dim=1)
    return torch.maximum(running_max(shifted) + time, F.pad(k, (0, 0, 1, 0), value=LEAST))
