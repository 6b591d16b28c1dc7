"""Files of checkpoints: pickled, sharded, wrapped, damaged, or made by an attacker."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from foreign_checkpoints import assert_same_function, saved_mamba, write_bins
from seqconv import SeqConvConfig, SeqConvForCausalLM, SeqConvForSequenceClassification, load_checkpoint


@pytest.mark.parametrize("shards", [1, 3])
def test_pickled_weights_are_read(tmp_path, shards):
    original = saved_mamba(tmp_path)
    write_bins(tmp_path, original.state_dict(), shards)
    assert_same_function(load_checkpoint(tmp_path), original)
    with pytest.raises(ValueError, match=r"one of model.safetensors, model.safetensors.index.json\. Remedy"):
        load_checkpoint(tmp_path, use_safetensors=True)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_names_of_wrapped_models_are_read(tmp_path, prefix):
    original = saved_mamba(tmp_path)
    write_bins(tmp_path, {prefix + name: t for name, t in original.state_dict().items()}, 1)
    assert_same_function(load_checkpoint(tmp_path), original)


def test_names_of_wrapped_layers_are_read(tmp_path):
    original = saved_mamba(tmp_path)
    tensors = {n.replace("layers.0.", "layers.0._orig_mod."): t for n, t in original.state_dict().items()}
    write_bins(tmp_path, tensors, 1)
    assert_same_function(load_checkpoint(tmp_path), original)


def test_a_variant_of_the_weights_is_read(tmp_path):
    original = saved_mamba(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "model.fp16.safetensors")
    assert_same_function(load_checkpoint(tmp_path, variant="fp16"), original)


OUTSIDE = [
    "../private/model.safetensors",
    "{}/model.safetensors",
    "a/../../private/model.safetensors",
    r"..\x",
    r"C:\x",
    "",
]


@pytest.mark.parametrize("shard", OUTSIDE)
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("extension", ["safetensors", "bin"])
def test_an_index_that_points_out_of_the_folder_is_an_attack(tmp_path, shard, own, extension):
    original = saved_mamba(tmp_path / "private")
    if own:
        load_checkpoint(tmp_path / "private").save_pretrained(tmp_path / "private")
    (tmp_path / "public").mkdir()
    shutil.copy(tmp_path / "private/config.json", tmp_path / "public")
    names = dict.fromkeys(original.state_dict(), shard.format(tmp_path / "private"))
    stem = "model" if extension == "safetensors" else "pytorch_model"
    index = tmp_path / f"public/{stem}.{extension}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": names}))
    with pytest.raises(ValueError, match=r"wanted files of the checkpoint's own folder.*do not trust"):
        load_checkpoint(tmp_path / "public")


def own(folder):
    """A saved model of seqconv, and what it gives for :data:`IDS`."""
    torch.manual_seed(0)
    model = SeqConvForCausalLM(SeqConvConfig(vocab_size=17, hidden_size=8, num_hidden_layers=2, mixer="mamba")).eval()
    model.save_pretrained(folder)
    return model(IDS).logits


IDS = torch.arange(6)[None]
WRAPPED = ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."]


@pytest.mark.parametrize("prefix", WRAPPED)
@pytest.mark.parametrize("shards", [0, 1, 2])
def test_own_checkpoints_of_wrapped_models_are_read(tmp_path, prefix, shards):
    want = own(tmp_path)
    tensors = {prefix + name: t for name, t in load_file(tmp_path / "model.safetensors").items()}
    if shards:
        write_bins(tmp_path, tensors, shards)
    else:
        save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "generation_config.json").write_text('{"max_new_tokens": 7}')
    model = SeqConvForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(model(IDS).logits, want)
    assert model.generation_config.max_new_tokens == 7
    model.save_pretrained(tmp_path / "again")
    assert all(name.startswith("model.") for name in load_file(tmp_path / "again/model.safetensors"))
    classifier = SeqConvForSequenceClassification.from_pretrained(tmp_path, num_labels=5)
    assert torch.equal(classifier.model.embed_tokens.weight, model.model.embed_tokens.weight)


def altered(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


ODD_OWN = [
    ({"num_hidden_layers": 10**12}, r"without model.backbone.blocks.2 for num_hidden_layers=10+"),
    ({"hidden_size": 10**12}, r"embed_tokens.weight of shape \(17, 8\), not \(17, 10+\)"),
    ({"dtype": "float99"}, "dtype='float99' in config.json"),
    ({"architectures": 3}, "architectures=3 in config.json"),
    ({"id2label": 3}, "id2label=3 in config.json"),
    ({"num_labels": "x"}, "num_labels='x' in config.json"),
    ({"eos_token_id": "x"}, "eos_token_id='x'; wanted a token id"),
    ({"mlp": 3}, "mlp=3; wanted a name"),
]


@pytest.mark.parametrize(("changes", "message"), ODD_OWN, ids=[str(changes) for changes, _ in ODD_OWN])
def test_odd_configurations_of_own_checkpoints_raise_before_anything_is_built(tmp_path, changes, message):
    own(tmp_path)
    altered(tmp_path, **changes)
    with pytest.raises(ValueError, match=rf"{message}.*Remedy"):
        SeqConvForCausalLM.from_pretrained(tmp_path)


OWN_DAMAGE = {
    "model.safetensors": [b"", b"version https://git-lfs.github.com/spec/v1"],
    "pytorch_model.bin": [b"", b"\x80\x02.", b"<!DOCTYPE html>", b"\x80\x02}q\x00."],
    "generation_config.json": [b"", b"[]", b"\xff", b'{"max_new_tokens": "x"}'],
    "model.safetensors.index.json": [
        b"",
        b'{"weight_map": {"x": "model.safetensors"}}',
        b'{"metadata": {}, "weight_map": {}}',
        b'{"metadata": {}, "weight_map": {"x": "a\\u0000b"}}',
        json.dumps({"metadata": {}, "weight_map": {"x": "a" * 5000}}).encode(),
    ],
}


@pytest.mark.parametrize(("name", "content"), [(n, c) for n, contents in OWN_DAMAGE.items() for c in contents])
def test_damaged_files_of_own_checkpoints_are_one_clear_error(tmp_path, name, content):
    own(tmp_path)
    if name in ("pytorch_model.bin", "model.safetensors.index.json"):
        (tmp_path / "model.safetensors").unlink()
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=r"received .*Remedy: (copy or download|do not trust)"):
        SeqConvForCausalLM.from_pretrained(tmp_path)


def test_own_folders_without_weights_raise(tmp_path):
    own(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"without weights; wanted a folder with config.json and one of"):
        SeqConvForCausalLM.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").symlink_to("model.safetensors")
    with pytest.raises(ValueError, match="without weights"):
        SeqConvForCausalLM.from_pretrained(tmp_path)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float8_e4m3fn])
@pytest.mark.parametrize("foreign", [False, True])
def test_numbers_that_would_be_cast_silently_raise(tmp_path, dtype, foreign):
    saved_mamba(tmp_path) if foreign else own(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    name = next(name for name in tensors if name.endswith("A_log"))
    save_file({**tensors, name: tensors[name].to(dtype)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"A_log of dtype .*wanted floating-point numbers of at least 16 bits"):
        SeqConvForCausalLM.from_pretrained(tmp_path)


def test_embeddings_of_another_vocabulary(tmp_path):
    saved_mamba(tmp_path)
    rows = json.loads((tmp_path / "config.json").read_text())["vocab_size"]
    altered(tmp_path, vocab_size=rows + 5)
    with pytest.raises(ValueError, match=rf"embeddings of shape \({rows}, \d+\) for vocab_size={rows + 5}.*ignore_mis"):
        load_checkpoint(tmp_path)
    model = load_checkpoint(tmp_path, ignore_mismatched_sizes=True)
    assert model.model.embed_tokens.weight.shape[0] == rows + 5
    assert model(IDS).logits.isfinite().all()
    altered(tmp_path, vocab_size="x")
    with pytest.raises(ValueError, match="vocab_size='x'; wanted an integer of at least 1"):
        load_checkpoint(tmp_path)
    altered(tmp_path, vocab_size=rows, hidden_size=10**12, intermediate_size=16)
    with pytest.raises(ValueError, match=r"received .*Remedy"):
        load_checkpoint(tmp_path)


def broken(content):
    """A safetensors file with a header of the caller's."""
    header = content if isinstance(content, bytes) else json.dumps(content).encode()
    return len(header).to_bytes(8, "little") + header + bytes(16)


