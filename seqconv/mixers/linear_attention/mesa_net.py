"""MesaNet: linear attention whose memory is the optimal regression from keys to values at every token.

Equation, per head, with unit vectors q and k, ``β = σ(W_b x)``, ``α = σ(W_a x)`` and ``Λ = softplus(λ) + λ_min``::

    q, k = silu(conv(W_q x, W_k x))      v = W_v x
    H_t = α_t H_{t-1} + β_t k_t k_t^T    G_t = α_t G_{t-1} + β_t k_t v_t^T
    o_t = G_t^T (H_t + diag(Λ))^{-1} q_t
    y = W_o (norm(o) ⊙ silu(W_g x))      norm over each head, the gate if wanted

The solution of the decayed, weighted and regularised least squares problem over all tokens so far. The systems are
solved exactly, in float32 at least; the original takes up to 30 steps of conjugate gradients. ``H`` of :data:`CHUNK`
tokens is held at a time; gated linear attention then reads the values with the queries ``(H_t + diag(Λ))^{-1} q_t``.
The state has two matrices of head_dim² per head; cost O(length · d_model · head_dim²).

Source: von Oswald et al. 2025 (arXiv 2506.05233), "MesaNet: Sequence Modeling by Locally Optimal Test-Time Training";
``fla/layers/mesa_net.py`` and ``naive_mesa_net_exact`` of fla-org/flash-linear-attention at bc3b101d. Published results
were not looked up.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels import gated_linear_attention, linear_scan
from seqconv_kernels._core.errors import argument_error
from seqconv_kernels._core.operator.composed import Composed
from seqconv_kernels._core.portable import solve
from seqconv_kernels._core.precision import accumulation_dtype

from ...layers.linear import Linear
from ...layers.norms import RMSNorm
from ...layers.short_convolution import ShortConvolution
from ...mixer import Mixer
from ...packing import zero_padding
from ...parameters import set_optimizer_options
from ...registry import register
from ...state import State, state_class
from ...types import StateKind
from .delta_rule.delta_layer import unit_length

CHUNK = 64
"""Tokens whose systems are held and solved at once."""
INITIAL_LAMBDA = 1.0


@state_class
class MesaNetState(State):
    """Decayed sums of ``k k^T`` and ``k v^T``, and the last inputs of the short convolution."""

    keys: Float[Tensor, "batch heads d_k d_k"]
    memory: Float[Tensor, "batch heads d_k d_v"]
    conv: Float[Tensor, "batch reach channels"]


@register("mesa_net", examples=({"num_heads": 2, "use_output_gate": True, "d_conv": 3, "conv_bias": True},))
class MesaNet(Mixer):
    """Linear attention that solves the regression from keys to values at every token.

    Args:
        d_model: width of inputs and outputs.
        num_heads: heads.
        head_dim: channels of a head; d_model / num_heads if not given.
        use_output_gate: multiply the normalised output by ``silu(W_g x)``.
        d_conv: taps of the short convolution over queries and keys.
        conv_bias: whether it has a bias.
        norm_eps: ε of the output norm.
        lambda_lower_bound: least regularisation, below 1, which is the initial one.
        float32_matrices: round H and G to float32 before they are read also in float64, as the original does.

    Raises:
        ValueError: sizes below 1; a bound out of range.
    """

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int = 4,
        head_dim: int | None = None,
        use_output_gate: bool = False,
        d_conv: int = 4,
        conv_bias: bool = False,
        norm_eps: float = 1e-5,
        lambda_lower_bound: float = 0.25,
        float32_matrices: bool = False,
    ) -> None:
        super().__init__(d_model)
        self.heads, self.d_k = num_heads, head_dim or d_model // max(num_heads, 1)
        if min(self.heads, self.d_k) < 1 or not 0 <= lambda_lower_bound < INITIAL_LAMBDA:
            got = f"num_heads={num_heads}, head_dim={self.d_k}, lambda_lower_bound={lambda_lower_bound}"
            wanted = f"sizes of at least 1 and a bound in [0, {INITIAL_LAMBDA})"
            raise argument_error("mesa_net mixer", got, wanted, "change the sizes or the bound")
        self.lambda_lower_bound, width = lambda_lower_bound, self.heads * self.d_k
        self.float32_matrices = float32_matrices
        self.q_proj, self.k_proj, self.v_proj = (Linear(d_model, width, bias=False) for _ in range(3))
        self.a_proj, self.b_proj = Linear(d_model, self.heads), Linear(d_model, self.heads)
        self.conv1d = ShortConvolution(2 * width, d_conv, bias=conv_bias)
        self.g_proj = Linear(d_model, width, bias=False) if use_output_gate else None
        self.o_norm = RMSNorm(self.d_k, eps=norm_eps)
        self.o_proj = Linear(width, d_model, bias=False)
        self.lambda_params = nn.Parameter(torch.empty(width))
        self.keep_float32("lambda_params")
        set_optimizer_options(self, "lambda_params", weight_decay=0.0)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """A regularisation of 1."""
        self.lambda_params.fill_(math.log(math.expm1(INITIAL_LAMBDA - self.lambda_lower_bound)))

    @property
    def state_kind(self) -> StateKind:
        """The state has a fixed size."""
        return "constant"

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        state = self._init_state(x.shape[0], None, x.device, x.dtype)
        return self._prefill(x, state, mask)[0]

    def _init_state(self, batch_size: int, max_length: int | None, device: torch.device, dtype: torch.dtype) -> State:
        wide = torch.promote_types(dtype, torch.float32)
        keys = torch.zeros(batch_size, self.heads, self.d_k, self.d_k, device=device, dtype=wide)
        return MesaNetState(keys, torch.zeros_like(keys), self.conv1d.init_state(batch_size, device, dtype))

    def _prefill(self, x: Tensor, state: State, mask: Tensor | None) -> tuple[Tensor, State]:
        assert isinstance(state, MesaNetState)
        qk, conv = self.conv1d(torch.cat([self.q_proj(x), self.k_proj(x)], dim=-1), state.conv)
        q, k = (unit_length(t.unflatten(-1, (self.heads, -1))) for t in qk.chunk(2, dim=-1))
        k, v = zero_padding(k, mask), self.v_proj(x).unflatten(-1, (self.heads, -1))
        a, b = self.a_proj(x), self.b_proj(x)
        wide = accumulation_dtype(a, self.lambda_params)
        log_decay, written = F.logsigmoid(a.to(wide)), k * torch.sigmoid(b)[..., None]
        regularisation = F.softplus(self.lambda_params.to(wide)) + self.lambda_lower_bound
        diagonal = regularisation.unflatten(0, (self.heads, -1))
        given = [t.to(wide) for t in (q, k, written, log_decay, state.keys)]
        if self.float32_matrices and wide == torch.float64:
            o, keys, memory = _read_rounded(given, diagonal, v.to(wide), state.memory.to(wide))
        else:
            solved, keys = solve_regressions(*given, diagonal)
            pair = gated_linear_attention(
                solved, written, v, log_decay, scale=1.0, initial_state=state.memory, return_final_state=True
            )  # fmt: skip
            o, memory = pair
        o = self.o_norm(o).flatten(-2)
        y: Tensor = self.o_proj(o if self.g_proj is None else o * F.silu(self.g_proj(x)))
        return y, MesaNetState(keys, memory, conv)

    def _step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        y, state = self._prefill(x_t[:, None], state, None)
        return y[:, 0], state


def _read_rounded(
    given: Sequence[Tensor], regularisation: Tensor, v: Tensor, memory: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs and both last matrices, from the matrices of all tokens in float32."""
    q, k, written, log_decay, keys = given
    H, keys = _matrices(written, k, log_decay, keys)
    G, memory = _matrices(written, v, log_decay, memory)
    H, G = (t.float().to(q.dtype) for t in (H, G))
    read = solve(H + torch.diag_embed(regularisation), q[..., None])
    return (G * read).sum(-2), keys, memory


