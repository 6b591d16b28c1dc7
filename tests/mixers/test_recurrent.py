"""LSTM, GRU and Elman mixers: equal to torch's layers, heads that do not mix, state tracking, errors."""

import pytest
import torch
from torch import nn

from golden_cases import Imported
from seqconv import create_mixer
from seqconv.interop import from_original
from tolerances import assert_near

LAYERS = {"lstm": nn.LSTM, "gru": nn.GRU, "elman": nn.RNN}
each = pytest.mark.parametrize("name", LAYERS)


def original_name(name):
    return f"pytorch/pytorch:{LAYERS[name].__name__}"


@each
@pytest.mark.parametrize("bias", [True, False])
def test_equals_the_layer_of_torch_in_outputs_states_and_gradients(name, bias):
    torch.manual_seed(0)
    layer = LAYERS[name](6, 6, bias=bias, batch_first=True).double()
    x, weight = torch.randn(2, 2, 9, 6, dtype=torch.float64)
    leaf = x.clone().requires_grad_()
    want, states = layer(leaf)
    (want * weight).sum().backward()
    options = {"input_size": 6, "hidden_size": 6, "bias": bias, "batch_first": True}
    imported = Imported(original_name(name), dict(layer.state_dict()), options)
    other = x.clone().requires_grad_()
    y = imported(other)
    assert_near(y, want)
    (y * weight).sum().backward()
    assert_near(other.grad, leaf.grad)
    for key, parameter in layer.named_parameters():
        assert_near(imported.gradients()[key], parameter.grad, what=f"gradient of {key}")
    module = from_original(original_name(name), layer.state_dict(), **options)
    _, state = module.prefill(x)
    for got, final in zip(state.cell.unbind(1), states if name == "lstm" else (states,), strict=True):
        assert_near(got[:, 0], final[0])


@each
def test_heads_do_not_mix_in_the_recurrence(name):
    torch.manual_seed(0)
    mixer = create_mixer(name, 8, num_heads=2).double()
    with torch.no_grad():
        mixer.in_proj.weight.view(-1, 2, 4, 2, 4)[:, 0, :, 1] = 0  # the first head reads its own channels alone
    x = torch.randn(1, 9, 8, dtype=torch.float64)
    changed = x.clone()
    changed[:, :, 4:] += 1
    assert torch.equal(mixer(x)[..., :4], mixer(changed)[..., :4])


def test_elman_holds_the_parity_of_its_input():
    """tanh(large) tracks the sign of a product of signs, which no scan of positive decays can."""
    mixer = create_mixer("elman", 2, num_heads=1)
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.zero_()
        # h = (or, and) of the last parity and the input bit; their difference is the new parity.
        mixer.in_proj.weight[:, 0] = 20.0
        mixer.in_proj.bias.copy_(torch.tensor([10.0, -30.0]))
        mixer.recurrent_weight[0, 0] = torch.tensor([[10.0, -10.0], [10.0, -10.0]])
        mixer.in_proj.bias.add_(torch.tensor([-20.0, 0.0]))
    bits = torch.randint(0, 2, (1, 200), generator=torch.Generator().manual_seed(0))
    y = mixer(torch.stack([bits, torch.zeros_like(bits)], dim=-1).float())
    parity = ((y[..., 0] - y[..., 1]) > 1).long()
    assert torch.equal(parity, bits.cumsum(1) % 2)


@pytest.mark.parametrize(
    ("option", "value"), [("num_layers", 2), ("bidirectional", True), ("proj_size", 2), ("input_size", 4)]
)
def test_layers_of_torch_that_are_not_supported_raise(option, value):
    options = {"input_size": 6, "hidden_size": 6} | {option: value}
    with pytest.raises(ValueError, match=rf"{option}={value}.*Remedy: import the layers one by one"):
        from_original("pytorch/pytorch:LSTM", {}, **options)
    with pytest.raises(ValueError, match=r"nonlinearity='relu'.*'tanh'"):
        from_original("pytorch/pytorch:RNN", {}, input_size=6, hidden_size=6, nonlinearity="relu")


@each
def test_heads_that_do_not_divide_the_width_raise(name):
    with pytest.raises(ValueError, match=rf"{name} mixer: received num_heads=3 for 8 channels.*Remedy"):
        create_mixer(name, 8, num_heads=3)
