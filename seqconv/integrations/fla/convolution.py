"""The short convolution, the norm of queries and keys, and the gated norm of fla's layers.

Sources: ``fla/modules/{conv,l2norm,fused_norm_gate}`` of fla-org/flash-linear-attention at bc3b101d.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqconv_kernels import causal_conv1d as convolve
from seqconv_kernels._core.errors import argument_error

from ..arguments import activation_of, no_others, unserved
from ..causal_conv1d import causal_conv1d_update as update
from .layout import EPS, HINTS, Layout, unit_length

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"swish": F.silu, "silu": F.silu, "sigmoid": torch.sigmoid}


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
        backend, cu_seqlens_cpu, chunk_indices: hints.
        cu_seqlens: bounds of sequences packed into a batch of one.
        cp_context: not served.

    Raises:
        ValueError: an argument that is not served, by its name; no weight.
    """
    unserved("causal_conv1d", cp_context=cp_context)
    no_others("causal_conv1d", kwargs, *HINTS, "seq_idx")
    if weight is None:
        raise argument_error("causal_conv1d", "no weight", "(channels, width)", "pass ones to sum the inputs")
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
        options: dict[str, Any] = {"cu_seqlens": cu_seqlens, "activation": self.activation}
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


def l2norm(x: Tensor, eps: float = EPS, output_dtype: torch.dtype | None = None) -> Tensor:
    """``x / sqrt(sum x^2 + eps)`` over the last axis, typed like ``x`` if no dtype is given."""
    return unit_length(x, eps).to(output_dtype or x.dtype)


class L2Norm(nn.Module):
    """:func:`l2norm` as a layer."""

    def __init__(self, eps: float = EPS, output_dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.eps, self.output_dtype = eps, output_dtype

    def forward(self, x: Tensor) -> Tensor:
        """(..., width)."""
        return l2norm(x, self.eps, self.output_dtype)


class FusedRMSNormGated(nn.Module):
    """``rms_norm(x) * activation(g)``.

    Args:
        hidden_size: channels.
        elementwise_affine: whether there is a weight.
        eps: under the root.
        activation: ``"swish"``, ``"silu"`` or ``"sigmoid"``.
        device, dtype: of the weight.
    """

    weight: nn.Parameter | None

    def __init__(
        self,
        hidden_size: int,
        elementwise_affine: bool = True,
        eps: float = 1e-5,
        activation: str = "swish",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            got = f"activation={activation!r}"
            raise argument_error("FusedRMSNormGated", got, f"one of {', '.join(ACTIVATIONS)}", "take one of them")
        self.hidden_size, self.elementwise_affine, self.eps = hidden_size, elementwise_affine, eps
        self.activation = activation
        weight = nn.Parameter(torch.empty(hidden_size, device=device, dtype=dtype)) if elementwise_affine else None
        self.register_parameter("weight", weight)
        self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Ones."""
        if self.weight is not None:
            nn.init.ones_(self.weight)

    def forward(
        self,
        x: Tensor,
        g: Tensor,
        residual: Tensor | None = None,
        prenorm: bool = False,
        residual_in_fp32: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """(..., width) in and out; ``residual`` is added first, and ``prenorm`` also returns the sum."""
        wide = torch.promote_types(x.dtype, torch.float32)
        total = x.to(wide) if residual is None else x.to(wide) + residual
        weight = None if self.weight is None else self.weight.to(wide)
        y = F.rms_norm(total, x.shape[-1:], weight, self.eps) * ACTIVATIONS[self.activation](g.to(wide))
        if not prenorm:
            return y.to(x.dtype)
        stream = residual.dtype if residual is not None else torch.float32 if residual_in_fp32 else x.dtype
        return y.to(x.dtype), total.to(stream)
