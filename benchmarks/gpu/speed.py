"""Speed of the Triton kernels beside composites of torch operations and, where it can be imported, fla.

All contenders of a shape run in turn, several times over; each time is a median over many launches, by device events.
Half precision is compared with the peer's own half precision, except for torch.fft, which has none for these lengths
and is given float32 inputs.
"""

import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import seqconv_kernels as K
from seqconv_kernels.causal_conv1d import shapes as conv_shapes
from seqconv_kernels.delta_rule import shapes as delta_shapes
from seqconv_kernels.fft_conv import shapes as fft_shapes
from seqconv_kernels.gated_linear_attention import shapes as gla_shapes
from seqconv_kernels.linear_scan import shapes as linear_shapes
from seqconv_kernels.selective_scan import shapes as scan_shapes
from seqconv_kernels.ssd import shapes as ssd_shapes
from seqconv_kernels.ssm_kernel import shapes as kernel_shapes
from seqconv_kernels.tree_conv import shapes as tree_shapes

from ..case import DIRECTIONS, Case, Run
from ..measure import Ceilings

ROUNDS = 3


def cases(small: bool, device: str) -> Iterator[Callable[[], Case]]:
    """What is timed, made one at a time because the inputs are large."""
    dtype = torch.bfloat16
    for length in (1024, 4096, 16384, 32768) if not small else (64,):
        yield partial(_fft_conv, 16 if not small else 1, length, 768 if not small else 2, dtype, device)
    yield partial(_selective_scan, (8, 2048, 1536, 16) if not small else (1, 33, 24, 4), dtype, device)
    yield partial(_causal_conv1d, (8, 2048, 1536, 4) if not small else (1, 33, 24, 4), dtype, device)
    for width in (64, 128) if not small else (16,):
        sizes = (4, 4096, 16, width, width) if not small else (1, 33, 2, width, width)
        for decay in ("vector", "scalar"):
            yield partial(_gated_linear_attention, sizes, decay, dtype, device)
        for decay in ("none", "scalar", "vector"):
            yield partial(_delta_rule, sizes, decay, dtype, device)
    yield partial(_ssd, (4, 4096, 24, 64, 1, 128) if not small else (1, 33, 2, 16, 1, 16), dtype, device)
    yield partial(_linear_scan, (8, 4096, 1024) if not small else (1, 33, 4), torch.float32, device)
    yield partial(_tree_conv, (4, 8192, 512, 8, 4, 8) if not small else (1, 33, 4, 3, 2, 3), dtype, device)
    yield partial(_vandermonde, (1, 256, 32, 16384) if not small else (1, 2, 2, 33), device)


def measure(case: Case, ceilings: Ceilings | None) -> Iterator[dict[str, Any]]:
    """One row per direction: milliseconds of each contender, and the floor."""
    for direction in DIRECTIONS:
        runs = case.calls(direction)
        ms = _interleaved(runs)
        floor = ceilings.floor(*case.work(direction)) if ceilings else None
        yield {"shape": f"{case.op}: {case.shape}", "length": case.length, "direction": direction, "ms": ms} | (
            {"floor": floor} if floor else {}
        )


def gpu_ceilings() -> Ceilings:
    """Copy bandwidth, and the rate of a large bfloat16 product, on random data."""
    source = torch.randn(1 << 30, device="cuda", dtype=torch.bfloat16)
    target, square = torch.empty_like(source), torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    ms = _interleaved({"copy": lambda: target.copy_(source), "multiply": lambda: square @ square})
    return Ceilings(1e3 * 2 * 2 * source.numel() / ms["copy"], 1e3 * 2 * 8192**3 / ms["multiply"])


def _interleaved(runs: dict[str, Any]) -> dict[str, float]:
    samples: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            samples[name].append(_median_ms(run))
    return {name: statistics.median(times) for name, times in samples.items()}


