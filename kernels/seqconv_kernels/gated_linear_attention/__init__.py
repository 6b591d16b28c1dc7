"""Linear attention with a decaying state: gated linear attention, its scalar form, retention, no decay.

Equation, per head, with a state ``S`` of (d_k, d_v)::

    S[t] = diag(exp(log_decay[t])) S[t-1] + k[t] v[t]^T
    o[t] = scale * S[t]^T q[t]

The decay is a vector over d_k (Yang et al., 2024, *Gated Linear Attention Transformers*), a scalar per head
(simple GLA, Mamba-2, RetNet), or absent. ``log_decay = -inf`` resets the state.
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
    from .chunked import gated_linear_attention

    return _padded(gated_linear_attention)


def _cpu() -> Any:
    from .cpu import gated_linear_attention

    return gated_linear_attention


def _refuse_cpu(call: Call) -> str | None:
    return native.refuse_call(call.given())


def _reference() -> Any:
    from .reference import gated_linear_attention

    return _padded(gated_linear_attention)


def _triton() -> Any:
    from .triton import gated_linear_attention

    return gated_linear_attention


def _refuse_triton(call: Call) -> str | None:
    return refuse_triton(call, key="k", activation="v")


def _padded(run: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., tuple[Tensor, Tensor]]:
    """``run``, which takes a batch, for packed sequences too."""

    def attend(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        log_decay: Tensor | None,
        scale: float,
        state: Tensor | None,
        cu_seqlens: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        return over_segments(lambda *tokens: run(*tokens, scale, state), cu_seqlens, q, k, v, log_decay)

    return attend


OP = Op(
    "gated_linear_attention",
    Implementation("triton", _triton, _refuse_triton),
    Implementation("cpu", _cpu, _refuse_cpu),
    Implementation("chunked", _chunked, serves_all),
    Implementation("reference", _reference, serves_all),
)


def gated_linear_attention(
    q: Float[Tensor, "batch length heads d_k"],
    k: Float[Tensor, "batch length kv_heads d_k"],
    v: Float[Tensor, "batch length kv_heads d_v"],
    log_decay: Float[Tensor, "batch length kv_heads *d_k"] | None = None,
    *,
    scale: float | None = None,
    initial_state: Float[Tensor, "segments kv_heads d_k d_v"] | None = None,
    return_final_state: bool = False,
    cu_seqlens: Int[Tensor, " bounds"] | None = None,
    implementation: str | None = None,
) -> Float[Tensor, "batch length heads d_v"] | tuple[Tensor, Tensor]:
    """Attend over whole sequences; differentiable in every tensor.

    Args:
        q: queries; head h reads the state of key-value head ``h // (heads / kv_heads)``.
        k: keys.
        v: values.
        log_decay: logarithm of the decay, per channel of the key or per head; ``None`` for no decay.
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
    tensors = {"q": q, "k": k, "v": v, "log_decay": log_decay, "initial_state": initial_state}
    _check("gated_linear_attention", tensors, "batch, length", 4)
    _check_state("gated_linear_attention", initial_state, count_rows("gated_linear_attention", cu_seqlens, k), k, v)
    factor = k.shape[-1] ** -0.5 if scale is None else scale
    run = OP.choose(implementation, Call(tensors, {"scale": factor}))
    o, final_state = run(q, k, v, log_decay, factor, initial_state, cu_seqlens)
    return (o, final_state) if return_final_state else o


def gated_linear_attention_step(
    q: Float[Tensor, "batch heads d_k"],
    k: Float[Tensor, "batch kv_heads d_k"],
    v: Float[Tensor, "batch kv_heads d_v"],
    log_decay: Float[Tensor, "batch kv_heads *d_k"] | None = None,
    *,
    state: Float[Tensor, "batch kv_heads d_k d_v"],
    scale: float | None = None,
) -> tuple[Float[Tensor, "batch heads d_v"], Float[Tensor, "batch kv_heads d_k d_v"]]:
    """One token of :func:`gated_linear_attention`, from ``state``: the output and the next state.

    On CPU the next state is written over the last one where no gradient is needed.

    Raises:
        ValueError: as for :func:`gated_linear_attention`.
    """
    from .reference import step

    tensors = {"q": q, "k": k, "v": v, "log_decay": log_decay, "state": state}
    _check("gated_linear_attention_step", tensors, "batch", 3)
    _check_state("gated_linear_attention_step", state, k.shape[0], k, v)
    factor = k.shape[-1] ** -0.5 if scale is None else scale
    if may_be_overwritten(state, q, k, v, log_decay) and q.shape[1] == k.shape[1] and native.unavailable() is None:
        from .._linear_attention.cpu import step_in_place

        return step_in_place(q, k, v, log_decay, None, factor, state), state
    return step(q, k, v, log_decay, factor, state)


def _check(operation: str, tensors: dict[str, Tensor | None], leading: str, rank: int) -> None:
    q, k, v = tensors["q"], tensors["k"], tensors["v"]
    assert q is not None
    assert k is not None
    assert v is not None
    if q.dim() != rank or k.dim() != rank or 0 in k.shape[1:]:
        got = f"q of shape {tuple(q.shape)} and k of shape {tuple(k.shape)}"
        raise argument_error(operation, got, f"({leading}, heads, d_k) without empty axes", "put heads before d_k")
    heads, kv_heads, d_k = q.shape[-2], *k.shape[-2:]
    if heads % kv_heads:
        got = f"{heads} heads of q for {kv_heads} of k"
        raise argument_error(operation, got, "a multiple", "give every key-value head as many query heads")
    check_shape(operation, "q", q, f"{leading}, heads, d_k", (*k.shape[:-2], heads, d_k))
    check_shape(operation, "v", v, f"{leading}, heads of k, d_v", (*k.shape[:-1], v.shape[-1]))
    wanted = (tuple(k.shape), tuple(k.shape[:-1]))
    remedy = "give one decay per channel of k, or one per head"
    check_shape_among(operation, "log_decay", tensors["log_decay"], wanted, remedy)
    check_floating(operation, tensors, q.device)


def _check_state(operation: str, state: Tensor | None, rows: int, k: Tensor, v: Tensor) -> None:
    wanted = (rows, k.shape[-2], k.shape[-1], v.shape[-1])
    check_shape(operation, "the state", state, "batch or segments, heads of k, d_k, d_v", wanted)
