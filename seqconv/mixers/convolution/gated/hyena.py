"""Hyena: gates and long convolutions in turn, with implicit filters.

Equation, with N = ``order``: ``(x_0, ..., x_{N-1}, v) = shortconv(W_in u)`` and then, for n = N-1, ..., 1::

    v ← h_{N-1-n} * (x_n ⊙ v) + D_{N-1-n} ⊙ (x_n ⊙ v)         and finally  y = W_out φ(x_0 ⊙ v)

so that order N has N - 1 long filters. All of them come from one network
(:class:`~seqconv.filters.implicit.hyena.HyenaFilter`); heads share them.

Source: Poli et al. 2023 (arXiv 2302.10866); src/models/sequence/hyena.py of HazyResearch/safari (commit 02220c69) and
of HazyResearch/hyena-dna (commit d553021b). Two defects of that code, a bidirectional form that shifts the signal on a
circle and blocks that wrap around, are computed with ``circular=True``.
"""

from typing import Unpack

import torch
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error

from ....convolution.blockwise import convolve_blocks, convolve_circular
from ....convolution.long_convolution import Kernel, LongConvolution, convolve
from ....filters.implicit.hyena import HyenaFilter, HyenaFilterOptions
from ....layers.activations import activate, check_activation
from ....layers.linear import Linear
from ....layers.residual import Dropout
from ....layers.short_convolution import ShortConvolution
from ....mixer import Mixer
from ....packing import zero_padding
from ....registry import register
from ....state import State, state_class
from ....types import StateKind


@state_class
class HyenaState(State):
    """Last inputs of the short convolution, and the state of every long one."""

    short: Tensor
    long: tuple[State, ...]


