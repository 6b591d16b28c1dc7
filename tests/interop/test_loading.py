"""``from_pretrained`` and ``load_checkpoint``: folders, repositories of the hub, options, and what cannot be loaded."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import FalconMambaForCausalLM, MambaForCausalLM

from foreign_checkpoints import assert_same_function, hub_cache, saved_mamba
from golden_cases import GOLDEN
from seqconv import SeqConvForCausalLM, SeqConvForSequenceClassification, SeqConvModel, load_checkpoint

MAMBA = GOLDEN / "scan/hf_mamba/ckpt"


def test_a_repository_of_the_hub_is_read_from_the_cache(tmp_path):
    original = saved_mamba(tmp_path / "original")
    hub_cache(tmp_path / "cache", tmp_path / "original")
    options = {"cache_dir": tmp_path / "cache", "local_files_only": True}
    for load in (load_checkpoint, SeqConvForCausalLM.from_pretrained):
        model = load("org/name", **options)
        assert not model.training
        assert model.name_or_path == "org/name"
        assert_same_function(model, original)
    assert_same_function(load_checkpoint("org/name", revision="5d91e3ad" * 5, **options), original)
    model.save_pretrained(tmp_path / "own")
    hub_cache(tmp_path / "cache", tmp_path / "own", "org/own")
    assert_same_function(load_checkpoint("org/own", **options), original)


def test_shards_of_a_repository_are_read_from_the_cache(tmp_path):
    original = saved_mamba(tmp_path / "original")
    original.save_pretrained(tmp_path / "original", max_shard_size="2KB")
    hub_cache(tmp_path / "cache", tmp_path / "original")
    assert_same_function(load_checkpoint("org/name", cache_dir=tmp_path / "cache", local_files_only=True), original)


@pytest.mark.parametrize("name", ["org/name", "name", "no/such/folder", "/no/such/folder", "org/na me", "../up"])
def test_what_cannot_be_reached_is_one_clear_error(tmp_path, name):
    for load in (load_checkpoint, SeqConvForCausalLM.from_pretrained):
        with pytest.raises(ValueError, match=rf"received '{name}' \(.+\); wanted a folder, or a repository of the hub"):
            load(name, cache_dir=tmp_path, local_files_only=True)
    hub_cache(tmp_path, MAMBA)
    with pytest.raises(ValueError, match=r"'org/name' \(.+\); wanted.*Remedy: correct the name, connect"):
        load_checkpoint("org/name", cache_dir=tmp_path, local_files_only=True, revision="v2")


def test_models_that_transformers_reads_by_itself_are_named(tmp_path):
    config = {"model_type": "llama", "hidden_size": 8}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"model_type 'llama'.*load it with transformers' own AutoModelForCausal"):
        SeqConvForCausalLM.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 8}))
    with pytest.raises(ValueError, match=r"without model_type.*single layer to from_original"):
        load_checkpoint(tmp_path)


def test_every_model_class_starts_from_a_foreign_checkpoint(tmp_path):
    original = saved_mamba(tmp_path)
    classifier = SeqConvForSequenceClassification.from_pretrained(tmp_path, num_labels=5)
    ids = torch.arange(7)[None]
    assert classifier(ids, attention_mask=torch.ones_like(ids)).logits.shape == (1, 5)
    with torch.no_grad():
        hidden = SeqConvModel.from_pretrained(tmp_path)(ids).last_hidden_state
        torch.testing.assert_close(hidden, original.backbone(ids).last_hidden_state, rtol=1e-4, atol=1e-5)
    assert torch.equal(classifier.model.embed_tokens.weight, original.backbone.embeddings.weight)


def test_options_of_from_pretrained_reach_a_foreign_checkpoint(tmp_path):
    saved_mamba(tmp_path, eos_token_id=[3, 4])
    model = load_checkpoint(tmp_path, dtype=torch.bfloat16, initializer_range=0.5, use_cache=False)
    assert model.model.embed_tokens.weight.dtype == torch.bfloat16
    assert (model.config.initializer_range, model.config.use_cache) == (0.5, False)
    assert model.config.eos_token_id == [3, 4]
    model, info = SeqConvForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    with pytest.raises(ValueError, match=r"option 'initializer_rnge'.*did you mean 'initializer_range'"):
        load_checkpoint(tmp_path, initializer_rnge=0.5)


def test_half_precision_weights_stay_so(tmp_path):
    saved_mamba(tmp_path).to(torch.bfloat16).save_pretrained(tmp_path)
    model = load_checkpoint(tmp_path)
    assert model.model.embed_tokens.weight.dtype == torch.bfloat16
    assert model.dtype == torch.bfloat16


def test_the_generation_configuration_is_kept(tmp_path):
    original = saved_mamba(tmp_path)
    original.generation_config.update(repetition_penalty=1.5, max_new_tokens=9, eos_token_id=[3, 4])
    original.save_pretrained(tmp_path)
    kept = load_checkpoint(tmp_path).generation_config
    assert (kept.repetition_penalty, kept.max_new_tokens, kept.eos_token_id) == (1.5, 9, [3, 4])
    (tmp_path / "generation_config.json").write_text('{"max_new_tokens": ')
    with pytest.raises(ValueError, match=r"damaged file generation_config.json.*Remedy"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("kind", "size"), [(MambaForCausalLM, 48), (MambaForCausalLM, 37), (FalconMambaForCausalLM, 64)]
)
def test_a_free_intermediate_size(tmp_path, kind, size):
    """Falcon-Mamba's own checkpoints give it next to another ``expand``."""
    original = saved_mamba(tmp_path, kind, expand=16, intermediate_size=size)
    assert original.backbone.layers[0].mixer.intermediate_size == size
    assert_same_function(load_checkpoint(tmp_path), original)


def test_an_old_name_of_the_embeddings_and_old_configurations(tmp_path):
    """The first releases of Mamba's checkpoints leave most options to their defaults."""
    original = saved_mamba(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["backbone.embedding.weight"] = tensors.pop("backbone.embeddings.weight")
    save_file(tensors, tmp_path / "model.safetensors")
    kept = ("model_type", "hidden_size", "num_hidden_layers", "state_size", "time_step_rank")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({name: config[name] for name in kept}))
    assert_same_function(load_checkpoint(tmp_path), original)


def test_a_vocabulary_of_another_size_only_where_asked(tmp_path):
    original = saved_mamba(tmp_path)
    original.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"embed_tokens.weight of shape \(40, 16\), not \(50, 16\)"):
        load_checkpoint(tmp_path, vocab_size=50)
    model = load_checkpoint(tmp_path, vocab_size=50, ignore_mismatched_sizes=True)
    assert model(torch.tensor([[45]])).logits.shape == (1, 1, 50)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.model.embed_tokens.weight.std() < 0.1
    with pytest.raises(ValueError, match=r"mixer.D of shape \(32,\), not \(16,\)"):
        load_checkpoint(tmp_path, hidden_size=8, ignore_mismatched_sizes=True)
