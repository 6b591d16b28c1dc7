"""Linear attention with a decaying state: gated linear attention, its scalar form, retention, no decay.

Equation, per head, with a state ``S`` of (d_k, d_v)::

    S[t] = diag(exp(log_decay[t])) S[t-1] + k[t] v[t]^T
    o[t] = scale * S[t]^T q[t]

The decay is a vector over d_k (Yang et al., 2024, *Gated Linear Attention Transformers*), a scalar per head
(simple GLA, Mamba-2), a constant per head (RetNet, lightning attention: ``g_gamma``, which no implementation copies
along the length), or absent. ``log_decay = -inf`` resets the state. With a ``bonus`` u a token reads the state before
it, and itself with a weight (RWKV-6)::

    o[t] = scale * (S[t-1] + diag(u) k[t] v[t]^T)^T q[t]
"""

from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .._core.checks import check_floating, check_shape, check_shape_among
from .._core.errors import argument_error
from .._core.operator.inputs import given_tensors
from .._core.packing import sum_over_time, with_state_and_decay
from .._core.precision import accumulation_dtype
from .._linear_attention.checks import checks
from .bonus import Run, attend_with_bonus, step_with_bonus
from .spec import ATTENTION, STEP, Inputs


def gated_linear_attention(
    q: Float[Tensor, "batch length heads d_k"],
    k: Float[Tensor, "batch length kv_heads d_k"],
    v: Float[Tensor, "batch length kv_heads d_v"],
    log_decay: Float[Tensor, "batch length kv_heads *d_k"] | None = None,
    *,
    g_gamma: Float[Tensor, " kv_heads"] | None = None,
    bonus: Float[Tensor, "heads d_k"] | None = None,
    scale: float | None = None,
    initial_state: Float[Tensor, "segments kv_heads d_k d_v"] | None = None,
    return_final_state: bool = False,
    return_total_decay: bool = False,
    cu_seqlens: Int[Tensor, " bounds"] | None = None,
    implementation: str | None = None,
) -> Float[Tensor, "batch length heads d_v"] | tuple[Tensor, ...]:
    """Attend over whole sequences; differentiable in every tensor.

    Args:
        q: queries; head h reads the state of key-value head ``h // (heads / kv_heads)``.
        k: keys.
        v: values.
        log_decay: logarithm of the decay, per channel of the key or per head; ``None`` for no decay.
        g_gamma: instead of it, the logarithm of a decay per head that is the same for all tokens.
        bonus: weight of a token's own key for its query; not given, the query reads the state after its token.
        scale: of the queries; ``d_k ** -0.5`` if not given.
        initial_state: state before the first token (``segments`` = batch, or that of each packed sequence); zero if
            not given.
        return_final_state: also return the state after the last token.
        return_total_decay: also return the product of all decays of each sequence, (segments, kv_heads, d_k or 1, 1): a
            scan from another state S has the final state ``final_state + total_decay * S``, so that scans over parts
            of a sequence compose.
        cu_seqlens: bounds of sequences packed into a batch of one; the state starts again at each.
        implementation: a name, or ``None`` for the fastest that serves.

    Returns:
        o typed like ``v``, or ``(o, final_state)``; the state is float32 at least, like the sums inside.

    Raises:
        ValueError: shapes, dtypes or devices that do not match; bounds that do not increase to the length.
    """
    scale = k.shape[-1] ** -0.5 if scale is None else scale
    log_decay = _either("gated_linear_attention", k, log_decay, g_gamma)
    if g_gamma is not None and cu_seqlens is not None:
        log_decay = g_gamma.expand(k.shape[:-1])  # sequences become padded rows, whose padding does not decay
    inputs = Inputs(q, k, v, log_decay, scale, initial_state, cu_seqlens)
    run = partial(ATTENTION, check=_check, implementation=implementation)
    o, final_state = run(inputs) if bonus is None else _with_bonus("gated_linear_attention", inputs, bonus, run)
    total = _total_decay(inputs) if return_total_decay else None
    return with_state_and_decay(o, final_state if return_final_state else None, total)


