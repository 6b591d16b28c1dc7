"""Recurrences whose state is a matrix, in C++ and Triton: what linear attention, SSD and the delta rule share.

Equation, per head, with a state ``S`` of (d_k, d_v)::

    S' = diag(exp(log_decay[t])) S[t-1]
    S[t] = S' + k[t] u[t]^T,   u[t] = v[t]   or   beta[t] (v[t] - S'^T k[t])
    o[t] = scale * S[t]^T q[t]
"""

from .._core import triton_support
from .._core.dispatch import Call

WIDEST_KEY = 256


def refuse_triton(call: Call, *, key: str, activation: str) -> str | None:
    """Why the kernels in Triton do not serve the call, or ``None``.

    Args:
        key: name of the keys, whose width a program holds at once.
        activation: name of the tensor whose dtype decides that of the sums.
    """
    d_k = call.given()[key].shape[-1]
    if d_k > WIDEST_KEY:
        return f"d_k = {d_k}, wanted at most {WIDEST_KEY}"
    return triton_support.refuse(call, activation=activation, parameters=set(call.tensors) - {activation})
