""":func:`seqconv_kernels.causal_conv1d` by the CUDA kernel of the causal-conv1d package, channel-first inside."""

from torch import Tensor

from .._core import external
from .._core.packing import reversible
from .spec import Inputs

WIDTHS = (2, 3, 4)


def unsupported_reason(inputs: Inputs) -> str | None:
    """Why causal-conv1d does not support the inputs, or ``None``: widths 2 to 4, no packed sequences."""
    width = inputs.weight.shape[1]
    if width not in WIDTHS:
        return f"a filter of width {width}, causal-conv1d takes 2, 3 and 4"
    return external.unsupported_reason(inputs, "causal_conv1d", without=("cu_seqlens",))


@reversible("x")
def causal_conv1d(inputs: Inputs) -> Tensor:
    """The output; the kernel reads the channel-last memory as it is, and wants weights of the dtype of ``x``."""
    from causal_conv1d import causal_conv1d_fn

    x, state = inputs.x, inputs.initial_state
    past = None if state is None else state.to(x.dtype).contiguous().mT
    bias = None if inputs.bias is None else inputs.bias.to(x.dtype)
    y: Tensor = causal_conv1d_fn(
        x.contiguous().mT, inputs.weight.to(x.dtype), bias, initial_states=past, activation=inputs.activation
    )
    return y.mT
