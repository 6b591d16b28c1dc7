"""RWKV-7 against the original: values, gradients, states, steps, initial values; shared values in a stack."""

import pytest
import torch

from golden_cases import Imported, assert_close, check_gradients, load_case
from scan_modules import prefill_then_step
from seqconv import create_mixer
from seqconv.build import build_backbone
from seqconv.interop import from_original
from seqconv.mixers.linear_attention.rwkv.rwkv7 import FIRST_VALUE
from seqconv.types import LayerContext
from tolerances import assert_near

RTOL, ATOL = 1e-8, 1e-9
TIME_MIX, CHANNEL_MIX = "BlinkDL/RWKV-LM:RWKV_Tmix_x070", "BlinkDL/RWKV-LM:RWKV_CMix_x070"


def part(case, tag, original):
    prefix = f"{tag}."
    params = {k[len(prefix) :]: v for k, v in case.group("param").items() if k.startswith(prefix)}
    return Imported(original, params, case.hyper)


def check_part(case, tag, imported):
    prefix = f"{tag}."
    want = {k[len(prefix) :]: v for k, v in case.group("grad").items() if k.startswith(prefix)}
    check_gradients(imported, want, RTOL, ATOL)


def test_golden_two_layers_with_shared_values():
    case = load_case("rwkv7_two_layers")
    layers = [part(case, f"layer{i}.att", TIME_MIX) for i in range(2)]
    mix = part(case, "layer1.ffn", CHANNEL_MIX)
    x, x1 = (case.tensors[f"in.{name}"].clone().requires_grad_() for name in ("x", "x1"))
    y0, shared = layers[0](x, shared={})
    y1, after = layers[1](x1, shared=shared)
    assert after.keys() == {FIRST_VALUE}
    outputs = {"y0": y0, "y1": y1, "channel_mix": mix(x1)}
    assert_close(shared[FIRST_VALUE], case.tensors["out.v_first"], RTOL, ATOL, "first values")
    for name, y in outputs.items():
        assert_close(y, case.tensors[f"out.{name}"], RTOL, ATOL, name)
    sum((y * case.tensors[f"cot.{name}"]).sum() for name, y in outputs.items()).backward()
    assert_close(x.grad, case.tensors["grad.in.x"], RTOL, ATOL, "gradient of x")
    assert_close(x1.grad, case.tensors["grad.in.x1"], RTOL, ATOL, "gradient of x1")
    for tag, imported in (("layer0.att", layers[0]), ("layer1.att", layers[1]), ("layer1.ffn", mix)):
        check_part(case, tag, imported)


@pytest.mark.parametrize("prompt", [1, 5])
def test_golden_prefill_and_steps(prompt):
    case = load_case("rwkv7_two_layers")
    y, _, _ = prefill_then_step(part(case, "layer0.att", TIME_MIX), case.tensors["in.x"], prompt)
    assert_close(y, case.tensors["out.y0"], RTOL, ATOL, "prefill and steps")


def test_the_unused_value_mix_of_the_first_layer_is_left_out():
    case = load_case("rwkv7_two_layers")
    params = {k[11:]: v for k, v in case.group("param").items() if k.startswith("layer0.att.")}
    unused = {f"v{i}": torch.zeros(2, 2) for i in range(3)}
    layer = from_original(TIME_MIX, params | unused, layer_id=0, n_layer=2)
    assert_close(layer(case.tensors["in.x"]), case.tensors["out.y0"], RTOL, ATOL, "output")


