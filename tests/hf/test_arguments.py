"""Arguments that transformers' own classes take, and heads that choose."""

import re
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from tiny import config, language_model, prompts
from transformers import AutoModelForCausalLM, AutoModelForMultipleChoice, AutoModelForQuestionAnswering
from transformers.modeling_outputs import (
    MaskedLMOutput,
    SequenceClassifierOutput,
    SequenceClassifierOutputWithPast,
    TokenClassifierOutput,
)

from seqconv import (
    SeqConvForAudioClassification,
    SeqConvForCausalLM,
    SeqConvForImageClassification,
    SeqConvForMaskedLM,
    SeqConvForMultipleChoice,
    SeqConvForQuestionAnswering,
    SeqConvForSequenceClassification,
    SeqConvForTokenClassification,
    SeqConvModel,
)
from seqconv.hf.cache import SeqConvCache
from seqconv.hf.tokenizer import byte_tokenizer
from seqconv.mixers.attention.attention import Attention
from seqconv.registry import mixer_entry

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


@pytest.mark.parametrize("kind", STATELESS)
def test_models_of_tasks_continue_from_a_state(kind):
    model = kind(config("mamba", pooling="last", position_embedding="learned")).eval().double()
    ids, cache = prompts(), SeqConvCache()
    want = model(ids)[0]
    model(ids[:, :4], past_key_values=cache)
    got = model(ids[:, 4:], past_key_values=cache)[0]
    torch.testing.assert_close(got, want if want.dim() == 2 and want.shape != ids.shape else want[:, 4:])
    assert cache.get_seq_length() == ids.shape[1]
    both = kind(config("mamba", pooling="last", bidirectional=True)).eval()
    with pytest.raises(ValueError, match=r"past_key_values; wanted a causal text model.*Remedy: leave it out"):
        both(ids, past_key_values=SeqConvCache())


def test_a_classifier_of_last_tokens_returns_its_state_where_asked():
    model, ids = SeqConvForSequenceClassification(config(pooling="last")).eval(), prompts()
    output = model(ids, use_cache=True)
    assert type(output) is SequenceClassifierOutputWithPast
    assert output.past_key_values.get_seq_length() == ids.shape[1]
    assert type(model(ids)) is SequenceClassifierOutput
    with pytest.raises(ValueError, match=r"past_key_values with pooling='mean'; wanted pooling='last'"):
        SeqConvForSequenceClassification(config())(ids, past_key_values=SeqConvCache())


@pytest.mark.parametrize("place", ["first", "middle", "last"])
@pytest.mark.parametrize("kind", ["learned", "sinusoidal"])
def test_positions_around_a_pooling_token(place, kind):
    options = {"pooling": "cls", "cls_position": place, "position_embedding": kind}
    model = SeqConvForSequenceClassification(config(**options)).eval().double()
    ids, steps = prompts(3, 9), torch.arange(9)[None]
    torch.testing.assert_close(model(ids, position_ids=steps).logits, model(ids).logits)
    mask = torch.ones_like(ids)
    mask[0, :3], mask[1, 7:] = 0, 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    want = model(ids, attention_mask=mask).logits
    torch.testing.assert_close(model(ids, attention_mask=mask, position_ids=positions).logits, want)
    assert not torch.allclose(model(ids, attention_mask=mask, position_ids=positions + 5).logits, want)


INPUTS = {
    "text": {"input_ids": prompts()},
    "image": {"pixel_values": torch.ones(2, 3, 8, 8)},
    "audio": {"input_values": torch.ones(2, 100), "input_features": torch.ones(2, 5, 8)},
}
READERS = {
    "text": (SeqConvModel, SeqConvForCausalLM, SeqConvForMultipleChoice, *STATELESS),
    "image": (SeqConvModel, SeqConvForImageClassification),
    "audio": (SeqConvModel, SeqConvForAudioClassification),
}


