"""Every mixer with its Linear layers wrapped (peft's LoRA on ``all-linear``) or replaced (dynamic int8)."""

import copy
from importlib.util import find_spec

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from mixer_cases import build, each_causal_default, each_default, inputs, run_in_pieces
from seqconv import Mixer
from tolerances import assert_near

RANK = 3


class Adapter(nn.Module):
    """``base(x) + B A x``, as peft's LoRA: the base layer is a child, its weight is no longer at its old place."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.A = nn.Parameter(0.3 * torch.randn(RANK, base.in_features, dtype=torch.float64))
        self.B = nn.Parameter(0.3 * torch.randn(base.out_features, RANK, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + x @ self.A.to(x.dtype).T @ self.B.to(x.dtype).T

    def merged(self) -> nn.Linear:
        with torch.no_grad():
            weight = self.base.weight + self.B @ self.A
            self.base.weight = weight if is_parametrized(self.base, "weight") else nn.Parameter(weight)
        return self.base


def linears(module: nn.Module) -> list[str]:
    return [name for name, child in module.named_modules() if isinstance(child, nn.Linear)]


def replace(module: nn.Module, name: str, new: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(parent), leaf, new)


def adapted(case) -> tuple[Mixer, list[str]]:
    """The mixer of a case with an adapter around each of its Linear layers, and their names."""
    mixer = build(case)
    names = linears(mixer)
    for name in names:
        replace(mixer, name, Adapter(mixer.get_submodule(name)))
    return mixer, names


@each_default
def test_adapters_act_and_merge_to_the_same_outputs(case):
    plain, (mixer, names) = build(case), adapted(case)
    x = inputs()
    y = mixer(x)
    y.square().sum().backward()
    for name in names:
        adapter = mixer.get_submodule(name)
        assert adapter.A.grad is not None, f"the adapter of {name} takes no part in the loss"
        assert adapter.A.grad.any(), f"the adapter of {name} has no gradient"
    if names:
        assert (y - plain(x)).abs().max() > 1e-6
    alone = {name: copy.deepcopy(plain) for name in names}
    for name, one in alone.items():
        replace(one, name, copy.deepcopy(mixer.get_submodule(name)))
        assert (one(x) - plain(x)).abs().max() > 1e-12, f"the adapter of {name} changes nothing"
    for name in names:
        replace(mixer, name, mixer.get_submodule(name).merged())
    assert_near(mixer(x), y, what="merged")


@each_causal_default
def test_adapters_act_in_every_form(case):
    mixer, _ = adapted(case)
    x = inputs()
    with torch.no_grad():
        assert_near(run_in_pieces(mixer, x, [16, 17, 18, 30])[0], mixer(x))


@pytest.mark.skipif(find_spec("peft") is None, reason="peft is not installed")
@each_default
def test_peft_on_all_linear_layers(case):
    from peft import LoraConfig, get_peft_model

    mixer = build(case, torch.float32)
    if not linears(mixer):
        pytest.skip("no Linear layer")
    x = inputs(dtype=torch.float32)
    config = LoraConfig(r=RANK, target_modules=linears(mixer), init_lora_weights=False)
    model = get_peft_model(mixer, config)
    y = model(x)
    y.square().sum().backward()
    without = [n for n, p in model.named_parameters() if "lora_" in n and (p.grad is None or not p.grad.any())]
    assert without == []
    if any(is_parametrized(layer) for layer in mixer.modules()):
        return  # peft merges by adding to `weight.data`, which weight normalisation computes again at every call
    assert_near(model.merge_and_unload()(x), y, what="merged")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:torch.quantize_per_tensor:UserWarning")
@each_default
def test_dynamic_int8_runs_in_every_form(case):
    """torch's own quantiser: Linear layers keep packed int8 weights that no attribute ``weight`` holds as a tensor."""
    plain = build(case, torch.float32)
    mixer = torch.ao.quantization.quantize_dynamic(plain, {nn.Linear}, dtype=torch.qint8)
    narrow = torch.ao.nn.quantized.dynamic.Linear
    assert linears(plain) == [name for name, layer in mixer.named_modules() if isinstance(layer, narrow)]
    x = inputs(dtype=torch.float32)
    with torch.no_grad():
        y, want = mixer(x), plain(x)
        assert (y - want).norm() < 0.2 * want.norm()
        if mixer.causal:
            assert run_in_pieces(mixer, x, [16, 17])[0].shape == x.shape
