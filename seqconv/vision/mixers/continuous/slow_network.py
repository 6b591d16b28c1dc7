"""Networks of the position whose values are kernels of one size (the slow networks of Terminator).

With p the cells of a grid from -1 to 1 along every axis, and a number ``b(p)`` for each cell::

    h_0 = sin(F_0 p + f_0),    h_i = sin(F_i p + f_i) ⊙ (W_i h_{i-1} + w_i) + b,    k = W h_n + w

A network with a context c, which is the mean over cells of a map pooled to the kernel's size, replaces each ``h_i``::

    g = gelu(U R c + u),    h_i ← (h_i + h_i / 10 |h_i|) ⊙ (V_i g + v_i)

where ``|h_i|`` is the norm over the cells of a channel, and no gradient passes the first ``h_i``.

Source: ``models/modules/{slow_net,magnet}.py`` of hyperevolnet/Terminator at 458c8c52. It scales the last layer at the
first call, and again at the first call of every model that loads its weights; here it begins scaled.
"""

import math
from typing import Literal, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels._core.precision import accumulation_dtype, no_autocast

from ....layers.linear import Linear
from ....parameters import KeepFloat32, set_optimizer_options, wide_default_dtype

SHAPE = 6.0
"""Of the gamma distribution of the first function's frequencies; that of the i-th is this over i."""
STEP = 0.1
"""Of what is normalised: no registered parameter of the original, so that training keeps it."""

Statistics = Literal["image", "batch"]


class PositionNetwork(KeepFloat32):
    """What both networks share: layers of the position, and the recursion of their products.

    Args:
        channels: of the kernel.
        size: cells along every axis.
        axes: of the grid.
        hidden, layers: width and products.
        omega_0: initial frequencies are ``2π ω_0 γ`` times U(±axes^-½).
    """

    def __init__(self, channels: int, *, size: int, axes: int, hidden: int, layers: int, omega_0: float) -> None:
        super().__init__()
        self.size, self.axes, self.omega_0 = size, axes, omega_0
        dtype = wide_default_dtype()
        self.features = nn.ModuleList(Linear(axes, hidden, dtype=dtype) for _ in range(layers + 1))
        self.linears = nn.ModuleList(Linear(hidden, hidden, dtype=dtype) for _ in range(layers))
        self.output = Linear(hidden, channels, dtype=dtype)
        self.cell_bias = nn.Parameter(torch.empty(*[size] * axes, dtype=dtype))
        for module in (self, *self.features, *self.linears, self.output):  # hardly penalised there (loss.py)
            names = [name for name, _ in module.named_parameters(recurse=False)]
            set_optimizer_options(module, *names, weight_decay=0.0)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """γ ~ Gamma(6/(i+1), 1) for the i-th function; layers of unit gain with bias 1, the last one small."""
        for i, layer in enumerate(self.features):
            weight, bias = cast(Tensor, layer.weight), cast(Tensor, layer.bias)
            gamma = torch._standard_gamma(torch.full_like(weight, SHAPE / (i + 1)))
            bound = self.axes**-0.5
            weight.uniform_(-bound, bound).mul_(2 * math.pi * self.omega_0 * gamma)
            nn.init.zeros_(bias)
        for layer in (*self.linears, self.output):
            nn.init.kaiming_uniform_(cast(Tensor, layer.weight), nonlinearity="linear")
            nn.init.constant_(cast(Tensor, layer.bias), 0.0 if layer is self.output else 1.0)
        self.output.weight.mul_(self.size ** (-self.axes / 2))
        nn.init.zeros_(self.cell_bias)

    def _product(self, p: Tensor, h: Tensor, i: int) -> Tensor:
        """The next products, from the last ones."""
        h = torch.sin(self.features[i + 1](p)) * self.linears[i](h)
        return h + self.cell_bias[..., None]

    def _positions(self) -> Float[Tensor, "1 *cells axes"]:
        """Rounded to float32, as in the original."""
        line = torch.linspace(-1, 1, self.size, device=self.cell_bias.device, dtype=torch.float32)
        grid = torch.stack(torch.meshgrid(*[line] * self.axes, indexing="ij"), dim=-1)
        return grid[None].to(accumulation_dtype(self.cell_bias))


class SlowNetwork(PositionNetwork):
    """A kernel that is a function of the position; arguments as :class:`PositionNetwork`."""

    def __init__(self, channels: int, *, size: int, axes: int, hidden: int, layers: int, omega_0: float) -> None:
        super().__init__(channels, size=size, axes=axes, hidden=hidden, layers=layers, omega_0=omega_0)
        self.reset_parameters()

    def forward(self, x: Tensor) -> Float[Tensor, "1 *cells channels"]:
        """The kernel, in float32 at least; x says on which device."""
        with no_autocast(x):
            p = self._positions()
            h = torch.sin(self.features[0](p))
            for i in range(len(self.linears)):
                h = self._product(p, h, i)
            k: Tensor = self.output(h)
        return k


class ContextNetwork(PositionNetwork):
    """Kernels of ``size`` by ``size`` that depend on a map.

    Args:
        channels: of the map and the kernel.
        statistics: of which the context is: each ``"image"``, or all of the ``"batch"``.
        size, hidden, layers, omega_0: see :class:`PositionNetwork`.
    """

    def __init__(
        self, channels: int, *, size: int, hidden: int, layers: int, omega_0: float, statistics: Statistics
    ) -> None:
        super().__init__(channels, size=size, axes=2, hidden=hidden, layers=layers, omega_0=omega_0)
        dtype = wide_default_dtype()
        self.statistics = statistics
        self.reduce, self.context = Linear(channels, hidden, dtype=dtype), Linear(hidden, hidden, dtype=dtype)
        self.factors = nn.ModuleList(Linear(hidden, hidden, dtype=dtype) for _ in range(layers))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """As without a context; its layers with unit gain and bias 1, after two as in PyTorch."""
        super().reset_parameters()
        for layer in (self.reduce, self.context):
            layer.reset_parameters()
        for factor in self.factors:
            nn.init.kaiming_uniform_(cast(Tensor, factor.weight), nonlinearity="linear")
            nn.init.ones_(cast(Tensor, factor.bias))

    def forward(self, x: Float[Tensor, "batch height width channels"]) -> Float[Tensor, "kernels size size channels"]:
        """One kernel for each image, or one for all of them."""
        with no_autocast(x):
            p = self._positions()
            g = self._context(x.to(p.dtype))
            h = torch.sin(self.features[0](p))
            for i, factor in enumerate(self.factors):
                h = self._product(p, h, i)
                unit = F.normalize(h.flatten(1, 2), dim=1).view_as(h)
                h = (h.detach() + STEP * unit) * factor(g)
            k: Tensor = self.output(h)
        return k

    def _context(self, x: Tensor) -> Float[Tensor, "kernels size size hidden"]:
        pooled = F.adaptive_avg_pool2d(x.movedim(-1, 1), self.size).movedim(1, -1)
        reduced = self.reduce(pooled)
        return F.gelu(self.context(reduced if self.statistics == "image" else reduced.mean(0, keepdim=True)))
