"""Free taps, shared by groups of channels, perhaps under a fixed exponential window.

``h[c, t] = w[g, t] exp(-r_g t / (width - 1))`` for channel c of group g, which holds ``channels / groups`` channels
that lie next to one another. The rates r_g lie between ``10^a`` and 100, evenly in their logarithm over the groups,
with a = 0 (``"strong"``), -1 (``"normal"``) or -2 (``"weak"``): the regularised filter of medium length in StripedHyena
2.

Source: ``ExplicitSingleDecayFilter`` in savanna/model/operators/hyena/parametrization/explicit.py of Zymrael/savanna
(commit 0d42c604), which computes the window in float32; Ku et al. 2025 (arXiv 2503.01868).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error, unknown_name
from seqconv_kernels._core.precision import accumulation_dtype

from ...parameters import wide_default_dtype
from ..base import Recurrence, WideFilter

DECAYS = {"strong": 0.0, "normal": -1.0, "weak": -2.0}
SMALL = 1e-5


class TapsFilter(WideFilter):
    """Impulse responses of ``width`` free taps.

    Args:
        channels: number of impulse responses.
        width: taps.
        groups: sets of taps; one per channel if ``None``.
        decay: key of ``DECAYS``; ``None``: no window.
        decay_repeats: how often the range of rates runs over the groups.
        small_init: start from taps 1e-5 times as large.
        unit_first: the tap of lag 0 starts at 1.

    Raises:
        ValueError: an unknown decay, groups that do not divide, a size below 1.
    """

    window: Tensor | None

    def __init__(
        self,
        channels: int,
        *,
        width: int,
        groups: int | None = None,
        decay: str | None = None,
        decay_repeats: int = 1,
        small_init: bool = False,
        unit_first: bool = False,
    ) -> None:
        groups = channels if groups is None else groups
        if decay is not None and decay not in DECAYS:
            raise unknown_name("TapsFilter", "decay", decay, DECAYS)
        if min(width, groups, decay_repeats) < 1 or channels % groups or groups % decay_repeats:
            got = f"width={width}, groups={groups}, decay_repeats={decay_repeats} for {channels} channels"
            wanted = "sizes of at least 1, groups that divide the channels, repeats that divide the groups"
            raise argument_error("TapsFilter", got, wanted, "correct the sizes")
        super().__init__(channels, max_length=width)
        self.decay, self.decay_repeats, self.small_init, self.unit_first = decay, decay_repeats, small_init, unit_first
        size, dtype = (groups, width), wide_default_dtype()
        self.weight = nn.Parameter(torch.empty(size, dtype=dtype))
        self.register_buffer("window", None if decay is None else torch.empty(size, dtype=dtype))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Taps ~ N(0, 1/width), scaled down if so asked, and the window."""
        groups, width = self.weight.shape
        self.weight.normal_(std=width**-0.5)
        if self.small_init:
            self.weight.mul_(SMALL)
        if self.unit_first:
            self.weight[:, 0].fill_(1)
        if self.window is not None and self.decay is not None:
            with torch.device("cpu"):
                rates = torch.logspace(DECAYS[self.decay], 2, groups // self.decay_repeats, dtype=torch.float32)
                times = torch.linspace(0, 1, width, dtype=torch.float32)
                self.window.copy_(torch.exp(-rates[:, None] * times).repeat(self.decay_repeats, 1))

    def _taps(self, length: int) -> Float[Tensor, "channels length"]:
        h = self.weight.to(accumulation_dtype(self.weight))
        h = h if self.window is None else h * self.window
        h = h.repeat_interleave(self.channels // h.shape[0], dim=0)[:, :length]
        return F.pad(h, (0, length - h.shape[1]))

    def _recurrence(self) -> Recurrence | None:
        """None: the taps end."""
        return None
