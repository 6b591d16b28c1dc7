""":func:`seqconv_kernels.selective_scan` by the CUDA kernel of the mamba-ssm package, channel-first inside."""

from torch import Tensor

from .._core import external
from .._core.packing import reversible
from .spec import TOKENS, Inputs


def unsupported_reason(inputs: Inputs) -> str | None:
    """Why mamba-ssm does not support the inputs, or ``None``: it takes no state and no packed sequences."""
    return external.unsupported_reason(inputs, "mamba_ssm", without=("initial_state", "cu_seqlens"))


@reversible(*TOKENS)
def selective_scan(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """The output and the state after the last input; parameters are float32 there."""
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    u, delta, z = (None if t is None else t.mT for t in (inputs.u, inputs.delta, inputs.z))
    B, C = (t.movedim(1, -1) for t in (inputs.B, inputs.C))  # (batch, [groups,] d_state, length)
    D, delta_bias = (None if t is None else t.float() for t in (inputs.D, inputs.delta_bias))
    y, final_state = selective_scan_fn(
        u, delta, inputs.A.float(), B, C, D, z, delta_bias, inputs.delta_softplus, return_last_state=True
    )
    return y.mT, final_state
