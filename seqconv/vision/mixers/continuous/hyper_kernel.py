"""Terminator's block of hyper-kernels: kernels as large as the image, times the image, times the image once more.

A slow network (:mod:`~seqconv.vision.mixers.continuous.slow_network`) gives a kernel K for every channel. With products
``Z a`` of matrices whose rows and columns are those of the image, each channel apart, and ``std`` of mean 0 and
variance 1 over the cells of a channel::

    Z = K ⊙ x
    f = std(r_1(Z) + r_2(x)),   r(x) = W_y (gelu(std(W_k x ⊙ W_q W_v x)) + b(p))
    m = std(W_m x),             c = std(x ⊙ σ(κ ⊙ x̂ ⊙ x̂)),   x̂: mean over cells
    a = Z f,                    u = x ⊙ σ((κ_p ⊙ ā ⊙ ā) (κ_c ⊙ â ⊙ â)),   ā: mean over channels
    l_i = gelu(std(W_i (k_i * v_i))) + β_i,   v = (c, x, x, m),   k_i from the context (x, c, m, x)
    y = W [a, l_2, f, Z m, l_1, σ(a) ⊙ a, l_3, Z c, l_4, u]

κ are slow networks of the channels or the cells, ``k_i`` depthwise kernels of four widths.

``statistics="batch"`` is the original: the ``k_i`` come from the mean context of the batch, and ``std`` of the ``l_i``
is over the batch too, in evaluation as in training; **the output of an image depends on the other images**. With
``statistics="image"`` each image gives what the original gives for it alone: the answer for an image is a function of
the image, whatever it is batched with, the sizes of batches may differ between training and evaluation, and masks of a
batch mean what they say. It is the default for that reason.

Source: Zhang 2024, "HyperZ⋅Z⋅W Operator Connects Slow-Fast Networks for Full Context Interaction" (arXiv 2401.17948);
``FastMultiBranchLayer`` of ``models/modules/fast_multi_branch.py`` in hyperevolnet/Terminator at e4748d65, and
``models/modules/{hyper_interact,local_conv,rgu}.py`` at 458c8c52 and 804fe06b.
"""

from collections.abc import Sequence
from typing import get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error, unknown_name
from seqconv_kernels._core.precision import accumulation_dtype

from ....layers.linear import Linear
from ...mixer_2d import Mixer2d
from ...registry import register_2d
from .slow_network import ContextNetwork, SlowNetwork, Statistics

EPS = 1e-5
BRANCHES = 10
NETWORKS = 5
WIDTHS = 4


def standardise(x: Float[Tensor, "batch height width channels"], *, over_batch: bool = False) -> Tensor:
    """Mean 0 and variance 1 over the cells of each channel, of each image or of the batch."""
    over, wide = (0, 1, 2) if over_batch else (1, 2), x.to(accumulation_dtype(x))
    variance, mean = torch.var_mean(wide, over, correction=0, keepdim=True)
    return ((x - mean) * torch.rsqrt(variance + EPS)).to(x.dtype)


def matrix_product(
    a: Float[Tensor, "batch rows inner channels"], b: Float[Tensor, "batch inner columns channels"]
) -> Float[Tensor, "batch rows columns channels"]:
    """Products of the maps of each channel as matrices."""
    return (a.movedim(-1, 1) @ b.movedim(-1, 1)).movedim(1, -1)


