"""The backbone of state-spaces/s4, ``SequenceModel``: S4 blocks with norms and residual connections.

Every option was read in the original at e757cef: ``src/models/sequence/backbones/{model,block}.py``,
``src/models/nn/{residual,normalization}.py``, ``src/models/sequence/modules/s4block.py`` (the layer ``s4``) and
``src/utils/registry.py``. ``residual`` is by default that of its configurations (``configs/model/base.yaml``: ``R``);
``residual=None`` means no residual connection and, as there, no dropout around the layer.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from seqconv_kernels._core.errors import argument_error, unknown_name

from ...backbone import Backbone
from ...blocks import Block
from ...layers.residual import Dropout
from ...mixers.state_space.s4_layer import S4Layer
from ...types import LayerContext
from ..importer import Weights, add_importer
from .s4 import REPOSITORY, build_block, convert_block

ORIGINAL = f"{REPOSITORY}:SequenceModel"
DEFAULTS: Mapping[str, Any] = {
    "n_layers": 1,
    "transposed": False,
    "dropout": 0.0,
    "tie_dropout": False,
    "prenorm": True,
    "bidirectional": False,
    "n_repeat": 1,
    "layer": None,
    "residual": "R",
    "norm": None,
    "pool": None,
    "track_norms": True,
    "dropinp": 0.0,
    "L": None,
    "B": None,
}
RESIDUALS: Mapping[str, str] = {
    **dict.fromkeys(("R", "residual"), "sum"),
    **dict.fromkeys(("N", "F", "none", "ff", "feedforward"), "none"),
    **dict.fromkeys(("A", "affine"), "affine"),
    **dict.fromkeys(("D", "decay"), "decay"),
    **dict.fromkeys(("H", "highway"), "highway"),
}
NORMS = ("layer", "batch", "instance", "group", "none")
LAYERS = ("s4", "standalone")
"""S4Block in the original's registry: the backbone's own, and that of ``models/s4/s4.py``."""


def _named(config: str | Mapping[str, Any] | None, default: str) -> tuple[str, dict[str, Any]]:
    """Name and options of a part configured by its name alone or by a mapping that holds it."""
    if config is None or isinstance(config, str):
        return config or "none", {}
    return config.get("_name_", default), {k: v for k, v in config.items() if k != "_name_"}


def _norm(hyper: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    name, options = _named(hyper["norm"], "layer")
    if name not in NORMS:
        raise unknown_name(f"from_original({ORIGINAL!r})", "norm", name, NORMS)
    if name == "layer" and hyper["transposed"]:
        return ("layer_scalar" if options.pop("scalar", True) else "layer"), options
    return name, options | ({"masked": False} if name == "batch" else {})


def _residual(hyper: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    name, options = _named(hyper["residual"], "R")
    if name not in RESIDUALS:
        raise unknown_name(f"from_original({ORIGINAL!r})", "residual", name, RESIDUALS)
    kind = RESIDUALS[name]
    if kind == "affine":
        options["power"] = options.pop("gamma", 0.0)
        options["per_channel"] = not options.pop("scalar", True)
    if kind == "highway":
        options["elementwise"] = options.pop("elemwise", False)
        options["scaling"] = 1.732 if options.pop("scaling_correction", False) else 1.0
    return kind, options


def _complete(hyper: Mapping[str, Any]) -> dict[str, Any]:
    for name in hyper:
        if name not in DEFAULTS:
            raise unknown_name(f"from_original({ORIGINAL!r})", "hyper-parameter", name, (*DEFAULTS, "d_model"))
    for name in ("bidirectional", "pool"):
        if hyper.get(name):
            remedy = "set it in the layer (bidirectional), or leave it out"
            raise argument_error(
                f"from_original({ORIGINAL!r})", f"{name}={hyper[name]!r}", "neither of the two", remedy
            )
    return {**DEFAULTS, **hyper}


def _layers(hyper: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The options of every layer in order."""
    given = hyper["layer"]
    stage: Sequence[Mapping[str, Any]] = [given] if isinstance(given, Mapping) else list(given or [])
    layers = []
    for layer in stage:
        name = layer.get("_name_", "s4")
        if name not in LAYERS:
            raise unknown_name(f"from_original({ORIGINAL!r})", "layer", name, LAYERS)
        if name == "s4" and layer.get("activation") == "glu":
            got, remedy = "activation='glu' in the layer 's4'", "take final_act='glu', or the layer 'standalone'"
            raise argument_error(f"from_original({ORIGINAL!r})", got, "one that keeps the width", remedy)
        options = {"L": hyper["L"], **layer}
        options["dropout"] = hyper["dropout"] if layer.get("dropout") is None else layer["dropout"]
        layers.append(options)
    return layers * int(hyper["n_layers"] * hyper["n_repeat"])


