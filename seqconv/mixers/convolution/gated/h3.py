"""H3: two projections multiplied between a short and a long state space, inside heads.

Equation, with heads of n = ``head_dim`` channels and one long impulse response h per head::

    q, k, v = W_q x, W_k x, W_v x
    k ← g * k + D_k ⊙ k                              g: the shift filter, d_state taps per channel
    Z_t = k_t v_t^T  (n x n),   S = h * Z + D Z along t,   y_t = S_t^T q_t,   out = W_out [y of all heads]

In ``h3`` h is the impulse response of a diagonal state space, so that the state is constant: the last ``d_state`` keys,
and ``n² d_state`` numbers per head. In ``h3_conv`` both g and h are explicit taps under a soft threshold
(:mod:`~seqconv.filters.explicit.longconv`), of heads of one channel.

Source: Fu et al. 2022, "Hungry Hungry Hippos: Towards Language Modeling with State Space Models" (arXiv 2212.14052);
src/models/sequence/h3.py and h3_conv.py of HazyResearch/safari (commit 02220c69). Published: a hybrid of 125M
parameters with two attention layers outperforms a Transformer on OpenWebText by 1.0 in perplexity (abstract). In
``h3_conv`` the original lets taps beyond a short sequence wrap around; here they are cut. Its single steps with heads
of several channels fail; here they are the same function.
"""

from collections.abc import Callable
from functools import partial
from typing import Unpack

import torch
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error

from ....convolution.long_convolution import LongConvolution
from ....convolution.outer_products import convolve_outer, convolve_outer_from, split_heads
from ....convolution.window import WindowConvolution
from ....filters.base import Filter
from ....filters.explicit.longconv import LongConvFilter, LongConvFilterOptions
from ....filters.explicit.shift import ShiftFilter
from ....filters.state_space.s4d import S4DFilter
from ....layers.linear import Linear
from ....mixer import Mixer
from ....packing import zero_padding
from ....parameters import set_optimizer_options
from ....registry import register
from ....state import State, state_class
from ....types import StateKind


@state_class
class H3State(State):
    """State of the convolution of the keys, and of that of the outer products."""

    key: State
    outer: State


class H3Layer(Mixer):
    """Everything of H3 but its filters.

    Args:
        d_model: width of inputs and outputs.
        head_dim: channels of a head.
        key_convolution: makes that of the keys, ``d_model`` channels.
        filter: makes the impulse responses of the outer products, one per head.
    """

    def __init__(
        self,
        d_model: int,
        *,
        head_dim: int,
        key_convolution: Callable[[], LongConvolution | WindowConvolution],
        filter: Callable[[], Filter],
    ) -> None:
        super().__init__(d_model)
        self.num_heads = d_model // head_dim
        self.q_proj, self.k_proj, self.v_proj = (Linear(d_model, d_model) for _ in range(3))
        self.key_convolution = key_convolution()
        self.convolution = LongConvolution(filter(), heads=head_dim**2)
        self.D_k = nn.Parameter(torch.empty(d_model))
        self.D = nn.Parameter(torch.empty(self.num_heads))
        set_optimizer_options(self, "D_k", "D", weight_decay=0.0)
        self.out_proj = Linear(d_model, d_model)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the skips from N(0, 1)."""
        nn.init.normal_(self.D_k)
        nn.init.normal_(self.D)

    @property
    def state_kind(self) -> StateKind:
        """Constant, unless one of the convolutions keeps inputs that grow with the context."""
        kinds = {self.key_convolution.state_kind, self.convolution.state_kind}
        return "growing" if "growing" in kinds else "constant"

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        k = self.key_convolution(zero_padding(self.k_proj(x), mask), skip=self.D_k)
        q, k, v = self._heads(x, zero_padding(k, mask))
        return self._finish(convolve_outer(q, k, v, self.convolution, self.D))

    def _init_state(self, batch_size: int, max_length: int | None, device: torch.device, dtype: torch.dtype) -> State:
        key = self.key_convolution.init_state(batch_size, max_length)
        return H3State(key, self.convolution.init_state(batch_size, max_length))

    def _prefill(self, x: Tensor, state: State, mask: Tensor | None) -> tuple[Tensor, State]:
        assert isinstance(state, H3State)
        k, key = self.key_convolution.prefill(zero_padding(self.k_proj(x), mask), state.key, skip=self.D_k)
        return self._contract(x, zero_padding(k, mask), H3State(key, state.outer))

    def _step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        assert isinstance(state, H3State)
        k, key = self.key_convolution.step(self.k_proj(x_t), state.key, skip=self.D_k)
        return self._contract(x_t, k, H3State(key, state.outer))

    def _contract(self, x: Tensor, k: Tensor, state: H3State) -> tuple[Tensor, State]:
        q, keys, v = self._heads(x, k)
        y, outer = convolve_outer_from(q, keys, v, self.convolution, self.D, state.outer)
        return self._finish(y), H3State(state.key, outer)

    def _heads(self, x: Tensor, k: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q, k and v as (..., head_dim, num_heads); k is zero at padding, and with it every outer product."""
        q, k, v = (split_heads(part, self.num_heads) for part in (self.q_proj(x), k, self.v_proj(x)))
        return q, k, v

    def _finish(self, y: Tensor) -> Tensor:
        out: Tensor = self.out_proj(y.transpose(-1, -2).flatten(-2))
        return out


