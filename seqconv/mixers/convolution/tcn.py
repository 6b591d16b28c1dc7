"""Temporal convolution network in place of MEGA's moving average: ``y = silu(TCN(x) + ω ⊙ x)``.

A block is a stack of dilated causal depthwise convolutions, level i with dilation ``f^i`` and K taps
(:mod:`seqconv_kernels.dilated_conv`); B blocks follow each other. Receptive field
``R = 1 + B (K - 1) (f^levels - 1) / (f - 1)``; with f = K and B = 1, ``R = K^levels`` and every input in it
reaches the output by exactly one path. With f > K some inputs reach none, which raises.

Bidirectional: a second network runs over the reversed sequence, and both are added.

Source: Terzić et al. 2023 (arXiv 2312.05605) for the network as a whole and its free dilation factor; what is
seqconv's own reading is listed in :mod:`seqconv.mixers.attention.tcnca`.
"""

from typing import Annotated, TypedDict, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqconv_kernels import dilated_conv, dilated_conv_step, unroll_rings
from seqconv_kernels._core.errors import argument_error, unknown_name
from seqconv_kernels._core.precision import accumulation_dtype
from seqconv_kernels.dilated_conv import ACTIVATIONS

from ...mixer import Mixer
from ...options import Default, with_defaults
from ...parameters import set_optimizer_options
from ...registry import register
from ...state import State, state_class
from ...types import StateKind


@state_class
class TCNState(State):
    """Inputs of every level as far back as its taps reach, level after level and block after block.

    Attributes:
        rings: of (width - 1) dilation inputs each.
        position: tokens since the rings were laid out; index of the oldest input, modulo the size.
    """

    rings: tuple[Tensor, ...]
    position: Tensor


class TCNOptions(TypedDict, total=False):
    """Options of :class:`TCN`.

    Attributes:
        kernel_size: taps of a level, K.
        dilation: factor f from level to level; ``kernel_size`` by default.
        levels: levels of a block.
        blocks: blocks in series, B; from two on each is added to its input.
        inner_activation: between the levels of a block: ``None``, ``"relu"``, ``"silu"`` or ``"tanh"``.
        bidirectional: also convolve with the future, through a network of its own.
    """

    kernel_size: Annotated[int, Default(4)]
    dilation: Annotated[int | None, Default(None)]
    levels: Annotated[int, Default(5)]
    blocks: Annotated[int, Default(1)]
    inner_activation: Annotated[str | None, Default(None)]
    bidirectional: Annotated[bool, Default(False)]


