"""Recurrences whose state is a matrix, in C++ and Triton: what linear attention, SSD and the delta rule share.

Equation, per head, with a state ``S`` of (d_k, d_v)::

    S' = diag(exp(log_decay[t])) S[t-1]
    S[t] = S' + k[t] u[t]^T,   u[t] = v[t]   or   beta[t] (v[t] - S'^T k[t])
    o[t] = scale * S[t]^T q[t]
"""

from typing import Any

from .._core.triton import support as triton_support

WIDEST_KEY = 256
"""Channels of the keys that a program in Triton holds at once.

Wider keys are taken in blocks, except by the delta rules, whose error depends on all channels of a state at once: they
take the chunked form, in matrix products on the same device. A state of 512 rows and the least width of the matrix
units, 16 columns, compiles for compute capability 9.0, but spills 1.4 KB per thread in bfloat16 and 6 KB in float32.
"""


def unsupported_reason(inputs: tuple[Any, ...], *, key: str, activation: str, delta: bool = False) -> str | None:
    """Why the kernels in Triton do not support the inputs of one of these ops, or ``None``.

    Args:
        inputs: of the op.
        key: name of the keys.
        activation: name of the tensor whose dtype decides that of the sums.
        delta: whether it is the delta rule, whose error depends on all channels of the keys at once.
    """
    d_k = getattr(inputs, key).shape[-1]
    if delta and d_k > WIDEST_KEY:
        return f"d_k = {d_k}, wanted at most {WIDEST_KEY}"
    parameters = set(inputs._fields) - {activation}  # type: ignore[attr-defined]
    return triton_support.unsupported_reason(inputs, activation=activation, parameters=parameters)
