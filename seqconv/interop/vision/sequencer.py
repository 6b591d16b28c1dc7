"""okojoalg/sequencer: the block with recurrent networks along columns and rows, and the classifiers.

Read in ``models/layers.py`` (RNN2DBase and its classes, Sequencer2DBlock) and ``models/two_dim_sequencer.py`` at
408520e7. The cell is found from the shapes of the tensors.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from seqconv_kernels._core.errors import argument_error

from ...vision.backbones.backbone import ImageClassifier
from ...vision.backbones.block import Block2d
from ...vision.mixers.sequencer import Sequencer2d
from ...zoo.sequencer import DIMS, HIDDEN, PATCH_SIZES, sequencer2d
from ..importer import Weights, add_importer, options
from .parts import count_parts, named, take_pairs

BLOCK, MODEL = "okojoalg/sequencer:Sequencer2DBlock", "okojoalg/sequencer:Sequencer2D"
BLOCK_DEFAULTS: Mapping[str, Any] = {
    "dim": ..., "hidden_size": ..., "mlp_ratio": 3.0, "rnn": "LSTM2D", "num_layers": 1, "bidirectional": True,
    "union": "cat", "with_fc": True, "drop_path": 0.0,
}  # fmt: skip
DEFAULTS: Mapping[str, Any] = {
    "num_classes": 1000, "in_chans": 3, "layers": (4, 3, 8, 3), "patch_sizes": PATCH_SIZES, "embed_dims": DIMS,
    "hidden_sizes": HIDDEN, "mlp_ratios": (3.0, 3.0, 3.0, 3.0), "rnn": "LSTM2D", "num_rnn_layers": 1,
    "bidirectional": True, "union": "cat", "with_fc": True, "drop_path_rate": 0.0, "stem_norm": False,
}  # fmt: skip
CELLS = {"LSTM2D": "lstm", "GRU2D": "gru", "RNN2D": "elman"}
GATES = {4: "LSTM2D", 3: "GRU2D", 1: "RNN2D"}
AXES = {"vertical": "rnn_v", "horizontal": "rnn_h"}
NORM_EPS = 1e-6
MODULES = {"mixer_norm": "norm1", "mlp_norm": "norm2", "mlp.up": "mlp_channels.fc1", "mlp.down": "mlp_channels.fc2"}


def build_block(**hyper: Any) -> Block2d:
    """The block, on feature maps with channels last."""
    o = _read(hyper)
    mixer = Sequencer2d(o.dim, **mixer_options(o))
    return Block2d(mixer, mlp_ratio=float(o.mlp_ratio), norm_eps=NORM_EPS, drop_path=float(o.drop_path))


def mixer_options(o: Any) -> dict[str, Any]:
    """Options of the mixer."""
    return {
        "d_hidden": o.hidden_size, "cell": CELLS[o.rnn], "num_layers": o.num_layers, "union": o.union,
        "bidirectional": o.bidirectional, "projection": o.with_fc,
    }  # fmt: skip


def convert_block(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the block."""
    o = _read(hyper)
    converted = take_pairs(weights, MODULES | ({"mixer.out_proj": "rnn_tokens.fc"} if o.with_fc else {}))
    for axis, source in AXES.items():
        if o.union not in AXES or o.union == axis:
            for layer in range(o.num_layers):
                recurrent = _layer(weights.part(f"rnn_tokens.{source}."), layer, o)
                converted |= {f"mixer.{axis}.{layer}.{name}": tensor for name, tensor in recurrent.items()}
    return converted


def _layer(weights: Weights, layer: int, o: Any) -> dict[str, Tensor]:
    """A recurrent layer: gates first, then directions; the two biases are one but for the GRU."""
    ends = (f"l{layer}", f"l{layer}_reverse") if o.bidirectional else (f"l{layer}",)

    def taken(kind: str) -> Tensor:
        return torch.stack([weights.take(f"{kind}_{end}").unflatten(0, (-1, o.hidden_size)) for end in ends], dim=1)

    inputs, recurrent = taken("bias_ih"), taken("bias_hh")
    found = {"in_proj.weight": taken("weight_ih").flatten(0, 2), "recurrent_weight": taken("weight_hh")}
    if CELLS[o.rnn] == "gru":
        return found | {"in_proj.bias": inputs.flatten(), "recurrent_bias": recurrent}
    return found | {"in_proj.bias": (inputs + recurrent).flatten()}


