"""RWKV-4 against transformers: layers, extreme keys and decays, long sequences; initial values."""

import math

import pytest
import torch
from transformers import RwkvConfig
from transformers.models.rwkv.modeling_rwkv import RwkvFeedForward, RwkvSelfAttention

from seqconv import create_mixer
from seqconv.interop import from_original
from seqconv.mixers.linear_attention.rwkv.rwkv4 import average
from seqconv.types import LayerContext
from tolerances import assert_near

SIZES = {"hidden_size": 8, "attention_hidden_size": 12, "intermediate_size": 10}
LAYERS = {"RwkvSelfAttention": RwkvSelfAttention, "RwkvFeedForward": RwkvFeedForward}


def original(name):
    torch.manual_seed(0)
    layer = LAYERS[name](RwkvConfig(num_hidden_layers=3, **SIZES), layer_id=1)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(0.5 * torch.randn_like(parameter))
    return layer.double().eval()


@pytest.mark.parametrize("name", LAYERS)
def test_layers_of_transformers_give_the_same_outputs_and_gradients(name):
    reference = original(name)
    imported = from_original(f"huggingface/transformers:{name}", reference.state_dict(), **SIZES)
    inputs = torch.randn(2, 20, 8, dtype=torch.float64)
    found = []
    for layer in (lambda x: reference(x)[0], imported):
        x = inputs.clone().requires_grad_()
        y = layer(x)
        y.square().sum().backward()
        found.append((y.detach(), x.grad))
    # The original computes its recurrence in float32.
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found[1][1], found[0][1], rtol=1e-4, atol=1e-5)


def written_out(layer, k, v):
    """The averages with sums of up to 50 terms, as differences of logarithms in float64."""
    w, u, length = layer.time_decay.double().exp(), layer.bonus.double(), k.shape[1]
    outputs = []
    for t in range(length):
        age = (t - 1 - torch.arange(length, dtype=torch.float64))[:, None]
        scores = k - age * w
        scores[:, t] = u + k[:, t]
        outputs.append((scores[:, : t + 1].softmax(dim=1) * v[:, : t + 1]).sum(1))
    return torch.stack(outputs, dim=1)


def averages(layer, k, v):
    """Those of the layer from its initial state."""
    state = layer.init_state(len(k))
    return average(k, v, layer.time_decay, layer.bonus, state.sums, state.exponent)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("size", [1.0, 100.0, 1e4])
def test_keys_of_any_size_and_decays_of_any_speed_are_averaged(dtype, size):
    torch.manual_seed(1)
    layer = create_mixer("rwkv4", 8).to(dtype)
    with torch.no_grad():
        layer.time_decay.copy_(torch.linspace(-8, 5, 8))
    k, v = size * torch.randn(2, 50, 8, dtype=torch.float64), torch.randn(2, 50, 8, dtype=torch.float64)
    got, _, exponent = averages(layer, k.to(dtype), v.to(dtype))
    assert exponent.isfinite().all()
    assert_near(got, written_out(layer, k.to(dtype).double(), v.to(dtype).double()))


def test_long_sequences_keep_their_digits_in_float32():
    torch.manual_seed(1)
    layer = create_mixer("rwkv4", 8)
    k, v = torch.randn(1, 5000, 8), torch.randn(1, 5000, 8)
    wide = create_mixer("rwkv4", 8).double()
    want = averages(wide, k.double(), v.double())[0]
    assert_near(averages(layer, k, v)[0], want)


def test_initial_values_depend_on_the_depth():
    layer = create_mixer("rwkv4", 8, layer=LayerContext(1, 3))
    assert layer.time_decay[3].item() == pytest.approx(-5 + 8 * (3 / 7) ** (0.7 + 1.3 * 0.5))
    assert layer.bonus[1].item() == pytest.approx(math.log(0.3) + 0.5)
    assert layer.x_v[4].item() == pytest.approx(1 - 0.5 ** (2 / 3) - 0.15)
    assert not layer.o_proj.weight.any()
