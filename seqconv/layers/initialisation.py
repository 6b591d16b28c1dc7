"""Initial values that depend on the place of a layer in its stack, and those of all layers of a network.

Backbones draw the weights of their layers again by one of these names, as the constructors of the originals do:

===================  ==============================================  ==========================================
name                 linear layers                                   convolutions
===================  ==============================================  ==========================================
``none``             PyTorch's                                       PyTorch's
``linear``           normal of 0.02, biases zero (Swin, DeiT)        PyTorch's
``all``              the same                                        the same (ConvNeXt)
``fan_out``          the same                                        normal of √(2 / fan_out), biases zero (PVT)
``xavier``           uniform (Glorot), biases zero, of MLPs 1e-6     LeCun's, biases zero (MLP-Mixer)
===================  ==============================================  ==========================================

A :class:`~seqconv.layers.linear.KeptLinear` is neither: it stays as it was.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from seqconv_kernels._core.precision import accumulation_dtype

from ..types import LayerContext
from .linear import KeptLinear

INITIALISATIONS = ("none", "linear", "all", "fan_out", "xavier")
LINEAR_INIT_STD = 0.02
"""Standard deviation of initial weights of linear layers in vision models, cut off at two of PyTorch's units."""

MLP_BIAS_STD = 1e-6
LECUN_TRUNCATION = 0.87962566103423978
"""Standard deviation of a normal distribution cut off at ±2; timm divides by it but, until 0.5, cuts nothing off."""


@torch.no_grad()
def reset_residual_projection(projection: nn.Linear, layer: LayerContext | None) -> None:
    """Draw the weight of a projection into the residual stream again, smaller by the root of what is summed there.

    As a Linear layer's own, divided by ``√(residuals · depth)``, so that the variance of the stream does not grow with
    the depth: ``rescale_prenorm_residual`` of state-spaces/mamba (``mamba_ssm/models/mixer_seq_simple.py`` at e9594ce),
    after GPT-2. Outside of a stack (``layer=None``) nothing changes.
    """
    if layer is not None:
        bound = (projection.in_features * layer.residuals * layer.depth) ** -0.5
        projection.weight.uniform_(-bound, bound)


@torch.no_grad()
def reset_orthogonal(weight: Tensor, gain: float = 1.0) -> None:
    """Fill a matrix with orthogonal rows or columns, computed in float32 at least."""
    wide = torch.empty_like(weight, dtype=accumulation_dtype(weight))
    weight.copy_(nn.init.orthogonal_(wide, gain))


def reset_linear(linear: nn.Linear, std: float | None = LINEAR_INIT_STD) -> None:
    """Draw the weight from a truncated normal distribution, or with ``None`` as Xavier uniformly; a bias is zero."""
    if std is None:
        nn.init.xavier_uniform_(linear.weight)
    else:
        nn.init.trunc_normal_(linear.weight, std=std) if std else nn.init.zeros_(linear.weight)
    _no_bias(linear)


def reset_lecun(conv: nn.Conv2d | nn.Conv3d) -> None:
    """Draw the weight of a convolution as timm's ``lecun_normal_`` up to 0.5; a bias is zero."""
    nn.init.trunc_normal_(conv.weight, std=conv.weight[0].numel() ** -0.5 / LECUN_TRUNCATION)
    _no_bias(conv)


def reset_layers(network: nn.Module, name: str) -> None:
    """Draw the weights of all layers again; see above."""
    for path, module in network.named_modules():
        if isinstance(module, nn.Linear) and not isinstance(module, KeptLinear) and name != "none":
            _reset_linear(module, name, in_mlp="mlp" in path)
        elif isinstance(module, nn.Conv2d) and name in ("all", "fan_out", "xavier"):
            _reset_convolution(module, name)


def reset_scanning_block(block: nn.Module) -> None:
    """Draw all linear layers of a block again but its mixer's last; biases of time steps are zero.

    As ``segm_init_weights`` and ``_init_weights`` of OpenGVLab/VideoMamba at f3427e42 do one after the other.
    """
    reset_layers(block, "linear")
    mixer: Any = block.mixer
    if isinstance(getattr(mixer, "out_proj", None), nn.Linear):
        mixer.out_proj.reset_parameters()
        reset_residual_projection(mixer.out_proj, getattr(mixer, "layer", None))
    if isinstance(getattr(mixer, "dt_bias", None), nn.Parameter):
        nn.init.zeros_(mixer.dt_bias)


def _reset_linear(linear: nn.Linear, name: str, *, in_mlp: bool) -> None:
    if name != "xavier":
        reset_linear(linear)
        return
    nn.init.xavier_uniform_(linear.weight)
    _no_bias(linear)
    if in_mlp and linear.bias is not None:
        nn.init.normal_(linear.bias, std=MLP_BIAS_STD)


def _reset_convolution(conv: nn.Conv2d, name: str) -> None:
    if name == "xavier":
        reset_lecun(conv)
    elif name == "all":
        nn.init.trunc_normal_(conv.weight, std=LINEAR_INIT_STD)
    else:
        fan_out = conv.weight[0, 0].numel() * conv.out_channels // conv.groups
        nn.init.normal_(conv.weight, std=math.sqrt(2 / fan_out))
    _no_bias(conv)


def _no_bias(layer: nn.Linear | nn.Conv2d | nn.Conv3d) -> None:
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
