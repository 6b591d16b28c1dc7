"""What the layers of the original share: caches of ``inference_params``, the convolution.

Source: ``mamba_ssm/modules/mamba_simple.py`` of state-spaces/mamba at e9594ce1.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error

from ..causal_conv1d import causal_conv1d_fn


class Cached(nn.Module):
    """A layer whose states live in ``inference_params.key_value_memory_dict[layer_idx]``."""

    layer_idx: int | None
    conv1d: nn.Conv1d
    out_proj: nn.Linear
    d_conv: int

    def allocate_inference_cache(
        self, batch_size: int, max_seqlen: int, dtype: torch.dtype | None = None, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Zeros: the last ``d_conv`` inputs of the convolution, (batch, channels, d_conv); the state of the scan."""
        weight = self.out_proj.weight
        options: Any = {"device": weight.device, "dtype": dtype or weight.dtype}
        conv = torch.zeros(batch_size, self.conv1d.in_channels, self.d_conv, **options)
        return conv, torch.zeros(batch_size, *self.state_shape(), **options)

    def state_shape(self) -> tuple[int, ...]:
        """Of the state of the scan, for one row."""
        raise NotImplementedError

    def states(self, inference_params: Any, batch: int) -> tuple[Tensor, Tensor]:
        """Those of this layer, zero the first time.

        Raises:
            ValueError: a layer without ``layer_idx``.
        """
        if self.layer_idx is None:
            raise argument_error(type(self).__name__, "inference_params", "layer_idx with it", "pass layer_idx")
        memory = inference_params.key_value_memory_dict
        if self.layer_idx not in memory:
            memory[self.layer_idx] = self.allocate_inference_cache(batch, 0)
        states: tuple[Tensor, Tensor] = memory[self.layer_idx]
        return states

    def one_token(self, hidden_states: Tensor) -> Tensor:
        """(batch, d_model) of (batch, 1, d_model).

        Raises:
            ValueError: several tokens.
        """
        if hidden_states.dim() != 3 or hidden_states.shape[1] != 1:
            got, wanted = f"hidden_states of shape {tuple(hidden_states.shape)}", "(batch, 1, d_model)"
            raise argument_error(f"{type(self).__name__}.step", got, wanted, "take one token after the other")
        return hidden_states[:, 0]

    def convolved(self, x: Tensor, seq_idx: Tensor | None = None) -> Tensor:
        """The convolution of (batch, channels, length) and its activation."""
        y: Any = causal_conv1d_fn(x, self.conv1d.weight[:, 0], self.conv1d.bias, seq_idx, activation="silu")
        return y  # type: ignore[no-any-return]

    def keep_inputs(self, state: Tensor, x: Tensor) -> None:
        """The last inputs (batch, channels, length), zeros before the first."""
        state.copy_(F.pad(x, (self.d_conv - x.shape[-1], 0)))


def depthwise(channels: int, width: int, bias: bool, options: dict[str, Any]) -> nn.Conv1d:
    """The convolution with its parameters as the original has them."""
    return nn.Conv1d(channels, channels, width, groups=channels, padding=width - 1, bias=bias, **options)
