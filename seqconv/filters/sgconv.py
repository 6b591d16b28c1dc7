"""Multi-scale filter of SGConv: the same number of parameters at every scale, decaying with the scale.

With kernels ``w_i`` of ``kernel_dim`` taps, i = 0 .. S-1, and ``up_f`` the upsampling by a factor f::

    cat:  h = [α^(S-1) up_{f_0}(w_0), α^(S-2) up_{f_1}(w_1), ..., up_{f_{S-1}}(w_{S-1})] / Z
          with f_i = 2^(max(0, i-1) + s_0)
    sum:  h = sum_i α^(S-1-i) up_{f_i}(w_i) / Z, the shorter ones padded with zeros
          with f_i = 2^(i + s_0)

so that both have ``kernel_dim 2^(S-1+s_0)`` taps. ``α`` lies between ``decay_min`` and ``decay_max``, linear over
the channels of a group. With ``decay="power"`` α is 1 and h is multiplied by ``(t+1)^-p`` instead, p learned per
channel and drawn between the same bounds (``"fixed_power"``: not learned). Z is the l2 norm of h at
initialisation: a buffer that follows neither training nor the length.

Source: Li et al. 2022, "What Makes Convolutional Models Great on Long Sequence Modeling?" (arXiv 2210.09298), and
the code of ctlllll/SGConv.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from seqconv_kernels._core.errors import argument_error, unknown_name
from seqconv_kernels._core.precision import accumulation_dtype

from ..parameters import register_tensor, wide_default_dtype
from .base import Recurrence, WideFilter


class SGConvFilter(WideFilter):
    """Impulse responses of SGConv.

    Args:
        channels: number of impulse responses.
        l_max: taps wanted; the filter has at least as many, the next ``kernel_dim`` times a power of two.
        groups: groups of channels whose decays run over the same range, group after group.
        kernel_dim: taps of every kernel before upsampling.
        combine: put the upsampled kernels behind each other (``"cat"``) or on top of each other (``"sum"``).
        upsampling: ``"linear"`` (between tap centres) or ``"nearest"``.
        init: kernels drawn from a normal distribution, or cosines of every frequency in random order.
        decay: ``"scale"``, ``"power"`` or ``"fixed_power"``, see above.
        decay_min, decay_max: range of α, or of the initial p.
        n_scales: number of kernels S; from ``l_max`` if not given.
        init_scale: s_0, doublings of the finest kernel.
        lr: learning rate of the kernels and of a learned p; 0 keeps them fixed.
        rounded_log: round log(t+1) to float32 in every precision, as the original does.

    Raises:
        ValueError: an unknown word among the options, or a size below 1.
    """

    def __init__(
        self,
        channels: int,
        *,
        l_max: int,
        groups: int = 1,
        kernel_dim: int = 64,
        combine: str = "cat",
        upsampling: str = "linear",
        init: str = "randn",
        decay: str = "scale",
        decay_min: float = 2.0,
        decay_max: float = 2.0,
        n_scales: int | None = None,
        init_scale: int = 0,
        rounded_log: bool = False,
        lr: float | None = 1e-3,
    ) -> None:
        if l_max < 1 or kernel_dim < 1 or init_scale < 0 or (n_scales is not None and n_scales < 1):
            got = f"l_max={l_max}, kernel_dim={kernel_dim}, n_scales={n_scales}, init_scale={init_scale}"
            raise argument_error("SGConvFilter", got, "sizes of at least 1 and init_scale >= 0", "correct the sizes")
        _check_word("combine", combine, ("cat", "sum"))
        _check_word("upsampling", upsampling, ("linear", "nearest"))
        _check_word("init", init, ("randn", "cos"))
        _check_word("decay", decay, ("scale", "power", "fixed_power"))
        scales = n_scales or max(1, 1 + math.ceil(math.log2(l_max / kernel_dim)) - init_scale)
        super().__init__(channels, max_length=kernel_dim * 2 ** (scales - 1 + init_scale))
        self.groups, self.combine, self.upsampling, self.init_scale = groups, combine, upsampling, init_scale
        self.rounded_log = rounded_log
        width, dtype = channels // groups, wide_default_dtype()
        drawn = [_initial_kernel(init, groups, width, kernel_dim).to(dtype) for _ in range(scales)]
        register_tensor(self, "kernels", torch.stack(drawn), lr=lr)
        if decay == "scale":
            self.register_buffer("multiplier", torch.linspace(decay_min, decay_max, width, dtype=dtype))
            self.power = None
        else:
            self.register_buffer("multiplier", torch.ones(width, dtype=dtype))
            power = torch.rand(width, dtype=dtype) * (decay_max - decay_min) + decay_min
            register_tensor(self, "power", power, lr=lr if decay == "power" else 0.0)
        self.register_buffer("norm", torch.ones(channels, dtype=dtype))
        with torch.no_grad():
            self.norm = self.forward(self.max_length or 1).norm(dim=1)

    kernels: Tensor
    multiplier: Tensor
    power: Tensor | None
    norm: Tensor

    def forward(self, length: int) -> Float[Tensor, "channels length"]:
        """The first ``length`` taps, zero beyond ``max_length``; float32 at least."""
        kernels = self.kernels.to(accumulation_dtype(self.kernels))
        multiplier = self.multiplier.repeat(self.groups)[:, None]
        pieces, end = [], 0
        for i, kernel in enumerate(kernels):
            doublings = (i if self.combine == "sum" else max(0, i - 1)) + self.init_scale
            piece = F.interpolate(kernel[None], scale_factor=2**doublings, mode=self.upsampling)[0]
            pieces.append(piece * multiplier ** (len(kernels) - 1 - i))
            end += piece.shape[1]
            if self.combine == "cat" and end >= length:
                break
        h = torch.cat(pieces, dim=1) if self.combine == "cat" else _padded_sum(pieces)
        if self.power is not None:
            dtype = torch.float32 if self.rounded_log else h.dtype
            log_time = torch.arange(1, h.shape[1] + 1, device=h.device, dtype=dtype).log().to(h.dtype)
            h = h * torch.exp(-self.power.repeat(self.groups)[:, None] * log_time)
        return F.pad(h, (0, length - h.shape[1])) / self.norm[:, None]

    def recurrence(self) -> Recurrence | None:
        """There is none: the filter is piecewise linear."""
        return None


def _padded_sum(pieces: list[Tensor]) -> Tensor:
    longest = pieces[-1].shape[1]
    return torch.stack([F.pad(piece, (0, longest - piece.shape[1])) for piece in pieces]).sum(0)


def _initial_kernel(init: str, groups: int, width: int, kernel_dim: int) -> Tensor:
    if init == "randn":
        return torch.randn(groups * width, kernel_dim)
    cosines = torch.cos(torch.arange(width)[:, None] * torch.linspace(0, 2 * math.pi, kernel_dim))
    return cosines[torch.randperm(width)].repeat(groups, 1)


def _check_word(option: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise unknown_name("SGConvFilter", option, value, known)
