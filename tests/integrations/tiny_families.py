"""Tiny models of transformers' families, randomly initialised, that run on one kernel or another."""

from importlib import import_module
from importlib.util import find_spec

import torch
import transformers
from transformers import DynamicCache

VOCAB = 41
RELEASE = tuple(int(part) for part in transformers.__version__.split(".")[:2])

SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
    "initializer_range": 0.2,
}

GDN = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "head_dim": 8,
}
EXPERTS = {
    "num_experts": 2,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
}
MAMBA2 = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 2, "mamba_d_state": 8, "mamba_chunk_size": 8}

MLA = {"kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8, "num_key_value_heads": 4}
MLA |= {"num_experts_per_tok": 2, "num_local_experts": 2, "moe_intermediate_size": 16}

GLM_VISION = {"depth": 1, "hidden_size": 16, "num_heads": 2, "intermediate_size": 16, "out_hidden_size": 32}
GLM_VISION |= {"projection_intermediate_size": 16, "image_size": 28}
"""The only language model of this family holds a model of images."""

FAMILIES = {
    "mamba": ("Mamba", {"state_size": 4}),
    "falcon_mamba": ("FalconMamba", {"state_size": 4}),
    "mamba2": ("Mamba2", {"state_size": 8, "num_heads": 4, "head_dim": 16, "n_groups": 2, "chunk_size": 8}),
    "jamba": (
        "Jamba",
        {
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "num_experts": 2,
            "mamba_d_state": 4,
            "mamba_dt_rank": 4,
        },
    ),
    "zamba": (
        "Zamba",
        {
            "num_hidden_layers": 4,
            "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"],
            "mamba_d_state": 4,
            "mamba_dt_rank": 4,
            "n_mamba_heads": 2,
            "attention_hidden_size": 64,
            "attention_head_dim": 16,
        },
    ),
    "zamba2": (
        "Zamba2",
        {
            "num_hidden_layers": 3,
            "layers_block_type": ["mamba", "hybrid", "mamba"],
            "mamba_d_state": 8,
            "mamba_ngroups": 2,
            "n_mamba_heads": 4,
            "mamba_headdim": 16,
            "chunk_size": 8,
            "num_mem_blocks": 1,
            "adapter_rank": 4,
            "use_mem_rope": True,
        },
    ),
    "bamba": ("Bamba", MAMBA2 | {"attn_layer_indices": [1]}),
    "falcon_h1": ("FalconH1", MAMBA2 | {"mamba_d_ssm": 64, "head_dim": 8, "mamba_rms_norm": True}),
    "granitemoehybrid": (
        "GraniteMoeHybrid",
        MAMBA2
        | {
            "layer_types": ["mamba", "attention"],
            "num_local_experts": 2,
            "num_experts_per_tok": 2,
            "shared_intermediate_size": 16,
        },
    ),
    "nemotron_h": (
        "NemotronH",
        {
            "num_hidden_layers": 4,
            "layers_block_type": ["mamba", "attention", "mamba", "mlp"],
            "head_dim": 8,
            "mamba_num_heads": 4,
            "mamba_head_dim": 16,
            "ssm_state_size": 8,
            "n_groups": 2,
            "chunk_size": 8,
        },
    ),
    "qwen3_next": ("Qwen3Next", GDN | EXPERTS),
    "qwen3_5": ("Qwen3_5", GDN),
    "qwen3_5_moe": ("Qwen3_5Moe", GDN | EXPERTS),
    "olmo_hybrid": ("OlmoHybrid", GDN),
    "kimi_linear": (
        "KimiLinear",
        MLA
        | {
            "layer_types": ["linear_attention", "full_attention"],
            "linear_num_heads": 4,
            "linear_head_dim": 8,
            "mlp_layer_types": ["dense", "sparse"],
            "topk_group": 1,
            "n_group": 1,
        },
    ),
    "bailing_hybrid": (
        "BailingHybrid",
        MLA
        | {
            "layer_types": ["linear_attention", "full_attention"],
            "num_key_value_heads": 4,
            "head_dim": 8,
            "mlp_layer_types": ["dense", "sparse"],
            "n_group": 1,
            "topk_group": 1,
            "num_mtp_layers": 0,
        },
    ),
    "lfm2": ("Lfm2", {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False}),
    "lfm2_moe": (
        "Lfm2Moe",
        {
            "layer_types": ["conv", "full_attention"],
            "num_experts": 2,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
            "num_dense_layers": 1,
        },
    ),
    "lfm3": ("Lfm3", {"layer_types": ["conv", "full_attention"], "head_dim": 8}),
    "inkling": (
        "Inkling",
        {
            "head_dim": 8,
            "swa_num_attention_heads": 4,
            "swa_num_key_value_heads": 2,
            "swa_head_dim": 8,
            "d_rel": 4,
            "rel_extent": 64,
            "sliding_window_size": 64,
            "moe_intermediate_size": 16,
            "n_routed_experts": 2,
            "num_experts_per_tok": 2,
            "n_shared_experts": 1,
            "mlp_layer_types": ["dense", "sparse"],
            "layer_types": ["hybrid_sliding", "hybrid"],
        },
    ),
    "inkling2": (
        "Inkling2",
        {
            "head_dim": 8,
            "swa_num_attention_heads": 4,
            "swa_num_key_value_heads": 2,
            "swa_head_dim": 8,
            "d_rel": 4,
            "rel_extent": 64,
            "sliding_window_size": 64,
            "moe_intermediate_size": 16,
            "n_routed_experts": 2,
            "num_experts_per_tok": 2,
            "layer_types": ["hybrid_sliding", "hybrid"],
            "unpadded_vocab_size": VOCAB,
        },
    ),
    "zaya": (
        "Zaya",
        {
            "head_dim": 8,
            "num_experts": 2,
            "num_experts_per_tok": 1,
            "moe_intermediate_size": 16,
            "router_hidden_size": 8,
            "cca_time0": 3,
        },
    ),
    "qwen4_exp": (
        "Qwen4Exp",
        GDN
        | EXPERTS
        | {
            "layer_types": ["linear_attention", "full_attention"],  # by an indexer, named differently over the releases
            "hc_count": 2,
            "hc_lowrank": 8,
            "indexer_n_heads": 2,
            "indexer_kv_heads": 1,
            "indexer_head_dim": 8,
            "indexer_budget": 32,
            "indexer_compress_ratio": 2,
        },
    ),
    "glm5_next": (
        "Glm5Next",
        {
            "layer_types": ["linear_attention", "full_attention"],  # by an indexer, named differently over the releases
            "mlp_layer_types": ["dense", "sparse"],
            "num_key_value_heads": 4,
            "n_routed_experts": 2,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
            "kv_lora_rank": 16,
            "q_lora_rank": 16,
            "v_head_dim": 8,
            "qk_nope_head_dim": 8,
            "index_topk": 64,
            "index_kpool": 2,
            "index_head_dim": 8,
            "index_n_heads": 2,
            "linear_head_dim": 8,
            "linear_num_heads": 4,
            "hc_mult": 2,
        },
    ),
    "minimax": (
        "MiniMax",
        {
            "layer_types": ["linear_attention", "full_attention"],
            "block_size": 8,
            "num_local_experts": 2,
            "num_experts_per_tok": 2,
            "head_dim": 8,
        },
    ),
    "rwkv": ("Rwkv", {"context_length": 64}),
    "xlstm": (
        "xLSTM",
        {"hidden_size": 128, "embedding_dim": 128, "num_heads": 4, "num_blocks": 2, "chunk_size": 32},
    ),
    "recurrent_gemma": (
        "RecurrentGemma",
        {"num_hidden_layers": 3, "lru_width": 32, "attention_window_size": 64, "head_dim": 8},
    ),
}

