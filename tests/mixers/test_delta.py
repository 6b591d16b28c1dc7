"""Delta-rule layers against fla and transformers: outputs, gradients, states, padding, packing; options that raise."""

import pytest
import torch

from golden_cases import Imported, assert_close, check_gradients, load_case
from scan_modules import ATOL, RTOL, check_layer, import_variant, prefill_then_step
from seqconv import create_mixer
from seqconv.interop import from_original

FOLDER = "scan/fla_layers"
FLA = "fla-org/flash-linear-attention"
LAYERS = {"deltanet": f"{FLA}:DeltaNet", "gated_deltanet": f"{FLA}:GatedDeltaNet"}
CASES = ["gdn_qwen3_next", "gdn_qwen3_5", "gdn_olmo_hybrid", "kda_kimi_linear", "kda_kimi_linear_mask", "kda_fla"]
CASES += ["gdn2", "gated_delta_product", "comba"]
OF_FLA = ["kda_fla", "gdn2", "gated_delta_product", "comba"]
each_layer = pytest.mark.parametrize("layer", LAYERS)


@each_layer
def test_golden_layers_of_fla(layer):
    case, imported = import_variant(LAYERS[layer], FOLDER, layer, layer)
    check_layer(case, imported, grad_rtol=1e-6)


@each_layer
def test_golden_left_padding(layer):
    case, imported = import_variant(LAYERS[layer], FOLDER, f"{layer}_left_padding", layer)
    x, mask = case.tensors["in.hidden_states"].double(), case.tensors["const.attention_mask"].bool()
    assert not mask.all()
    assert_close(imported(x, mask=mask), case.tensors["out.y"], RTOL, ATOL, "output")


@each_layer
def test_golden_packed_sequences(layer):
    case, imported = import_variant(LAYERS[layer], FOLDER, f"{layer}_cu_seqlens", layer)
    x = case.tensors["in.hidden_states"].double()
    y = imported(x, cu_seqlens=case.tensors["const.cu_seqlens"])
    assert_close(y, case.tensors["out.y"], RTOL, ATOL, "output")


@pytest.mark.parametrize("name", CASES)
def test_golden_outputs_and_gradients(name):
    case = load_case(name)
    imported = Imported(case.meta["original"], case.group("param"), case.hyper)
    ((key, given),) = ((k, v) for k, v in case.group("in").items() if v.is_floating_point())
    x, mask = given.requires_grad_(), case.tensors.get("in.attention_mask")
    y = imported(x, mask=None if mask is None else mask.bool())
    assert_close(y, case.tensors["out.y"], 1e-8, 1e-9, "output")
    (y * case.tensors["cot.y"]).sum().backward()
    want = case.group("grad")
    assert_close(x.grad, want.pop(f"in.{key}"), 1e-8, 1e-9, "gradient of the input")
    check_gradients(imported, want, 1e-8, 1e-9)


@pytest.mark.parametrize("name", [name for name in CASES if "mask" not in name and name not in OF_FLA])
def test_golden_prefill_steps_and_states(name):
    case = load_case(name)
    imported = Imported(case.meta["original"], case.group("param"), case.hyper)
    prompt = case.hyper["prefill_length"]
    y, after_prompt, final = prefill_then_step(imported, case.tensors["in.x"], prompt)
    assert_close(y[:, :prompt], case.tensors["out.y_prefill"], 1e-8, 1e-9, "prefill")
    assert_close(y[:, prompt:], case.tensors["out.y_step"], 1e-8, 1e-9, "steps")
    assert_close(after_prompt.memory, case.tensors["out.state_recurrent_after_prefill"], 1e-8, 1e-9, "memory")
    assert_close(final.memory, case.tensors["out.state_recurrent_final"], 1e-8, 1e-9, "last memory")
    conv = after_prompt.conv.mT
    assert_close(conv, case.tensors["out.state_conv_after_prefill"][..., -conv.shape[-1] :], 1e-8, 1e-9, "conv")


@pytest.mark.parametrize("name", OF_FLA)
def test_golden_last_states_and_steps_of_fla(name):
    case = load_case(name)
    imported = Imported(case.meta["original"], case.group("param"), case.hyper)
    y, _, state = prefill_then_step(imported, case.tensors["in.hidden_states"], 5)
    assert_close(y, case.tensors["out.y"], 1e-8, 1e-9, "prefill and steps")
    assert_close(state.memory, case.tensors["out.final_state"], 1e-8, 1e-9, "state")


