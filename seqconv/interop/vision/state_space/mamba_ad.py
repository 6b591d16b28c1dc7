"""lewandofskee/MambaAD: the locality-enhanced state space module.

Read in ``model/mambaad.py`` (LSSModule, HSSBlock, SS2D, HSCANS) at 04344525. Its scan orders are tensors of the state
dict; they must be those of ``scan_type``.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from seqconv_kernels._core.errors import argument_error, unknown_name

from ....vision.backbones.local_state_space import LocalStateSpaceBlock
from ....vision.scan_orders import inverse, scan_order
from ...importer import Weights, add_importer, options
from .vmamba import convert as convert_ss2d

ORIGINAL = "lewandofskee/MambaAD:LSSModule"
DEFAULTS: Mapping[str, Any] = {
    "hidden_dim": ..., "drop_path": 0.0, "attn_drop_rate": 0.0, "d_state": 16, "depth": 2, "size": 8,
    "scan_type": "scan", "num_direction": 8,
}  # fmt: skip
CURVES: Mapping[str, str] = {
    "sweep": "row", "scan": "snake", "zorder": "zorder", "zigzag": "zigzag", "hilbert": "hilbert",
}  # fmt: skip
VIEWS = ("", "_transposed", "_rotated", "_rotated_transposed")
"""The curve on the image as it is, transposed, turned, and both: as many as half of the directions."""

KERNELS = (5, 7)


def build(**hyper: Any) -> LocalStateSpaceBlock:
    """The module with the options of the original."""
    o = _options(hyper)
    mixer = {"d_state": o.d_state, "orders": _orders(o), "dropout": float(o.attn_drop_rate)}
    return LocalStateSpaceBlock(
        o.hidden_dim, depth=o.depth, kernels=KERNELS, mixer_options=mixer, drop_path=float(o.drop_path)
    )


def convert(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the module."""
    o, kinds = _options(hyper), ("weight", "bias")
    converted: dict[str, Tensor] = {}
    for index in range(o.depth):
        block, source = f"blocks.{index}", weights.part(f"smm_blocks.{index}.")
        _check_order(source.part("self_attention.scans."), o)
        converted |= {f"{block}.mixer_norm.{kind}": source.take(f"ln_1.{kind}") for kind in kinds}
        mixer = convert_ss2d(source.part("self_attention."), {"d_model": o.hidden_dim, "forward_type": "v0"})
        converted |= {f"{block}.mixer.{name}": tensor for name, tensor in mixer.items()}
    for index, size in enumerate(KERNELS):
        branch = f"branches.{index}"
        converted[f"{branch}.depthwise.weight"] = weights.take(f"conv{size}{size}.0.weight")
        for name, source_name in (("before", "b"), ("after", "a")):
            for kind in kinds:
                converted[f"{branch}.{name}.{kind}"] = weights.take(f"conv1{source_name}{size}.0.{kind}")
    return converted | {f"out_proj.{kind}": weights.take(f"finalconv11.{kind}") for kind in kinds}


def _orders(o: Any) -> list[str]:
    forward = [CURVES[o.scan_type] + view for view in VIEWS[: o.num_direction // 2]]
    return [*forward, *(f"{name}_reversed" for name in forward)]


def _check_order(weights: Weights, o: Any) -> None:
    order = scan_order(CURVES[o.scan_type], o.size, o.size)
    for name, wanted in (("index_flat", order), ("index_flat_inv", inverse(order))):
        found = weights.take(name).flatten()
        if not torch.equal(found.long().cpu(), wanted):
            got = f"another {name} than that of scan_type={o.scan_type!r} and size={o.size}"
            remedy = "check the hyper-parameters"
            raise argument_error(f"from_original({ORIGINAL!r})", got, "the order of the original", remedy)


def _options(hyper: Mapping[str, Any]) -> Any:
    o = options(ORIGINAL, hyper, DEFAULTS)
    if o.scan_type not in CURVES:
        raise unknown_name(f"from_original({ORIGINAL!r})", "scan_type", o.scan_type, CURVES)
    if o.num_direction not in (2, 4, 8):
        got = f"num_direction={o.num_direction}"
        raise argument_error(f"from_original({ORIGINAL!r})", got, "2, 4 or 8", "check the hyper-parameters")
    return o


add_importer(ORIGINAL, build=build, convert=convert)
