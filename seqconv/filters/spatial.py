"""Implicit filters over images: sine networks of the row and the column, times windows.

With e(i) and τ_i the positional features and times of :mod:`~.implicit.implicit`, N a sine network, and all
networks sharing one vector of frequencies::

    product:  h[i, j] = N_r(e(i)) (exp(-|a_r| τ_i) + shift_r) · N_c(e(j)) (exp(-|a_c| τ_j) + shift_c)
    joint:    h[i, j] = N([e(i), e(j)]) (exp(-|a_r| τ_i - |a_c| τ_j) + shift)

The window ``"symmetric"`` of the joint form is ``exp(-|a| (i + j)) + shift`` instead, in tokens and not in fractions of
the side. Source: Zimerman and Wolf, "Multi-Dimensional Hyena for Spatial Inductive Bias", and its code
pytorch-image-models/timm/models/layers/hyena2d.py of Itamarzimm/HyenaND (commit e8b875ea).
"""

from typing import Annotated, Unpack, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error, unknown_name
from seqconv_kernels._core.precision import no_autocast

from ..options import Default, with_defaults
from ..parameters import KeepFloat32, register_tensor, set_optimizer_options, wide_default_dtype
from .implicit.implicit import ImplicitFilterOptions, SineNetwork, check_implicit, decay_rates, positional_features

FORMS = ("product", "joint")
WINDOWS = ("fixed", "learned", "symmetric", "none")


class HyenaFilter2dOptions(ImplicitFilterOptions, total=False):
    """Options of a :class:`HyenaFilter2d` that a mixer hands on.

    Attributes:
        form: ``"product"`` or ``"joint"``.
        window: ``"fixed"``; ``"learned"``, rates and shifts being parameters; ``"symmetric"`` (joint form only, learned
            too); or ``"none"``.
        sqrt_window: the square root of the window, before the shift (joint form only).
    """

    form: Annotated[str, Default("product")]
    window: Annotated[str, Default("fixed")]
    sqrt_window: Annotated[bool, Default(False)]


