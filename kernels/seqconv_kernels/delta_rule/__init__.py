"""Linear attention that corrects what it stored: the delta rule, gated by a scalar or a vector decay, or not at all.

Equation, per head, with a state ``S`` of (d_k, d_v)::

    S' = diag(exp(log_decay[t])) S[t-1]
    S[t] = S' + k[t] (beta[t] (v[t] - S'^T k[t]))^T
    o[t] = scale * S[t]^T q[t]

No decay: DeltaNet (Schlag et al., 2021; Yang et al., 2024). Scalar: Gated DeltaNet (Yang et al., 2025). Vector over
d_k: Kimi Delta Attention. ``beta`` in (0, 1), or up to 2 for negative eigenvalues; keys of unit length keep the state
bounded. ``log_decay = -inf`` resets the state.
"""

from collections.abc import Callable
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from .._core import native
from .._core.checks import check_floating, check_shape, check_shape_among, may_be_overwritten
from .._core.dispatch import Call, Implementation, Op, serves_all
from .._core.errors import argument_error
from .._core.packing import count_rows, over_segments
from .._linear_attention import refuse_triton


def _chunked() -> Any:
    from .chunked import delta_rule

    return _padded(delta_rule)


def _cpu() -> Any:
    from .cpu import delta_rule

    return delta_rule


def _refuse_cpu(call: Call) -> str | None:
    return native.refuse_call(call.given())


def _reference() -> Any:
    from .reference import delta_rule

    return _padded(delta_rule)


def _triton() -> Any:
    from .triton import delta_rule

    return delta_rule


def _refuse_triton(call: Call) -> str | None:
    return _one_beta_per_head(call) or refuse_triton(call, key="k", activation="v")


def _padded(run: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., tuple[Tensor, Tensor]]:
    """``run``, which takes a batch, for packed sequences too."""

    def attend(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        beta: Tensor,
        log_decay: Tensor | None,
        scale: float,
        state: Tensor | None,
        cu_seqlens: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        return over_segments(lambda *tokens: run(*tokens, scale, state), cu_seqlens, q, k, v, beta, log_decay)

    return attend


def _one_beta_per_head(call: Call) -> str | None:
    tensors = call.given()
    return None if tensors["beta"].dim() < tensors["v"].dim() else "it takes one beta per head, not per value channel"


OP = Op(
    "delta_rule",
    Implementation("triton", _triton, _refuse_triton),
    Implementation("cpu", _cpu, _refuse_cpu),
    Implementation("chunked", _chunked, _one_beta_per_head),
    Implementation("reference", _reference, serves_all),
)


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
        cu_seqlens: bounds of sequences packed into a batch of one; the state starts anew at each.
        implementation: a name, or ``None`` for the fastest that serves.

    Returns:
        o typed like ``v``, or ``(o, final_state)``; the state is float32 at least, like the sums inside.

    Raises:
        ValueError: shapes, dtypes or devices that do not match; bounds that do not increase to the length.
    """
    tensors = {"q": q, "k": k, "v": v, "beta": beta, "log_decay": log_decay, "initial_state": initial_state}
    _check("delta_rule", tensors, "batch, length", 4)
    _check_state("delta_rule", initial_state, count_rows("delta_rule", cu_seqlens, k), k, v)
    factor = k.shape[-1] ** -0.5 if scale is None else scale
    run = OP.choose(implementation, Call(tensors, {"scale": factor}))
    o, final_state = run(q, k, v, beta, log_decay, factor, initial_state, cu_seqlens)
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
) -> tuple[Float[Tensor, "batch v_heads d_v"], Float[Tensor, "batch v_heads d_k d_v"]]:
    """One token of :func:`delta_rule`, from ``state``: the output and the next state.

    On CPU the next state is written over the last one where no gradient is needed.

    Raises:
        ValueError: as for :func:`delta_rule`.
    """
    from .reference import step

    tensors = {"q": q, "k": k, "v": v, "beta": beta, "log_decay": log_decay, "state": state}
    _check("delta_rule_step", tensors, "batch", 3)
    _check_state("delta_rule_step", state, k.shape[0], k, v)
    factor = k.shape[-1] ** -0.5 if scale is None else scale
    if may_be_overwritten(state, q, k, v, beta, log_decay) and native.unavailable() is None:
        from .._linear_attention.cpu import step_in_place

        return step_in_place(q, k, v, log_decay, beta, factor, state), state
    return step(q, k, v, beta, log_decay, factor, state)


def _check(operation: str, tensors: dict[str, Tensor | None], leading: str, rank: int) -> None:
    k, v = tensors["k"], tensors["v"]
    assert k is not None
    assert v is not None
    if k.dim() != rank or v.dim() != rank or 0 in k.shape[1:]:
        got = f"k of shape {tuple(k.shape)} and v of shape {tuple(v.shape)}"
        raise argument_error(
            operation, got, f"({leading}, heads, width) without empty axes", "put heads before the width"
        )
    heads, v_heads = k.shape[-2], v.shape[-2]
    if v_heads % heads:
        raise argument_error(operation, f"{v_heads} heads of v for {heads} of k", "a multiple", "change either")
    check_shape(operation, "q", tensors["q"], f"{leading}, heads, d_k", tuple(k.shape))
    check_shape(operation, "v", v, f"{leading}, v_heads, d_v", (*k.shape[:-2], *v.shape[-2:]))
    per_head = tuple(v.shape[:-1])
    remedy = "give one beta per value head, or one per value channel"
    check_shape_among(operation, "beta", tensors["beta"], (per_head, tuple(v.shape)), remedy)
    remedy = "give one decay per value head, or one per channel of its key"
    check_shape_among(operation, "log_decay", tensors["log_decay"], (per_head, (*per_head, k.shape[-1])), remedy)
    check_floating(operation, tensors, k.device)


def _check_state(operation: str, state: Tensor | None, rows: int, k: Tensor, v: Tensor) -> None:
    wanted = (rows, v.shape[-2], k.shape[-1], v.shape[-1])
    check_shape(operation, "the state", state, "batch or segments, v_heads, d_k, d_v", wanted)