class RecursiveGate(nn.Module):
    """r of the module's docstring."""

    def __init__(self, d_model: int, image_size: int) -> None:
        super().__init__()
        self.k_proj, self.v_proj, self.q_proj, self.out_proj = (Linear(d_model, d_model) for _ in range(4))
        self.cell_bias = nn.Parameter(torch.empty(image_size, image_size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Projections of unit gain, biases zero."""
        for projection in (self.k_proj, self.v_proj, self.q_proj, self.out_proj):
            nn.init.kaiming_uniform_(projection.weight, nonlinearity="linear")
            nn.init.zeros_(projection.bias)
        nn.init.zeros_(self.cell_bias)

    def forward(self, x: Float[Tensor, "batch height width d_model"]) -> Float[Tensor, "batch height width d_model"]:
        """Mixes channels; cells meet in the statistics alone."""
        gated = F.gelu(standardise(self.k_proj(x) * self.q_proj(self.v_proj(x))))
        y: Tensor = self.out_proj(gated + self.cell_bias[..., None])
        return y


class LocalConv(nn.Module):
    """l of the module's docstring.

    Args:
        d_model: width.
        network: of the kernel.
    """

    def __init__(self, d_model: int, network: ContextNetwork) -> None:
        super().__init__()
        self.network, self.channel_mixer = network, Linear(d_model, d_model)
        self.bias = nn.Parameter(torch.empty(1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The projection as He et al. do it; biases zero."""
        nn.init.kaiming_normal_(self.channel_mixer.weight)
        nn.init.zeros_(self.channel_mixer.bias)
        nn.init.zeros_(self.bias)

    def forward(self, v: Tensor, context: Tensor) -> Float[Tensor, "batch height width d_model"]:
        """The convolution of v by kernels of the context."""
        kernels = self.network(context).to(v.dtype)
        features = self.channel_mixer(self._convolve(v, kernels))
        return F.gelu(standardise(features, over_batch=self.network.statistics == "batch")) + self.bias

    @staticmethod
    def _convolve(v: Tensor, kernels: Float[Tensor, "kernels size size d_model"]) -> Tensor:
        """Depthwise; images with kernels of their own lie next to each other as channels."""
        size, images = kernels.shape[1], v.movedim(-1, 1)
        weight = kernels.movedim(-1, 1).flatten(0, 1)[:, None]
        folded = images.reshape(-1, len(weight), *images.shape[2:])
        return F.conv2d(folded, weight, padding=size // 2, groups=len(weight)).view(images.shape).movedim(1, -1)


@register_2d(
    "hyper_kernel",
    experimental=True,
    examples=({"image_size": 5, "kernel_sizes": [3, 5, 5, 3], "hidden": [6, 5, 4, 3, 7], "layers": [2, 1, 3, 1, 1]},),
)
class HyperKernel2d(Mixer2d):
    """Kernels as large as the image, made by networks of the position (Terminator).

    Experimental: no published weights were read, and the original's repository holds its code no more. Images are
    ``image_size`` by ``image_size``: products of matrices need squares, and numbers for each cell one size.

    Args:
        d_model: width of inputs and outputs.
        image_size: rows and columns of every image, at least 2.
        kernel_sizes: widths of the four local kernels, odd and above 1.
        hidden, layers: of the slow networks: of the whole image, of the four local kernels (which share one number),
            of the channels, and of the channels and the cells of the last branch.
        omega_0: initial frequency of the slow networks; the original's settings give none.
        statistics: ``"image"``, or ``"batch"``: **then the output of an image depends on the other images** of the
            batch, in evaluation too, as in the original.

    Raises:
        ValueError: sizes out of range, other numbers of them, another word.
    """

    any_size = False

    def __init__(
        self,
        d_model: int,
        *,
        image_size: int = 32,
        kernel_sizes: Sequence[int] = (3, 9, 5, 7),
        hidden: Sequence[int] = (64, 32, 32, 16, 64),
        layers: Sequence[int] = (2, 2, 2, 2, 2),
        omega_0: float = 2.0,
        statistics: Statistics = "image",
    ) -> None:
        super().__init__(d_model)
        _check(image_size, kernel_sizes, hidden, layers, statistics)
        self.image_size = image_size
        sizes = [{"hidden": h, "layers": n} for h, n in zip(hidden, layers, strict=True)]

        def network(channels: int, size: int, axes: int, of: int) -> SlowNetwork:
            return SlowNetwork(channels, size=size, axes=axes, omega_0=omega_0, **sizes[of])

        self.global_kernel = network(d_model, image_size, 2, 0)
        self.local_convs = nn.ModuleList(
            LocalConv(d_model, ContextNetwork(d_model, size=k, omega_0=omega_0, statistics=statistics, **sizes[1]))
            for k in kernel_sizes
        )
        self.channel_kernel = network(1, d_model, 1, 2)
        self.gate_channel_kernel, self.gate_cell_kernel = network(1, d_model, 1, 3), network(1, image_size, 2, 4)
        self.kernel_gate, self.image_gate = (RecursiveGate(d_model, image_size) for _ in range(2))
        self.channel_mixer, self.out_proj = Linear(d_model, d_model), Linear(BRANCHES * d_model, d_model)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Projections as He et al. do it; biases zero."""
        for projection in (self.channel_mixer, self.out_proj):
            nn.init.kaiming_normal_(projection.weight)
            nn.init.zeros_(projection.bias)

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        self._check_size(x, mask)
        y: Tensor = x if x.shape[0] == 0 else self.out_proj(torch.cat(self._branches(x), dim=-1))
        return y

    def _branches(self, x: Float[Tensor, "batch height width d_model"]) -> list[Tensor]:
        """The ten maps, in the order in which they are joined."""
        z = self.global_kernel(x).to(x.dtype) * x
        f = standardise(self.kernel_gate(z) + self.image_gate(x))
        m, c = standardise(self.channel_mixer(x)), standardise(self._gate_channels(x))
        a, products = matrix_product(z, f), (matrix_product(z, m), matrix_product(z, c))
        local = [conv(v, of) for conv, v, of in zip(self.local_convs, (c, x, x, m), (x, c, m, x), strict=True)]
        gated = self._gate(x, a)
        return [a, local[1], f, products[0], local[0], a.sigmoid() * a, local[2], products[1], local[3], gated]

    def _gate_channels(self, x: Tensor) -> Tensor:
        """``x ⊙ σ(κ ⊙ x̂ ⊙ x̂)``."""
        mean = x.mean((1, 2), keepdim=True)
        return x * torch.sigmoid(_row(self.channel_kernel(x), x) * mean.square())

    def _gate(self, x: Tensor, a: Tensor) -> Tensor:
        """The last branch, u in the module's docstring."""
        channels = _row(self.gate_channel_kernel(x), x) * a.mean((1, 2), keepdim=True).square()
        cells = self.gate_cell_kernel(x).to(x.dtype) * a.mean(-1, keepdim=True).square()
        return x * torch.sigmoid(cells * channels)

    def _check_size(self, x: Tensor, mask: Tensor | None) -> None:
        side = self.image_size
        if x.shape[1:3] != (side, side) or (mask is not None and not bool(mask.all())):
            got = f"images of {x.shape[1]} by {x.shape[2]} cells" + ("" if mask is None else " under a mask")
            remedy = "resize the images, or set image_size; other 2-D mixers take any size"
            raise argument_error(self._op(), got, f"{side} by {side} cells, all of them real", remedy)


def _row(kernel: Float[Tensor, "1 d_model 1"], x: Tensor) -> Float[Tensor, "1 1 1 d_model"]:
    return kernel[:, None, None, :, 0].to(x.dtype)


def _check(image_size: int, kernels: Sequence[int], hidden: Sequence[int], layers: Sequence[int], word: str) -> None:
    operation, words = "hyper_kernel 2-D mixer", get_args(Statistics)
    if word not in words:
        raise unknown_name(operation, "statistics", word, words)
    odd = len(kernels) == WIDTHS and all(k > 1 and k % 2 for k in kernels)
    positive = len(hidden) == len(layers) == NETWORKS and min(*hidden, *layers) >= 1
    if image_size < 2 or not odd or not positive:  # one cell has no variance
        got = f"image_size={image_size}, kernel_sizes={list(kernels)}, hidden={list(hidden)}, layers={list(layers)}"
        wanted = (
            f"at least 2 cells, {WIDTHS} odd kernel sizes above 1, {NETWORKS} widths and {NETWORKS} numbers of layers"
        )
        raise argument_error(operation, got, wanted, "correct the sizes")
