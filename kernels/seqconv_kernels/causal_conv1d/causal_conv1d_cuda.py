""":func:`seqconv_kernels.causal_conv1d` by the CUDA kernel of the causal-conv1d package, channel-first inside."""

from torch import Tensor

from .._core.dispatch import Call
from .._core.external import refuse as refuse_package

WIDTHS = (2, 3, 4)


def refuse(call: Call) -> str | None:
    """Why causal-conv1d can't serve the call, or ``None``: widths 2 to 4, no packed sequences."""
    width = call.given()["weight"].shape[1]
    if width not in WIDTHS:
        return f"a filter of width {width}, causal-conv1d takes 2, 3 and 4"
    return refuse_package(call, "causal_conv1d", without=("cu_seqlens",))


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
) -> Tensor:
    """The output; the kernel reads the channel-last memory as it is, and wants weights of the dtype of ``x``."""
    from causal_conv1d import causal_conv1d_fn

    assert cu_seqlens is None
    past = None if initial_state is None else initial_state.to(x.dtype).contiguous().mT
    bias = None if bias is None else bias.to(x.dtype)
    y: Tensor = causal_conv1d_fn(
        x.contiguous().mT, weight.to(x.dtype), bias, initial_states=past, activation=activation
    )
    return y.mT
