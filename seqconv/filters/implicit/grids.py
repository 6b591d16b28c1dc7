"""Implicit filters on grids with any number of axes: a network of the position, under a window.

The tap at the lags l (one per axis, negative ones included) is the value at ``p_d = l_d / (L_d - 1)``, where L_d is
``l_max``: a map of another size sees more or fewer lags of the same function. With e the features of the position::

    sine      e = sin(W_0 p + b_0),          h_{i+1} = sin(W_i h_i + b_i)
    fourier   e = [cos, sin](W_0 p + b_0),   h_{i+1} = gelu(W_i h_i + b_i)
    k(p) = (W h + b) ⊙ w(p),   w = 1,  exp(-sum_d |p_d a_d|)  or  exp(-½ sum_d p_d² / σ_d²)

``magnet`` is that of :mod:`~seqconv.filters.implicit.networks`, ``shared_gaussian`` the window of
:mod:`~seqconv.filters.implicit.grid_mask`. With ``r`` times the distance between cells in training (``change_rate``)
the taps are those of the lags ``r l``, times r for every axis.

A sine network may depend on a vector c: ``h ← γ_i(c) ⊙ h + β_i(c)`` after every hidden layer (FiLM), γ and β from a
perceptron; the taps are then different for every image.

Sources: ckconv/nn/ck/magnet.py of david-knigge/ccnn (commit a543e388); nvsubquadratic/modules/kernels_nd.py,
masks_nd.py and film.py of NVIDIA-BioNeMo/nvSubquadratic (51291129). The latter sets widths σ that leave their range
back to its bound before each call; here they are read as the bound, with the gradient of it.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, TypedDict, Unpack, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error, unknown_name
from seqconv_kernels._core.precision import accumulation_dtype, no_autocast

from ...options import Default, with_defaults
from ...parameters import KeepFloat32, set_optimizer_options, wide_default_dtype
from .grid_mask import GridMask
from .networks import MAGNet

NETWORKS = ("sine", "fourier", "magnet")
WINDOWS = ("none", "exponential", "gaussian", "shared_gaussian")
SLOW_DECAY, FAST_DECAY = 2.3, 13.81
"""Initial rates of the exponential window: it falls to a tenth, and to a millionth, at the rim."""

NARROW, WIDE = 0.1, 0.95
"""Values of the narrowest Gaussian window, one step away from the centre, and of the widest, at the rim."""


class GridFilterOptions(TypedDict, total=False):
    """Options of a :class:`GridFilter` that a mixer hands on.

    Attributes:
        network: ``"sine"``, ``"fourier"`` or ``"magnet"``.
        hidden: width.
        layers: linear layers after the features, the last included; at least 2. Products of a ``"magnet"``.
        emb_dim: features of the position; even for ``"fourier"``; no option of ``"magnet"``.
        omega_0: initial frequency of the features.
        bias: whether the linear layers have one.
        window: ``"none"``, ``"exponential"``, ``"gaussian"`` (widths of every channel) or ``"shared_gaussian"``.
        mask_width: initial σ of ``"shared_gaussian"``. MAGNet's functions start within 1.667 σ of lag zero.
        learn_mean: its mean m, which starts at lag zero, is trained.
        threshold: taps as far from lag zero as where it falls below this are zero; 0 keeps all.
        mask_eps: ε.
        modulate_features: a condition changes the features of the position too (then ``emb_dim == hidden``).
        condition_hidden: width of the perceptron that reads the condition.
    """

    network: Annotated[str, Default("sine")]
    hidden: Annotated[int, Default(32)]
    layers: Annotated[int, Default(3)]
    emb_dim: Annotated[int, Default(32)]
    omega_0: Annotated[float, Default(10.0)]
    bias: Annotated[bool, Default(True)]
    window: Annotated[str, Default("none")]
    mask_width: Annotated[float, Default(0.1)]
    learn_mean: Annotated[bool, Default(False)]
    threshold: Annotated[float, Default(0.1)]
    mask_eps: Annotated[float, Default(1e-8)]
    modulate_features: Annotated[bool, Default(False)]
    condition_hidden: Annotated[int, Default(64)]


class GridFilter(KeepFloat32):
    """Impulse responses around lag zero along every axis.

    Args:
        channels: number of impulse responses.
        l_max: L_d, for every axis.
        fan_in: impulse responses that are summed into one output: the last layer starts smaller by its root.
        condition_dim: width of the vector that the taps depend on; 0: they depend on nothing.
        **options: see :class:`GridFilterOptions`.

    Raises:
        ValueError: unknown words, sizes below 2, an odd number of Fourier features, a condition of a Fourier network.
    """

    def __init__(
        self,
        channels: int,
        *,
        l_max: Sequence[int],
        fan_in: int = 1,
        condition_dim: int = 0,
        **options: Unpack[GridFilterOptions],
    ) -> None:
        super().__init__()
        o = with_defaults(GridFilterOptions, options, "GridFilter")
        _check(o, channels, l_max, condition_dim)
        self.options, self.l_max, self.channels, self.fan_in, self.rate = o, tuple(l_max), channels, fan_in, 1.0
        self.film: nn.Sequential | None = None
        if o["window"] == "shared_gaussian":
            self.mask = GridMask(len(self.l_max), o["mask_width"], o["learn_mean"], o["threshold"], o["mask_eps"])
        elif o["window"] != "none":
            self.window = nn.Parameter(torch.empty(len(self.l_max), channels, dtype=wide_default_dtype()))
            set_optimizer_options(self, "window", weight_decay=0.0)
        if o["network"] == "magnet":
            self.network = self._magnet()
        else:
            self._add_layers(condition_dim)
        self.reset_parameters()

    def _magnet(self) -> MAGNet:
        o, taps = self.options, math.prod(2 * n - 1 for n in self.l_max)
        return MAGNet(
            self.channels,
            hidden=o["hidden"],
            layers=o["layers"],
            omega_0=o["omega_0"],
            spread=1.667 * o["mask_width"] if o["window"] == "shared_gaussian" else 1.0,
            scale=(self.fan_in * taps) ** -0.5,
            dtype=wide_default_dtype(),
            axes=len(self.l_max),
        )

    def _add_layers(self, condition_dim: int) -> None:
        o, axes, dtype = self.options, len(self.l_max), wide_default_dtype()
        features = o["emb_dim"] // 2 if o["network"] == "fourier" else o["emb_dim"]
        widths = [o["emb_dim"], *[o["hidden"]] * (o["layers"] - 1)]
        self.embed = nn.Linear(axes, features, bias=o["bias"], dtype=dtype)
        self.hidden = nn.ModuleList(nn.Linear(a, b, bias=o["bias"], dtype=dtype) for a, b in pairwise(widths))
        self.output = nn.Linear(widths[-1], self.channels, bias=o["bias"], dtype=dtype)
        kept = self.hidden if o["network"] == "sine" else ()  # perceptrons on Fourier features decay
        for layer in (self.embed, *kept):
            set_optimizer_options(layer, *(name for name, _ in layer.named_parameters()), weight_decay=0.0)
        if condition_dim:
            modulated = len(self.hidden) + o["modulate_features"]
            self.film = nn.Sequential(
                nn.Linear(condition_dim, o["condition_hidden"], dtype=dtype),
                nn.GELU(),
                nn.Linear(o["condition_hidden"], 2 * modulated * o["hidden"], dtype=dtype),
            )

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Networks as Sitzmann et al. (sine) or torch (fourier) begin them; FiLM is the identity, windows vary.

        The last layer starts smaller by the root of the number of cells in ``l_max`` (magnet: of taps), and of
        ``fan_in``.
        """
        if self.options["network"] != "magnet":  # which does it itself
            self._reset_layers()
        if self.options["window"] == "exponential":
            self.window.copy_(torch.linspace(SLOW_DECAY, FAST_DECAY, self.channels) / len(self.l_max))
        elif self.options["window"] == "gaussian":
            low, high = math.log10(self._narrowest()), math.log10(_width(NARROW))
            self.window.copy_(torch.logspace(low, high, self.channels))

    def _reset_layers(self) -> None:
        o, axes = self.options, len(self.l_max)
        for layer in (self.embed, *self.hidden, self.output):
            layer.reset_parameters()
            if o["network"] == "sine":
                bound = math.sqrt(6 / layer.in_features)
                nn.init.uniform_(layer.weight, -bound, bound)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        frequency = 2 * math.pi * o["omega_0"]
        if o["network"] == "sine":
            nn.init.uniform_(self.embed.weight, -frequency / axes, frequency / axes)
        else:
            nn.init.normal_(self.embed.weight, std=frequency)
        self.output.weight.mul_((self.fan_in * math.prod(self.l_max)) ** -0.5)
        if self.film is not None:
            last = cast(nn.Linear, self.film[2])
            cast(nn.Linear, self.film[0]).reset_parameters()
            nn.init.zeros_(last.weight)
            last.bias.copy_(torch.tensor([1.0, 0.0])[:, None].expand(-1, o["hidden"]).reshape(-1).repeat(self._films()))

    def change_rate(self, rate: float) -> None:
        """Take cells ``rate`` times as far apart as now."""
        self.rate *= rate

    def forward(
        self, reach: Sequence[int], x: Tensor, condition: Float[Tensor, "batch condition_dim"] | None = None
    ) -> Float[Tensor, "batch *taps channels"]:
        """The taps at the lags ``-(n - 1), ..., n - 1`` of every axis with n from ``reach``.

        Args:
            reach: n, for every axis.
            x: a tensor of the device wanted; the taps are in float32 at least, also under autocast.
            condition: a vector for every image; the taps have a batch axis of one without.

        Raises:
            ValueError: a condition of a filter without one.
        """
        if condition is not None and self.film is None:
            got, wanted = "a condition", "none: this filter was built with condition_dim=0"
            raise argument_error("GridFilter", got, wanted, "pass condition_dim to the constructor")
        own = next((p for p in self.parameters() if p.is_floating_point()), x)  # quantised networks have none
        dtype = accumulation_dtype(own)
        with no_autocast(x):
            p = self._positions(reach, x.device, dtype)
            film = None if condition is None or self.film is None else self.film(condition.to(dtype))
            k = self.network(p) if self.options["network"] == "magnet" else self._taps(p, film)
            k = k if self.rate == 1 else k * self.rate ** len(self.l_max)
            return k if self.options["window"] == "none" else k * self._window(p)

    def _positions(
        self, reach: Sequence[int], device: torch.device, dtype: torch.dtype
    ) -> Float[Tensor, "1 *taps axes"]:
        lags = (torch.arange(1 - n, n, device=device, dtype=dtype) for n in reach)
        axes = [self.rate * lag / (most - 1) for lag, most in zip(lags, self.l_max, strict=True)]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)[None]

    def _taps(self, p: Tensor, film: Tensor | None) -> Tensor:
        sine, e = self.options["network"] == "sine", self.embed(p)
        h = e.sin() if sine else torch.cat([e.cos(), e.sin()], dim=-1)
        if film is not None:  # (batch, layers, γ and β, hidden), with an axis of one for every axis of the grid
            film = film.unflatten(1, (self._films(), 2, *[1] * len(self.l_max), -1))
        skipped = int(self.options["modulate_features"])
        if film is not None and skipped:
            h = film[:, 0, 0] * h + film[:, 0, 1]
        for i, layer in enumerate(self.hidden, skipped):
            h = layer(h).sin() if sine else F.gelu(layer(h))
            if film is not None:
                h = film[:, i, 0] * h + film[:, i, 1]
        taps: Tensor = self.output(h)
        return taps

    def _window(self, p: Tensor) -> Tensor:
        if self.options["window"] == "shared_gaussian":
            return cast(Tensor, self.mask(p))
        if self.options["window"] == "exponential":
            return torch.exp(-(p.abs() @ self.window.abs()))
        bounded = self.window.clamp(self._narrowest(), _width(WIDE))
        width = self.window + (bounded - self.window).detach()
        return torch.exp(-0.5 * (p.square() @ width.square().reciprocal()))

    def _films(self) -> int:
        return len(self.hidden) + int(self.options["modulate_features"])

    def _narrowest(self) -> float:
        """The least width: one step is that of the longest axis."""
        return _width(NARROW) / (max(self.l_max) - 1)


