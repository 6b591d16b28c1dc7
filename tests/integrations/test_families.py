"""Families of linear-time models in transformers: on seqconv they give what they gave, in training and decoding."""

import pytest
import torch
from tiny_families import FAMILIES, RELEASE, VOCAB, build, chunks, tokens
from torch.nn.functional import cross_entropy

import seqconv
from seqconv.integrations.transformers import active, patching
from seqconv.integrations.transformers.call import begin
from tolerances import assert_near

pytestmark = pytest.mark.filterwarnings("default")  # transformers warns of its own deprecations
every_family = pytest.mark.parametrize("family", FAMILIES)
INPUT_PADDING_LEAKS = {"recurrent_gemma", "rwkv", "xlstm"}
"""Padding is an input like any other there, also in transformers: batches of prompts of one length only."""


@pytest.fixture(autouse=True)
def _restored():
    yield
    assert active() == ()


@pytest.fixture
def calls(monkeypatch):
    """Layers that ran on seqconv, as they were called."""
    seen = []
    monkeypatch.setattr(patching, "begin", lambda *given: seen.append(begin(*given)) or seen[-1])
    return seen


def padded(family, length=21):
    """Tokens of two rows, one of them padded on the left by 5, and their mask."""
    ids, mask = tokens(length=length), torch.ones(2, length, dtype=torch.long)
    if family not in INPUT_PADDING_LEAKS:
        ids[1, :5], mask[1, :5] = 0, 0
    return ids, mask


def step(model, ids, mask, dtype=torch.float32):
    """Logits at real tokens and gradients of all parameters."""
    model.zero_grad()
    logits = model(ids, attention_mask=mask, use_cache=False).logits
    targets = ids.roll(-1, 1).masked_fill(mask == 0, -100)
    cross_entropy(logits.flatten(0, 1).float(), targets.flatten()).backward()
    gradients = {n: p.grad.to(dtype) for n, p in model.named_parameters() if p.grad is not None}
    return logits.detach()[mask.bool()].to(dtype), gradients


def error(got, want):
    return (got.double() - want.double()).abs().max().item() / max(want.abs().max().item(), 1e-6)


def spread(got, want):
    """Root mean square, over the parameters, of the relative error: one small gradient alone is mostly rounding."""
    return sum(error(got[name], gradient) ** 2 for name, gradient in want.items()) ** 0.5 / len(want) ** 0.5


@every_family
@pytest.mark.parametrize("training", [False, True])
def test_logits_and_gradients_of_every_parameter(family, training, calls):
    model = build(family).train(training)
    ids, mask = padded(family)
    logits, gradients = step(model, ids, mask)
    assert not calls
    with seqconv.accelerate(model):
        got, got_gradients = step(model, ids, mask)
    assert calls
    assert_near(got, logits, what="logits")
    assert got_gradients.keys() == gradients.keys()
    for name, gradient in gradients.items():
        assert_near(got_gradients[name], gradient, what=name)


@every_family
def test_bfloat16_is_as_near_to_float32_as_transformers_is(family):
    model, wide = build(family, dtype=torch.bfloat16), build(family, dtype=torch.bfloat16).float()
    ids, mask = padded(family)
    found = []
    for shift in range(0, 36, 6):  # the rounding of one batch is luck
        batch = ((ids + shift) % VOCAB).clamp(min=2) * mask
        want, stock = step(wide, batch, mask), step(model, batch, mask)
        with seqconv.accelerate(model):
            got = step(model, batch, mask)
        found.append(
            [error(got[0], want[0]), error(stock[0], want[0]), spread(got[1], want[1]), spread(stock[1], want[1])]
        )
    logits, stock_logits, gradients, stock_gradients = torch.tensor(found).mean(0).tolist()
    assert logits <= 2 * stock_logits + 1e-2
    assert gradients <= 2 * stock_gradients + 1e-2


NO_CHUNKS = {"falcon_h1", "recurrent_gemma"} if RELEASE < (5, 23) else set()
"""The attention mask of Falcon-H1 fits no second call there; layers of RecurrentGemma are not given the cache."""


@every_family
def test_greedy_tokens_and_those_of_beams(family, calls):
    if family == "falcon_h1" and family in NO_CHUNKS:
        pytest.skip("transformers raises")
    model = build(family)
    ids, mask = padded(family, 9)
    if family == "rwkv":
        ids, mask = ids[:1], mask[:1]  # transformers mixes the rows of a step
    options = {"attention_mask": mask, "max_new_tokens": 8, "do_sample": False}
    every_number = [1] if family in ("rwkv", "xlstm") else [1, 3]  # transformers cannot reorder their caches
    uncached = {"use_cache": False} if family == "minimax" else {}  # whose states do not follow their beams
    want = [model.generate(ids, num_beams=beams, **uncached, **options) for beams in every_number]
    assert not calls
    with seqconv.accelerate(model):
        for beams, expected in zip(every_number, want, strict=True):
            assert torch.equal(model.generate(ids, num_beams=beams, **options), expected)
    assert calls


@every_family
def test_a_prompt_in_chunks_then_steps(family):
    if family in NO_CHUNKS:
        pytest.skip("transformers can't")
    model = build(family)
    ids, mask = padded(family)
    lengths = (9, 5, 4, 1, 1, 1)
    with seqconv.accelerate(model), torch.no_grad():
        want = model(ids, attention_mask=mask, use_cache=False).logits
        got = chunks(model, ids, mask, lengths)
    assert_near(got[mask.bool()], want[mask.bool()])


FAST = ("mamba", "zamba2", "qwen3_next", "lfm2")
"""One family per kind of layer."""


@pytest.mark.parametrize("family", [pytest.param(f, marks=[] if f in FAST else pytest.mark.slow) for f in FAMILIES])
def test_gradient_checkpointing(family):
    model = build(family).train()
    ids, mask = padded(family)
    _, want = step(model, ids, mask)
    model.gradient_checkpointing_enable()
    with seqconv.accelerate(model):
        _, got = step(model, ids, mask)
    assert got.keys() == want.keys()
    for name, gradient in want.items():
        assert_near(got[name], gradient, what=name)
