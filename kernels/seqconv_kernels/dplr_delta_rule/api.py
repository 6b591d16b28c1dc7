"""Linear attention with a diagonal plus low-rank transition: the generalised delta rule.

Equation, per head, with a state ``S`` of (d_k, d_v)::

    S[t] = diag(exp(log_decay[t])) S[t-1] + b[t] (S[t-1]^T a[t])^T + k[t] v[t]^T
    o[t] = scale * S[t]^T q[t]

``a`` reads the state before the decay, and ``b`` writes what was read; without ``b`` the key writes it, together with
the value. One recurrence then serves, with ``α = exp(log_decay)``:

=====================  ======================  =========  =============
model                  a                       b          k
=====================  ======================  =========  =============
RWKV-7                 ``-κ``                  ``κ ⊙ η``  ``k``
gated DeltaNet-2       ``-α ⊙ e ⊙ k``          (``k``)    ``k``
KDA, gated DeltaNet    ``-α ⊙ k``              (``β k``)  ``β k``
Comba                  ``-p``                  (``β k``)  ``β k``
=====================  ======================  =========  =============

Source: the transition of Peng et al., 2025 (RWKV-7, arXiv 2503.14456); ``fla/ops/generalized_delta_rule/dplr`` of
fla-org/flash-linear-attention at bc3b101d.
"""

from jaxtyping import Float, Int
from torch import Tensor

from .._core.checks import check_floating, check_shape, check_shape_among
from .._core.errors import argument_error
from .._core.operator.inputs import given_tensors
from .._linear_attention.checks import checks
from .spec import DPLR_DELTA_RULE, STEP, Inputs


def dplr_delta_rule(
    q: Float[Tensor, "batch length q_heads d_k"],
    k: Float[Tensor, "batch length k_heads d_k"],
    v: Float[Tensor, "batch length heads d_v"],
    a: Float[Tensor, "batch length a_heads d_k"],
    b: Float[Tensor, "batch length b_heads d_k"] | None = None,
    log_decay: Float[Tensor, "batch length decay_heads *d_k"] | None = None,
    *,
    scale: float | None = None,
    initial_state: Float[Tensor, "segments heads d_k d_v"] | None = None,
    return_final_state: bool = False,
    cu_seqlens: Int[Tensor, " bounds"] | None = None,
    implementation: str | None = None,
) -> Float[Tensor, "batch length heads d_v"] | tuple[Tensor, Tensor]:
    """Attend over whole sequences; differentiable in every tensor.

    A tensor with fewer heads than ``v`` is shared by neighbouring value heads.

    Args:
        q: queries.
        k: keys, under which values are written.
        v: values, one head per state.
        a: what is read from the state before.
        b: where that is written to; ``k`` if not given.
        log_decay: logarithm of the decay, per head or per channel of the keys; ``None`` for no decay.
        scale: of the queries; ``d_k ** -0.5`` if not given.
        initial_state: state before the first token (``segments`` = batch, or that of each packed sequence); zero if
            not given.
        return_final_state: also return the state after the last token.
        cu_seqlens: bounds of sequences packed into a batch of one; the state starts again at each.
        implementation: a name, or ``None`` for the fastest that serves.

    Returns:
        o typed like ``v``, or ``(o, final_state)``; the state is float32 at least, like the sums inside.

    Raises:
        ValueError: shapes, dtypes or devices that do not match; bounds that do not increase to the length.
    """
    scale = k.shape[-1] ** -0.5 if scale is None else scale
    inputs = Inputs(q, k, v, a, b, _with_width(log_decay, v), scale, initial_state, cu_seqlens)
    o, final_state = DPLR_DELTA_RULE(inputs, _check, implementation)
    return (o, final_state) if return_final_state else o


def dplr_delta_rule_step(
    q: Float[Tensor, "batch q_heads d_k"],
    k: Float[Tensor, "batch k_heads d_k"],
    v: Float[Tensor, "batch heads d_v"],
    a: Float[Tensor, "batch a_heads d_k"],
    b: Float[Tensor, "batch b_heads d_k"] | None = None,
    log_decay: Float[Tensor, "batch decay_heads *d_k"] | None = None,
    *,
    state: Float[Tensor, "batch heads d_k d_v"],
    scale: float | None = None,
    implementation: str | None = None,
) -> tuple[Float[Tensor, "batch heads d_v"], Float[Tensor, "batch heads d_k d_v"]]:
    """One token of :func:`dplr_delta_rule`, from ``state``: the output and the next state.

    On CPU the next state is written over the last one where no gradient is needed.

    Raises:
        ValueError: as for :func:`dplr_delta_rule`.
    """
    scale = k.shape[-1] ** -0.5 if scale is None else scale
    return STEP(Inputs(q, k, v, a, b, _with_width(log_decay, v), scale, state), _check_step, implementation)


def _with_width(log_decay: Tensor | None, v: Tensor) -> Tensor | None:
    return log_decay if log_decay is None or log_decay.dim() == v.dim() else log_decay[..., None]


def _check_shapes(operation: str, inputs: Inputs, leading: str, rank: int) -> None:
    k, v, decay = inputs.k, inputs.v, inputs.log_decay
    if k.dim() != rank or v.dim() != rank or 0 in k.shape[1:]:
        got = f"k of shape {tuple(k.shape)} and v of shape {tuple(v.shape)}"
        wanted = f"({leading}, heads, width) without empty axes"
        raise argument_error(operation, got, wanted, "put heads before the width")
    check_shape(operation, "v", v, f"{leading}, heads, d_v", (*k.shape[:-2], *v.shape[-2:]))
    heads = v.shape[-2]
    for name in ("q", "k", "a", "b", "log_decay"):
        tensor = getattr(inputs, name)
        if tensor is None:
            continue
        own = tensor.shape[-2] if tensor.dim() == rank else 0
        if own < 1 or heads % own:
            got = f"{name} of shape {tuple(tensor.shape)} for {heads} heads of v"
            wanted = f"({leading}, heads, width) with heads that divide those of v"
            raise argument_error(operation, got, wanted, "repeat the tensor for more heads, or change the heads of v")
        if name != "log_decay":
            check_shape(operation, name, tensor, f"{leading}, heads, d_k", (*k.shape[:-2], own, k.shape[-1]))
    if decay is not None:
        per_head = (*k.shape[:-2], decay.shape[-2])
        remedy = "give one decay per head, or one per channel of k"
        check_shape_among(operation, "log_decay", decay, ((*per_head, 1), (*per_head, k.shape[-1])), remedy)
    check_floating(operation, given_tensors(inputs._replace(cu_seqlens=None)), k.device)


_check, _check_step = checks(_check_shapes, "heads")
