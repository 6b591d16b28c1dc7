"""Inkling-2's short convolutions: taps per channel, and taps that every token adds to them, with a residual connection.

Equation, per channel c of head h, with K taps, lag 0 first, and a second input u (the mixer takes x itself)::

    static:    y_t = (sum_{j<K} w_{j,c} x_{t-j} + x_t) / √(K + 1)
    dynamic:   y_t = (sum_{j<K} (w_{j,c} + (W u_t)_{h,j}) x_{t-j} + x_t) / √(2 K + 1)

Neither taps nor outputs pass an activation; the static taps start at 0.

Source: ``models/inkling2/modeling_inkling2.py`` of transformers 5.23.0 (``Inkling2ShortConvolution`` and
``Inkling2DynamicShortConvolution``, the latter over keys and values of full attention). No paper, no published result
of the layer itself.
"""

import math
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from seqconv_kernels import causal_conv1d, causal_conv1d_step
from seqconv_kernels._core.errors import argument_error

from ...layers.linear import Linear
from ...mixer import Mixer
from ...packing import zero_padding
from ...registry import register
from ...state import State, state_class
from ...types import StateKind


@state_class
class ResidualConvState(State):
    """The last inputs, oldest first."""

    past: Float[Tensor, "batch reach channels"]


class ResidualShortConvolution(nn.Module):
    """The convolution alone.

    Args:
        channels: width.
        width: taps.
        inputs: width of the second input, which gives taps of every token; ``None``: the static form.
        num_heads: heads whose channels share the taps of a token.

    Raises:
        ValueError: heads that do not divide the channels, sizes below 1.
    """

    def __init__(self, channels: int, width: int, *, inputs: int | None = None, num_heads: int = 1) -> None:
        super().__init__()
        if min(channels, width, num_heads, 1 if inputs is None else inputs) < 1 or channels % num_heads:
            got = f"width={width}, num_heads={num_heads}, inputs={inputs} for {channels} channels"
            wanted = "sizes of at least 1, num_heads that divide the channels"
            raise argument_error("ResidualShortConvolution", got, wanted, "change the heads or the width")
        self.channels, self.width, self.num_heads = channels, width, num_heads
        self.weight = nn.Parameter(torch.empty(channels, width))
        self.weight_proj = None if inputs is None else Linear(inputs, num_heads * width, bias=False)
        self.scale = (1 + width * (1 if inputs is None else 2)) ** -0.5
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Static taps of 0 where every token adds its own, else those of a Conv1d."""
        bound = 0.0 if self.weight_proj is not None else 1 / math.sqrt(self.width)
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(
        self,
        x: Float[Tensor, "batch *length channels"],
        dynamic_input: Float[Tensor, "batch *length inputs"] | None = None,
        state: State | None = None,
        *,
        mask: Bool[Tensor, "batch length"] | None = None,
    ) -> Any:
        """Whole sequences; with a state ``(y, state)``: any number of inputs, or one of shape (batch, channels).

        ``mask`` is True at real tokens: others are zero for the convolution, yet keep their residual connection.
        """
        past = state.past if isinstance(state, ResidualConvState) else None
        conv, after = self._convolve(x if x.dim() == 2 else zero_padding(x, mask), dynamic_input, past)
        y = (conv + x) * self.scale
        return y if state is None else (y, ResidualConvState(after))

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        """Zero inputs before the first one."""
        return ResidualConvState(torch.zeros(batch_size, self.width - 1, self.channels, device=device, dtype=dtype))

    def _convolve(self, x: Tensor, dynamic_input: Tensor | None, past: Tensor | None) -> tuple[Tensor, Tensor]:
        """The convolution after ``past``, zeros if not given, and the last inputs after it."""
        if past is None:
            past = x.new_zeros(x.shape[0], self.width - 1, self.channels)
        past = past.to(x.dtype)
        oldest_first = self.weight.flip(-1)
        if x.dim() == 2:
            y, after = causal_conv1d_step(x, oldest_first, state=past.clone())
        else:
            y, after = causal_conv1d(x, oldest_first, initial_state=past, return_final_state=True)
        if self.weight_proj is None:
            return y, after
        rows = x[:, None] if x.dim() == 2 else x
        windows = torch.cat([past, rows], dim=1).unfold(1, self.width, 1).unflatten(2, (self.num_heads, -1))
        taps = self.weight_proj(dynamic_input).view(*rows.shape[:2], self.num_heads, self.width).to(rows.dtype)
        dynamic = torch.einsum("blhcs,blhs->blhc", windows, taps.flip(-1)).flatten(2)
        return y + dynamic.view_as(y), after


@register("residual_conv", examples=({"d_conv": 3, "num_heads": 2}, {"dynamic": False}))
class ResidualConv(Mixer):
    """Short convolution with a residual connection, whose taps the tokens may change.

    Args:
        d_model: width of inputs and outputs.
        d_conv: taps.
        num_heads: heads whose channels share the taps of a token.
        dynamic: whether tokens change the taps.

    Raises:
        ValueError: heads that do not divide the width, sizes below 1.
    """

    def __init__(self, d_model: int, *, d_conv: int = 4, num_heads: int = 4, dynamic: bool = True) -> None:
        super().__init__(d_model)
        inputs, heads = (d_model, num_heads) if dynamic else (None, 1)
        self.conv = ResidualShortConvolution(d_model, d_conv, inputs=inputs, num_heads=heads)

    @property
    def state_kind(self) -> StateKind:
        """The last inputs."""
        return "window"

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        y: Tensor = self.conv(x, x)
        return y

    def _init_state(self, batch_size: int, max_length: int | None, device: torch.device, dtype: torch.dtype) -> State:
        return self.conv.init_state(batch_size, device, dtype)

    def _prefill(self, x: Tensor, state: State, mask: Tensor | None) -> tuple[Tensor, State]:
        outputs: tuple[Tensor, State] = self.conv(x, x, state)
        return outputs

    def _step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        return self._prefill(x_t, state, None)
