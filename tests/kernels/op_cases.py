"""One call of every op, as a function of the batch and the length: what tests over all ops share."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

import seqconv_kernels as K


class Case(NamedTuple):
    """One call: what runs, and its arguments for a batch (or so many packed segments) and a length."""

    run: Callable[..., tuple[Tensor, ...]]
    inputs: Callable[[int, int], dict[str, Any]]

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Small ones; bounds and lengths are left at those of ``run``."""
        return {k: v for k, v in self.inputs(2, 5).items() if k not in ("cu_seqlens", "length")}


def normal(*size: int) -> Tensor:
    rng = torch.Generator().manual_seed(sum(size))
    return torch.randn(*size, generator=rng, dtype=torch.float64)


def gates(*size: int) -> Tensor:
    return torch.nn.functional.logsigmoid(normal(*size))


def complex_normal(*size: int) -> Tensor:
    return torch.complex(normal(*size), gates(*size))


def conv_inputs(batch: int, length: int, segments: int | None = None) -> dict[str, Tensor]:
    return {
        "x": normal(batch, length, 3), "weight": normal(3, 4), "bias": normal(3),
        "initial_state": normal(segments or batch, 3, 3),
    }  # fmt: skip


def fft_conv_inputs(batch: int, length: int) -> dict[str, Tensor]:
    tokens = (batch, length, 3)
    return {
        "u": normal(*tokens), "h": normal(3, length + 1), "skip": normal(3), "pre_gate": normal(*tokens).flip(1),
        "post_gate": normal(*tokens).flip(2), "history": normal(batch, 2, 3),
    }  # fmt: skip


def linear_inputs(batch: int, length: int, segments: int | None = None) -> dict[str, Tensor]:
    tokens = (batch, length, 3)
    return {"a": normal(*tokens).sigmoid(), "x": normal(*tokens), "initial_state": normal(segments or batch, 3)}


def scan_inputs(batch: int, length: int, segments: int | None = None) -> dict[str, Tensor]:
    tokens, weights = (batch, length, 4), (batch, length, 2, 3)
    return {
        "u": normal(*tokens), "delta": normal(*tokens).add(0.1), "A": -normal(4, 3).exp(), "B": normal(*weights),
        "C": normal(*weights).flip(1), "D": normal(4), "z": normal(*tokens).flip(1), "delta_bias": normal(4),
        "initial_state": normal(segments or batch, 4, 3),
    }  # fmt: skip


def bare_scan_inputs(batch: int, length: int) -> dict[str, Tensor]:
    weights = {name: normal(batch, length, 3) for name in "BC"}
    return {k: v for k, v in scan_inputs(batch, length).items() if k in ("u", "delta", "A")} | weights


def attention_inputs(
    batch: int, length: int, segments: int | None = None, *, decay_width: tuple[int, ...] = (3,)
) -> dict[str, Tensor]:
    tokens = (batch, length, 2)
    return {
        "q": normal(*tokens, 3), "k": normal(*tokens, 3).flip(1), "v": normal(*tokens, 2),
        "log_decay": gates(*tokens, *decay_width), "initial_state": normal(segments or batch, 2, 3, 2),
    }  # fmt: skip


def bare_attention_inputs(batch: int, length: int) -> dict[str, Tensor]:
    return {k: v for k, v in attention_inputs(batch, length).items() if k in "qkv"}


def delta_inputs(
    batch: int, length: int, segments: int | None = None, *, decay_width: tuple[int, ...] = (3,)
) -> dict[str, Tensor]:
    beta = normal(batch, length, 2).sigmoid()
    return attention_inputs(batch, length, segments, decay_width=decay_width) | {"beta": beta}


def ssd_inputs(batch: int, length: int, segments: int | None = None) -> dict[str, Tensor]:
    tokens = (batch, length, 4, 2)
    return {
        "x": normal(*tokens), "dt": normal(*tokens[:3]), "A": -normal(4).exp(), "B": normal(batch, length, 2, 3),
        "C": normal(batch, length, 2, 3).flip(1), "D": normal(4), "z": normal(*tokens).flip(1), "dt_bias": normal(4),
        "initial_state": normal(segments or batch, 4, 2, 3),
    }  # fmt: skip


def packed_inputs(inputs: Callable[..., dict[str, Tensor]]) -> Callable[[int, int], dict[str, Any]]:
    """The first segments of two tokens each, the last of what is left."""

    def build(segments: int, length: int) -> dict[str, Any]:
        bounds = torch.tensor([*range(0, 2 * segments, 2), length])
        return inputs(1, length, segments) | {"cu_seqlens": bounds}

    return build


def poles(names: tuple[str, str]) -> Callable[[int, int], dict[str, Any]]:
    def build(heads: int, length: int) -> dict[str, Any]:
        values = (normal(heads, 3, 2).to(torch.complex128), torch.complex(-normal(3, 2).exp(), normal(3, 2)))
        return dict(zip(names, values, strict=True)) | {"length": length}

    return build


def whole(op: Callable[..., Tensor], **options: object) -> Callable[..., tuple[Tensor]]:
    """An op of one output, as a function that returns a tuple."""
    return lambda **arguments: (op(**(options | arguments)),)


with_state = partial(partial, return_final_state=True)
packed = partial(with_state, cu_seqlens=torch.tensor([0, 2, 5]))
scan = partial(K.selective_scan, delta_softplus=True)
duality = partial(K.ssd, dt_softplus=True)
tree = whole(K.dilated_conv, dilations=(1, 3), activation="silu")

