"""What is timed, and against what: composites of torch operations, plain and compiled; other projects where installed.

The most informative come first, because the time may run out. Half precision is compared with the peer's own half
precision, except for torch.fft, which has none for these lengths and is given float32 inputs.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import seqconv_kernels as K
from seqconv_kernels.causal_conv1d import cases as conv_shapes
from seqconv_kernels.delta_rule import cases as delta_shapes
from seqconv_kernels.dilated_conv import cases as dilated_shapes
from seqconv_kernels.dplr_delta_rule import cases as dplr_shapes
from seqconv_kernels.fft_conv import cases as fft_shapes
from seqconv_kernels.gated_linear_attention import cases as gla_shapes
from seqconv_kernels.linear_scan import cases as linear_shapes
from seqconv_kernels.rnn import cases as rnn_shapes
from seqconv_kernels.selective_scan import cases as scan_shapes
from seqconv_kernels.ssd import cases as ssd_shapes
from seqconv_kernels.ssm_kernel import cases as kernel_shapes

from ..case import Case, Run, channel_first

COMPILED = ", compiled"
"""How the names of contenders end that torch.compile made; they are compiled before the clock starts, like kernels."""
TIME_DENSE = ", time dense"
"""How the names of contenders end whose inputs are dense in memory along the time, not along the channels."""
BATCHED = ("u", "delta", "B", "C", "z", "x", "dt", "q", "k", "v", "beta", "log_decay", "a", "pre_gate", "post_gate")
BF16, SINGLE = torch.bfloat16, torch.float32


class Timed(NamedTuple):
    """One shape, made when its turn comes: the inputs are large.

    Attributes:
        op: its name.
        case: the shape, in words.
        dtype: of the activations.
        make: makes it, with a batch that is smaller by the factor given.
        smaller: this factor where kernels are only compiled, while other processes need memory too.
    """

    op: str
    case: str
    dtype: torch.dtype
    make: Callable[[int], Case]
    smaller: int = 1

    @property
    def name(self) -> dict[str, str]:
        """How its rows begin."""
        return {"op": self.op, "case": self.case, "dtype": str(self.dtype).removeprefix("torch.")}


def timed(small: bool, device: str) -> Iterator[Timed]:
    """Everything that is timed, ``small`` for Triton's interpreter."""
    yield from _small(device) if small else _real(device)


def _real(device: str) -> Iterator[Timed]:
    yield _selective_scan((8, 4096, 2048, 16), BF16, device)
    for length in (1024, 4096, 32768, 16384):
        yield _fft_conv(64, length, 768, BF16, device)
    for decay in ("vector", "scalar"):
        yield _gated_linear_attention((1, 8192, 96, 128, 128), decay, BF16, device)
    for decay in ("scalar", "vector", "none"):
        yield _delta_rule((1, 8192, 96, 128, 128), decay, BF16, device)
    for length in (1024, 4096, 32768, 16384):
        yield _fft_conv(64, length, 768, torch.float16, device)
    yield _dplr_delta_rule((4, 4096, 32, 64, 64), BF16, device)
    yield _ssd((8, 4096, 24, 64, 1, 128), BF16, device)
    yield _causal_conv1d((8, 4096, 4096, 4), BF16, device)
    yield _selective_scan((8, 4096, 2048, 16), SINGLE, device)
    yield _linear_scan((8, 4096, 4096), SINGLE, device)
    yield _rnn((16, 1024, 4, 64), SINGLE, device)
    for decay in ("vector", "scalar"):
        yield _gated_linear_attention((4, 4096, 16, 64, 64), decay, BF16, device)
        yield _delta_rule((4, 4096, 16, 64, 64), decay, BF16, device)
    yield _fft_conv(8, 131072, 256, BF16, device)
    yield _dilated_conv((8, 8192, 512, 8, 4, 8), BF16, device)
    yield _vandermonde((1, 256, 32, 16384), device)
    yield _cauchy((1, 256, 32, 16384), device)


def _small(device: str) -> Iterator[Timed]:
    yield _selective_scan((1, 33, 24, 4), BF16, device)
    yield _fft_conv(1, 64, 2, BF16, device)
    yield _gated_linear_attention((1, 33, 2, 16, 16), "vector", BF16, device)
    yield _delta_rule((1, 33, 2, 16, 16), "scalar", BF16, device)
    yield _dplr_delta_rule((1, 33, 2, 16, 16), BF16, device)
    yield _ssd((1, 33, 2, 16, 1, 16), BF16, device)
    yield _causal_conv1d((1, 33, 24, 4), BF16, device)
    yield _linear_scan((1, 33, 4), SINGLE, device)
    yield _rnn((2, 9, 2, 5), SINGLE, device)
    yield _dilated_conv((1, 33, 4, 3, 2, 3), BF16, device)
    yield _vandermonde((1, 2, 2, 33), device)
    yield _cauchy((1, 2, 2, 33), device)


