"""The recurrent block of Griffin and Hawk (RecurrentGemma): a real-gated linear recurrent unit between two branches.

Equation, with a recurrence over each of W channels and gates that are linear within a head::

    u = conv(W_x x)                                    causal, depthwise, with a bias
    r_t = σ(G_r u_t + b_r)                             recurrence gate, block-diagonal over the heads
    i_t = σ(G_i u_t + b_i)                             input gate, likewise
    log a_t = -8 r_t softplus(Λ)
    h_t = a_t h_{t-1} + √(1 - a_t²) (i_t ⊙ u_t)        the first token: h_0 = i_0 ⊙ u_0
    y = W_out (h ⊙ gelu(W_y x))

The derivative of the square root is at most 1000, since it has none at ``a = 1``.

Source: De et al. 2024 (arXiv 2402.19427) and ``RecurrentGemmaRecurrentBlock`` of transformers 5.23.0
(``models/recurrent_gemma/modeling_recurrent_gemma.py``). The paper's Griffin, two such blocks to one of local
attention, matches Llama-2 on average downstream at a sixth of its training tokens (abstract). The original's cache
forgets nothing of the convolution where a packed document begins; here no token sees another document.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from seqconv_kernels import linear_scan, linear_scan_step
from seqconv_kernels._core.errors import argument_error
from seqconv_kernels._core.precision import accumulation_dtype

from ...layers.activations import activate, check_activation
from ...layers.linear import Linear
from ...layers.short_convolution import ShortConvolution
from ...layers.token_shift import token_before
from ...mixer import ScanMixer
from ...packing import zero_padding
from ...parameters import KeepFloat32, set_optimizer_options
from ...registry import register
from ...state import State, state_class
from ...types import LayerContext

SHARPNESS = 8.0
"""Multiplies the recurrence gate (c in the paper)."""
A_RANGE = (0.9, 0.999)
"""The initial decay at an open recurrence gate has a square that is uniform between the squares of these."""
MAX_SQRT_DERIVATIVE = 1000.0
PUBLISHED_HEADS = 16
"""Blocks of the gates' matrices in the paper."""
CONV_VARIANCE = 0.01
"""Variance of the taps, times their number (``w_init_variance_scale``)."""


def bounded_sqrt(x: Tensor) -> Tensor:
    """Square root whose derivative is at most ``MAX_SQRT_DERIVATIVE``: constant where it would be larger."""
    steep = 4.0 * x < MAX_SQRT_DERIVATIVE**-2
    value = x.detach()
    line = value.sqrt() + MAX_SQRT_DERIVATIVE * (x - value)
    return torch.where(steep, line, torch.where(steep, 1.0, x).sqrt())


