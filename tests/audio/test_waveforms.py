"""Generation of waveforms: samples as tokens, SaShiMi as a language model of them."""

import math

import pytest
import torch
from transformers import AutoModelForCausalLM

from seqconv import SeqConvConfig, SeqConvForAudioClassification, SeqConvForCausalLM
from seqconv.audio.mu_law import mu_law_decode, mu_law_encode

SMALL = {"hidden_size": 8, "num_hidden_layers": 1, "mixer": "s4d", "mlp": "gelu", "pool_sizes": [2, 3]}
GREEDY = {"max_new_tokens": 9, "do_sample": False}


def model():
    torch.manual_seed(0)
    config = SeqConvConfig(**SMALL, vocab_size=17, pool_unet=True, initializer_range=1.0)
    return SeqConvForCausalLM(config).double().eval()


def prompts():
    ids = torch.randint(0, 17, (2, 11), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    return ids, mask


def test_tokens_of_samples():
    want = {-1.0: 0, 0.0: 128, 1.0: 255, 0.5: 240, -0.01: 98}  # of the original's mu_law_encode
    samples = torch.tensor(list(want), dtype=torch.float64)
    assert mu_law_encode(samples).tolist() == list(want.values())
    x = torch.linspace(-1, 1, 999)
    for bits in (8, 16):
        tokens = mu_law_encode(x, bits)
        assert tokens.min() == 0
        assert tokens.max() == 2**bits - 1
        step = 2 * math.log(2**bits) * 2**-bits * (x.abs() + 2.0**-bits)
        assert ((mu_law_decode(tokens, bits) - x).abs() <= 1.1 * step + 1e-6).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mu_law_encode(torch.zeros(0)), r"received no samples"),
        (lambda: mu_law_encode(torch.tensor([0.5, 1.5])), r"samples up to 1.5; wanted samples in \[-1, 1\]"),
        (lambda: mu_law_encode(torch.tensor([torch.nan])), r"samples up to nan"),
        (lambda: mu_law_decode(torch.tensor([256])), r"tokens from 256 to 256; wanted 0 to 255"),
        (lambda: mu_law_encode(torch.zeros(2), 0), r"bits=0"),
    ],
)
def test_wrong_samples(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("beams", [1, 3])
def test_generation_with_states_is_generation_without(beams):
    lm, (ids, mask) = model(), prompts()
    with_states = lm.generate(ids, attention_mask=mask, num_beams=beams, **GREEDY)
    without = lm.generate(ids, attention_mask=mask, num_beams=beams, use_cache=False, **GREEDY)
    assert torch.equal(with_states, without)
    alone = lm.generate(ids[:1, 4:], num_beams=beams, **GREEDY)
    assert torch.equal(alone[0, 7:], with_states[0, 11:])


def test_saved_models_are_loaded_by_the_auto_class(tmp_path):
    lm, (ids, _) = model(), prompts()
    lm.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(again(ids).logits, lm(ids).logits)
    assert len(again(ids, output_hidden_states=True).hidden_states) == 5  # two stacks down, two up, and the output


def test_levels_train_with_checkpoints_of_activations():
    lm, (ids, _) = model().train(), prompts()
    gradients = []
    for enable in (False, True):
        lm.zero_grad()
        for module in lm.modules():
            if hasattr(module, "gradient_checkpointing"):
                module.gradient_checkpointing = enable
        lm(ids, labels=ids).loss.backward()
        gradients.append([p.grad.clone() for p in lm.parameters()])
    torch.testing.assert_close(gradients[1], gradients[0])


def test_padded_recordings_are_classified_as_each_alone():
    torch.manual_seed(0)
    config = SeqConvConfig(**SMALL, bidirectional=True, num_labels=3, frame_size=4, frame_stride=4)
    classifier = SeqConvForAudioClassification(config).double().eval()
    sounds, mask = torch.randn(2, 70, dtype=torch.float64), torch.ones(2, 70, dtype=torch.long)
    mask[1, 43:] = 0
    logits = classifier(sounds * mask, attention_mask=mask).logits
    torch.testing.assert_close(logits[1:], classifier(sounds[1:, :43]).logits)


def test_wrong_options():
    with pytest.raises(ValueError, match=r"pool_sizes=\[4, 0\]"):
        SeqConvConfig(pool_sizes=[4, 0])
    ids, _ = prompts()
    with pytest.raises(ValueError, match=r"='static' and pool_sizes.*leave cache_implementation out"):
        model().generate(ids, cache_implementation="static", **GREEDY)
