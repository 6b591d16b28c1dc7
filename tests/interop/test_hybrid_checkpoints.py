"""RecurrentGemma and LFM2 as whole checkpoints: logits, gradients, padding and greedy tokens of transformers' own."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import Lfm2Config, Lfm2ForCausalLM, RecurrentGemmaForCausalLM
from transformers.models.recurrent_gemma.modeling_recurrent_gemma import RecurrentGemmaRglru

from golden_cases import GOLDEN, assert_close, load_variant
from seqconv.hf import SeqConvConfig, SeqConvForCausalLM
from seqconv.interop import load_checkpoint
from seqconv.interop.checkpoint import convert_checkpoint
from seqconv.interop.importer import Weights
from tolerances import assert_near

GEMMA = GOLDEN / "scan/hf_recurrent_gemma/ckpt"
FLOAT32_RECURRENCE = 2e-6
"""The original accumulates its recurrence in float32 even in a float64 model."""
FLOAT32_RATES = 1e-7


def test_golden_logits_and_tokens_of_recurrent_gemma():
    case = load_variant("scan/hf_recurrent_gemma", "logits")
    model = load_checkpoint(GEMMA)
    prompt = case.tensors["gen.prompt"]
    got = model.generate(prompt, max_new_tokens=20, do_sample=False)
    assert torch.equal(got[:, prompt.shape[1] :], case.tensors["gen.tokens"])
    with torch.no_grad():
        logits = model.double()(case.tensors["in.input_ids"]).logits
    assert_close(logits, case.tensors["out.logits"], 0, FLOAT32_RECURRENCE, "logits")


def test_rows_without_padding_equal_the_golden_ones():
    """The original takes padding for tokens: only its rows without any are those of a sequence alone."""
    case = load_variant("scan/hf_recurrent_gemma", "left_padded")
    mask, ids = case.tensors["in.attention_mask"], case.tensors["in.input_ids"]
    whole = mask.bool().all(1)
    assert whole.any()
    assert not whole.all()
    model = load_checkpoint(GEMMA).double()
    with torch.no_grad():
        logits = model(ids, attention_mask=mask).logits
        assert_close(logits[whole], case.tensors["out.logits"][whole], 0, FLOAT32_RECURRENCE, "logits")
        for row in (~whole).nonzero().flatten():
            real = mask[row].bool()
            assert_near(logits[row, real], model(ids[row, real][None]).logits[0])


def test_recurrent_gemma_in_float64(monkeypatch):
    """The original with its casts to float32 lifted; its rates of rotation are rounded to float32."""
    monkeypatch.setattr(RecurrentGemmaRglru._rnn_scan, "__defaults__", (torch.float64,))
    original = RecurrentGemmaForCausalLM.from_pretrained(GEMMA, dtype=torch.float64).eval()
    leaves = {name: t.double().requires_grad_() for name, t in load_file(GEMMA / "model.safetensors").items()}
    options, weights = convert_checkpoint(json.loads((GEMMA / "config.json").read_text()), Weights("gemma", leaves))
    model = SeqConvForCausalLM(SeqConvConfig(**options)).double().eval()
    ids = torch.randint(1, 60, (2, 17), generator=torch.Generator().manual_seed(0))
    logits = torch.func.functional_call(model, weights, (), {"input_ids": ids}, tie_weights=False).logits
    with monkeypatch.context() as lifted:
        lifted.setattr(torch.Tensor, "float", torch.Tensor.double)
        want = original(ids, use_cache=False).logits
    assert_close(logits, want, 0, FLOAT32_RATES, "logits")
    cotangent = torch.randn(want.shape, dtype=want.dtype, generator=torch.Generator().manual_seed(1))
    (logits * cotangent).sum().backward()
    (want * cotangent).sum().backward()
    gradients = dict(original.named_parameters())
    assert leaves.keys() == gradients.keys()
    for name, leaf in leaves.items():
        largest = gradients[name].grad.abs().max().item()
        assert_close(leaf.grad, gradients[name].grad, 0, FLOAT32_RATES * max(largest, 1.0), name)


def small_lfm2(**options):
    torch.manual_seed(0)
    sizes = {"vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "block_multiple_of": 16}
    kinds = ["conv", "full_attention", "conv", "full_attention"]
    model = Lfm2ForCausalLM(Lfm2Config(**sizes, layer_types=kinds, **options)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("bias", [False, True])
def test_lfm2_is_the_same_function(tmp_path, bias):
    original = small_lfm2(conv_bias=bias)
    original.save_pretrained(tmp_path)
    model, ids = load_checkpoint(tmp_path), torch.randint(0, 60, (2, 15))
    with torch.no_grad():
        assert_near(model(ids).logits, original(ids).logits)
    asked = {"max_new_tokens": 12, "do_sample": False}
    assert torch.equal(model.generate(ids, **asked), original.generate(ids, **asked))
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    if not bias:  # with one, padding of the original enters its convolutions
        with torch.no_grad():
            padded, want = (m(ids, attention_mask=mask).logits[mask.bool()] for m in (model, original))
        assert_near(padded, want)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer_types": ["conv"]}, "1 layer_types for 4 layers"),
        ({"layer_types": ["conv", "mamba", "conv", "conv"]}, "layer_types='mamba'"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_type='yarn'"),
    ],
)
def test_options_that_cannot_be_carried_raise(tmp_path, change, message):
    small_lfm2().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        load_checkpoint(tmp_path)


def test_embeddings_passed_in_are_scaled_as_tokens_are():
    model = load_checkpoint(GEMMA)
    ids = torch.arange(7)[None]
    with torch.no_grad():
        assert_near(model(inputs_embeds=model.get_input_embeddings()(ids)).logits, model(ids).logits)
    assert model(ids).logits.abs().max() < model.config.logits_soft_cap
    with pytest.raises(ValueError, match=r"logits_soft_cap=-1.0"):
        SeqConvConfig(logits_soft_cap=-1.0)
