"""Reading Nemotron-H: layers of one kind each, Mamba-2, attention without positions, an MLP or experts.

Read in transformers 5.23.0: ``models/nemotron_h``, configuration and modeling. There the least time step is
``time_step_min``, whatever ``time_step_limit`` says, and the largest is unlimited.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ...layers.mlp import PLAIN
from ..checkpoint import add_checkpoint
from ..configurations import Configuration, read_configuration, require
from ..importer import Weights
from ..language_models import Read
from .parts import ATTENTION, HYBRID, LINEAR, REMEDY, Layers, Part, affine, attention, mamba2

SYMBOLS = {"M": LINEAR, "E": "moe", "*": ATTENTION, "-": "mlp"}
"""Kinds of layers in ``hybrid_override_pattern``."""
OLD_NAMES = {"mamba": LINEAR, "attention": ATTENTION}
RENAMED = {"mamba_n_groups": "n_groups", "mamba_d_conv": "conv_kernel", "mamba_conv_bias": "use_conv_bias",
           "mamba_dt_min": "time_step_min", "mamba_chunk_size": "chunk_size",
           "layer_types": "layers_block_type"}  # fmt: skip
"""Options of older files, and those of newer ones."""


@dataclass(frozen=True, kw_only=True)
class NemotronHConfiguration(Configuration):
    """``NemotronHConfig``.

    Without effect: what all hybrids have, initial values of time steps, ``moe_shared_expert_overlap`` (speed),
    ``residual_in_fp32``, ``mamba_ssm_cache_dtype`` (dtypes), ``hidden_dropout``, ``mtp_layers_block_type`` (layers that
    predict further tokens), and what nothing reads, ``sliding_window`` and ``time_step_limit`` among it.
    """

    WITHOUT_EFFECT: ClassVar[frozenset[str]] = HYBRID | frozenset({
        "time_step_max", "time_step_floor", "time_step_limit", "time_step_rank", "rescale_prenorm_residual",
        "mamba_dt_max", "mamba_dt_limit", "mamba_dt_init_floor", "moe_shared_expert_overlap", "residual_in_fp32",
        "mamba_ssm_cache_dtype", "hidden_dropout", "moe_shared_expert_intermediate_size", "mtp_layers_block_type",
        "mtp_hybrid_override_pattern", "num_hidden_layers", "expand", "mamba_expand", "attention_bias",
        "mamba_proj_bias", "n_shared_experts", "sliding_window", "norm_eps", "rms_norm_eps", "rope_theta",
        "partial_rotary_factor",
    })  # fmt: skip

    hidden_size: int = 4096
    layers_block_type: list[str] | None = None
    hybrid_override_pattern: str | None = None
    num_attention_heads: int = 32
    num_key_value_heads: int | None = 8
    head_dim: int = 128
    attention_head_dim: int | None = None
    mlp_hidden_act: str = "relu2"
    mlp_bias: bool = False
    ssm_state_size: int = 128
    mamba_num_heads: int = 128
    mamba_head_dim: int = 64
    mamba_hidden_act: str = "silu"
    n_groups: int = 8
    conv_kernel: int = 4
    time_step_min: float = 0.001
    use_conv_bias: bool = True
    chunk_size: int = 128
    use_bias: bool = False
    n_routed_experts: int = 8
    num_experts_per_tok: int = 2
    moe_latent_size: int | None = None
    routed_scaling_factor: int | float = 1.0
    n_group: int = 1
    topk_group: int = 1
    norm_topk_prob: bool = True
    num_nextn_predict_layers: int = 0
    layer_norm_epsilon: float = 1e-5
    tie_word_embeddings: bool = False
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2


def read_nemotron_h(config: Mapping[str, Any], weights: Weights) -> Read:
    """``NemotronHForCausalLM`` of transformers."""
    c = read_configuration(NemotronHConfiguration, {RENAMED.get(name, name): v for name, v in config.items()})
    require("num_nextn_predict_layers", c.num_nextn_predict_layers, (0,), REMEDY)
    require("attention_head_dim", c.attention_head_dim, (None, c.head_dim), REMEDY)
    require("mlp_hidden_act", c.mlp_hidden_act, tuple(PLAIN), REMEDY)
    require("mamba_hidden_act", c.mamba_hidden_act, ("silu", "swish"), REMEDY)
    root = "backbone." if "backbone.norm_f.weight" in weights else "model."
    layers = Layers()
    for i, kind in enumerate(_kinds(c)):
        part = weights.part(f"{root}layers.{i}.")
        w, mixer, mlp = part.part("mixer."), None, None
        if kind == LINEAR:
            mixer = "mamba2", _mamba2(c, w)
        elif kind == ATTENTION:
            mixer = "attention", _attention(c, w)
        else:
            mlp = _experts(c, w) if kind == "moe" else _mlp(c, w)
        layers.add((part, "norm", "norm"), mixer, mlp)
    shape: dict[str, Any] = {"hidden_size": c.hidden_size, "norm": "rms", "norm_options": {"eps": c.layer_norm_epsilon}}
    return layers.model(c, weights, final=f"{root}norm_f", embedding=f"{root}embeddings.weight", **shape)


def _kinds(c: NemotronHConfiguration) -> list[str]:
    """What each layer is."""
    if c.layers_block_type is not None:
        kinds = [OLD_NAMES.get(kind, kind) for kind in c.layers_block_type]
    elif c.hybrid_override_pattern is not None:
        kinds = [SYMBOLS.get(symbol, symbol) for symbol in c.hybrid_override_pattern]
    else:
        kinds = [LINEAR, "moe", ATTENTION, "mlp"]
    for kind in kinds:
        require("layers_block_type", kind, tuple(SYMBOLS.values()), REMEDY)
    return kinds


def _mamba2(c: NemotronHConfiguration, w: Weights) -> Part:
    return mamba2(
        w, norm_eps=c.layer_norm_epsilon, num_heads=c.mamba_num_heads, head_dim=c.mamba_head_dim,
        d_model=c.hidden_size, d_state=c.ssm_state_size, d_conv=c.conv_kernel, ngroups=c.n_groups,
        dt_limit=(c.time_step_min, float("inf")), bias=c.use_bias, conv_bias=c.use_conv_bias, chunk_size=c.chunk_size,
    )  # fmt: skip


def _attention(c: NemotronHConfiguration, w: Weights) -> Part:
    heads = {"num_heads": c.num_attention_heads, "num_kv_heads": c.num_key_value_heads or c.num_attention_heads}
    return {**heads, "head_dim": c.head_dim, "rotary": False}, attention(w)


def _mlp(c: NemotronHConfiguration, w: Weights) -> Part:
    names = {"up": "up_proj", "down": "down_proj"}
    tensors = {f"{n}.{kind}": w.take(f"{o}.{kind}") for n, o in names.items() for kind in affine(c.mlp_bias)}
    hidden = tensors["down.weight"].shape[1]
    return {"mlp": c.mlp_hidden_act, "mlp_hidden": hidden, "mlp_bias": c.mlp_bias}, tensors


def _experts(c: NemotronHConfiguration, w: Weights) -> Part:
    require("mlp_bias", c.mlp_bias, (False,), REMEDY)
    tensors: dict[str, Tensor] = {
        "router.proj.weight": w.take("gate.weight"),
        "router.correction": w.take("gate.e_score_correction_bias").float(),
    }
    if c.moe_latent_size is not None:
        tensors |= {"enter.weight": w.take("fc1_latent_proj.weight"), "leave.weight": w.take("fc2_latent_proj.weight")}
    for target, original in (("up", "up_proj"), ("down", "down_proj")):
        stacked = f"experts.{original}"
        for i in range(c.n_routed_experts):
            one = w.take(stacked)[i] if stacked in w else w.take(f"experts.{i}.{original}.weight")
            tensors[f"experts.{i}.{target}.weight"] = one
    common = _mlp(c, w.part("shared_experts."))
    options = {
        "expert": c.mlp_hidden_act,
        "num_experts": c.n_routed_experts,
        "top_k": c.num_experts_per_tok,
        "score": "sigmoid",
        "normalize": c.norm_topk_prob,
        "scale": float(c.routed_scaling_factor),
        "correction": True,
        "num_groups": c.n_group,
        "top_groups": c.topk_group,
        "shared_hidden": common[0]["mlp_hidden"],
        "latent": c.moe_latent_size,
    }
    tensors |= {f"shared.{name}": t for name, t in common[1].items()}
    hidden = tensors["experts.0.down.weight"].shape[1]
    return {"mlp": "moe", "mlp_hidden": hidden, "mlp_bias": False, "mlp_options": options}, tensors


add_checkpoint("nemotron_h", read_nemotron_h)
