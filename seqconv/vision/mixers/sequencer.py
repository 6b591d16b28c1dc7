"""Sequencer's mixer: recurrent networks along the columns and along the rows of the image.

``v = rnn(columns of x)``, ``h = rnn(rows of x)``, each in both directions, ``y = W [v, h]``; with ``union="add"``
``y = W (v + h)``, with ``"vertical"`` or ``"horizontal"`` one of them alone. The cells are those of
:func:`seqconv_kernels.rnn`, whose heads are the two directions here.

Source: Tatsunami and Taki 2022 (arXiv 2205.01972), ``models/layers.py`` of okojoalg/sequencer at 408520e7.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels import rnn
from seqconv_kernels._core.errors import argument_error, unknown_name
from seqconv_kernels.rnn.cells import CELLS

from ...layers.linear import KeptLinear, Linear
from ..mixer_2d import Mixer2d, by_size
from ..registry import register_2d

SEQUENCER_CELLS = ("lstm", "gru", "elman")
UNIONS = ("cat", "add", "vertical", "horizontal")


class GateProjection(KeptLinear):
    """Projection of inputs to the gates of a cell, uniform within ``±1/√d_hidden`` as in PyTorch's recurrent layers.

    ``biases`` of them are one here, the sum of as many.
    """

    def __init__(self, d_in: int, d_out: int, *, d_hidden: int, biases: int = 1) -> None:
        self.bound, self.biases = d_hidden**-0.5, biases
        super().__init__(d_in, d_out)

    def reset_parameters(self) -> None:
        """Draw weights and biases uniformly."""
        nn.init.uniform_(self.weight, -self.bound, self.bound)
        nn.init.uniform_(self.bias, -self.bound, self.bound)
        for _ in range(self.biases - 1):
            with torch.no_grad():
                self.bias.add_(nn.init.uniform_(torch.empty_like(self.bias), -self.bound, self.bound))


class DirectionalRNN(nn.Module):
    """A recurrent layer over sequences, forwards or in both directions side by side.

    Args:
        d_in: width of the inputs.
        d_hidden: width of the state of a direction.
        cell: ``"lstm"``, ``"gru"`` or ``"elman"``.
        directions: 1 or 2.
    """

    def __init__(self, d_in: int, d_hidden: int, *, cell: str, directions: int) -> None:
        super().__init__()
        gates = CELLS[cell].gates
        self.cell, self.sizes = cell, (gates, directions, d_hidden)
        biases = 1 if cell == "gru" else 2
        self.in_proj = GateProjection(d_in, gates * directions * d_hidden, d_hidden=d_hidden, biases=biases)
        self.recurrent_weight = nn.Parameter(torch.empty(*self.sizes, d_hidden))
        # The GRU multiplies the bias of its recurrent product; of other cells both biases are one.
        self.recurrent_bias = nn.Parameter(torch.empty(self.sizes)) if cell == "gru" else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the recurrent weights uniformly."""
        for parameter in (self.recurrent_weight, self.recurrent_bias):
            if parameter is not None:
                nn.init.uniform_(parameter, -self.in_proj.bound, self.in_proj.bound)

    def forward(self, x: Float[Tensor, "batch length d_in"]) -> Float[Tensor, "batch length d_out"]:
        """The states of all tokens, those of the two directions side by side."""
        gates = _turned(self.in_proj(x).unflatten(-1, self.sizes))
        h = rnn(gates, self.recurrent_weight, self.recurrent_bias, cell=self.cell)
        assert isinstance(h, Tensor)
        return _turned(h).flatten(2)


def _turned(x: Float[Tensor, "batch length *rest width"]) -> Float[Tensor, "batch length *rest width"]:
    """The second direction (axis -2), if there is one, in the opposite order of tokens."""
    if x.shape[-2] == 1:
        return x
    forwards, backwards = x.unbind(-2)
    return torch.stack([forwards, backwards.flip(1)], dim=-2)


@register_2d(
    "sequencer",
    examples=(
        {"cell": "gru", "union": "add", "d_hidden": 3, "num_layers": 2},
        {"cell": "elman", "d_hidden": 4, "bidirectional": False, "projection": False},
    ),
)
class Sequencer2d(Mixer2d):
    """Recurrent networks along columns and rows (Sequencer2D's BiLSTM).

    Args:
        d_model: width of inputs and outputs.
        d_hidden: width of the state of a direction; a quarter of the width by default.
        cell: ``"lstm"``, ``"gru"`` or ``"elman"``.
        num_layers: recurrent layers on top of each other.
        bidirectional: run along each axis in both directions.
        union: ``"cat"``, ``"add"``, ``"vertical"`` or ``"horizontal"``.
        projection: whether a projection follows; without, the states must be as wide as the inputs.

    Raises:
        ValueError: unknown names (the nearest are named), sizes below 1, states of another width without a projection.
    """

    def __init__(
        self,
        d_model: int,
        *,
        d_hidden: int | None = None,
        cell: str = "lstm",
        num_layers: int = 1,
        bidirectional: bool = True,
        union: str = "cat",
        projection: bool = True,
    ) -> None:
        super().__init__(d_model)
        d_hidden = max(1, d_model // 4) if d_hidden is None else d_hidden
        for option, name, known in (("cell", cell, SEQUENCER_CELLS), ("union", union, UNIONS)):
            if name not in known:
                raise unknown_name("sequencer 2-D mixer", option, name, known)
        directions = 2 if bidirectional else 1
        width = d_hidden * directions * (2 if union == "cat" else 1)
        if min(d_hidden, num_layers) < 1 or (not projection and width != d_model):
            got = f"d_hidden={d_hidden}, num_layers={num_layers}, projection={projection}: states of {width} channels"
            wanted = f"sizes of at least 1, {d_model} channels without a projection"
            raise argument_error("sequencer 2-D mixer", got, wanted, "correct d_hidden or take projection=True")
        self.union = union

        def layers() -> nn.Sequential:
            widths = [d_model] + [directions * d_hidden] * (num_layers - 1)
            return nn.Sequential(*(DirectionalRNN(d, d_hidden, cell=cell, directions=directions) for d in widths))

        self.vertical = layers() if union != "horizontal" else None
        self.horizontal = layers() if union != "vertical" else None
        self.out_proj = Linear(width, d_model) if projection else None

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return x if x.shape[0] == 0 else by_size(self._mix, x, mask)

    def _mix(self, x: Tensor) -> Tensor:
        parts = []
        if self.vertical is not None:
            columns = x.transpose(1, 2)
            parts.append(self.vertical(columns.flatten(0, 1)).unflatten(0, columns.shape[:2]).transpose(1, 2))
        if self.horizontal is not None:
            parts.append(self.horizontal(x.flatten(0, 1)).unflatten(0, x.shape[:2]))
        joined: Tensor = sum(parts[1:], start=parts[0]) if self.union == "add" else torch.cat(parts, dim=-1)
        return joined if self.out_proj is None else self.out_proj(joined)
