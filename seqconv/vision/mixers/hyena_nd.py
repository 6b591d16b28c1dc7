"""Hyena over images and other maps: gates and long convolutions in turn.

``Hyena2d``, with N = ``order``: ``(x_0, ..., x_{N-1}, v) = shortconv(W_in u)``, the short one depthwise, 3 by 3 and
centred, and then, for n = N-1, ..., 1 and with ``*`` the convolution that depends on the upper left quadrant::

    v ← h_{N-1-n} * (x_n ⊙ v) + D_{N-1-n} ⊙ (x_n ⊙ v)         and finally  y = W_out (x_0 ⊙ v)

``directions`` says how outputs depend on the other quadrants:

==============  ==========================================================================================
``"standard"``  not at all
``"seq"``       the first convolution sees the lower right quadrant, those after it the upper left one
``"4dir"``      everything between the projections runs on the image flipped four ways, with the same filters;
                the four results, flipped back, are mixed by four weights and a bias
``"4dirp"``     the same, mixed by a linear projection of all their channels
``"parallel"``  four sets of gates and values with short filters of their own, all upper left
==============  ==========================================================================================

Source: Zimerman and Wolf, "Multi-Dimensional Hyena for Spatial Inductive Bias", and
pytorch-image-models/timm/models/layers/hyena2d.py of Itamarzimm/HyenaND (commit e8b875ea). That code divides its
convolutions by twice the side of the image; ``divide_by_side`` does so too.

``HyenaNd``, for maps with any number of axes, has one convolution, with lags of both signs
(:mod:`~seqconv.vision.mixers.continuous.ckconv_nd`)::

    (q, k, v) = shortconv(W_in u),   z = norm(norm(q) ⊙ φ(k)),   y = W_out norm(ckconv(z) ⊙ ψ(v))

each norm an option, k normalised too where φ is the identity. Source: nvsubquadratic/modules/hyena_nd.py and
sequence_mixer.py of NVIDIA-BioNeMo/nvSubquadratic (commit 51291129).
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Unpack, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error, unknown_name

from ...convolution.spatial import convolve_2d
from ...filters.spatial import DirectFilter2d, HyenaFilter2d, HyenaFilter2dOptions
from ...layers.activations import activate, check_activation
from ...layers.linear import Linear
from ...layers.norms import RMSNorm
from ...layers.residual import Dropout
from ...options import Default, select_options, with_defaults
from ..mixer_2d import Mixer2d, by_size, zero_padding_2d
from ..registry import register_2d
from .continuous.ckconv_nd import CKConvNd, GridConvolutionOptions

DIRECTIONS = ("standard", "seq", "4dir", "4dirp", "parallel")
FLIPS = ((), (2, 3), (3,), (2,))
"""Axes (height is 2, width is 3) flipped in each of the four directions."""

SHORT_CONVOLUTIONS: Mapping[int, type[nn.Conv1d] | type[nn.Conv2d] | type[nn.Conv3d]] = {
    1: nn.Conv1d,
    2: nn.Conv2d,
    3: nn.Conv3d,
}
NORM_EPS = 1e-6


@register_2d(
    "hyena",
    examples=(
        {"l_max": 6, "order": 3, "directions": "4dir", "window": "learned", "filter_order": 8},
        {"l_max": 5, "directions": "seq", "form": "joint", "window": "symmetric", "filter_order": 8},
        {"l_max": 12, "directions": "4dirp", "divide_by_side": True},
        {"l_max": 7, "directions": "parallel", "direct": True},
    ),
)
class Hyena2d(Mixer2d):
    """Gated long convolutions over images.

    Args:
        d_model: width of inputs and outputs.
        l_max: rows and columns of the long filters; larger images are mixed within this window.
        order: number of gates, at least 2; one long convolution less.
        directions: see above.
        direct: taps as parameters instead of a :class:`~seqconv.filters.spatial.HyenaFilter2d`; the options of that
            filter then mean nothing.
        divide_by_side: divide the convolutions, not the skips, by ``2 l_max``, as the original does.
        dropout: probability, after every gate but the last.
        **filter: see :class:`~seqconv.filters.spatial.HyenaFilter2dOptions`.

    Raises:
        ValueError: ``order < 2``, sizes below 1, unknown words.
    """

    def __init__(
        self,
        d_model: int,
        *,
        l_max: int = 32,
        order: int = 2,
        directions: str = "standard",
        direct: bool = False,
        divide_by_side: bool = False,
        dropout: float = 0.0,
        **filter: Unpack[HyenaFilter2dOptions],
    ) -> None:
        super().__init__(d_model)
        if directions not in DIRECTIONS:
            raise unknown_name("Hyena2d", "directions", directions, DIRECTIONS)
        if order < 2:
            raise argument_error("Hyena2d", f"order={order}", "order >= 2", "correct the sizes")
        self.l_max, self.order, self.directions = l_max, order, directions
        self.divide_by_side, self.sets = divide_by_side, 4 if directions == "parallel" else 1
        inner, channels = (order + 1) * d_model, (order - 1) * d_model
        self.in_proj = Linear(d_model, inner)
        self.short_conv = nn.Conv2d(inner, self.sets * inner, 3, padding=1, groups=inner)
        self.filter = (
            DirectFilter2d(channels, l_max=l_max) if direct else HyenaFilter2d(channels, l_max=l_max, **filter)
        )
        self.D = nn.Parameter(torch.empty(order - 1, d_model))
        if directions in ("4dir", "4dirp"):
            self.mix = Linear(4, 1) if directions == "4dir" else Linear(4 * d_model, d_model)
        self.dropout = Dropout(dropout)
        self.out_proj = Linear(self.sets * d_model, d_model)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the skips from N(0, 1)."""
        nn.init.normal_(self.D)

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        height, width = x.shape[1:3]
        u = zero_padding_2d(self.in_proj(x), mask).movedim(-1, 1)
        u = zero_padding_2d(self.short_conv(u).movedim(1, -1), mask).movedim(-1, 1)
        *gates, v = u.unflatten(1, (self.sets, -1)).flatten(0, 1).chunk(self.order + 1, dim=1)
        taps = self.filter(height, width)
        taps = (taps / (2 * self.l_max) if self.divide_by_side else taps).chunk(self.order - 1)
        if self.directions in ("4dir", "4dirp"):
            y = self._merge(self._recur([_views(gate) for gate in gates], _views(v), taps))
        else:
            y = self._recur(gates, v, taps).unflatten(0, (-1, self.sets)).flatten(1, 2).movedim(1, -1)
        mixed: Tensor = self.out_proj(y)
        return mixed

    def _recur(self, gates: Sequence[Tensor], v: Tensor, taps: Sequence[Tensor]) -> Tensor:
        """Everything between the short convolution and the output projection, channels first."""
        for stage, gate in enumerate(reversed(gates[1:])):
            v = self.dropout(v * gate)
            lower_right = self.directions == "seq" and stage == 0
            v = v.flip(2, 3) if lower_right else v
            v = convolve_2d(v, taps[stage], skip=self.D[stage])
            v = v.flip(2, 3) if lower_right else v
        return v * gates[0]

    def _merge(self, y: Tensor) -> Float[Tensor, "batch height width d_model"]:
        """The four directions, flipped back, as one."""
        back = [part.flip(axes) for part, axes in zip(y.chunk(len(FLIPS)), FLIPS, strict=True)]
        stacked = torch.stack(back, dim=-1).movedim(1, -2)
        mixed: Tensor = self.mix(stacked if self.directions == "4dir" else stacked.flatten(-2))
        return mixed.squeeze(-1) if self.directions == "4dir" else mixed


