"""NX-AI/vision-lstm: whole classifiers of both versions.

Read in ``vision_lstm/vision_lstm.py`` (VisionLSTM) and ``vision_lstm2.py`` (VisionLSTM2) at 381ba95c. Norms of the
blocks, and that of the cells after them, store their weights less one. Reversed blocks of the second version convolve
the image turned by a half, so that their kernels are turned here. Its ``conv_kernel_size`` does not reach its blocks,
which have 3 taps whatever it is. Blocks of another traversal, and other modes and alternations, are unsupported. The
names of the published files differ from those of the classes: ``load_model`` in ``hubconf.py`` there renames them, and
so it is done here.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from seqconv_kernels._core.errors import argument_error

from ....vision.backbones.backbone import ImageClassifier
from ....vision.backbones.block import drop_path_rates
from ....vision.backbones.plain_2d import PlainBackbone2d
from ...importer import Weights, add_importer, options
from ..parts import require_checked

FIRST, SECOND = "NX-AI/vision-lstm:VisionLSTM", "NX-AI/vision-lstm:VisionLSTM2"
SIZES: Mapping[str, Any] = {
    "dim": 192,
    "input_shape": (3, 224, 224),
    "patch_size": 16,
    "output_shape": (1000,),
    "drop_path_rate": 0.0,
    "drop_path_decay": False,
    "legacy_norm": False,
    "stride": None,
    "mode": "classifier",
}
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    FIRST: {**SIZES, "depth": 24, "pooling": "bilateral_avg", "alternation": "bidirectional"},
    SECOND: {
        **SIZES, "depth": 12, "pooling": "bilateral_flatten", "conv_kind": "2d", "proj_bias": True, "norm_bias": True,
    },
}  # fmt: skip
IGNORED = ("image", "init_weights", "conv_kernel_size")
CHECKED = {
    "mode": "classifier", "alternation": "bidirectional", "conv_kind": ("2d", "causal1d"),
}  # fmt: skip
POOLINGS = {"bilateral_flatten": "ends", "bilateral_avg": "mean_of_ends"}
ORDERS = ("row", "row_reversed")
TRAVERSALS = ("rowwise_from_top_left", "rowwise_from_bot_right")
NORM_EPS, LEGACY_EPS = 1e-6, 1e-5
"""The norm that was added for training has PyTorch's: the first of the first version, the second of the second."""
PUBLISHED = {
    FIRST: {"post_blocks_norm": "legacy_norm", "head.0": "norm", "head.1": "head"},
    SECOND: {"post_blocks_norm": "norm", "head.0": "legacy_norm", "head.1": "head"},
}
CONV_TAPS = {FIRST: 4, SECOND: 3}
"""Of the causal convolution."""
HEADS = 4
"""The original takes as many heads as the blocks of its projections have channels."""


