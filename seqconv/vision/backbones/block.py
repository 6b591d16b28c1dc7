"""A block over images: ``x + c ⊙ f(norm(x))`` with f a 2-D mixer, then the same with f a per-cell network.

Between the two may be one more with f convolutions of neighbouring cells (XCiT).
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error, unknown_name

from ...layers.mlp import MLP
from ...layers.residual import DropPath, Residual, create_residual
from ..mixer_2d import Mixer2d
from ..mixers.attention.cross_covariance import LocalPatchInteraction
from ..mixers.ss2d import depthwise_conv2d
from .cell_norm import create_image_norm
from .conv_mlp import create_mlp

SCHEDULES = ("linear", "constant")


class Block2d(nn.Module):
    """2-D mixer and MLP with layer norms in front and residual connections around.

    Without ``mixer_norm`` and with ``single_residual`` it is ConvNeXt's block (Liu et al. 2022, arXiv 2201.03545):
    ``x + c ⊙ mlp(norm(mixer(x)))``.

    Args:
        mixer: the 2-D mixer.
        mlp_ratio: hidden width of the MLP over the width; 0 leaves the MLP out.
        mlp: its kind, as in :class:`~seqconv.layers.mlp.MLP` or :mod:`~seqconv.vision.backbones.conv_mlp`.
        mlp_bias: whether it has biases.
        mlp_down_bias: whether its last projection has one, where that differs.
        mlp_dropout: probability for its hidden activations.
        local_interaction: XCiT's depthwise convolutions between the mixer and the MLP, with a norm and a residual
            connection of their own.
        position_conv: add a 3 by 3 depthwise convolution of the cells to them first, which encodes positions.
        mixer_norm: whether there is a norm in front of the mixer.
        single_residual: add what the MLP makes of the mixer's output, instead of both (GFNet).
        drop_path: probability of leaving out the mixer, or the MLP, for an image.
        layer_scale: initial value of a learned factor per channel of what is added (c); ``None`` for none.
        stream_scale: initial value of a learned factor per channel of what it is added to; ``None`` for none.
        norm: its name, see :mod:`~seqconv.vision.backbones.cell_norm` and :mod:`~seqconv.layers.norms`.
        norm_eps: ε of the norms.
        norm_options: their other options.

    Raises:
        ValueError: ``local_interaction`` with ``single_residual``.
    """

    def __init__(
        self,
        mixer: Mixer2d,
        *,
        mlp_ratio: float = 4.0,
        mlp: str = "gelu",
        mlp_bias: bool = True,
        mlp_down_bias: bool | None = None,
        mlp_dropout: float = 0.0,
        local_interaction: bool = False,
        position_conv: bool = False,
        mixer_norm: bool = True,
        single_residual: bool = False,
        drop_path: float = 0.0,
        layer_scale: float | None = None,
        stream_scale: float | None = None,
        norm: str = "layer",
        norm_eps: float = 1e-5,
        norm_options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        d_model = mixer.d_model
        if local_interaction and single_residual:
            got, wanted = "local_interaction=True, single_residual=True", "one of them"
            raise argument_error("Block2d", got, wanted, "leave out single_residual")
        self.position_conv = depthwise_conv2d(d_model, 3) if position_conv else None
        self.mixer, self.mixer_norm = mixer, cast(nn.Module, nn.Identity())
        if mixer_norm:
            self.mixer_norm = create_image_norm(norm, d_model, eps=norm_eps, **(norm_options or {}))
        self.mixer_residual = _residual(d_model, None if single_residual else layer_scale, stream_scale)
        self.local = None
        if local_interaction:
            self.local_norm = create_image_norm(norm, d_model, eps=norm_eps, **(norm_options or {}))
            self.local = LocalPatchInteraction(d_model)
            self.local_residual = _residual(d_model, layer_scale, stream_scale)
        self.mlp = None
        if mlp_ratio > 0:
            self.mlp_norm = create_image_norm(norm, d_model, eps=norm_eps, **(norm_options or {}))
            hidden = int(round(mlp_ratio * d_model, 3))
            self.mlp = create_mlp(mlp, d_model, hidden, bias=mlp_bias, down_bias=mlp_down_bias, dropout=mlp_dropout)
            self.mlp_residual = _residual(d_model, layer_scale, stream_scale)
        self.drop_path, self.single_residual = DropPath(drop_path), single_residual and self.mlp is not None

    def forward(
        self,
        x: Float[Tensor, "batch rows columns d_model"],
        sizes: Sequence[tuple[int, int]] | None = None,
        shared: Tensor | None = None,
    ) -> Float[Tensor, "batch rows columns d_model"]:
        """Mix the cells, then the channels; ``sizes`` and ``shared`` as in :class:`~..mixer_2d.Mixer2d`.

        Raises:
            ValueError: sizes of packed images where another part than the mixer depends on other cells.
        """
        if sizes is not None:
            self._check_packing()
        if self.position_conv is not None:
            x = x + self.position_conv(x.movedim(-1, 1)).movedim(1, -1)
        if self.single_residual and self.mlp is not None:
            mixed = self.mlp(self.mlp_norm(self._mixed(x, sizes, shared)))
            joined: Tensor = self.mlp_residual(x, self.drop_path(mixed))
            return joined
        y: Tensor = self.mixer_residual(x, self.drop_path(self._mixed(x, sizes, shared)))
        if self.local is not None:
            y = self.local_residual(y, self.drop_path(self.local(self.local_norm(y))))
        if self.mlp is not None:
            y = self.mlp_residual(y, self.drop_path(self.mlp(self.mlp_norm(y))))
        return y

    def _mixed(self, x: Tensor, sizes: Sequence[tuple[int, int]] | None, shared: Tensor | None) -> Tensor:
        given = {"sizes": sizes, "shared": shared}
        y: Tensor = self.mixer(self.mixer_norm(x), **{k: v for k, v in given.items() if v is not None})
        return y

    def _check_packing(self) -> None:
        norms = [self.mixer_norm] if self.mlp is None else [self.mixer_norm, self.mlp_norm]
        per_cell = all(getattr(norm, "per_token", True) for norm in norms)
        convolved = self.position_conv is not None or self.local is not None
        if convolved or not (self.mlp is None or isinstance(self.mlp, MLP)) or not per_cell:
            wanted = "norms and an MLP of each cell by itself, no convolutions"
            got, remedy = (
                "packed images in a block that mixes cells outside of its mixer",
                "pass images one size at a time",
            )
            raise argument_error("Block2d", got, wanted, remedy)


def _residual(d_model: int, layer_scale: float | None, stream_scale: float | None) -> Residual:
    if stream_scale is not None:
        return create_residual("scaled", d_model, alpha=stream_scale, beta=layer_scale)
    if layer_scale is None:
        return create_residual("sum", d_model)
    return create_residual("affine", d_model, beta=layer_scale, per_channel=True)


def drop_path_rates(last: float, depth: int, schedule: str = "linear") -> list[float]:
    """Rates that rise evenly from 0 at the first block to ``last``, or ``"constant"`` ones.

    Raises:
        ValueError: an unknown schedule.
    """
    if schedule not in SCHEDULES:
        raise unknown_name("drop_path_rates", "drop_path_schedule", schedule, SCHEDULES)
    first = 0 if schedule == "linear" else last
    rates: list[float] = torch.linspace(first, last, depth, device="cpu", dtype=torch.float64).tolist()
    return rates
