"""Adaptive embedding and softmax: equal to the originals and to torch's, in models, saved and loaded, with errors."""

import pytest
import torch
import torch.nn.functional as F

from golden_cases import Imported, assert_close, load_case
from seqconv import SeqConvConfig, SeqConvForCausalLM, SeqConvForMaskedLM, from_original, quantize
from seqconv.hf.adaptive.layers import AdaptiveEmbedding, AdaptiveSoftmax
from seqconv.hf.adaptive.options import AdaptiveOptions

CASES = ("adaptive_s4", "adaptive_s4_untied_projections", "adaptive_s4_one_width", "adaptive_mega",
         "adaptive_mega_untied_projections", "adaptive_mega_untied")  # fmt: skip
SMALL = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 1, "mixer": "gla"}
BANDS = {"adaptive_cutoffs": [10, 18]}


def small(**changes):
    torch.manual_seed(0)
    return SeqConvForCausalLM(SeqConvConfig(**{**SMALL, **BANDS, **changes})).eval()


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_of_the_originals(name):
    """Of the embedding, the log-probabilities of all tokens and the loss, in float64."""
    case = load_case(name)
    imported = Imported(case.meta["original"], case.group("param"), case.hyper)
    hidden = case.tensors["hidden"].clone().requires_grad_()

    class Both(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = imported.module

        def forward(self, ids, hidden, targets):
            return self.inner(ids), self.inner.lm_head(hidden), self.inner.lm_head(hidden, targets)

    weights = {f"inner.{name}": weight for name, weight in imported.weights.items()}
    given = (case.tensors["ids"], hidden, case.tensors["targets"])
    embedded, found, costs = torch.func.functional_call(Both(), weights, given)
    assert_close(found, case.tensors["log_probabilities"], 1e-9, 1e-10)
    assert_close(embedded, case.tensors["embedded"], 1e-9, 1e-10)
    assert_close(costs.mean(), case.tensors["loss"], 1e-9, 1e-10)
    assert_close(costs, -found.gather(-1, given[2][..., None])[..., 0], 1e-9, 1e-10)
    (costs.mean() + (embedded * case.tensors["probe"]).sum()).backward()
    assert_close(hidden.grad, case.tensors["grad_hidden"], 1e-9, 1e-10)
    wanted, got = case.group("grad"), imported.gradients()
    assert set(wanted) == set(got)
    for parameter, gradient in wanted.items():
        assert_close(got[parameter], gradient, 1e-9, 1e-10, parameter)


def test_whole_state_dicts_of_the_originals_name_tied_tensors_too():
    case = load_case("adaptive_mega")
    params = case.group("param")
    tied = {"adaptive_softmax.head.word_proj.weight": params["embed_tokens.embeddings.0.0.weight"],
            "adaptive_softmax.tail.0.0.weight": params["embed_tokens.embeddings.1.1.weight"],
            "adaptive_softmax.tail.0.2.weight": params["embed_tokens.embeddings.1.0.weight"],
            "adaptive_softmax.version": torch.ones(1)}  # fmt: skip
    module = from_original(case.meta["original"], params | tied, **case.hyper)
    config = SeqConvConfig(**{**SMALL, "adaptive_cutoffs": [12, 22]})
    model = SeqConvForCausalLM(config).double()
    assert model.lm_head.load_state_dict(module.lm_head.state_dict())
    assert model.model.embed_tokens.load_state_dict(module.embed_tokens.state_dict())


@pytest.mark.parametrize(
    ("name", "hyper", "message"),
    [
        ("adaptive_s4", {"tie_projs": [True, False]}, r"tie_projs=\[True, False\]; wanted one value"),
        ("adaptive_s4", {"tie_weights": False}, r"tie_projs without tie_weights"),
        ("adaptive_mega", {"cutoff": [12, 41]}, r"adaptive_cutoffs=\[12, 41\]"),
    ],
)
def test_variants_of_the_originals_that_raise(name, hyper, message):
    case = load_case(name)
    with pytest.raises(ValueError, match=message):
        from_original(case.meta["original"], case.group("param"), **{**case.hyper, **hyper})


def test_equal_to_torchs_adaptive_softmax():
    """``AdaptiveLogSoftmaxWithLoss`` has no ties, no dropout and a bias of the frequent tokens at most."""
    torch.manual_seed(0)
    head = AdaptiveSoftmax(40, 16, [10, 18], AdaptiveOptions()).double()
    reference = torch.nn.AdaptiveLogSoftmaxWithLoss(16, 40, [10, 18]).double()
    with torch.no_grad():
        reference.head.weight.copy_(torch.cat([head.words[0].weight, head.clusters.weight]))
        for i, tail in enumerate(reference.tail, 1):
            tail[0].weight.copy_(head.projections[i].weight.mT)
            tail[1].weight.copy_(head.words[i].weight)
    hidden, targets = torch.randn(50, 16, dtype=torch.float64), torch.randint(40, (50,))
    assert torch.allclose(head(hidden), reference.log_prob(hidden))
    assert torch.allclose(head(hidden, targets).mean(), reference(hidden, targets).loss)
    assert torch.allclose(head(hidden).exp().sum(-1), torch.ones(50, dtype=torch.float64))


def test_a_model_trains_without_the_logits_of_all_tokens():
    model, ids = small(), torch.randint(40, (2, 9))
    labels = ids.clone()
    labels[0, :4] = -100
    output = model(ids, labels=labels)
    costs = F.cross_entropy(output.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="none")
    assert torch.allclose(output.loss, costs.sum() / 13)
    assert torch.allclose(model(ids, labels=labels, num_items_in_batch=26).loss, costs.sum() / 26)
    trained = model.train()(ids, labels=labels)
    assert trained.logits is None
    assert torch.allclose(trained.loss, output.loss)
    trained.loss.backward()
    assert all(p.grad is not None for p in model.parameters()), "DDP waits for every parameter"


def test_padding_packing_and_kept_logits():
    model, ids = small(), torch.randint(40, (1, 10))
    bounds = torch.tensor([0, 4, 10])
    packed = model(ids, labels=ids, cu_seqlens=bounds)
    alone = [model(part, labels=part).loss * (part.shape[1] - 1) for part in ids.split([4, 6], 1)]
    assert torch.allclose(packed.loss, sum(alone) / 8)
    assert torch.allclose(model(ids, logits_to_keep=2).logits, model(ids).logits[:, -2:])


def test_generation_saving_and_ties(tmp_path):
    model, ids = small(embedding_scale=4.0), torch.randint(40, (2, 5))
    tokens = model.generate(ids, max_new_tokens=4, do_sample=False)
    assert torch.equal(tokens[:, 5], model(ids).logits[:, -1].argmax(-1))
    model.save_pretrained(tmp_path)
    again = SeqConvForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(again(ids).logits, model(ids).logits)
    assert again.lm_head.words[1].weight is again.model.embed_tokens.bands[1].weight
    assert again.lm_head.projections[1].weight is again.model.embed_tokens.projections[1].weight
    untied = small(tie_word_embeddings=False)
    assert untied.lm_head.words[1].weight is not untied.model.embed_tokens.bands[1].weight
    half = small(adaptive_options={"tie_projections": False})
    assert half.lm_head.words[1].weight is half.model.embed_tokens.bands[1].weight
    assert half.lm_head.projections[1].weight is not half.model.embed_tokens.projections[1].weight


def test_a_static_cache_gives_the_same_tokens():
    model, ids = small(), torch.randint(40, (2, 5))
    sizes = {"max_new_tokens": 4, "do_sample": False}
    static = model.generate(ids, cache_implementation="static", disable_compile=True, **sizes)
    assert torch.equal(static, model.generate(ids, **sizes))


def test_initial_values_of_the_originals():
    options = AdaptiveOptions(init="transformer_xl", init_scale=0.5, bias_scale=1.0, head_projection=True, bias=True)
    torch.manual_seed(0)
    sizes = (4000, 64, [1000, 2000], options)
    embedding, head = AdaptiveEmbedding(*sizes), AdaptiveSoftmax(*sizes)
    for i, width in enumerate((64, 16, 4)):
        assert abs(embedding.bands[i].weight.std() * width**0.5 - 0.5) < 0.02
        assert abs(embedding.projections[i].weight.std() * 8 - 0.5) < 0.05
        assert 0.12 < head.words[i].bias.abs().max() <= 1 / 8
    assert not head.clusters.weight.any()
    assert not head.projections[0].weight.any()
    other = AdaptiveEmbedding(4000, 64, [1000, 2000], AdaptiveOptions())
    assert 0.9 * (6 / 80) ** 0.5 < other.projections[1].weight.abs().max() <= (6 / 80) ** 0.5, "Xavier"


def test_a_masked_model_predicts_all_tokens():
    model = SeqConvForMaskedLM(SeqConvConfig(**{**SMALL, **BANDS, "bidirectional": True})).eval()
    ids = torch.randint(40, (2, 6))
    output = model(ids, labels=ids)
    assert torch.allclose(output.loss, F.cross_entropy(output.logits.flatten(0, 1), ids.flatten()))


def test_half_precision_and_int8(tmp_path):
    model, ids = small(), torch.randint(40, (2, 6))
    wanted = model(ids).logits
    quantize(model).save_pretrained(tmp_path)
    got = SeqConvForCausalLM.from_pretrained(tmp_path)(ids).logits
    assert torch.allclose(got, model(ids).logits)
    assert torch.allclose(got, wanted, atol=0.1)
    half = small().to(torch.bfloat16)
    assert torch.allclose(half(ids).logits, wanted, atol=0.2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"adaptive_cutoffs": []}, r"adaptive_cutoffs=\[\]; wanted rising numbers between 0 and vocab_size=40"),
        ({"adaptive_cutoffs": [10, 10]}, r"adaptive_cutoffs=\[10, 10\]"),
        ({"adaptive_cutoffs": [10, 40]}, r"adaptive_cutoffs=\[10, 40\]"),
        ({"adaptive_cutoffs": "10"}, r"adaptive_cutoffs='10'"),
        ({"adaptive_cutoffs": [10, 18, 30]}, r"4 bands with hidden_size=16 and factor=4.0"),
        ({"adaptive_cutoffs": None, "adaptive_options": {"factor": 2}}, r"wanted none without adaptive_cutoffs"),
        ({"adaptive_options": {"facto": 2}}, r"option 'facto'.*did you mean 'factor'"),
        ({"adaptive_options": {"factor": 0.5}}, r"factor=0.5; wanted a number of at least 1"),
        ({"adaptive_options": {"dropout": 1.0}}, r"dropout=1.0; wanted a probability"),
        ({"adaptive_options": {"bias": 1}}, r"bias=1; wanted True or False"),
        ({"adaptive_options": {"init": "xavier"}}, r"init='xavier'; wanted fairseq or transformer_xl"),
        ({"adaptive_options": {"project": False}}, r"project=False, factor=4.0.*wanted factor=1"),
        ({"adaptive_options": [1]}, r"adaptive_options=\[1\]; wanted a mapping or None"),
        ({"logits_scale": 2.0}, r"logits_scale=2.0.*wanted text, and logits as they are"),
        ({"modality": "image"}, r"modality='image'.*wanted text"),
    ],
)
def test_wrong_options_raise(changes, message):
    with pytest.raises(ValueError, match=message):
        SeqConvConfig(**{**SMALL, **BANDS, **changes})


def test_the_vocabulary_cannot_be_resized():
    with pytest.raises(ValueError, match=r"resize_token_embeddings: received an adaptive embedding"):
        small().resize_token_embeddings(50)
