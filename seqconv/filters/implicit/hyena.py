"""Implicit filter of Hyena: a sine network of the position, times an exponential window.

With τ = t/(l_max - 1), and the positional features e and the sine network N of :mod:`~.implicit`::

    h(t) = N(e(t)) ⊙ (exp(-|a_c| τ) + shift)

e itself is learned, slowly; ``a_c`` is linear over the channels of a group, such that their windows fall to ``target``
between ``fast_decay_pct`` and ``slow_decay_pct`` of ``l_max``. The filter belongs to its ``l_max``: shorter sequences
take its first taps, and every tap from there on is zero.

Source: Poli et al. 2023, "Hyena Hierarchy" (arXiv 2302.10866); src/models/sequence/hyena.py of HazyResearch/safari
(commit 02220c69) and of HazyResearch/hyena-dna (commit d553021b).
"""

from typing import Annotated, Unpack

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error

from ...options import Default, with_defaults
from ...parameters import register_tensor, set_optimizer_options, wide_default_dtype
from ..base import Recurrence, WideFilter
from .implicit import ImplicitFilterOptions, SineNetwork, check_implicit, decay_rates, positional_features


class HyenaFilterOptions(ImplicitFilterOptions, total=False):
    """Options of a :class:`HyenaFilter` that a mixer hands on.

    Attributes:
        linear_filter: no sine layer at all, ``h(t) = W e(t)`` times the window.
        normalize: divide by the l1 norm over the channels at each tap, after the window.
        modulate: multiply by the window.
    """

    linear_filter: Annotated[bool, Default(False)]
    normalize: Annotated[bool, Default(False)]
    modulate: Annotated[bool, Default(True)]


class HyenaFilter(WideFilter):
    """Impulse responses of Hyena.

    Args:
        channels: number of impulse responses.
        l_max: number of taps.
        groups: groups of channels whose windows run over the same range, group after group.
        two_networks: a network of its own for the second half of the channels, with the same ω and features.
        **options: see :class:`HyenaFilterOptions` and :class:`~.implicit.ImplicitFilterOptions`.

    Raises:
        ValueError: an even or too small ``emb_dim``, a size below 1, groups that do not divide the channels.
    """

    def __init__(
        self,
        channels: int,
        *,
        l_max: int,
        groups: int = 1,
        two_networks: bool = False,
        **options: Unpack[HyenaFilterOptions],
    ) -> None:
        o = with_defaults(HyenaFilterOptions, options, "HyenaFilter")
        check_implicit("HyenaFilter", o, channels=channels, l_max=l_max, groups=groups)
        if channels % groups:
            got = f"groups={groups}"
            raise argument_error("HyenaFilter", got, f"a divisor of channels={channels}", "correct the sizes")
        super().__init__(channels, max_length=l_max)
        self.options, self.groups = o, groups
        dtype, width = wide_default_dtype(), o["filter_order"]
        widths = [o["emb_dim"]] if o["linear_filter"] else [o["emb_dim"], *[width] * (o["num_inner_mlps"] + 1)]
        outputs = channels // 2 if two_networks else channels
        self.network = SineNetwork(widths, outputs, dtype=dtype, lr=o["lr"], wd=o["wd"])
        self.second = SineNetwork(widths, outputs, dtype=dtype, lr=o["lr"], wd=o["wd"]) if two_networks else None
        self.frequency = None if o["linear_filter"] else nn.Parameter(torch.empty(width, dtype=dtype))
        if self.frequency is not None:
            set_optimizer_options(self, "frequency", lr=o["lr"], weight_decay=o["wd"])
        self.register_buffer("times", torch.empty(l_max, dtype=dtype))
        positions, decays = torch.empty(l_max, o["emb_dim"], dtype=dtype), torch.empty(channels, dtype=dtype)
        register_tensor(self, "positions", positions, lr=o["lr_pos_emb"], weight_decay=0.0)
        register_tensor(self, "decays", decays, lr=o["modulation_lr"] if o["modulate"] else 0.0, weight_decay=0.0)
        self.reset_parameters()

    times: Tensor
    positions: Tensor
    decays: Tensor

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Set ω, the positional features and the decay rates to their initial values."""
        o, dtype, l_max = self.options, self.times.dtype, len(self.times)
        if self.frequency is not None:
            self.frequency.fill_(o["w"])
        self.times.copy_(torch.linspace(0, 1, l_max, dtype=dtype))
        self.positions.copy_(positional_features(l_max, o["emb_dim"], dtype))
        self.decays.copy_(decay_rates(self.channels // self.groups, o, dtype=dtype).repeat(self.groups))

    def _taps(self, length: int) -> Float[Tensor, "channels length"]:
        """The first ``length`` taps, zero from ``l_max`` on; float32 at least, also under autocast."""
        networks = [self.network] if self.second is None else [self.network, self.second]
        h = torch.cat([network(self.positions[:length], self.frequency) for network in networks], dim=1)
        if self.options["modulate"]:
            times = self.times[:length].to(h.dtype)
            h = h * (torch.exp(-times[:, None] * self.decays.abs()) + self.options["shift"])
        if self.options["normalize"]:
            parts = h.chunk(len(networks), dim=1)
            h = torch.cat([F.normalize(part, p=1, dim=1, eps=0) for part in parts], dim=1)
        return F.pad(h.T, (0, length - h.shape[0]))

    def _recurrence(self) -> Recurrence | None:
        """There is none; :mod:`seqconv.distill` finds one that comes close."""
        return None
