"""Equations of the cells: one step from the states before, the projected input ``x`` and ``r = R h + b``.

All tensors are (batch, heads, head_dim); ``x`` and ``r`` have one per gate. With σ the logistic function:

- **lstm**, gates i, f, z, o, states h, c (Hochreiter and Schmidhuber 1997; Gers et al. 2000)::

      c = σ(f) c' + σ(i) tanh(z)            h = σ(o) tanh(c)          i = x_i + r_i, the other gates likewise

- **gru**, gates r, z, n, state h (Cho et al. 2014, with the reset after the product)::

      n = tanh(x_n + σ(x_r + r_r) r_n)      h = σ(x_z + r_z) h' + (1 - σ(x_z + r_z)) n

- **elman**, one gate, state h (Elman 1990): ``h = tanh(x + r)``
- **slstm**, gates i, f, z, o, states h, c, n, m (Beck et al. 2024, arXiv 2405.04517)::

      m = max(i, log σ(f) + m')             the input gate itself at the first token, where n' = 0
      c = exp(log σ(f) + m' - m) c' + exp(i - m) tanh(z)
      n = exp(log σ(f) + m' - m) n' + exp(i - m), at least 1
      h = σ(o) c / n

  The stabiliser m keeps every exponent at or below zero and drops out of h. From the zero state n is never below 1.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

States = tuple[Tensor, ...]


class Cell(NamedTuple):
    """A cell.

    Attributes:
        gates: of the projected input, and as many of the recurrent weight.
        states: the first one is h, the output.
        step: the states after a token, from ``(x, r, states)``.
    """

    gates: int
    states: int
    step: Callable[[Sequence[Tensor], Sequence[Tensor], States], States]


def _lstm(x: Sequence[Tensor], r: Sequence[Tensor], states: States) -> States:
    i, f, z, o = (a + b for a, b in zip(x, r, strict=True))
    c = torch.sigmoid(f) * states[1] + torch.sigmoid(i) * torch.tanh(z)
    return torch.sigmoid(o) * torch.tanh(c), c


def _gru(x: Sequence[Tensor], r: Sequence[Tensor], states: States) -> States:
    reset, update = torch.sigmoid(x[0] + r[0]), torch.sigmoid(x[1] + r[1])
    new = torch.tanh(x[2] + reset * r[2])
    return (update * states[0] + (1 - update) * new,)


def _elman(x: Sequence[Tensor], r: Sequence[Tensor], states: States) -> States:
    return (torch.tanh(x[0] + r[0]),)


def _slstm(x: Sequence[Tensor], r: Sequence[Tensor], states: States) -> States:
    i, f, z, o = (a + b for a, b in zip(x, r, strict=True))
    _, c, n, m = states
    kept = F.logsigmoid(f) + m
    m = torch.where(n == 0, i, torch.maximum(i, kept))
    input_gate, forget_gate = torch.exp(i - m), torch.exp((kept - m).clamp(max=0))
    c = forget_gate * c + input_gate * torch.tanh(z)
    n = (forget_gate * n + input_gate).clamp(min=1)
    return torch.sigmoid(o) * c / n, c, n, m


CELLS = {
    "lstm": Cell(4, 2, _lstm),
    "gru": Cell(3, 1, _gru),
    "elman": Cell(1, 1, _elman),
    "slstm": Cell(4, 4, _slstm),
}
