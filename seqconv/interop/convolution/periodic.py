"""beanie00/Decision-ConvFormer: ``Convolution`` and ``Block`` (gym/models/decision_convformer.py at 3db9b9ec)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...blocks import Block
from ...mixers.convolution.periodic import PeriodicConv
from ..importer import Weights, add_importer, options

CONVOLUTION = "beanie00/Decision-ConvFormer:Convolution"
BLOCK = "beanie00/Decision-ConvFormer:Block"
DEFAULTS: dict[str, Any] = {"n_embd": ..., "window_size": 6, "remove_act_embs": False}
BLOCK_DEFAULTS: dict[str, Any] = {**DEFAULTS, "layer_norm_epsilon": 1e-5, "drop_p": 0.0}
IGNORED = ("seed", "T")
KINDS = ("rtg", "obs", "act")


def _mixer(o: Any) -> PeriodicConv:
    return PeriodicConv(o.n_embd, period=2 if o.remove_act_embs else 3, width=o.window_size)


def build(**hyper: Any) -> PeriodicConv:
    """The mixer."""
    return _mixer(options(CONVOLUTION, hyper, DEFAULTS, IGNORED))


def convert(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the mixer from that of the original."""
    kinds = KINDS[:2] if hyper.get("remove_act_embs") else KINDS
    taps = [weights.take(f"{kind}_conv1d.weight")[:, 0].flip(-1).T for kind in kinds]
    return {
        "weight": torch.stack(taps),
        "bias": torch.stack([weights.take(f"{kind}_conv1d.bias") for kind in kinds]),
    }


def build_block(**hyper: Any) -> Block:
    """The mixer and the network per token, each after a norm."""
    o = options(BLOCK, hyper, BLOCK_DEFAULTS, IGNORED)
    norm: dict[str, Any] = {"norm": "layer", "norm_options": {"eps": float(o.layer_norm_epsilon)}}
    return Block(_mixer(o), mlp="gelu", mlp_hidden=4 * o.n_embd, **norm)


def convert_block(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the block from that of the original."""
    converted = {f"mixer.{name}": tensor for name, tensor in convert(weights.part("conv."), hyper).items()}
    parts = {"mixer_norm": "ln_1", "mlp_norm": "ln_2", "mlp.up": "mlp.0", "mlp.down": "mlp.2"}
    for name, original in parts.items():
        converted |= {f"{name}.{part}": weights.take(f"{original}.{part}") for part in ("weight", "bias")}
    return converted


add_importer(CONVOLUTION, build=build, convert=convert)
add_importer(BLOCK, build=build_block, convert=convert_block)