class RGLRU(KeepFloat32):
    """Real-gated linear recurrent unit: the recurrence and its two gates.

    Args:
        channels: recurrences.
        num_heads: blocks of the gates' matrices.
    """

    float32_names = frozenset()

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        width = channels // num_heads
        self.input_gate_weight = nn.Parameter(torch.empty(num_heads, width, width))
        self.input_gate_bias = nn.Parameter(torch.empty(num_heads, width))
        self.recurrent_gate_weight = nn.Parameter(torch.empty(num_heads, width, width))
        self.recurrent_gate_bias = nn.Parameter(torch.empty(num_heads, width))
        self.recurrent_param = nn.Parameter(torch.empty(channels))
        self.keep_float32("recurrent_param")
        set_optimizer_options(self, "recurrent_param", "input_gate_bias", "recurrent_gate_bias", weight_decay=0.0)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Gates of small weights, decays as in ``A_RANGE``: ``a² ~ U`` at r = 1 through ``softplus(Λ) = -log(a)``."""
        for gate in (self.input_gate_weight, self.recurrent_gate_weight):
            gate.normal_(std=math.sqrt(CONV_VARIANCE / gate.shape[-1]))
        for bias in (self.input_gate_bias, self.recurrent_gate_bias):
            bias.zero_()
        self.recurrent_param.uniform_(A_RANGE[0] ** 2 + 1e-8, A_RANGE[1] ** 2 + 1e-8)
        self.recurrent_param.log_().mul_(-0.5).expm1_().log_()

    def forward(
        self,
        u: Float[Tensor, "*tokens channels"],
        first: Bool[Tensor, "*tokens"],
        state: Float[Tensor, "batch channels"] | None = None,
    ) -> tuple[Float[Tensor, "*tokens channels"], Float[Tensor, "batch channels"]]:
        """The recurrence over tokens (batch, length, channels), or over one token (batch, channels) from ``state``.

        Args:
            u: inputs, zero at padding.
            first: where a sequence begins: what the state held before is dropped, and the input is not scaled.
            state: before the first token; zero if not given.
        """
        wide = accumulation_dtype(u, self.recurrent_param)
        r = self._gate(u, self.recurrent_gate_weight, self.recurrent_gate_bias).to(wide)
        i = self._gate(u, self.input_gate_weight, self.input_gate_bias)
        log_a = -SHARPNESS * r * F.softplus(self.recurrent_param.to(wide))
        scale = bounded_sqrt(-torch.expm1(2.0 * log_a))
        a, scale = log_a.exp().masked_fill(first[..., None], 0.0), scale.masked_fill(first[..., None], 1.0)
        inputs = scale * (i * u)
        if u.dim() == 2:
            assert state is not None
            h, state = linear_scan_step(a, inputs, state=state)
        else:
            pair = linear_scan(a, inputs, initial_state=state, return_final_state=True)
            assert isinstance(pair, tuple)
            h, state = pair
        return h.to(u.dtype), state

    def _gate(self, u: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        heads = u.unflatten(-1, (weight.shape[0], -1))
        return torch.sigmoid(torch.einsum("...hi,hij->...hj", heads, weight) + bias).flatten(-2)


@state_class
class RGLRUState(State):
    """The last inputs of the convolution, oldest first; the recurrence; whether a token has been seen."""

    conv: Float[Tensor, "batch reach channels"]
    recurrence: Float[Tensor, "batch channels"]
    started: Bool[Tensor, " batch"]


@register("rg_lru", examples=({"num_heads": 2, "expand": 1.5, "d_conv": 3}, {"num_heads": 1, "activation": "silu"}))
class RGLRUBlock(ScanMixer[RGLRUState]):
    """Gated linear recurrence after a short convolution, times a gate (Griffin, RecurrentGemma).

    Args:
        d_model: width of inputs and outputs.
        expand: channels of the recurrence per input channel; 4/3 in Griffin's larger models.
        num_heads: blocks of the gates' matrices; 16 if not given, or fewer where 16 does not divide the channels.
        d_conv: taps of the short convolution.
        activation: of the gate that multiplies the recurrence.
        layer: place in a stack; the initial output projection shrinks with its depth.

    Raises:
        ValueError: heads that do not divide the channels, or an unknown activation.
    """

    def __init__(
        self,
        d_model: int,
        *,
        expand: int | float = 1,
        num_heads: int | None = None,
        d_conv: int = 4,
        activation: str = "gelu_tanh",
        layer: LayerContext | None = None,
    ) -> None:
        super().__init__(d_model)
        channels = round(expand * d_model)
        heads = math.gcd(PUBLISHED_HEADS, channels) if num_heads is None else num_heads
        if channels < 1 or heads < 1 or channels % heads:
            got = f"{channels} channels in {heads} heads"
            raise argument_error("rg_lru mixer", got, "heads that divide the channels", "change num_heads or expand")
        self.activation, self.layer = check_activation("rg_lru mixer", activation), layer
        self.y_proj, self.x_proj = Linear(d_model, channels), Linear(d_model, channels)
        self.conv1d = ShortConvolution(channels, d_conv, activation=None)
        self.rg_lru = RGLRU(channels, heads)
        self.out_proj = Linear(channels, d_model)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Normal weights of variance 1/width (the output: 2/(depth width)), small taps, biases of zero."""
        for projection in (self.y_proj, self.x_proj, self.out_proj):
            gain = 2.0 / self.layer.depth if projection is self.out_proj and self.layer is not None else 1.0
            projection.weight.normal_(std=math.sqrt(gain / projection.in_features))
            projection.bias.zero_()
        self.conv1d.weight.normal_(std=math.sqrt(CONV_VARIANCE / self.conv1d.weight.shape[1]))
        assert self.conv1d.bias is not None
        self.conv1d.bias.zero_()

    def _init_state(self, batch_size: int, max_length: int | None, device: torch.device, dtype: torch.dtype) -> State:
        channels = self.rg_lru.recurrent_param.shape[0]
        wide = torch.promote_types(dtype, torch.float32)
        recurrence = torch.zeros(batch_size, channels, device=device, dtype=wide)
        started = torch.zeros(batch_size, device=device, dtype=torch.bool)
        return RGLRUState(self.conv1d.init_state(batch_size, device, dtype), recurrence, started)

    def _step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        assert isinstance(state, RGLRUState)
        u, conv = self.conv1d.step(self.x_proj(x_t), state.conv)
        h, recurrence = self.rg_lru(u, ~state.started, state.recurrence)
        return self._output(h, x_t), RGLRUState(conv, recurrence, torch.ones_like(state.started))

    def _scan_from(self, x: Tensor, state: RGLRUState | None, mask: Tensor | None) -> tuple[Tensor, State]:
        u, conv = self.conv1d(zero_padding(self.x_proj(x), mask), None if state is None else state.conv)
        first, started = _first_tokens(x, None if state is None else state.started, mask)
        recurrence = None if state is None else state.recurrence
        h, recurrence = self.rg_lru(zero_padding(u, mask), first, recurrence)
        return self._output(h, x), RGLRUState(conv, recurrence, started)

    def _output(self, h: Tensor, x: Tensor) -> Tensor:
        y: Tensor = self.out_proj(h * activate(self.activation, self.y_proj(x)))
        return y


def _first_tokens(x: Tensor, started: Tensor | None, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Where a row's first token is, (batch, length), and which rows have one by the end."""
    real = torch.ones_like(x[..., 0], dtype=torch.bool) if mask is None else mask
    before = torch.zeros_like(real[:, 0]) if started is None else started
    seen = token_before(real, before)
    earlier = seen if started is None else seen | before[:, None]
    return real & ~earlier, before | real.any(1)