DAMAGED = {
    "model.safetensors": [
        b"",
        b"\0" * 8,
        b"\xff" * 64,
        broken(b"{"),
        broken([1]),
        broken({"x": {"dtype": "F9", "shape": [1], "data_offsets": [0, 4]}}),
        broken({"x": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}),
        broken({"x": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}),
        broken({"x": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}),
        broken({"x": 3}),
    ],
    "config.json": [b"", b"[]", b"3", b"null", b"{", b"\xff\xfe", b'{"a": 1', b"[" * 100_000],
    "model.safetensors.index.json": [
        b"",
        b"[]",
        b"{}",
        b'{"weight_map": 3}',
        b'{"weight_map": {"x": 3}}',
        b'{"weight_map": ["x"]}',
        b'{"weight_map": {"x": "gone.safetensors"}}',
        b'{"weight_map": {"x": "config.json"}}',
    ],
    "pytorch_model.bin": [b"", b"PK\x03\x04", b"\x80\x02.", b"\x80\x02N."],
}


@pytest.mark.parametrize(("name", "content"), [(n, c) for n, contents in DAMAGED.items() for c in contents])
def test_damaged_files_are_one_clear_error(tmp_path, name, content):
    saved_mamba(tmp_path)
    if name != "config.json":
        (tmp_path / "model.safetensors").unlink()
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=r"load_checkpoint: received .*Remedy: (copy or download|do not trust)"):
        load_checkpoint(tmp_path)


def test_shards_that_contradict_their_index(tmp_path):
    original = saved_mamba(tmp_path)
    original.save_pretrained(tmp_path, max_shard_size="2KB")
    (tmp_path / "model.safetensors").unlink()
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    first = next(iter(index["weight_map"].values()))
    tensors = load_file(tmp_path / first)
    save_file({**tensors, "lm_head.extra": torch.zeros(1)}, tmp_path / first)
    with pytest.raises(ValueError, match=r"unexpected tensors lm_head.extra"):
        load_checkpoint(tmp_path)
    save_file(dict(list(tensors.items())[1:]), tmp_path / first)
    with pytest.raises(ValueError, match=rf"no shard holds {next(iter(tensors))}"):
        load_checkpoint(tmp_path)
    other = next(name for name in index["weight_map"] if name not in tensors)
    save_file({**tensors, other: original.state_dict()[other]}, tmp_path / first)
    with pytest.raises(ValueError, match=rf"{other} is in another shard too"):
        load_checkpoint(tmp_path)