@register(
    "tcn",
    examples=(
        {"kernel_size": 3, "levels": 3},
        {"kernel_size": 4, "dilation": 2, "levels": 3, "blocks": 2, "inner_activation": "relu"},
        {"kernel_size": 2, "levels": 4, "bidirectional": True, "plain": True},
    ),
)
class TCN(Mixer):
    """Dilated causal depthwise convolutions in series, a skip and SiLU.

    Args:
        d_model: width of inputs and outputs.
        plain: the convolutions alone, without skip and SiLU.
        **options: see :class:`TCNOptions`.

    Raises:
        ValueError: ``kernel_size < 2``, other sizes below 1, ``dilation > kernel_size`` (inputs that reach no
            output), an unknown activation.
    """

    def __init__(self, d_model: int, *, plain: bool = False, **options: Unpack[TCNOptions]) -> None:
        o = with_defaults(TCNOptions, options, self.name)
        super().__init__(d_model, causal=not o["bidirectional"])
        kernel_size, levels, blocks, inner_activation = (
            o["kernel_size"], o["levels"], o["blocks"], o["inner_activation"]
        )  # fmt: skip
        factor = kernel_size if o["dilation"] is None else o["dilation"]
        _check_sizes(kernel_size, factor, levels, blocks)
        if inner_activation is not None and inner_activation not in ACTIVATIONS:
            raise unknown_name("tcn mixer", "inner_activation", inner_activation, ACTIVATIONS)
        self.dilations = tuple(factor**i for i in range(levels))
        self.blocks, self.inner_activation = blocks, inner_activation
        size = (1 + o["bidirectional"], blocks, levels, d_model, kernel_size)
        self.weight = nn.Parameter(torch.empty(size))
        self.skip = None if plain else nn.Parameter(torch.empty(d_model))
        if not plain:
            set_optimizer_options(self, "skip", weight_decay=0.0)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Taps of unit gain for white noise on every level; ω ~ N(0, 1)."""
        bound = (3 / self.weight.shape[-1]) ** 0.5
        self.weight.uniform_(-bound, bound)
        if self.skip is not None:
            self.skip.normal_()

    @property
    def state_kind(self) -> StateKind:
        """Constant, with the size of the receptive field."""
        return "constant" if self.causal else "none"

    @property
    def receptive_field(self) -> int:
        """Tokens that an output depends on, in one direction, itself included."""
        reach: int = (self.weight.shape[-1] - 1) * sum(self.dilations)
        return 1 + self.blocks * reach

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        y, _ = self._network(x, 0, None)
        if not self.causal:
            y = y + self._network(x.flip(1), 1, None)[0].flip(1)
        return self._activate(y, x)

    def _init_state(self, batch_size: int, max_length: int | None, device: torch.device, dtype: torch.dtype) -> State:
        wide = accumulation_dtype(self.weight, torch.empty(0, dtype=dtype))
        sizes = [(self.weight.shape[-1] - 1) * d for _ in range(self.blocks) for d in self.dilations]
        rings = tuple(torch.zeros(batch_size, size, self.d_model, device=device, dtype=wide) for size in sizes)
        return TCNState(rings, torch.zeros(batch_size, device=device, dtype=torch.int64))

    def _prefill(self, x: Tensor, state: State, mask: Tensor | None) -> tuple[Tensor, State]:
        assert isinstance(state, TCNState)
        y, history = self._network(x, 0, unroll_rings(state.rings, state.position))
        return self._activate(y, x), TCNState(history, torch.zeros_like(state.position))

    def _step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        assert isinstance(state, TCNState)
        after: list[Tensor] = []
        u = x_t.to(accumulation_dtype(x_t))
        for weight, rings in zip(self.weight[0], self._by_block(state.rings), strict=True):
            y, moved = dilated_conv_step(
                u, weight, self.dilations, rings=rings, position=state.position, activation=self.inner_activation
            )
            u, after = self._join(u, y), [*after, *moved]
        return self._activate(u, x_t), TCNState(tuple(after), state.position + 1)

    def _network(
        self, x: Tensor, direction: int, history: tuple[Tensor, ...] | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """All blocks of one direction, from their histories on (zero if ``None``), and the histories after them."""
        after: list[Tensor] = []
        u = x.to(accumulation_dtype(x))
        pasts = [None] * self.blocks if history is None else self._by_block(history)
        for weight, past in zip(self.weight[direction], pasts, strict=True):
            y, moved = dilated_conv(
                u, weight, self.dilations, activation=self.inner_activation, history=past, return_history=True
            )
            u, after = self._join(u, y), [*after, *moved]
        return u, tuple(after)

    def _by_block(self, levels: tuple[Tensor, ...]) -> list[tuple[Tensor, ...]]:
        count = len(self.dilations)
        return [levels[i : i + count] for i in range(0, len(levels), count)]

    def _join(self, u: Tensor, y: Tensor) -> Tensor:
        return y if self.blocks == 1 else u + y

    def _activate(self, y: Tensor, x: Tensor) -> Tensor:
        return (y if self.skip is None else F.silu(y + self.skip * x)).to(x.dtype)


def _check_sizes(kernel_size: int, factor: int, levels: int, blocks: int) -> None:
    if kernel_size < 2 or min(factor, levels, blocks) < 1:
        got = f"kernel_size={kernel_size}, dilation={factor}, levels={levels}, blocks={blocks}"
        raise argument_error(
            "tcn mixer", got, "kernel_size of at least 2, the others of at least 1", "correct the sizes"
        )
    if factor > kernel_size and levels > 1:
        got = f"dilation={factor} for kernel_size={kernel_size}"
        remedy = "lower dilation (kernel_size itself reaches furthest) or raise kernel_size"
        raise argument_error(
            "tcn mixer", got, "dilation <= kernel_size: a larger one leaves inputs that reach none", remedy
        )
