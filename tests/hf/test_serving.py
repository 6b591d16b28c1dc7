"""Serving through the cache: drafts that are verified, prompts with common beginnings, requests that share a batch."""

import copy

import pytest
import torch
from tiny import VOCAB, config, each_causal, language_model, left_padded, prompts

from seqconv import SeqConvForMultipleChoice
from seqconv.hf.arguments.cache_argument import CACHE
from seqconv.hf.cache import SeqConvCache
from seqconv.hf.cache_rows import concat_caches, split_cache
from tolerances import assert_near


def generate(model, ids, **options):
    return model.generate(ids, **{"max_new_tokens": 8, "do_sample": False, "pad_token_id": VOCAB, **options})


def verify(model, cache, ids, draft):
    """Read the last token and a draft at once; the tokens that stay and the model's own after them."""
    logits = model(torch.cat([ids[:, -1:], draft], 1), past_key_values=cache).logits
    own = logits.argmax(-1)
    accepted = int((own[:, :-1] == draft).long().cumprod(1).sum())
    cache.crop(-(draft.shape[1] - accepted))
    return torch.cat([ids, own[:, : accepted + 1]], 1), accepted


@each_causal
def test_verified_drafts_give_the_greedy_tokens(mixer):
    """Drafts of three tokens: the greedy ones, with a wrong one at another place in every round."""
    model, ids = language_model(mixer), prompts(1)
    want = generate(model, ids, max_new_tokens=12)
    cache, got, found = SeqConvCache(), ids, []
    model(ids[:, :-1], past_key_values=cache)
    cache.activate_past_recording()
    for wrong in range(4):
        draft = want[:, got.shape[1] : got.shape[1] + 3].clone()
        draft[:, wrong:] = (draft[:, wrong:] + 1) % VOCAB
        got, accepted = verify(model, cache, got, draft)
        found.append(accepted)
        assert cache.get_seq_length() == got.shape[1] - 1
    assert found == [0, 1, 2, 3]
    assert torch.equal(got, want[:, : got.shape[1]])


@each_causal
def test_tokens_looked_up_in_the_prompt_assist(mixer):
    model, ids = language_model(mixer), prompts(1, 5).repeat(1, 3)
    want = generate(model, ids)
    assert torch.equal(generate(model, ids, prompt_lookup_num_tokens=3), want)


@pytest.mark.parametrize("mixer", ["mamba", "attention", "ckconv", "retnet"])
def test_assisted_generation_goes_on_from_a_returned_cache(mixer):
    model, helper = (language_model(mixer, position_embedding="sinusoidal", num_hidden_layers=n) for n in (2, 1))
    first = generate(model, prompts(1), return_dict_in_generate=True)
    ids = torch.cat([first.sequences, prompts(1, 4)], 1)
    want = generate(model, ids)
    options = {"past_key_values": first.past_key_values, "assistant_model": helper}
    assert torch.equal(generate(model, ids, **options), want)


@each_causal
def test_prompts_share_the_states_of_their_common_beginning(mixer):
    model = language_model(mixer, position_embedding="sinusoidal")
    system = prompts(1, 6)
    cache = SeqConvCache(states_at=(4, 6, 20))
    first = torch.cat([system, prompts(1, 3)], 1)
    logits = model(first, past_key_values=cache).logits
    assert_near(logits, model(first, use_cache=False).logits)
    for length in (4, 6):
        ids = torch.cat([system[:, :length], prompts(1, 5)], 1)
        kept = cache.at(length)
        assert kept.get_seq_length() == length
        assert torch.equal(generate(model, ids, past_key_values=kept), generate(model, ids))
    assert cache.get_seq_length() == 9
    with pytest.raises(ValueError, match=r"20 tokens; wanted one of \[4, 6\].*SeqConvCache\(states_at="):
        cache.at(20)


