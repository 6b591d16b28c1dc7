"""A cache that ``generate`` returned continues in a second turn, for causal mixers: as if all text came at once."""

import pytest
import torch
from tiny import VOCAB, each_causal, language_model, left_padded, prompts

from seqconv.hf import SeqConvConfig, SeqConvForCausalLM
from seqconv.hf.cache import SeqConvCache
from tolerances import assert_near


@each_causal
def test_a_second_turn_of_generate_continues_the_text(mixer):
    torch.manual_seed(0)
    config = SeqConvConfig(vocab_size=50, hidden_size=16, layer_pattern=[mixer], num_hidden_layers=2)
    model = SeqConvForCausalLM(config).double().eval()
    text, cache = torch.randint(50, (2, 20)), None
    for more in (5, 60):
        turn = model.generate(
            text, attention_mask=torch.ones_like(text), past_key_values=cache, max_new_tokens=4, do_sample=False,
            output_logits=True, return_dict_in_generate=True, pad_token_id=0, eos_token_id=None,
        )  # fmt: skip
        with torch.no_grad():
            want = model(turn.sequences).logits[:, -5:-1]
        assert_near(torch.stack(turn.logits, 1), want, dtype=torch.float32, what=f"before {more} more")
        text, cache = torch.cat([turn.sequences, torch.randint(50, (2, more))], 1), turn.past_key_values


def go_on(model, ids, mask, cache=None, **options):
    """The text so far with five more tokens, and the cache."""
    given = {"attention_mask": mask, "max_new_tokens": 5, "do_sample": False}
    given |= {} if cache is None else {"past_key_values": cache}
    return model.generate(ids, **given, pad_token_id=VOCAB, return_dict_in_generate=True, **options)


def turns(model):
    """A first turn, and the whole text and mask of a second one whose rows bring 2, 6 and 5 tokens."""
    ids, mask = left_padded(7, 4, 5)
    first = go_on(model, ids, mask)
    _, later = left_padded(2, 6, 5)
    full = torch.cat([mask, mask.new_ones(3, 5), later], 1)
    return first, torch.cat([first.sequences, prompts(3, 6)], 1), full


def alone(model, ids, mask):
    """What every row writes without padding and without a cache."""
    rows = [row[real.bool()][None] for row, real in zip(ids, mask, strict=True)]
    return torch.cat([go_on(model, row, torch.ones_like(row), use_cache=False).sequences[:, -5:] for row in rows])


@each_causal
@pytest.mark.parametrize("position_embedding", [pytest.param("none", marks=pytest.mark.slow), "sinusoidal"])
def test_rows_of_a_second_turn_bring_different_numbers_of_tokens(mixer, position_embedding):
    model = language_model(mixer, mlp="gelu", position_embedding=position_embedding)
    first, ids, mask = turns(model)
    want = alone(model, ids, mask)
    second = go_on(model, ids, mask, first.past_key_values)
    assert torch.equal(second.sequences[:, -5:], want)
    assert torch.equal(go_on(model, ids, mask, use_cache=False).sequences[:, -5:], want)
    more = torch.cat([second.sequences, prompts(3, 2)], 1)
    full = torch.cat([mask, mask.new_ones(3, 7)], 1)
    assert torch.equal(go_on(model, more, full, second.past_key_values).sequences[:, -5:], alone(model, more, full))


@each_causal
def test_beams_go_on_from_rows_of_different_lengths(mixer):
    model = language_model(mixer)
    _, ids, mask = turns(model)
    got = go_on(model, ids, mask, num_beams=3).sequences
    assert torch.equal(got, go_on(model, ids, mask, num_beams=3, use_cache=False).sequences)


@each_causal
def test_a_mask_that_hides_what_ended_rows_were_fed_reads_the_text_again(mixer):
    model = language_model(mixer)
    first, ids, mask = turns(model)
    mask[1, 9:12] = 0  # the row ended after its second new token and was fed padding
    assert torch.equal(go_on(model, ids, mask, first.past_key_values).sequences[:, -5:], alone(model, ids, mask))


@each_causal
def test_a_first_turn_padded_on_the_right_leaves_the_state_after_its_last_tokens(mixer):
    model = language_model(mixer, position_embedding="sinusoidal")
    ids, mask = (t.flip(1) for t in left_padded(7, 4, 5))
    cache = model(ids, attention_mask=mask, use_cache=True).past_key_values
    new, later = left_padded(2, 6, 5)
    got = model(new, attention_mask=torch.cat([mask, later], 1), past_key_values=cache).logits
    for row in range(3):
        tokens = new[row][later[row].bool()]
        whole = torch.cat([ids[row][mask[row].bool()], tokens])[None]
        assert_near(got[row, -len(tokens) :], model(whole, use_cache=False).logits[0, -len(tokens) :])


@each_causal
def test_padding_between_tokens_changes_nothing(mixer):
    model, ids = language_model(mixer, position_embedding="sinusoidal"), prompts(2, 9)
    mask = torch.ones_like(ids)
    mask[0, 3:5] = mask[1, 0] = mask[1, 4] = mask[1, 8] = 0
    for options in ({"use_cache": False}, {"use_cache": True}):
        got = model(ids, attention_mask=mask, **options).logits
        for row in range(2):
            real = mask[row].bool()
            assert_near(got[row, real], model(ids[row, real][None], use_cache=False).logits[0])


def test_a_padding_token_inside_a_prompt_is_hidden_as_transformers_hides_it():
    model, ids = language_model(), prompts(2, 9).clamp(min=1)
    ids[0, 3] = 0
    options = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    want = alone(model, ids, (ids != 0).long())
    assert torch.equal(model.generate(ids, **options)[:, -5:], want)


def test_taking_back_tokens_of_rows_of_different_lengths():
    model = language_model("hyena")
    ids, mask = prompts(2, 9), torch.ones(2, 9, dtype=torch.long)
    mask[1, 4:7] = 0
    cache = SeqConvCache()
    cache.activate_past_recording()
    for start, stop in ((0, 6), (6, 9)):
        model(ids[:, start:stop], attention_mask=mask[:, :stop], past_key_values=cache)
    cache.crop(-2)
    got = model(ids[:, 7:], attention_mask=mask, past_key_values=cache).logits
    assert_near(got, model(ids, attention_mask=mask, use_cache=False).logits[:, 7:])


def test_what_no_cache_can_continue_raises():
    model = language_model()
    first, ids, mask = turns(model)
    with pytest.raises(
        ValueError, match=r"a prompt of 5 tokens; wanted more tokens than the 11 that the cache has read"
    ):
        go_on(model, ids[:, :5], mask[:, :5], first.past_key_values)
    with pytest.raises(ValueError, match=r"generate: received a mask of 8 tokens for a text of \d+; wanted a mask for"):
        go_on(model, ids, torch.ones_like(ids[:, :8]), first.past_key_values)
    mask[1, 9:12] = 0
    with pytest.raises(ValueError, match=r"differs from that of the calls before.*leave past_key_values out"):
        model(ids[:, 11:], attention_mask=mask, past_key_values=first.past_key_values)
    packed = torch.tensor([0, 3, 7], dtype=torch.int32)
    with pytest.raises(ValueError, match=r"mask with a hole"):
        model(prompts(1, 7), attention_mask=torch.tensor([[1, 1, 1, 1, 0, 1, 1]]), cu_seqlens=packed)
