""":func:`seqconv_kernels.ssd` by the Triton kernels of the mamba-ssm package."""

from torch import Tensor

from .._core import external
from .._core.packing import padded
from .reference import discretised
from .spec import Inputs

CHUNK = 256
"""Its own default in Mamba-2."""


def unsupported_reason(inputs: Inputs) -> str | None:
    """Why mamba-ssm does not support the inputs, or ``None``."""
    return external.unsupported_reason(inputs, "mamba_ssm")


@discretised
@padded("x", "dt", "B", "C")
def ssd(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """The output and the final state, which is float32 there."""
    from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

    y, final_state = mamba_chunk_scan_combined(
        inputs.x,
        inputs.dt,
        inputs.A.float(),
        inputs.B,
        inputs.C,
        inputs.chunk_size or CHUNK,
        initial_states=inputs.initial_state,
        return_final_states=True,
    )
    return y, final_state