def infer_block(weights: Weights) -> dict[str, Any]:
    """Sizes, the cell and the directions, from the shapes of the tensors."""
    tokens = weights.part("rnn_tokens.")
    axes = {axis: source for axis, source in AXES.items() if f"{source}.weight_hh_l0" in tokens}
    if not axes:
        return {}
    rnn = tokens.part(f"{next(iter(axes.values()))}.")
    hidden, dim, depth = rnn.peek("weight_hh_l0"), rnn.peek("weight_ih_l0").shape[1], 1
    while f"weight_hh_l{depth}" in rnn:
        depth += 1
    bidirectional, with_fc = "weight_hh_l0_reverse" in rnn, "fc.weight" in tokens
    width = (2 if bidirectional else 1) * hidden.shape[1]
    joined = tokens.peek("fc.weight").shape[1] if with_fc else dim
    both = "cat" if joined == 2 * width else "add"
    return {
        "dim": dim, "hidden_size": hidden.shape[1], "rnn": GATES.get(len(hidden) // hidden.shape[1], "LSTM2D"),
        "num_layers": depth, "bidirectional": bidirectional, "with_fc": with_fc,
        "union": both if len(axes) == len(AXES) else next(iter(axes)),
        "mlp_ratio": len(weights.peek("mlp_channels.fc1.weight")) / dim,
    }  # fmt: skip


def _read(hyper: Mapping[str, Any]) -> Any:
    o = options(BLOCK, hyper, BLOCK_DEFAULTS, ("map", "drop"))
    if o.rnn not in CELLS:
        remedy = "these alone were checked"
        raise argument_error(f"from_original({BLOCK!r})", f"rnn={o.rnn!r}", ", ".join(CELLS), remedy)
    return o


def build(**hyper: Any) -> ImageClassifier:
    """The classifier with the options of the original."""
    o = _read_model(hyper)
    backbone = sequencer2d(
        o.layers,
        dims=o.embed_dims,
        mixers=[mixer_options(_read(_stage(o, stage))) for stage in range(len(o.layers))],
        patch_sizes=o.patch_sizes,
        mlp_ratio=[float(ratio) for ratio in o.mlp_ratios],
        in_channels=o.in_chans,
        drop_path=float(o.drop_path_rate),
    )
    return ImageClassifier(backbone, o.num_classes)


def convert(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the classifier."""
    o = _read_model(hyper)
    names = {"backbone.stem.proj": "stem.proj", "backbone.norm": "norm"} | ({"head": "head"} if o.num_classes else {})
    converted = take_pairs(weights, names)
    for stage, depth in enumerate(o.layers):
        source = weights.part(f"blocks.{stage}.")
        for index in range(depth):
            block = convert_block(source.part(f"{index}."), _stage(o, stage))
            converted |= named(f"backbone.stages.{stage}.{index}", block)
        if stage + 1 < len(o.layers):
            converted |= take_pairs(source, {f"backbone.downsamplings.{stage}.conv": f"{depth}.down"})
    return converted


def infer(weights: Weights) -> dict[str, Any]:
    """All sizes, from the shapes of the tensors."""
    stages = [weights.part(f"blocks.{stage}.") for stage in range(count_parts(weights, "blocks.{}.0.norm1.weight"))]
    if not stages or "stem.proj.weight" not in weights:
        return {}
    layers, stem = [count_parts(stage, "{}.norm1.weight") for stage in stages], weights.peek("stem.proj.weight")
    blocks = [infer_block(stage.part("0.")) for stage in stages]
    downs = [stage.peek(f"{depth}.down.weight") for stage, depth in zip(stages[:-1], layers, strict=False)]
    first = blocks[0]
    return {
        "layers": layers, "in_chans": stem.shape[1], "embed_dims": [block["dim"] for block in blocks],
        "patch_sizes": [stem.shape[-1], *(down.shape[-1] for down in downs)],
        "hidden_sizes": [block["hidden_size"] for block in blocks], "num_rnn_layers": first["num_layers"],
        "mlp_ratios": [block["mlp_ratio"] for block in blocks], "stem_norm": "stem.norm.weight" in weights,
        "num_classes": len(weights.peek("head.weight")) if "head.weight" in weights else 0,
    } | {name: first[name] for name in ("rnn", "bidirectional", "union", "with_fc")}  # fmt: skip


def _stage(o: Any, stage: int) -> dict[str, Any]:
    """Hyper-parameters of the blocks of a stage."""
    shared = {name: getattr(o, name) for name in ("rnn", "bidirectional", "union", "with_fc")}
    sizes = {"dim": o.embed_dims[stage], "hidden_size": o.hidden_sizes[stage], "num_layers": o.num_rnn_layers}
    return {**shared, **sizes, "mlp_ratio": o.mlp_ratios[stage]}


def _read_model(hyper: Mapping[str, Any]) -> Any:
    o = options(MODEL, hyper, DEFAULTS, ("img_size", "drop_rate", "nlhb"))
    if o.stem_norm or any(size not in (1, 2) for size in o.patch_sizes[1:]):
        got, wanted = f"stem_norm={o.stem_norm}, patch_sizes={o.patch_sizes}", "False, and 1 or 2 after the first stage"
        raise argument_error(f"from_original({MODEL!r})", got, wanted, "these alone were checked")
    return o


add_importer(BLOCK, build=build_block, convert=convert_block, infer=infer_block)
add_importer(MODEL, build=build, convert=convert, infer=infer)