@pytest.mark.parametrize(("modality", "kind"), [(m, kind) for m, kinds in READERS.items() for kind in kinds])
def test_inputs_of_another_modality_are_named(modality, kind):
    model = kind(config(modality=modality, image_size=8, frame_size=10, frame_stride=5))
    own = next(iter(INPUTS[modality].items()))
    for other in INPUTS.keys() - {modality, "video" if modality == "image" else ""}:
        for name, value in INPUTS[other].items():
            message = rf"received {name}; wanted .*config.modality is '{modality}'.*Remedy: pass what an? .*={other!r}"
            for also in ({}, dict([own])):
                with pytest.raises(ValueError, match=message):
                    model(**{name: value}, **also)
            if kind is not SeqConvForMultipleChoice:
                assert torch.equal(model.eval()(**dict([own]), **{name: None})[0], model(**dict([own]))[0])


def test_features_of_sound_by_either_name():
    options = {"num_audio_features": 8, "num_labels": 3}
    model = SeqConvForAudioClassification(config(audio_input="features", **options)).eval()
    features = torch.randn(2, 5, 8)
    assert model.main_input_name == model.model.main_input_name == "input_features"
    assert torch.equal(model(input_features=features).logits, model(features).logits)
    assert torch.equal(model.model(input_features=features)[0], model.model(input_values=features)[0])
    with pytest.raises(ValueError, match=r"shape \(2, 8, 5\); wanted \(batch, frames, 8\).*transpose"):
        model(input_features=features.mT)
    with pytest.raises(ValueError, match="input_values and input_features; wanted input_features or inputs_embeds"):
        model(features, input_features=features)
    waveforms = SeqConvForAudioClassification(config(frame_size=10, frame_stride=5))
    with pytest.raises(ValueError, match=r"wanted input_values: config.audio_input is 'waveform'"):
        waveforms(input_features=features)


@pytest.mark.parametrize("name", ["cu_seqlens", "cu_seq_lens_q", "seq_idx"])
def test_packed_sequences_are_neither_pooled_nor_ignored(name):
    for kind in (SeqConvForSequenceClassification, SeqConvForMultipleChoice):
        with pytest.raises(ValueError, match=rf"packed sequences \({name}\); wanted one sequence per row"):
            kind(config())(prompts(), **{name: torch.tensor([0, 3, 7])})


EXAMPLES = mixer_entry("attention").examples


@pytest.mark.parametrize("options", EXAMPLES, ids=str)
@pytest.mark.parametrize("kind", [SeqConvModel, SeqConvForMaskedLM])
def test_attention_implementations_agree(kind, options, tmp_path):
    torch.manual_seed(0)
    model, ids = kind(config("attention", mixer_options=options)).eval().double(), prompts(2, 23)
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    want = [model(ids)[0], model(ids, attention_mask=mask)[0]]
    model.set_attn_implementation("eager")
    used = {module.attn_implementation for module in model.modules() if isinstance(module, Attention)}
    assert used == {"eager"}
    with mock.patch("torch.nn.functional.scaled_dot_product_attention", side_effect=AssertionError):
        got = [model(ids)[0], model(ids, attention_mask=mask)[0]]
    torch.testing.assert_close(got, want)
    model.save_pretrained(tmp_path)
    read = kind.from_pretrained(tmp_path, attn_implementation="eager")
    assert {module.attn_implementation for module in read.modules() if isinstance(module, Attention)} == {"eager"}


def test_eager_attention_in_generation_and_gradients():
    model, ids = language_model("attention"), prompts()
    want = model.generate(ids, max_new_tokens=5, do_sample=False)
    model(ids, labels=ids).loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.set_attn_implementation("eager")
    assert torch.equal(model.generate(ids, max_new_tokens=5, do_sample=False), want)
    model.zero_grad()
    model(ids, labels=ids).loss.backward()
    torch.testing.assert_close({name: p.grad for name, p in model.named_parameters()}, gradients)


@pytest.mark.parametrize("name", ["flash_attention_2", "flex_attention", "paged|eager", "nonsense"])
def test_other_attention_implementations_raise(name, tmp_path):
    message = rf"attn_implementation='{re.escape(name)}'; wanted 'sdpa' or 'eager'.*Remedy"
    model = language_model("attention", dtype=torch.float32)
    with pytest.raises(ValueError, match=message):
        model.set_attn_implementation(name)
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation=name)
    with pytest.raises(ValueError, match=message):
        AutoModelForCausalLM.from_config(config("attention"), attn_implementation=name)


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
