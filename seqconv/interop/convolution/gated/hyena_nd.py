"""Itamarzimm/HyenaND: the Hyena operator over images.

Read in pytorch-image-models/timm/models/layers/hyena2d.py at commit e8b875ea. All sine layers of the original share one
vector of frequencies, which its state dict lists once per layer. Its ``HyenaFilter2d`` never reads ``bias`` and
``normalized``, in product form not ``sqrt_decay`` either, and has no symmetric window in that form.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from seqconv_kernels._core.errors import argument_error, unknown_name

from ....vision import Hyena2d
from ...importer import Weights, add_importer, options

ORIGINAL = "Itamarzimm/HyenaND:HyenaOperator2d"
DEFAULTS: Mapping[str, Any] = {
    "d_model": ...,
    "l_max": ...,
    "order": 2,
    "filter_order": 64,
    "dropout": 0.0,
    "hyena2d_filter": False,
    "direct_paramtrization": False,
    "window_mode": "standard",
    "directional_mode": "standard",
    "emb_dim": 3,
    "w": 1,
    "num_inner_mlps": 2,
    "fast_decay_pct": 0.3,
    "slow_decay_pct": 1.5,
    "target": 1e-2,
    "modulation_lr": 0.0,
    "modulate": True,
    "shift": 0.0,
    "sqrt_decay": False,
    "lr": 1e-3,
    "lr_pos_emb": 1e-5,
    "wd": 0,
}
IGNORED = ("bias", "filter_dropout", "fused_fft_conv", "normalized")
WINDOWS: Mapping[str, str] = {"standard": "fixed", "learn": "learned", "symettric": "symmetric", "no": "none"}


def build(**hyper: Any) -> Hyena2d:
    """The operator with the options of the original."""
    o = _options(hyper)
    return Hyena2d(
        o.d_model,
        l_max=o.l_max,
        order=o.order,
        directions=o.directional_mode,
        direct=o.direct_paramtrization,
        divide_by_side=True,
        dropout=float(o.dropout),
        form="joint" if o.hyena2d_filter else "product",
        window=_window(o),
        sqrt_window=o.sqrt_decay and o.hyena2d_filter,
        emb_dim=o.emb_dim,
        filter_order=o.filter_order,
        num_inner_mlps=o.num_inner_mlps,
        w=float(o.w),
        fast_decay_pct=float(o.fast_decay_pct),
        slow_decay_pct=float(o.slow_decay_pct),
        target=float(o.target),
        shift=float(o.shift),
        lr=float(o.lr),
        wd=float(o.wd),
        lr_pos_emb=float(o.lr_pos_emb),
        modulation_lr=float(o.modulation_lr),
    )


def convert(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the operator from that of the original."""
    o = _options(hyper)
    modules = {"in_proj": "in_proj", "short_conv": "short_filter", "out_proj": "out_proj"}
    converted = {
        f"{module}.{name}": weights.take(f"{original}.{name}")
        for module, original in modules.items()
        for name in ("weight", "bias")
    }
    if o.directional_mode in ("4dir", "4dirp"):
        converted |= {f"mix.{name}": weights.take(f"linear_mix.{name}") for name in ("weight", "bias")}
    if o.direct_paramtrization:  # one more than there are convolutions
        taps = weights.take("filter")[: o.order - 1].flatten(0, 1)
        return converted | {"filter.taps": taps, "D": weights.take("bias")[: o.order - 1]}
    converted["D"] = weights.take("filter_fn.bias").unflatten(0, (o.order - 1, -1))
    filter = _filter(weights.part("filter_fn."), o)
    return converted | {f"filter.{name}": tensor for name, tensor in filter.items()}


def _filter(weights: Weights, o: Any) -> dict[str, Tensor]:
    networks = ["implicit_filter"] if o.hyena2d_filter else ["Ximplicit_filter", "Yimplicit_filter"]
    sines = o.num_inner_mlps + 1
    converted = {"positions": weights.take("pos_emb.z")[0], "times": weights.take("pos_emb.t")[0, :, 0]}
    # The module of the columns is made first, so that the one parameter of all sines goes by its name.
    converted["frequency"] = weights.take(f"{networks[-1]}.1.freq")[0]
    for part, network in enumerate(networks):
        for layer in range(sines):
            weights.ignore(f"{network}.{2 * layer + 1}.freq")
            for name in ("weight", "bias"):
                converted[f"networks.{part}.layers.{layer}.{name}"] = weights.take(f"{network}.{2 * layer}.{name}")
        converted[f"networks.{part}.layers.{sines}.weight"] = weights.take(f"{network}.{2 * sines}.weight")
    return converted | _window_tensors(weights, o)


def _window_tensors(weights: Weights, o: Any) -> dict[str, Tensor]:
    parts = ("modulation",) if o.hyena2d_filter else ("Xmodulation", "Ymodulation")
    if not o.hyena2d_filter:
        rates = [f"{part}.deltas" for part in parts]
    elif o.window_mode == "symettric":
        rates = ["modulation.deltas"]
    else:
        rates = ["modulation.Xdeltas", "modulation.Ydeltas"]
    shifts = [f"{part}.shift" for part in parts]
    if _window(o) == "none":
        weights.ignore(*rates, *shifts)
        return {}
    decays = torch.stack([weights.take(name)[0, 0] for name in rates])
    if o.window_mode == "standard":
        return {"decays": decays, "shifts": decays.new_full((len(parts), decays.shape[1]), float(o.shift))}
    return {"decays": decays, "shifts": torch.stack([weights.take(name)[0, 0] for name in shifts])}


def _window(o: Any) -> str:
    return WINDOWS[o.window_mode] if o.modulate else "none"


def _options(hyper: Mapping[str, Any]) -> Any:
    o = options(ORIGINAL, hyper, DEFAULTS, IGNORED)
    if o.window_mode not in WINDOWS:
        raise unknown_name(f"from_original({ORIGINAL!r})", "window_mode", o.window_mode, WINDOWS)
    if o.window_mode == "symettric" and not (o.hyena2d_filter or o.direct_paramtrization):
        got = "window_mode='symettric' with hyena2d_filter=False"
        raise argument_error(f"from_original({ORIGINAL!r})", got, "hyena2d_filter=True", "check the hyper-parameters")
    return o


add_importer(ORIGINAL, build=build, convert=convert)
