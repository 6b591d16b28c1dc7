"""RWKV-6 against the original and fla: values, gradients, states, steps, initial values."""

import pytest
import torch

from golden_cases import Imported, assert_close, check_gradients, load_case
from scan_modules import prefill_then_step
from seqconv import create_mixer
from seqconv.types import LayerContext

RTOL, ATOL = 1e-8, 1e-9
PARTS = {"att": "BlinkDL/RWKV-LM:RWKV_Tmix_x060", "ffn": "BlinkDL/RWKV-LM:RWKV_CMix_x060"}


def part(case, tag):
    params = {k.removeprefix(f"{tag}."): v for k, v in case.group("param").items() if k.startswith(f"{tag}.")}
    return Imported(PARTS[tag], params, case.hyper)


def test_golden_time_and_channel_mix():
    case = load_case("rwkv6_time_channel_mix")
    imported, x = {tag: part(case, tag) for tag in PARTS}, case.tensors["in.x"].clone().requires_grad_()
    outputs = {"y": imported["att"](x), "channel_mix": imported["ffn"](x)}
    for name, y in outputs.items():
        assert_close(y, case.tensors[f"out.{name}"], RTOL, ATOL, name)
    sum((y * case.tensors[f"cot.{name}"]).sum() for name, y in outputs.items()).backward()
    want = case.group("grad")
    assert_close(x.grad, want.pop("in.x"), RTOL, ATOL, "gradient of x")
    for tag in PARTS:
        own = {k.removeprefix(f"{tag}."): v for k, v in want.items() if k.startswith(f"{tag}.")}
        check_gradients(imported[tag], own, RTOL, ATOL)


@pytest.mark.parametrize(("tag", "output"), [("att", "y"), ("ffn", "channel_mix")])
@pytest.mark.parametrize("prompt", [1, 6])
def test_golden_prefill_and_steps(tag, output, prompt):
    case = load_case("rwkv6_time_channel_mix")
    y, _, _ = prefill_then_step(part(case, tag), case.tensors["in.x"], prompt)
    assert_close(y, case.tensors[f"out.{output}"], RTOL, ATOL, "prefill and steps")


def test_golden_layer_of_fla():
    case = load_case("rwkv6_fla")
    imported = Imported(case.meta["original"], case.group("param"), case.hyper)
    x = case.tensors["in.hidden_states"].clone().requires_grad_()
    y = imported(x)
    assert_close(y, case.tensors["out.y"], RTOL, ATOL, "output")
    (y * case.tensors["cot.y"]).sum().backward()
    want = case.group("grad")
    assert_close(x.grad, want.pop("in.hidden_states"), RTOL, ATOL, "gradient of x")
    check_gradients(imported, want, RTOL, ATOL)
    y, _, state = prefill_then_step(imported, case.tensors["in.hidden_states"], 4)
    assert_close(y, case.tensors["out.y"], RTOL, ATOL, "prefill and steps")
    assert_close(state.memory, case.tensors["out.final_state"], RTOL, ATOL, "state")


def test_golden_initial_values_depend_on_the_depth():
    case = load_case("rwkv6_time_channel_mix")
    layer = create_mixer("rwkv6", 8, head_dim=4, layer=LayerContext(case.hyper["layer_id"], case.hyper["n_layer"]))
    found = {"time_decay": layer.w0, "time_faaaa": layer.bonus, "time_maa_v": layer.x_v}
    for name, got in found.items():
        assert_close(got.detach(), case.tensors[f"out.init_layer_{name}"].view_as(got), 1e-6, 1e-6, name)
    assert not layer.o_proj.weight.any()
    assert layer.ln_weight[0].item() == pytest.approx((2 / 3) ** 0.7)
    assert 0 < layer.mix_up[0].weight.abs().max() <= 0.01


def test_options_of_the_original_that_were_not_checked_raise():
    case = load_case("rwkv6_fla")
    for option, message in (({"elementwise_affine": False}, "not supported"), ({"gate_fn": "bias_gelu"}, "gate_fn")):
        with pytest.raises(ValueError, match=message):
            Imported(case.meta["original"], case.group("param"), case.hyper | option)


def test_heads_that_do_not_divide_the_keys_raise():
    with pytest.raises(ValueError, match=r"4 key channels for 8 heads; wanted a multiple of the heads.*Remedy"):
        create_mixer("rwkv6", 8, head_dim=1, expand_k=0.5)


def test_unused_first_matrices_start_at_zero():
    layer = create_mixer("rwkv6", 16)
    assert not layer.mix_down.weight.any()
    assert not layer.w_lora.down.weight.any()
    assert torch.isfinite(layer(torch.randn(2, 5, 16))).all()
