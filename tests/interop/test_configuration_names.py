"""Names in other projects' configurations: unknown ones raise, those that the original's own class writes load."""

import dataclasses
import json

import pytest
import transformers

from golden_cases import GOLDEN
from seqconv.interop import load_checkpoint
from seqconv.interop.checkpoint import convert_checkpoint
from seqconv.interop.configurations import (
    FalconMambaConfiguration,
    GLAConfiguration,
    Mamba2Configuration,
    MambaConfiguration,
    XLSTMConfiguration,
    read_configuration,
)
from seqconv.interop.hybrids.bamba import BambaConfiguration, GraniteConfiguration
from seqconv.interop.hybrids.falcon_h1 import FalconH1Configuration
from seqconv.interop.hybrids.jamba import JambaConfiguration
from seqconv.interop.hybrids.kimi_linear import RENAMED, KimiLinearConfiguration
from seqconv.interop.hybrids.lfm2 import Lfm2Configuration, Lfm2MoeConfiguration
from seqconv.interop.hybrids.minimax import MiniMaxConfiguration
from seqconv.interop.hybrids.nemotron_h import NemotronHConfiguration
from seqconv.interop.hybrids.qwen import Qwen35Configuration, Qwen35MoeConfiguration, QwenConfiguration
from seqconv.interop.hybrids.recurrent_gemma import RecurrentGemmaConfiguration
from seqconv.interop.importer import Weights
from seqconv.interop.linear_attention.rwkv4 import RwkvConfiguration
from seqconv.interop.linear_attention.rwkv_models import RWKV6Configuration, RWKV7Configuration

CLASSES = {
    "MambaConfig": MambaConfiguration,
    "FalconMambaConfig": FalconMambaConfiguration,
    "Mamba2Config": Mamba2Configuration,
    "xLSTMConfig": XLSTMConfiguration,
    "RwkvConfig": RwkvConfiguration,
    "Qwen3NextConfig": QwenConfiguration,
    "Qwen3_5TextConfig": Qwen35Configuration,
    "Qwen3_5MoeTextConfig": Qwen35MoeConfiguration,
    "BambaConfig": BambaConfiguration,
    "GraniteMoeHybridConfig": GraniteConfiguration,
    "RecurrentGemmaConfig": RecurrentGemmaConfiguration,
    "MiniMaxConfig": MiniMaxConfiguration,
    "NemotronHConfig": NemotronHConfiguration,
    "JambaConfig": JambaConfiguration,
    "KimiLinearConfig": KimiLinearConfiguration,
    "Lfm2Config": Lfm2Configuration,
    "Lfm2MoeConfig": Lfm2MoeConfiguration,
    "FalconH1Config": FalconH1Configuration,
}
MAMBA = GOLDEN / "scan/hf_mamba/ckpt"


def written(name):
    """A configuration of transformers with its defaults, under the names that the reader gets."""
    config = getattr(transformers, name)().to_dict()
    renamed = RENAMED if name == "KimiLinearConfig" else {}
    return {renamed.get(key, key): list(v) if isinstance(v, tuple) else v for key, v in config.items()}


@pytest.mark.parametrize(("name", "kind"), CLASSES.items(), ids=CLASSES)
def test_defaults_of_transformers_are_those_of_the_reader(name, kind):
    """But for what the original's class derives from other options when it is built."""
    config, default = written(name), kind()
    read = read_configuration(kind, config)
    for field in dataclasses.fields(kind):
        value = getattr(default, field.name)
        if field.name in config and value is not None and value != "auto":
            assert getattr(read, field.name) == value, field.name


@pytest.mark.parametrize("kind", [*CLASSES.values(), GLAConfiguration, RWKV6Configuration, RWKV7Configuration])
def test_a_name_that_is_not_known_raises(kind):
    for name in ("hidden_sise", "a_new_option"):
        with pytest.raises(ValueError, match=rf"'{name}' in the configuration.*Remedy: .*ignored_options=\['{name}'\]"):
            read_configuration(kind, {name: 1})
    with pytest.raises(ValueError, match=r"did you mean '.*hidden_size'"):
        read_configuration(kind, {"hidden_sise": 1})


