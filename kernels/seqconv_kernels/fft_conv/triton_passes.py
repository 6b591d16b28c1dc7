"""The kernels of the long convolution in their order: what one convolution and the gradient of a filter launch.

Where neighbouring channels do not fill a load, a signal is transposed first, to one channel after the other. A
transform over outer points leaves R complex signals per channel, which convolve with R spectra like any others.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._core.triton.functions import TYPES
from .._core.triton.support import accumulator_dtype
from .plan import TILES, Plan, forward_scale, inverse_scale, outer_tables, spectral_mask, tables
from .triton_kernels import convolve_kernel, correlate_kernel, response_kernel, spectrum_kernel, transpose_kernel
from .triton_outer import outer_inverse_kernel, outer_kernel
from .triton_transform import OutputView, SignalView

LANES = 16
"""Channels of a program at most: their half-precision values are 32 bytes, one sector of the memory."""
LOAD_BYTES = 16
"""Bytes of the widest load; where the channels of a program fill less, signals are transposed."""
PREFETCH_POINTS = 8192
"""Points up to which a program loads one tile while it transforms another; more do not fit in shared memory twice."""
REGISTER_POINTS = 4096
"""Points of a tile whose sums of spectra are kept in registers, 32 per thread of 256; a whole transform spills."""
OUTER_ROWS, OUTER_LANES, OUTER_BYTES = 64, 8, 16384
"""Tile of an outer transform: rows of its matrix, channels, and bytes of its operand in shared memory."""
TRANSPOSE_TILE = 64
PROGRAMS = 1024
"""Programs that keep a GPU busy; each then works through several rows with the same tables and spectra."""
TINY = 1e-30
"""The least peak that sums of spectra are divided by: sums of zeros stay zeros."""


class Signal(NamedTuple):
    """A real signal (batch, steps, channels), times its gate, whose first step is at position ``first``."""

    x: Tensor
    gate: Tensor | None = None
    first: int = 0

    def view(self, im: Tensor | None = None) -> SignalView:
        """As a kernel takes it, with imaginary parts if it is complex."""
        return SignalView(self.x, im, self.gate, *self.x.stride(), self.first, *_strides(self.gate))  # type: ignore[call-arg]


class Output(NamedTuple):
    """Where a real signal y goes: ``out = gate y`` and ``other = other_gate y``, from position ``first`` on."""

    out: Tensor
    gate: Tensor | None = None
    first: int = 0
    other: Tensor | None = None
    other_gate: Tensor | None = None

    def with_equal_strides(self) -> "Output":
        """The same with gates of one layout."""
        if self.gate is None or self.other_gate is None or self.gate.stride() == self.other_gate.stride():
            return self
        return self._replace(gate=self.gate.contiguous(), other_gate=self.other_gate.contiguous())

    def view(self, im: Tensor | None = None) -> OutputView:
        """As a kernel takes it, with imaginary parts if it is complex."""
        gates = _strides(self.gate if self.other_gate is None else self.other_gate)
        parts = self.out, im, self.gate, self.other, self.other_gate
        return OutputView(*parts, *self.out.stride(), self.first, *gates)  # type: ignore[call-arg]


def _strides(x: Tensor | None) -> tuple[int, ...]:
    return (0, 0, 0) if x is None else x.stride()


def _lanes(inner: int, dtype: torch.dtype) -> int:
    """Channels of a program.

    Where they do not fill a load, signals are transposed and neighbouring channels save nothing: a tile half as large
    then needs no spilled register and lets two programs share a multiprocessor.
    """
    lanes = min(LANES, TILES[dtype] // inner)
    return max(1, lanes if lanes * dtype.itemsize >= LOAD_BYTES else lanes // 2)


class Convolution:
    """The plan of one call over ``length`` inputs (history and signal), and its constants on the signal's device."""

    def __init__(self, u: Tensor, length: int, taps: int, frequency_limit: float | None) -> None:
        # The interpreter multiplies matrices of bfloat16 wrongly.
        self.dtype = torch.float32 if u.dtype == torch.bfloat16 and u.device.type == "cpu" else u.dtype
        self.plan = plan = Plan.make(length, taps, u.dtype, frequency_limit)
        self.length, self.limit, self.device = length, frequency_limit, u.device
        self.batch, self.channels = u.shape[0], u.shape[2]
        self.series = self.channels * plan.outer
        self.lanes = _lanes(plan.inner, u.dtype)
        self.grid = (triton.cdiv(self.series, self.lanes),)
        self.tile = (plan.rows, plan.columns, len(plan.kept))
        self.sizes = (*self.tile, self.lanes)
        self.types = (TYPES[accumulator_dtype(u)], "tf32x3" if self.dtype == torch.float32 else "ieee")
        self.tables = tables(plan, self.dtype, u.device)
        self.items = self.batch * plan.blocks
        # Programs per block of channels: enough to fill the GPU, each loading its tables and spectrum once.
        self.parts = min(self.items, triton.cdiv(PROGRAMS, self.grid[0]))
        # Wider dtypes multiply in three passes of tf32, whose operands leave no shared memory to prefetch into.
        half = self.dtype.itemsize == 2
        warps = 4 if half and self.lanes * plan.inner <= 4096 else 8
        self.resources = {"num_warps": warps, "num_stages": 2 if half and self._prefetches else 1}
        self.outer_resources = {"num_warps": 8, "num_stages": 2 if half else 1}

    @property
    def _prefetches(self) -> bool:
        return self.plan.inner * self.lanes <= PREFETCH_POINTS

    def run(self, spectrum: Tensor, source: Signal, target: Output, *, adjoint: bool = False) -> None:
        """Convolve ``source`` into ``target``; the adjoint correlates.

        Inputs that are not finite reach outputs from their step on only, where those depend on no later input.
        """
        plan, target, isolate = self.plan, target.with_equal_strides(), not adjoint and self.limit is None
        if plan.outer > 1:
            # Three passes over memory: over n1, R inner convolutions in place, back over k1.
            bad = None
            if isolate:
                bad = source.x.new_full(
                    (self.batch, self.channels), source.first + source.x.shape[1], dtype=torch.int32
                )
            mid = self._outer_transform(source, bad)
            # R complex signals per channel, each convolved in place.
            re, im = (part.flatten(1, 2).mT for part in mid)
            self._convolve(spectrum, Signal(re).view(im), Output(re).view(im), adjoint, False)
            self._inverse_outer_transform(mid, target, inverse_scale(plan.outer), bad)
        elif self._needs_transpose(target.out):
            # Few channels per program: reading them from rows of channels would use a few bytes of each line.
            transposed = self._channel_first_buffer(target.out)
            out = Output(transposed, first=target.first)
            self._convolve(spectrum, self._transposed(source).view(), out.view(), adjoint, isolate)
            _transpose(Signal(transposed, target.gate), target, self.types[0])
        else:
            self._convolve(spectrum, self._transposed(source).view(), target.view(), adjoint, isolate)

    def _convolve(self, spectrum: Tensor, source: SignalView, target: OutputView, adjoint: bool, isolate: bool) -> None:
        plan = self.plan
        length = self.length if plan.outer == 1 else plan.inner
        # The adjoint reads after each block what the forward reads before it, so it drops outputs at the other end.
        step, shift = (plan.step, 0 if adjoint else plan.overlap) if plan.outer == 1 else (plan.inner, 0)
        convolve_kernel[(*self.grid, self.parts)](
            source, spectrum, target, *self.tables, self.batch, self.items, self.parts, length, self.series, step,
            shift, inverse_scale(plan.rows, plan.columns), adjoint, isolate, *self.sizes, *self.types,
            **self.resources,
        )  # fmt: skip

    def spectrum(self, h: Tensor) -> Tensor:
        """Of the taps (channels, taps): (series, 2, N1, K2)."""
        plan, scale = self.plan, forward_scale(self.plan.outer, self.plan.rows, self.plan.columns)
        spectrum = h.new_empty(self.series, 2, plan.rows, len(plan.kept), dtype=self.dtype)
        im, h = None, h.contiguous()
        if plan.outer > 1:
            # The filter is a signal of a batch of one, its spectra R series per channel.
            re, im = self._outer_transform(Signal(h.T[None]))
            h = re.flatten(0, 2)
        spectrum_kernel[self.grid](
            h, im, spectrum, *self.tables, 1, h.stride(0), h.shape[1], self.series, scale,
            *self.sizes, *self.types, **self.resources,
        )  # fmt: skip
        return spectrum if self.limit is None else spectrum * self._mask(spectrum)

    def filter_gradient(self, v: Signal, dz: Signal, taps: int) -> Tensor:
        """(channels, taps), from the input v of the filter and the gradient of its output."""
        plan = self.plan
        parts = v.x.new_empty(self.parts, self.series, 2, plan.rows, len(plan.kept), dtype=self._accumulator)
        if plan.outer > 1:
            x, g = self._outer_transform(v), self._outer_transform(dz)
            (re, im), (g_re, g_im) = ([part.flatten(1, 2).mT for part in t] for t in (x, g))
            self._correlate(parts, Signal(re).view(im), Signal(g_re).view(g_im))
        else:
            self._correlate(parts, self._transposed(v).view(), self._transposed(dz).view())
        # In a fixed order: the same bits every time.
        spectra = parts.sum(0)
        if self.limit is not None:
            spectra *= self._mask(spectra)
        # Half precision might not hold the sums over a batch: the inverse transform runs on them over their peak.
        peak = spectra.view(self.channels, -1).abs().amax(1).clamp(min=TINY)
        spectra /= peak.repeat_interleave(plan.outer)[:, None, None, None]
        peak *= forward_scale(plan.outer, plan.rows, plan.columns)
        return self._response(spectra, taps) * peak[:, None]

    @property
    def _accumulator(self) -> torch.dtype:
        return torch.float64 if self.dtype == torch.float64 else torch.float32

    def _correlate(self, parts: Tensor, v: SignalView, dz: SignalView) -> None:
        plan = self.plan
        # With an outer transform every series is one block of `inner` points, without overlap.
        length, step, shift = (self.length, plan.step, plan.overlap) if plan.outer == 1 else (plan.inner, plan.inner, 0)
        lanes = max(1, min(self.lanes, REGISTER_POINTS // plan.inner))
        in_registers = plan.inner < REGISTER_POINTS
        # Sums in registers double what a thread holds, so twice as many threads share it.
        resources = self.resources | ({"num_warps": 8} if in_registers else {})
        correlate_kernel[(triton.cdiv(self.series, lanes), self.parts)](
            v, dz, parts, *self.tables, self.batch, self.items, self.parts, length, self.series, step, shift,
            in_registers, *self.tile, lanes, *self.types, **resources,
        )  # fmt: skip

    def _response(self, spectra: Tensor, taps: int) -> Tensor:
        """The inverse transform of spectra (series, 2, N1, K2): (channels, taps)."""
        plan, scale = self.plan, inverse_scale(self.plan.rows, self.plan.columns)
        h = spectra.new_empty(self.channels, taps)
        if plan.outer > 1:
            mid = h.new_empty(2, 1, self.channels, plan.outer, plan.inner, dtype=self.dtype)
            re, im, step, length = *mid, plan.inner, plan.inner
        else:
            re, im, step, length = h, None, taps, taps
        response_kernel[self.grid](
            spectra, re, im, *self.tables, 1, step, length, self.series, scale,
            *self.sizes, *self.types, **self.resources,
        )  # fmt: skip
        if plan.outer > 1:
            self._inverse_outer_transform(mid, Output(h.T[None]), inverse_scale(plan.outer))
        return h

    def _mask(self, spectra: Tensor) -> Tensor:
        """Of the kept frequencies, shaped for spectra (series, 2, N1, K2)."""
        assert self.limit is not None
        mask = spectral_mask(self.plan, self.limit, self.device).to(spectra.dtype)
        return mask.repeat(self.channels, 1, 1)[:, None]

    def _needs_transpose(self, x: Tensor) -> bool:
        return x.stride(1) != 1 and self.lanes * x.dtype.itemsize < LOAD_BYTES

    def _channel_first_buffer(self, like: Tensor) -> Tensor:
        """(batch, length, channels), dense along the length."""
        batch, length, channels = like.shape
        return like.new_empty(batch, channels, length).mT

    def _transposed(self, signal: Signal) -> Signal:
        """The signal dense along its length and multiplied by its gate, where loads would be narrow otherwise."""
        if not self._needs_transpose(signal.x) and (signal.gate is None or not self._needs_transpose(signal.gate)):
            return signal
        buffer = self._channel_first_buffer(signal.x)
        _transpose(signal, Output(buffer), self.types[0])
        return Signal(buffer, None, signal.first)

    def _outer_transform(self, signal: Signal, first_bad: Tensor | None = None) -> Tensor:
        """The outer transform of a signal, (2, batch, channels, R, inner); it fills in the first steps not finite."""
        plan, (rows, block, lanes) = self.plan, self._outer_tile
        batch, length, channels = signal.x.shape
        mid = signal.x.new_empty(2, batch, channels, plan.outer, plan.inner, dtype=self.dtype)
        outer_kernel[self._outer_grid(channels, batch)](
            signal.view(), mid, first_bad, *outer_tables(plan, block, self.dtype, self.device), mid.stride(0),
            signal.first + length, channels, plan.inner, plan.outer, rows, block, lanes, *self.types,
            **self.outer_resources,
        )  # fmt: skip
        return mid

    def _inverse_outer_transform(
        self, mid: Tensor, target: Output, scale: float, first_bad: Tensor | None = None
    ) -> None:
        plan, (rows, block, lanes) = self.plan, self._outer_tile
        batch, length, channels = target.out.shape
        outer_inverse_kernel[self._outer_grid(channels, batch)](
            mid, target.view(), first_bad, *outer_tables(plan, block, self.dtype, self.device), mid.stride(0),
            target.first + length, channels, plan.inner, scale, plan.outer, rows, block, lanes, *self.types,
            **self.outer_resources,
        )  # fmt: skip

    @property
    def _outer_tile(self) -> tuple[int, int, int]:
        """Rows, columns and channels of a program of the outer transform."""
        rows = min(self.plan.outer, OUTER_ROWS)
        return rows, OUTER_BYTES // (self.dtype.itemsize * rows * OUTER_LANES), OUTER_LANES

    def _outer_grid(self, channels: int, batch: int) -> tuple[int, int, int]:
        rows, block, lanes = self._outer_tile
        return self.plan.inner // block, triton.cdiv(channels, lanes) * (self.plan.outer // rows), batch


def _transpose(signal: Signal, target: Output, accumulator: tl.dtype) -> None:
    """Copy between layouts, times the gates."""
    batch, length, channels = signal.x.shape
    tiles = triton.cdiv(length, TRANSPOSE_TILE), triton.cdiv(channels, TRANSPOSE_TILE)
    transpose_kernel[(*tiles, batch)](
        signal.view(), target.view(), length, channels, TRANSPOSE_TILE, TRANSPOSE_TILE, accumulator
    )