CASES = {
    "causal_conv1d": Case(with_state(K.causal_conv1d, activation="silu"), conv_inputs),
    "causal_conv1d, packed": Case(packed(K.causal_conv1d), packed_inputs(conv_inputs)),
    "fft_conv": Case(whole(K.fft_conv), fft_conv_inputs),
    "fft_conv, bare": Case(whole(K.fft_conv), lambda b, n: {"u": normal(b, n, 3), "h": normal(3, 4)}),
    "fft_conv2d": Case(
        whole(K.fft_conv2d), lambda b, n: {"u": normal(b, 2, n, 2), "h": normal(2, 2, n), "skip": normal(2)}
    ),
    "linear_scan": Case(with_state(K.linear_scan), linear_inputs),
    "linear_scan, packed": Case(packed(K.linear_scan), packed_inputs(linear_inputs)),
    "linear_scan, complex": Case(
        whole(K.linear_scan), lambda b, n: {"a": complex_normal(b, n, 2) / 2, "x": complex_normal(b, n, 2).flip(1)}
    ),
    "selective_scan": Case(with_state(scan), scan_inputs),
    "selective_scan, packed": Case(packed(scan), packed_inputs(scan_inputs)),
    "selective_scan, bare": Case(whole(scan), bare_scan_inputs),
    "ssd": Case(with_state(duality), ssd_inputs),
    "ssd, packed": Case(packed(duality), packed_inputs(ssd_inputs)),
    "gated_linear_attention": Case(with_state(K.gated_linear_attention), attention_inputs),
    "gated_linear_attention, scalar": Case(
        with_state(K.gated_linear_attention), partial(attention_inputs, decay_width=())
    ),
    "gated_linear_attention, bare": Case(whole(K.gated_linear_attention), bare_attention_inputs),
    "gated_linear_attention, packed": Case(packed(K.gated_linear_attention), packed_inputs(attention_inputs)),
    "delta_rule": Case(with_state(K.delta_rule), delta_inputs),
    "delta_rule, packed": Case(packed(K.delta_rule), packed_inputs(partial(delta_inputs, decay_width=()))),
    "vandermonde": Case(whole(K.vandermonde, length=5), poles(("residues", "log_poles"))),
    "cauchy": Case(whole(K.cauchy, length=6), poles(("v", "poles"))),
    "dilated_conv": Case(tree, lambda b, n: {"x": normal(b, n, 3), "weight": normal(2, 3, 3)}),
}


def token(inputs: Callable[[int, int], dict[str, Tensor]], tokens: tuple[str, ...]) -> Callable[[int, int], Any]:
    """The first time step of the arguments called ``tokens``, with the state under the name that steps give it."""

    def build(batch: int, _: int) -> dict[str, Tensor]:
        whole = inputs(batch, 5)
        state = {"state": whole.pop("initial_state")}
        return {k: v[:, 0] if k in tokens else v for k, v in whole.items()} | state

    return build


def diagonal_inputs(batch: int, _: int) -> dict[str, Tensor]:
    return {
        "u": normal(batch, 3), "offsets": complex_normal(3, 4), "residues": complex_normal(3, 4).flip(0),
        "hidden": complex_normal(batch, 3, 4), "head": normal(3, 2), "past": normal(batch, 2, 3), "skip": normal(3),
    }  # fmt: skip


def direct_inputs(batch: int, _: int) -> dict[str, Tensor]:
    ring = normal(batch, 6, 3)
    return {"u": normal(batch, 3), "taps": normal(5, 3), "past": ring, "sums": ring.flip(1)}


def tree_step_inputs(batch: int, _: int) -> dict[str, Tensor]:
    rings = {f"ring{i}": normal(batch, 2 * dilation, 3) for i, dilation in enumerate((1, 3))}
    return {"x": normal(batch, 3), "weight": normal(2, 3, 3), "position": torch.arange(batch) + 2} | rings


def tree_step(ring0: Tensor, ring1: Tensor, **rest: Any) -> tuple[Tensor, ...]:
    y, rings = K.dilated_conv_step(**rest, rings=(ring0, ring1), dilations=(1, 3), activation="silu")
    return y, *rings


def direct_step(past: Tensor, sums: Tensor, **rest: Any) -> tuple[Tensor, ...]:
    """On copies: the step writes into both."""
    past, sums = past.clone(), sums.clone()
    return K.direct_conv_step(**rest, past=past, sums=sums, row=2, count=4), past, sums


qkv = ("q", "k", "v", "log_decay", "beta")
STEPS = {
    "causal_conv1d_step": Case(partial(K.causal_conv1d_step, activation="silu"), token(conv_inputs, ("x",))),
    "linear_scan_step": Case(K.linear_scan_step, token(linear_inputs, ("a", "x"))),
    "selective_scan_step": Case(
        partial(K.selective_scan_step, delta_softplus=True), token(scan_inputs, ("u", "delta", "B", "C", "z"))
    ),
    "ssd_step": Case(partial(K.ssd_step, dt_softplus=True), token(ssd_inputs, ("x", "dt", "B", "C", "z"))),
    "gated_linear_attention_step": Case(K.gated_linear_attention_step, token(attention_inputs, qkv)),
    "delta_rule_step": Case(K.delta_rule_step, token(delta_inputs, qkv)),
    "diagonal_step": Case(K.diagonal_step, diagonal_inputs),
    "direct_conv_step": Case(direct_step, direct_inputs),
    "dilated_conv_step": Case(tree_step, tree_step_inputs),
}
