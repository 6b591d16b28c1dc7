"""Every op under every tool that PyTorch has for operators, through the implementation that runs by default.

The tools: ``opcheck``, ``torch.compile`` without graph breaks, ``torch.export``, activation checkpointing, and finite
differences of first and second order. The inputs are as small as they can be with more than one of everything.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import pytest
import torch
from scan_cases import assert_same, check_finite_differences, values_and_gradients
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

import seqconv_kernels as K
from seqconv_kernels import native
from tolerances import assert_near

pytestmark = pytest.mark.skipif(native.unavailable() is not None, reason=str(native.unavailable()))


class Case(NamedTuple):
    """One call: the tensors in it, and what runs on them."""

    run: Callable[..., tuple[Tensor, ...]]
    tensors: dict[str, Tensor]


def normal(*size: int) -> Tensor:
    rng = torch.Generator().manual_seed(sum(size))
    return torch.randn(*size, generator=rng, dtype=torch.float64)


def gates(*size: int) -> Tensor:
    return torch.nn.functional.logsigmoid(normal(*size))


def scan_inputs(batch: int, segments: int, groups: int = 2) -> dict[str, Tensor]:
    tokens, weights = (batch, 5, 4), (batch, 5, groups, 3)
    return {
        "u": normal(*tokens), "delta": normal(*tokens).add(0.1), "A": -normal(4, 3).exp(), "B": normal(*weights),
        "C": normal(*weights).flip(1), "D": normal(4), "z": normal(*tokens).flip(1), "delta_bias": normal(4),
        "initial_state": normal(segments, 4, 3),
    }  # fmt: skip


def attention_inputs(batch: int, segments: int, decay_width: tuple[int, ...] = (3,)) -> dict[str, Tensor]:
    return {
        "q": normal(batch, 5, 2, 3), "k": normal(batch, 5, 2, 3).flip(1), "v": normal(batch, 5, 2, 2),
        "log_decay": gates(batch, 5, 2, *decay_width), "initial_state": normal(segments, 2, 3, 2),
    }  # fmt: skip


def ssd_inputs(batch: int, segments: int) -> dict[str, Tensor]:
    tokens = (batch, 5, 4, 2)
    return {
        "x": normal(*tokens), "dt": normal(*tokens[:3]), "A": -normal(4).exp(), "B": normal(batch, 5, 2, 3),
        "C": normal(batch, 5, 2, 3).flip(1), "D": normal(4), "z": normal(*tokens).flip(1), "dt_bias": normal(4),
        "initial_state": normal(segments, 4, 2, 3),
    }  # fmt: skip


BOUNDS = torch.tensor([0, 2, 5])
with_state = partial(partial, return_final_state=True)
packed = partial(with_state, cu_seqlens=BOUNDS)
scan = partial(K.selective_scan, delta_softplus=True)
duality = partial(K.ssd, dt_softplus=True)
beta = {"beta": normal(2, 5, 2).sigmoid()}
tree = {"x": normal(2, 11, 3), "weight": normal(2, 3, 3)}
poles = {
    "residues": normal(2, 3, 2).to(torch.complex128),
    "log_poles": torch.complex(-normal(3, 2).exp(), normal(3, 2)),
}


def whole(op: Callable[..., Tensor], **options: object) -> Callable[..., tuple[Tensor]]:
    """An op of one output, as a function that returns a tuple."""
    return lambda **tensors: (op(**tensors, **options),)


CASES = {
    "causal_conv1d": Case(
        with_state(K.causal_conv1d, activation="silu"),
        {"x": normal(2, 5, 3), "weight": normal(3, 4), "bias": normal(3), "initial_state": normal(2, 3, 3)},
    ),
    "causal_conv1d, packed": Case(
        packed(K.causal_conv1d), {"x": normal(1, 5, 3), "weight": normal(3, 3), "initial_state": normal(2, 2, 3)}
    ),
    "fft_conv": Case(
        whole(K.fft_conv),
        {
            "u": normal(2, 5, 3), "h": normal(3, 6), "skip": normal(3), "pre_gate": normal(2, 5, 3).flip(1),
            "post_gate": normal(2, 5, 3).flip(2), "history": normal(2, 2, 3),
        },
    ),
    "fft_conv, bare": Case(whole(K.fft_conv), {"u": normal(2, 5, 3), "h": normal(3, 4)}),
    "fft_conv2d": Case(whole(K.fft_conv2d), {"u": normal(1, 2, 3, 2), "h": normal(2, 2, 3), "skip": normal(2)}),
    "linear_scan": Case(
        with_state(K.linear_scan),
        {"a": normal(2, 5, 3).sigmoid(), "x": normal(2, 5, 3), "initial_state": normal(2, 3)},
    ),
    "linear_scan, packed": Case(
        packed(K.linear_scan), {"a": normal(1, 5, 3).sigmoid(), "x": normal(1, 5, 3), "initial_state": normal(2, 3)}
    ),
    "linear_scan, complex": Case(
        whole(K.linear_scan),
        {"a": torch.complex(normal(1, 5, 2), gates(1, 5, 2)), "x": torch.complex(gates(1, 5, 2), normal(1, 5, 2))},
    ),
    "selective_scan": Case(with_state(scan), scan_inputs(2, 2)),
    "selective_scan, packed": Case(packed(scan), scan_inputs(1, 2)),
    "selective_scan, bare": Case(
        whole(scan), {k: scan_inputs(2, 2)[k] for k in ("u", "delta", "A")} | {k: normal(2, 5, 3) for k in "BC"}
    ),
    "ssd": Case(with_state(duality), ssd_inputs(2, 2)),
    "gated_linear_attention": Case(with_state(K.gated_linear_attention), attention_inputs(2, 2)),
    "gated_linear_attention, scalar": Case(with_state(K.gated_linear_attention), attention_inputs(2, 2, ())),
    "gated_linear_attention, bare": Case(
        whole(K.gated_linear_attention), {k: attention_inputs(2, 2)[k] for k in "qkv"}
    ),
    "delta_rule": Case(with_state(K.delta_rule), attention_inputs(2, 2) | beta),
    "ssd, packed": Case(packed(duality), ssd_inputs(1, 2)),
    "gated_linear_attention, packed": Case(packed(K.gated_linear_attention), attention_inputs(1, 2)),
    "delta_rule, packed": Case(packed(K.delta_rule), attention_inputs(1, 2, ()) | {"beta": beta["beta"][:1]}),
    "vandermonde": Case(lambda **x: (K.vandermonde(*x.values(), 5),), poles),
    "cauchy": Case(lambda **x: (K.cauchy(*x.values(), 6),), poles),
    "tree_conv": Case(whole(K.tree_conv, dilations=(1, 3), activation="silu"), tree),
}  # fmt: skip
each = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def test_every_op_is_here():
    decoding = {"direct_conv_tile", "fft_tile", "fft_tile_spectrum", "unroll_rings"}  # without gradients
    ops = {name for name in K.__all__ if not name.endswith("_step")} - decoding
    assert {name.split(",")[0] for name in CASES} >= ops


class Operators(TorchFunctionMode):
    """Keeps the calls of this project's operators."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[torch._ops.OpOverload, tuple[object, ...]]] = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if getattr(function, "_qualified_op_name", "").startswith("seqconv"):
            self.calls.append((function.default, args))
        return function(*args, **kwargs or {})


