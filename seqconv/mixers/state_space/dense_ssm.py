"""The layer around a diagonal recurrence with dense input and output matrices, written once for S5 and LRU.

Equation, with P complex states, ``a`` of P, ``B`` of (P, D) and ``C`` of (D, P)::

    h_t = a ⊙ h_{t-1} + B u_t          y_t = w Re(C h_t) + D ⊙ u_t

``w`` is 2 where one state stands for a conjugate pair. Bidirectional, a second C reads the same recurrence run over the
reversed inputs, the current token in both. Then, optionally, with ``g = gelu(y)`` and ``σ`` the sigmoid::

    full_glu:  (W_1 g + b_1) ⊙ σ(W_2 g + b_2)       half_glu1:  g ⊙ σ(W_2 g + b_2)
    half_glu2: y ⊙ σ(W_2 g + b_2)                   gelu:       g

GELU is its tanh approximation, the default of the originals' library.
"""

from abc import abstractmethod
from typing import Annotated, NamedTuple, TypedDict, Unpack

import torch
import torch.nn.functional as F
from jaxtyping import Complex
from torch import Tensor, nn

from seqconv_kernels import linear_scan, linear_scan_step
from seqconv_kernels._core.complex import view_output_as_complex
from seqconv_kernels._core.errors import unknown_name
from seqconv_kernels._core.precision import accumulation_dtype, no_autocast

from ...layers.linear import Linear
from ...layers.residual import Dropout
from ...mixer import Mixer
from ...options import Default, with_defaults
from ...parameters import set_optimizer_options
from ...state import State, state_class
from ...types import StateKind

GATES = ("full_glu", "half_glu1", "half_glu2", "gelu", "none")


class DenseSSMOptions(TypedDict, total=False):
    """Options of :class:`DenseSSMLayer`.

    Attributes:
        bidirectional: also read the recurrence over the reversed inputs.
        dropout: after the GELU and after the gate.
        tie_dropout: drop a channel at all tokens of a row together.
    """

    bidirectional: Annotated[bool, Default(False)]
    dropout: Annotated[float, Default(0.0)]
    tie_dropout: Annotated[bool, Default(False)]


class System(NamedTuple):
    """A discrete recurrence, complex64 at least.

    Attributes:
        a: factors of the states.
        B: input matrix.
        C: output matrix, with ``w``.
        C_backward: output matrix of the reversed recurrence, ``None`` without one.
    """

    a: Complex[Tensor, " d_state"]
    B: Complex[Tensor, "d_state d_model"]
    C: Complex[Tensor, "d_model d_state"]
    C_backward: Complex[Tensor, "d_model d_state"] | None


@state_class
class DenseSSMState(State):
    """The states of the recurrence."""

    recurrence: Complex[Tensor, "batch d_state"]


class DenseSSMLayer(Mixer):
    """Everything but how the matrices come about.

    Args:
        d_model: width of inputs and outputs.
        d_state: complex states that are stored.
        gate: what follows the recurrence, one of ``GATES``.
        **options: see :class:`DenseSSMOptions`.

    Raises:
        ValueError: an unknown gate.
    """

    def __init__(self, d_model: int, d_state: int, gate: str, **options: Unpack[DenseSSMOptions]) -> None:
        o = with_defaults(DenseSSMOptions, options, self.name)
        super().__init__(d_model, causal=not o["bidirectional"])
        if gate not in GATES:
            raise unknown_name(f"{self.name} mixer", "gate", gate, GATES)
        self.d_state, self.gate = d_state, gate
        self.D = nn.Parameter(torch.empty(d_model))
        set_optimizer_options(self, "D", weight_decay=0.0)
        self.out_proj = Linear(d_model, d_model) if self.gate == "full_glu" else None
        self.gate_proj = Linear(d_model, d_model) if self.gate.endswith(("glu", "glu1", "glu2")) else None
        self.dropout = Dropout(o["dropout"], tied=o["tie_dropout"])

    @abstractmethod
    def system(self) -> System:
        """The discrete recurrence."""

    @property
    def state_kind(self) -> StateKind:
        """The state has a fixed size."""
        return "constant" if self.causal else "none"

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        system = self.system()
        y, _ = self._scan(x, system, None)
        if system.C_backward is not None:
            y = y + self._scan(x.flip(1), system._replace(C=system.C_backward), None)[0].flip(1)
        return self._output(y, x)

    def _init_state(self, batch_size: int, max_length: int | None, device: torch.device, dtype: torch.dtype) -> State:
        wide = torch.promote_types(torch.promote_types(dtype, torch.float32), torch.complex64)
        return DenseSSMState(torch.zeros(batch_size, self.d_state, device=device, dtype=wide))

    def _prefill(self, x: Tensor, state: State, mask: Tensor | None) -> tuple[Tensor, State]:
        assert isinstance(state, DenseSSMState)
        y, recurrence = self._scan(x, self.system(), state.recurrence)
        return self._output(y, x), DenseSSMState(recurrence)

    def _step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        assert isinstance(state, DenseSSMState)
        system = self.system()
        inputs = _times_real(x_t, system.B)
        h, recurrence = linear_scan_step(system.a.expand_as(inputs), inputs, state=state.recurrence)
        return self._output(_real_part(h, system.C), x_t), DenseSSMState(recurrence)

    def _scan(self, x: Tensor, system: System, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """Outputs, float32 at least, and the last states; inputs are zero at padding, which adds nothing."""
        inputs = _times_real(x, system.B)
        pair = linear_scan(system.a.expand_as(inputs), inputs, initial_state=state, return_final_state=True)
        assert isinstance(pair, tuple)
        return _real_part(pair[0], system.C), pair[1]

    def _output(self, y: Tensor, x: Tensor) -> Tensor:
        y = (y + self.D.to(y.dtype) * x).to(x.dtype)
        if self.gate == "none":
            return y
        g: Tensor = self.dropout(F.gelu(y, approximate="tanh"))
        if self.gate_proj is None:
            return g
        value = y if self.gate == "half_glu2" else g if self.out_proj is None else self.out_proj(g)
        gated: Tensor = self.dropout(value * torch.sigmoid(self.gate_proj(g)))
        return gated


def _times_real(x: Tensor, matrix: Tensor) -> Tensor:
    """``matrix x`` for real x: one real product, whose columns are real and imaginary parts in turn.

    Autocast does not narrow it: no complex type is as narrow.
    """
    x = x.to(accumulation_dtype(x, matrix.real))
    parts = torch.view_as_real(matrix.resolve_conj()).transpose(0, 1).flatten(1)
    with no_autocast(x):
        return view_output_as_complex((x @ parts).unflatten(-1, (-1, 2)))


def _real_part(h: Tensor, matrix: Tensor) -> Tensor:
    """``Re(matrix h)``: one real product, in the precision of h."""
    parts = torch.view_as_real(matrix.conj().resolve_conj()).flatten(1)
    with no_autocast(h):
        return torch.view_as_real(h.resolve_conj()).flatten(-2) @ parts.T
