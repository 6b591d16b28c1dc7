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
