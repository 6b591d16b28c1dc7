"""Hybrids of transformers as whole checkpoints: logits and gradients in float64, padding, tokens, a second turn."""

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BambaForCausalLM,
    FalconH1ForCausalLM,
    GraniteMoeHybridForCausalLM,
    JambaForCausalLM,
    KimiLinearForCausalLM,
    Lfm2MoeForCausalLM,
    MiniMaxForCausalLM,
    NemotronHForCausalLM,
    Qwen3_5Config,
    Qwen3_5ForCausalLM,
    Qwen3_5ForConditionalGeneration,
    Qwen3_5MoeForCausalLM,
    Qwen3NextForCausalLM,
)

from foreign_models import HEADS, SIZES, TOKENS, in_float64, saved_gradients, small_model
from golden_cases import GOLDEN, assert_close, load_variant
from seqconv.hf import SeqConvConfig, SeqConvForCausalLM
from seqconv.interop import load_checkpoint
from seqconv.interop.checkpoint import convert_checkpoint
from seqconv.interop.files import Source
from seqconv.interop.importer import Weights
from seqconv.interop.tensors import read_tensors
from tolerances import assert_near

FLOAT32_RATES = 3e-6
"""Originals compute the rates of their rotation in float32 when they are built."""
MAMBA2 = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 2, "mamba_d_state": 6, "mamba_chunk_size": 8}
DELTA = {
    "head_dim": 8, "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}  # fmt: skip
QWEN_MOE = DELTA | {"moe_intermediate_size": 16, "shared_expert_intermediate_size": 12, "num_experts": 4}
QWEN_MOE |= {"num_experts_per_tok": 2}
GRANITE = MAMBA2 | {
    "layer_types": ["linear_attention", "full_attention"] * 2, "shared_intermediate_size": 20,
    "embedding_multiplier": 3.0, "logits_scaling": 2.0, "residual_multiplier": 0.5, "attention_multiplier": 0.3,
}  # fmt: skip
NEMOTRON = {
    "num_hidden_layers": None, "layers_block_type": ["linear_attention", "moe", "full_attention", "mlp"],
    "head_dim": 8, "mamba_num_heads": 6, "mamba_head_dim": 8, "n_groups": 2, "ssm_state_size": 6, "chunk_size": 8,
    "n_routed_experts": 6, "moe_intermediate_size": 16, "moe_shared_expert_intermediate_size": 20,
}  # fmt: skip
FALCON = MAMBA2 | {
    "mamba_d_ssm": 64, "lm_head_multiplier": 0.5, "embedding_multiplier": 3.0, "mlp_multipliers": [0.8, 0.4],
    "key_multiplier": 0.6, "attention_in_multiplier": 1.3, "attention_out_multiplier": 0.9, "ssm_in_multiplier": 1.2,
    "ssm_multipliers": [0.9, 0.8, 1.1, 1.2, 0.7], "ssm_out_multiplier": 0.8,
}  # fmt: skip
KIMI = {
    "layer_types": ["linear_attention", "full_attention"] * 2, "kv_lora_rank": 12, "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 6, "v_head_dim": 5, "num_key_value_heads": 4, "linear_head_dim": 8, "linear_num_heads": 4,
    "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
}  # fmt: skip
CASES = {
    "Qwen3-Next": (Qwen3NextForCausalLM, QWEN_MOE | {"mlp_only_layers": [1], "norm_topk_prob": False}),
    "Qwen3-Next with biases": (Qwen3NextForCausalLM, QWEN_MOE | {"attention_bias": True, "decoder_sparse_step": 2}),
    "Qwen3.5": (Qwen3_5ForCausalLM, DELTA),
    "Qwen3.5-MoE": (Qwen3_5MoeForCausalLM, QWEN_MOE),
    "LFM2-MoE": (
        Lfm2MoeForCausalLM,
        {"layer_types": ["conv", "full_attention"] * 2, "num_dense_layers": 1, "num_experts": 4}
        | {"num_experts_per_tok": 2, "moe_intermediate_size": 16, "routed_scaling_factor": 1.5},
    ),
    "Bamba": (BambaForCausalLM, MAMBA2 | {"attn_layer_indices": [1], "attention_bias": True, "mlp_bias": True}),
    "Granite": (GraniteMoeHybridForCausalLM, GRANITE | {"num_local_experts": 0, "tie_word_embeddings": True}),
    "Granite with experts": (
        GraniteMoeHybridForCausalLM,
        GRANITE | {"num_local_experts": 4, "position_embedding_type": "rope", "attention_bias": True},
    ),
    "Falcon-H1": (FalconH1ForCausalLM, FALCON),
    "Falcon-H1 with biases": (
        FalconH1ForCausalLM,
        FALCON
        | {"mamba_rms_norm": True, "mamba_norm_before_gate": False, "mamba_proj_bias": True}
        | {"projectors_bias": True, "attention_bias": True, "mlp_bias": True, "ssm_multipliers": None},
    ),
    "Kimi Linear": (KimiLinearForCausalLM, KIMI),
    "Kimi Linear with a bottleneck": (
        KimiLinearForCausalLM,
        KIMI | {"q_lora_rank": 10, "attention_bias": True, "n_group": 2, "norm_topk_prob": False},
    ),
    "MiniMax": (
        MiniMaxForCausalLM,
        {"layer_types": ["linear_attention", "full_attention"] * 2, "num_local_experts": 4, "head_dim": 8}
        | {"full_attn_alpha_factor": 3.5, "full_attn_beta_factor": 0.7, "linear_attn_alpha_factor": 2.5}
        | {"linear_attn_beta_factor": 1.5, "mlp_alpha_factor": 0.5, "mlp_beta_factor": 2.0, "block_size": 8},
    ),
    "Nemotron-H": (NemotronHForCausalLM, NEMOTRON | {"routed_scaling_factor": 2.5, "time_step_min": 0.2}),
    "Nemotron-H, groups": (
        NemotronHForCausalLM,
        NEMOTRON | {"n_group": 3, "topk_group": 2, "moe_latent_size": 12, "use_bias": True, "norm_topk_prob": False},
    ),
    "Jamba": (
        JambaForCausalLM,
        {"attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 4, "mamba_d_state": 4, "mamba_dt_rank": 3}
        | {"expert_layer_period": 3, "expert_layer_offset": 0, "mamba_proj_bias": True},
    ),
}
every = pytest.mark.parametrize("name", CASES)


def prompts(rows=2, length=13):
    return torch.randint(1, 60, (rows, length), generator=torch.Generator().manual_seed(3))


@every
def test_logits_and_gradients(tmp_path, monkeypatch, name):
    kind, options = CASES[name]
    original, ids = small_model(kind, tmp_path / "model", **options), prompts()
    want = in_float64(monkeypatch, original)(ids)
    source = Source(str(tmp_path / "model"), {})
    leaves = {k: v.double().requires_grad_() for k, v in read_tensors(source).items()}
    configuration, weights = convert_checkpoint(source.configuration(), Weights(name, leaves))
    model = SeqConvForCausalLM(SeqConvConfig(**configuration)).double().eval()
    assert set(weights) == set(model.state_dict())
    logits = torch.func.functional_call(model, weights, (), {"input_ids": ids}, tie_weights=False).logits
    assert_close(logits, want, 0, FLOAT32_RATES, "logits")
    cotangent = torch.randn(want.shape, dtype=want.dtype, generator=torch.Generator().manual_seed(1))
    (logits * cotangent).sum().backward()
    (want * cotangent).sum().backward()
    gradients = saved_gradients(original, tmp_path / "gradients")
    largest = max(t.abs().max().item() for t in gradients.values())
    for key, leaf in leaves.items():
        if leaf.grad is not None:
            assert_close(leaf.grad, gradients[key], 0, FLOAT32_RATES * largest, f"gradient of {key}")


@every
def test_padding_tokens_and_a_second_turn(tmp_path, monkeypatch, name):
    kind, options = CASES[name]
    original, ids = small_model(kind, tmp_path, **options), prompts()
    model, asked = load_checkpoint(tmp_path), {"max_new_tokens": 8, "do_sample": False}
    assert torch.equal(model.generate(ids, **asked), original.generate(ids, **asked))
    model.save_pretrained(tmp_path / "saved")
    saved = SeqConvForCausalLM.from_pretrained(tmp_path / "saved").state_dict()
    assert all(torch.equal(saved[name], tensor) for name, tensor in model.state_dict().items())
    model, reference, mask = model.double(), in_float64(monkeypatch, original), torch.ones_like(ids)
    mask[0, :4] = 0
    with torch.no_grad():
        padded = model(ids, attention_mask=mask, use_cache=True)
        assert_close(padded.logits[1], reference(ids)[1], 0, FLOAT32_RATES, "a row without padding")
        assert_close(padded.logits[0, 4:], reference(ids[:1, 4:])[0], 0, FLOAT32_RATES, "real tokens of the other")
        more = prompts(length=7)
        mask = torch.cat([mask, torch.ones_like(more)], 1)
        second = model(more, attention_mask=mask, past_key_values=padded.past_key_values).logits
        assert_close(second[1], reference(torch.cat([ids, more], 1))[1, -7:], 0, FLOAT32_RATES, "the second turn")
        alone = reference(torch.cat([ids[:1, 4:], more[:1]], 1))[0, -7:]
        assert_close(second[0], alone, 0, FLOAT32_RATES, "the second turn after padding")


def test_the_language_model_of_a_model_of_images_and_text(tmp_path):
    text, sizes = {**SIZES, **HEADS, **TOKENS, **DELTA}, {"hidden_size": 16, "num_heads": 2, "depth": 1}
    vision = sizes | {"intermediate_size": 16, "out_hidden_size": 32, "patch_size": 4, "num_position_embeddings": 16}
    torch.manual_seed(0)
    config = Qwen3_5Config(text_config=text, vision_config=vision)
    original, ids = Qwen3_5ForConditionalGeneration(config).eval(), prompts()
    original.save_pretrained(tmp_path)
    with torch.no_grad():
        assert_near(load_checkpoint(tmp_path)(ids).logits, original(ids).logits)


@pytest.mark.parametrize("folder", ["hf_jamba", "hf_qwen3_next"])
def test_golden_checkpoints_of_float32(monkeypatch, folder):
    """Their numbers were computed in float32: tokens are held to them, logits to the original in float64."""
    case = load_variant(f"scan/{folder}", "logits")
    path = GOLDEN / "scan" / folder / "ckpt"
    model, prompt, ids = load_checkpoint(path), case.tensors["gen.prompt"], case.tensors["in.input_ids"]
    got = model.generate(prompt, max_new_tokens=20, do_sample=False)
    assert torch.equal(got[:, prompt.shape[1] :], case.tensors["gen.tokens"])
    original = in_float64(monkeypatch, AutoModelForCausalLM.from_pretrained(path).eval())
    with torch.no_grad():
        assert_near(model.double()(ids).logits, original(ids))