def gated_linear_attention_step(
    q: Float[Tensor, "batch heads d_k"],
    k: Float[Tensor, "batch kv_heads d_k"],
    v: Float[Tensor, "batch kv_heads d_v"],
    log_decay: Float[Tensor, "batch kv_heads *d_k"] | None = None,
    *,
    g_gamma: Float[Tensor, " kv_heads"] | None = None,
    state: Float[Tensor, "batch kv_heads d_k d_v"],
    bonus: Float[Tensor, "heads d_k"] | None = None,
    scale: float | None = None,
    implementation: str | None = None,
) -> tuple[Float[Tensor, "batch heads d_v"], Float[Tensor, "batch kv_heads d_k d_v"]]:
    """One token of :func:`gated_linear_attention`, from ``state``: the output and the next state.

    On CPU the next state is written over the last one where no gradient is needed.

    Raises:
        ValueError: as for :func:`gated_linear_attention`.
    """
    scale = k.shape[-1] ** -0.5 if scale is None else scale
    log_decay = _either("gated_linear_attention_step", k, log_decay, g_gamma)
    inputs = Inputs(q, k, v, log_decay, scale, state)
    run = partial(STEP, check=_check_step, implementation=implementation)
    return run(inputs) if bonus is None else _with_bonus("gated_linear_attention_step", inputs, bonus, run)


def _with_bonus(operation: str, inputs: Inputs, bonus: Tensor, run: Run) -> tuple[Tensor, Tensor]:
    step = inputs.q.dim() == 3
    (_check_step if step else _check)(operation, inputs)
    check_shape(operation, "bonus", bonus, "heads, d_k", tuple(inputs.q.shape[-2:]))
    check_floating(operation, {"bonus": bonus}, inputs.q.device)
    return (step_with_bonus if step else attend_with_bonus)(inputs, bonus, run)


def _either(operation: str, k: Tensor, log_decay: Tensor | None, g_gamma: Tensor | None) -> Tensor | None:
    """The decay of the inputs: per token, or of one axis if it is constant."""
    if g_gamma is None:
        return log_decay
    if log_decay is not None:
        raise argument_error(operation, "log_decay and g_gamma", "one of them", "add g_gamma to log_decay")
    check_shape(operation, "g_gamma", g_gamma, "heads of k", tuple(k.shape[-2:-1]))
    return g_gamma


def _total_decay(inputs: Inputs) -> Tensor:
    k, log_decay, cu_seqlens = inputs.k, inputs.log_decay, inputs.cu_seqlens
    if log_decay is None or log_decay.dim() == 1:
        log_decay = torch.zeros_like(k[..., 0]) if log_decay is None else log_decay.expand(k.shape[:-1])
    log_decay = log_decay.to(accumulation_dtype(inputs.q, k, inputs.v, log_decay, inputs.initial_state))
    total = sum_over_time(log_decay, cu_seqlens).exp()
    return total[..., None] if total.dim() == 3 else total[..., None, None]


def _check_shapes(operation: str, inputs: Inputs, leading: str, rank: int) -> None:
    q, k, v = inputs.q, inputs.k, inputs.v
    if q.dim() != rank or k.dim() != rank or 0 in k.shape[1:]:
        got = f"q of shape {tuple(q.shape)} and k of shape {tuple(k.shape)}"
        raise argument_error(operation, got, f"({leading}, heads, d_k) without empty axes", "put heads before d_k")
    heads, kv_heads, d_k = q.shape[-2], *k.shape[-2:]
    if heads % kv_heads:
        got = f"{heads} heads of q for {kv_heads} of k"
        raise argument_error(operation, got, "a multiple", "give every key-value head as many query heads")
    check_shape(operation, "q", q, f"{leading}, heads, d_k", (*k.shape[:-2], heads, d_k))
    check_shape(operation, "v", v, f"{leading}, heads of k, d_v", (*k.shape[:-1], v.shape[-1]))
    if inputs.log_decay is None or inputs.log_decay.dim() > 1:  # one of one axis is ``g_gamma``, checked before
        wanted = (tuple(k.shape), tuple(k.shape[:-1]))
        remedy = "give one decay per channel of k, or one per head; a constant one as g_gamma"
        check_shape_among(operation, "log_decay", inputs.log_decay, wanted, remedy)
    check_floating(operation, given_tensors(inputs._replace(cu_seqlens=None)), q.device)


_check, _check_step = checks(_check_shapes, "heads of k")
