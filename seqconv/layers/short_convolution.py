"""The short causal depthwise convolution of recurrent mixers, with the inputs it still needs as its state."""

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels import causal_conv1d, causal_conv1d_step
from seqconv_kernels._core.errors import argument_error


class ShortConvolution(nn.Module):
    """``y_t = act(sum_k weight[k] x_{t-(width-1)+k} + bias)`` per channel.

    Args:
        channels: convolved independently.
        width: taps.
        bias: whether there is one per channel.
        activation: ``"silu"`` or ``None``.
        init_range: the taps are drawn from ±``init_range``; ``width ** -0.5`` if not given, as in a Conv1d.

    Raises:
        ValueError: ``width < 1``.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        *,
        bias: bool = True,
        activation: Literal["silu"] | None = "silu",
        init_range: float | None = None,
    ) -> None:
        super().__init__()
        if width < 1:
            raise argument_error("ShortConvolution", f"width={width}", "at least one tap", "raise the width")
        self.activation: Literal["silu"] | None = activation
        self.init_range = init_range
        self.weight = nn.Parameter(torch.empty(channels, width))
        self.bias = nn.Parameter(torch.empty(channels)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw taps and bias uniformly, as a Conv1d does."""
        bound = self.weight.shape[1] ** -0.5
        taps = bound if self.init_range is None else self.init_range
        nn.init.uniform_(self.weight, -taps, taps)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Zeros of (batch, width - 1, channels): the inputs before the first one, oldest first."""
        channels, width = self.weight.shape
        return torch.zeros(batch_size, width - 1, channels, device=device, dtype=dtype)

    def forward(
        self,
        x: Float[Tensor, "batch *length channels"],
        state: Float[Tensor, "batch reach channels"] | None = None,
        *,
        reverse: bool = False,
    ) -> tuple[Float[Tensor, "batch *length channels"], Float[Tensor, "batch reach channels"]]:
        """Any number of inputs after those in ``state``, padding in front zero; or one input (batch, channels).

        ``reverse`` reads them from the last to the first: an output depends on its own input and those that follow.
        """
        options: dict[str, Any] = {"activation": self.activation}
        if x.dim() == 2 and state is not None:
            return causal_conv1d_step(x, self.weight, self.bias, state=state, **options)
        options |= {"reverse": reverse, "return_final_state": True}
        pair = causal_conv1d(x, self.weight, self.bias, initial_state=state, **options)
        assert isinstance(pair, tuple)
        return pair

    def step(
        self, x_t: Float[Tensor, "batch channels"], state: Float[Tensor, "batch reach channels"]
    ) -> tuple[Float[Tensor, "batch channels"], Float[Tensor, "batch reach channels"]]:
        """One input after those in ``state``, through ``__call__``, where hooks load or gather the taps."""
        outputs: tuple[Tensor, Tensor] = self(x_t, state)
        return outputs
