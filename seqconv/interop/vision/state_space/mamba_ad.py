"""lewandofskee/MambaAD: the locality-enhanced state space module, and its mixer alone.

Read in ``model/mambaad.py`` (LSSModule, HSSBlock, SS2D, HSCANS) at 04344525. Its scan orders are tensors of the state
dict; they must be those of ``scan_type``.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from seqconv_kernels._core.errors import argument_error, unknown_name

from ....vision.backbones.local_state_space import LocalStateSpaceBlock
from ....vision.mixers.ss2d import SS2D
from ....vision.scan_orders import inverse, scan_order
from ...importer import Weights, add_importer, options
from .vmamba import convert as convert_ss2d

ORIGINAL, MIXER = "lewandofskee/MambaAD:LSSModule", "lewandofskee/MambaAD:SS2D"
SCAN_DEFAULTS: Mapping[str, Any] = {
    "d_state": 16, "size": 8, "scan_type": "scan", "num_direction": 8, "d_conv": 3, "expand": 2, "dt_rank": "auto",
    "dt_min": 0.001, "dt_max": 0.1, "dt_init_floor": 1e-4, "conv_bias": True, "bias": False,
}  # fmt: skip
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    ORIGINAL: {"hidden_dim": ..., "drop_path": 0.0, "attn_drop_rate": 0.0, "depth": 2, **SCAN_DEFAULTS},
    MIXER: {"d_model": ..., "dropout": 0.0, **SCAN_DEFAULTS},
}
IGNORED = ("dt_init", "dt_scale")
"""Initial values alone."""

SCANS = ("d_state", "d_conv", "expand", "dt_rank", "dt_min", "dt_max", "dt_init_floor", "conv_bias", "bias")
"""Options of the scans with the same name here."""

CURVES: Mapping[str, str] = {
    "sweep": "row", "scan": "snake", "zorder": "zorder", "zigzag": "zigzag", "hilbert": "hilbert",
}  # fmt: skip
VIEWS = ("", "_transposed", "_rotated", "_rotated_transposed")
"""The curve on the image as it is, transposed, turned, and both: as many as half of the directions."""

KERNELS = (5, 7)


def build(**hyper: Any) -> LocalStateSpaceBlock:
    """The module with the options of the original."""
    o = _options(ORIGINAL, hyper)
    mixer = {**_scans(o), "dropout": float(o.attn_drop_rate)}
    return LocalStateSpaceBlock(
        o.hidden_dim, depth=o.depth, kernels=KERNELS, mixer_options=mixer, drop_path=float(o.drop_path)
    )


def convert(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the module."""
    o, kinds = _options(ORIGINAL, hyper), ("weight", "bias")
    converted: dict[str, Tensor] = {}
    for index in range(o.depth):
        block, source = f"blocks.{index}", weights.part(f"smm_blocks.{index}.")
        converted |= {f"{block}.mixer_norm.{kind}": source.take(f"ln_1.{kind}") for kind in kinds}
        mixer = _convert_scans(ORIGINAL, source.part("self_attention."), o)
        converted |= {f"{block}.mixer.{name}": tensor for name, tensor in mixer.items()}
    for index, size in enumerate(KERNELS):
        branch = f"branches.{index}"
        converted[f"{branch}.depthwise.weight"] = weights.take(f"conv{size}{size}.0.weight")
        for name, source_name in (("before", "b"), ("after", "a")):
            for kind in kinds:
                converted[f"{branch}.{name}.{kind}"] = weights.take(f"conv1{source_name}{size}.0.{kind}")
    return converted | {f"out_proj.{kind}": weights.take(f"finalconv11.{kind}") for kind in kinds}


def build_mixer(**hyper: Any) -> SS2D:
    """The mixer with the options of the original."""
    o = _options(MIXER, hyper)
    return SS2D(o.d_model, dropout=float(o.dropout), **_scans(o))


def convert_mixer(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the mixer."""
    return _convert_scans(MIXER, weights, _options(MIXER, hyper))


def infer_mixer(weights: Weights) -> dict[str, Any]:
    """The widths and the number of directions, from the shapes of the tensors."""
    if "A_logs" not in weights or "out_proj.weight" not in weights:
        return {}
    directions, _, rank = weights.peek("dt_projs_weight").shape
    found = {"d_model": weights.peek("out_proj.weight").shape[0], "d_state": weights.peek("A_logs").shape[1]}
    return {**found, "dt_rank": rank, "num_direction": directions}


def _scans(o: Any) -> dict[str, Any]:
    """Arguments of the mixer, but for its width and dropout."""
    forward = [CURVES[o.scan_type] + view for view in VIEWS[: o.num_direction // 2]]
    orders = [*forward, *(f"{name}_reversed" for name in forward)]
    return {"orders": orders, **{name: getattr(o, name) for name in SCANS}}


def _convert_scans(original: str, weights: Weights, o: Any) -> dict[str, Tensor]:
    _check_order(original, weights.part("scans."), o)
    return convert_ss2d(weights, {"forward_type": "v05", "bias": o.bias, "conv_bias": o.conv_bias})


def _check_order(original: str, weights: Weights, o: Any) -> None:
    order = scan_order(CURVES[o.scan_type], o.size, o.size)
    for name, wanted in (("index_flat", order), ("index_flat_inv", inverse(order))):
        found = weights.take(name).flatten()
        if not torch.equal(found.long().cpu(), wanted):
            got = f"another {name} than that of scan_type={o.scan_type!r} and size={o.size}"
            remedy = "check the hyper-parameters"
            raise argument_error(f"from_original({original!r})", got, "the order of the original", remedy)


def _options(original: str, hyper: Mapping[str, Any]) -> Any:
    o = options(original, hyper, DEFAULTS[original], IGNORED)
    if o.scan_type not in CURVES:
        raise unknown_name(f"from_original({original!r})", "scan_type", o.scan_type, CURVES)
    if o.d_conv < 3 or o.d_conv % 2 == 0:
        got = f"d_conv={o.d_conv}"
        raise argument_error(f"from_original({original!r})", got, "an odd width of 3 or more", "convert another model")
    if o.num_direction not in (2, 4, 8):
        got = f"num_direction={o.num_direction}"
        raise argument_error(f"from_original({original!r})", got, "2, 4 or 8", "check the hyper-parameters")
    return o


add_importer(ORIGINAL, build=build, convert=convert)
add_importer(MIXER, build=build_mixer, convert=convert_mixer, infer=infer_mixer)
