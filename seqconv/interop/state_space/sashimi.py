"""The backbone of SaShiMi of state-spaces/s4: levels of S4 blocks and feed-forward blocks with pooling between them.

Every option was read in the original at e757cef, ``models/sashimi/sashimi.py``; those of the S4 blocks as in
:mod:`~seqconv.interop.state_space.s4`. The state width, 64 there whatever is asked, may be given. ``length`` (or
``L``) is the length of the original's first forward, after which its kernels at each level have the length of that
level: needed for state dicts from before it alone. Chunks are read in the order (channel, time) there, (time, channel)
here.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from seqconv_kernels._core.errors import argument_error

from ...audio.sashimi import Sashimi
from ...blocks import Block
from ...mixers.state_space.s4_layer import S4Layer
from ...types import LayerContext
from ..importer import Weights, add_importer
from .s4 import REPOSITORY, build_block, convert_block

ORIGINAL = f"{REPOSITORY}:Sashimi"
DEFAULTS: Mapping[str, Any] = {
    "d_model": 64,
    "n_layers": 8,
    "pool": (4, 4),
    "expand": 2,
    "ff": 2,
    "bidirectional": False,
    "unet": False,
    "dropout": 0.0,
    "length": None,
    "d_state": 64,
}
FIXED = ("transposed", "L", "B")
"""Options that the original sets itself, and shapes of inputs."""


def _split(hyper: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of the backbone, and those that it hands on to its S4 blocks."""
    own = {**DEFAULTS, **{name: value for name, value in hyper.items() if name in DEFAULTS}}
    own["length"] = hyper.get("L") if own["length"] is None else own["length"]
    if own["ff"] != int(own["ff"]) or own["n_layers"] < 1:
        got, wanted = f"ff={own['ff']}, n_layers={own['n_layers']}", "whole numbers, at least one layer"
        raise argument_error(f"from_original({ORIGINAL!r})", got, wanted, "pass what the original was built with")
    return own, {name: value for name, value in hyper.items() if name not in DEFAULTS and name not in FIXED}


def build(**hyper: Any) -> Sashimi:
    """The backbone with the options of the original."""
    own, layer = _split(hyper)
    pool, dropout, number = list(own["pool"]), float(own["dropout"]), 0

    def level(index: int) -> list[Block]:
        nonlocal number
        width, length, blocks = own["d_model"] * own["expand"] ** index, own["length"], list[Block]()
        for p in pool[:index] if length else ():
            length //= p
        shared = {name: own[name] for name in ("d_state", "bidirectional", "dropout")}
        for _ in range(own["n_layers"]):
            at = LayerContext(number, own["n_layers"] * (len(pool) * (1 + own["unet"]) + 1))
            mixer = build_block(width, L=length, **shared, **layer)
            blocks.append(Block(mixer, dropout=dropout, layer=at))
            if own["ff"] > 0:
                options: dict[str, Any] = {
                    "mlp": "gelu",
                    "mlp_ratio": float(own["ff"]),
                    "mlp_dropout": float(own["dropout"]),
                }
                blocks.append(Block(None, d_model=width, dropout=float(own["dropout"]), layer=at, **options))
            number += 1
        return blocks

    down = [level(i) for i in range(len(pool))] if own["unet"] else []
    center, up = level(len(pool)), [level(i) for i in range(len(pool))]
    return Sashimi(down, center, up, pool=pool, expand=own["expand"], unet=own["unet"])


def convert(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the backbone."""
    model = build(**hyper)
    converted = {f"norm.{kind}": weights.take(f"norm.{kind}") for kind in ("weight", "bias")}
    for name, original, block in _blocks(model):
        converted |= {f"{name}.{k}": v for k, v in _convert_block(weights.part(f"{original}."), block).items()}
    for level, p in enumerate(model.pool):
        down, up = f"d_layers.{_first_pool(model, level)}.linear", f"u_layers.{len(model.pool) - 1 - level}.0.linear"
        weight = weights.take(f"{down}.weight").squeeze(-1).unflatten(1, (-1, p))  # (out, channel, time)
        converted[f"down_pools.{level}.linear.weight"] = weight.mT.flatten(1)
        converted[f"down_pools.{level}.linear.bias"] = weights.take(f"{down}.bias")
        weight, bias = weights.take(f"{up}.weight").squeeze(-1), weights.take(f"{up}.bias")
        converted[f"up_pools.{level}.linear.weight"] = weight.unflatten(0, (-1, p)).transpose(0, 1).flatten(0, 1)
        converted[f"up_pools.{level}.linear.bias"] = bias.unflatten(0, (-1, p)).mT.flatten()
    return converted


def _first_pool(model: Sashimi, level: int) -> int:
    """Number of a level's pooling among the original's layers on the way down."""
    return sum(model.stacks["down"][: level + 1]) + level


def _blocks(model: Sashimi) -> Iterator[tuple[str, str, Block]]:
    """Every block with its name here and in the original, where a stack of blocks is a list."""
    for place in model.places:
        side, level, number = place
        for i, block in enumerate(model.stack(place).layers):
            if side == "center":
                yield f"center.blocks.{i}", f"c_layers.{i}", block
            elif side == "down":
                first = _first_pool(model, level) - model.stacks["down"][level]
                yield f"down.{level}.{number}.blocks.{i}", f"d_layers.{first + number}", block
            else:
                outer = len(model.pool) - 1 - level
                yield f"up.{level}.{number}.blocks.{i}", f"u_layers.{outer}.{number + i + 1}", block


def _convert_block(weights: Weights, block: Block) -> dict[str, Tensor]:
    norm, kinds = "mlp_norm" if block.mixer is None else "mixer_norm", ("weight", "bias")
    converted = {f"{norm}.{kind}": weights.take(f"norm.{kind}") for kind in kinds}
    if isinstance(block.mixer, S4Layer):
        mixer = convert_block(weights, block.mixer, "layer.")
        return converted | {f"mixer.{name}": tensor for name, tensor in mixer.items()}
    for original, name in (("layer.ff.0.0", "mlp.up"), ("layer.ff.2", "mlp.down")):
        converted[f"{name}.weight"] = weights.take(f"{original}.weight").squeeze(-1)
        converted[f"{name}.bias"] = weights.take(f"{original}.bias")
    return converted


add_importer(ORIGINAL, build=build, convert=convert)