class HyenaFilter2d(KeepFloat32):
    """Impulse responses over an image.

    Args:
        channels: number of impulse responses.
        l_max: rows and columns of the taps.
        **options: see :class:`HyenaFilter2dOptions` and :class:`~.implicit.implicit.ImplicitFilterOptions`.

    Raises:
        ValueError: unknown words, a symmetric or square root window in product form, an even ``emb_dim``, sizes
            below 1.
    """

    def __init__(self, channels: int, *, l_max: int, **options: Unpack[HyenaFilter2dOptions]) -> None:
        super().__init__()
        o = with_defaults(HyenaFilter2dOptions, options, "HyenaFilter2d")
        _check(o["form"], o["window"], o["sqrt_window"])
        check_implicit("HyenaFilter2d", o, channels=channels, l_max=l_max)
        self.options, self.channels, self.l_max = o, channels, l_max
        self.form, self.window = o["form"], o["window"]
        dtype, width = wide_default_dtype(), o["filter_order"]
        features, parts = (o["emb_dim"], 2) if self.form == "product" else (2 * o["emb_dim"], 1)
        widths = [features, *[width] * (o["num_inner_mlps"] + 1)]
        networks = [SineNetwork(widths, channels, dtype=dtype, lr=o["lr"], wd=o["wd"]) for _ in range(parts)]
        self.networks, self.frequency = nn.ModuleList(networks), nn.Parameter(torch.empty(width, dtype=dtype))
        set_optimizer_options(self, "frequency", lr=o["lr"], weight_decay=o["wd"])
        self.register_buffer("times", torch.empty(l_max, dtype=dtype))
        positions = torch.empty(l_max, o["emb_dim"], dtype=dtype)
        register_tensor(self, "positions", positions, lr=o["lr_pos_emb"], weight_decay=0.0)
        rates = torch.empty(1 if self.window == "symmetric" else 2, channels, dtype=dtype)
        shifts = torch.empty(parts, channels, dtype=dtype)
        if self.window == "fixed":
            register_tensor(self, "decays", rates, lr=o["modulation_lr"], weight_decay=0.0)
            self.register_buffer("shifts", shifts)
        elif self.window != "none":
            self.decays, self.shifts = nn.Parameter(rates), nn.Parameter(shifts)
        self.reset_parameters()

    times: Tensor
    positions: Tensor
    decays: Tensor
    shifts: Tensor

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Set ω, the positional features and the windows to their initial values; learned shifts are uniform."""
        o, dtype = self.options, self.times.dtype
        self.frequency.fill_(o["w"])
        self.times.copy_(torch.linspace(0, 1, self.l_max, dtype=dtype))
        self.positions.copy_(positional_features(self.l_max, o["emb_dim"], dtype))
        if self.window == "none":
            return
        self.decays.copy_(decay_rates(self.channels, o, dtype=dtype))
        if self.window == "fixed":
            self.shifts.fill_(o["shift"])
        else:
            nn.init.uniform_(self.shifts)

    def forward(self, height: int, width: int) -> Float[Tensor, "channels height width"]:
        """The taps over an image, lag (0, 0) first; zero from ``l_max`` on; float32 at least, also under autocast."""
        rows, columns = min(height, self.l_max), min(width, self.l_max)
        with no_autocast(self.positions):
            h = self._product(rows, columns) if self.form == "product" else self._joint(rows, columns)
        return F.pad(h.permute(2, 0, 1), (0, width - columns, 0, height - rows))

    def _product(self, rows: int, columns: int) -> Float[Tensor, "rows columns channels"]:
        row, column = (self._axis(axis, reach) for axis, reach in enumerate((rows, columns)))
        return row[:, None] * column

    def _axis(self, axis: int, reach: int) -> Float[Tensor, "reach channels"]:
        """The filter along one axis, in product form."""
        h = self._network(axis, self.positions[:reach])
        return h if self.window == "none" else h * (self._decay(axis, self.times[:reach]) + self.shifts[axis])

    def _joint(self, rows: int, columns: int) -> Float[Tensor, "rows columns channels"]:
        row, column = self.positions[:rows, None], self.positions[None, :columns]
        e = torch.cat([row.expand(-1, columns, -1), column.expand(rows, -1, -1)], dim=-1)
        h = self._network(0, e)
        return h if self.window == "none" else h * (self._joint_window(rows, columns) + self.shifts[0])

    def _joint_window(self, rows: int, columns: int) -> Float[Tensor, "rows columns channels"]:
        if self.window == "symmetric":
            steps = torch.arange(self.l_max, dtype=self.times.dtype, device=self.times.device)
            return self._decay(0, steps[:rows])[:, None] * self._decay(0, steps[:columns])
        return self._decay(0, self.times[:rows])[:, None] * self._decay(1, self.times[:columns])

    def _decay(self, axis: int, times: Tensor) -> Float[Tensor, "reach channels"]:
        return torch.exp(-times[:, None] * self.decays[axis].abs() * (0.5 if self.options["sqrt_window"] else 1.0))

    def _network(self, part: int, e: Tensor) -> Tensor:
        return cast(Tensor, self.networks[part](e, self.frequency))


class DirectFilter2d(KeepFloat32):
    """Taps that are themselves the parameters.

    Raises:
        ValueError: sizes below 1.
    """

    def __init__(self, channels: int, *, l_max: int) -> None:
        super().__init__()
        if min(channels, l_max) < 1:
            got = f"channels={channels}, l_max={l_max}"
            raise argument_error("DirectFilter2d", got, "sizes of at least 1", "correct the sizes")
        self.taps = nn.Parameter(torch.empty(channels, l_max, l_max, dtype=wide_default_dtype()))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the taps such that a signal of unit variance gives an output of unit variance over a whole image."""
        nn.init.normal_(self.taps, std=1 / self.taps.shape[-1])

    def forward(self, height: int, width: int) -> Float[Tensor, "channels height width"]:
        """The taps over an image, zero from ``l_max`` on."""
        taps = self.taps[:, :height, :width]
        return F.pad(taps, (0, width - taps.shape[2], 0, height - taps.shape[1]))


def _check(form: str, window: str, sqrt_window: bool) -> None:
    if form not in FORMS:
        raise unknown_name("HyenaFilter2d", "form", form, FORMS)
    if window not in WINDOWS:
        raise unknown_name("HyenaFilter2d", "window", window, WINDOWS)
    if form == "product" and (window == "symmetric" or sqrt_window):
        got = f"window={window!r}, sqrt_window={sqrt_window} in product form"
        raise argument_error("HyenaFilter2d", got, "a fixed or learned window, or none", "take form='joint'")
