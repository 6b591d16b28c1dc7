"""Whole checkpoints of other projects: logits, gradients, padding and generated tokens; damaged and unknown files."""

import json
import pickle
import shutil
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import RwkvForCausalLM, xLSTMForCausalLM

from golden_cases import GOLDEN, assert_close, load_variant
from seqconv.hf import SeqConvConfig, SeqConvForCausalLM
from seqconv.interop import from_original, list_checkpoints, load_checkpoint
from seqconv.interop.checkpoint import convert_checkpoint
from seqconv.interop.files import Source
from seqconv.interop.importer import Weights
from seqconv.interop.tensors import read_tensors
from tolerances import assert_near

CASES = {
    "mamba_ssm, Mamba": ("scan/mamba_ssm_checkpoints", "mamba1", "ckpt_mamba1"),
    "mamba_ssm, Mamba-2": ("scan/mamba_ssm_checkpoints", "mamba2", "ckpt_mamba2"),
    "mamba_ssm, Mamba-2 with attention": ("scan/mamba_ssm_checkpoints", "mamba2attn", "ckpt_mamba2attn"),
    "transformers, Mamba": ("scan/hf_mamba", "logits", "ckpt"),
    "transformers, Mamba-2": ("scan/hf_mamba2", "logits", "ckpt"),
    "transformers, FalconMamba": ("scan/hf_falcon_mamba", "logits", "ckpt"),
    "fla, GLA": ("scan/fla_gla_checkpoint", "logits", "ckpt"),
    "transformers, RWKV-4": ("scan/hf_rwkv", "logits", "ckpt"),
    "transformers, xLSTM": ("scan/hf_xlstm", "logits", "ckpt"),
    "transformers, Bamba": ("scan/hf_bamba", "logits", "ckpt"),
    "transformers, Nemotron-H": ("scan/hf_nemotron_h", "logits", "ckpt"),
}


def read_folder(folder):
    """The configuration and the tensors of a folder."""
    source = Source(str(folder), {})
    return source.configuration(), read_tensors(source)


FLOAT32_RATES = {"transformers, Bamba": 1e-8}
"""Absolute tolerances of originals that compute rates of rotation in float32 even in a float64 model."""
UNPADDED = ("mamba_ssm", "xLSTM", "RWKV-4")
"""Originals without numbers for padded batches."""
PADDED = [name for name in CASES if not any(word in name for word in UNPADDED)]

every = pytest.mark.parametrize("name", CASES)
MAMBA = GOLDEN / "scan/hf_mamba/ckpt"


@every
def test_golden_logits_and_gradients(name):
    folder, variant, checkpoint = CASES[name]
    case = load_variant(folder, variant)
    config, tensors = read_folder(GOLDEN / folder / checkpoint)
    leaves = {k: v.double().requires_grad_() for k, v in tensors.items()}
    options, converted = convert_checkpoint(config, Weights(name, leaves))
    model = SeqConvForCausalLM(SeqConvConfig(**options)).double().eval()
    ids = case.tensors["in.input_ids"]
    logits = torch.func.functional_call(model, converted, (), {"input_ids": ids}, tie_weights=False).logits
    assert_close(logits, case.tensors["out.logits"], 1e-9, FLOAT32_RATES.get(name, 1e-10), "logits")
    (logits * case.tensors["cot.logits"]).sum().backward()
    gradients = case.group("grad.param")
    assert gradients
    largest = max(t.abs().max().item() for t in gradients.values())
    for key, want in gradients.items():
        saved = key if key in leaves else key.replace("model.", "backbone.", 1)  # Nemotron-H renames when it saves
        assert_close(leaves[saved].grad, want.double(), 1e-6, 1e-7 * largest, f"gradient of {key}")


@every
def test_golden_tokens(name):
    folder, variant, checkpoint = CASES[name]
    case = load_variant(folder, variant)
    model = load_checkpoint(GOLDEN / folder / checkpoint)
    prompt = case.tensors["gen.prompt"]
    got = model.generate(prompt, max_new_tokens=20, do_sample=False)
    assert torch.equal(got[:, prompt.shape[1] :], case.tensors["gen.tokens"])


