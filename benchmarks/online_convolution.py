"""Exact online convolution against cached direct convolution: one row of 768 channels, float32, no prompt.

Per 1,000 tokens, averaged over a context as long as the filter. The direct convolution multiplies all inputs so far,
kept time-last, with the reversed filter; its mean over the context is taken over eight places spread evenly. The
latencies are those of single tokens, each the median over several more runs over the whole context, so that what
interrupts a run now and then does not count, but what a token always waits for does.
"""

import gc
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from seqconv.convolution import init_online, online_step
from seqconv_kernels import fft_conv

from .measure import check_close, interleaved

CHANNELS, LENGTHS = 768, (1024, 2048, 4096, 8192, 16384)
PLACES, REPEATS, RUNS = 8, 16, 7
DIRECTIONS = {"1000 tokens": False, "1000 tokens, bounded work per token": True}


def measure(seconds: float) -> list[dict[str, object]]:
    """Two rows per length: least work in total, and bounded work per token."""
    generator, rows = torch.Generator().manual_seed(0), []
    for length in LENGTHS:
        taps = torch.randn(CHANNELS, length, generator=generator) / length**0.5
        u = torch.randn(1, length, CHANNELS, generator=generator)
        for direction, smooth in DIRECTIONS.items():
            check_close("online convolution", torch.stack(_decode(u, taps, smooth)[0], dim=1), fft_conv(u, taps))
            runs: dict[str, Callable[[], object]] = {
                "seqconv": lambda u=u, taps=taps, smooth=smooth: _decode(u, taps, smooth),  # type: ignore[misc]
                "cached direct convolution": _direct(taps),
            }
            ms = interleaved(runs, seconds=seconds)
            tokens = {"seqconv": length, "cached direct convolution": PLACES * REPEATS}
            latencies = _latencies(u, taps, smooth)
            rows.append({
                "shape": f"{CHANNELS} channels, context {length}",
                "direction": direction,
                "ms": {name: 1000 * ms[name] / tokens[name] for name in ms},
                "latency ms": {"median": latencies[length // 2], "worst": latencies[-1]},
                "worst over median": latencies[-1] / latencies[length // 2],
            })  # fmt: skip
    return rows


@torch.no_grad()
def _decode(u: Tensor, taps: Tensor, smooth: bool) -> tuple[list[Tensor], list[float]]:
    """Outputs, and the milliseconds of every token."""
    state, outputs, times = init_online(taps, 1, smooth=smooth), [], []
    for u_t in u.unbind(1):
        start = time.thread_time()
        y_t, state = online_step(u_t, state)
        times.append(1e3 * (time.thread_time() - start))
        outputs.append(y_t)
    return outputs, times


def _latencies(u: Tensor, taps: Tensor, smooth: bool) -> list[float]:
    """The milliseconds of every token, each the median over ``RUNS``, in rising order."""
    gc.collect()
    gc.disable()
    runs = [_decode(u, taps, smooth)[1] for _ in range(RUNS)]
    gc.enable()
    return sorted(map(statistics.median, zip(*runs, strict=True)))


def _direct(taps: Tensor) -> Callable[[], object]:
    length = taps.shape[1]
    cache, reverse = torch.randn(1, *taps.shape), taps.flip(1)
    contexts = [length * (2 * i + 1) // (2 * PLACES) for i in range(PLACES)]

    @torch.no_grad()
    def run() -> None:
        for n in contexts:
            for _ in range(REPEATS):
                torch.linalg.vecdot(cache[..., :n], reverse[:, length - n :])

    return run
