"""Checkpoints that do not fit, are damaged or are unsafe: errors with what to do; failed saves leave no trace."""

import json
import os
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import config, language_model, prompts
from transformers import AutoModelForCausalLM

from seqconv import SeqConvForCausalLM, SeqConvForSequenceClassification, SeqConvModel
from seqconv.hf.saving.atomic_save import written_whole


@pytest.fixture
def saved(tmp_path):
    """A folder with a small language model."""
    folder = tmp_path / "model"
    language_model(dtype=torch.float32).save_pretrained(folder)
    return folder


def rewrite(folder, change):
    """Apply ``change`` to the tensors of a checkpoint."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_missing_tensors(saved):
    rewrite(saved, lambda t: t.pop("model.backbone.blocks.1.mixer.D"))
    message = r"from_pretrained: received a checkpoint without model.backbone.blocks.1.mixer.D.*Remedy: check that"
    for load in (SeqConvForCausalLM, AutoModelForCausalLM, SeqConvForSequenceClassification):
        with pytest.raises(ValueError, match=message):
            load.from_pretrained(saved)


def test_a_missing_head_of_the_same_model(tmp_path):
    SeqConvForSequenceClassification(config()).save_pretrained(tmp_path)
    rewrite(tmp_path, lambda t: t.pop("classifier.output.weight"))
    with pytest.raises(ValueError, match=r"a checkpoint without classifier.output.weight"):
        SeqConvForSequenceClassification.from_pretrained(tmp_path)


def test_extra_tensors(saved):
    rewrite(saved, lambda t: t.update({"model.backbone.blocks.7.mixer.D": torch.zeros(3)}))
    with pytest.raises(ValueError, match=r"with the extra tensors model.backbone.blocks.7.mixer.D.*Remedy"):
        SeqConvForCausalLM.from_pretrained(saved)
    rewrite(saved, lambda t: (t.pop("model.backbone.blocks.7.mixer.D"), t.update({"head.weight": torch.zeros(3)})))
    with pytest.raises(ValueError, match=r"with the extra tensors head.weight"):
        SeqConvForCausalLM.from_pretrained(saved)


def test_wrong_shapes(saved):
    rewrite(saved, lambda t: t.update({"model.embed_tokens.weight": torch.zeros(17, 9)}))
    message = r"model.embed_tokens.weight of shape \(17, 9\), not \(17, 8\)"
    for options in ({}, {"ignore_mismatched_sizes": True}):
        with pytest.raises(ValueError, match=message):
            SeqConvForCausalLM.from_pretrained(saved, **options)


def test_a_configuration_that_does_not_belong(saved):
    read = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**read, "num_hidden_layers": 3}))
    with pytest.raises(ValueError, match=r"without model.backbone.blocks.2.*check that config.json belongs"):
        SeqConvForCausalLM.from_pretrained(saved)


def test_a_head_of_another_size_only_where_asked(tmp_path):
    SeqConvForSequenceClassification(config(num_labels=3)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"classifier.output.weight of shape \(3, 8\), not \(5, 8\)"):
        SeqConvForSequenceClassification.from_pretrained(tmp_path, num_labels=5)
    read = SeqConvForSequenceClassification.from_pretrained(tmp_path, num_labels=5, ignore_mismatched_sizes=True)
    assert read(prompts()).logits.isfinite().all()


def test_base_model_from_a_checkpoint_with_a_head(saved):
    whole, base = SeqConvForCausalLM.from_pretrained(saved), SeqConvModel.from_pretrained(saved)
    torch.testing.assert_close(base(prompts()).last_hidden_state, whole.model(prompts()).last_hidden_state)
    rewrite(saved, lambda t: t.update({"model.backbone.blocks.7.mixer.D": torch.zeros(3)}))
    with pytest.raises(ValueError, match=r"with the extra tensors .*backbone.blocks.7.mixer.D"):
        SeqConvModel.from_pretrained(saved)
    rewrite(saved, lambda t: (t.pop("model.backbone.blocks.7.mixer.D"), t.pop("model.backbone.blocks.1.mixer.D")))
    with pytest.raises(ValueError, match=r"a checkpoint without backbone.blocks.1.mixer.D"):
        SeqConvModel.from_pretrained(saved)


@pytest.mark.parametrize("kept", [0, 5, 200, 0.5, -1])
def test_truncated_file(saved, kept):
    path = saved / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole)) if isinstance(kept, float) else kept])
    with pytest.raises(ValueError, match=r"a damaged file in .*Remedy: copy or download the checkpoint again"):
        SeqConvForCausalLM.from_pretrained(saved)


def test_missing_shard(tmp_path):
    language_model(dtype=torch.float32).save_pretrained(tmp_path, max_shard_size="1KB")
    gone = sorted(tmp_path.glob("model-*.safetensors"))[1]
    gone.unlink()
    with pytest.raises(ValueError, match=rf"a missing file in .*{gone.name}.*Remedy: copy or download"):
        SeqConvForCausalLM.from_pretrained(tmp_path)


class Payload:
    """What an attacker would put into a pickle."""

    def __init__(self, proof):
        self.proof = proof

    def __reduce__(self):
        return os.mkdir, (self.proof,)


@pytest.mark.parametrize("plain", [True, False])
def test_pickled_code_never_runs(saved, tmp_path, plain):
    (saved / "model.safetensors").unlink()
    proof, path = str(tmp_path / "ran"), saved / "pytorch_model.bin"
    if plain:
        path.write_bytes(pickle.dumps({"x": Payload(proof)}, protocol=2))
    else:
        torch.save({"x": Payload(proof)}, path)
    with pytest.raises(ValueError, match=r"a pickled file .* more than tensors.*ask for the checkpoint as safetensors"):
        SeqConvForCausalLM.from_pretrained(saved)
    with pytest.raises(ValueError, match=r"weights_only=False; wanted weights_only=True"):
        SeqConvForCausalLM.from_pretrained(saved, weights_only=False)
    assert not os.path.exists(proof)


def test_a_bin_of_tensors_alone_loads(saved):
    model = SeqConvForCausalLM.from_pretrained(saved)
    (saved / "model.safetensors").unlink()
    torch.save(model.state_dict(), saved / "pytorch_model.bin")
    read = SeqConvForCausalLM.from_pretrained(saved)
    torch.testing.assert_close(read(prompts()).logits, model(prompts()).logits)


def test_a_failed_save_leaves_the_folder_as_it_was(saved, tmp_path, monkeypatch):
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    model = language_model("gla", dtype=torch.float32)

    def full(*args, **kwargs):
        (args[1] if isinstance(args[1], os.PathLike) else saved).exists()
        raise OSError("No space left on device")

    monkeypatch.setattr("transformers.modeling_utils.safe_save_file", full)
    with pytest.raises(OSError, match="No space left"):
        model.save_pretrained(saved)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
    with pytest.raises(OSError, match="No space left"):
        model.save_pretrained(tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists()


def test_an_interrupted_save_leaves_no_trace(tmp_path):
    def interrupted():
        with written_whole(tmp_path / "model") as partial:
            (partial / "model.safetensors").write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_saving_again_mixes_no_shards(tmp_path):
    sharded, small = language_model(dtype=torch.float32), language_model("gla", dtype=torch.float32)
    sharded.save_pretrained(tmp_path, max_shard_size="1KB")
    (tmp_path / "tokenizer.json").write_text("{}")
    small.save_pretrained(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "modeling_seqconv.py",
        "tokenizer.json",
    }
    torch.testing.assert_close(SeqConvForCausalLM.from_pretrained(tmp_path)(prompts()).logits, small(prompts()).logits)
    sharded.save_pretrained(tmp_path, max_shard_size="1KB")
    read = SeqConvForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(read(prompts()).logits, sharded(prompts()).logits)
