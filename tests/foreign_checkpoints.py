"""Checkpoints as other projects write them, for the tests of loading."""

import json
import shutil

import torch
from transformers import MambaForCausalLM

SMALL = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4, "time_step_rank": 2}


def saved_mamba(folder, kind=MambaForCausalLM, **options):
    """A small Mamba of transformers, saved by itself."""
    torch.manual_seed(0)
    model = kind(kind.config_class(**SMALL, **options)).eval()
    model.save_pretrained(folder)
    return model


def assert_same_function(model, original):
    ids = torch.arange(14).reshape(2, 7)
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, original(ids).logits, rtol=1e-4, atol=1e-5)


def hub_cache(cache, folder, repository="org/name", revision="5d91e3ad" * 5):
    """A folder as the cache of the hub holds it: snapshots by commit, and what each branch is at."""
    place = cache / f"models--{repository.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs/main").write_text(revision)
    shutil.copytree(folder, place / "snapshots" / revision)


def write_bins(folder, tensors, shards=2):
    """The layout of older releases: pickled files, several with an index."""
    (folder / "model.safetensors").unlink()
    if shards == 1:
        torch.save(tensors, folder / "pytorch_model.bin")
        return
    where = {}
    for i in range(shards):
        name = f"pytorch_model-0000{i + 1}-of-0000{shards}.bin"
        part = {k: tensors[k] for k in list(tensors)[i::shards]}
        torch.save(part, folder / name)
        where |= dict.fromkeys(part, name)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
