"""LMU: a window of one learned signal, held as coefficients of Legendre polynomials.

Equation, with a memory m of ``d_state`` and one scalar input per token::

    u_t = relu(w · x_t + b)
    m_t = Ā m_{t-1} + B̄ u_t           Ā, B̄: zero-order hold, step 1, of θ m' = A m + B u
    y_t = relu(W [m_t; x_t] + c)

    A_ij = (2i + 1) (-1 if i < j else (-1)^{i-j+1})       B_i = (2i + 1) (-1)^i

m holds the Legendre coefficients of the last θ values of u. Whole sequences are convolved with the impulse response
``Ā^t B̄`` by FFT; a state enters as ``Ā^{t+1} m``. Both are powers of Ā applied to a vector, made by doubling in float64
(:mod:`~seqconv.filters.state_space.matrix_powers`), since Ā is far from normal.

Source: Voelker et al. 2019; the parallel form of Chilkuri and Eliasmith 2021 (arXiv 2102.11417); ``LMUFFTCell`` of
LMUFormer (Liu et al. 2024, arXiv 2402.04882), ``src/blocks/lmu_cell.py`` of zeyuliu1037/LMUFormer at 5debaddf.
Published result: LMUFormer reaches 96.53 % on Speech Commands V2 with 35 classes (its README). The input weights start
uniform with variance 1 / d_model (LeCun), as the input encoders in ``lmu/lmu.py`` of abr/neurips2019 at 2f97105a
(Voelker et al.), the rest as torch's linear layers, which LMUFormer leaves all of them to.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from seqconv_kernels import fft_conv
from seqconv_kernels._core.errors import argument_error
from seqconv_kernels._core.precision import accumulation_dtype

from ...filters.state_space import hippo
from ...filters.state_space.matrix_powers import matrix_powers
from ...layers.linear import Linear
from ...mixer import Mixer
from ...packing import zero_padding
from ...parameters import KeepFloat32
from ...registry import register
from ...state import State, state_class
from ...types import StateKind


@state_class
class LMUState(State):
    """Legendre coefficients of the window."""

    memory: Float[Tensor, "batch d_state"]


class LegendreMemoryUnit(KeepFloat32):
    """The cell, whose inputs and outputs may differ in width.

    Args:
        d_input: width of inputs.
        d_output: width of outputs.
        d_state: Legendre polynomials.
        window: θ, tokens that the memory spans.

    Raises:
        ValueError: sizes below 1, or an empty window.
    """

    float32_names = frozenset({"A", "B"})

    def __init__(self, d_input: int, d_output: int, *, d_state: int = 256, window: int | float = 128) -> None:
        super().__init__()
        if min(d_input, d_output, d_state) < 1 or window <= 0:
            got = f"d_input={d_input}, d_output={d_output}, d_state={d_state}, window={window}"
            raise argument_error("lmu mixer", got, "sizes of at least 1 and a window above 0", "correct the sizes")
        self.window = window
        self.out_proj = Linear(d_state + d_input, d_output)
        self.u_proj = Linear(d_input, 1)
        dtype = torch.promote_types(torch.get_default_dtype(), torch.float32)
        self.register_buffer("A", torch.empty(d_state, d_state, dtype=dtype))
        self.register_buffer("B", torch.empty(d_state, dtype=dtype))
        self.A: Tensor
        self.B: Tensor
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Discretise the memory, in float64; the input weights are uniform with variance 1 / d_input."""
        bound = (3 / self.u_proj.in_features) ** 0.5
        self.u_proj.weight.uniform_(-bound, bound)
        if not self.A.is_meta:
            self._discretize()

    def change_rate(self, rate: float) -> None:
        """Span the same time by tokens ``rate`` times as far apart; the matrices are no longer those of a copy."""
        self.window /= rate
        self.A, self.B = torch.empty_like(self.A), torch.empty_like(self.B)
        self._discretize()

    @torch.no_grad()
    def _discretize(self) -> None:
        """Hold the inputs over a token of 1 / window of the memory's time."""
        A, B = hippo.transition("lmu", len(self.B))
        size = len(self.B) + 1
        held = torch.zeros(size, size, dtype=torch.float64)
        held[:-1] = torch.cat([A, B.reshape(-1, 1)], dim=1).to(torch.float64) / self.window
        stepped = torch.linalg.matrix_exp(held)
        self.A.copy_(stepped[:-1, :-1])
        self.B.copy_(stepped[:-1, -1])

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
        """An empty memory, (batch, d_state)."""
        wide = torch.promote_types(dtype, torch.float32)
        return torch.zeros(batch_size, len(self.B), device=device, dtype=wide)

    def forward(
        self,
        x: Float[Tensor, "batch *length d_input"],
        memory: Float[Tensor, "batch d_state"] | None = None,
        mask: Tensor | None = None,
    ) -> tuple[Float[Tensor, "batch *length d_output"], Float[Tensor, "batch d_state"]]:
        """Whole sequences, or one token from a memory: the outputs and the memory after the last token."""
        if x.dim() == 2:
            assert memory is not None
            return self._step(x, memory)
        u = zero_padding(F.relu(self.u_proj(x)), mask).to(accumulation_dtype(x, self.B))
        A, B = self.A.to(torch.float64), self.B.to(torch.float64)
        taps = matrix_powers(A, B[:, None], x.shape[1])[..., 0].to(u.dtype)
        m = fft_conv(u.expand(-1, -1, len(self.B)), taps.T)
        if memory is not None:
            later = matrix_powers(A, A @ memory.to(torch.float64).T, x.shape[1])  # (length, d_state, batch)
            m = m + later.permute(2, 0, 1).to(u.dtype)
        return self._output(m, x), m[:, -1].clone()

    def step(
        self, x_t: Float[Tensor, "batch d_input"], memory: Float[Tensor, "batch d_state"]
    ) -> tuple[Float[Tensor, "batch d_output"], Float[Tensor, "batch d_state"]]:
        """One token."""
        pair: tuple[Tensor, Tensor] = self(x_t, memory)
        return pair

    def _step(self, x_t: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        u = F.relu(self.u_proj(x_t)).to(accumulation_dtype(x_t, self.B))
        m = memory.to(u.dtype) @ self.A.to(u.dtype).T + u * self.B.to(u.dtype)
        return self._output(m, x_t), m

    def _output(self, m: Tensor, x: Tensor) -> Tensor:
        return F.relu(self.out_proj(torch.cat([m.to(x.dtype), x], dim=-1)))


@register("lmu", examples=({"window": 12}, {"window": 6.5}))
class LMU(Mixer):
    """Legendre memory of one learned signal, and an output that reads it with the input.

    Args:
        d_model: width of inputs and outputs.
        d_state: Legendre polynomials; d_model if not given, as in LMUFormer.
        window: θ, tokens that the memory spans.

    Raises:
        ValueError: ``d_state < 1``, or an empty window.
    """

    def __init__(self, d_model: int, *, d_state: int | None = None, window: int | float = 128) -> None:
        super().__init__(d_model)
        size = d_model if d_state is None else d_state
        self.cell = LegendreMemoryUnit(d_model, d_model, d_state=size, window=window)

    @property
    def state_kind(self) -> StateKind:
        """The state has a fixed size."""
        return "constant"

    def _change_rate(self, rate: float) -> None:
        """Span the same time."""
        self.cell.change_rate(rate)

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        y: Tensor = self.cell(x, None, mask)[0]
        return y

    def _init_state(self, batch_size: int, max_length: int | None, device: torch.device, dtype: torch.dtype) -> State:
        return LMUState(self.cell.init_state(batch_size, device, dtype))

    def _prefill(self, x: Tensor, state: State, mask: Tensor | None) -> tuple[Tensor, State]:
        assert isinstance(state, LMUState)
        y, memory = self.cell(x, state.memory, mask)
        return y, LMUState(memory)

    def _step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        assert isinstance(state, LMUState)
        y, memory = self.cell(x_t, state.memory)
        return y, LMUState(memory)