def _reader(original: str) -> Any:
    first = original == FIRST

    def read(hyper: Mapping[str, Any]) -> Any:
        o = options(original, hyper, DEFAULTS[original], IGNORED)
        require_checked(original, o, CHECKED)
        if o.pooling not in POOLINGS or (first and o.pooling != "bilateral_avg"):
            wanted = "'bilateral_avg'" + ("" if first else " or 'bilateral_flatten'")
            got, remedy = f"pooling={o.pooling!r}", "these were checked"
            raise argument_error(f"from_original({original!r})", got, wanted, remedy)
        return o

    def build(**hyper: Any) -> ImageClassifier:
        """The classifier with the options of the original."""
        o = read(hyper)
        mixer = {"bias": not first and o.proj_bias, "norm_bias": not first and o.norm_bias}
        rates = drop_path_rates(o.drop_path_rate, o.depth) if o.drop_path_decay else [o.drop_path_rate] * o.depth
        causal = {"convolution": "scan", "d_conv": CONV_TAPS[original]}
        backbone = PlainBackbone2d(
            "vision_lstm",
            d_model=o.dim,
            depth=o.depth if first else 2 * o.depth,
            mixer_options=mixer | (causal if first or o.conv_kind == "causal1d" else {}),
            layer_options=[{"order": order} for order in ORDERS],
            image_size=_table_size(o),
            patch_size=o.patch_size,
            stride=o.stride,
            stem_options={"xavier": True},
            in_channels=o.input_shape[0],
            pooling=POOLINGS[o.pooling],
            final_norm="layer" if o.legacy_norm or not first else "none",
            final_norm_eps=LEGACY_EPS if first else NORM_EPS,
            pooled_norm=first or o.legacy_norm,
            pooled_norm_eps=NORM_EPS if first else LEGACY_EPS,
            drop_path=[rate for rate in rates for _ in range(1 if first else 2)],
            head_init_std=2e-5,
        )
        return ImageClassifier(backbone, o.output_shape[0])

    def convert(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
        """The state dict of the classifier from that of the original."""
        o = read(hyper)
        _rename(weights)
        converted = {"backbone.position_embedding": weights.take("pos_embed.embed")[0]}
        converted |= _same(weights, {"backbone.stem.proj": "patch_embed.proj", "head": "head"})
        cells, pooled = ("legacy_norm", "norm") if first else ("norm", "legacy_norm")
        converted |= _norm(weights, "backbone.norm", cells) if o.legacy_norm or not first else {}
        converted |= _same(weights, {"backbone.pooled_norm": pooled}) if o.legacy_norm or first else {}
        for index in range(o.depth if first else 2 * o.depth):
            place = str(index) if first else f"{index // 2}.{TRAVERSALS[index % 2]}"
            block = f"backbone.blocks.{index}"
            converted |= _norm(weights, f"{block}.mixer_norm", f"blocks.{place}.norm")
            mixer = _mixer(weights.part(f"blocks.{place}.layer."), reverse=index % 2 == 1)
            converted |= {f"{block}.mixer.{name}": tensor for name, tensor in mixer.items()}
        return converted

    return build, convert


def _rename(weights: Weights) -> None:
    """From the names of published files to those of the classes; others are kept."""
    if "post_blocks_norm.weight" in weights:
        original = SECOND if "post_blocks_norm.bias" in weights else FIRST
        weights.rename(lambda name: _published_name(original, name))


def _published_name(original: str, name: str) -> str:
    """The name in a class of what a published file has under ``name``."""
    name = name.replace(".xlstm.", ".layer.").replace("xlstm.", "").replace(".xlstm_norm.", ".norm.")
    parts = name.split(".")
    if original == SECOND and parts[0] == "blocks":
        pair, direction = divmod(int(parts[1]), len(TRAVERSALS))
        parts[1:2] = [str(pair), TRAVERSALS[direction]]
        return ".".join("conv" if part == "conv1d" else part for part in parts)
    for source, target in PUBLISHED[original].items():
        if name.startswith(f"{source}."):
            return target + name.removeprefix(source)
    return name


def _table_size(o: Any) -> list[int]:
    """Pixels for which there are as many patches as positions: those of patches next to each other, at any stride."""
    return [o.patch_size + (size // o.patch_size - 1) * (o.stride or o.patch_size) for size in o.input_shape[1:]]


def _mixer(weights: Weights, *, reverse: bool) -> dict[str, Tensor]:
    converted = {"skip": weights.take("learnable_skip"), "norm.weight": 1 + weights.take("mlstm_cell.outnorm.weight")}
    if "mlstm_cell.outnorm.bias" in weights:
        converted["norm.bias"] = weights.take("mlstm_cell.outnorm.bias")
    names = {f"{gate}_proj": f"mlstm_cell.{gate}gate" for gate in "if"}
    names |= {f"{name}_proj": f"{name}_proj" for name in "qkv"}
    converted |= _same(weights, names | {"up_proj": "proj_up", "down_proj": "proj_down"})
    causal = next((name for name in ("conv1d.conv", "conv.conv") if f"{name}.weight" in weights), None)
    if causal is None:
        kernel = weights.take("conv.weight")
        converted["conv2d.weight"] = kernel.flip(-1, -2) if reverse else kernel
        converted["conv2d.bias"] = weights.take("conv.bias")
    else:
        converted["conv1d.weight"] = weights.take(f"{causal}.weight").squeeze(1)
        converted["conv1d.bias"] = weights.take(f"{causal}.bias")
    return converted


def _same(weights: Weights, names: Mapping[str, str]) -> dict[str, Tensor]:
    """Weights, and biases where there are."""
    converted = {}
    for name, source in names.items():
        for kind in ("weight", "bias"):
            if kind == "weight" or f"{source}.bias" in weights:
                converted[f"{name}.{kind}"] = weights.take(f"{source}.{kind}")
    return converted


def _norm(weights: Weights, name: str, source: str) -> dict[str, Tensor]:
    """A norm whose weight is stored less one, and whose bias may be missing."""
    weight = 1 + weights.take(f"{source}.weight")
    bias = weights.take(f"{source}.bias") if f"{source}.bias" in weights else torch.zeros_like(weight)
    return {f"{name}.weight": weight, f"{name}.bias": bias}


def infer(weights: Weights) -> dict[str, Any]:
    """All sizes, from the shapes of the tensors."""
    _rename(weights)
    if "pos_embed.embed" not in weights:
        return {}
    kernel, (_, rows, columns, dim) = weights.peek("patch_embed.proj.weight"), weights.peek("pos_embed.embed").shape
    depth, patch = 0, kernel.shape[-1]
    while any(f"blocks.{depth}.{part}norm.weight" in weights for part in ("", f"{TRAVERSALS[0]}.")):
        depth += 1
    classes, width = weights.peek("head.weight").shape
    return {
        "dim": dim, "input_shape": [kernel.shape[1], rows * patch, columns * patch], "patch_size": patch,
        "depth": depth, "output_shape": [classes], "legacy_norm": "legacy_norm.weight" in weights,
        "pooling": "bilateral_avg" if width == dim else "bilateral_flatten",
    } | _infer_second(weights)  # fmt: skip


def _infer_second(weights: Weights) -> dict[str, Any]:
    """What the first version has no options for."""
    block = weights.part(f"blocks.0.{TRAVERSALS[0]}.")
    if "norm.weight" not in block:
        return {}
    causal = "layer.conv.conv.weight" in block
    return {
        "conv_kind": "causal1d" if causal else "2d", "proj_bias": "layer.proj_up.bias" in block,
        "norm_bias": "norm.bias" in block,
    }  # fmt: skip


for _original in (FIRST, SECOND):
    _build, _convert = _reader(_original)
    add_importer(_original, build=_build, convert=_convert, infer=infer)
