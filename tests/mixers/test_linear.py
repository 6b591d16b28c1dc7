"""The linear layer of decoding: an nn.Linear for all that look for one, its kernel in every mixer's steps."""

import copy
import pickle

import pytest
import torch
from torch import nn

from mixer_cases import LENGTH, build, causal, inputs, run_in_pieces
from seqconv.layers import linear
from seqconv.layers.linear import Linear, use_torch_linear
from seqconv.mixers.state_space.s4_layer import S4Linear
from seqconv_kernels._core import native
from seqconv_kernels.skinny_linear import cpu, onednn
from tolerances import assert_near

compiled = pytest.mark.skipif(native.unavailable() is not None, reason=str(native.unavailable()))
WIDE = 1024  # whose weight is large enough for the kernel


@pytest.fixture
def calls(monkeypatch):
    """The shapes of the inputs that the kernel served."""
    served, eager = [], linear.eager_linear

    def observed(x, weight, bias):
        y = eager(x, weight, bias)
        if y is not None:
            served.append(tuple(x.shape))
        return y

    monkeypatch.setattr(linear, "eager_linear", observed)
    return served


def test_parameters_names_and_initial_values_are_those_of_torch():
    torch.manual_seed(0)
    layer = Linear(5, 3)
    torch.manual_seed(0)
    plain = nn.Linear(5, 3)
    assert isinstance(layer, nn.Linear)
    assert repr(layer) == repr(plain)
    assert list(layer.state_dict()) == list(plain.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(layer.parameters(), plain.parameters(), strict=True))
    assert type(use_torch_linear(nn.Sequential(layer))[0]) is nn.Linear


def test_tables_of_classes_have_an_entry_for_it():
    assert {nn.Linear: 1}[Linear] == {nn.Linear: 1}[S4Linear] == 1
    assert Linear in {nn.Linear}
    assert nn.Linear == Linear
    assert Linear not in {nn.Bilinear, S4Linear}
    layer = copy.deepcopy(Linear(5, 3))
    assert type(layer) is Linear
    assert type(pickle.loads(pickle.dumps(layer))) is Linear


@compiled
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_kernel_serves_decoding_alone(calls, dtype, monkeypatch):
    monkeypatch.setattr(onednn, "available", lambda: False)
    layer = Linear(WIDE, WIDE, dtype=dtype)
    x = torch.randn(1, 1, WIDE, generator=torch.Generator().manual_seed(0)).to(dtype)
    want = nn.functional.linear(x, layer.weight, layer.bias)
    assert torch.equal(layer(x), want)
    assert calls == []
    with torch.no_grad():
        assert_near(layer(x), want.detach(), dtype=dtype)
        assert calls == [(1, 1, WIDE)]
        layer(x.expand(9, 1, WIDE))
        layer.requires_grad_(False)
    layer(x.clone().requires_grad_()).sum().backward()
    assert calls == [(1, 1, WIDE)]
    layer(x)
    assert len(calls) == 2


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(33, 24), (2, 3, 5, 24), (1, 9, 24)])
def test_many_rows_by_onednn_without_a_gradient(calls, bias, shape, monkeypatch):
    monkeypatch.setattr(onednn, "available", lambda: True)
    monkeypatch.setattr(onednn, "WORTH_A_CALL", 0)
    monkeypatch.setattr(cpu, "WORTH_A_CALL", dict.fromkeys(cpu.WORTH_A_CALL, 0))
    layer, x = Linear(24, 40, bias=bias), torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    wide = torch.cat([x, x], dim=-1)[..., 3:27]
    for given in (x, wide, x.movedim(0, -2)):
        want = nn.functional.linear(given, layer.weight, layer.bias)
        assert torch.equal(layer(given), want)
        assert calls == []
        with torch.no_grad():
            assert_near(layer(given), want.detach())
        assert calls.pop() == given.shape
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    with torch.no_grad():
        layer(x)
    assert calls == []


@compiled
def test_hooks_see_the_call_and_the_compiler_sees_torch():
    layer, seen = Linear(WIDE, WIDE), []
    layer.register_forward_hook(lambda module, args, output: seen.append(output))
    x = torch.ones(1, WIDE)
    with torch.no_grad():
        assert layer(x) is seen[0]
        exported = torch.export.export(layer, (x,))
    assert "aten.linear.default" in {str(node.target) for node in exported.graph.nodes}


@compiled
@causal
def test_steps_by_the_kernel_equal_the_whole_sequence(case, monkeypatch):
    """The size from which on the kernel is called is taken away: mixers of tests are small."""
    mixer, x = build(case), inputs()
    with torch.no_grad():
        want = use_torch_linear(copy.deepcopy(mixer))(x)
        monkeypatch.setattr(cpu, "WORTH_A_CALL", dict.fromkeys(cpu.WORTH_A_CALL, 0))
        assert_near(run_in_pieces(mixer, x, [*range(LENGTH - 4, LENGTH)])[0], want)