@pytest.mark.parametrize("name", PADDED)
def test_golden_left_padding(name):
    folder, _, checkpoint = CASES[name]
    case = load_variant(folder, "left_padded")
    mask = case.tensors.get("in.attention_mask", case.tensors.get("const.attention_mask"))
    model = load_checkpoint(GOLDEN / folder / checkpoint).double()
    with torch.no_grad():
        logits = model(case.tensors["in.input_ids"], attention_mask=mask).logits
    real = mask.bool()
    assert not real.all()
    assert_close(
        logits[real], case.tensors["out.logits"][real], 1e-9, FLOAT32_RATES.get(name, 1e-10), "logits of real tokens"
    )


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (RwkvForCausalLM, {"layer_norm_epsilon": 0.1, "attention_hidden_size": 16}),
        (xLSTMForCausalLM, {"norm_eps": 0.1, "use_bias": True, "num_heads": 2, "chunk_size": 8, "qk_dim_factor": 1.0}),
    ],
)
def test_options_of_norms_reach_the_norms_that_they_reach_there(tmp_path, kind, options):
    torch.manual_seed(0)
    original = kind(kind.config_class(vocab_size=40, hidden_size=16, num_hidden_layers=2, **options)).eval()
    with torch.no_grad():
        for parameter in original.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    original.save_pretrained(tmp_path)
    ids = torch.arange(16).reshape(2, 8)
    with torch.no_grad():
        assert_near(load_checkpoint(tmp_path)(ids).logits, original(ids, use_cache=False).logits)


def test_an_imported_model_is_saved_and_loaded_as_one_of_seqconv(tmp_path):
    model = load_checkpoint(GOLDEN / "scan/fla_gla_checkpoint/ckpt")
    model.save_pretrained(tmp_path)
    again = SeqConvForCausalLM.from_pretrained(tmp_path).eval()
    ids = torch.arange(7)[None]
    with torch.no_grad():
        torch.testing.assert_close(again(ids).logits, model(ids).logits, rtol=0, atol=0)


def test_sharded_safetensors_are_read(tmp_path):
    shutil.copy(MAMBA / "config.json", tmp_path)
    tensors = load_file(MAMBA / "model.safetensors")
    names = sorted(tensors)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for shard, keys in shards.items():
        save_file({k: tensors[k] for k in keys}, tmp_path / shard)
    index = {"weight_map": {k: shard for shard, keys in shards.items() for k in keys}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    ids = torch.arange(5)[None]
    with torch.no_grad():
        assert torch.equal(load_checkpoint(tmp_path)(ids).logits, load_checkpoint(MAMBA)(ids).logits)


def test_the_kinds_of_checkpoints_are_listed():
    assert {"mamba_ssm", "mamba", "mamba2", "falcon_mamba", "gla"} <= set(list_checkpoints())


def altered(tmp_path, **changes):
    """The Mamba checkpoint with changes to its configuration."""
    shutil.copytree(MAMBA, tmp_path / "checkpoint")
    config = json.loads((MAMBA / "config.json").read_text()) | changes
    (tmp_path / "checkpoint/config.json").write_text(json.dumps(config))
    return tmp_path / "checkpoint"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mambo"}, r"kind of model 'mambo'.*did you mean 'mamba'"),
        ({"hidden_act": "relu"}, r"hidden_act='relu'.*'silu'"),
        ({"use_bias": True}, r"without 'backbone.layers.0.mixer.in_proj.bias'"),
        ({"num_hidden_layers": 1}, r"unexpected tensors backbone.layers.1.mixer.A_log.*config.json belongs"),
        ({"state_size": 5}, r"A_log of shape \(48, 4\), not \(48, 5\).*Remedy: check that config.json"),
    ],
)
def test_configurations_that_do_not_fit_raise(tmp_path, changes, message):
    with pytest.raises(ValueError, match=rf"(?s){message}"):
        load_checkpoint(altered(tmp_path, **changes))


@pytest.mark.parametrize(
    ("kind", "remedy"),
    [
        ("zamba2", r"AutoModelForCausalLM.from_pretrained, then seqconv.accelerate\(model\)"),
        ("llama", r"AutoModelForCausalLM.from_pretrained\.$"),
    ],
)
def test_what_stays_elsewhere_is_said(tmp_path, kind, remedy):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    with pytest.raises(ValueError, match=rf"model_type '{kind}'.*Remedy: .*{remedy}"):
        load_checkpoint(tmp_path)


