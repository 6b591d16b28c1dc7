"""Generation: the state in the cache gives what reading everything again gives, in every mode."""

import copy

import pytest
import torch
from tiny import VOCAB, config, each_causal, language_model, left_padded, prompts
from transformers import DynamicCache, StaticCache

from seqconv import SeqConvForCausalLM, SeqConvForSequenceClassification
from seqconv.hf.cache import SeqConvCache


def generate(model, ids, **options):
    """Greedy by default; no end token, and padding that stands in no prompt, from which a mask would be guessed."""
    return model.generate(ids, **{"max_new_tokens": 6, "do_sample": False, "pad_token_id": VOCAB, **options})


@each_causal
def test_greedy_with_a_state_equals_reading_everything_again(mixer):
    model = language_model(mixer)
    ids = prompts()
    got = generate(model, ids)
    assert torch.equal(got, generate(model, ids, use_cache=False))
    assert got.shape == (2, 13)


@each_causal
def test_logits_with_a_state_equal_those_without(mixer):
    model = language_model(mixer, mlp="gelu")
    ids = prompts(2, 11)
    want = model(ids, use_cache=False).logits
    first = model(ids[:, :4], use_cache=True)
    second = model(ids[:, 4:9], past_key_values=first.past_key_values)
    logits, cache = [first.logits, second.logits], second.past_key_values
    for t in (9, 10):
        step = model(ids[:, t : t + 1], past_key_values=cache)
        logits.append(step.logits)
        cache = step.past_key_values
    torch.testing.assert_close(torch.cat(logits, 1), want)
    assert cache.get_seq_length() == 11


@each_causal
def test_hooks_fire_at_every_token_that_is_generated(mixer):
    model, fired = language_model(mixer, mlp="gelu"), []
    block = model.model.backbone.blocks[1]
    for name, part in {"block": block, "mixer": block.mixer, "mlp": block.mlp}.items():
        part.register_forward_hook(lambda module, args, output, name=name: fired.append(name))
    generate(model, prompts(), max_new_tokens=4)
    assert fired == ["mixer", "mlp", "block"] * 4


@each_causal
def test_padded_prompts_continue_as_they_do_alone(mixer):
    model = language_model(mixer)
    ids, mask = left_padded(7, 4, 1)
    together = generate(model, ids, attention_mask=mask)
    for row, length in enumerate((7, 4, 1)):
        alone = generate(model, ids[row : row + 1, 7 - length :])
        assert torch.equal(together[row, 7:], alone[0, length:]), f"row {row}"


@each_causal
def test_a_prompt_in_chunks_equals_the_whole(mixer):
    model = language_model(mixer)
    ids, mask = left_padded(7, 3)
    whole = generate(model, ids, attention_mask=mask)
    assert torch.equal(generate(model, ids, attention_mask=mask, prefill_chunk_size=3), whole)


@each_causal
def test_beams_carry_their_states(mixer):
    model = language_model(mixer)
    ids, mask = left_padded(6, 4)
    options = {"attention_mask": mask, "num_beams": 3, "num_return_sequences": 2}
    got = generate(model, ids, **options)
    assert got.shape == (4, 12)
    assert torch.equal(got, generate(model, ids, use_cache=False, **options))


@each_causal
def test_assisted_generation_writes_what_the_model_writes_alone(mixer):
    model, helper = language_model(mixer), language_model(mixer, num_hidden_layers=1)
    helper.generation_config.num_assistant_tokens = 3
    helper.generation_config.num_assistant_tokens_schedule = "constant"
    helper.generation_config.assistant_confidence_threshold = 0.0
    want = generate(model, prompts(1))
    assert torch.equal(generate(model, prompts(1), assistant_model=helper), want)


def test_tokens_looked_up_in_the_prompt_assist_too():
    model, ids = language_model("hyena"), prompts(1).repeat(1, 3)
    want = generate(model, ids, max_new_tokens=12)
    assert torch.equal(generate(model, ids, max_new_tokens=12, prompt_lookup_num_tokens=3), want)


def test_hybrids_with_positions_and_padding():
    pattern = ["s4d", {"mixer": "none", "mlp": "swiglu"}, "gla"]
    options = {"layer_pattern": pattern, "num_hidden_layers": 3, "position_embedding": "sinusoidal", "mlp": "gelu"}
    model = language_model("s4d", **options)
    ids, mask = left_padded(7, 4)
    got = generate(model, ids, attention_mask=mask)
    assert torch.equal(got, generate(model, ids, attention_mask=mask, use_cache=False))
    assert torch.equal(got[1, 7:], generate(model, ids[1:, 3:])[0, 4:])


def test_sampling_is_repeatable_and_the_same_without_a_state():
    model = language_model()
    options = {"do_sample": True, "temperature": 5.0, "num_return_sequences": 3}
    torch.manual_seed(3)
    got = generate(model, prompts(1), **options)
    torch.manual_seed(3)
    assert torch.equal(got, generate(model, prompts(1), use_cache=False, **options))
    assert got.shape == (3, 13)
    assert len(got.unique(dim=0)) == 3


def test_generation_from_embeddings():
    model = language_model()
    ids = prompts()
    got = generate(model, None, inputs_embeds=model.model.embed_tokens(ids))
    assert torch.equal(got, generate(model, ids)[:, 7:])


def test_a_conversation_goes_on_from_the_returned_cache():
    model = language_model()
    ids = prompts(1)
    first = generate(model, ids, return_dict_in_generate=True)
    more = torch.cat([first.sequences, prompts(1, 3)], 1)
    again = generate(model, more, past_key_values=first.past_key_values)
    assert torch.equal(again, generate(model, more))