def _median_ms(run: Callable[[], object]) -> float:
    if not torch.cuda.is_available():
        start = time.perf_counter()
        run()
        return 1e3 * (time.perf_counter() - start)
    from triton.testing import do_bench

    return float(do_bench(run, warmup=10, rep=60, return_mode="median"))


def _contenders(op: Run, peers: dict[str, Run | None]) -> dict[str, Run]:
    return {"seqconv": _ours(op, "triton")} | {n: peer for n, peer in peers.items() if peer}


def _words(shape: Any) -> str:
    return ", ".join(f"{name} {size}" for name, size in asdict(shape).items() if size)


def _ours(op: Run, implementation: str) -> Run:
    return partial(op, implementation=implementation)


def _fla(path: str, name: str) -> Any:
    """A function of fla, or ``None`` where fla or a GPU is missing."""
    if not torch.cuda.is_available() or find_spec("fla") is None:
        return None
    return getattr(__import__(f"fla.ops.{path}", fromlist=[name]), name)


def _fft_conv(batch: int, length: int, channels: int, dtype: torch.dtype, device: str) -> Case:
    shape = fft_shapes.Shape(batch, length, channels, length)
    inputs = fft_shapes.example_inputs(shape, dtype=dtype, device=device, gates=True)

    def composite(u: Tensor, h: Tensor, skip: Tensor, pre_gate: Tensor, post_gate: Tensor) -> Tensor:
        v = u * pre_gate
        product = torch.fft.rfft(v.mT.float(), 2 * length) * torch.fft.rfft(h.float(), 2 * length)
        y: Tensor = torch.fft.irfft(product, 2 * length)[..., :length].mT.to(u.dtype)
        return post_gate * (y + skip * v)

    rows, transform = batch * channels, 5.0 * length * math.log2(2 * length)
    return Case(
        "fft_conv, gated", f"batch {batch}, {channels} channels, {length} tokens", length, inputs,
        _contenders(K.fft_conv, {"torch.fft": composite}), operations=2 * rows * transform,
    )  # fmt: skip


def _selective_scan(sizes: tuple[int, ...], dtype: torch.dtype, device: str) -> Case:
    from transformers.models.mamba.modeling_mamba import mamba_selective_scan

    shape = scan_shapes.Shape(*sizes)
    inputs = scan_shapes.example_inputs(shape, dtype=dtype, device=device, gate=False)

    def fallback(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, **rest: Any) -> Tensor:
        y: Tensor = mamba_selective_scan(u.mT, delta.mT, A, B.mT, C.mT, **rest)
        return y.mT.to(u.dtype)

    return Case(
        "selective_scan", _words(shape), shape.length, inputs,
        _contenders(K.selective_scan, {"transformers": fallback}),
        forward_only=frozenset({"transformers"}),  # quadratic in the length
    )  # fmt: skip


def _causal_conv1d(sizes: tuple[int, ...], dtype: torch.dtype, device: str) -> Case:
    shape = conv_shapes.Shape(*sizes)

    def conv1d(x: Tensor, weight: Tensor, bias: Tensor, activation: str) -> Tensor:
        assert activation == "silu"
        y = F.conv1d(x.mT, weight[:, None], bias, padding=shape.width - 1, groups=shape.channels)
        gated: Tensor = F.silu(y[..., : shape.length]).mT
        return gated

    inputs = conv_shapes.example_inputs(shape, dtype=dtype, device=device)
    return Case(
        "causal_conv1d", _words(shape), shape.length, inputs, _contenders(K.causal_conv1d, {"F.conv1d": conv1d})
    )


