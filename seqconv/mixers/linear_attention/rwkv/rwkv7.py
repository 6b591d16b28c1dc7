"""RWKV-7's time mix: linear attention that replaces what it stored, with a learning rate and a decay per key channel.

Equation, with ``x'_t`` the token before, ``x_i = x + μ_i ⊙ (x' - x)`` for each of six uses i, ``lora`` a projection
through a bottleneck, and per head a state ``S`` of (d_k, d_v)::

    r, k, v = W_r x_r, W_k x_k, W_v x_v            v ← v + σ(v_0 + lora(x_v)) ⊙ (v_first - v), but in the first layer
    log α = -e^{-1/2} σ(w_0 + lora(tanh, x_w))     η = σ(a_0 + lora(x_a))           g = lora(σ, x_g)
    κ = k ⊙ k_k, of unit length per head           k ← k ⊙ (1 + (η - 1) ⊙ k_a)
    S_t = diag(α_t) S_{t-1} - (κ_t ⊙ η_t) (S_{t-1}^T κ_t)^T + k_t v_t^T             o_t = S_t^T r_t
    y = W_o ((norm(o) + (Σ_c r k r_k) v) ⊙ g)      norm over each head, with mean and bias

``v_first`` are the values of the first layer of the stack, shared with all others. The state has d_model · head_dim
numbers and one token. Cost O(length · d_model · head_dim).

Source: Peng et al. 2025 (arXiv 2503.14456), "RWKV-7 Goose": 2.9 B parameters, state of the art for 3 B models in
multilingual tasks (abstract); ``RWKV_Tmix_x070`` in RWKV-v7/rwkv_v7_demo.py and, for the initial values,
RWKV-v7/train_temp/src/model.py of BlinkDL/RWKV-LM at 524481d5; ``fla/layers/rwkv7.py`` of
fla-org/flash-linear-attention at bc3b101d.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels import dplr_delta_rule, dplr_delta_rule_step
from seqconv_kernels._core.errors import argument_error
from seqconv_kernels._core.precision import accumulation_dtype

from ....layers.initialisation import reset_orthogonal
from ....layers.linear import Linear
from ....layers.low_rank import LowRank, rwkv_rank
from ....layers.token_shift import interpolate, token_before
from ....mixer import Mixer, SharedValues
from ....parameters import set_optimizer_options
from ....registry import register
from ....state import State, state_class
from ....types import LayerContext, StateKind

SLOWEST = math.exp(-0.5)
"""The log decay lies between this number below zero and zero."""
FIRST_VALUE = "rwkv7.first_value"
"""Name of the shared values: those of the first layer, (batch, [length,] d_model)."""
WIDEST_HEAD = 64
"""Channels of a head where none are given and d_model allows it."""


@state_class
class RWKV7State(State):
    """The matrix state of every head and the last input."""

    memory: Float[Tensor, "batch heads d_k d_v"]
    last: Float[Tensor, "batch d_model"]


@register(
    "rwkv7",
    examples=(
        {"head_dim": 4, "decay_low_rank_dim": 3, "a_low_rank_dim": 2, "gate_low_rank_dim": 5},
        {"head_dim": 2, "key_norm_eps": 1e-6, "norm_eps": 1e-3},
    ),
)
class RWKV7(Mixer):
    """Linear attention with a generalised delta rule and token shift (RWKV-7's time mix).

    Args:
        d_model: width of inputs and outputs.
        head_dim: channels of a head; the largest divisor of ``d_model`` up to 64 if not given.
        decay_low_rank_dim, a_low_rank_dim, v_low_rank_dim, gate_low_rank_dim: widths of the bottlenecks; those of the
            original, multiples of 32 near 2.5, 2.5, 1.7 and 5 √d_model, if not given.
        norm_eps: ε of the output norm.
        key_norm_eps: κ is ``k / √(Σ k² + ε)``; ``None``: ``k / max(√Σ k², 1e-12)``.
        layer: place in the stack, on which the initial values depend; layers after the first read its values.

    Raises:
        ValueError: a head that does not divide ``d_model``.
    """

    shares_values = True

    def __init__(
        self,
        d_model: int,
        *,
        head_dim: int | None = None,
        decay_low_rank_dim: int | None = None,
        a_low_rank_dim: int | None = None,
        v_low_rank_dim: int | None = None,
        gate_low_rank_dim: int | None = None,
        norm_eps: float = 64e-5,
        key_norm_eps: float | None = None,
        layer: LayerContext | None = None,
    ) -> None:
        super().__init__(d_model)
        self.layer = layer or LayerContext(0, 1)
        self.heads = count_heads(self.name, d_model, head_dim)
        self.norm_eps, self.key_norm_eps = norm_eps, key_norm_eps
        self.x_r, self.x_w, self.x_k, self.x_v, self.x_a, self.x_g = self._vectors(6)
        self.w0, self.a0, self.k_k, self.k_a, self.ln_weight, self.ln_bias = self._vectors(6)
        self.r_k = nn.Parameter(torch.empty(self.heads, d_model // self.heads))
        self.w_lora = LowRank(d_model, decay_low_rank_dim or rwkv_rank(2.5, d_model), d_model, activation="tanh")
        self.a_lora = LowRank(d_model, a_low_rank_dim or rwkv_rank(2.5, d_model), d_model)
        self.g_lora = LowRank(d_model, gate_low_rank_dim or rwkv_rank(5.0, d_model), d_model, activation="sigmoid")
        self.v0, self.v_lora = None, None
        if self.layer.index > 0:
            (self.v0,) = self._vectors(1)
            self.v_lora = LowRank(d_model, v_low_rank_dim or rwkv_rank(1.7, d_model), d_model)
        self.r_proj, self.k_proj, self.v_proj, self.o_proj = (Linear(d_model, d_model, bias=False) for _ in range(4))
        self.keep_float32("w0")
        names = [name for name, p in self.named_parameters() if "_proj" not in name and "lora" not in name]
        set_optimizer_options(self, *names, weight_decay=0.0)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """As in the original: decays, learning rates and token shifts spread over channels, by depth; outputs zero."""
        share, left = self.layer.index / max(self.layer.depth - 1, 1), 1 - self.layer.index / self.layer.depth
        n = torch.arange(self.d_model, device=self.w0.device, dtype=torch.float32)
        power = {"r": 0.2, "w": 0.9, "k": 0.7, "v": 0.7, "a": 0.9, "g": 0.2}
        for use, exponent in power.items():
            getattr(self, f"x_{use}").copy_(1 - (n / self.d_model) ** (exponent * left))
        ramp, half = n / max(self.d_model - 1, 1), max((self.d_model // self.heads - 1) / 2, 0.5)
        linear, within = ramp - 0.5, (n % (self.d_model // self.heads) - half) / half
        zigzag = within * within.abs()
        self.w0.copy_(-6 + 6 * ramp ** (1 + share**0.3) + 0.5 + 2.5 * zigzag)
        self.a0.copy_(-0.19 + 0.3 * zigzag + 0.4 * linear)
        if self.v0 is not None:
            self.v0.copy_(0.73 - 0.4 * linear)
        self.k_k.copy_(0.71 - 0.1 * linear)
        self.k_a.fill_(1.02)
        self.r_k.fill_(-0.04)
        self.ln_weight.fill_(((self.layer.index + 1) / self.layer.depth) ** 0.7)
        self.ln_bias.zero_()
        for projection, gain in ((self.r_proj, 1.0), (self.k_proj, 0.1), (self.v_proj, 1.0)):
            reset_orthogonal(projection.weight, gain)
        self.o_proj.weight.zero_()

    @property
    def state_kind(self) -> StateKind:
        """The state has a fixed size."""
        return "constant"

    def _forward(self, x: Tensor, mask: Tensor | None, *, shared: SharedValues | None = None) -> Tensor:
        return self._attend(x, None, shared)[0]

    def _init_state(self, batch_size: int, max_length: int | None, device: torch.device, dtype: torch.dtype) -> State:
        width, wide = self.d_model // self.heads, torch.promote_types(dtype, torch.float32)
        memory = torch.zeros(batch_size, self.heads, width, width, device=device, dtype=wide)
        return RWKV7State(memory, torch.zeros(batch_size, self.d_model, device=device, dtype=dtype))

    def _prefill(
        self, x: Tensor, state: State, mask: Tensor | None, *, shared: SharedValues | None = None
    ) -> tuple[Tensor, State]:
        assert isinstance(state, RWKV7State)
        return self._attend(x, state, shared)

    def _step(self, x_t: Tensor, state: State, *, shared: SharedValues | None = None) -> tuple[Tensor, State]:
        assert isinstance(state, RWKV7State)
        r, k, v, kappa, rate, log_decay, gate = self._project(x_t, state.last, shared)
        o, memory = dplr_delta_rule_step(r, k, v, -kappa, kappa * rate, log_decay, state=state.memory, scale=1.0)
        return self._output(o, r, k, v, gate), RWKV7State(memory, x_t)

    def _attend(self, x: Tensor, state: RWKV7State | None, shared: SharedValues | None) -> tuple[Tensor, State]:
        """Padding is zero and has no biases: it writes nothing, and the zero state before the first token stays."""
        before = token_before(x, None if state is None else state.last)
        r, k, v, kappa, rate, log_decay, gate = self._project(x, before, shared)
        pair = dplr_delta_rule(
            r, k, v, -kappa, kappa * rate, log_decay, scale=1.0,
            initial_state=None if state is None else state.memory, return_final_state=True,
        )  # fmt: skip
        assert isinstance(pair, tuple)
        return self._output(pair[0], r, k, v, gate), RWKV7State(pair[1], x[:, -1])

    def _project(self, x: Tensor, before: Tensor, shared: SharedValues | None) -> tuple[Tensor, ...]:
        """r, k, v, κ, η and the log decay per head, (…, heads, head_dim), and the gate (…, d_model)."""
        shifts = (self.x_r, self.x_w, self.x_k, self.x_v, self.x_a, self.x_g)
        x_r, x_w, x_k, x_v, x_a, x_g = (interpolate(x, before, shift) for shift in shifts)
        r, k, v = self.r_proj(x_r), self.k_proj(x_k), self._values(x_v, shared)
        rate = torch.sigmoid(self.a0 + self.a_lora(x_a))
        kappa = self._unit_length(self._per_head(k * self.k_k))
        k = k * (1 + (rate - 1) * self.k_a)
        r, k, v, rate, log_decay = map(self._per_head, (r, k, v, rate, self._log_decay(x_w)))
        return r, k, v, kappa, rate, log_decay, self.g_lora(x_g)

    def _values(self, x: Tensor, shared: SharedValues | None) -> Tensor:
        v: Tensor = self.v_proj(x)
        if shared is not None and FIRST_VALUE not in shared:
            shared[FIRST_VALUE] = (
                v.clone()
            )  # outputs of a sharded block may not be views, as those of a linear layer are
        first = v if shared is None else shared[FIRST_VALUE]
        if self.v_lora is None:
            return v
        return interpolate(v, first, torch.sigmoid(self.v0 + self.v_lora(x)))

    def _log_decay(self, x: Tensor) -> Tensor:
        logits = self.w_lora(x)
        return -SLOWEST * torch.sigmoid(logits.to(accumulation_dtype(logits)) + self.w0)

    def _unit_length(self, k: Tensor) -> Tensor:
        wide = k.to(accumulation_dtype(k))
        if self.key_norm_eps is None:
            return F.normalize(wide, dim=-1).to(k.dtype)
        return (wide * torch.rsqrt(wide.square().sum(-1, keepdim=True) + self.key_norm_eps)).to(k.dtype)

    def _output(self, o: Tensor, r: Tensor, k: Tensor, v: Tensor, gate: Tensor) -> Tensor:
        channels = o.flatten(-2).flatten(0, -2)
        normed = F.group_norm(channels, self.heads, self.ln_weight, self.ln_bias, self.norm_eps).view(gate.shape)
        bonus = ((r * k * self.r_k).sum(-1, keepdim=True) * v).flatten(-2)
        y: Tensor = self.o_proj((normed + bonus) * gate)
        return y

    def _per_head(self, x: Tensor) -> Tensor:
        heads: Tensor = x.unflatten(-1, (self.heads, -1))
        return heads

    def _vectors(self, count: int) -> list[nn.Parameter]:
        return [nn.Parameter(torch.empty(self.d_model)) for _ in range(count)]


def count_heads(name: str, d_model: int, head_dim: int | None) -> int:
    """Heads of ``head_dim`` channels each, of the largest divisor of ``d_model`` up to 64 if not given.

    Raises:
        ValueError: ``head_dim`` does not divide ``d_model``.
    """
    if head_dim is None:
        head_dim = max(width for width in range(1, WIDEST_HEAD + 1) if d_model % width == 0)
    if head_dim < 1 or d_model % head_dim:
        remedy = "change head_dim, or leave it out"
        raise argument_error(f"{name} mixer", f"head_dim={head_dim}", f"a divisor of d_model={d_model}", remedy)
    return d_model // head_dim
