"""Gated DeltaProduct: several steps of the delta rule per token, so that a transition is a product of reflections.

The equation of :mod:`.delta_layer` with n keys, values and strengths per token and the
decay and output gate of :mod:`.scalar_decay`::

    S ← α_t S;   for j < n:  S ← S + k_tj β_tj (v_tj - S^T k_tj)^T;   o_t = d_k^{-1/2} S^T q_t

With β up to 2 the transition can be any product of n Householder reflections, which tracks states that one reflection
cannot. It runs as a gated delta rule over sequences n times as long, with the decay at the first of n steps and the
query at the last. The state is that of gated DeltaNet, the cost n times as high.

Source: Siems et al. 2025 (arXiv 2502.10297), "DeltaProduct: Improving State-Tracking in Linear RNNs via Householder
Products"; ``fla/layers/gated_deltaproduct.py`` of fla-org/flash-linear-attention at bc3b101d.
"""

from typing import Unpack

import torch
from torch import Tensor

from seqconv_kernels import delta_rule, delta_rule_step
from seqconv_kernels._core.errors import argument_error

from ....registry import register
from .scalar_decay import ScalarDecayLayer, ScalarDecayOptions


@register(
    "gated_delta_product",
    examples=(
        {"num_heads": 2, "num_v_heads": 4, "head_v_dim": 5, "d_conv": 3, "conv_bias": True},
        {"num_heads": 2, "num_householder": 3, "use_forget_gate": False, "use_output_gate": False, "d_conv": None},
    ),
)
class GatedDeltaProduct(ScalarDecayLayer):
    """Linear attention with several steps of the delta rule per token.

    Args:
        d_model: width of inputs and outputs.
        num_householder: steps of the delta rule per token.
        use_forget_gate: whether there is a decay.
        allow_neg_eigval: β up to 2, reflections; on in the original.
        use_output_gate ... dt_init_floor: see
            :class:`.scalar_decay.ScalarDecayOptions`.
        num_heads ... norm_eps: see :class:`.delta_layer.DeltaLayerOptions`.

    Raises:
        ValueError: ``num_householder < 1``; as :class:`.scalar_decay.ScalarDecayLayer`.
    """

    def __init__(
        self,
        d_model: int,
        *,
        num_householder: int = 2,
        use_forget_gate: bool = True,
        allow_neg_eigval: bool = True,
        **options: Unpack[ScalarDecayOptions],
    ) -> None:
        if num_householder < 1:
            got, remedy = f"num_householder={num_householder}", "take 1 for gated DeltaNet"
            raise argument_error(f"{self.name} mixer", got, "at least 1", remedy)
        own = {"decays": use_forget_gate, "allow_neg_eigval": allow_neg_eigval}
        super().__init__(d_model, sub_steps=num_householder, **own, **options)
        self.reset_parameters()

    def _scan(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor, memory: Tensor | None) -> tuple[Tensor, Tensor]:
        n = self.sub_steps
        k, v, beta = (t.flatten(1, 2) for t in self._per_step(k, v, x))
        log_decay = self._log_decay(x)
        if log_decay is not None:
            log_decay = _interleaved(log_decay, n, 0)
        pair = delta_rule(
            _interleaved(q, n, n - 1), k, v, beta, log_decay, initial_state=memory, return_final_state=True
        )  # fmt: skip
        assert isinstance(pair, tuple)
        return pair[0][:, n - 1 :: n], pair[1]

    def _recur(self, q: Tensor, k: Tensor, v: Tensor, x_t: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        log_decay, o = self._log_decay(x_t), v
        for k_j, v_j, beta_j in zip(*(t.unbind(1) for t in self._per_step(k, v, x_t)), strict=True):
            o, memory = delta_rule_step(q, k_j, v_j, beta_j, log_decay, state=memory)
            log_decay = None
        return o, memory

    def _per_step(self, k: Tensor, v: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Keys, values and strengths of (…, sub-step, heads, [width])."""
        heads = (self.sub_steps, -1)
        return k.unflatten(-2, heads), v.unflatten(-2, heads), self._beta(x).unflatten(-1, heads)


def _interleaved(x: Tensor, count: int, place: int) -> Tensor:
    """``(batch, length, …)`` to ``(batch, length · count, …)``: each token at ``place`` among zeros."""
    before, after = (x.new_zeros(*x.shape[:2], n, *x.shape[2:]) for n in (place, count - 1 - place))
    return torch.cat([before, x.unsqueeze(2), after], dim=2).flatten(1, 2)
