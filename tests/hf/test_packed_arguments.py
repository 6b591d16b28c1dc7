"""Arguments that collators, trainers and transformers' own classes pass: honoured, or an error before any work."""

from itertools import pairwise

import pytest
import torch
from tiny import cases, config, each_representative, label, language_model, left_padded, prompts

from representatives import default_representatives
from seqconv import SeqConvForSequenceClassification, SeqConvModel

CUTS = {0: [0, 3, 8], 1: [0, 5, 8]}
"""Where the packed sequences of each row begin and end."""

FORMS = {
    "seq_idx": lambda: {"seq_idx": torch.tensor([[0] * 3 + [1] * 5, [4] * 5 + [5] * 3])},
    "position_ids": lambda: {"position_ids": torch.tensor([[0, 1, 2, 0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 0, 1, 2]])},
    "cu_seqlens": lambda: {"cu_seqlens": torch.tensor([0, 3, 8, 13, 16])},
    "cu_seq_lens_q": lambda: {
        "cu_seq_lens_q": torch.tensor([0, 3, 8, 13, 16], dtype=torch.int32),
        "cu_seq_lens_k": torch.tensor([0, 3, 8, 13, 16], dtype=torch.int32),
        "max_length_q": 5,
        "max_length_k": 5,
    },
}


def backbone(case, **options):
    torch.manual_seed(0)
    return SeqConvModel(config(case[0], mixer_options=case[1], **options)).eval().double()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", default_representatives(cases(), label))
def test_packed_sequences_are_separate_in_every_form_and_row(case, form):
    model, ids = backbone(case), prompts(2, 8)
    got = model(ids, use_cache=False, **FORMS[form]()).last_hidden_state
    for row, cuts in CUTS.items():
        for start, end in pairwise(cuts):
            want = model(ids[row : row + 1, start:end], use_cache=False).last_hidden_state
            torch.testing.assert_close(got[row : row + 1, start:end], want)
    one = {name: value[:1] for name, value in FORMS["seq_idx"]().items()}
    torch.testing.assert_close(model(ids[:1], use_cache=False, **one).last_hidden_state, got[:1])


def test_positions_and_losses_of_packed_rows():
    model, ids = language_model(position_embedding="learned"), prompts(2, 8)
    losses, logits = [], model(ids, **FORMS["seq_idx"]()).logits
    for row, cuts in CUTS.items():
        for start, end in pairwise(cuts):
            alone = model(ids[row : row + 1, start:end], labels=ids[row : row + 1, start:end], use_cache=False)
            torch.testing.assert_close(alone.logits, logits[row : row + 1, start:end])
            losses += [alone.loss] * (end - start - 1)
    for form in FORMS.values():
        torch.testing.assert_close(model(ids, labels=ids, **form()).loss, torch.stack(losses).mean())


def test_padding_around_packed_sequences():
    model, ids = language_model("mamba"), prompts(1, 8)
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 0]])
    positions = torch.tensor([[1, 1, 0, 1, 0, 1, 2, 1]])
    got = model(ids, attention_mask=mask, position_ids=positions, use_cache=False).logits
    torch.testing.assert_close(got[:, 2:4], model(ids[:, 2:4], use_cache=False).logits)
    torch.testing.assert_close(got[:, 4:7], model(ids[:, 4:7], use_cache=False).logits)
    padded, mask = left_padded(7, 4)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    want = model(padded, attention_mask=mask, use_cache=False).logits
    got = model(padded, attention_mask=mask, position_ids=positions, use_cache=False).logits
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seq_idx": torch.zeros(1, 8).long()}, r"seq_idx of shape \(1, 8\); wanted \(batch, length\) = \(2, 8\)"),
        (
            {"seq_idx": torch.zeros(2, 8).long(), "cu_seqlens": torch.tensor([0, 3, 16])},
            r"cu_seqlens and seq_idx that disagree",
        ),
        ({"token_type_ids": torch.tensor([[0] * 4 + [1] * 4] * 2)}, r"token_type_ids that would change the result"),
        ({"output_attentions": True}, r"output_attentions that would change the result"),
        ({"seq_idx": torch.zeros(2, 8).long(), "use_cache": True}, r"no packed sequences"),
        ({"labels": 1}, r"argument 'labels'; wanted an argument that this model takes"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_arguments_that_would_be_ignored_raise(arguments, message):
    with pytest.raises(ValueError, match=message):
        backbone(("s4d", {}))(prompts(2, 8), **arguments)


def test_what_changes_nothing_is_taken():
    model, ids = language_model(), prompts(2, 8)
    want = model(ids).logits
    extra = {"token_type_ids": torch.zeros_like(ids), "cache_position": torch.arange(8), "output_attentions": False}
    torch.testing.assert_close(model(ids, return_loss=True, num_items_in_batch=16, **extra).logits, want)


@each_representative
def test_the_last_token_is_found_without_a_mask(mixer):
    torch.manual_seed(0)
    model = SeqConvForSequenceClassification(config(mixer, pooling="last", pad_token_id=0)).eval().double()
    ids = prompts(3, 8).clamp(min=1)
    ids[0, 5:], ids[1, :2], ids[2, 3] = 0, 0, 0
    got = model(ids).logits
    torch.testing.assert_close(got[:1], model(ids[:1, :5]).logits)
    torch.testing.assert_close(got[1:2], model(ids[1:2, 2:]).logits)
    torch.testing.assert_close(got[2:], model(ids[2:], attention_mask=torch.ones(1, 8)).logits)


def test_packed_sequences_are_not_pooled():
    model = SeqConvForSequenceClassification(config()).eval()
    with pytest.raises(ValueError, match=r"position_ids that start again at 0.*one by one"):
        model(prompts(2, 8), **FORMS["position_ids"]())
