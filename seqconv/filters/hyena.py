"""Implicit filter of Hyena: a small sine network of the position, times a window.

With τ = t/(l_max - 1) and M = (emb_dim - 1)/2 frequencies ``f_b`` linear from 1e-4 to M - 1::

    e(t) = [τ, cos(2π f t/l_max), -sin(2π f t/l_max)]
    h(t) = W_out s(W_n s(... s(W_0 e(t) + b_0) ...) + b_n) ⊙ (exp(-|a_c| τ) + shift),   s(x) = sin(ω ⊙ x)

ω is one learnable vector shared by all sine layers; e itself is learned, slowly; ``a_c`` is linear over the channels
of a group, such that their windows fall to ``target`` between ``fast_decay_pct`` and ``slow_decay_pct`` of ``l_max``.
The filter belongs to its ``l_max``: shorter sequences take its first taps, and every tap from there on is zero.

Source: Poli et al. 2023, "Hyena Hierarchy" (arXiv 2302.10866), and the code of HazyResearch/safari and hyena-dna.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error, unknown_name
from seqconv_kernels._core.precision import accumulation_dtype

from ..parameters import register_tensor, wide_default_dtype
from .base import Recurrence, WideFilter

NORMALIZE = ("none", "before_window", "after_window")


class HyenaFilter(WideFilter):
    """Impulse responses of Hyena.

    Args:
        channels: number of impulse responses.
        l_max: number of taps.
        groups: groups of channels whose windows run over the same range, group after group.
        emb_dim: width of e(t); odd, at least 3.
        filter_order: width of the network.
        num_inner_mlps: sine layers behind the first one.
        w: initial ω.
        linear: no sine layer at all, ``h(t) = W e(t)`` times the window.
        normalize: divide by the l1 norm over the channels at each tap: ``"none"``, ``"before_window"`` or
            ``"after_window"``.
        modulate: multiply by the window.
        fast_decay_pct, slow_decay_pct, target, shift: of the window, see above.
        lr, wd: learning rate and weight decay of the network.
        lr_pos_emb, modulation_lr: learning rates of e and of the decays; 0 keeps them fixed.

    Raises:
        ValueError: an even or too small ``emb_dim``, a size below 1, an unknown ``normalize``.
    """

    def __init__(
        self,
        channels: int,
        *,
        l_max: int,
        groups: int = 1,
        emb_dim: int = 3,
        filter_order: int = 64,
        num_inner_mlps: int = 2,
        w: float = 1.0,
        linear: bool = False,
        normalize: str = "none",
        modulate: bool = True,
        fast_decay_pct: float = 0.3,
        slow_decay_pct: float = 1.5,
        target: float = 1e-2,
        shift: float = 0.0,
        lr: float | None = 1e-3,
        wd: float | None = 0.0,
        lr_pos_emb: float = 1e-5,
        modulation_lr: float = 0.0,
    ) -> None:
        if emb_dim < 3 or emb_dim % 2 == 0:
            raise argument_error("HyenaFilter", f"emb_dim={emb_dim}", "an odd width of at least 3", "add or drop one")
        if min(l_max, filter_order, channels, groups) < 1 or num_inner_mlps < 0:
            got = f"l_max={l_max}, filter_order={filter_order}, num_inner_mlps={num_inner_mlps}"
            raise argument_error("HyenaFilter", got, "sizes of at least 1", "correct the sizes")
        if normalize not in NORMALIZE:
            raise unknown_name("HyenaFilter", "normalize", normalize, NORMALIZE)
        super().__init__(channels, max_length=l_max)
        self.normalize, self.modulate, self.shift = normalize, modulate, shift
        dtype = wide_default_dtype()
        widths = [emb_dim] if linear else [emb_dim, *[filter_order] * (num_inner_mlps + 1)]
        self.layers = create_sine_network(widths, channels, dtype)
        if not linear:
            self.frequency = nn.Parameter(torch.full((filter_order,), w, dtype=dtype))
        for parameter in self.parameters():
            enter = {"lr": lr, "weight_decay": wd}
            parameter._optim = {k: v for k, v in enter.items() if v is not None}  # type: ignore[attr-defined]
        self.register_buffer("times", torch.linspace(0, 1, l_max, dtype=dtype))
        register_tensor(self, "positions", positional_features(l_max, emb_dim, dtype), lr=lr_pos_emb, weight_decay=0.0)
        window = {"fast_decay_pct": fast_decay_pct, "slow_decay_pct": slow_decay_pct, "target": target}
        decays = decay_rates(channels // groups, **window, dtype=dtype).repeat(groups)
        register_tensor(self, "decays", decays, lr=modulation_lr if modulate else 0.0, weight_decay=0.0)

    times: Tensor
    positions: Tensor
    decays: Tensor

    def forward(self, length: int) -> Float[Tensor, "channels length"]:
        """The first ``length`` taps, zero from ``l_max`` on; float32 at least, also under autocast."""
        with torch.autocast(self.positions.device.type, enabled=False):
            h = self._network(self.positions[:length])
            if self.normalize == "before_window":
                h = F.normalize(h, p=1, dim=1, eps=0)
            if self.modulate:
                times = self.times[:length].to(h.dtype)
                h = h * (torch.exp(-times[:, None] * self.decays.abs()) + self.shift)
            if self.normalize == "after_window":
                h = F.normalize(h, p=1, dim=1, eps=0)
        return F.pad(h.T, (0, length - h.shape[0]))

    def recurrence(self) -> Recurrence | None:
        """There is none; :mod:`seqconv.distill` finds one that comes close."""
        return None

    def _network(self, e: Tensor) -> Tensor:
        return sine_network(self.layers, self.frequency if len(self.layers) > 1 else None, e)


def create_sine_network(widths: Sequence[int], channels: int, dtype: torch.dtype) -> nn.ModuleList:
    """Layers of the given widths, and a last one without a bias."""
    hidden = [nn.Linear(a, b, dtype=dtype) for a, b in pairwise(widths)]
    return nn.ModuleList([*hidden, nn.Linear(widths[-1], channels, bias=False, dtype=dtype)])


def sine_network(
    layers: nn.ModuleList, frequency: Float[Tensor, " filter_order"] | None, e: Float[Tensor, "*positions emb_dim"]
) -> Float[Tensor, "*positions channels"]:
    """The network of the positional features ``e``: a sine behind every layer but the last."""
    h = e.to(accumulation_dtype(e))
    *hidden, output = cast(list[nn.Linear], list(layers))
    for layer in hidden:
        assert frequency is not None
        h = torch.sin(frequency * F.linear(h, layer.weight.to(h.dtype), layer.bias.to(h.dtype)))
    return F.linear(h, output.weight.to(h.dtype))


def decay_rates(
    channels: int, *, fast_decay_pct: float, slow_decay_pct: float, target: float, dtype: torch.dtype
) -> Float[Tensor, " channels"]:
    """Rates at which windows fall to ``target`` between the fractions ``fast`` and ``slow`` of the length."""
    slowest, fastest = math.log(target) / slow_decay_pct, math.log(target) / fast_decay_pct
    return torch.linspace(slowest, fastest, channels, dtype=dtype)


def positional_features(l_max: int, emb_dim: int, dtype: torch.dtype) -> Float[Tensor, "l_max emb_dim"]:
    """``e(t)`` for every position."""
    bands = (emb_dim - 1) // 2
    turns = torch.arange(l_max, dtype=dtype)[:, None] / l_max
    angle = torch.linspace(1e-4, bands - 1, bands, dtype=dtype) * (2 * math.pi * turns)
    return torch.cat([torch.linspace(0, 1, l_max, dtype=dtype)[:, None], angle.cos(), -angle.sin()], dim=1)
