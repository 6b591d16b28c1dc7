"""RWKV-6's time mix: linear attention with a decay per key channel, a bonus for the own token, data-dependent shifts.

Equation, with ``δ_t = x_{t-1} - x_t`` and, for each of five uses i, ``lora_i`` a projection through a bottleneck whose
first matrix the uses share::

    x_i = x + δ ⊙ (μ_i + lora_i(tanh, x + δ ⊙ μ))                 i in r, w, k, v, g
    r, k, v, g = W_r x_r, W_k x_k, W_v x_v, W_g x_g               log α = -exp(w_0 + lora(tanh, x_w))
    S_t = diag(α_t) S_{t-1} + k_t v_t^T                           o_t = (S_{t-1} + diag(u) k_t v_t^T)^T r_t
    y = W_o (norm(o) ⊙ φ(g))                                      norm over each head, with mean and bias

The state has d_model · d_k numbers (keys as wide as the inputs) and one token. Cost O(length · d_model · d_k).

Source: Peng et al. 2024 (arXiv 2404.05892), "Eagle and Finch"; ``RWKV_Tmix_x060`` in RWKV-v5/src/model.py of
BlinkDL/RWKV-LM at 524481d5; ``fla/layers/rwkv6.py`` of fla-org/flash-linear-attention at bc3b101d, whose initial
values, key width and ε are others. Published results were not looked up.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels import gated_linear_attention, gated_linear_attention_step
from seqconv_kernels._core.errors import argument_error
from seqconv_kernels._core.precision import accumulation_dtype

from ....layers.activations import activate, check_activation
from ....layers.initialisation import reset_orthogonal
from ....layers.linear import Linear
from ....layers.low_rank import LowRank
from ....layers.token_shift import token_before
from ....mixer import ScanMixer
from ....parameters import set_optimizer_options
from ....registry import register
from ....state import State, state_class
from ....types import LayerContext
from .rwkv7 import count_heads

USES = ("r", "w", "k", "v", "g")
SHIFT_POWERS = {"x": 1.0, "w": 1.0, "k": 1.0, "v": 1.0, "r": 0.5, "g": 0.5}
"""How fast the initial token shifts fall over the channels."""
SMALL = 0.01
"""Second matrices of the bottlenecks start between plus and minus this number."""


@state_class
class RWKV6State(State):
    """The matrix state of every head and the last input."""

    memory: Float[Tensor, "batch heads d_k d_v"]
    last: Float[Tensor, "batch d_model"]


@register(
    "rwkv6",
    examples=(
        {"head_dim": 4, "proj_low_rank_dim": 2, "decay_low_rank_dim": 3},
        {"head_dim": 4, "expand_k": 0.5, "expand_v": 2.0, "gate_activation": "sigmoid", "norm_eps": 1e-5},
    ),
)
class RWKV6(ScanMixer[RWKV6State]):
    """Linear attention with a decay per key channel, a bonus and data-dependent token shift (RWKV-6's time mix).

    Args:
        d_model: width of inputs and outputs.
        head_dim: channels of a value head; the largest divisor of their width up to 64 if not given.
        expand_k, expand_v: key and value channels of all heads per input channel.
        proj_low_rank_dim: width of the bottleneck of each token shift.
        decay_low_rank_dim: width of the bottleneck of the decay.
        gate_activation: φ.
        norm_eps: ε of the output norm.
        layer: place in the stack, on which the initial values depend; the first of one by default.

    Raises:
        ValueError: heads that do not divide the widths; an unknown activation.
    """

    def __init__(
        self,
        d_model: int,
        *,
        head_dim: int | None = None,
        expand_k: int | float = 1.0,
        expand_v: int | float = 1.0,
        proj_low_rank_dim: int = 32,
        decay_low_rank_dim: int = 64,
        gate_activation: str = "silu",
        norm_eps: float = 64e-5,
        layer: LayerContext | None = None,
    ) -> None:
        super().__init__(d_model)
        self.layer, self.norm_eps = layer or LayerContext(0, 1), norm_eps
        self.gate_activation = check_activation("rwkv6 mixer", gate_activation)
        d_key, d_value = int(d_model * expand_k), int(d_model * expand_v)
        self.heads = count_heads(self.name, d_value, head_dim)
        if d_key < self.heads or d_key % self.heads:
            got, remedy = f"{d_key} key channels for {self.heads} heads", "change expand_k or head_dim"
            raise argument_error("rwkv6 mixer", got, "a multiple of the heads", remedy)
        self.d_k, self.d_v = d_key // self.heads, d_value // self.heads
        shifts = (nn.Parameter(torch.empty(d_model)) for _ in SHIFT_POWERS)
        self.x_x, self.x_r, self.x_w, self.x_k, self.x_v, self.x_g = shifts
        self.mix_down = Linear(d_model, len(USES) * proj_low_rank_dim, bias=False)
        self.mix_up = nn.ModuleList(Linear(proj_low_rank_dim, d_model, bias=False) for _ in USES)
        self.w0, self.bonus = nn.Parameter(torch.empty(d_key)), nn.Parameter(torch.empty(self.heads, self.d_k))
        self.w_lora = LowRank(d_model, decay_low_rank_dim, d_key, activation="tanh")
        self.r_proj, self.k_proj = (Linear(d_model, d_key, bias=False) for _ in range(2))
        self.v_proj, self.g_proj = (Linear(d_model, d_value, bias=False) for _ in range(2))
        self.ln_weight, self.ln_bias = (nn.Parameter(torch.empty(d_value)) for _ in range(2))
        self.o_proj = Linear(d_value, d_model, bias=False)
        self.keep_float32("w0")
        names = [name for name, p in self.named_parameters() if "_proj" not in name]
        set_optimizer_options(self, *(name for name in names if "." not in name), weight_decay=0.0)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """As in the original: token shifts, decays and bonuses spread over channels, by depth; outputs zero."""
        share, left = self.layer.index / max(self.layer.depth - 1, 1), 1 - self.layer.index / self.layer.depth
        channel = torch.arange(self.d_model, device=self.w0.device, dtype=torch.float32) / self.d_model
        for use, power in SHIFT_POWERS.items():
            getattr(self, f"x_{use}").copy_(1 - channel ** (power * left))
        self.x_v.sub_(0.3 * share)
        n = torch.arange(len(self.w0), device=self.w0.device, dtype=torch.float32)
        ramp = n / max(len(self.w0) - 1, 1)
        self.w0.copy_(-6 + 5 * ramp ** (0.7 + 1.3 * share))
        self.bonus.copy_((share * (1 - ramp) + 0.1 * ((n + 1) % 3 - 1)).view_as(self.bonus))
        self.mix_down.weight.zero_()
        for up in (*self.mix_up, self.w_lora.up):
            nn.init.uniform_(up.get_parameter("weight"), -SMALL, SMALL)
        self.ln_weight.fill_(((self.layer.index + 1) / self.layer.depth) ** 0.7)
        self.ln_bias.zero_()
        for projection, gain in ((self.r_proj, 1.0), (self.k_proj, 0.1), (self.v_proj, 1.0), (self.g_proj, 0.1)):
            reset_orthogonal(projection.weight, gain)
        self.o_proj.weight.zero_()

    def _init_state(self, batch_size: int, max_length: int | None, device: torch.device, dtype: torch.dtype) -> State:
        wide = torch.promote_types(dtype, torch.float32)
        memory = torch.zeros(batch_size, self.heads, self.d_k, self.d_v, device=device, dtype=wide)
        return RWKV6State(memory, torch.zeros(batch_size, self.d_model, device=device, dtype=dtype))

    def _step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        assert isinstance(state, RWKV6State)
        r, k, v, log_decay, gate = self._project(x_t, state.last)
        o, memory = gated_linear_attention_step(
            r, k, v, log_decay, state=state.memory, bonus=self.bonus, scale=1.0
        )  # fmt: skip
        return self._output(o, gate), RWKV6State(memory, x_t)

    def _scan_from(self, x: Tensor, state: RWKV6State | None, mask: Tensor | None) -> tuple[Tensor, State]:
        """Padding is zero and has no biases: it writes nothing, and the zero state before the first token stays."""
        r, k, v, log_decay, gate = self._project(x, token_before(x, None if state is None else state.last))
        pair = gated_linear_attention(
            r, k, v, log_decay, bonus=self.bonus, scale=1.0,
            initial_state=None if state is None else state.memory, return_final_state=True,
        )  # fmt: skip
        return self._output(pair[0], gate), RWKV6State(pair[1], x[:, -1])

    def _project(self, x: Tensor, before: Tensor) -> tuple[Tensor, ...]:
        """r, k, v and the log decay per head, (…, heads, width), and the gate (…, values)."""
        delta = before - x
        codes = torch.tanh(self.mix_down(torch.addcmul(x, delta, self.x_x))).chunk(len(USES), dim=-1)
        shifts = (self.x_r, self.x_w, self.x_k, self.x_v, self.x_g)
        mixes = [shift + up(code) for shift, up, code in zip(shifts, self.mix_up, codes, strict=True)]
        x_r, x_w, x_k, x_v, x_g = (torch.addcmul(x, delta, mix) for mix in mixes)
        r, k, v = self.r_proj(x_r), self.k_proj(x_k), self.v_proj(x_v)
        logits = self.w_lora(x_w)
        log_decay = -(logits.to(accumulation_dtype(logits)) + self.w0).exp()
        r, k, v, log_decay = (t.unflatten(-1, (self.heads, -1)) for t in (r, k, v, log_decay))
        return r, k, v, log_decay, activate(self.gate_activation, self.g_proj(x_g))

    def _output(self, o: Tensor, gate: Tensor) -> Tensor:
        channels = o.flatten(-2).flatten(0, -2)
        normed = F.group_norm(channels, self.heads, self.ln_weight, self.ln_bias, self.norm_eps).view(gate.shape)
        y: Tensor = self.o_proj(normed * gate)
        return y
