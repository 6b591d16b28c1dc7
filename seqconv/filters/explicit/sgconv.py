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
gconv_standalone.py of ctlllll/SGConv (commit 97862df5).
"""

import math
from typing import Annotated, TypedDict, Unpack

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error, unknown_name
from seqconv_kernels._core.operator.composed import leading
from seqconv_kernels._core.operator.sizes import known
from seqconv_kernels._core.precision import accumulation_dtype

from ...options import Default, with_defaults
from ...parameters import register_tensor, wide_default_dtype
from ..base import Recurrence, WideFilter


class SGConvFilterOptions(TypedDict, total=False):
    """Options of a :class:`SGConvFilter` that a mixer hands on.

    Attributes:
        kernel_dim: taps of every kernel before upsampling.
        combine: concatenate the upsampled kernels (``"cat"``) or add them (``"sum"``).
        upsampling: ``"linear"`` (between tap centres) or ``"nearest"``.
        init: kernels drawn from a normal distribution, or cosines of every frequency in random order.
        decay: ``"scale"``, ``"power"`` or ``"fixed_power"``, see above.
        decay_min, decay_max: range of α, or of the initial p.
        n_scales: number of kernels S; from ``l_max`` if not given.
        init_scale: s_0, doublings of the finest kernel.
        rounded_log: round log(t+1) to float32 in every precision, as the original does.
        lr: learning rate of the kernels and of a learned p; 0 keeps them fixed.
    """

    kernel_dim: Annotated[int, Default(64)]
    combine: Annotated[str, Default("cat")]
    upsampling: Annotated[str, Default("linear")]
    init: Annotated[str, Default("randn")]
    decay: Annotated[str, Default("scale")]
    decay_min: Annotated[float, Default(2.0)]
    decay_max: Annotated[float, Default(2.0)]
    n_scales: Annotated[int | None, Default(None)]
    init_scale: Annotated[int, Default(0)]
    rounded_log: Annotated[bool, Default(False)]
    lr: Annotated[float | None, Default(1e-3)]


WORDS = {
    "combine": ("cat", "sum"),
    "upsampling": ("linear", "nearest"),
    "init": ("randn", "cos"),
    "decay": ("scale", "power", "fixed_power"),
}


class SGConvFilter(WideFilter):
    """Impulse responses of SGConv.

    Args:
        channels: number of impulse responses.
        l_max: taps wanted; the filter has at least as many, the next ``kernel_dim`` times a power of two.
        groups: groups of channels whose decays run over the same range, group after group.
        **options: see :class:`SGConvFilterOptions`.

    Raises:
        ValueError: an unknown word among the options, or a size below 1.
    """

    def __init__(self, channels: int, *, l_max: int, groups: int = 1, **options: Unpack[SGConvFilterOptions]) -> None:
        o = with_defaults(SGConvFilterOptions, options, "SGConvFilter")
        kernel_dim, n_scales, init_scale = o["kernel_dim"], o["n_scales"], o["init_scale"]
        if l_max < 1 or kernel_dim < 1 or init_scale < 0 or (n_scales is not None and n_scales < 1):
            got = f"l_max={l_max}, kernel_dim={kernel_dim}, n_scales={n_scales}, init_scale={init_scale}"
            raise argument_error("SGConvFilter", got, "sizes of at least 1 and init_scale >= 0", "correct the sizes")
        for name, words in WORDS.items():
            if options.get(name, words[0]) not in words:
                raise unknown_name("SGConvFilter", name, str(options.get(name)), words)
        scales = n_scales or max(1, 1 + math.ceil(math.log2(l_max / kernel_dim)) - init_scale)
        super().__init__(channels, max_length=kernel_dim * 2 ** (scales - 1 + init_scale))
        self.options, self.groups = o, groups
        width, dtype = channels // groups, wide_default_dtype()
        register_tensor(self, "kernels", torch.empty(scales, channels, kernel_dim, dtype=dtype), lr=o["lr"])
        self.register_buffer("multiplier", torch.empty(width, dtype=dtype))
        if o["decay"] == "scale":
            self.power = None
        else:
            power = torch.empty(width, dtype=dtype)
            register_tensor(self, "power", power, lr=o["lr"] if o["decay"] == "power" else 0.0)
        self.register_buffer("norm", torch.empty(channels, dtype=dtype))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the kernels and powers, and measure the norm of the impulse responses they make."""
        o, width, dtype = self.options, len(self.multiplier), self.kernels.dtype
        for kernel in self.kernels:
            kernel.copy_(_initial_kernel(o["init"], self.groups, width, o["kernel_dim"]))
        low, high = o["decay_min"], o["decay_max"]
        if self.power is None:
            self.multiplier.copy_(torch.linspace(low, high, width, dtype=dtype))
        else:
            self.multiplier.fill_(1)
            nn.init.uniform_(self.power, low, high)
        self.norm.fill_(1)
        self.norm.copy_(self._taps(self.max_length or 1).norm(dim=1))

    kernels: Tensor
    multiplier: Tensor
    power: Tensor | None
    norm: Tensor

    def _taps(self, length: int) -> Float[Tensor, "channels length"]:
        """The first ``length`` taps, zero beyond ``max_length``; float32 at least."""
        kernels = self.kernels.to(accumulation_dtype(self.kernels))
        multiplier = self.multiplier.repeat(self.groups)[:, None]
        o, scaled, end = self.options, [], 0
        for i, kernel in enumerate(kernels):
            doublings = (i if o["combine"] == "sum" else max(0, i - 1)) + o["init_scale"]
            upsampled = F.interpolate(kernel[None], scale_factor=2**doublings, mode=o["upsampling"])[0]
            scaled.append(upsampled * multiplier ** (len(kernels) - 1 - i))
            end += upsampled.shape[1]
            if o["combine"] == "cat" and known(end >= length):
                break
        h = torch.cat(scaled, dim=1) if o["combine"] == "cat" else _padded_sum(scaled)
        if self.power is not None:
            dtype = torch.float32 if o["rounded_log"] else h.dtype
            log_time = torch.arange(1, h.shape[1] + 1, device=h.device, dtype=dtype).log().to(h.dtype)
            h = h * torch.exp(-self.power.repeat(self.groups)[:, None] * log_time)
        h = h / self.norm[:, None]
        return leading(h, length) if known(length <= h.shape[1]) else F.pad(h, (0, length - h.shape[1]))

    def _recurrence(self) -> Recurrence | None:
        """There is none: the filter is piecewise linear."""
        return None


def _padded_sum(kernels: list[Tensor]) -> Tensor:
    longest = kernels[-1].shape[1]
    return torch.stack([F.pad(kernel, (0, longest - kernel.shape[1])) for kernel in kernels]).sum(0)


def _initial_kernel(init: str, groups: int, width: int, kernel_dim: int) -> Tensor:
    if init == "randn":
        return torch.randn(groups * width, kernel_dim)
    cosines = torch.cos(torch.arange(width)[:, None] * torch.linspace(0, 2 * math.pi, kernel_dim))
    return cosines[torch.randperm(width)].repeat(groups, 1)