FAMILIES = {name: case for name, case in FAMILIES.items() if find_spec(f"transformers.models.{name}")}
"""Those that the installed transformers has: older ones in the supported range have fewer."""


def config(family, **options):
    """Configuration of a tiny model of the family."""
    name, own = FAMILIES[family]
    module = import_module(f"transformers.models.{family}.configuration_{family}")
    kind = getattr(module, f"{name}TextConfig", None) or getattr(module, f"{name}Config")
    text = kind(**{**SIZES, **own, **options})
    return module.Glm5NextConfig(text_config=text, vision_config=GLM_VISION) if family == "glm5_next" else text


def build(family, *, dtype=torch.float32, kind="ForCausalLM", **options):
    """A model with every parameter away from the special values of initialisation."""
    name, _ = FAMILIES[family]
    module = import_module(f"transformers.models.{family}.modeling_{family}")
    torch.manual_seed(0)
    cls = getattr(module, f"{name}{kind}", None) or module.Glm5NextForConditionalGeneration
    model = cls(config(family, **options))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model = model.to(dtype).eval()
    wide = getattr(model, "_keep_in_fp32_modules_strict", None) or ()
    for name, parameter in model.named_parameters():
        if any(part in name for part in wide):
            parameter.data = parameter.data.float()
    return model


def tokens(batch=2, length=21, seed=0):
    """Random tokens without padding."""
    return torch.randint(2, VOCAB, (batch, length), generator=torch.Generator().manual_seed(seed))


def chunks(model, ids, mask, lengths):
    """Logits of a prompt given in chunks of these lengths, through the cache of the model."""
    recurrent = model.config.model_type in ("mamba", "falcon_mamba", "mamba2", "rwkv", "xlstm")
    name = "cache_params" if recurrent else "past_key_values"
    name = "state" if model.config.model_type == "rwkv" else name
    keeps_its_own = model.config.model_type == "recurrent_gemma"  # states in the layers; the cache is not returned
    cache, found, start = DynamicCache(config=model.config) if keeps_its_own else None, [], 0
    for length in lengths:
        end = start + length
        given = {name: cache, "attention_mask": mask[:, start:end] if recurrent else mask[:, :end]}
        if not recurrent:
            given["position_ids"] = torch.arange(start, end).expand(len(ids), -1)
        if mask.all():
            del given["attention_mask"]
        out = model(ids[:, start:end], use_cache=True, **given)
        cache = getattr(out, name, None) or cache
        found.append(out.logits)
        start = end
    return torch.cat(found, 1)
