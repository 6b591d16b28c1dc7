"""LightConv and DynamicConv: a short convolution with normalised taps, fixed or computed from each token.

Equation, with heads g of channels that share K taps, lag 0 first::

    v = GLU(W_in x),    u_t = sum_{s<K} w_{g(c), s} v_{t-s} + b,    y = W_out u
    lightconv:    w = softmax(W)
    dynamicconv:  w = softmax(W_d v_t)       of every token

Taps before the first token count in the softmax, in steps as in the parallel form.

Source: Wu et al. 2019, "Pay Less Attention with Lightweight and Dynamic Convolutions" (arXiv 1901.10430);
fairseq/modules/{lightweight,dynamic}_convolution.py of facebookresearch/fairseq (commit 3d262bb2).
"""

from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error

from ...convolution.window import WindowConvolution
from ...filters.explicit.softmax_taps import SoftmaxTapsFilter, check_heads
from ...layers.linear import Linear
from ...mixer import Mixer
from ...options import check_probability
from ...packing import zero_padding
from ...registry import register
from ...state import State, state_class
from ...types import StateKind


@state_class
class InputsState(State):
    """The last inputs, oldest first."""

    past: Float[Tensor, "batch reach channels"]


class LightConvolution(nn.Module):
    """The convolution alone.

    Args:
        channels: width.
        width: taps K.
        num_heads, softmax: as in :class:`~seqconv.filters.explicit.softmax_taps.SoftmaxTapsFilter`.
        bias: added to the outputs.
        weight_dropout: probability that a tap is dropped in training.
        lookahead: taps that reach into the future; with any there is no state.
    """

    def __init__(
        self,
        channels: int,
        *,
        width: int,
        num_heads: int,
        softmax: bool = True,
        bias: bool = True,
        weight_dropout: float = 0.0,
        lookahead: int = 0,
    ) -> None:
        super().__init__()
        self.lookahead = lookahead
        self.convolution = WindowConvolution(
            SoftmaxTapsFilter(channels, width=width, num_heads=num_heads, softmax=softmax, dropout=weight_dropout)
        )
        self.bias = nn.Parameter(torch.empty(channels)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the bias to zero."""
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, v: Float[Tensor, "batch *length channels"], state: State | None = None) -> Any:
        """Whole sequences; with a state ``(y, state)``: any number of inputs, or one of shape (batch, channels)."""
        if state is None:
            y = self.convolution(F.pad(v, (0, 0, 0, self.lookahead)))[:, self.lookahead :]
            return y if self.bias is None else y + self.bias
        y, after = (self.convolution.step if v.dim() == 2 else self.convolution.prefill)(v, state)
        return (y if self.bias is None else y + self.bias), after

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        """Zero inputs before the first one."""
        return self.convolution.init_state(batch_size)


class DynamicConvolution(nn.Module):
    """The convolution whose taps are a linear function of each token.

    Args:
        channels, width, num_heads, softmax, weight_dropout, lookahead: as in :class:`LightConvolution`.
        bias: added to the taps before the softmax.
        conv_bias: added to the outputs.

    Raises:
        ValueError: heads that do not divide the channels, no tap.
    """

    def __init__(
        self,
        channels: int,
        *,
        width: int,
        num_heads: int,
        softmax: bool = True,
        bias: bool = True,
        conv_bias: bool = True,
        weight_dropout: float = 0.0,
        lookahead: int = 0,
    ) -> None:
        super().__init__()
        check_heads("DynamicConvolution", channels, num_heads, width)
        self.channels, self.width, self.num_heads, self.softmax = channels, width, num_heads, softmax
        check_probability("weight_dropout", weight_dropout)
        self.weight_dropout, self.lookahead = weight_dropout, lookahead
        self.weight_proj = Linear(channels, num_heads * width, bias=bias)
        self.bias = nn.Parameter(torch.empty(channels)) if conv_bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the bias of the outputs to zero."""
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, v: Float[Tensor, "batch *length channels"], state: State | None = None) -> Any:
        """Whole sequences; with a state ``(y, state)``: any number of inputs, or one of shape (batch, channels)."""
        rows = v[:, None] if v.dim() == 2 else v
        before = rows.new_zeros(rows.shape[0], self.width - 1 - self.lookahead, rows.shape[2])
        before = before if state is None else cast(InputsState, state).past.to(rows.dtype)
        extended = F.pad(torch.cat([before, rows], dim=1), (0, 0, 0, self.lookahead))
        windows = extended.unfold(1, self.width, 1).unflatten(2, (self.num_heads, -1))
        y = torch.einsum("blhcs,blhs->blhc", windows, self._taps(rows).to(rows.dtype)).flatten(2)
        y = y if self.bias is None else y + self.bias
        if state is None:
            return y
        past = extended[:, extended.shape[1] - self.width + 1 :]
        return (y[:, 0] if v.dim() == 2 else y), InputsState(past)

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        """Zero inputs before the first one."""
        return InputsState(torch.zeros(batch_size, self.width - 1, self.channels, device=device, dtype=dtype))

    def _taps(self, rows: Tensor) -> Tensor:
        """Taps of every token and head, oldest first."""
        taps = self.weight_proj(rows).unflatten(-1, (self.num_heads, self.width))
        taps = taps.softmax(-1) if self.softmax else taps
        return F.dropout(taps, self.weight_dropout, self.training)


