""":func:`seqconv_kernels.ssd` by the Triton kernels of the mamba-ssm package."""

from torch import Tensor

from .._core.dispatch import Call
from .._core.external import refuse as refuse_package

CHUNK = 256
"""Its own default in Mamba-2."""


def refuse(call: Call) -> str | None:
    """Why mamba-ssm can't serve the call, or ``None``."""
    return refuse_package(call, "mamba_ssm")


def ssd(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor | None, chunk_size: int | None
) -> tuple[Tensor, Tensor]:
    """The output and the final state, which is float32 there."""
    from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

    y, final_state = mamba_chunk_scan_combined(
        x, dt, A.float(), B, C, chunk_size or CHUNK, initial_states=state, return_final_states=True
    )
    return y, final_state
