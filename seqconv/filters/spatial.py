"""Implicit filters on maps: sine networks of the row and the column, times windows.

With e(i) and τ_i the positional features and times of :mod:`seqconv.filters.hyena`, N a sine network, and all networks
sharing one vector of frequencies::

    product:  h[i, j] = N_r(e(i)) (exp(-|a_r| τ_i) + shift_r) · N_c(e(j)) (exp(-|a_c| τ_j) + shift_c)
    joint:    h[i, j] = N([e(i), e(j)]) (exp(-|a_r| τ_i - |a_c| τ_j) + shift)

The window ``"symmetric"`` of the joint form is ``exp(-|a| (i + j)) + shift`` instead, in tokens and not in fractions of
the side. Source: Zimerman and Wolf, "Multi-Dimensional Hyena for Spatial Inductive Bias", and its code
Itamarzimm/HyenaND.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error, unknown_name

from ..parameters import KeepFloat32, register_tensor, wide_default_dtype
from .hyena import create_sine_network, decay_rates, positional_features, sine_network

FORMS = ("product", "joint")
WINDOWS = ("fixed", "learned", "symmetric", "none")


class HyenaFilter2d(KeepFloat32):
    """Impulse responses on a map.

    Args:
        channels: number of impulse responses.
        l_max: rows and columns of the taps.
        form: ``"product"`` or ``"joint"``.
        window: ``"fixed"``; ``"learned"``, rates and shifts being parameters; ``"symmetric"`` (joint form only, learned
            too); or ``"none"``.
        sqrt_window: the square root of the window, before the shift (joint form only).
        emb_dim, filter_order, num_inner_mlps, w, fast_decay_pct, slow_decay_pct, target, shift, lr, wd, lr_pos_emb,
            modulation_lr: as in :class:`~seqconv.filters.hyena.HyenaFilter`.

    Raises:
        ValueError: unknown words, a symmetric or square root window in product form, an even ``emb_dim``, sizes
            below 1.
    """

    def __init__(
        self,
        channels: int,
        *,
        l_max: int,
        form: str = "product",
        window: str = "fixed",
        sqrt_window: bool = False,
        emb_dim: int = 3,
        filter_order: int = 64,
        num_inner_mlps: int = 2,
        w: float = 1.0,
        fast_decay_pct: float = 0.3,
        slow_decay_pct: float = 1.5,
        target: float = 1e-2,
        shift: float = 0.0,
        lr: float | None = 1e-3,
        wd: float | None = 0.0,
        lr_pos_emb: float = 1e-5,
        modulation_lr: float = 0.0,
    ) -> None:
        super().__init__()
        _check(form, window, sqrt_window, emb_dim)
        if min(l_max, filter_order, channels) < 1 or num_inner_mlps < 0:
            got = f"l_max={l_max}, filter_order={filter_order}, num_inner_mlps={num_inner_mlps}, channels={channels}"
            raise argument_error("HyenaFilter2d", got, "sizes of at least 1", "correct the sizes")
        self.l_max, self.form, self.window, self.sqrt_window = l_max, form, window, sqrt_window
        dtype = wide_default_dtype()
        features, parts = (emb_dim, 2) if form == "product" else (2 * emb_dim, 1)
        widths = [features, *[filter_order] * (num_inner_mlps + 1)]
        self.networks = nn.ModuleList([create_sine_network(widths, channels, dtype) for _ in range(parts)])
        self.frequency = nn.Parameter(torch.full((filter_order,), w, dtype=dtype))
        for parameter in self.parameters():
            enter = {"lr": lr, "weight_decay": wd}
            parameter._optim = {k: v for k, v in enter.items() if v is not None}  # type: ignore[attr-defined]
        self.register_buffer("times", torch.linspace(0, 1, l_max, dtype=dtype))
        register_tensor(self, "positions", positional_features(l_max, emb_dim, dtype), lr=lr_pos_emb, weight_decay=0.0)
        range_ = {"fast_decay_pct": fast_decay_pct, "slow_decay_pct": slow_decay_pct, "target": target}
        rates = decay_rates(channels, **range_, dtype=dtype).repeat(1 if window == "symmetric" else 2, 1)
        shifts = torch.full((parts, channels), shift, dtype=dtype)
        if window == "fixed":
            register_tensor(self, "decays", rates, lr=modulation_lr, weight_decay=0.0)
            self.register_buffer("shifts", shifts)
        elif window != "none":
            self.decays, self.shifts = nn.Parameter(rates), nn.Parameter(torch.rand_like(shifts))

    times: Tensor
    positions: Tensor
    decays: Tensor
    shifts: Tensor

    def forward(self, height: int, width: int) -> Float[Tensor, "channels height width"]:
        """The taps of a map, lag (0, 0) first; zero from ``l_max`` on; float32 at least, also under autocast."""
        rows, columns = min(height, self.l_max), min(width, self.l_max)
        with torch.autocast(self.positions.device.type, enabled=False):
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
        return torch.exp(-times[:, None] * self.decays[axis].abs() * (0.5 if self.sqrt_window else 1.0))

    def _network(self, part: int, e: Tensor) -> Tensor:
        layers = self.networks[part]
        assert isinstance(layers, nn.ModuleList)
        return sine_network(layers, self.frequency, e)


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
        self.taps = nn.Parameter(torch.randn(channels, l_max, l_max, dtype=wide_default_dtype()) / l_max)

    def forward(self, height: int, width: int) -> Float[Tensor, "channels height width"]:
        """The taps of a map, zero from ``l_max`` on."""
        taps = self.taps[:, :height, :width]
        return F.pad(taps, (0, width - taps.shape[2], 0, height - taps.shape[1]))


def _check(form: str, window: str, sqrt_window: bool, emb_dim: int) -> None:
    if form not in FORMS:
        raise unknown_name("HyenaFilter2d", "form", form, FORMS)
    if window not in WINDOWS:
        raise unknown_name("HyenaFilter2d", "window", window, WINDOWS)
    if form == "product" and (window == "symmetric" or sqrt_window):
        got = f"window={window!r}, sqrt_window={sqrt_window} in product form"
        raise argument_error("HyenaFilter2d", got, "a fixed or learned window, or none", "take form='joint'")
    if emb_dim < 3 or emb_dim % 2 == 0:
        raise argument_error("HyenaFilter2d", f"emb_dim={emb_dim}", "an odd width of at least 3", "add or drop one")
