"""Reading S5 (lindermanlab/S5 at 3c18fdb6) and LRU (NicolasZucchet/minimal-LRU at bbd71b11): layers of flax.

Read in ``s5/{ssm,layers,seq_model}.py`` and ``lru/model.py``. Names of tensors are the paths of the parameters joined
by dots, running statistics under ``batch_stats.``; the layers there take one sequence (length, channels), here a
batch. Dense kernels are (in, out).
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from seqconv_kernels._core.errors import unknown_name

from ...backbone import Backbone
from ...blocks import Block
from ...mixers.state_space.lru import LRU
from ...mixers.state_space.s5 import S5
from ..importer import Weights, add_importer, options

S5_REPOSITORY, LRU_REPOSITORY = "lindermanlab/S5", "NicolasZucchet/minimal-LRU"
FLAX_LAYER_NORM_EPS = 1e-6
SSM_DEFAULTS = {
    "H": ..., "P_full": ..., "blocks": 1, "C_init": "trunc_standard_normal", "discretization": "zoh", "conj_sym": True,
    "clip_eigs": False, "bidirectional": False, "dt_min": 0.001, "dt_max": 0.1, "step_rescale": 1.0, "layer": None,
}  # fmt: skip
LAYER_DEFAULTS = {"activation": "gelu", "prenorm": False, "batchnorm": False, "dropout": 0.0, "step_rescale": 1.0}
LAYER_IGNORED = ("training", "bn_momentum", "d_model")
MODEL_DEFAULTS = SSM_DEFAULTS | {"d_input": ..., "d_output": ..., "n_layers": ...}
S5_IGNORED = ("P_stored", "padded", "seed")
"""``P_stored`` follows from ``P_full``; ``padded`` says that lengths are passed with the inputs."""
S5_GATES = {"full_glu": "full_glu", "half_glu1": "half_glu1", "half_glu2": "half_glu2", "gelu": "gelu"}
LRU_DEFAULTS = {"d_model": ..., "d_hidden": ..., "r_min": 0.0, "r_max": 1.0, "max_phase": 6.28, "norm_order": None}
LRU_LAYER_DEFAULTS = LRU_DEFAULTS | {"norm": "layer"}


def _s5(original: str, hyper: Mapping[str, Any], gate: str, known: Mapping[str, Any] = SSM_DEFAULTS) -> S5:
    o = options(original, hyper, known, S5_IGNORED)
    return S5(
        o.H,
        d_state=o.P_full,
        num_blocks=o.blocks,
        disc=o.discretization,
        conj_sym=o.conj_sym,
        clip_eigs=o.clip_eigs,
        C_init=o.C_init,
        dt_min=o.dt_min,
        dt_max=o.dt_max,
        rate=(o.layer or {}).get("step_rescale", o.step_rescale),  # a layer passes its own to the SSM in it
        bidirectional=o.bidirectional,
        gate=gate,
    )


def _layer_options(original: str, hyper: Mapping[str, Any]) -> Any:
    layer = options(original, hyper.get("layer") or {}, LAYER_DEFAULTS, LAYER_IGNORED)
    if layer.activation not in S5_GATES:
        raise unknown_name(f"from_original({original!r})", "activation", layer.activation, S5_GATES)
    return layer


def _s5_block(original: str, hyper: Mapping[str, Any], known: Mapping[str, Any] = SSM_DEFAULTS) -> Block:
    layer = _layer_options(original, hyper)
    norm, norm_options = ("batch", {}) if layer.batchnorm else ("layer", {"eps": FLAX_LAYER_NORM_EPS})
    mixer = _s5(original, hyper, S5_GATES[layer.activation], known)
    return Block(mixer, norm=norm, norm_options=norm_options, norm_placement="pre" if layer.prenorm else "post")


def _convert_ssm(w: Weights, hyper: Mapping[str, Any], prefix: str = "") -> dict[str, Tensor]:
    bidirectional, normal = hyper.get("bidirectional", False), hyper.get("C_init") == "complex_normal"
    names = {"A_real": "Lambda_re", "A_imag": "Lambda_im", "B": "B", "D": "D"}
    found = {f"{prefix}{name}": w.take(original) for name, original in names.items()}
    found[f"{prefix}log_dt"] = w.take("log_step").flatten()
    if bidirectional and normal:
        found[f"{prefix}C"], found[f"{prefix}C_backward"] = w.take("C").chunk(2, dim=1)
    elif bidirectional:
        found |= {f"{prefix}C": w.take("C1"), f"{prefix}C_backward": w.take("C2")}
    else:
        found[f"{prefix}C"] = w.take("C")
    return found


def _dense(w: Weights, original: str, name: str) -> dict[str, Tensor]:
    return {f"{name}.weight": w.take(f"{original}.kernel").mT, f"{name}.bias": w.take(f"{original}.bias")}


def _norm(w: Weights, statistics: Weights, original: str, name: str, batch: bool) -> dict[str, Tensor]:
    name = f"{name}.tokens" if batch else name
    found = {f"{name}.weight": w.take(f"{original}.scale"), f"{name}.bias": w.take(f"{original}.bias")}
    if batch:
        mean, var = (statistics.take(f"{original}.{kind}").detach() for kind in ("mean", "var"))
        found |= {f"{name}.running_mean": mean, f"{name}.running_var": var}
        found[f"{name}.num_batches_tracked"] = torch.tensor(0)
    return found


def _convert_layer(
    original: str, w: Weights, statistics: Weights, hyper: Mapping[str, Any], prefix: str = ""
) -> dict[str, Tensor]:
    layer = _layer_options(original, hyper)
    found = _convert_ssm(w.part("seq."), hyper, f"{prefix}mixer.")
    if layer.activation == "full_glu":
        found |= _dense(w, "out1", f"{prefix}mixer.out_proj")
    if layer.activation != "gelu":
        found |= _dense(w, "out2", f"{prefix}mixer.gate_proj")
    return found | _norm(w, statistics, "norm", f"{prefix}mixer_norm", layer.batchnorm)


class S5Classifier(nn.Module):
    """Encoder, layers, mean over the tokens, decoder: ``ClassificationModel`` of S5.

    Padding passes through the layers, as in the original; the mean leaves it out.

    Args:
        d_input: width of the inputs.
        backbone: the layers.
        d_output: classes.
    """

    def __init__(self, d_input: int, backbone: Backbone, d_output: int) -> None:
        super().__init__()
        self.encoder, self.backbone = nn.Linear(d_input, backbone.d_model), backbone
        self.decoder = nn.Linear(backbone.d_model, d_output)

    def forward(
        self, x: Float[Tensor, "batch length d_input"], lengths: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch d_output"]:
        """Logarithms of the probabilities; ``lengths``: tokens of each row that count, all by default."""
        h = self.backbone(self.encoder(x))
        if lengths is None:
            mean = h.mean(1)
        else:
            real = torch.arange(h.shape[1], device=h.device) < lengths[:, None]
            mean = (h * real[..., None]).sum(1) / lengths[:, None]
        scores: Tensor = self.decoder(mean).log_softmax(-1)
        return scores


def _build_ssm(**hyper: Any) -> S5:
    return _s5(S5_SSM, hyper, "none")


def _build_layer(**hyper: Any) -> Block:
    return _s5_block(S5_LAYER, hyper)


def _build_model(**hyper: Any) -> S5Classifier:
    o = options(S5_MODEL, hyper, MODEL_DEFAULTS, S5_IGNORED)
    blocks = [_s5_block(S5_MODEL, hyper, MODEL_DEFAULTS) for _ in range(o.n_layers)]
    return S5Classifier(o.d_input, Backbone(blocks), o.d_output)


def _convert_model(w: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    found = _dense(w, "encoder.encoder", "encoder") | _dense(w, "decoder", "decoder")
    for i in range(hyper["n_layers"]):
        part = f"encoder.layers_{i}."
        statistics = w.part(f"batch_stats.{part}")
        found |= _convert_layer(S5_MODEL, w.part(part), statistics, hyper, f"backbone.blocks.{i}.")
    return found


def _convert_one_layer(w: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    return _convert_layer(S5_LAYER, w, w.part("batch_stats."), hyper)


def _lru(original: str, hyper: Mapping[str, Any], known: Mapping[str, Any], gate: str) -> LRU:
    o = options(original, hyper, known, ("seed",))
    ranges = {"r_min": o.r_min, "r_max": o.r_max, "max_phase": o.max_phase}
    return LRU(o.d_model, d_state=o.d_hidden, gate=gate, **ranges)


def _build_lru(**hyper: Any) -> LRU:
    return _lru(LRU_UNIT, hyper, LRU_DEFAULTS, "none")


def _build_lru_layer(**hyper: Any) -> Block:
    o = options(LRU_LAYER, hyper, LRU_LAYER_DEFAULTS, ("seed",))
    if o.norm_order not in ("pre", "post"):
        raise unknown_name(f"from_original({LRU_LAYER!r})", "norm_order", str(o.norm_order), ("pre", "post"))
    if o.norm != "layer":
        raise unknown_name(f"from_original({LRU_LAYER!r})", "norm", str(o.norm), ("layer",))
    mixer = _lru(LRU_LAYER, hyper, LRU_LAYER_DEFAULTS, "full_glu")
    return Block(mixer, norm="layer", norm_options={"eps": FLAX_LAYER_NORM_EPS}, norm_placement=o.norm_order)


def _convert_lru(w: Weights, hyper: Mapping[str, Any], prefix: str = "") -> dict[str, Tensor]:
    names = ("nu_log", "theta_log", "gamma_log", "B_re", "B_im", "C_re", "C_im", "D")
    return {f"{prefix}{name}": w.take(name) for name in names}


def _convert_lru_layer(w: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    found = _convert_lru(w.part("seq."), hyper, "mixer.")
    found |= _dense(w, "out1", "mixer.out_proj") | _dense(w, "out2", "mixer.gate_proj")
    return found | _norm(w, w, "normalization", "mixer_norm", batch=False)


S5_SSM, S5_LAYER = f"{S5_REPOSITORY}:S5SSM", f"{S5_REPOSITORY}:SequenceLayer"
S5_MODEL = f"{S5_REPOSITORY}:ClassificationModel"
LRU_UNIT, LRU_LAYER = f"{LRU_REPOSITORY}:LRU", f"{LRU_REPOSITORY}:SequenceLayer"
add_importer(S5_SSM, build=_build_ssm, convert=_convert_ssm)
add_importer(S5_LAYER, build=_build_layer, convert=_convert_one_layer)
add_importer(S5_MODEL, build=_build_model, convert=_convert_model)
add_importer(LRU_UNIT, build=_build_lru, convert=_convert_lru)
add_importer(LRU_LAYER, build=_build_lru_layer, convert=_convert_lru_layer)
