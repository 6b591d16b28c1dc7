"""hustvl/Vim: the bidirectional Mamba block.

Read in ``mamba-1p1p1/mamba_ssm/modules/mamba_simple.py`` and ``ops/selective_scan_interface.py`` (its
``bimamba_inner_ref``) at dd0358a. Version 1 never halves the sum of its directions. A layer scale on the outputs is
unsupported, and ``use_fast_path=False``, with which the original runs one direction alone.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from seqconv_kernels._core.errors import argument_error

from ....mixers.state_space.vim import Vim
from ...importer import Weights, add_importer, options
from ...state_space.mamba import convert_mamba, mamba_options

ORIGINAL = "hustvl/Vim:Mamba"
DEFAULTS: Mapping[str, Any] = {
    "d_model": ...,
    "d_state": 16,
    "d_conv": 4,
    "expand": 2,
    "dt_rank": "auto",
    "dt_min": 0.001,
    "dt_max": 0.1,
    "dt_init": "random",
    "dt_scale": 1.0,
    "dt_init_floor": 1e-4,
    "conv_bias": True,
    "bias": False,
    "bimamba_type": ...,
    "if_divide_out": False,
    "init_layer_scale": None,
    "use_fast_path": True,
}
POOLINGS: Mapping[str, str] = {"mean": "mean", "none": "last"}
"""Of models without a class token."""
IGNORED = ("layer_idx", "device", "dtype")


def build(**hyper: Any) -> Vim:
    """The mixer with the options of the original."""
    return Vim(**vim_options(**hyper))


def vim_options(**hyper: Any) -> dict[str, Any]:
    """Arguments of the module for the original's."""
    o = vars(options(ORIGINAL, hyper, DEFAULTS, IGNORED))
    if not o.pop("use_fast_path"):
        wanted = "True: without it the original runs one direction alone"
        raise argument_error(f"from_original({ORIGINAL!r})", "use_fast_path=False", wanted, "leave it out")
    version, halve, scale = (o.pop(name) for name in ("bimamba_type", "if_divide_out", "init_layer_scale"))
    if version not in ("v1", "v2") or scale is not None:
        got = f"bimamba_type={version!r}, init_layer_scale={scale}"
        wanted = "bimamba_type 'v1' or 'v2' without a layer scale"
        raise argument_error(f"from_original({ORIGINAL!r})", got, wanted, "read causal layers as state-spaces/mamba's")
    return {**o, "version": version, "halve": halve and version == "v2"}


def convert(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the mixer; names of the reversed direction end in ``_b`` in the original."""
    o = vim_options(**hyper)
    suffixes = ("", "_b") if o["version"] == "v2" else ("",)
    converted = {f"{name}.weight": weights.take(f"{name}.weight") for name in ("in_proj", "out_proj")}
    converted |= {f"{name}.bias": weights.take(f"{name}.bias") for name in ("in_proj", "out_proj") if o["bias"]}
    for k, suffix in enumerate(suffixes):
        converted[f"conv1d.{k}.weight"] = weights.take(f"conv1d{suffix}.weight").squeeze(1)
        if o["conv_bias"]:
            converted[f"conv1d.{k}.bias"] = weights.take(f"conv1d{suffix}.bias")
        for name in ("x_proj", "dt_proj"):
            converted[f"selection.{k}.{name}.weight"] = weights.take(f"{name}{suffix}.weight")
    converted["dt_bias"] = _stack(weights, [f"dt_proj{suffix}.bias" for suffix in suffixes])
    converted["D"] = _stack(weights, [f"D{suffix}" for suffix in suffixes])
    return converted | {"A_log": _stack(weights, ["A_log", "A_b_log"])}


def mixer_arguments(kind: str, *, halve: bool, **given: Any) -> tuple[str, dict[str, Any]]:
    """Name and options of the mixer of a model's blocks; a ``kind`` of ``"none"`` is Mamba in one direction."""
    causal = kind == "none"
    made = mamba_options(**given) if causal else vim_options(**given, bimamba_type=kind, if_divide_out=halve)
    return "mamba" if causal else "vim", {name: value for name, value in made.items() if name != "d_model"}


def convert_mixer(weights: Weights, kind: str, *, halve: bool, **given: Any) -> dict[str, Tensor]:
    """The state dict of such a mixer."""
    if kind == "none":
        return convert_mamba(weights, given)
    return convert(weights, {**given, "bimamba_type": kind, "if_divide_out": halve})


def _stack(weights: Weights, names: list[str]) -> Tensor:
    return torch.stack([weights.take(name) for name in names])


add_importer(ORIGINAL, build=build, convert=convert)