def repeated(inputs: Mapping[str, Any], times: int, axis: int = 0) -> dict[str, Any]:
    """The same inputs with an axis ``times`` as long: drawing them all would take longer than all the rest."""

    def longer(t: Tensor) -> Tensor:
        return t.repeat([times if i == axis else 1 for i in range(t.dim())])

    return {k: longer(v) if k in BATCHED and v.dim() > 2 else v for k, v in inputs.items()}


def _contenders(op: Run, peers: Mapping[str, Run | None]) -> dict[str, Run]:
    return {"seqconv": _named(op, "triton")} | {n: peer for n, peer in peers.items() if peer}


def _words(shape: Any) -> str:
    return ", ".join(f"{name} {size}" for name, size in asdict(shape).items() if size)


def _named(op: Run, implementation: str) -> Run:
    return partial(op, implementation=implementation)


def _installed(op: Run, package: str) -> Run | None:
    """The kernel of another project as an implementation of the op, or ``None`` where it is not installed."""
    return _named(op, package) if _there(package.replace("-", "_")) else None


def _compiled(composite: Run) -> Run | None:
    return torch.compile(composite, dynamic=False) if torch.cuda.is_available() else None


def _there(package: str) -> bool:
    return torch.cuda.is_available() and find_spec(package) is not None


def _fla(path: str, name: str) -> Any:
    """A function of fla, or ``None`` where fla or a GPU is missing; one that it lacks raises when it is called."""
    if not _there("fla"):
        return None
    try:
        return getattr(import_module(f"fla.ops.{path}"), name)
    except (ImportError, AttributeError, RuntimeError) as error:
        reason = f"fla.ops.{path}.{name}: {error}"

    def missing(**_: Any) -> Any:
        raise RuntimeError(reason)

    return missing