def test_golden_products_of_reflections():
    """The scan of the original: its queries are not scaled, keys, values and strengths have two rows per token."""
    case = load_case("gated_delta_product_scan")
    inputs = {k: v.clone().requires_grad_() for k, v in case.group("in").items()}
    layer = create_mixer("gated_delta_product", 6, num_heads=2, head_dim=3, head_v_dim=4).double()
    layer._beta = lambda x: inputs["beta"].unflatten(1, (-1, 2)).flatten(2)
    layer._log_decay = lambda x: inputs["g"]
    k, v = (inputs[n].unflatten(1, (-1, 2)).flatten(2, 3) for n in "kv")
    o, state = layer._scan(3**0.5 * inputs["q"], k, v, inputs["q"], inputs["initial_state"])
    outputs = {"o": o, "final_state": state}
    for name, got in outputs.items():
        assert_close(got, case.tensors[f"out.{name}"], 1e-8, 1e-9, name)
    sum((outputs[name] * weight).sum() for name, weight in case.group("cot").items()).backward()
    for name, gradient in case.group("grad.in").items():
        assert_close(inputs[name].grad, gradient, 1e-8, 1e-9, f"gradient of {name}")


def test_gated_deltanet_2_with_equal_gates_is_kda():
    torch.manual_seed(0)
    sizes = {"num_heads": 2, "head_dim": 4, "d_conv": None}
    kda, gdn2 = (create_mixer(name, 8, **sizes).double() for name in ("kda", "gated_deltanet2"))
    with torch.no_grad():
        for projection in (gdn2.b_proj, gdn2.w_proj):
            projection.weight.copy_(kda.b_proj.weight.repeat_interleave(4, dim=0))
    same = {name: t for name, t in kda.state_dict().items() if "b_proj" not in name}
    gdn2.load_state_dict(same, strict=False)
    x = torch.randn(2, 20, 8, dtype=torch.float64)
    torch.testing.assert_close(gdn2(x), kda(x))


def test_golden_log_decay_and_state_of_kda():
    case = load_case("kda_fla")
    layer = from_original(case.meta["original"], case.group("param"), **case.hyper)
    x = case.tensors["in.hidden_states"]
    with torch.no_grad():
        assert_close(layer._log_decay(x), case.tensors["out.log_decay"], 1e-8, 1e-9, "log decay")
        assert_close(layer.prefill(x)[1].memory, case.tensors["out.final_state"], 1e-8, 1e-9, "state")


def test_a_bounded_decay_stays_above_its_bound():
    layer = create_mixer("kda", 8, num_heads=2, decay_lower_bound=-0.5)
    log_decay = layer._log_decay(100 * torch.randn(2, 50, 8))
    assert log_decay.min() >= -0.5
    assert log_decay.min() < -0.49
    assert log_decay.max() <= 0


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("deltanet", {"num_heads": 2, "num_v_heads": 3}, "num_v_heads a multiple of num_heads"),
        ("gated_deltanet", {"num_heads": 0}, "sizes of at least 1"),
        ("gated_deltanet", {"dt_min": 0.2}, "0 < dt_min <= dt_max"),
        ("kda", {"decay_lower_bound": 1.0}, "a logarithm below 0"),
        ("gated_delta_product", {"num_householder": 0}, "num_householder=0; wanted at least 1"),
    ],
)
def test_sizes_out_of_range_raise(name, options, message):
    with pytest.raises(ValueError, match=message):
        create_mixer(name, 8, **options)


@pytest.mark.parametrize("option", [{"use_beta": False}, {"qk_activation": "elu"}, {"qk_norm": "sum"}])
def test_options_of_the_original_that_were_not_checked_raise(option):
    with pytest.raises(ValueError, match="this variant is not supported"):
        from_original(LAYERS["deltanet"], {}, hidden_size=8, **option)


def test_fewer_heads_of_keys_than_of_values_raise_for_comba():
    with pytest.raises(ValueError, match=r"num_v_heads=4; wanted 2.*not supported"):
        from_original(f"{FLA}:Comba", {}, hidden_size=8, head_dim=2, num_heads=2, num_v_heads=4)


def test_value_heads_read_the_keys_of_their_group():
    """With grouped values, each value head equals a layer of its own with the keys of its group."""
    torch.manual_seed(0)
    grouped = create_mixer("gated_deltanet", 8, num_heads=2, num_v_heads=4, head_dim=3, head_v_dim=3, d_conv=None)
    x = torch.randn(2, 12, 8)
    _, k, v = grouped._split_heads(torch.nn.functional.silu(grouped._project(x)))
    state = grouped.prefill(x)[1].memory
    for head in range(4):
        alone = torch.zeros(2, 3, 3)
        for t in range(12):
            key, beta = k[:, t, head // 2], grouped._beta(x)[:, t, head, None]
            alone = alone * grouped._log_decay(x)[:, t, head, None, None].exp()
            alone = alone + key[..., None] * (beta * (v[:, t, head] - (key[:, None] @ alone)[:, 0]))[:, None]
        torch.testing.assert_close(state[:, head], alone, rtol=1e-4, atol=1e-5)
