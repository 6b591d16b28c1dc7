""":func:`seqconv_kernels.selective_scan` by the CUDA kernel of the mamba-ssm package, channel-first inside."""

from torch import Tensor

from .._core.dispatch import Call
from .._core.external import refuse as refuse_package


def refuse(call: Call) -> str | None:
    """Why mamba-ssm can't serve the call, or ``None``: it takes no state and no packed sequences."""
    return refuse_package(call, "mamba_ssm", without=("initial_state", "cu_seqlens"))


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The output and the state after the last input; parameters are float32 there."""
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    assert initial_state is None
    assert cu_seqlens is None
    float32 = [None if t is None else t.float() for t in (D, delta_bias)]
    B, C = (t.movedim(1, -1) for t in (B, C))  # (batch, [groups,] d_state, length)
    y, final_state = selective_scan_fn(
        u.mT, delta.mT, A.float(), B, C, float32[0], None if z is None else z.mT, float32[1], delta_softplus, True
    )
    return y.mT, final_state
