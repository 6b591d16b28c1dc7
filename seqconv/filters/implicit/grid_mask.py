"""A Gaussian window on a grid, one for all channels, whose width is learned along every axis.

Equation, at the position p of :mod:`~seqconv.filters.implicit.grids`::

    w(p) = exp(-½ sum_d (p_d - m_d)² / (σ_d² + ε)),   0 where |p_d| >= |m_d| + |σ_d| √(-2 log threshold) for any axis d

The second condition leaves as many taps out at both ends of an axis: all of those at which the window along this axis
is below the threshold on both sides.

Sources: Romero et al. 2021, "FlexConv" (arXiv 2110.08059); gaussian_mask_2d and crop_relative_positions_2d in
ckconv/nn/ckconv.py of rjbruin/flexconv (commit 0f355d15), gaussian_mask and crop_kernel_positions_centered in
ckconv/nn/flexconv.py of david-knigge/ccnn (a543e388). They cut the taps off; here those are zeros, so that shapes do
not depend on parameters.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error

from ...parameters import register_tensor, set_optimizer_options, wide_default_dtype


class GridMask(nn.Module):
    """The window.

    Args:
        axes: of the grid.
        initial_width: initial σ of every axis.
        learn_mean: train m, which starts at zero.
        threshold: see above; 0 keeps all taps.
        eps: ε.

    Raises:
        ValueError: a width that is not positive, a threshold outside of [0, 1).
    """

    mean: Tensor

    def __init__(self, axes: int, initial_width: float, learn_mean: bool, threshold: float, eps: float) -> None:
        super().__init__()
        if not 0 <= threshold < 1 or initial_width <= 0:
            got = f"threshold={threshold}, mask_width={initial_width}"
            wanted = "a threshold in [0, 1) and a positive width"
            raise argument_error("GridFilter", got, wanted, "correct the numbers")
        self.initial_width, self.threshold, self.eps = initial_width, threshold, eps
        self.width = nn.Parameter(torch.empty(axes, dtype=wide_default_dtype()))
        set_optimizer_options(self, "width", weight_decay=0.0)
        rate = None if learn_mean else 0.0
        register_tensor(self, "mean", torch.empty(axes, dtype=wide_default_dtype()), lr=rate, weight_decay=0.0)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """The same width along all axes, around lag zero."""
        self.width.fill_(self.initial_width)
        self.mean.zero_()

    def forward(self, p: Float[Tensor, "*taps axes"]) -> Float[Tensor, "*taps 1"]:
        """The window at these positions."""
        exponent = ((p - self.mean).square() / (self.width.square() + self.eps)).sum(-1, keepdim=True)
        w = torch.exp(-0.5 * exponent)
        if self.threshold == 0:
            return w
        return torch.where((p.abs() < self._reach()).all(-1, keepdim=True), w, 0.0)

    @torch.no_grad()
    def _reach(self) -> Float[Tensor, " axes"]:
        """The distance from lag zero at and beyond which taps are left out; infinite if it is beyond position 1."""
        reach = self.mean.abs() + self.width.abs() * math.sqrt(-2 * math.log(self.threshold))
        return torch.where(reach < 1, reach, math.inf)
