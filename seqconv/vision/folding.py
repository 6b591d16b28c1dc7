"""Norms of SLAB after their training, as parts of the convolutions and projections next to them: for inference.

In evaluation ``prep_batch`` is ``a ⊙ x + b`` with ``a = w / √(σ² + ε) + α`` and ``b = β - w μ / √(σ² + ε)`` of the
running statistics. After a layer ``W x + c`` the two are ``(a ⊙ W) x + (a ⊙ c + b)``, in front of it
``(W ⊙ a) x + (W b + c)``.

Source: ``merge_bn`` in ``classification/models/swin_transformer.py`` of xinghaochen/SLAB at f58db00b.
"""

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..blocks import Block
from ..layers.norms import NoNorm, Norm, PRepBatchNorm
from ..mixers.attention.attention import Attention
from .backbones.block import Block2d
from .backbones.downsamplings import ConvDownsample, PatchMerging
from .backbones.stems import OverlapStem, PatchStem
from .mixers.attention.cross_window import CrossWindow2d
from .mixers.attention.reduced import ReducedAttention2d
from .mixers.attention.slab import SLAB2d
from .mixers.attention.window import ShiftedWindow2d

ModuleT = TypeVar("ModuleT", bound=nn.Module)


class AffineNorm(Norm):
    """``a ⊙ x + b`` with fixed numbers for each channel.

    Args:
        d_model: width.
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.empty(d_model)), nn.Parameter(torch.empty(d_model))
        self.reset_parameters()

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return torch.addcmul(self.bias, self.weight, x)


@torch.no_grad()
def fold_norms(model: ModuleT) -> ModuleT:
    """A copy for inference in which SLAB's norms are parts of the layers next to them, or a scale and a shift.

    Args:
        model: a backbone or a classifier whose ``prep_batch`` norms are trained.

    Returns:
        A copy in evaluation mode with the same outputs up to rounding; its state dict has other names. Models without
        such norms are copied as they are.
    """
    folded = copy.deepcopy(model).eval()
    for module in folded.modules():
        _fold(module)
    for module in list(folded.modules()):
        for name, child in module.named_children():
            if isinstance(child, PRepBatchNorm):
                setattr(module, name, _affine(child))
    return folded


def _fold(module: nn.Module) -> None:
    """Fold the norms that a module owns and that have one neighbour."""
    if isinstance(module, Block2d | Block) and getattr(module, "norm_placement", "pre") == "pre":
        after = [] if module.mixer is None else _projections(module.mixer)
        if after and isinstance(module.mixer_norm, PRepBatchNorm):
            _into_next(module.mixer_norm, *after)
            module.mixer_norm = NoNorm(1)
        up = getattr(module.mlp, "up", None)
        if isinstance(up, nn.Linear) and isinstance(module.mlp_norm, PRepBatchNorm):
            _into_next(module.mlp_norm, up)
            module.mlp_norm = NoNorm(1)
    elif isinstance(module, PatchMerging) and isinstance(module.norm, PRepBatchNorm):
        _into_next(module.norm, module.proj)
        module.norm = NoNorm(1)
    elif isinstance(module, PatchStem | OverlapStem | ConvDownsample) and isinstance(module.norm, PRepBatchNorm):
        _into_previous(module.conv if isinstance(module, ConvDownsample) else module.proj, module.norm)
        module.norm = NoNorm(1)


def _projections(mixer: nn.Module) -> list[nn.Linear]:
    """The layers through which alone the cells enter a mixer."""
    if isinstance(mixer, SLAB2d | ShiftedWindow2d | CrossWindow2d):
        return [mixer.qkv_proj]
    if isinstance(mixer, Attention) and mixer.g_proj is None:
        return [mixer.qkv_proj]
    if isinstance(mixer, ReducedAttention2d) and mixer.conv2d is None:
        return [mixer.q_proj, mixer.kv_proj]
    return []


def _scale_and_shift(norm: PRepBatchNorm) -> tuple[Tensor, Tensor]:
    batch = norm.batch.tokens
    assert batch.running_mean is not None
    assert batch.running_var is not None
    scale = batch.weight / (batch.running_var + batch.eps).sqrt()
    return scale + norm.alpha, batch.bias - scale * batch.running_mean


def _into_next(norm: PRepBatchNorm, *layers: nn.Linear) -> None:
    scale, shift = _scale_and_shift(norm)
    for layer in layers:
        added = layer.weight @ shift
        layer.bias = nn.Parameter(added if layer.bias is None else layer.bias + added)
        layer.weight.mul_(scale)


def _into_previous(conv: nn.Conv2d, norm: PRepBatchNorm) -> None:
    scale, shift = _scale_and_shift(norm)
    assert conv.bias is not None
    conv.weight.mul_(scale[:, None, None, None])
    conv.bias.mul_(scale).add_(shift)


def _affine(norm: PRepBatchNorm) -> AffineNorm:
    scale, shift = _scale_and_shift(norm)
    made = AffineNorm(len(scale)).to(scale)
    made.weight.copy_(scale)
    made.bias.copy_(shift)
    return made.eval()
