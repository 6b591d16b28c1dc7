"""The short convolution of fla's layers.

Source: ``fla/modules/conv`` of fla-org/flash-linear-attention at bc3b101d.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqconv_kernels import causal_conv1d as convolve
from seqconv_kernels._core.errors import argument_error

from ...arguments import activation_of, no_others, unserved
from ...causal_conv1d import causal_conv1d_fn as convolve_runs
from ...causal_conv1d import causal_conv1d_update as update
from ..layout import HINTS, Layout


def causal_conv1d(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool | None = False,
    activation: str | None = None,
    backend: str | None = "triton",
    cu_seqlens: Tensor | None = None,
    cu_seqlens_cpu: Tensor | None = None,
    chunk_indices: Tensor | None = None,
    cp_context: Any = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Convolve whole sequences; differentiable.

    Args:
        x, residual: (batch, length, channels); the residual is added to the output.
        weight: (channels, width).
        bias: (channels).
        initial_state: (sequences, channels, width): the last inputs, of which ``width - 1`` are read.
        output_final_state: also return the last ``width`` inputs.
        activation: ``None``, ``"silu"`` or ``"swish"``.
        backend: a hint, unless ``seq_idx`` is given.
        cu_seqlens_cpu, chunk_indices: hints.
        cu_seqlens: bounds of sequences packed into a batch of one.
        cp_context: not served.
        kwargs: ``seq_idx`` (batch, length), the sequence of each token; as in fla, the backends "cuda" and "mix" heed
            it where there are no ``cu_seqlens``, and "triton" does not.

    Raises:
        ValueError: an argument that is not served, by its name; no weight.
    """
    unserved("causal_conv1d", cp_context=cp_context)
    seq_idx = kwargs.pop("seq_idx", None)
    no_others("causal_conv1d", kwargs, *HINTS)
    if weight is None:
        raise argument_error("causal_conv1d", "no weight", "(channels, width)", "pass ones to sum the inputs")
    if seq_idx is not None and cu_seqlens is None and backend in ("cuda", "mix"):
        o: Any = convolve_runs(x.mT, weight, bias, seq_idx, initial_state, bool(output_final_state), None, activation)
        return o.mT if residual is None else o.mT + residual, None
    # fla's states are one input longer than those of the op: a tap of zero reads it.
    taps = F.pad(weight, (1, 0)) if output_final_state else weight
    before = None if initial_state is None else initial_state[..., weight.shape[1] + 1 - taps.shape[1] :].mT
    y, last = Layout(cu_seqlens).run(
        convolve, {"x": x}, before, True, weight=taps, bias=bias, activation=activation_of("causal_conv1d", activation)
    )
    assert last is not None
    y = y if residual is None else y + residual
    return y, last.mT.to(x.dtype).contiguous() if output_final_state else None


def causal_conv1d_update(
    x: Tensor,
    cache: Tensor,
    residual: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    activation: str | None = None,
) -> tuple[Tensor, Tensor]:
    """One token of every sequence; ``cache`` (sequences, channels, width) is moved on in place.

    Args:
        x, residual: (sequences, channels), (sequences, 1, channels) or (1, sequences, channels).
        cache: the last inputs, the newest last.
        weight, bias, activation: as for :func:`causal_conv1d`.
    """
    if weight is None:
        raise argument_error("causal_conv1d_update", "no weight", "(channels, width)", "pass ones to sum the inputs")
    y = update(x.reshape(-1, x.shape[-1]), cache, weight, bias, activation).view(x.shape)
    return y if residual is None else y + residual, cache


class ShortConvolution(nn.Conv1d):
    """fla's layer of a depthwise causal convolution, with its parameters.

    Args:
        hidden_size: channels.
        kernel_size: taps.
        bias: whether there is one.
        activation: ``None``, ``"silu"`` or ``"swish"``.
        backend: a hint.
        device, dtype: of the parameters.
        kwargs: ``use_fast_conv1d``, a hint.
    """

    def __init__(
        self,
        hidden_size: int,
        kernel_size: int,
        bias: bool = False,
        activation: str | None = "silu",
        backend: str | None = "triton",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> None:
        no_others("ShortConvolution", kwargs, "use_fast_conv1d")
        activation_of("ShortConvolution", activation)
        super().__init__(
            hidden_size,
            hidden_size,
            kernel_size,
            groups=hidden_size,
            bias=bias,
            padding=kernel_size - 1,
            device=device,
            dtype=dtype,
        )
        self.hidden_size, self.activation, self.backend = hidden_size, activation, backend

    @property
    def state_size(self) -> int:
        """Numbers per sequence."""
        return self.hidden_size * self.kernel_size[0]

    def forward(  # type: ignore[override]
        self,
        x: Tensor,
        residual: Tensor | None = None,
        mask: Tensor | None = None,
        cache: Tensor | None = None,
        output_final_state: bool = False,
        cu_seqlens: Tensor | None = None,
        chunk_indices: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Convolve sequences, or one token of each, for which a cache is moved on in place.

        Args:
            x, residual: (batch, length, channels).
            mask: (batch, length), zero for padding.
            cache: (sequences, channels, width).
            output_final_state: also return the last inputs.
            cu_seqlens: bounds of sequences packed into a batch of one.
            chunk_indices: a hint.
        """
        if mask is not None:
            if cu_seqlens is not None:
                raise argument_error("ShortConvolution", "mask and cu_seqlens", "one of them", "leave out the mask")
            x = x * mask[..., None].to(x.dtype)
        sequences = x.shape[0] if cu_seqlens is None else len(cu_seqlens) - 1
        if x.shape[0] * x.shape[1] == sequences:
            return self.step(x, residual, cache, output_final_state, cu_seqlens)
        weight = self.weight[:, 0]
        options: dict[str, Any] = {"cu_seqlens": cu_seqlens, "activation": self.activation, "backend": self.backend}
        return causal_conv1d(x, weight, self.bias, residual, cache, output_final_state, **options, **kwargs)

    def step(
        self,
        x: Tensor,
        residual: Tensor | None,
        cache: Tensor | None,
        output_final_state: bool = False,
        cu_seqlens: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """One token of each sequence; the arguments are those of :meth:`forward`."""
        sequences = x.shape[0] if cu_seqlens is None else len(cu_seqlens) - 1
        cache = x.new_zeros(sequences, self.hidden_size, self.kernel_size[0]) if cache is None else cache
        y, cache = causal_conv1d_update(x, cache, residual, self.weight[:, 0], self.bias, self.activation)
        return y, cache if output_final_state else None
