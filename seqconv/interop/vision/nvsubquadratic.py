"""NVIDIA-BioNeMo/nvSubquadratic: continuous kernel convolutions and Hyena on grids with 1 to 3 axes.

Read in ``nvsubquadratic/modules/ckconv_nd.py``, ``kernels_nd.py``, ``masks_nd.py``, ``film.py``, ``hyena_nd.py`` and
``sequence_mixer.py`` at 51291129. The originals take configurations of their parts; here these are words:

- ``kind``: ``"siren"`` (SIRENKernelND) or ``"rff"`` (RandomFourierKernelND, GELU between its layers);
- ``mask``: ``"none"``, ``"exp"`` (ExponentialModulationND) or ``"gauss"`` (GaussianModulationND, direct);
- ``pad``, ``grid``, ``causal``: ``fft_padding``, ``grid_type`` and ``is_causal``;
- ``L``: ``L_cache``; if it is not given, the longest of ``spatial``, the axes of a map;
- ``gate``, ``gate2``: names of torch's activations; ``None``: the same gate twice;
- ``qk``, ``px``, ``on``: whether there are RMS norms of q (and k), of their product, and of the output;
- ``short``: width of the short convolution (torch's, centred); 0 or ``None``: there is none.

Widths are found in the shapes of the tensors. ``Hyena`` is the whole layer, QKVSequenceMixer around Hyena. SIRENs of
several frequencies have the same tensors and are read too; those of learned ones are unsupported. No tensor tells other
activations of ``"rff"`` or other parametrizations of the Gaussian window, which are unsupported.
The centred short convolution sees the future even where the long one is causal, as in the original.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from seqconv_kernels._core.errors import argument_error, unknown_name

from ...vision.mixers.continuous.ckconv_nd import CKConvNd
from ...vision.mixers.hyena_nd import HyenaNd
from ..importer import Weights, add_importer, options

CKCONV, HYENA = "NVIDIA-BioNeMo/nvSubquadratic:CKConvND", "NVIDIA-BioNeMo/nvSubquadratic:Hyena"
INFERRED: Mapping[str, Any] = {
    "hidden": ...,
    "emb_dim": ...,
    "layers": ...,
    "bias": ...,
    "cond_dim": 0,
    "film_hidden": 64,
}
"""Options of a kernel, from the shapes of its tensors."""

CKCONV_DEFAULTS: Mapping[str, Any] = {
    "spatial": None, "dim": None, "C": ..., "kind": "siren", "mask": "none", "pad": None, "fft_padding": "zero",
    "grid": "", "L": None, "causal": False, "film_after_pos_embed": False, **INFERRED,
}  # fmt: skip
OPTION_DEFAULTS: Mapping[str, Any] = {
    "gate": "SiLU", "gate2": None, "qk": False, "px": False, "on": False, "short": 3, "qkv_bias": False,
    "out_bias": False,
}  # fmt: skip
NETWORKS: Mapping[str, str] = {"siren": "sine", "rff": "fourier"}
WINDOWS: Mapping[str, str] = {"none": "none", "exp": "exponential", "gauss": "gaussian"}
GATES: Mapping[str, str] = {
    "GELU": "gelu", "Identity": "identity", "LogSigmoid": "logsigmoid", "ReLU": "relu", "SiLU": "silu",
    "Sigmoid": "sigmoid", "Softplus": "softplus", "Tanh": "tanh",
}  # fmt: skip


def build_ckconv(**hyper: Any) -> CKConvNd:
    """The convolution with the options of the original."""
    return CKConvNd(hyper["C"], **_ckconv(CKCONV, hyper))


def convert_ckconv(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the convolution from that of the original."""
    kernel, converted = weights.part("kernel."), {"D": weights.take("shortcut")}
    fourier = hyper.get("kind", "siren") == "rff"
    names = {"embed": "positional_embedding.linear", "output": "out_linear"}
    for i in range(hyper["layers"] - 1):
        names[f"hidden.{i}"] = f"kernel_network.{2 * i}" if fourier else f"hidden_linears.{i}"
    if hyper.get("cond_dim"):
        names |= {f"film.{i}": f"film_generator.mlp.{i}" for i in (0, 2)}
    for name, source in names.items():
        kinds = ("weight", "bias") if hyper["bias"] or name.startswith("film") else ("weight",)
        converted |= {f"filter.{name}.{kind}": kernel.take(f"{source}.{kind}") for kind in kinds}
    window = {"exp": "mask.weight", "gauss": "mask.std_param"}.get(hyper.get("mask", "none"))
    return converted | ({"filter.window": weights.take(window)} if window else {})


def infer_ckconv(weights: Weights) -> dict[str, Any]:
    """The widths, from the shapes of the tensors."""
    if "kernel.out_linear.weight" not in weights:
        return {}
    kernel, layers = weights.part("kernel."), 1
    while f"hidden_linears.{layers - 1}.weight" in kernel or f"kernel_network.{2 * layers - 2}.weight" in kernel:
        layers += 1
    channels, hidden = kernel.peek("out_linear.weight").shape
    first = kernel.peek("hidden_linears.0.weight" if "hidden_linears.0.weight" in kernel else "kernel_network.0.weight")
    found = {
        "C": channels, "hidden": hidden, "emb_dim": first.shape[1], "layers": layers,
        "bias": "out_linear.bias" in kernel, "dim": kernel.peek("positional_embedding.linear.weight").shape[1],
    }  # fmt: skip
    if "film_generator.mlp.0.weight" in kernel:
        found["film_hidden"], found["cond_dim"] = kernel.peek("film_generator.mlp.0.weight").shape
    return found


