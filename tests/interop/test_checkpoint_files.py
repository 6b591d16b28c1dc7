"""Files of checkpoints: pickled, sharded, wrapped, damaged, or made by an attacker."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from foreign_checkpoints import assert_same_function, saved_mamba, write_bins
from seqconv import load_checkpoint


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
