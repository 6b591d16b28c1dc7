"""The layers of mamba_ssm under its names: golden numbers, gradients, prompts and steps with its caches."""

import json
from types import SimpleNamespace

import pytest
import torch

from golden_cases import GOLDEN, assert_close, load_variant
from seqconv.integrations.mamba_ssm import Mamba, Mamba2
from tolerances import assert_near

FOLDERS = {"mamba1_module": Mamba, "mamba2_module": Mamba2}


def variants(*, holding):
    found = {f: json.loads((GOLDEN / "scan" / f / "case.json").read_text())["variants"] for f in FOLDERS}
    return [(folder, name) for folder, names in found.items() for name in names if holding(name)]


def build(folder, name):
    """The layer of a variant with its parameters, which may be those of another one."""
    configurations = json.loads((GOLDEN / "scan" / folder / "case.json").read_text())["hyper_parameters"]
    own = "v1" if name.startswith("tiny") else name.split("_")[0]
    options = configurations["variants_cfg"][int(own[1:])]
    layer = FOLDERS[folder](**options, layer_idx=0, dtype=torch.float64)
    layer.load_state_dict(load_variant(f"scan/{folder}", own).group("param"))
    return layer.double()


def inference(offset=0):
    return SimpleNamespace(key_value_memory_dict={}, seqlen_offset=offset)


@pytest.mark.parametrize(("folder", "name"), variants(holding=lambda name: len(name) == 2 or name == "v0_seq_idx"))
def test_golden_numbers_and_gradients(folder, name):
    case, layer = load_variant(f"scan/{folder}", name), build(folder, name)
    u = case.tensors["in.u"].double().requires_grad_()
    index = case.tensors.get("const.seq_idx")
    y = layer(u) if index is None else layer(u, seq_idx=index)
    assert_close(y, case.tensors["out.y"], 1e-9, 1e-10, "y")
    (y * case.tensors["cot.y"]).sum().backward()
    assert_close(u.grad, case.tensors["grad.in.u"], 1e-9, 1e-10, "gradient of u")
    for parameter, gradient in case.group("grad.param").items():
        assert_close(layer.get_parameter(parameter).grad, gradient, 1e-9, 1e-10, parameter)


@pytest.mark.parametrize(("folder", "name"), variants(holding=lambda name: "prefill_step" in name))
@torch.no_grad()
def test_a_prompt_and_steps_with_states_in_place(folder, name):
    case, layer, given = load_variant(f"scan/{folder}", name), build(folder, name), inference()
    u, want = case.tensors["in.u"].double(), case.tensors["out.y"]
    prompt = next(n for n in range(1, u.shape[1]) if _ends_prompt(layer, u, n, case.tensors["out.conv_state_prefill"]))
    y = [layer(u[:, :prompt], inference_params=given)]
    conv, ssm = given.key_value_memory_dict[0]
    assert_close(ssm, case.tensors["out.ssm_state_prefill"], 1e-9, 1e-10, "state of the prompt")
    for t in range(prompt, u.shape[1]):
        given.seqlen_offset = t
        y.append(layer(u[:, t : t + 1], inference_params=given))
    assert_close(torch.cat(y, dim=1), want, 1e-9, 1e-10, "y")
    assert_close(conv, case.tensors["out.conv_state"], 1e-9, 1e-10, "last inputs")
    assert_close(ssm, case.tensors["out.ssm_state"], 1e-9, 1e-10, "state")


def _ends_prompt(layer, u, length, want):
    given = inference()
    layer(u[:, :length], inference_params=given)
    return torch.allclose(given.key_value_memory_dict[0][0], want.double())


@torch.no_grad()
def test_a_prompt_shorter_than_the_filter_and_packed_prompts():
    case, layer, given = load_variant("scan/mamba1_module", "tiny_prompt_shorter_than_conv"), None, inference()
    layer = build("mamba1_module", "tiny")
    assert_close(layer(case.tensors["in.u"].double(), given), case.tensors["out.y"], 1e-9, 1e-10, "y")
    for got, name in zip(given.key_value_memory_dict[0], ("conv_state", "ssm_state"), strict=True):
        assert_close(got, case.tensors[f"out.{name}"], 1e-9, 1e-10, name)
    case, given = load_variant("scan/mamba2_module", "v0_cu_seqlens_prefill"), inference()
    layer = build("mamba2_module", "v0")
    index, bounds = case.tensors["const.seq_idx"], case.tensors["const.cu_seqlens"]
    y = layer(case.tensors["in.u"].double(), seq_idx=index, cu_seqlens=bounds, inference_params=given)
    assert_close(y, case.tensors["out.y"], 1e-9, 1e-10, "y")
    for got, name in zip(given.key_value_memory_dict[0], ("conv_state", "ssm_state"), strict=True):
        assert_close(got, case.tensors[f"out.{name}"], 1e-9, 1e-10, name)


def test_initial_values_options_and_errors():
    layer = Mamba(8, d_state=3, dt_init="constant", dtype=torch.float32)
    assert torch.equal(layer.A_log.exp().round(), torch.tensor([1.0, 2.0, 3.0]).expand(16, 3))
    steps = torch.nn.functional.softplus(layer.dt_proj.bias)
    assert steps.min() > 9e-4
    assert steps.max() < 0.11
    assert layer.D._no_weight_decay
    assert layer.dt_proj.bias._no_reinit
    second = Mamba2(8, headdim=4, d_state=3, conv_init=0.01)
    assert second.conv1d.weight.abs().max() <= 0.01
    u = torch.randn(2, 5, 8)
    assert_near(second(u.flatten(0, 1), seqlen=5).view(2, 5, 8), second(u))
    with pytest.raises(ValueError, match="layer_idx with it"):
        layer(u, inference())
    with pytest.raises(ValueError, match="process_group"):
        Mamba2(8, headdim=4, process_group=object())
    with pytest.raises(ValueError, match="dt_init='ones'"):
        Mamba(8, dt_init="ones")
    with pytest.raises(ValueError, match="d_ssm=16 and headdim=5"):
        Mamba2(8, headdim=5)
    for decoding in (Mamba(8, layer_idx=0), Mamba2(8, headdim=4, layer_idx=0)):
        with pytest.raises(ValueError, match=r"step: received hidden_states of shape \(2, 5, 8\)"):
            decoding.step(u, *decoding.allocate_inference_cache(2, 5))
