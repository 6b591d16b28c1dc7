"""Models with int8 weights: near the floating model, in every form; what raises."""

import copy

import pytest
import torch
from torch import nn

from seqconv import SeqConvConfig, SeqConvForCausalLM, create_mixer, quantize
from seqconv.layers.linear import Linear
from seqconv.quantization import Int8Linear
from tolerances import assert_near


def model(mixer: str) -> SeqConvForCausalLM:
    torch.manual_seed(0)
    config = SeqConvConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, mixer=mixer, mlp="swiglu")
    return SeqConvForCausalLM(config).eval()


@torch.no_grad()
def dequantized(plain: SeqConvForCausalLM, narrow: SeqConvForCausalLM) -> SeqConvForCausalLM:
    """The floating model with the values that the int8 weights stand for; its head is not tied."""
    rounded = copy.deepcopy(plain)
    for name, layer in narrow.named_modules():
        if isinstance(layer, Int8Linear):
            values = layer.weight_int8.float() * layer.weight_scale[:, None]
            rounded.get_submodule(name).weight = nn.Parameter(values)
    return rounded


@pytest.mark.parametrize("mixer", ["mamba", "mamba2", "attention", "hyena", "gated_deltanet"])
def test_a_model_decodes_with_int8_weights(mixer):
    plain = model(mixer)
    narrow = quantize(copy.deepcopy(plain))
    rounded = dequantized(plain, narrow)
    assert not [m for m in narrow.modules() if type(m) is Linear]
    tokens = torch.randint(0, 50, (2, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        got = narrow(tokens).logits
        assert_near(got, rounded(tokens).logits)
        assert not torch.equal(got, plain(tokens).logits)
        prefix = narrow(tokens[:, :11], use_cache=True)
        last = narrow(tokens[:, 11:], past_key_values=prefix.past_key_values, use_cache=True)
    assert_near(last.logits[:, 0], got[:, 11])
    assert narrow.generate(tokens, max_new_tokens=3, do_sample=False).shape == (2, 15)


@pytest.mark.parametrize("group_size", [None, 8])
def test_the_layer_equals_its_dequantized_weight(group_size):
    linear = nn.Linear(32, 300)
    layer = Int8Linear(linear, group_size=group_size)
    scale = layer.weight_scale.view(300, -1).repeat_interleave(group_size or 32, 1)
    x = torch.randn(20, 32, generator=torch.Generator().manual_seed(0), requires_grad=True)
    dense = layer.weight_int8.float() * scale
    for rows in (x, x[:3, None]):
        assert_near(layer(rows), nn.functional.linear(rows, dense, linear.bias))
    layer(x).sum().backward()
    assert_near(x.grad, dense.sum(0).expand(20, -1))
    assert layer.bfloat16().weight_scale.dtype == torch.float32
    assert layer(x.detach().bfloat16()).dtype == torch.bfloat16


def test_what_raises():
    with pytest.raises(ValueError, match=r"quantize: received bits=4; wanted 8"):
        quantize(create_mixer("mamba", 8), bits=4)
    with pytest.raises(ValueError, match=r"quantize: received LayerNorm; wanted a module with Linear layers"):
        quantize(nn.LayerNorm(8))
    mixer = create_mixer("mamba", 8)
    with pytest.raises(ValueError, match=r"quantize_rows: received group_size=3 for 8 inputs"):
        quantize(mixer, group_size=3)
    assert type(mixer.in_proj) is Linear
    with pytest.raises(AttributeError, match="no attribute 'weight'"):
        quantize(mixer).in_proj.weight  # noqa: B018
