"""What the mixers with continuous kernels share: a convolution by a function of time, full or depthwise, and a bias.

Full: ``y_o[t] = b_o + sum_i sum_s k_{o,i}(p(s)) u_i[t-s]``. Separable: one kernel per input, and a projection after it,
``y = W (b + k * u) + c``. Positions, rates and kernels: :mod:`~seqconv.filters.implicit.continuous`.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error

from ...convolution.long_convolution import LongConvolution
from ...convolution.mixing import MixingConvolution
from ...filters.implicit.continuous import PositionFilter
from ...layers.linear import Linear
from ...mixer import Mixer
from ...packing import zero_padding
from ...state import State
from ...types import StateKind

TIMES_CHUNK = 64
"""Outputs at irregular times that are computed at once: each needs a kernel for every earlier input."""


class ContinuousConvolution(nn.Module):
    """Causal convolution by a function of time, with a bias.

    Args:
        inputs, outputs: channels.
        make_filter: the filter of a number of outputs and inputs, its channels ordered (output, input); separable: of
        one
            output per input, with the inputs counted once.
        separable: one kernel per input, then a projection.
        bias: whether the convolution, and the projection after it, have one.
        lookahead: taps that reach into the future; with any there is no state, and no other rate.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        make_filter: Callable[[int, int], PositionFilter],
        *,
        separable: bool = False,
        bias: bool = True,
        lookahead: int = 0,
    ) -> None:
        super().__init__()
        self.lookahead = lookahead
        self.convolution: LongConvolution | MixingConvolution
        if separable:
            self.convolution = LongConvolution(make_filter(1, inputs))
        else:
            self.convolution = MixingConvolution(make_filter(outputs, inputs), inputs)
        self.bias = nn.Parameter(torch.empty(inputs if separable else outputs)) if bias else None
        self.channel_mixer = Linear(inputs, outputs, bias=bias) if separable else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Biases start at zero, the projection with unit gain."""
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        if self.channel_mixer is not None:
            nn.init.kaiming_uniform_(self.channel_mixer.weight, nonlinearity="linear")
            if self.channel_mixer.bias is not None:
                nn.init.zeros_(self.channel_mixer.bias)

    @property
    def filter(self) -> PositionFilter:
        """The kernels as functions of the position."""
        return cast(PositionFilter, self.convolution.filter)

    def forward(self, u: Float[Tensor, "batch *length inputs"], state: State | None = None) -> Any:
        """Whole sequences; with a state ``(y, state)``: any number of inputs, or one of shape (batch, inputs).

        Inputs at padding must be zero.

        Raises:
            ValueError: a state where the window reaches into the future.
        """
        if state is None:
            y = self.convolution(F.pad(u, (0, 0, 0, self.lookahead)))
            return self._finish(y[:, self.lookahead :])
        self._check_causal("forward with a state")
        y, after = self.convolution.step(u, state) if u.dim() == 2 else self.convolution.prefill(u, state)
        return self._finish(y), after

    def _check_causal(self, operation: str) -> None:
        if self.lookahead:
            got, remedy = f"a window with {self.lookahead} taps in the future", "use forward on the whole sequence"
            raise argument_error(f"ContinuousConvolution {operation}", got, "a causal convolution", remedy)

    def at_times(
        self, u: Float[Tensor, "batch length inputs"], times: Float[Tensor, "batch length"]
    ) -> Float[Tensor, "batch length outputs"]:
        """Inputs at any times: ``y_i = sum_{j<=i} k(t_i - t_j) u_j``, every input with the weight of one sample.

        Args:
            u: inputs.
            times: in steps of training, not decreasing along a row.

        Raises:
            ValueError: times of another shape, or that decrease; a window that reaches into the future.
        """
        self._check_causal("at_times")
        if times.shape != u.shape[:2] or bool((times.diff(dim=1) < 0).any()):
            got = f"times of shape {tuple(times.shape)}" + (" that decrease" if times.shape == u.shape[:2] else "")
            wanted = f"{tuple(u.shape[:2])}, not decreasing along a row"
            raise argument_error("ContinuousConvolution.at_times", got, wanted, "sort the inputs by their times")
        chunks = []
        for start in range(0, u.shape[1], TIMES_CHUNK):
            stop = min(start + TIMES_CHUNK, u.shape[1])
            lags = times[:, start:stop, None] - times[:, None, :stop]
            order = torch.arange(stop, device=u.device)
            later = order > torch.arange(start, stop, device=u.device)[:, None]
            k = self.filter.at_lags(lags.masked_fill(later, -1.0).flatten().to(u.dtype))
            chunks.append(self._weigh(k.unflatten(1, lags.shape), u[:, :stop]))
        return self._finish(torch.cat(chunks, dim=1))

    def _weigh(self, k: Tensor, u: Tensor) -> Tensor:
        if self.channel_mixer is not None:
            return torch.einsum("ibtj,bji->bti", k, u)
        return torch.einsum("oibtj,bji->bto", k.unflatten(0, (-1, u.shape[-1])), u)

    def _finish(self, y: Tensor) -> Tensor:
        y = y if self.bias is None else y + self.bias
        return y if self.channel_mixer is None else cast(Tensor, self.channel_mixer(y))


class ContinuousMixer(Mixer):
    """A continuous convolution as a mixer, and what follows it token by token.

    Args:
        d_model: width of inputs and outputs.
        make_filter, separable, bias: as in :class:`ContinuousConvolution`.
    """

    def __init__(
        self,
        d_model: int,
        make_filter: Callable[[int, int], PositionFilter],
        *,
        separable: bool = False,
        bias: bool = True,
    ) -> None:
        super().__init__(d_model)
        self.conv = ContinuousConvolution(d_model, d_model, make_filter, separable=separable, bias=bias)

    @property
    def state_kind(self) -> StateKind:
        """That of the convolution: growing, unless its filter has been replaced by one with a recurrence."""
        return self.conv.convolution.state_kind

    def _change_rate(self, rate: float) -> None:
        self.conv.filter.change_rate(rate)

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return self._finish(self.conv(x))

    def _init_state(self, batch_size: int, max_length: int | None, device: torch.device, dtype: torch.dtype) -> State:
        return self.conv.convolution.init_state(batch_size, max_length)

    def _prefill(self, x: Tensor, state: State, mask: Tensor | None) -> tuple[Tensor, State]:
        y, after = self.conv(zero_padding(x, mask), state)
        return self._finish(y), after

    def _step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        y, after = self.conv(x_t, state)
        return self._finish(y), after

    def _finish(self, y: Tensor) -> Tensor:
        """What follows the convolution; nothing here."""
        return y

    def at_times(
        self, x: Float[Tensor, "batch length d_model"], times: Float[Tensor, "batch length"]
    ) -> Float[Tensor, "batch length d_model"]:
        """The mixer on inputs at any times; arguments and errors as :meth:`ContinuousConvolution.at_times`."""
        return self._finish(self.conv.at_times(x, times))