def leaves(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v.detach().clone().requires_grad_() for k, v in tensors.items()}


@each
def test_opcheck(case):
    with Operators() as seen:
        case.run(**leaves(case.tensors))
    assert seen.calls
    operator, arguments = seen.calls[0]
    arguments = tuple(
        x.detach().requires_grad_(x.is_floating_point()) if isinstance(x, Tensor) else x for x in arguments
    )
    torch.library.opcheck(operator, arguments)


@each
@pytest.mark.usefixtures("unannotated")
def test_compiles_without_graph_breaks(case):
    torch.compiler.reset()
    compiled = torch.compile(case.run, fullgraph=True, backend="aot_eager")
    assert_same(values_and_gradients(compiled, case.tensors), values_and_gradients(case.run, case.tensors))


@each
@pytest.mark.usefixtures("unannotated")
def test_exports(case):
    class Layer(torch.nn.Module):
        def forward(self, tensors):
            return case.run(**tensors)

    exported = torch.export.export(Layer(), (case.tensors,)).module()
    for got, want in zip(exported(case.tensors), case.run(**case.tensors), strict=True):
        assert_near(got, want)


@each
def test_recomputes_in_the_backward_pass(case):
    def recomputed(**tensors):
        return checkpoint(
            lambda *values: case.run(**dict(zip(tensors, values, strict=True))), *tensors.values(), use_reentrant=False
        )

    assert_same(values_and_gradients(recomputed, case.tensors), values_and_gradients(case.run, case.tensors))


@each
def test_gradients_of_both_orders_are_those_of_finite_differences(case):
    check_finite_differences(case.run, leaves(case.tensors), twice=True, fast=True)
