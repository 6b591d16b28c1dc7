"""Linear attention: softmax replaced by a product of feature maps, with the normaliser of Katharopoulos or a norm.

Equation, per head, with a state ``S`` of (d_k, d_v) and, if normalised, ``z`` of d_k, its last column::

    q, k, v = φ(W_q x), φ(W_k x), W_v x          φ(u) = elu(u) + 1 by default
    S_t = S_{t-1} + k_t v_t^T                    z_t = z_{t-1} + k_t
    o_t = S_t^T q_t / (z_t · q_t + ε)            or, without the normaliser, norm(d_k^{-1/2} S_t^T q_t)
    y = W_o o

Source: Katharopoulos et al. 2020 (arXiv 2006.16236; up to 4,000 times the speed of a Transformer in generating long
sequences, abstract) and, for the form with a norm over each head, ``fla/layers/linear_attn.py`` of
fla-org/flash-linear-attention at 038bdb3c. Bidirectional, every token reads the sum over all of them.
"""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from seqconv_kernels._core.errors import argument_error, unknown_name
from seqconv_kernels._core.precision import accumulation_dtype

from ...layers.linear import Linear
from ...layers.norms import RMSNorm
from ...packing import zero_padding
from ...registry import register
from ...types import StateKind
from .attention_layer import Heads, LinearAttentionLayer


def _positive_elu(x: Tensor) -> Tensor:
    return F.elu(x) + 1.0


def _identity(x: Tensor) -> Tensor:
    return x


FEATURE_MAPS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "elu": _positive_elu,
    "relu": F.relu,
    "identity": _identity,
}
POSITIVE = ("elu", "relu")
"""Feature maps under which a sum of scores cannot vanish by cancellation."""


@register(
    "linear_attention",
    examples=(
        {"num_heads": 2, "feature_map": "identity", "normalize": False, "output_norm": True, "expand_k": 0.5},
        {"num_heads": 2, "num_kv_heads": 1, "expand_v": 2.0, "bidirectional": True},
        {"feature_map": "relu", "denominator_eps": 1e-2, "output_norm": True},
    ),
)
class LinearAttention(LinearAttentionLayer):
    """Linear attention with a feature map and a normaliser, or a norm in its place.

    Args:
        d_model: width of inputs and outputs.
        expand_k: key channels of all heads per input channel.
        expand_v: value channels of all heads per input channel.
        num_heads: query heads.
        num_kv_heads: key-value heads; ``num_heads`` if not given.
        feature_map: φ: ``"elu"`` (plus one), ``"relu"`` or ``"identity"``.
        normalize: divide by the sum of the scores.
        denominator_eps: ε of that sum.
        output_norm: normalise every head by its root mean square.
        norm_eps: ε of that norm.
        bidirectional: attend to all tokens.

    Raises:
        ValueError: an unknown feature map, or one that may be negative together with ``normalize``; heads that do not
            divide the widths.
    """

    def __init__(
        self,
        d_model: int,
        *,
        expand_k: int | float = 1.0,
        expand_v: int | float = 1.0,
        num_heads: int = 4,
        num_kv_heads: int | None = None,
        feature_map: str = "elu",
        normalize: bool = True,
        denominator_eps: float = 1e-6,
        output_norm: bool = False,
        norm_eps: float = 1e-5,
        bidirectional: bool = False,
    ) -> None:
        d_key, d_value = int(d_model * expand_k), int(d_model * expand_v)
        super().__init__(d_model, num_heads=num_heads, num_kv_heads=num_kv_heads, d_key=d_key, d_value=d_value)
        self.causal = not bidirectional
        if feature_map not in FEATURE_MAPS:
            raise unknown_name("linear_attention mixer", "feature_map", feature_map, FEATURE_MAPS)
        if normalize and feature_map not in POSITIVE:
            got = f"normalize=True with feature_map={feature_map!r}"
            wanted = "scores above 0, whose sum is no difference"
            raise argument_error("linear_attention mixer", got, wanted, "pass normalize=False, output_norm=True")
        self.feature_map, self.normalize, self.denominator_eps = feature_map, normalize, denominator_eps
        self.scale = 1.0 if normalize else None
        self.o_norm = RMSNorm(self.d_v, eps=norm_eps) if output_norm else None
        self.o_proj = Linear(d_value, d_model, bias=False)

    @property
    def state_kind(self) -> StateKind:
        """The state has a fixed size."""
        return "constant" if self.causal else "none"

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return super()._forward(x, mask) if self.causal else self._attend_to_all(x, mask)

    def _attend_to_all(self, x: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v, _ = self._heads(self._project(x), x, None)
        wide = accumulation_dtype(q)
        memory = torch.einsum("blhk,blhv->bhkv", zero_padding(k, mask).to(wide), v.to(wide))
        grouped = q.to(wide).unflatten(2, (self.kv_heads, -1))
        scale = self.d_k**-0.5 if self.scale is None else self.scale
        o = torch.einsum("blhgk,bhkv->blhgv", grouped, scale * memory).flatten(2, 3)
        return self._output(o.to(x.dtype), x)

    def _heads(self, qkv: Tensor, x: Tensor, position: Tensor | None) -> Heads:
        q, k, v, _ = super()._heads(qkv, x, position)
        phi = FEATURE_MAPS[self.feature_map]
        if self.normalize:  # a value of one, whose column of the state is z
            v = torch.cat([v, torch.ones_like(v[..., :1])], dim=-1)
        return Heads(phi(q), phi(k), v, None)

    def _state_size(self) -> tuple[int, int, int]:
        return self.kv_heads, self.d_k, self.d_v + self.normalize

    def _output(self, o: Tensor, x: Tensor) -> Tensor:
        if self.normalize:
            o = o[..., :-1] / (o[..., -1:] + self.denominator_eps)
        y: Tensor = self.o_proj((o if self.o_norm is None else self.o_norm(o)).flatten(-2))
        return y