def test_a_hybrid_gla_raises():
    config, tensors = read_folder(GOLDEN / "scan/fla_gla_checkpoint/ckpt")
    with pytest.raises(ValueError, match=r"GLA model with attention layers.*Remedy"):
        convert_checkpoint({**config, "attn": {"layers": [0]}}, Weights("gla", tensors))


def test_missing_damaged_and_unsafe_files_raise(tmp_path):
    with pytest.raises(ValueError, match=r"config.json and one of model.safetensors.*Remedy"):
        load_checkpoint(tmp_path)
    folder = altered(tmp_path)
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(ValueError, match=r"a damaged file in .*Remedy: copy or download"):
        load_checkpoint(folder)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(OrderedDict(x=print), protocol=2))
    with pytest.raises(ValueError, match=r"more than tensors.*Remedy: do not trust this file"):
        load_checkpoint(folder)


ATTENTION = {"embed_dim": 8, "num_heads": 2, "causal": True, "qkv_proj_bias": False, "out_proj_bias": False}


def test_the_attention_layer_of_a_hybrid_is_read_on_its_own():
    """Rotating only the first half of each head equals attention whose other channels do not turn."""
    torch.manual_seed(0)
    weights = {"in_proj.weight": torch.randn(24, 8), "out_proj.weight": torch.randn(8, 8)}
    mixer = from_original("state-spaces/mamba:MHA", weights, **ATTENTION, rotary_emb_dim=2)
    assert (mixer.rotary_dim, mixer.head_dim, mixer.conv1d) == (2, 4, None)
    x = torch.randn(1, 6, 8)
    q, k, v = mixer._heads(mixer.qkv_proj(x), torch.arange(6)[None])
    plain, _, _ = mixer._heads(mixer.qkv_proj(x), torch.zeros(1, 6, dtype=torch.int64))
    assert torch.equal(q[..., 2:], plain[..., 2:])
    assert not torch.equal(q[:, 1:, :, :2], plain[:, 1:, :, :2])
    want = torch.nn.functional.scaled_dot_product_attention(*(t.transpose(1, 2) for t in (q, k, v)), is_causal=True)
    torch.testing.assert_close(mixer(x), want.transpose(1, 2).flatten(2) @ weights["out_proj.weight"].T)


@pytest.mark.parametrize("option", [{"mlp_dim": 4}, {"softmax_scale": 0.5}, {"rotary_emb_interleaved": True}])
def test_attention_that_we_do_not_have_raises(option):
    with pytest.raises(ValueError, match=r"heads alone, scaled by head_dim.*Remedy"):
        from_original("state-spaces/mamba:MHA", {}, **ATTENTION, **option)


ODD = [
    {"hidden_size": "sixteen"},
    {"hidden_size": 16.5},
    {"hidden_size": None},
    {"hidden_size": 0},
    {"num_hidden_layers": -1},
    {"num_hidden_layers": True},
    {"expand": -2},
    {"state_size": [4]},
    {"use_bias": "no"},
    {"time_step_rank": "wide"},
    {"layer_norm_epsilon": "small"},
    {"eos_token_id": "</s>"},
    {"tie_word_embeddings": None},
    {"intermediate_size": 0},
]


@pytest.mark.parametrize("change", ODD)
def test_odd_configurations_are_one_clear_error(tmp_path, change):
    with pytest.raises(ValueError, match=rf"{next(iter(change))}=.*Remedy"):
        load_checkpoint(altered(tmp_path, **change))


def test_options_that_were_not_checked_raise(tmp_path):
    config, tensors = read_folder(GOLDEN / "scan/fla_gla_checkpoint/ckpt")
    for change in ({"attnres_block_size": 1}, {"hidden_act": "powlu"}, {"hidden_act": "silu"}):
        with pytest.raises(
            ValueError, match=rf"{next(iter(change))}=.*Remedy: import the gated linear attention layers"
        ):
            convert_checkpoint({**config, **change}, Weights("gla", tensors))
    config, tensors = read_folder(GOLDEN / "scan/mamba_ssm_checkpoints/ckpt_mamba1")
    with pytest.raises(ValueError, match=r"option 'n_layers' in the configuration.*did you mean 'n_layer'"):
        convert_checkpoint({**config, "n_layers": 2}, Weights("mamba_ssm", tensors))
    with pytest.raises(ValueError, match=r"ssm_cfg layer 'Mamba3'"):
        convert_checkpoint({**config, "ssm_cfg": {"layer": "Mamba3"}}, Weights("mamba_ssm", tensors))