def _build(d_model: int, **given: Any) -> Backbone:
    hyper = _complete(given)
    (norm, norm_options), (residual, residual_options) = _norm(hyper), _residual(hyper)
    around: dict[str, Any] = {
        "norm": norm,
        "norm_options": norm_options,
        "norm_placement": "pre" if hyper["prenorm"] else "post",
        "residual": residual,
        "residual_options": residual_options,
        "dropout": 0.0 if hyper["residual"] is None else hyper["dropout"],
        "tie_dropout": hyper["tie_dropout"],
    }
    layers = _layers(hyper)
    places = [LayerContext(i, len(layers)) for i in range(len(layers))]
    blocks = [Block(_layer(d_model, o), layer=at, **around) for at, o in zip(places, layers, strict=True)]
    last: dict[str, Any] = {"norm": norm, "norm_options": norm_options} if hyper["prenorm"] else {}
    return Backbone(blocks, input_dropout=hyper["dropinp"], tie_dropout=hyper["tie_dropout"], **last)


def _layer(d_model: int, options: Mapping[str, Any]) -> S4Layer:
    """A layer of the backbone; that named ``s4`` never ties the dropout after its convolution."""
    layer = build_block(d_model, **options)
    if options.get("_name_", "s4") == "s4":
        layer.conv_dropout = Dropout(layer.conv_dropout.p)
    return layer


def _convert(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    backbone, complete = _build(**hyper), _complete({k: v for k, v in hyper.items() if k != "d_model"})
    converted: dict[str, Tensor] = {}
    for i, block in enumerate(backbone.layers):
        mixer = convert_block(weights, block.mixer, f"layers.{i}.layer.")  # type: ignore[arg-type]
        converted |= {f"blocks.{i}.mixer.{name}": tensor for name, tensor in mixer.items()}
        converted |= _convert_norm(weights, complete, f"layers.{i}.norm.norm", f"blocks.{i}.mixer_norm")
        converted |= _convert_residual(weights, complete, f"layers.{i}.residual", f"blocks.{i}.mixer_residual")
    if complete["prenorm"]:
        converted |= _convert_norm(weights, complete, "norm.norm", "norm")
    return converted


def _convert_norm(weights: Weights, hyper: Mapping[str, Any], original: str, name: str) -> dict[str, Tensor]:
    kind, _ = _norm(hyper)
    if kind == "layer_scalar":
        return {f"{name}.scale": weights.take(f"{original}.s"), f"{name}.shift": weights.take(f"{original}.m")}
    if kind == "batch":
        buffers = ("running_mean", "running_var", "num_batches_tracked")
        converted = {f"{name}.tokens.{part}": weights.take(f"{original}.{part}") for part in ("weight", "bias")}
        return converted | {f"{name}.tokens.{part}": weights.take(f"{original}.{part}").detach() for part in buffers}
    if kind in ("layer", "group"):
        inside = f"{original}.ln" if f"{original}.ln.weight" in weights else original
        return {f"{name}.{part}": weights.take(f"{inside}.{part}") for part in ("weight", "bias")}
    return {}


def _convert_residual(weights: Weights, hyper: Mapping[str, Any], original: str, name: str) -> dict[str, Tensor]:
    kind, options = _residual(hyper)
    if kind == "affine":
        return {f"{name}.weight": weights.take(f"{original}.affine")}
    if kind != "highway":
        return {}
    converted = {f"{name}.stream.{part}": weights.take(f"{original}.Wx.{part}") for part in ("weight", "bias")}
    if options["elementwise"]:
        return converted | {f"{name}.layer.weight": weights.take(f"{original}.Wy")}
    return converted | {f"{name}.layer.{part}": weights.take(f"{original}.Wy.{part}") for part in ("weight", "bias")}


add_importer(ORIGINAL, build=_build, convert=_convert)
