"""Small models for the tests of the transformers side."""

import pytest
import torch

from representatives import defaults, representatives
from seqconv import SeqConvConfig, SeqConvForCausalLM, SeqConvForMaskedLM, create_mixer, list_mixers
from seqconv.registry import mixer_entry

VOCAB = 17


def config(mixer="s4d", **options):
    """Two layers of width 8; logits are spread widely, so that the likeliest token is never a tie."""
    small = {"vocab_size": VOCAB, "hidden_size": 8, "num_hidden_layers": 2, "initializer_range": 1.0}
    return SeqConvConfig(mixer=mixer, **{**small, **options})


def language_model(mixer="s4d", *, dtype=torch.float64, **options):
    torch.manual_seed(0)
    return SeqConvForCausalLM(config(mixer, **options)).eval().to(dtype)


def token_model(mixer, **options):
    """A causal language model where the mixer is causal, a masked one where it is not; both have a head per token."""
    model = SeqConvForCausalLM if create_mixer(mixer, 8).causal else SeqConvForMaskedLM
    return model(config(mixer, **options))


def prompts(batch=2, length=7):
    return torch.randint(0, VOCAB, (batch, length), generator=torch.Generator().manual_seed(length))


def left_padded(*lengths):
    """Prompts of these lengths, padded on the left to the longest, and their mask."""
    longest = max(lengths)
    ids = prompts(len(lengths), longest)
    mask = torch.arange(longest) >= longest - torch.tensor(lengths)[:, None]
    return ids * mask, mask.long()


def causal_mixers():
    return [name for name in list_mixers() if create_mixer(name, 8).causal]


def cases():
    """Every registered mixer with its defaults and with each of its examples."""
    found = [(name, dict(options)) for name in list_mixers() for options in ({}, *mixer_entry(name).examples)]
    return [case for i, case in enumerate(found) if case not in found[:i]]


def label(case):
    return case[0] + "".join(f"-{key}={value}" for key, value in case[1].items())


each_default = pytest.mark.parametrize("case", defaults(cases(), label))
each_representative = pytest.mark.parametrize("mixer", representatives(list_mixers()))
each_causal = pytest.mark.parametrize("mixer", representatives(causal_mixers()))
"""Every case or name; those that others represent are slow tests."""