def test_fla_stores_the_same_layer_under_other_names():
    """Its decays, learning rates and gates are the original's (read in fla/layers/rwkv7.py), ε scales with the head."""
    case = load_case("rwkv7_two_layers")
    w = {k[11:]: v for k, v in case.group("param").items() if k.startswith("layer1.att.")}
    names = {"receptance": "r_proj", "key": "k_proj", "value": "v_proj", "output": "o_proj"}
    params = {f"{b}.weight": w[f"{a}.weight"] for a, b in names.items()}
    params |= {name: w[name] for name in ("x_r", "x_w", "x_k", "x_v", "x_a", "x_g", "r_k")}
    params |= {name: w[name].flatten() for name in ("k_k", "k_a")}
    params |= {f"g_norm.{n}": w[f"ln_x.{n}"] for n in ("weight", "bias")}
    for n in "wavg":
        params |= {f"{n}_lora.lora.0.weight": w[f"{n}1"].T, f"{n}_lora.lora.2.weight": w[f"{n}2"].T}
    params |= {f"{n}_lora.lora.2.bias": w[f"{n}0"].flatten() for n in "wav"}
    layer = from_original(
        "fla-org/flash-linear-attention:RWKV7Attention",
        params, hidden_size=8, head_dim=4, norm_eps=16e-5, v_low_rank_dim=2, layer_idx=1, num_hidden_layers=2,
    )  # fmt: skip
    shared = {FIRST_VALUE: case.tensors["out.v_first"]}
    assert_close(layer(case.tensors["in.x1"], shared=shared)[0], case.tensors["out.y1"], RTOL, ATOL, "output")
    for options in ({"value_dim": 16}, {"elementwise_affine": False}):
        with pytest.raises(ValueError, match="this variant is not supported"):
            from_original("fla-org/flash-linear-attention:RWKV7Attention", params, hidden_size=8, **options)


def test_initial_values_depend_on_the_depth():
    """Formulas of RWKV-v7/train_temp/src/model.py, at two channels each."""
    layer = create_mixer("rwkv7", 64, head_dim=16, layer=LayerContext(2, 5))
    left, share = 1 - 2 / 5, 2 / 4
    assert layer.x_r[32].item() == pytest.approx(1 - 0.5 ** (0.2 * left))
    assert layer.x_w[16].item() == pytest.approx(1 - 0.25 ** (0.9 * left))
    zigzag = -((15 / 2 - 4) ** 2) / (15 / 2) ** 2
    www = -6 + 6 * (36 / 63) ** (1 + share**0.3)
    assert layer.w0[36].item() == pytest.approx(www + 0.5 + 2.5 * zigzag, rel=1e-5)
    assert layer.a0[36].item() == pytest.approx(-0.19 + 0.3 * zigzag + 0.4 * (36 / 63 - 0.5), rel=1e-4)
    assert layer.v0[63].item() == pytest.approx(0.73 - 0.4 * 0.5, rel=1e-5)
    assert layer.ln_weight[0].item() == pytest.approx((3 / 5) ** 0.7)
    assert not layer.o_proj.weight.any()
    gram = layer.k_proj.weight @ layer.k_proj.weight.T
    assert_near(gram, 0.01 * torch.eye(64))
    assert create_mixer("rwkv7", 64, layer=LayerContext(0, 1)).v_lora is None


def test_a_stack_shares_the_values_of_its_first_layer_in_every_form():
    torch.manual_seed(0)
    options = {"head_dim": 4, "decay_low_rank_dim": 3, "a_low_rank_dim": 3, "gate_low_rank_dim": 3, "v_low_rank_dim": 3}
    backbone = build_backbone(8, 3, [("rwkv7", options)], mlp="rwkv7").double().eval()
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    x = torch.randn(2, 20, 8, dtype=torch.float64)
    want, (y, state) = backbone(x), backbone.prefill(x[:, :9])
    outputs = [y]
    for t in range(9, 20):
        y_t, state = backbone.step(x[:, t], state)
        outputs.append(y_t[:, None])
    assert_near(torch.cat(outputs, dim=1), want)
    first = backbone.layers[0].mixer.v_proj.weight
    (gradient,) = torch.autograd.grad(backbone.layers[2].mixer(x, shared={FIRST_VALUE: x @ first.T})[0].sum(), first)
    assert gradient.any()


def test_packed_sequences_share_values_too():
    torch.manual_seed(0)
    backbone = build_backbone(8, 2, [("rwkv7", {"head_dim": 4})], mlp="rwkv7").double().eval()
    x = torch.randn(1, 20, 8, dtype=torch.float64)
    want = torch.cat([backbone(x[:, a:b]) for a, b in ((0, 7), (7, 20))], dim=1)
    assert_near(backbone(x, cu_seqlens=torch.tensor([0, 7, 20])), want)


def test_a_head_that_does_not_divide_the_width_raises():
    with pytest.raises(ValueError, match=r"rwkv7 mixer: received head_dim=3; wanted a divisor of d_model=8.*Remedy"):
        create_mixer("rwkv7", 8, head_dim=3)
