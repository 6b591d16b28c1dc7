"""The recurrent block of RecurrentGemma: golden values, states and gradients; packed documents; initial values."""

import pytest
import torch
from torch import nn

from golden_cases import Imported, assert_close, check_gradients, load_case
from scan_modules import prefill_then_step
from seqconv import create_mixer
from seqconv.interop import from_original
from seqconv.layers.activations import activate
from seqconv.mixers.recurrent.rg_lru import bounded_sqrt
from seqconv.types import LayerContext
from tolerances import assert_near

TOLERANCE = (1e-8, 1e-9)


def check(case, imported, y, x):
    assert_close(y, case.tensors["out.y"], *TOLERANCE, "output")
    (y * case.tensors["cot.y"]).sum().backward()
    want = case.group("grad")
    assert_close(x.grad, want.pop("in.x"), *TOLERANCE, "gradient of the input")
    check_gradients(imported, want, *TOLERANCE)


def test_golden_outputs_and_gradients():
    case = load_case("rg_lru_block")
    imported, x = Imported(case.meta["original"], case.group("param"), case.hyper), case.tensors["in.x"].clone()
    check(case, imported, imported(x.requires_grad_()), x)


def test_golden_prefill_steps_and_states():
    case = load_case("rg_lru_block")
    imported = Imported(case.meta["original"], case.group("param"), case.hyper)
    prompt = case.hyper["prefill_length"]
    y, after_prompt, final = prefill_then_step(imported, case.tensors["in.x"], prompt)
    assert_close(y[:, :prompt], case.tensors["out.y"][:, :prompt], *TOLERANCE, "prefill")
    assert_close(y[:, prompt:], case.tensors["out.y_step"], *TOLERANCE, "steps")
    assert_close(after_prompt.recurrence, case.tensors["out.state_lru_after_prefill"], *TOLERANCE, "state")
    assert_close(after_prompt.conv.mT, case.tensors["out.state_conv_after_prefill"], *TOLERANCE, "conv")
    assert_close(final.recurrence, case.tensors["out.state_final"], *TOLERANCE, "last state")


class WithoutConvolutionReset(nn.Module):
    """The block as the original computes it for documents in one row: only the recurrence starts again at each."""

    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, x, first):
        u, _ = self.block.conv1d(self.block.x_proj(x))
        h, state = self.block.rg_lru(u, first)
        return self.block.out_proj(h * activate(self.block.activation, self.block.y_proj(x))), state


def test_golden_resets_of_the_recurrence():
    case = load_case("rg_lru_block_reset")
    imported, x = Imported(case.meta["original"], case.group("param"), case.hyper), case.tensors["in.x"].clone()
    first = case.tensors["in.position_ids"] == 0
    assert first[:, 1:].any()
    weights = {f"block.{name}": weight for name, weight in imported.weights.items()}
    arguments = (x.requires_grad_(), first)
    y, state = torch.func.functional_call(WithoutConvolutionReset(imported.module), weights, arguments)
    assert_close(state, case.tensors["out.state_final"], *TOLERANCE, "last state")
    check(case, imported, y, x)


def test_the_derivative_of_the_root_is_bounded():
    x = torch.tensor([0.0, 1e-12, 1e-6, 0.25], dtype=torch.float64, requires_grad=True)
    y = bounded_sqrt(x)
    assert_near(y, x.detach().sqrt())
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert_near(slope, torch.tensor([1e3, 1e3, 500.0, 1.0], dtype=torch.float64))


def test_an_idle_recurrence_gate_has_finite_gradients():
    mixer = create_mixer("rg_lru", 8).bfloat16()
    with torch.no_grad():
        mixer.rg_lru.recurrent_gate_bias.fill_(-100.0)  # a = 1: the input is scaled by 0
    mixer(torch.randn(2, 9, 8, dtype=torch.bfloat16)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in mixer.parameters())


def test_initial_decays_and_projections():
    torch.manual_seed(0)
    mixer = create_mixer("rg_lru", 256, layer=LayerContext(0, 8))
    a = torch.exp(-torch.nn.functional.softplus(mixer.rg_lru.recurrent_param))
    assert 0.9 <= a.min() < 0.91
    assert 0.99 < a.max() <= 0.999
    assert mixer.out_proj.weight.std().item() * 16 == pytest.approx((2 / 8) ** 0.5, rel=0.05)
    assert mixer.x_proj.weight.std().item() * 16 == pytest.approx(1.0, rel=0.05)
    assert mixer.conv1d.weight.std().item() == pytest.approx((0.01 / 4) ** 0.5, rel=0.1)


def test_errors_name_the_remedy():
    with pytest.raises(ValueError, match=r"8 channels in 3 heads.*Remedy: change num_heads or expand"):
        create_mixer("rg_lru", 8, num_heads=3)
    with pytest.raises(ValueError, match=r"hidden_activation 'tanh'"):
        from_original("huggingface/transformers:RecurrentGemmaRecurrentBlock", {}, hidden_activation="tanh")