def _width(value: float) -> float:
    """σ of a Gaussian that has this value at distance 1."""
    return math.sqrt(-0.5 / math.log(value))


def _check(o: GridFilterOptions, channels: int, l_max: Sequence[int], condition_dim: int) -> None:
    for name, known in (("network", NETWORKS), ("window", WINDOWS)):
        if o[name] not in known:  # type: ignore[literal-required]
            raise unknown_name("GridFilter", name, o[name], known)  # type: ignore[literal-required]
    network, features, hidden = o["network"], o["emb_dim"], o["hidden"]
    least = 1 if network == "magnet" else 2
    odd = network == "fourier" and features % 2
    if min(channels, hidden, features) < 1 or min(*l_max, 2) < 2 or o["layers"] < least or odd:
        got = f"channels={channels}, l_max={tuple(l_max)}, hidden={hidden}, layers={o['layers']}, emb_dim={features}"
        wanted = "positive sizes, l_max and layers of at least 2, an even emb_dim for 'fourier'"
        raise argument_error("GridFilter", got, wanted, "correct the sizes")
    if condition_dim < 0 or (condition_dim and network != "sine") or (o["modulate_features"] and features != hidden):
        got = f"condition_dim={condition_dim} of {network!r}, emb_dim={features}, hidden={hidden}"
        wanted = "a condition of a sine network alone, and emb_dim == hidden with modulate_features"
        raise argument_error("GridFilter", got, wanted, "correct the options")
    if network == "magnet" and not o["bias"]:
        raise argument_error("GridFilter", "bias=False of 'magnet'", "linear layers with biases", "set bias=True")