class ProjectedConvolution(Mixer):
    """``W_out conv(GLU(W_in x))``, what LightConv and DynamicConv have in common.

    Args:
        d_model: width of inputs and outputs.
        width: taps.
        num_heads: sets of taps.
        weight_dropout: probability that a tap is dropped in training.
        bidirectional: centre the window on the token.

    Attributes:
        convolution: its class.

    Raises:
        ValueError: heads that do not divide the width, no tap, a centred window of even width.
    """

    convolution: ClassVar[type[LightConvolution] | type[DynamicConvolution]]

    def __init__(
        self,
        d_model: int,
        *,
        width: int = 15,
        num_heads: int = 4,
        weight_dropout: float = 0.0,
        bidirectional: bool = False,
    ) -> None:
        super().__init__(d_model, causal=not bidirectional)
        if bidirectional and width % 2 == 0:
            got, wanted = f"width={width}", "an odd number of taps where the window is centred"
            raise argument_error(f"{self.name} mixer", got, wanted, "add or drop one")
        self.in_proj = Linear(d_model, 2 * d_model)
        ahead = width // 2 if bidirectional else 0
        self.conv = self.convolution(
            d_model, width=width, num_heads=num_heads, weight_dropout=weight_dropout, lookahead=ahead
        )
        self.out_proj = Linear(d_model, d_model)

    @property
    def state_kind(self) -> StateKind:
        """A window of inputs, or none if the window is centred."""
        return "window" if self.causal else "none"

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        y: Tensor = self.out_proj(self.conv(self._enter(x, mask)))
        return y

    def _init_state(self, batch_size: int, max_length: int | None, device: torch.device, dtype: torch.dtype) -> State:
        return self.conv.init_state(batch_size, device, dtype)

    def _prefill(self, x: Tensor, state: State, mask: Tensor | None) -> tuple[Tensor, State]:
        y, after = self.conv(self._enter(x, mask), state)
        return self.out_proj(y), after

    def _step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        y, after = self.conv(self._enter(x_t, None), state)
        return self.out_proj(y), after

    def _enter(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return zero_padding(F.glu(self.in_proj(x), dim=-1), mask)


@register("lightconv", examples=({"width": 4, "num_heads": 2}, {"width": 31}, {"width": 7, "bidirectional": True}))
class LightConv(ProjectedConvolution):
    """Short convolution with softmax-normalised taps that heads share.

    Arguments and errors as of :class:`ProjectedConvolution`.
    """

    convolution = LightConvolution


@register("dynamicconv", examples=({"width": 4, "num_heads": 2}, {"width": 7, "bidirectional": True}))
class DynamicConv(ProjectedConvolution):
    """Short convolution whose normalised taps every token computes.

    Arguments and errors as of :class:`ProjectedConvolution`.
    """

    convolution = DynamicConvolution
