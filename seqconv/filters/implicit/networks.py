"""Kernel networks: functions of a position in [-1, 1] that give one tap for every channel.

::

    sine       h_0 = p,  h_{i+1} = sin(ω_0 (W_i h_i + b_i)),  k = W h + b        SIREN; other activations likewise
    fourier    h_1 = [cos, sin](W_0 p + b_0), then as ``relu``
    magnet     g_i(p) = exp(-(γ_i (p - μ_i))² / 2) sin(ω_i p + φ_i)
               h_0 = g_0(p),  h_i = g_i(p) ⊙ (W_i h_{i-1} + b_i),  k = W h + b

On grids (``axes``) the position of a MAGNet is a vector, and so are γ, μ and ω: squares and products are summed over
the axes.

The weights of a ``sine`` network may be normalised: ``W = g v / |v|`` row by row.

Sources: Romero et al. 2021, "CKConv" (arXiv 2102.02611), Sitzmann et al. 2020 (arXiv 2006.09661) for its initial
values; Romero et al. 2021, "FlexConv" (arXiv 2110.08059) for MAGNet, whose initial values are those of
ckconv/nn/ck/magnet.py of david-knigge/ccnn (commit a543e388).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from itertools import pairwise, repeat
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error, unknown_name

from ...parameters import set_optimizer_options

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "sine": torch.sin,
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "silu": F.silu,
    "fourier": F.relu,
}
"""Networks of linear layers by their activation; ``fourier`` has features of the position in place of the first."""

NETWORKS = (*ACTIVATIONS, "magnet")


class KernelNetwork(nn.Module, ABC):
    """Base of the kernel networks."""

    @abstractmethod
    def forward(self, p: Float[Tensor, " taps"]) -> Float[Tensor, "taps channels"]:
        """The taps of every channel at these positions."""


class NormedLinear(nn.Module):
    """Linear layer whose rows have a length of their own, ``W = g v / |v|``.

    Args:
        inputs, outputs: features.
        dtype: of the parameters.
    """

    def __init__(self, inputs: int, outputs: int, *, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight_v = nn.Parameter(torch.empty(outputs, inputs, dtype=dtype))
        self.weight_g = nn.Parameter(torch.empty(outputs, 1, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(outputs, dtype=dtype))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """As nn.Linear."""
        bound = self.weight_v.shape[1] ** -0.5
        nn.init.uniform_(self.bias, -bound, bound)
        self.set_weight(nn.init.uniform_(torch.empty_like(self.weight_v), -bound, bound))

    @torch.no_grad()
    def set_weight(self, weight: Tensor) -> None:
        """Take this weight apart into direction and length."""
        self.weight_v.copy_(weight)
        self.weight_g.copy_(weight.norm(dim=1, keepdim=True))

    def forward(self, x: Float[Tensor, "taps inputs"]) -> Float[Tensor, "taps outputs"]:
        """The product, and the bias."""
        weight = self.weight_v * (self.weight_g / self.weight_v.norm(dim=1, keepdim=True))
        return F.linear(x, weight, self.bias)


class PerceptronKernel(KernelNetwork):
    """Linear layers with an activation between them.

    Args:
        channels: outputs.
        hidden: width; even for ``"fourier"``.
        layers: linear layers, at least 2.
        activation: key of ``ACTIVATIONS``.
        omega_0: factor in front of every sine; standard deviation of the frequencies over 2π for ``"fourier"``.
        weight_norm: layers with rows of a length of their own.
        scale: of the last layer's initial weight.
        dtype: of the parameters.
    """

    def __init__(
        self,
        channels: int,
        *,
        hidden: int,
        layers: int,
        activation: str,
        omega_0: float,
        weight_norm: bool,
        scale: float,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.activation, self.omega_0, self.scale = activation, omega_0, scale
        first = hidden // 2 if activation == "fourier" else hidden
        widths = [1, *[hidden] * (layers - 1), channels]
        kind: Callable[..., nn.Module] = NormedLinear if weight_norm else nn.Linear
        made = [kind(a, first if i == 0 else b, dtype=dtype) for i, (a, b) in enumerate(pairwise(widths))]
        *inner, output = made
        self.hidden, self.output = nn.ModuleList(inner), output
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """SIREN's weights for sines, with biases ~ U(±1); frequencies ~ N(0, (2π ω_0)²); else as nn.Linear."""
        layers = [*self.hidden, self.output]
        for layer in layers:
            layer.reset_parameters()
        if self.activation == "sine":
            for i, layer in enumerate(layers):
                weight = torch.empty_like(_direction(layer))
                bound = 1.0 if i == 0 else math.sqrt(6 / weight.shape[1]) / self.omega_0
                _set_weight(layer, weight.uniform_(-bound, bound))
                cast(Tensor, layer.bias).uniform_(-1, 1)
        elif self.activation == "fourier":
            _set_weight(self.hidden[0], torch.randn_like(_direction(self.hidden[0])) * (2 * math.pi * self.omega_0))
        cast(Tensor, self.output.weight_g if isinstance(self.output, NormedLinear) else self.output.weight).mul_(
            self.scale
        )

    def forward(self, p: Float[Tensor, " taps"]) -> Float[Tensor, "taps channels"]:
        h, activate = p[:, None], ACTIVATIONS[self.activation]
        for i, layer in enumerate(self.hidden):
            h = layer(h)
            if i == 0 and self.activation == "fourier":
                h = torch.cat([h.cos(), h.sin()], dim=1)
            else:
                h = activate(self.omega_0 * h if self.activation == "sine" else h)
        return cast(Tensor, self.output(h))