@register("h3", examples=({"d_state": 6, "head_dim": 2}, {"d_state": 4, "key_state": 20, "disc": "zoh"}))
class H3(H3Layer):
    """H3: keys after a shift state space, their products with values through a diagonal one.

    Args:
        d_model: width of inputs and outputs.
        head_dim: channels of a head, which share one long impulse response.
        d_state: real size of the state of the long state space; conjugate pairs are kept.
        key_state: inputs that the shift state space holds; ``None``: ``d_state``.
        disc, init, n_ssm, deterministic, dt_min, dt_max, lr: of the long state space, see
            :class:`~seqconv.filters.state_space.s4d.S4DFilterOptions`; ``lr`` is that of the shift state space too.

    Raises:
        ValueError: a ``head_dim`` that does not divide the width, or as the filters.
    """

    def __init__(
        self,
        d_model: int,
        *,
        head_dim: int = 1,
        d_state: int = 64,
        key_state: int | None = None,
        disc: str = "bilinear",
        init: str = "lin",
        n_ssm: int | None = None,
        deterministic: bool = False,
        dt_min: float = 1e-3,
        dt_max: float = 0.1,
        lr: float | None = None,
    ) -> None:
        if head_dim < 1 or d_model % head_dim:
            got = f"head_dim={head_dim}"
            raise argument_error("h3 mixer", got, f"a divisor of d_model={d_model}", "change head_dim")
        shift = partial(ShiftFilter, d_model, d_state=d_state if key_state is None else key_state, lr=lr)
        filter = partial(
            S4DFilter,
            d_model // head_dim,
            d_state=d_state,
            disc=disc,
            init=init,
            n_ssm=n_ssm,
            deterministic=deterministic,
            dt_min=dt_min,
            dt_max=dt_max,
            lr=lr,
        )
        super().__init__(d_model, head_dim=head_dim, key_convolution=lambda: WindowConvolution(shift()), filter=filter)


@register("h3_conv", examples=({"l_max": 20}, {"l_max": 50, "smoothing": "average", "smoothing_width": 5}))
class H3Conv(H3Layer):
    """H3 with explicit taps in place of both state spaces.

    Args:
        d_model: width of inputs and outputs.
        l_max: taps of both filters; longer sequences are mixed within this window.
        **filter: see :class:`~seqconv.filters.explicit.longconv.LongConvFilterOptions`.

    Raises:
        ValueError: as the filter.
    """

    def __init__(self, d_model: int, *, l_max: int = 1024, **filter: Unpack[LongConvFilterOptions]) -> None:
        make = partial(LongConvFilter, d_model, l_max=l_max, **filter)
        super().__init__(d_model, head_dim=1, key_convolution=lambda: LongConvolution(make()), filter=make)