def build_hyena(**hyper: Any) -> HyenaNd:
    """The layer with the options of the original."""
    ckconv, o = _hyena(hyper)
    for name in ("qk", "px", "on"):
        if not isinstance(getattr(o, name), bool):
            got, wanted = f"{name}={getattr(o, name)!r}", "True (RMS norms) or False; other norms are unsupported"
            raise argument_error(f"from_original({HYENA!r})", got, wanted, "pass a boolean")
    return HyenaNd(
        ckconv["C"],
        gate=_word(HYENA, "gate", o.gate, GATES),
        value_gate=None if o.gate2 is None else _word(HYENA, "gate2", o.gate2, GATES),
        query_norm=o.qk,
        gated_norm=o.px,
        output_norm=o.on,
        d_conv=o.short or 0,
        qkv_bias=o.qkv_bias,
        out_bias=o.out_bias,
        **_ckconv(HYENA, ckconv),
    )


def convert_hyena(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the layer from that of the original."""
    (ckconv, o), mixer = _hyena(hyper), weights.part("mixer.")
    conv = convert_ckconv(mixer.part("global_conv."), ckconv)
    converted = {f"conv.{name}": tensor for name, tensor in conv.items()}
    for name, source, bias in (("in_proj", "qkv_proj", o.qkv_bias), ("out_proj", "out_proj", o.out_bias)):
        kinds = ("weight", "bias") if bias else ("weight",)
        converted |= {f"{name}.{kind}": weights.take(f"{source}.{kind}") for kind in kinds}
    if o.short:
        converted |= {f"short_conv.{kind}": mixer.take(f"short_conv.{kind}") for kind in ("weight", "bias")}
    norms = {
        "query_norm": "q_norm",
        "key_norm": "k_norm",
        "gated_norm": "pixelhyena_norm",
        "output_norm": "output_norm",
    }
    wanted = {"query_norm": o.qk, "key_norm": o.qk and o.gate == "Identity", "gated_norm": o.px, "output_norm": o.on}
    return converted | {f"{name}.weight": mixer.take(f"{norms[name]}.weight") for name in norms if wanted[name]}


def infer_hyena(weights: Weights) -> dict[str, Any]:
    """The widths and which biases there are, from the tensors."""
    kernel = infer_ckconv(weights.part("mixer.global_conv."))
    return {"inferred": kernel, "qkv_bias": "qkv_proj.bias" in weights, "out_bias": "out_proj.bias" in weights}


def _hyena(hyper: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
    """Hyper-parameters of the convolution, and the options of the layer."""
    given = options(HYENA, hyper, {"spatial": None, "ckconv": {}, "options": {}, "inferred": {}, **OPTION_DEFAULTS})
    own = {name: getattr(given, name) for name in ("qkv_bias", "out_bias")}
    spatial = {"spatial": given.spatial} if given.spatial else {}
    return {**given.inferred, **spatial, **given.ckconv}, options(HYENA, own | given.options, OPTION_DEFAULTS)


def _ckconv(original: str, hyper: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the convolution, but for its width."""
    o = options(original, hyper, CKCONV_DEFAULTS)
    axes = o.dim or len(o.spatial or ())
    padding = o.fft_padding if o.pad is None else o.pad
    padding = _plain(padding) if isinstance(padding, str) else [_plain(word) for word in padding]
    length = o.L if o.L is not None else max(o.spatial or (0,))
    if not axes or not length:
        got, wanted = f"dim={o.dim}, spatial={o.spatial}, L={o.L}", "the number of axes and L"
        raise argument_error(f"from_original({original!r})", got, wanted, "pass dim and L (the original's L_cache)")
    if o.grid not in ("", None, "single", "double"):
        raise unknown_name(f"from_original({original!r})", "grid", o.grid, ("single", "double"))
    return {
        "axes": axes, "causal": o.causal, "condition_dim": o.cond_dim, "l_max": length, "padding": padding,
        "half_reach": o.grid == "single", "network": _word(original, "kind", o.kind, NETWORKS), "hidden": o.hidden,
        "layers": o.layers, "emb_dim": o.emb_dim, "bias": o.bias, "window": _word(original, "mask", o.mask, WINDOWS),
        "modulate_features": o.film_after_pos_embed, "condition_hidden": o.film_hidden,
    }  # fmt: skip


def _plain(word: Any) -> Any:
    """A word as the original reads it, whatever its case and the spaces around it."""
    return word.strip().lower() if isinstance(word, str) else word


def _word(original: str, option: str, word: str | None, known: Mapping[str, str]) -> str:
    if word is None or word not in known:
        raise unknown_name(f"from_original({original!r})", option, str(word), known)
    return known[word]


add_importer(CKCONV, build=build_ckconv, convert=convert_ckconv, infer=infer_ckconv)
add_importer(HYENA, build=build_hyena, convert=convert_hyena, infer=infer_hyena)