def _gated_linear_attention(sizes: tuple[int, ...], decay: Any, dtype: torch.dtype, device: str) -> Case:
    shape = gla_shapes.Shape(*sizes)
    inputs = gla_shapes.example_inputs(shape, dtype=dtype, device=device, decay=decay)
    chunk = _fla("gla", "chunk_gla") if decay == "vector" else _fla("simple_gla", "chunk_simple_gla")

    def fla(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor) -> Tensor:
        o: Tensor = chunk(q, k, v, log_decay)[0]
        return o

    work = 4.0 * shape.batch * shape.length * shape.heads * shape.d_k * shape.d_v
    contenders = _contenders(
        K.gated_linear_attention,
        {"chunked in PyTorch": _ours(K.gated_linear_attention, "chunked"), "fla": fla if chunk else None},
    )
    name = f"{_words(shape)}, decay {decay}"
    return Case("gated_linear_attention", name, shape.length, inputs, contenders, operations=work)


def _delta_rule(sizes: tuple[int, ...], decay: Any, dtype: torch.dtype, device: str) -> Case:
    shape = delta_shapes.Shape(*sizes)
    inputs = delta_shapes.example_inputs(shape, dtype=dtype, device=device, decay=decay)
    places = {"none": ("delta_rule", "chunk_delta_rule"), "scalar": ("gated_delta_rule", "chunk_gated_delta_rule"),
              "vector": ("kda", "chunk_kda")}  # fmt: skip
    chunk = _fla(*places[decay])

    def fla(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_decay: Tensor | None = None) -> Tensor:
        decays = {} if log_decay is None else {"g": log_decay}
        o: Tensor = chunk(q=q, k=k, v=v, beta=beta, **decays)[0]
        return o

    work = 6.0 * shape.batch * shape.length * shape.heads * shape.d_k * shape.d_v
    contenders = _contenders(
        K.delta_rule,
        {"chunked in PyTorch": _ours(K.delta_rule, "chunked"), "fla": fla if chunk else None},
    )
    return Case("delta_rule", f"{_words(shape)}, decay {decay}", shape.length, inputs, contenders, operations=work)


def _ssd(sizes: tuple[int, ...], dtype: torch.dtype, device: str) -> Case:
    from transformers.models.mamba2.modeling_mamba2 import mamba2_chunk_scan

    shape = ssd_shapes.Shape(*sizes)
    inputs = ssd_shapes.example_inputs(shape, dtype=dtype, device=device)
    inputs.pop("z")

    def fallback(x: Tensor, **inputs: Any) -> Tensor:
        y: Tensor = mamba2_chunk_scan(x, **inputs, chunk_size=64)
        return y.to(x.dtype)

    work = 4.0 * shape.batch * shape.length * shape.heads * shape.head_dim * shape.d_state
    contenders = _contenders(K.ssd, {"transformers, chunk 64": fallback, "chunked in PyTorch": _ours(K.ssd, "chunked")})
    return Case("ssd", _words(shape), shape.length, inputs, contenders, operations=work)


def _linear_scan(sizes: tuple[int, ...], dtype: torch.dtype, device: str) -> Case:
    shape = linear_shapes.Shape(*sizes)
    inputs = linear_shapes.example_inputs(shape, dtype=dtype, device=device)
    contenders = _contenders(K.linear_scan, {"chunked in PyTorch": _ours(K.linear_scan, "chunked")})
    return Case("linear_scan", _words(shape), shape.length, inputs, contenders)


def _tree_conv(sizes: tuple[int, ...], dtype: torch.dtype, device: str) -> Case:
    shape = tree_shapes.Shape(*sizes)
    inputs = tree_shapes.example_inputs(shape, dtype=dtype, device=device)
    contenders = _contenders(K.tree_conv, {"shifted products": _ours(K.tree_conv, "reference")})
    return Case("tree_conv", _words(shape), shape.length, inputs, contenders)


def _vandermonde(sizes: tuple[int, ...], device: str) -> Case:
    shape = kernel_shapes.Shape(*sizes)
    inputs = kernel_shapes.vandermonde_inputs(shape, device=device)
    contenders = _contenders(
        K.vandermonde,
        {"chunked in PyTorch": _ours(K.vandermonde, "chunked"), "naive complex": _ours(K.vandermonde, "reference")},
    )
    return Case("vandermonde", _words(shape), shape.length, inputs, contenders)
