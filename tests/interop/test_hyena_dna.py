"""A tiny HyenaDNA made with the original's own code: logits and greedy tokens."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from golden_cases import GOLDEN, assert_close
from seqconv.interop import load_checkpoint

FOLDER = GOLDEN / "hyenadna_checkpoint"


def test_logits_and_greedy_tokens_of_the_original():
    want = load_file(FOLDER / "expected.safetensors")
    model = load_checkpoint(FOLDER)
    assert model.dtype == torch.float64
    ids = want["in.ids"]
    assert_close(model(ids).logits, want["out.logits"], 1e-9, 1e-10, "logits")
    tokens = model.generate(ids[:, :5], max_new_tokens=6, do_sample=False, eos_token_id=None)
    assert torch.equal(tokens, want["out.greedy"])


@pytest.mark.parametrize("prefix", ["", "model."])
@pytest.mark.parametrize("recomputed", [False, True])
def test_names_of_the_training_code(tmp_path, prefix, recomputed):
    tensors = load_file(FOLDER / "model.safetensors")
    if recomputed:
        renamed = {k.replace(".mixer.", ".mixer.layer.").replace(".mlp.", ".mlp.layer."): v for k, v in tensors.items()}
        tensors = renamed
    save_file({prefix + k: v for k, v in tensors.items()}, tmp_path / "model.safetensors")
    config = json.loads((FOLDER / "config.json").read_text())
    config |= {"checkpoint_mixer": recomputed, "checkpoint_mlp": recomputed}
    (tmp_path / "config.json").write_text(json.dumps(config))
    want = load_file(FOLDER / "expected.safetensors")
    assert_close(load_checkpoint(tmp_path)(want["in.ids"]).logits, want["out.logits"], 1e-9, 1e-10)


def test_options_that_cannot_be_carried_raise(tmp_path):
    shutil.copy(FOLDER / "model.safetensors", tmp_path)
    config = json.loads((FOLDER / "config.json").read_text())
    for change, message in (
        ({"attn_layer_idx": [1]}, "Hyena layers alone"),
        ({"d_inr": 3}, "did you mean 'd_inner'"),
        ({"layer": config["layer"] | {"num_heads": 2}}, "the original fails"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(ValueError, match=message):
            load_checkpoint(tmp_path)


def hub_folder(tmp_path, **changes):
    """The same model as ``HyenaDNAForCausalLM`` of the hub stores it: frequencies once, the head next to the table."""
    layer = json.loads((FOLDER / "config.json").read_text())["layer"]
    config = {"model_type": "hyenadna", "architectures": ["HyenaDNAForCausalLM"], "d_model": 6, "d_inner": 24}
    config |= {"n_layer": 2, "max_seq_len": layer["l_max"], "activation_freq": layer["w"], "tie_word_embeddings": False}
    config |= {name: layer[name] for name in ("emb_dim", "filter_order", "short_filter_order")}
    config |= {"vocab_size": 12, "use_bias": True, "embed_dropout": 0.1, "torch_dtype": "float32", **changes}
    tensors = {f"hyena.{name}": t for name, t in load_file(FOLDER / "model.safetensors").items()}
    kept = {name: t for name, t in tensors.items() if not name.endswith((".1.freq", ".5.freq"))}
    kept["lm_head.weight"] = tensors["hyena.backbone.embeddings.word_embeddings.weight"].clone()
    save_file(kept, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


def test_the_layout_of_the_hub(tmp_path):
    want = load_file(FOLDER / "expected.safetensors")
    model = load_checkpoint(hub_folder(tmp_path))
    assert_close(model(want["in.ids"]).logits, want["out.logits"], 1e-9, 1e-10)
    assert not model.config.tie_word_embeddings
    assert (model.config.pad_token_id, model.config.vocab_size) == (4, 16)


def test_the_last_norm_of_the_hub_has_an_epsilon_of_its_own(tmp_path):
    norms = load_checkpoint(hub_folder(tmp_path, layer_norm_epsilon=1e-3)).model.backbone
    assert (norms.norm.eps, norms.blocks[0].mixer_norm.eps) == (1e-3, 1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hyena_order": 3}, "hyena_order=3"),
        ({"short_filter_order": 4}, "short_filter_order=4"),
        ({"train_freq": False}, "train_freq=False"),
        ({"bidirectional": True}, "bidirectional=True"),
        ({"hyena_oder": 2}, "did you mean 'hyena_order'"),
    ],
)
def test_options_of_the_hub_that_cannot_be_carried_raise(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        load_checkpoint(hub_folder(tmp_path, **change))
