"""torch.export of the models as they are called, torch.compile over changing lengths, the cache as a pytree."""

import io

import pytest
import torch
from tiny import VOCAB, causal_mixers, each_causal, language_model, prompts
from torch.export import Dim
from torch.utils import _pytree as pytree

from seqconv import SeqConvConfig
from seqconv.hf import MODELS, load
from seqconv.hf.cache import SeqConvCache
from tolerances import assert_near

pytestmark = pytest.mark.usefixtures("unannotated")

COMPILED = ("attention", "hyena", "mamba", "transformer_xl")
"""Whose language models the fast tests compile; tests/mixers/test_compilers.py compiles all mixers."""

INPUTS = {
    "image": lambda rows: {"pixel_values": torch.rand(rows, 3, 8, 8, dtype=torch.float64)},
    "video": lambda rows: {"pixel_values": torch.rand(rows, 4, 3, 8, 8, dtype=torch.float64)},
    "audio": lambda rows: {"input_values": torch.rand(rows, 64, dtype=torch.float64)},
    "text": lambda rows: {"input_ids": prompts(rows, 9)},
    "choices": lambda rows: {"input_ids": prompts(rows * 3, 9).view(rows, 3, 9)},
}


def modality(name):
    kinds = {"Image": "image", "Video": "video", "Audio": "audio", "CTC": "audio", "Choice": "choices"}
    return next((kind for word, kind in kinds.items() if word in name), "text")


def model_of(name, mixer="s4d"):
    kind = modality(name)
    options = {"image_size": 8, "patch_size": 4} if kind in ("image", "video") else {}
    options |= {"num_frames": 4, "tubelet_size": 2} if kind == "video" else {}
    torch.manual_seed(0)
    config = SeqConvConfig(mixer=mixer, vocab_size=VOCAB, hidden_size=8, num_hidden_layers=1, **options)
    return load(name)(config).eval().double()


def tensors(output):
    return [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, torch.Tensor)]


@pytest.mark.parametrize("name", MODELS)
def test_every_model_exports_as_it_is_called(name):
    model, inputs = model_of(name), INPUTS[modality(name)](2)
    program = torch.export.export(model, (), inputs, strict=False)
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    buffer.seek(0)
    got, want = torch.export.load(buffer).module()(**inputs), model(**inputs)
    assert type(got) is type(want)
    for a, b in zip(tensors(got), tensors(want), strict=True):
        assert_near(a, b)


@each_causal
def test_language_models_export_with_open_sizes_and_go_on_from_the_cache(mixer):
    model = language_model(mixer, num_hidden_layers=1)
    sizes = {"input_ids": {0: Dim("batch", min=2, max=64), 1: Dim("length", min=2, max=512)}}
    program = torch.export.export(model, (), {"input_ids": prompts(2, 12)}, dynamic_shapes=sizes, strict=False).module()
    for ids in (prompts(3, 5), prompts(2, 70)):
        got, want = program(input_ids=ids), model(input_ids=ids)
        assert_near(got.logits, want.logits)
        assert isinstance(got.past_key_values, SeqConvCache)
        assert got.past_key_values.get_seq_length() == ids.shape[1]
        following = prompts(len(ids), 2)
        after = [model(following, past_key_values=output.past_key_values).logits for output in (got, want)]
        assert_near(*after)


@pytest.mark.parametrize(
    "mixer", [pytest.param(name, marks=[] if name in COMPILED else pytest.mark.slow) for name in causal_mixers()]
)
def test_language_models_compile_once_for_all_lengths(mixer):
    model = language_model(mixer, num_hidden_layers=1)
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch._dynamo.config.patch(recompile_limit=2):
        for length in (12, 5, 33):
            ids = prompts(2, length)
            assert_near(compiled(ids, use_cache=False).logits, model(ids).logits)


def test_the_cache_is_a_pytree():
    model, ids = language_model(), prompts()
    cache = model(ids).past_key_values
    leaves, spec = pytree.tree_flatten(cache)
    assert pytree.treespec_loads(pytree.treespec_dumps(spec)) == spec
    twin = pytree.tree_unflatten([x.clone() if isinstance(x, torch.Tensor) else x for x in leaves], spec)
    assert (twin.get_seq_length(), twin.batch_size) == (cache.get_seq_length(), cache.batch_size)
    assert_near(model(ids, past_key_values=twin).logits, model(ids, past_key_values=cache).logits)
    empty = SeqConvCache(max_length=5)
    assert pytree.tree_map(lambda leaf: leaf, empty).max_length == 5