def _matrices(left: Tensor, right: Tensor, log_decay: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
    """Decayed sums of the outer products after every token, and the last ones."""
    inflow = left[..., :, None] * right[..., None, :]
    factor = log_decay.exp()[..., None, None].expand_as(inflow)
    pair = linear_scan(factor, inflow, initial_state=first, return_final_state=True)
    assert isinstance(pair, tuple)
    return pair[0], pair[1]


def _solve(
    q: Tensor, k: Tensor, written: Tensor, log_decay: Tensor, keys: Tensor, regularisation: Tensor
) -> tuple[Tensor, Tensor]:
    diagonal, solutions = torch.diag_embed(regularisation), []
    for part in zip(*(t.split(CHUNK, dim=1) for t in (q, k, written, log_decay)), strict=True):
        queries, right, left, decays = part
        H, keys = _matrices(left, right, decays, keys)
        solutions.append(solve(H + diagonal, queries[..., None])[..., 0])
    return torch.cat(solutions, dim=1), keys


solve_regressions = Composed(
    "mesa_net_solve",
    _solve,
    lambda q, k, written, log_decay, keys, diagonal: (q.new_empty(q.shape), keys.new_empty(keys.shape)),
)
"""``(H_t + diag(Λ))^{-1} q_t`` for all tokens, (batch, length, heads, d_k), and the last H; Λ is (heads, d_k).

An operator, since there are as many steps as chunks of :data:`CHUNK` tokens.
"""