def _fft_conv(batch: int, length: int, channels: int, dtype: torch.dtype, device: str) -> Timed:
    def composite(u: Tensor, h: Tensor, skip: Tensor, pre_gate: Tensor, post_gate: Tensor) -> Tensor:
        v = u * pre_gate
        product = torch.fft.rfft(v.mT.float(), 2 * length) * torch.fft.rfft(h.float(), 2 * length)
        y: Tensor = torch.fft.irfft(product, 2 * length)[..., :length].mT.to(u.dtype)
        return post_gate * (y + skip * v)

    def make(smaller: int) -> Case:
        shape = fft_shapes.Shape(1, length, channels, length)
        one, rows = fft_shapes.example_inputs(shape, dtype=dtype, device=device, gates=True), -(-batch // smaller)
        compiled = _compiled(composite) if length <= 4096 and dtype == BF16 else None
        peers = {"torch.fft": composite, f"torch.fft{COMPILED}": compiled, f"torch.fft{TIME_DENSE}": composite}
        contenders = _contenders(K.fft_conv, peers) | {f"seqconv{TIME_DENSE}": _named(K.fft_conv, "triton")}
        return Case(
            "fft_conv", case, length, repeated(one, rows), contenders,
            operations=2 * rows * channels * 5.0 * length * math.log2(2 * length),
            layouts={name: channel_first for name in contenders if name.endswith(TIME_DENSE)},
        )  # fmt: skip

    case = f"gated, batch {batch}, {channels} channels, {length} tokens"
    return Timed("fft_conv", case, dtype, make, smaller=2 if batch * length > 1 << 19 else 1)


def _selective_scan(sizes: tuple[int, ...], dtype: torch.dtype, device: str) -> Timed:
    shape = scan_shapes.Shape(*sizes)

    def make(smaller: int) -> Case:
        from transformers.models.mamba.modeling_mamba import mamba_selective_scan

        def fallback(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, **rest: Any) -> Tensor:
            y: Tensor = mamba_selective_scan(u.mT, delta.mT, A, B.mT, C.mT, **rest)
            return y.mT.to(u.dtype)

        one = scan_shapes.example_inputs(replace(shape, batch=1), dtype=dtype, device=device, gate=False)
        peers = {
            "mamba-ssm": _installed(K.selective_scan, "mamba-ssm"),
            "PyTorch scan": _named(K.selective_scan, "reference"),
            "transformers": fallback,
        }
        return Case(
            "selective_scan", case, shape.length, repeated(one, shape.batch), _contenders(K.selective_scan, peers),
            operations=10.0 * shape.batch * shape.length * shape.channels * shape.d_state,
            forward_only=frozenset({"transformers"}),  # quadratic in the length
        )  # fmt: skip

    case = _words(shape)
    return Timed("selective_scan", case, dtype, make)


def _causal_conv1d(sizes: tuple[int, ...], dtype: torch.dtype, device: str) -> Timed:
    shape = conv_shapes.Shape(*sizes)

    def conv1d(x: Tensor, weight: Tensor, bias: Tensor, activation: str) -> Tensor:
        assert activation == "silu"
        y = F.conv1d(x.mT, weight[:, None], bias, padding=shape.width - 1, groups=shape.channels)
        gated: Tensor = F.silu(y[..., : shape.length]).mT
        return gated

    def make(smaller: int) -> Case:
        one = conv_shapes.example_inputs(replace(shape, batch=1), dtype=dtype, device=device)
        installed = _installed(K.causal_conv1d, "causal-conv1d")
        peers = {"causal-conv1d": installed, "F.conv1d": conv1d, f"F.conv1d{COMPILED}": _compiled(conv1d)}
        inputs = repeated(one, shape.batch)
        return Case("causal_conv1d", _words(shape), shape.length, inputs, _contenders(K.causal_conv1d, peers))

    return Timed("causal_conv1d", _words(shape), dtype, make)


def _gated_linear_attention(sizes: tuple[int, ...], decay: Any, dtype: torch.dtype, device: str) -> Timed:
    shape = gla_shapes.Shape(*sizes)
    case = f"{_words(shape)}, decay {decay}"

    def make(smaller: int) -> Case:
        chunk = _fla("gla", "chunk_gla") if decay == "vector" else _fla("simple_gla", "chunk_simple_gla")

        def fla(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor) -> Tensor:
            o: Tensor = chunk(q=q, k=k, v=v, g=log_decay)[0]
            return o

        one = gla_shapes.example_inputs(replace(shape, batch=1, heads=1), dtype=dtype, device=device, decay=decay)
        peers = {"fla": fla if chunk else None, "chunked in PyTorch": _named(K.gated_linear_attention, "chunked")}
        return Case(
            "gated_linear_attention", case, shape.length, repeated(repeated(one, shape.heads, 2), shape.batch),
            _contenders(K.gated_linear_attention, peers),
            operations=4.0 * shape.batch * shape.length * shape.heads * shape.d_k * shape.d_v,
        )  # fmt: skip

    return Timed("gated_linear_attention", case, dtype, make)


def _delta_rule(sizes: tuple[int, ...], decay: Any, dtype: torch.dtype, device: str) -> Timed:
    shape = delta_shapes.Shape(*sizes)
    case = f"{_words(shape)}, decay {decay}"
    places = {"none": ("delta_rule", "chunk_delta_rule"), "scalar": ("gated_delta_rule", "chunk_gated_delta_rule"),
              "vector": ("kda", "chunk_kda")}  # fmt: skip

    def make(smaller: int) -> Case:
        chunk = _fla(*places[decay])

        def fla(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_decay: Tensor | None = None) -> Tensor:
            decays = {} if log_decay is None else {"g": log_decay}
            o: Tensor = chunk(q=q, k=k, v=v, beta=beta, **decays)[0]
            return o

        one = delta_shapes.example_inputs(replace(shape, batch=1, heads=1), dtype=dtype, device=device, decay=decay)
        peers = {"fla": fla if chunk else None, "chunked in PyTorch": _named(K.delta_rule, "chunked")}
        return Case(
            "delta_rule", case, shape.length, repeated(repeated(one, shape.heads, 2), shape.batch),
            _contenders(K.delta_rule, peers),
            operations=6.0 * shape.batch * shape.length * shape.heads * shape.d_k * shape.d_v,
        )  # fmt: skip

    return Timed("delta_rule", case, dtype, make)


def _dplr_delta_rule(sizes: tuple[int, ...], dtype: torch.dtype, device: str) -> Timed:
    shape = dplr_shapes.Shape(*sizes)

    def make(smaller: int) -> Case:
        one = dplr_shapes.example_inputs(replace(shape, batch=1, heads=1), dtype=dtype, device=device)
        peers = {"chunked in PyTorch": _named(K.dplr_delta_rule, "chunked")}
        return Case(
            "dplr_delta_rule", _words(shape), shape.length,
            repeated(repeated(one, shape.heads, 2), shape.batch), _contenders(K.dplr_delta_rule, peers),
            operations=8.0 * shape.batch * shape.length * shape.heads * shape.d_k * shape.d_v,
        )  # fmt: skip

    return Timed("dplr_delta_rule", _words(shape), dtype, make)


def _ssd(sizes: tuple[int, ...], dtype: torch.dtype, device: str) -> Timed:
    shape = ssd_shapes.Shape(*sizes)

    def make(smaller: int) -> Case:
        from transformers.models.mamba2.modeling_mamba2 import mamba2_chunk_scan

        def fallback(x: Tensor, **inputs: Any) -> Tensor:
            y: Tensor = mamba2_chunk_scan(x, **inputs, chunk_size=64)
            return y.to(x.dtype)

        one = ssd_shapes.example_inputs(replace(shape, batch=1), dtype=dtype, device=device)
        one.pop("z")
        peers = {"mamba-ssm": _installed(K.ssd, "mamba-ssm"), "transformers, chunk 64": fallback,
                 "chunked in PyTorch": _named(K.ssd, "chunked")}  # fmt: skip
        return Case(
            "ssd", _words(shape), shape.length, repeated(one, shape.batch), _contenders(K.ssd, peers),
            operations=4.0 * shape.batch * shape.length * shape.heads * shape.head_dim * shape.d_state,
        )  # fmt: skip

    return Timed("ssd", _words(shape), dtype, make)


def _linear_scan(sizes: tuple[int, ...], dtype: torch.dtype, device: str) -> Timed:
    shape = linear_shapes.Shape(*sizes)

    def make(smaller: int) -> Case:
        one = linear_shapes.example_inputs(replace(shape, batch=1), dtype=dtype, device=device)
        contenders = _contenders(K.linear_scan, {"chunked in PyTorch": _named(K.linear_scan, "chunked")})
        return Case("linear_scan", _words(shape), shape.length, repeated(one, shape.batch), contenders)

    return Timed("linear_scan", _words(shape), dtype, make)


def _rnn(sizes: tuple[int, ...], dtype: torch.dtype, device: str) -> Timed:
    shape = rnn_shapes.Shape(*sizes)

    def make(smaller: int) -> Case:
        run = partial(K.rnn, cell="lstm")
        contenders = _contenders(run, {"loop in PyTorch": _named(run, "reference")})
        inputs = rnn_shapes.example_inputs(shape, dtype=dtype, device=device)
        products = 2.0 * inputs["x"].numel() * shape.head_dim
        return Case("rnn", _words(shape), shape.length, inputs, contenders, operations=products)

    return Timed("rnn", _words(shape), dtype, make)


def _dilated_conv(sizes: tuple[int, ...], dtype: torch.dtype, device: str) -> Timed:
    shape = dilated_shapes.Shape(*sizes)

    def make(smaller: int) -> Case:
        one = dilated_shapes.example_inputs(replace(shape, batch=1), dtype=dtype, device=device)
        contenders = _contenders(K.dilated_conv, {"shifted products": _named(K.dilated_conv, "reference")})
        return Case("dilated_conv", _words(shape), shape.length, repeated(one, shape.batch), contenders)

    return Timed("dilated_conv", _words(shape), dtype, make)


def _vandermonde(sizes: tuple[int, ...], device: str) -> Timed:
    return _kernel("vandermonde", kernel_shapes.vandermonde_inputs, sizes, device)


def _cauchy(sizes: tuple[int, ...], device: str) -> Timed:
    return _kernel("cauchy", kernel_shapes.cauchy_inputs, sizes, device)


def _kernel(op: str, inputs: Callable[..., Any], sizes: tuple[int, ...], device: str) -> Timed:
    shape, run = kernel_shapes.Shape(*sizes), getattr(K, op)

    def make(smaller: int) -> Case:
        peers = {"chunked in PyTorch": _named(run, "chunked"), "naive complex": _named(run, "reference")}
        return Case(op, _words(shape), shape.length, inputs(shape, device=device), _contenders(run, peers))

    return Timed(op, _words(shape), SINGLE, make)