PUBLISHED = {
    "LFM2-1.2B": (Lfm2Configuration, {
        "block_auto_adjust_ff_dim": True, "block_dim": 2048, "block_ff_dim": 12288, "block_ffn_dim_multiplier": 1.0,
        "block_mlp_init_scale": 1.0, "block_multiple_of": 256, "block_norm_eps": 1e-5, "block_out_init_scale": 1.0,
        "block_use_swiglu": True, "block_use_xavier_init": True, "conv_L_cache": 3, "conv_bias": False,
        "conv_dim": 2048, "conv_dim_out": 2048, "conv_use_xavier_init": True, "intermediate_size": 8192,
        "full_attn_idxs": [2, 5], "head_dim": 64, "num_heads": 32, "rope_theta": 1e6, "torch_dtype": "bfloat16",
        "use_cache": True, "use_pos_enc": True, "architectures": ["Lfm2ForCausalLM"], "vocab_size": 65536,
    }),
    "Kimi-Linear-48B-A3B": (KimiLinearConfiguration, {
        "head_dim": 72, "mla_use_nope": True, "rope_theta": 10000.0, "num_shared_experts": 1, "moe_layer_freq": 1,
        "moe_intermediate_size": 1024, "moe_router_activation_func": "sigmoid", "use_grouped_topk": True,
        "num_nextn_predict_layers": 0, "first_k_dense_replace": 1, "q_lora_rank": None,
        "linear_attn_config": {"head_dim": 128, "num_heads": 32, "short_conv_kernel_size": 4, "kda_layers": [1, 2, 3],
                               "full_attn_layers": [4]},
    }),
    "Qwen3.5, language model": (Qwen35Configuration, {
        "attn_output_gate": True, "full_attention_interval": 4, "mamba_ssm_dtype": "float32", "dtype": "bfloat16",
        "mtp_num_hidden_layers": 1, "mtp_use_dedicated_embeddings": False, "output_gate_type": "swish",
        "partial_rotary_factor": 0.25, "model_type": "qwen3_5_text", "max_position_embeddings": 262144,
    }),
    "MiniMax-Text-01": (MiniMaxConfiguration, {
        "postnorm": True, "shared_intermediate_size": 0, "shared_moe_mode": "sigmoid", "sliding_window": None,
        "rotary_dim": 64, "rope_theta": 10000000, "head_dim": 128,
    }),
}  # fmt: skip
"""Names in published files that transformers' own class does not write."""


@pytest.mark.parametrize(("kind", "config"), PUBLISHED.values(), ids=PUBLISHED)
def test_names_of_published_files_are_known(kind, config):
    read_configuration(kind, config)


@pytest.mark.parametrize(
    ("kind", "option", "allowed"),
    [
        (MambaConfiguration, {"rms_norm": False}, {"rms_norm": True}),
        (QwenConfiguration, {"use_sliding_window": True}, {"use_sliding_window": False}),
        (KimiLinearConfiguration, {"mla_use_nope": False}, {"mla_use_nope": True}),
        (MiniMaxConfiguration, {"postnorm": False}, {"postnorm": True}),
        (JambaConfiguration, {"pruned_heads": {"0": [1]}}, {"pruned_heads": {}}),
    ],
)
def test_options_with_one_supported_value(kind, option, allowed):
    read_configuration(kind, allowed)
    with pytest.raises(ValueError, match=rf"{next(iter(option))}=.*not supported"):
        read_configuration(kind, option)


def test_the_caller_may_ignore_a_name(tmp_path):
    config = json.loads((MAMBA / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"a_new_option": 1}))
    (tmp_path / "model.safetensors").write_bytes((MAMBA / "model.safetensors").read_bytes())
    with pytest.raises(ValueError, match="'a_new_option'"):
        load_checkpoint(tmp_path)
    assert load_checkpoint(tmp_path, ignored_options=["a_new_option"]).config.hidden_size == config["hidden_size"]
    with pytest.raises(ValueError, match=r"ignored_options with 'another'.*Remedy"):
        load_checkpoint(tmp_path, ignored_options=["a_new_option", "another"])


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("minimax", {"rotary_dim": 4}, r"rotary_dim=4.*ignored_options=\['rotary_dim'\]"),
        ("minimax", {"rope_parameters": {"attention_factor": 2}}, "option of rope_parameters 'attention_factor'"),
        ("kimi_linear", {"linear_attn_config": {"gate_lower_bound": -5.0}}, "linear_attn_config 'gate_lower_bound'"),
        ("recurrent_gemma", {"head_dim": 4}, "head_dim=4.*256"),
    ],
)
def test_nested_and_derived_names_raise(kind, change, message):
    with pytest.raises(ValueError, match=rf"(?s){message}"):
        convert_checkpoint({"model_type": kind, **change}, Weights(kind, {}))
