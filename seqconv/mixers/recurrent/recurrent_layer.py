"""The layer around a recurrent cell, written once for LSTM, GRU and Elman's network.

Equation, per head of ``head_dim`` channels, with recurrent weights that are block-diagonal over the heads::

    x̂_t = W x_t + b                        one vector per gate, all heads
    r_t = R h_{t-1} (+ b_R)                one block of (head_dim, head_dim) per gate and head
    states_t = cell(x̂_t, r_t, states_{t-1})      y_t = h_t

The cells are those of :func:`seqconv_kernels.rnn`. With one head the layers are torch's ``nn.LSTM``, ``nn.GRU`` and
``nn.RNN`` of one layer; with several those of FlashRNN (Pöppel et al. 2025, arXiv 2412.07752), which reports its
kernels to be up to 50 times as fast as plain PyTorch. A state that depends on the last one through a nonlinearity
tracks what scans with diagonal transitions cannot, such as the parity of its input; there is no parallel form.

Initialisation: all weights and biases uniform within ``±1/√width`` of their input, as in PyTorch.
"""

from typing import Annotated, ClassVar, TypedDict, Unpack

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from seqconv_kernels import rnn, rnn_step
from seqconv_kernels._core.errors import argument_error
from seqconv_kernels.rnn.cells import CELLS

from ...layers.linear import Linear
from ...mixer import ScanMixer
from ...options import Default, with_defaults
from ...parameters import set_optimizer_options
from ...state import State, state_class


class RecurrentOptions(TypedDict, total=False):
    """Options of :class:`RecurrentLayer`.

    Attributes:
        num_heads: blocks of the recurrent weights, a divisor of d_model.
        bias: whether the gates have biases.
    """

    num_heads: Annotated[int, Default(4)]
    bias: Annotated[bool, Default(True)]


@state_class
class RecurrentState(State):
    """The states of the cell, the output h first."""

    cell: Float[Tensor, "batch states heads head_dim"]


def first_tokens(mask: Bool[Tensor, "batch length"] | None) -> Int[Tensor, " batch"] | None:
    """Number of padded tokens in front of each row."""
    return None if mask is None else mask.long().cumsum(1).eq(0).sum(1)


def head_width(name: str, d_model: int, num_heads: int) -> int:
    """Channels of a head.

    Raises:
        ValueError: heads that do not divide the width.
    """
    if num_heads < 1 or d_model % num_heads:
        got = f"num_heads={num_heads} for {d_model} channels"
        raise argument_error(f"{name} mixer", got, "a divisor of the channels", "change num_heads")
    return d_model // num_heads


class RecurrentLayer(ScanMixer[RecurrentState]):
    """Everything of a recurrent layer but its cell.

    Args:
        d_model: width of inputs, outputs and states.
        **options: see :class:`RecurrentOptions`.

    Attributes:
        cell: name of the cell.
        recurrent_bias_apart: whether the bias of the recurrent product does more than that of the input.

    Raises:
        ValueError: heads that do not divide the width.
    """

    cell: ClassVar[str]
    recurrent_bias_apart: ClassVar[bool] = False

    def __init__(self, d_model: int, **options: Unpack[RecurrentOptions]) -> None:
        super().__init__(d_model)
        o = with_defaults(RecurrentOptions, options, self.name)
        width, gates = head_width(self.name, d_model, o["num_heads"]), CELLS[self.cell].gates
        self.heads = (o["num_heads"], width)
        self.in_proj = Linear(d_model, gates * d_model, bias=o["bias"])
        self.recurrent_weight = nn.Parameter(torch.empty(gates, *self.heads, width))
        apart = o["bias"] and self.recurrent_bias_apart
        self.recurrent_bias = nn.Parameter(torch.empty(gates, *self.heads)) if apart else None
        if apart:
            set_optimizer_options(self, "recurrent_bias", weight_decay=0.0)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the recurrent weights and biases uniformly."""
        for parameter in (self.recurrent_weight, self.recurrent_bias):
            if parameter is not None:
                nn.init.uniform_(parameter, -(self.heads[1] ** -0.5), self.heads[1] ** -0.5)

    def _init_state(self, batch_size: int, max_length: int | None, device: torch.device, dtype: torch.dtype) -> State:
        wide = torch.promote_types(dtype, torch.float32)
        return RecurrentState(torch.zeros(batch_size, CELLS[self.cell].states, *self.heads, device=device, dtype=wide))

    def _step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        assert isinstance(state, RecurrentState)
        h, cell = rnn_step(
            self._gates(x_t), self.recurrent_weight, self.recurrent_bias, cell=self.cell, state=state.cell
        )
        return h.flatten(-2), RecurrentState(cell)

    def _scan_from(self, x: Tensor, state: RecurrentState | None, mask: Tensor | None) -> tuple[Tensor, State]:
        cell = None if state is None else state.cell
        pair = rnn(
            self._gates(x), self.recurrent_weight, self.recurrent_bias, cell=self.cell, initial_state=cell,
            return_final_state=True, starts=first_tokens(mask),
        )  # fmt: skip
        assert isinstance(pair, tuple)
        return pair[0].flatten(-2), RecurrentState(pair[1])

    def _gates(self, x: Tensor) -> Tensor:
        gates: Tensor = self.in_proj(x).unflatten(-1, (-1, *self.heads))
        return gates
