"""Linear attention that corrects what it stored: the delta rule, gated by a scalar or a vector decay, or not at all.

Equation, per head, with a state ``S`` of (d_k, d_v)::

    S' = diag(exp(log_decay[t])) S[t-1]
    S[t] = S' + k[t] (beta[t] (v[t] - S'^T k[t]))^T
    o[t] = scale * S[t]^T q[t]

No decay: DeltaNet (Schlag et al., 2021; Yang et al., 2024). Scalar: Gated DeltaNet (Yang et al., 2025). Vector over
d_k: Kimi Delta Attention. ``beta`` in (0, 1), or up to 2 for negative eigenvalues; keys of unit length keep the state
bounded. ``log_decay = -inf`` resets the state.
"""

from jaxtyping import Float, Int
from torch import Tensor

from .._core.checks import check_floating, check_shape, check_shape_among
from .._core.errors import argument_error
from .._core.operator.inputs import given_tensors
from .._linear_attention.checks import checks
from .spec import DELTA_RULE, STEP, Inputs


def delta_rule(
    q: Float[Tensor, "batch length heads d_k"],
    k: Float[Tensor, "batch length heads d_k"],
    v: Float[Tensor, "batch length v_heads d_v"],
    beta: Float[Tensor, "batch length v_heads *d_v"],
    log_decay: Float[Tensor, "batch length v_heads *d_k"] | None = None,
    *,
    scale: float | None = None,
    initial_state: Float[Tensor, "segments v_heads d_k d_v"] | None = None,
    return_final_state: bool = False,
    cu_seqlens: Int[Tensor, " bounds"] | None = None,
    implementation: str | None = None,
) -> Float[Tensor, "batch length v_heads d_v"] | tuple[Tensor, Tensor]:
    """Attend over whole sequences; differentiable in every tensor.

    A sequence maps the state that enters it linearly: ``final_state(S) = final_state(0) + P S`` with a transition ``P``
    of (d_k, d_k) per head. A call with values of zero, as wide as the keys, from the identity as initial state returns
    ``P`` as its final state, so that scans over parts of a sequence compose.

    Args:
        q: queries.
        k: keys, of unit length unless the caller knows better.
        v: values; value head h uses the queries and keys of head ``h // (v_heads / heads)``.
        beta: strength of the correction, per value head or per value channel.
        log_decay: logarithm of the decay, per value head or per channel of its key; ``None`` for no decay.
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
    inputs = Inputs(q, k, v, beta, log_decay, scale, initial_state, cu_seqlens)
    o, final_state = DELTA_RULE(inputs, _check, implementation)
    return (o, final_state) if return_final_state else o


def delta_rule_step(
    q: Float[Tensor, "batch heads d_k"],
    k: Float[Tensor, "batch heads d_k"],
    v: Float[Tensor, "batch v_heads d_v"],
    beta: Float[Tensor, "batch v_heads *d_v"],
    log_decay: Float[Tensor, "batch v_heads *d_k"] | None = None,
    *,
    state: Float[Tensor, "batch v_heads d_k d_v"],
    scale: float | None = None,
    implementation: str | None = None,
) -> tuple[Float[Tensor, "batch v_heads d_v"], Float[Tensor, "batch v_heads d_k d_v"]]:
    """One token of :func:`delta_rule`, from ``state``: the output and the next state.

    On CPU the next state is written over the last one where no gradient is needed.

    Raises:
        ValueError: as for :func:`delta_rule`.
    """
    scale = k.shape[-1] ** -0.5 if scale is None else scale
    return STEP(Inputs(q, k, v, beta, log_decay, scale, state), _check_step, implementation)


def _check_shapes(operation: str, inputs: Inputs, leading: str, rank: int) -> None:
    k, v = inputs.k, inputs.v
    if k.dim() != rank or v.dim() != rank or 0 in k.shape[1:]:
        got = f"k of shape {tuple(k.shape)} and v of shape {tuple(v.shape)}"
        raise argument_error(
            operation, got, f"({leading}, heads, width) without empty axes", "put heads before the width"
        )
    heads, v_heads = k.shape[-2], v.shape[-2]
    if v_heads % heads:
        raise argument_error(operation, f"{v_heads} heads of v for {heads} of k", "a multiple", "change either")
    check_shape(operation, "q", inputs.q, f"{leading}, heads, d_k", tuple(k.shape))
    check_shape(operation, "v", v, f"{leading}, v_heads, d_v", (*k.shape[:-2], *v.shape[-2:]))
    per_head = tuple(v.shape[:-1])
    remedy = "give one beta per value head, or one per value channel"
    check_shape_among(operation, "beta", inputs.beta, (per_head, tuple(v.shape)), remedy)
    remedy = "give one decay per value head, or one per channel of its key"
    check_shape_among(operation, "log_decay", inputs.log_decay, (per_head, (*per_head, k.shape[-1])), remedy)
    check_floating(operation, given_tensors(inputs._replace(cu_seqlens=None)), k.device)


_check, _check_step = checks(_check_shapes, "v_heads")
