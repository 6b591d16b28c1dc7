"""``generate(cache_implementation="static")``: tensors of one size, a decoding step that is compiled once."""

import pytest
import torch
from tiny import VOCAB, causal_mixers, language_model, left_padded, prompts
from torch.utils import _pytree as pytree
from transformers import CompileConfig

from representatives import representatives
from seqconv.hf.cache import SeqConvCache
from seqconv.hf.static_cache import StaticSeqConvCache

GROWING = {
    "ccnn", "ckconv", "flexconv", "h3_conv", "hyena", "longconv", "multihyena", "multires", "path_attention",
    "sgconv", "smpconv",
}  # fmt: skip
FIXED = [name for name in causal_mixers() if name not in GROWING]
COMPILED = {"attention", "gla", "mamba", "lightconv", "mega", "s4d"}
each_fixed = pytest.mark.parametrize("mixer", representatives(FIXED))


def generate(model, ids, **options):
    return model.generate(ids, **{"max_new_tokens": 6, "do_sample": False, "pad_token_id": VOCAB, **options})


def shapes(cache):
    return [leaf.shape for leaf in pytree.tree_leaves(cache.state) if isinstance(leaf, torch.Tensor)]


@each_fixed
def test_static_states_give_the_same_tokens(mixer):
    model = language_model(mixer, position_embedding="sinusoidal")
    ids, mask = left_padded(7, 4)
    want = generate(model, ids, attention_mask=mask)
    got = generate(model, ids, attention_mask=mask, cache_implementation="static", max_cache_len=40)
    assert torch.equal(got, want)
    options = {"num_beams": 2, "cache_implementation": "static", "return_dict_in_generate": True}
    beams = generate(model, ids, attention_mask=mask, **options)
    assert torch.equal(beams.sequences, generate(model, ids, attention_mask=mask, num_beams=2))


@each_fixed
def test_no_tensor_changes_its_size_from_token_to_token(mixer):
    model, ids = language_model(mixer), prompts()
    first = generate(model, ids, cache_implementation="static", max_cache_len=40, return_dict_in_generate=True)
    cache = first.past_key_values
    assert isinstance(cache, StaticSeqConvCache)
    before = shapes(cache)
    model(ids[:, :1], past_key_values=cache)
    assert shapes(cache) == before
    assert cache.get_seq_length() == 13


@pytest.mark.parametrize(
    "mixer", [pytest.param(name, marks=[] if name in COMPILED else [pytest.mark.slow]) for name in FIXED]
)
@pytest.mark.usefixtures("unannotated")
def test_a_step_is_compiled_once_as_one_graph(mixer):
    model = language_model(mixer, num_hidden_layers=1, position_embedding="sinusoidal")
    ids, mask = left_padded(7, 4)
    want = generate(model, ids, attention_mask=mask)
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    config = CompileConfig(fullgraph=True, backend="eager", mode=None)
    config._compile_all_devices = True  # by default transformers compiles on accelerators alone
    options = {"cache_implementation": "static", "compile_config": config}
    with torch._dynamo.config.patch(error_on_recompile=True):
        got = generate(model, ids, attention_mask=mask, **options)
    assert torch.equal(got, want)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize("mixer", sorted(GROWING))
def test_states_without_a_fixed_size_raise(mixer):
    message = rf"static' and layers whose states have no fixed size: 0 \({mixer}\), 1 .*Remedy"
    with pytest.raises(ValueError, match=message):
        generate(language_model(mixer), prompts(), cache_implementation="static")


def test_a_second_turn_goes_on_from_a_static_cache():
    model = language_model("attention", position_embedding="sinusoidal")
    ids, mask = left_padded(7, 4)
    first = generate(
        model, ids, attention_mask=mask, cache_implementation="static", max_cache_len=40, return_dict_in_generate=True
    )
    more = torch.cat([first.sequences, prompts(2, 4)], 1)
    full = torch.cat([mask, mask.new_ones(2, 10)], 1)
    full[0, 13] = 0
    want = generate(model, more, attention_mask=full, use_cache=False)
    cache = first.past_key_values
    assert torch.equal(generate(model, more, attention_mask=full, past_key_values=cache), want)
    cache.reset()
    assert (cache.get_seq_length(), cache.state, cache.mask) == (0, None, None)


def test_a_static_cache_that_is_full_raises():
    model, ids = language_model("attention"), prompts(1)
    cache = StaticSeqConvCache(model.model.backbone, 8)
    model(ids, past_key_values=cache)
    model(ids[:, :1], past_key_values=cache)
    with pytest.raises(ValueError, match=r"attention: received 9 tokens; wanted at most its capacity of 8"):
        model(ids[:, :1], past_key_values=cache)
    assert not SeqConvCache().is_compileable


def test_continuous_batching_of_transformers_says_what_it_lacks():
    message = r"generate_batch: received a model with states.*Remedy: batch requests with seqconv.hf.cache_rows"
    with pytest.raises(ValueError, match=message):
        language_model("attention").generate_batch([[1, 2, 3]], max_new_tokens=2)
