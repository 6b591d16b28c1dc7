"""Implicit filters: a sine network of the position, and the exponential windows that multiply it.

With τ = t/(l_max - 1) and M = (emb_dim - 1)/2 frequencies ``f_b`` linear from 1e-4 to M - 1::

    e(t) = [τ, cos(2π f t/l_max), -sin(2π f t/l_max)]                     positional features
    N(e) = W_out s(W_n s(... s(W_0 e + b_0) ...) + b_n),  s(x) = sin(ω ⊙ x)   sine network

ω is one learnable vector shared by all sine layers. :class:`~.hyena.HyenaFilter` is built on it along a sequence,
 :class:`~seqconv.filters.spatial.HyenaFilter2d` over an image.

Source: Poli et al. 2023 (arXiv 2302.10866); ``HyenaFilter`` in src/models/sequence/hyena.py of HazyResearch/safari at
commit 02220c69.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, TypedDict, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error
from seqconv_kernels._core.precision import accumulation_dtype

from ...options import Default
from ...parameters import set_optimizer_options


class ImplicitFilterOptions(TypedDict, total=False):
    """Options of every implicit filter.

    Attributes:
        emb_dim: width of the positional features e(t); odd, at least 3.
        filter_order: width of the network.
        num_inner_mlps: sine layers after the first one.
        w: initial ω.
        fast_decay_pct, slow_decay_pct, target: the windows of the first and the last channel fall to ``target`` within
            these fractions of ``l_max``.
        shift: added to the window.
        lr, wd: learning rate and weight decay of the network; ``None``: the model's own.
        lr_pos_emb, modulation_lr: learning rates of the features and of the windows' decay rates; 0 keeps them fixed.
    """

    emb_dim: Annotated[int, Default(3)]
    filter_order: Annotated[int, Default(64)]
    num_inner_mlps: Annotated[int, Default(2)]
    w: Annotated[float, Default(1.0)]
    fast_decay_pct: Annotated[float, Default(0.3)]
    slow_decay_pct: Annotated[float, Default(1.5)]
    target: Annotated[float, Default(1e-2)]
    shift: Annotated[float, Default(0.0)]
    lr: Annotated[float | None, Default(1e-3)]
    wd: Annotated[float | None, Default(0.0)]
    lr_pos_emb: Annotated[float, Default(1e-5)]
    modulation_lr: Annotated[float, Default(0.0)]


class SineNetwork(nn.Module):
    """Linear layers with a sine after every one but the last, which has no bias.

    Args:
        widths: of the input and of every sine layer; the input alone makes a linear network.
        channels: outputs.
        dtype: of the parameters.
        lr, wd: learning rate and weight decay, marked on the parameters.
    """

    def __init__(
        self, widths: Sequence[int], channels: int, *, dtype: torch.dtype, lr: float | None, wd: float | None
    ) -> None:
        super().__init__()
        hidden = [nn.Linear(a, b, dtype=dtype) for a, b in pairwise(widths)]
        output = nn.Linear(widths[-1], channels, bias=False, dtype=dtype)
        self.layers = nn.ModuleList([*hidden, output])
        for layer in hidden:
            set_optimizer_options(layer, "weight", "bias", lr=lr, weight_decay=wd)
        set_optimizer_options(output, "weight", lr=lr, weight_decay=wd)

    def forward(
        self, e: Float[Tensor, "*positions emb_dim"], frequency: Float[Tensor, " filter_order"] | None
    ) -> Float[Tensor, "*positions channels"]:
        """The network at the positional features ``e``; ``frequency`` is ω, ``None`` in a linear network."""
        h = e.to(accumulation_dtype(e))
        *hidden, output = list(self.layers)
        for layer in hidden:
            h = torch.sin(frequency * layer(h))
        return cast(Tensor, output(h))


def decay_rates(channels: int, options: ImplicitFilterOptions, *, dtype: torch.dtype) -> Float[Tensor, " channels"]:
    """Rates at which windows fall to ``target`` between the fractions ``fast`` and ``slow`` of the length."""
    depth = math.log(options["target"])
    slowest, fastest = depth / options["slow_decay_pct"], depth / options["fast_decay_pct"]
    return torch.linspace(slowest, fastest, channels, dtype=dtype, device="cpu")


def positional_features(l_max: int, emb_dim: int, dtype: torch.dtype) -> Float[Tensor, "l_max emb_dim"]:
    """``e(t)`` for every position."""
    bands = (emb_dim - 1) // 2
    with torch.device("cpu"):  # the same numbers whatever device the filter is on, or is being built on
        turns = torch.arange(l_max, dtype=dtype)[:, None] / l_max
        angle = torch.linspace(1e-4, bands - 1, bands, dtype=dtype) * (2 * math.pi * turns)
        times = torch.linspace(0, 1, l_max, dtype=dtype)
        return torch.cat([times[:, None], angle.cos(), -angle.sin()], dim=1)


def check_implicit(operation: str, options: ImplicitFilterOptions, **sizes: int) -> None:
    """Raise for sizes that no implicit filter has.

    Raises:
        ValueError: an even or too small ``emb_dim``, a size below 1.
    """
    emb_dim, inner = options["emb_dim"], options["num_inner_mlps"]
    if emb_dim < 3 or emb_dim % 2 == 0:
        raise argument_error(operation, f"emb_dim={emb_dim}", "an odd width of at least 3", "add or drop one")
    sizes = {**sizes, "filter_order": options["filter_order"]}
    if min(sizes.values()) < 1 or inner < 0:
        got = ", ".join(f"{name}={size}" for name, size in {**sizes, "num_inner_mlps": inner}.items())
        raise argument_error(operation, got, "sizes of at least 1", "correct the sizes")