class MAGNet(KernelNetwork):
    """Multiplicative Gabor network.

    Args:
        channels: outputs.
        hidden: width.
        layers: products; there is one Gabor function more.
        omega_0: the initial frequencies are ``2π ω_0 γ`` times U(±1), or times U(±axes^-½) for each axis of a grid.
        spread: the Gabor functions are centred within this distance before the newest position; on a grid, around
            lag zero along every axis.
        scale: of the last layer's initial weight.
        dtype: of the parameters.
        axes: of a grid; ``None``: positions are numbers.
    """

    def __init__(
        self,
        channels: int,
        *,
        hidden: int,
        layers: int,
        omega_0: float,
        spread: float,
        scale: float,
        dtype: torch.dtype,
        axes: int | None = None,
    ) -> None:
        super().__init__()
        self.omega_0, self.spread, self.scale, self.axes = omega_0, spread, scale, axes
        numbers = (layers + 1, hidden)
        vectors = numbers if axes is None else (*numbers, axes)
        self.frequency, self.phase, self.gamma, self.mu = (
            nn.Parameter(torch.empty(size, dtype=dtype)) for size in (vectors, numbers, vectors, vectors)
        )
        # ccnn penalises the sampled kernel instead of the parameters of its network (ckconv/nn/loss.py)
        set_optimizer_options(self, "frequency", "phase", "gamma", "mu", weight_decay=0.0)
        self.linears = nn.ModuleList(nn.Linear(hidden, hidden, dtype=dtype) for _ in range(layers))
        self.output = nn.Linear(hidden, channels, dtype=dtype)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """γ_i ~ Gamma(6/(i+1), 1), φ = 0; linear layers of unit gain with bias 1, the last one with bias 0."""
        for i, gamma in enumerate(self.gamma):
            gamma.copy_(torch._standard_gamma(torch.full_like(gamma, 6 / (i + 1))))
        bound = (self.axes or 1) ** -0.5
        self.frequency.uniform_(-bound, bound).mul_(2 * math.pi * self.omega_0 * self.gamma)
        self.phase.zero_()
        reach = min(self.spread, 1.0)
        self.mu.uniform_(1 - reach if self.axes is None and reach < 1 else -reach, 1 if self.axes is None else reach)
        for linear in (*self.linears, self.output):
            nn.init.kaiming_uniform_(cast(Tensor, linear.weight), nonlinearity="linear")
            nn.init.constant_(cast(Tensor, linear.bias), 0.0 if linear is self.output else 1.0)
        self.output.weight.mul_(self.scale)

    def forward(self, p: Tensor) -> Tensor:
        """The taps (..., channels) at positions (taps,), or (..., axes) of a grid."""
        gabor = self._gabor(p) if self.axes is None else map(self._gabor_on_grid, repeat(p), *self._functions())
        h, *rest = gabor
        for g, linear in zip(rest, self.linears, strict=True):
            h = g * linear(h)
        return cast(Tensor, self.output(h))

    def _gabor(self, p: Float[Tensor, " taps"]) -> Float[Tensor, "functions taps hidden"]:
        distance = self.gamma[:, None] * (p[:, None] - self.mu[:, None])
        waves = torch.sin(self.frequency[:, None] * p[:, None] + self.phase[:, None])
        return torch.exp(-0.5 * distance.square()) * waves

    def _functions(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.frequency, self.phase, self.gamma, self.mu

    @staticmethod
    def _gabor_on_grid(
        p: Float[Tensor, "*cells axes"], frequency: Tensor, phase: Tensor, gamma: Tensor, mu: Tensor
    ) -> Float[Tensor, "*cells hidden"]:
        distance = (gamma * (p[..., None, :] - mu)).square().sum(-1)
        return torch.exp(-0.5 * distance) * torch.sin(p @ frequency.T + phase)


def create_network(
    kind: str,
    channels: int,
    *,
    hidden: int,
    layers: int,
    omega_0: float,
    weight_norm: bool,
    spread: float,
    scale: float,
    dtype: torch.dtype,
) -> KernelNetwork:
    """A kernel network by name; arguments as those of the classes.

    Raises:
        ValueError: an unknown network, sizes that are too small, normalised weights where there are none.
    """
    if kind not in NETWORKS:
        raise unknown_name("kernel network", "network", kind, NETWORKS)
    if hidden < 1 or layers < 1 or (layers < 2 and kind != "magnet") or (kind == "fourier" and hidden % 2):
        got = f"hidden={hidden}, layers={layers} for {kind!r}"
        wanted = "at least one hidden channel, an even number for 'fourier', and two layers (one for 'magnet')"
        raise argument_error("kernel network", got, wanted, "correct the sizes")
    if weight_norm and kind in ("magnet", "fourier"):
        wanted = "one of " + ", ".join(name for name in NETWORKS if name not in ("magnet", "fourier"))
        raise argument_error("kernel network", f"weight_norm for {kind!r}", wanted, "set weight_norm=False")
    sizes: dict[str, Any] = {"hidden": hidden, "layers": layers, "omega_0": omega_0, "scale": scale, "dtype": dtype}
    if kind == "magnet":
        return MAGNet(channels, spread=spread, **sizes)
    return PerceptronKernel(channels, activation=kind, weight_norm=weight_norm, **sizes)


def _direction(layer: nn.Module) -> Tensor:
    return layer.weight_v if isinstance(layer, NormedLinear) else cast(nn.Linear, layer).weight


def _set_weight(layer: nn.Module, weight: Tensor) -> None:
    if isinstance(layer, NormedLinear):
        layer.set_weight(weight)
    else:
        cast(nn.Linear, layer).weight.copy_(weight)
