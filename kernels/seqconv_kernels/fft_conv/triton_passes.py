"""The kernels of the long convolution in their order: what one convolution and the gradient of a filter launch.

Where neighbouring channels do not fill a load, a signal is first turned to one channel after the other. A transform
over outer points leaves R complex signals per channel, which convolve with R spectra like any others.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._core.triton_functions import TYPES
from .._core.triton_support import accumulator_dtype
from .plan import TILES, Plan, forward_scale, inverse_scale, outer_tables, spectral_mask, tables
from .triton_kernels import convolve_kernel, correlate_kernel, response_kernel, spectrum_kernel, turn_kernel
from .triton_outer import outer_inverse_kernel, outer_kernel

LANES = 16
VECTOR = 16
"""Bytes of a load; where the channels of a program fill less, signals are turned."""
AHEAD = 8192
"""Points up to which a program loads one tile while it transforms another."""
HELD = 4096
"""Points whose sums of spectra stand in registers."""
OUTER_ROWS, OUTER_LANES, OUTER_BYTES = 64, 8, 16384
TURN = 64
PROGRAMS = 1024
"""How many suffice to keep a GPU busy; each then works through several rows with the same tables and spectra."""


class Signal(NamedTuple):
    """A real signal (batch, steps, channels), times its gate, whose first step stands at position ``first``."""

    x: Tensor
    gate: Tensor | None = None
    first: int = 0


class Output(NamedTuple):
    """Where a real signal y goes: ``out = gate y`` and ``out2 = gate2 y``, from position ``first`` on."""

    out: Tensor
    gate: Tensor | None = None
    first: int = 0
    out2: Tensor | None = None
    gate2: Tensor | None = None

    def like_each_other(self) -> "Output":
        """The same with gates of one layout."""
        if self.gate is None or self.gate2 is None or self.gate.stride() == self.gate2.stride():
            return self
        return self._replace(gate=self.gate.contiguous(), gate2=self.gate2.contiguous())


def _strides(x: Tensor | None) -> tuple[int, ...]:
    return (0, 0, 0) if x is None else x.stride()


class Convolution:
    """The plan of one call, and its constants on the device of the signal."""

    def __init__(self, u: Tensor, heard: int, taps: int, frequency_limit: float | None) -> None:
        # The interpreter multiplies matrices of bfloat16 wrongly.
        self.dtype = torch.float32 if u.dtype == torch.bfloat16 and u.device.type == "cpu" else u.dtype
        self.plan = plan = Plan.make(heard, taps, u.dtype, frequency_limit)
        self.heard, self.limit, self.device = heard, frequency_limit, u.device
        self.batch, self.channels = u.shape[0], u.shape[2]
        self.series = self.channels * plan.outer
        self.lanes = min(LANES, max(1, TILES[u.dtype] // plan.inner))
        self.grid = (triton.cdiv(self.series, self.lanes),)
        self.tile = (plan.rows, plan.columns, len(plan.kept))
        self.sizes = (*self.tile, self.lanes)
        self.types = (TYPES[accumulator_dtype(u)], "tf32x3" if self.dtype == torch.float32 else "ieee")
        self.tables = tables(plan, self.dtype, u.device)
        self.items = self.batch * plan.blocks
        self.parts = min(self.items, triton.cdiv(PROGRAMS, self.grid[0]))
        self.warps = 4 if self.dtype.itemsize == 2 and self.lanes * plan.inner <= 4096 else 8
        self.outer_stages = 2 if self.dtype.itemsize == 2 else 1
        self.stages = 2 if self.dtype.itemsize == 2 and plan.inner * self.lanes <= AHEAD else 1

    def run(self, spectrum: Tensor, source: Signal, target: Output, *, adjoint: bool = False) -> None:
        """Convolve ``source`` into ``target``; the adjoint correlates."""
        plan, target = self.plan, target.like_each_other()
        if plan.outer > 1:
            mid = self._outwards(source)
            re, im = (part.flatten(1, 2).mT for part in mid)
            self._convolve(spectrum, Signal(re), im, Output(re), im, adjoint)
            self._inwards(mid, target, inverse_scale(plan.outer))
        elif self._must_turn(target.out):
            turned = self._turned_room(target.out)
            self._convolve(spectrum, self._turned(source), None, Output(turned, first=target.first), None, adjoint)
            _turn(Signal(turned, target.gate), target, self.types[0])
        else:
            self._convolve(spectrum, self._turned(source), None, target, None, adjoint)

    def _convolve(
        self,
        spectrum: Tensor,
        source: Signal,
        x_im: Tensor | None,
        target: Output,
        out_im: Tensor | None,
        adjoint: bool,
    ) -> None:
        plan, (x, x_gate, x_first), (out, gate, first, out2, gate2) = self.plan, source, target
        length = self.heard if plan.outer == 1 else plan.inner
        step, shift = (plan.step, 0 if adjoint else plan.overlap) if plan.outer == 1 else (plan.inner, 0)
        convolve_kernel[(*self.grid, self.parts)](
            x, x_im, x_gate, spectrum, out, out_im, gate, out2, gate2, *self.tables,
            *x.stride(), x_first, *_strides(x_gate), *out.stride(), first, *_strides(gate if gate2 is None else gate2),
            self.batch, self.items, self.parts, length, self.series, step, shift,
            inverse_scale(plan.rows, plan.columns), adjoint, *self.sizes, *self.types,
            num_warps=self.warps, num_stages=self.stages,
        )  # fmt: skip

    def spectrum(self, h: Tensor) -> Tensor:
        """Of the taps (channels, taps): (series, 2, N1, K2)."""
        plan, scale = self.plan, forward_scale(self.plan.outer, self.plan.rows, self.plan.columns)
        spectrum = h.new_empty(self.series, 2, plan.rows, len(plan.kept), dtype=self.dtype)
        im, h = None, h.contiguous()
        if plan.outer > 1:
            re, im = self._outwards(Signal(h.T[None]))
            h = re.flatten(0, 2)
        spectrum_kernel[self.grid](
            h, im, spectrum, *self.tables, 1, h.stride(0), h.shape[1], self.series, scale,
            *self.sizes, *self.types, num_warps=self.warps, num_stages=self.stages,
        )  # fmt: skip
        return spectrum if self.limit is None else spectrum * self._mask(spectrum)

    def filter_gradient(self, heard: Signal, dz: Signal, taps: int) -> Tensor:
        """(channels, taps), from what the filter heard and the gradient of what it returned."""
        plan = self.plan
        parts = heard.x.new_empty(self.parts, self.series, 2, plan.rows, len(plan.kept), dtype=self._wide)
        if plan.outer > 1:
            x, g = self._outwards(heard), self._outwards(dz)
            (re, im), (g_re, g_im) = ([part.flatten(1, 2).mT for part in t] for t in (x, g))
            self._correlate(parts, Signal(re), im, Signal(g_re), g_im)
        else:
            self._correlate(parts, self._turned(heard), None, self._turned(dz), None)
        spectra = parts.sum(0)
        if self.limit is not None:
            spectra *= self._mask(spectra)
        # Half precision might not hold the sums over a batch.
        peak = spectra.view(self.channels, -1).abs().amax(1).clamp(min=1e-30)
        spectra /= peak.repeat_interleave(plan.outer)[:, None, None, None]
        peak *= forward_scale(plan.outer, plan.rows, plan.columns)
        return self._response(spectra, taps) * peak[:, None]

    @property
    def _wide(self) -> torch.dtype:
        return torch.float64 if self.dtype == torch.float64 else torch.float32

    def _correlate(self, parts: Tensor, heard: Signal, x_im: Tensor | None, dz: Signal, g_im: Tensor | None) -> None:
        plan, (x, x_gate, x_first), (g, g_gate, g_first) = self.plan, heard, dz
        length, step, shift = (self.heard, plan.step, plan.overlap) if plan.outer == 1 else (plan.inner, plan.inner, 0)
        lanes = max(1, min(self.lanes, HELD // plan.inner))
        correlate_kernel[(triton.cdiv(self.series, lanes), self.parts)](
            x, x_im, x_gate, g, g_im, g_gate, parts, *self.tables,
            *x.stride(), x_first, *_strides(x_gate), *g.stride(), g_first, *_strides(g_gate),
            self.batch, self.items, self.parts, length, self.series, step, shift,
            plan.inner * lanes <= HELD, *self.tile, lanes, *self.types, num_warps=self.warps, num_stages=self.stages,
        )  # fmt: skip

    def _response(self, spectra: Tensor, taps: int) -> Tensor:
        plan, scale = self.plan, inverse_scale(self.plan.rows, self.plan.columns)
        h = spectra.new_empty(self.channels, taps)
        if plan.outer > 1:
            mid = h.new_empty(2, 1, self.channels, plan.outer, plan.inner, dtype=self.dtype)
            re, im, step, length = *mid, plan.inner, plan.inner
        else:
            re, im, step, length = h, None, taps, taps
        response_kernel[self.grid](
            spectra, re, im, *self.tables, 1, step, length, self.series, scale,
            *self.sizes, *self.types, num_warps=self.warps, num_stages=self.stages,
        )  # fmt: skip
        if plan.outer > 1:
            self._inwards(mid, Output(h.T[None]), inverse_scale(plan.outer))
        return h

    def _mask(self, spectra: Tensor) -> Tensor:
        """Of the kept frequencies, shaped for spectra (series, 2, N1, K2)."""
        assert self.limit is not None
        mask = spectral_mask(self.plan, self.limit, self.device).to(spectra.dtype)
        return mask.repeat(self.channels, 1, 1)[:, None]

    def _must_turn(self, x: Tensor) -> bool:
        return x.stride(1) != 1 and self.lanes * x.dtype.itemsize < VECTOR

    def _turned_room(self, like: Tensor) -> Tensor:
        batch, length, channels = like.shape
        return like.new_empty(batch, channels, length).mT

    def _turned(self, signal: Signal) -> Signal:
        """One channel after the other, gated."""
        if not self._must_turn(signal.x) and (signal.gate is None or not self._must_turn(signal.gate)):
            return signal
        room = self._turned_room(signal.x)
        _turn(signal, Output(room), self.types[0])
        return Signal(room, None, signal.first)

    def _outwards(self, signal: Signal) -> Tensor:
        """The outer transform of a signal, (2, batch, channels, R, inner)."""
        (x, gate, first), plan, (rows, block, lanes) = signal, self.plan, self._outer_tile
        batch, length, channels = x.shape
        mid = x.new_empty(2, batch, channels, plan.outer, plan.inner, dtype=self.dtype)
        grid = (plan.inner // block, triton.cdiv(channels, lanes) * (plan.outer // rows), batch)
        outer_kernel[grid](
            x, gate, mid, *outer_tables(plan, block, self.dtype, self.device), *x.stride(), first, *_strides(gate),
            mid.stride(0), first + length, channels, plan.inner, plan.outer, rows, block, lanes, *self.types,
            num_warps=8, num_stages=self.outer_stages,
        )  # fmt: skip
        return mid

    def _inwards(self, mid: Tensor, target: Output, scale: float) -> None:
        """The inverse outer transform."""
        (out, gate, first, out2, gate2), plan, (rows, block, lanes) = target, self.plan, self._outer_tile
        batch, length, channels = out.shape
        grid = (plan.inner // block, triton.cdiv(channels, lanes) * (plan.outer // rows), batch)
        outer_inverse_kernel[grid](
            mid, out, gate, out2, gate2, *outer_tables(plan, block, self.dtype, self.device),
            *out.stride(), first, *_strides(gate if gate2 is None else gate2), mid.stride(0), first + length, channels,
            plan.inner, scale, plan.outer, rows, block, lanes, *self.types,
            num_warps=8, num_stages=self.outer_stages,
        )  # fmt: skip

    @property
    def _outer_tile(self) -> tuple[int, int, int]:
        rows = min(self.plan.outer, OUTER_ROWS)
        return rows, OUTER_BYTES // (self.dtype.itemsize * rows * OUTER_LANES), OUTER_LANES


def _turn(signal: Signal, target: Output, sums: tl.dtype) -> None:
    (x, gate, _), (out, _, _, out2, gate2) = signal, target
    batch, length, channels = x.shape
    turn_kernel[(triton.cdiv(length, TURN), triton.cdiv(channels, TURN), batch)](
        x, gate, out, gate2, out2, *x.stride(), *_strides(gate if gate2 is None else gate2), *out.stride(),
        length, channels, TURN, TURN, sums,
    )  # fmt: skip