def test_one_prompt_read_once_serves_many_continuations():
    model = language_model("gla")
    shared = prompts(1, 5)
    cache = model(shared, use_cache=True).past_key_values
    for seed in (2, 3):
        ids = torch.cat([shared, prompts(1, seed)], 1)
        got = generate(model, ids, past_key_values=copy.deepcopy(cache))
        assert torch.equal(got, generate(model, ids))


def test_states_reserve_what_the_longest_context_needs():
    model = language_model("hyena")
    out = generate(model, prompts(), return_dict_in_generate=True)
    cache = out.past_key_values
    assert isinstance(cache, SeqConvCache)
    assert (cache.max_length, cache.get_seq_length(), cache.batch_size, len(cache)) == (12, 12, 2, 2)


def test_taking_tokens_back():
    model = language_model("hyena", position_embedding="sinusoidal")
    ids = prompts(2, 12)
    want = model(ids, use_cache=False).logits
    for pieces, back in (([5, 3], 2), ([5, 3], 3), ([5, 3, 1, 1], 4), ([5], 5), ([4, 1, 1], 1), ([6, 2], 0)):
        cache = SeqConvCache()
        cache.activate_past_recording()
        read = 0
        for piece in pieces:
            model(ids[:, read : read + piece], past_key_values=cache)
            read += piece
        cache.crop(-back)
        assert cache.get_seq_length() == read - back
        rest = model(ids[:, read - back :], past_key_values=cache).logits
        torch.testing.assert_close(rest, want[:, read - back :])
    cache.crop(9)
    assert cache.get_seq_length() == 9


def test_rows_of_a_cache():
    model = language_model("gla")
    ids, mask = left_padded(7, 4)
    cache = model(ids, attention_mask=mask, use_cache=True).past_key_values
    cache.batch_repeat_interleave(2)
    cache.batch_select_indices(torch.tensor([0, 1, 3]))
    assert (cache.batch_size, len(cache.mask)) == (3, 3)
    next_ids, full = ids[[0, 0, 1], :1], torch.cat([mask, mask.new_ones(2, 1)], 1)
    got = model(next_ids, past_key_values=cache).logits
    for row, source in enumerate((0, 0, 1)):
        whole = torch.cat([ids[source : source + 1], next_ids[row : row + 1]], 1)
        want = model(whole, attention_mask=full[source : source + 1], use_cache=False).logits[:, -1:]
        torch.testing.assert_close(got[row : row + 1], want)
    cache.reset()
    assert (cache.get_seq_length(), cache.state, cache.mask) == (0, None, None)


@pytest.mark.filterwarnings("ignore:.*right-padding")
def test_prompts_that_end_in_padding_raise():
    model = language_model()
    ids, mask = left_padded(7, 4)
    ids, mask = ids.flip(1), mask.flip(1)
    for use_cache in (True, False):
        with pytest.raises(ValueError, match=r"prompts with padding on the right.*padding_side = 'left'"):
            generate(model, ids, attention_mask=mask, use_cache=use_cache)
    assert model(ids, attention_mask=mask).past_key_values is None


def test_by_default_a_state_comes_where_there_is_one():
    model = language_model()
    ids = prompts()
    assert isinstance(model(ids).past_key_values, SeqConvCache)
    assert model(ids, labels=ids).past_key_values is None
    assert model.train()(ids).past_key_values is None
    assert language_model(use_cache=False)(ids).past_key_values is None


@pytest.mark.usefixtures("unannotated")
def test_errors():
    model = language_model()
    ids = prompts()
    with pytest.raises(ValueError, match=r"past_key_values of type DynamicCache; wanted a SeqConvCache"):
        model(ids, past_key_values=DynamicCache(config=model.config))
    with pytest.raises(ValueError, match=r"past_key_values of type StaticCache.*cache_implementation='static'"):
        model(ids, past_key_values=StaticCache(config=model.config, max_cache_len=8))
    with pytest.raises(ValueError, match=r"cache_implementation='offloaded'.*leave cache_implementation out"):
        generate(model, ids, cache_implementation="offloaded")
    cache = model(ids, use_cache=True).past_key_values
    with pytest.raises(ValueError, match=r"2 tokens; wanted tokens read while recording.*activate_past_recording"):
        cache.crop(-2)
    with pytest.raises(ValueError, match=r"a state of 2 rows for 3 inputs"):
        model(prompts(3, 1), past_key_values=cache)
    with pytest.raises(ValueError, match=r"SeqConvCache.update: received keys and values"):
        cache.update(torch.zeros(1), torch.zeros(1), 0)
    with pytest.raises(ValueError, match=r"attention_mask of shape \(2, 5\); wanted .* with 7 earlier tokens in front"):
        model(ids[:, :1], past_key_values=cache, attention_mask=torch.ones(2, 5))
    recording = SeqConvCache()
    recording.activate_past_recording()
    model(ids, past_key_values=recording)
    with pytest.raises(ValueError, match=r"change of rows while tokens may be taken back"):
        recording.reorder_cache(torch.tensor([0]))
    other = SeqConvForCausalLM(config("gla")).double()
    with pytest.raises(ValueError, match=r"pass what this mixer's init_state, prefill or step returned"):
        other(ids[:, :1], past_key_values=cache)
    both = SeqConvForSequenceClassification(config(bidirectional=True))
    with pytest.raises(ValueError, match=r"use_cache=True; wanted a causal text model"):
        both.model(ids, use_cache=True)
    assert int(generate(model, ids).max()) < VOCAB
