"""Arguments that transformers' own classes take, and heads that choose."""

import pytest
import torch
import torch.nn.functional as F
from tiny import config, language_model, prompts
from transformers import AutoModelForMultipleChoice, AutoModelForQuestionAnswering
from transformers.modeling_outputs import MaskedLMOutput, TokenClassifierOutput

from seqconv import (
    SeqConvForCausalLM,
    SeqConvForMaskedLM,
    SeqConvForMultipleChoice,
    SeqConvForQuestionAnswering,
    SeqConvForSequenceClassification,
    SeqConvForTokenClassification,
    SeqConvModel,
)
from seqconv.hf.tokenizer import byte_tokenizer

STATELESS = (
    SeqConvForSequenceClassification,
    SeqConvForTokenClassification,
    SeqConvForMaskedLM,
    SeqConvForQuestionAnswering,
)


@pytest.mark.parametrize("kind", STATELESS)
def test_models_without_a_cache_take_what_says_so(kind):
    model = kind(config()).eval()
    ids = prompts()
    want = model(ids)[0]
    for options in ({"use_cache": False}, {"use_cache": True}, {"past_key_values": None}):
        assert torch.equal(model(ids, **options)[0], want)
    positions = torch.arange(ids.shape[1]).expand_as(ids)
    assert torch.equal(model(ids, position_ids=positions)[0], want)
    cache = SeqConvModel(config()).eval()(ids, use_cache=True).past_key_values
    with pytest.raises(ValueError, match=r"received past_key_values; wanted whole sequences.*Remedy"):
        model(ids, past_key_values=cache)


def test_outputs_have_the_types_of_transformers():
    ids = prompts()
    assert type(SeqConvForMaskedLM(config())(ids)) is MaskedLMOutput
    assert type(SeqConvForTokenClassification(config())(ids)) is TokenClassifierOutput


def test_stop_strings():
    tokenizer = byte_tokenizer()
    model = language_model(vocab_size=len(tokenizer))
    ids = tokenizer("abc", return_tensors="pt").input_ids
    options = {"max_new_tokens": 8, "do_sample": False, "suppress_tokens": [*range(33), *range(127, len(tokenizer))]}
    free = model.generate(ids, **options)
    stop = tokenizer.decode(free[0, ids.shape[1] + 2])
    stopped = model.generate(ids, **options, stop_strings=[stop], tokenizer=tokenizer)
    assert ids.shape[1] < stopped.shape[1] <= ids.shape[1] + 3
    assert torch.equal(stopped, free[:, : stopped.shape[1]])


def test_a_message_never_suggests_what_was_given():
    with pytest.raises(ValueError, match=r"argument 'labels'; wanted an argument.*take the model class whose") as e:
        SeqConvModel(config())(prompts(), labels=1)
    assert "did you mean" not in str(e.value)
    with pytest.raises(ValueError, match=r"argument 'lables'.*did you mean 'labels'"):
        SeqConvForSequenceClassification(config())(prompts(), lables=1)


def test_question_answering(tmp_path):
    torch.manual_seed(0)
    model = SeqConvForQuestionAnswering(config()).eval()
    ids, start, end = prompts(), torch.tensor([1, 99]), torch.tensor([3, 99])
    output = model(ids, start_positions=start, end_positions=end)
    assert output.start_logits.shape == output.end_logits.shape == ids.shape
    want = (F.cross_entropy(output.start_logits[:1], start[:1]) + F.cross_entropy(output.end_logits[:1], end[:1])) / 2
    torch.testing.assert_close(output.loss, want)
    model.save_pretrained(tmp_path)
    again = AutoModelForQuestionAnswering.from_pretrained(tmp_path)
    assert isinstance(again, SeqConvForQuestionAnswering)
    torch.testing.assert_close(again(ids).end_logits, output.end_logits)


@pytest.mark.parametrize("pooling", ["mean", "last", "cls"])
def test_multiple_choice_scores_each_text_on_its_own(pooling, tmp_path):
    torch.manual_seed(0)
    model = SeqConvForMultipleChoice(config(pooling=pooling)).eval()
    ids = prompts(6, 7).reshape(2, 3, 7)
    mask = torch.ones_like(ids)
    output = model(ids, attention_mask=mask, labels=torch.tensor([2, 0]))
    assert output.logits.shape == (2, 3)
    for row in range(2):
        for choice in range(3):
            alone = model(ids[row : row + 1, choice : choice + 1], attention_mask=mask[:1, :1]).logits
            torch.testing.assert_close(alone[0, 0], output.logits[row, choice])
    torch.testing.assert_close(output.loss, F.cross_entropy(output.logits, torch.tensor([2, 0])))
    with pytest.raises(ValueError, match=r"shape \(3, 7\); wanted texts of shape \(batch, choices, length\)"):
        model(ids[0])
    model.save_pretrained(tmp_path)
    assert isinstance(AutoModelForMultipleChoice.from_pretrained(tmp_path), SeqConvForMultipleChoice)


def test_heads_start_from_a_language_model(tmp_path):
    language_model(dtype=torch.float32).save_pretrained(tmp_path)
    for kind in (SeqConvForQuestionAnswering, SeqConvForMultipleChoice):
        model = kind.from_pretrained(tmp_path)
        want = SeqConvForCausalLM.from_pretrained(tmp_path).model.embed_tokens.weight
        assert torch.equal(model.model.embed_tokens.weight, want)