def _views(t: Tensor) -> Tensor:
    """The four directions, one after the other along the batch."""
    return torch.cat([t.flip(axes) for axes in FLIPS])


class HyenaNdOptions(GridConvolutionOptions, total=False):
    """Options of a :class:`HyenaNd` that a mixer hands on.

    Attributes:
        gate, value_gate: φ and ψ; ``None`` for ψ: φ.
        query_norm, gated_norm, output_norm: root mean square norms of q (and k), z and the gated output.
        d_conv: width of the short convolution along every axis, odd and centred; 0: there is none.
        qkv_bias, out_bias: whether the projections have one.
    """

    gate: Annotated[str, Default("silu")]
    value_gate: Annotated[str | None, Default(None)]
    query_norm: Annotated[bool, Default(False)]
    gated_norm: Annotated[bool, Default(False)]
    output_norm: Annotated[bool, Default(False)]
    d_conv: Annotated[int, Default(3)]
    qkv_bias: Annotated[bool, Default(False)]
    out_bias: Annotated[bool, Default(False)]


class HyenaNd(nn.Module):
    """Gated long convolution of ``(batch, *size, d_model)``.

    Args:
        d_model: width of inputs and outputs.
        axes: of a map, 1 to 3.
        causal, condition_dim: as in :class:`~.continuous.ckconv_nd.CKConvNd`; the short convolution is centred all the
            same.
        **options: see :class:`HyenaNdOptions` and :class:`~.continuous.ckconv_nd.GridConvolutionOptions`.

    Raises:
        ValueError: an even ``d_conv``, an unknown gate, other numbers of axes, or as ``CKConvNd``.
    """

    def __init__(
        self,
        d_model: int,
        *,
        axes: int,
        causal: bool = False,
        condition_dim: int = 0,
        **options: Unpack[HyenaNdOptions],
    ) -> None:
        super().__init__()
        o = with_defaults(HyenaNdOptions, options, "HyenaNd")
        width = o["d_conv"]
        if axes not in SHORT_CONVOLUTIONS or width < 0 or (width and width % 2 == 0):
            got = f"axes={axes}, d_conv={width}"
            raise argument_error("HyenaNd", got, "1 to 3 axes, an odd width or 0", "correct the sizes")
        self.gate = check_activation("HyenaNd", o["gate"])
        self.value_gate = check_activation("HyenaNd", o["value_gate"] or o["gate"])
        inner = 3 * d_model
        self.in_proj = Linear(d_model, inner, bias=o["qkv_bias"])
        short = SHORT_CONVOLUTIONS[axes]
        self.short_conv = short(inner, inner, width, padding=width // 2, groups=inner) if width else None
        self.query_norm = RMSNorm(d_model, eps=NORM_EPS) if o["query_norm"] else None
        self.key_norm = RMSNorm(d_model, eps=NORM_EPS) if o["query_norm"] and self.gate == "identity" else None
        self.gated_norm = RMSNorm(d_model, eps=NORM_EPS) if o["gated_norm"] else None
        self.output_norm = RMSNorm(d_model, eps=NORM_EPS) if o["output_norm"] else None
        conv = select_options(GridConvolutionOptions, o)
        self.conv = CKConvNd(d_model, axes=axes, causal=causal, condition_dim=condition_dim, **conv)
        self.out_proj = Linear(d_model, d_model, bias=o["out_bias"])

    def forward(
        self, x: Float[Tensor, "batch *size d_model"], condition: Float[Tensor, "batch condition_dim"] | None = None
    ) -> Float[Tensor, "batch *size d_model"]:
        """The gated convolution; ``condition`` as in :meth:`.continuous.ckconv_nd.CKConvNd.forward`."""
        qkv = self.in_proj(x)
        if self.short_conv is not None:
            qkv = self.short_conv(qkv.movedim(-1, 1)).movedim(1, -1)
        q, k, v = qkv.chunk(3, dim=-1)
        q, k = _normed(self.query_norm, q), _normed(self.key_norm, k)
        z = self.conv(_normed(self.gated_norm, q * activate(self.gate, k)), condition)
        y: Tensor = self.out_proj(_normed(self.output_norm, z * activate(self.value_gate, v)))
        return y


def _normed(norm: nn.Module | None, x: Tensor) -> Tensor:
    return x if norm is None else cast(Tensor, norm(x))


@register_2d(
    "hyena_nd",
    examples=(
        {"l_max": 6, "hidden": 8, "emb_dim": 6, "omega_0": 1.0, "gate": "identity", "query_norm": True},
        {"l_max": 5, "hidden": 6, "omega_0": 1.0, "padding": "circular", "gated_norm": True, "output_norm": True},
    ),
)
class CenteredHyena2d(Mixer2d):
    """Convolution with a continuous kernel between gates (nvSubquadratic).

    Args:
        d_model: width of inputs and outputs.
        **options: see :class:`HyenaNdOptions` and :class:`~.continuous.ckconv_nd.GridConvolutionOptions`.

    Raises:
        ValueError: as :class:`HyenaNd`.
    """

    def __init__(self, d_model: int, **options: Unpack[HyenaNdOptions]) -> None:
        super().__init__(d_model)
        self.hyena = HyenaNd(d_model, axes=2, **options)

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return by_size(self.hyena, x, mask)