def test_states_are_kept_over_several_calls_and_follow_their_rows():
    model = language_model("gla")
    ids, mask = left_padded(7, 4)
    cache = SeqConvCache(states_at=range(2, 100, 2))
    hidden = []
    for start, stop in ((0, 3), (3, 7)):
        output = model(
            ids[:, start:stop], attention_mask=mask[:, :stop], past_key_values=cache, output_hidden_states=True
        )
        hidden.append(output.hidden_states)
    want = model(ids, attention_mask=mask, output_hidden_states=True, use_cache=False).hidden_states
    for i, layer in enumerate(want):
        assert_near(torch.cat([part[i] for part in hidden], 1), layer, what=f"hidden states {i}")
    cache.reorder_cache(torch.tensor([1, 0]))
    kept = cache.at(6)
    got = model(ids[[1, 0], 6:], past_key_values=kept).logits
    assert_near(got, model(ids[[1, 0]], attention_mask=mask[[1, 0]], use_cache=False).logits[:, 6:])
    model(ids[:, :1], past_key_values=cache)
    assert sorted(cache._kept) == [2, 4, 6, 8]
    holes = torch.tensor([[1, 1, 0, 1, 1], [1, 1, 1, 1, 1]])
    with pytest.raises(ValueError, match=r"padding between tokens and states_at; wanted padding on the left"):
        model(ids[:, :5], attention_mask=holes, past_key_values=SeqConvCache(states_at=[3]))


@each_causal
def test_requests_join_and_leave_a_batch(mixer):
    model = language_model(mixer, position_embedding="sinusoidal")
    texts = [prompts(1, length) for length in (7, 3, 5)]
    want = [generate(model, ids) for ids in texts]
    waiting, running = [], [0, 1]

    def read(request):
        output = model(texts[request], use_cache=True)
        texts[request] = torch.cat([texts[request], output.logits[:, -1:].argmax(-1)], 1)
        return output.past_key_values

    caches = {request: read(request) for request in running}
    waiting = [2]
    while running:
        batch = concat_caches([caches[request] for request in running])
        tokens = torch.cat([texts[request][:, -1:] for request in running])
        new = model(tokens, past_key_values=batch).logits.argmax(-1)
        for request, cache, token in zip(running, split_cache(batch), new.split(1), strict=True):
            caches[request], texts[request] = cache, torch.cat([texts[request], token], 1)
            assert cache.get_seq_length() == texts[request].shape[1] - 1
        running = [request for request in running if texts[request].shape[1] < want[request].shape[1]]
        if waiting and texts[0].shape[1] == 11:
            running.append(waiting.pop())
            caches[2] = read(2)
    for got, wanted in zip(texts, want, strict=True):
        assert torch.equal(got, wanted)


def test_only_caches_that_have_read_join():
    with pytest.raises(ValueError, match=r"concat_caches: received 1 caches, 0 of which have read tokens"):
        concat_caches([SeqConvCache()])
    assert split_cache(SeqConvCache()) == []


def test_the_cache_has_two_names():
    """transformers 5.24 says ``cache`` for ``past_key_values``; calls take both, outputs use the installed one."""
    model, ids = language_model("mamba"), prompts()
    first = model(ids, use_cache=True)
    assert isinstance(first[CACHE], SeqConvCache)
    after = {name: model(ids, **{name: copy.deepcopy(first[CACHE])}).logits for name in ("cache", "past_key_values")}
    assert torch.equal(after["cache"], after["past_key_values"])
    torch.testing.assert_close(after["cache"], model(torch.cat([ids, ids], 1)).logits[:, ids.shape[1] :])
    with pytest.raises(ValueError, match=r"SeqConvForCausalLM: received cache and past_key_values; wanted one of them"):
        model(ids, cache=first[CACHE], past_key_values=first[CACHE])
    with pytest.raises(ValueError, match="choices are read from their beginning"):
        SeqConvForMultipleChoice(config("mamba"))(ids[None], cache=first[CACHE])
