"""Gated DeltaNet-2: the delta rule with separate gates for what is erased and what is written.

The equation of :mod:`.delta_layer`, with the decays, per key head, and the output gate
of :mod:`.channel_decay`, and instead of β, per key channel and per value channel::

    e_t = σ(W_b x), twice that with negative eigenvalues          w_t = σ(W_w x)
    S_t = S' + k_t (w_t ⊙ v_t - S'^T (e_t ⊙ k_t))^T               S' = diag(α_t) S_{t-1}

With all gates of a head equal to β this is Kimi delta attention, and with one decay for all channels gated DeltaNet. It
runs on the generalised delta rule, where ``a = -α ⊙ e ⊙ k`` reads the state before the decay.

Source: ``fla/layers/gdn2.py`` of fla-org/flash-linear-attention at bc3b101d ("Gated DeltaNet-2: Decoupling Erase and
Write in Linear Attention"; its published results were not looked up).
"""

from typing import Unpack

import torch
from torch import Tensor

from seqconv_kernels import dplr_delta_rule, dplr_delta_rule_step

from ....layers.linear import Linear
from ....registry import register
from .channel_decay import ChannelDecayLayer, ChannelDecayOptions


@register(
    "gated_deltanet2",
    examples=(
        {"num_heads": 2, "num_v_heads": 4, "head_v_dim": 5, "allow_neg_eigval": True},
        {"num_heads": 2, "gate_bias": False, "gate_low_rank_dim": 3, "d_conv": None},
    ),
)
class GatedDeltaNet2(ChannelDecayLayer):
    """Linear attention with the delta rule, erase gates and decays per key channel, write gates per value channel.

    Args:
        d_model: width of inputs and outputs.
        allow_neg_eigval: erase gates up to 2, for eigenvalues of the transition down to -1.
        gate_low_rank_dim ... dt_init_floor: see
            :class:`.channel_decay.ChannelDecayOptions`.
        num_heads ... norm_eps: see :class:`.delta_layer.DeltaLayerOptions`.

    Raises:
        ValueError: as :class:`.channel_decay.ChannelDecayLayer`.
    """

    decay_of_keys = True

    def __init__(self, d_model: int, *, allow_neg_eigval: bool = False, **options: Unpack[ChannelDecayOptions]) -> None:
        super().__init__(d_model, allow_neg_eigval=allow_neg_eigval, **options)
        self.w_proj = Linear(d_model, self.d_inner, bias=False)
        self.reset_parameters()

    def _strengths(self) -> int:
        return self.heads * self.d_k

    def _gates(self, k: Tensor, v: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The values to write, what reads what is erased, and the log decay."""
        erase, log_decay = self._beta(x).unflatten(-1, (self.heads, -1)), self._log_decay(x)
        read = -(log_decay.exp() * erase * k).to(k.dtype)
        return v * torch.sigmoid(self.w_proj(x)).unflatten(-1, (self.v_heads, -1)), read, log_decay

    def _scan(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor, memory: Tensor | None) -> tuple[Tensor, Tensor]:
        v, read, log_decay = self._gates(k, v, x)
        pair = dplr_delta_rule(q, k, v, read, None, log_decay, initial_state=memory, return_final_state=True)
        assert isinstance(pair, tuple)
        return pair

    def _recur(self, q: Tensor, k: Tensor, v: Tensor, x_t: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        v, read, log_decay = self._gates(k, v, x_t)
        return dplr_delta_rule_step(q, k, v, read, None, log_decay, state=memory)