@register(
    "hyena",
    examples=(
        {"order": 3, "l_max": 30, "filter_order": 8, "d_conv": 4, "w": 3.0, "emb_dim": 5},
        {"order": 3, "num_heads": 2, "post_order_ffn": True, "outer_mixing": True, "expand": 2, "l_max": 16},
        {"bidirectional": True, "l_max": 40, "normalize": True, "shift": 0.1},
        {"num_blocks": 4, "l_max": 64, "activation": "silu", "skip": False},
    ),
)
class Hyena(Mixer):
    """Gated long convolutions with implicit filters.

    Args:
        d_model: width of inputs and outputs.
        l_max: taps of the long filters; longer sequences are mixed within this window.
        order: number of gates, at least 2; one long convolution less.
        num_heads: heads, each of expand·d_model/num_heads channels, that share the filters.
        expand: width between the projections over d_model.
        d_conv: taps of the short convolution, which is causal in every case.
        num_blocks: blocks of ``l_max/num_blocks`` tokens that do not attend to each other; more than one are computed
            on whole sequences only.
        outer_mixing: multiply v by the sum of a gate over the channels of its head, instead of channel by channel.
        post_order_ffn: a learned mixing of the heads after every long convolution.
        activation: φ.
        skip: whether the skips D act.
        in_proj_bias: whether W_in has a bias.
        bidirectional: long filters that reach into the future too (lag 1 on), with taps of their own.
        circular: compute ``bidirectional`` and ``num_blocks`` on circles, as the originals do; changes nothing else.
        dropout: probability, after every gate but the last.
        **filter: see :class:`~seqconv.filters.implicit.hyena.HyenaFilterOptions`.

    Raises:
        ValueError: ``order < 2``, heads or blocks that do not divide the width or ``l_max``, unknown words.
    """

    def __init__(
        self,
        d_model: int,
        *,
        l_max: int = 1024,
        order: int = 2,
        num_heads: int = 1,
        expand: int = 1,
        d_conv: int = 3,
        num_blocks: int = 1,
        outer_mixing: bool = False,
        post_order_ffn: bool = False,
        activation: str = "identity",
        skip: bool = True,
        in_proj_bias: bool = True,
        bidirectional: bool = False,
        circular: bool = False,
        dropout: float = 0.0,
        **filter: Unpack[HyenaFilterOptions],
    ) -> None:
        super().__init__(d_model, causal=num_blocks == 1 and not bidirectional)
        width, stages = d_model * expand, order - 1
        _check_sizes(order, width, num_heads, l_max, num_blocks, d_conv)
        self.order, self.num_heads, self.outer_mixing = order, num_heads, outer_mixing
        self.num_blocks, self.block, self.l_max = num_blocks, l_max // num_blocks, l_max
        self.circular = circular and (bidirectional or num_blocks > 1)
        self.bidirectional = bidirectional
        self.activation = check_activation("hyena mixer", activation)
        self.in_proj = Linear(d_model, (order + 1) * width, bias=in_proj_bias)
        self.short_conv = ShortConvolution((order + 1) * width, d_conv, activation=None)
        two_sided, head_dim = bidirectional and not circular, width // num_heads
        groups = 2 * stages if two_sided else stages
        long_filter = HyenaFilter(groups * head_dim, l_max=l_max, groups=groups, **filter)
        self.convolution = LongConvolution(long_filter, two_sided=two_sided, stages=stages, heads=num_heads)
        self.D = nn.Parameter(torch.empty(stages, head_dim)) if skip else None
        mixing = torch.empty(stages, num_heads, num_heads)
        self.head_mixing = nn.Parameter(mixing) if post_order_ffn else None
        self.dropout = Dropout(dropout)
        self.out_proj = Linear(width, d_model)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the skips from N(0, 1) and the mixing of the heads from N(0, 1/head_dim)."""
        if self.D is not None:
            nn.init.normal_(self.D)
        if self.head_mixing is not None:
            head_dim = self.out_proj.in_features // self.num_heads
            nn.init.normal_(self.head_mixing, std=head_dim**-0.5)

    @property
    def state_kind(self) -> StateKind:
        """That of the long convolutions; none if bidirectional or in several blocks."""
        return self.convolution.state_kind if self.causal else "none"

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        if self.circular:
            self._check_circle(x.shape[1], mask)
        gates, v, _ = self._project(x, mask)
        span = self.block if self.num_blocks > 1 and not self.circular else x.shape[1]
        for stage, kernel in enumerate(self.convolution.kernels(span)):
            v = self._convolve(self._gate(v, gates[-1 - stage]), kernel, self._skip(stage), mask)
            v = self._mix_heads(v, stage)
        return self._finish(v, gates[0])

    def _init_state(self, batch_size: int, max_length: int | None, device: torch.device, dtype: torch.dtype) -> State:
        short = self.short_conv.init_state(batch_size, device, dtype)
        return HyenaState(short, self.convolution.init_states(batch_size, max_length))

    def _prefill(self, x: Tensor, state: State, mask: Tensor | None) -> tuple[Tensor, State]:
        assert isinstance(state, HyenaState)
        gates, v, short = self._project(x, mask, state.short)
        long = []
        for stage, before in enumerate(state.long):
            v, after = self.convolution.prefill(
                self._gate(v, gates[-1 - stage]), before, stage=stage, skip=self._skip(stage)
            )
            v = self._mix_heads(v, stage)
            long.append(after)
        return self._finish(v, gates[0]), HyenaState(short, tuple(long))

    def _step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        assert isinstance(state, HyenaState)
        mixed, short = self.short_conv.step(self.in_proj(x_t), state.short)
        *gates, v = mixed.chunk(self.order + 1, dim=-1)
        long = []
        for stage, before in enumerate(state.long):
            v, after = self.convolution.step(
                self._gate(v, gates[-1 - stage]), before, stage=stage, skip=self._skip(stage)
            )
            v = self._mix_heads(v, stage)
            long.append(after)
        return self._finish(v, gates[0]), HyenaState(short, tuple(long))

    def _project(
        self, x: Tensor, mask: Tensor | None, short: Tensor | None = None
    ) -> tuple[list[Tensor], Tensor, Tensor]:
        """Gates and v, zero at padding, and the last inputs of the short convolution."""
        mixed, after = self.short_conv(zero_padding(self.in_proj(x), mask), short)
        *gates, v = zero_padding(mixed, mask).chunk(self.order + 1, dim=-1)
        return gates, v, after

    def _gate(self, v: Tensor, gate: Tensor) -> Tensor:
        if self.outer_mixing:
            heads = gate.unflatten(-1, (self.num_heads, -1))
            gate = heads.sum(-1, keepdim=True).expand_as(heads).flatten(-2)
        gated: Tensor = self.dropout(v * gate)
        return gated

    def _convolve(self, v: Tensor, kernel: Kernel, skip: Tensor | None, mask: Tensor | None) -> Tensor:
        if self.circular:
            delayed = self.bidirectional
            return convolve_circular(v, kernel.past.repeat(self.num_heads, 1), skip, self.num_blocks, delayed=delayed)
        if self.num_blocks > 1:
            return convolve_blocks(v, lambda block: convolve(block, kernel, skip=skip), self.block, mask)
        return convolve(v, kernel, skip=skip)

    def _skip(self, stage: int) -> Tensor | None:
        if self.D is None:
            return None
        return self.D[stage] if self.num_heads == 1 else self.D[stage].repeat(self.num_heads)

    def _mix_heads(self, v: Tensor, stage: int) -> Tensor:
        if self.head_mixing is None:
            return v
        heads = v.unflatten(-1, (self.num_heads, -1))
        return torch.einsum("gh,...gc->...hc", self.head_mixing[stage], heads).flatten(-2)

    def _finish(self, v: Tensor, gate: Tensor) -> Tensor:
        y: Tensor = self.out_proj(activate(self.activation, v * gate))
        return y

    def _check_circle(self, length: int, mask: Tensor | None) -> None:
        if mask is not None or length > self.l_max or length % self.num_blocks:
            got = f"{length} tokens{'' if mask is None else ' with padding or packing'}"
            wanted = f"at most l_max={self.l_max} unpadded tokens, a multiple of num_blocks={self.num_blocks}"
            raise argument_error(
                self._op("forward"), got, wanted, "build it with circular=False, which has no such limits"
            )


def _check_sizes(order: int, width: int, num_heads: int, l_max: int, num_blocks: int, d_conv: int) -> None:
    if order < 2 or width < 1 or d_conv < 1:
        got = f"order={order}, d_conv={d_conv}, an inner width of {width}"
        raise argument_error("hyena mixer", got, "order >= 2 and sizes of at least 1", "correct the sizes")
    for name, parts, whole in (("num_heads", num_heads, width), ("num_blocks", num_blocks, l_max)):
        if parts < 1 or whole % parts:
            remedy = f"change {name}, or the size it divides"
            raise argument_error("hyena mixer", f"{name}={parts}", f"a divisor of {whole}", remedy)
