"""Linear attention layers against fla and transformers: outputs, gradients, states, padding, packing, options."""

import math

import pytest
import torch

from golden_cases import Imported, assert_close, check_gradients, load_case, load_variant
from scan_modules import ATOL, RTOL, check_layer, import_variant, prefill_then_step
from seqconv import create_mixer
from seqconv.interop import from_original
from seqconv.types import LayerContext
from tolerances import assert_near

FOLDER = "scan/fla_layers"
FLA = "fla-org/flash-linear-attention"
LAYERS = {
    "simple_gla": f"{FLA}:SimpleGatedLinearAttention",
    "retnet": f"{FLA}:MultiScaleRetention",
    "hgrn2": f"{FLA}:HGRN2Attention",
}
FLOAT32_RATES = (1e-7, 1e-8)
"""torchscale keeps its rates of rotation and decay in float32."""
LIGHTNING = "huggingface/transformers:MiniMaxLightningAttention"
each_layer = pytest.mark.parametrize("layer", LAYERS)


def imported_layer(variant, layer):
    """Its case stands a norm with ε = 1e-6 for HGRN2's fused norm, whose ε is 1e-5 in all of fla's versions."""
    case, imported = import_variant(LAYERS[layer], FOLDER, variant, layer)
    if layer == "hgrn2":
        assert imported.module.g_norm.eps == 1e-5
        imported.module.g_norm.eps = 1e-6
    return case, imported


@each_layer
def test_golden_layers_of_fla(layer):
    case, imported = imported_layer(layer, layer)
    check_layer(case, imported, grad_rtol=1e-6)


@each_layer
def test_golden_left_padding(layer):
    case, imported = imported_layer(f"{layer}_left_padding", layer)
    x, mask = case.tensors["in.hidden_states"].double(), case.tensors["const.attention_mask"].bool()
    assert not mask.all()
    assert_close(imported(x, mask=mask), case.tensors["out.y"], RTOL, ATOL, "output")


@each_layer
def test_golden_packed_sequences(layer):
    case, imported = imported_layer(f"{layer}_cu_seqlens", layer)
    x = case.tensors["in.hidden_states"].double()
    y = imported(x, cu_seqlens=case.tensors["const.cu_seqlens"])
    assert_close(y, case.tensors["out.y"], RTOL, ATOL, "output")


@pytest.mark.parametrize("name", ["minimax_lightning", "minimax_lightning_mask"])
def test_golden_lightning_outputs_and_gradients(name):
    case = load_case(name)
    imported = Imported(LIGHTNING, case.group("param"), case.hyper)
    x, mask = case.tensors["in.x"].clone().requires_grad_(), case.tensors.get("in.attention_mask")
    mask = torch.ones(x.shape[:2], dtype=torch.bool) if mask is None else mask.bool()
    y = imported(x, mask=mask)
    assert_close(y[mask], case.tensors["out.y"][mask], 1e-8, 1e-9, "output")
    (y * case.tensors["cot.y"]).sum().backward()
    want = case.group("grad")
    assert_close(x.grad[mask], want.pop("in.x")[mask], 1e-8, 1e-9, "gradient of the input")
    check_gradients(imported, want, 1e-8, 1e-9)


def test_golden_lightning_prefill_steps_and_states():
    case = load_case("minimax_lightning")
    imported = Imported(LIGHTNING, case.group("param"), case.hyper)
    prompt = case.hyper["prefill_length"]
    y, after_prompt, final = prefill_then_step(imported, case.tensors["in.x"], prompt)
    assert_close(y[:, :prompt], case.tensors["out.y"][:, :prompt], 1e-8, 1e-9, "prefill")
    assert_close(y[:, prompt:], case.tensors["out.y_step"], 1e-8, 1e-9, "steps")
    assert_close(after_prompt.memory, case.tensors["out.state_after_prefill"], 1e-8, 1e-9, "state")
    assert_close(final.memory, case.tensors["out.state_final"], 1e-8, 1e-9, "last state")
    decay = imported.module._constant_decay(case.tensors["in.x"])
    assert_close(-decay, case.tensors["out.slope_rate"], 1e-8, 1e-9, "slopes")


def identity_projections(mixer, key, value):
    """Projections that read [q | k | v] from the channels of the input."""
    eye = torch.eye(2 * key + value, dtype=torch.float64)
    with torch.no_grad():
        for projection, rows in zip(
            (mixer.q_proj, mixer.k_proj, mixer.v_proj), eye.split([key, key, value]), strict=True
        ):
            projection.weight = torch.nn.Parameter(rows)


def test_golden_normalised_attention():
    """The op of fla: queries and keys as they come, a normaliser with ε = 1e-10."""
    case = load_variant("scan/fla_ops", "linear_attn_normalized")
    q, k, v = (case.tensors[f"in.{name}"].double() for name in "qkv")
    heads, d_k, d_v = q.shape[2], q.shape[3], v.shape[3]
    mixer = from_original(
        f"{FLA}:LinearAttention",
        {f"{n}_proj.weight": torch.zeros(w, 12, dtype=torch.float64) for n, w in (("q", 8), ("k", 8), ("v", 12))}
        | {"o_proj.weight": torch.zeros(12, 12, dtype=torch.float64)},
        hidden_size=12, num_heads=heads, expand_k=8 / 12, feature_map="relu", output_norm="identity",
        do_feature_map_norm=True,
    )  # fmt: skip
    identity_projections(mixer, heads * d_k, heads * d_v)
    mixer.d_model = 2 * heads * d_k + heads * d_v
    mixer.o_proj = torch.nn.Identity()
    import seqconv.mixers.linear_attention.linear_attention as module

    maps = dict(module.FEATURE_MAPS)
    module.FEATURE_MAPS["relu"] = maps["identity"]
    try:
        y = mixer(torch.cat([t.flatten(2) for t in (q, k, v)], dim=-1))
    finally:
        module.FEATURE_MAPS["relu"] = maps["relu"]
    assert_close(y, case.tensors["out.y"].flatten(2), RTOL, ATOL, "output")


def test_golden_keys_and_lower_bounds_of_hgrn2():
    case = load_variant("scan/fla_ops", "hgrn2_lower_bound")
    q, f, v = (case.tensors[f"in.{name}"].double() for name in "qfv")
    heads, d_k = q.shape[2:]
    mixer = create_mixer("hgrn2", heads * v.shape[3], num_heads=heads, head_dim=d_k, lower_bound=True).double()
    with torch.no_grad():
        mixer.lower_bound_logit.copy_(case.tensors["in.lower_bound"].double().logit().flatten())
    h = mixer._heads(torch.cat([t.flatten(2) for t in (q, f, v)], dim=-1), q, None)
    state = case.tensors["in.initial_state"].double()
    outputs = []
    for t in range(q.shape[1]):
        state = h.log_decay[:, t, :, :, None].exp() * state + h.k[:, t, :, :, None] * h.v[:, t, :, None]
        outputs.append(torch.einsum("bhk,bhkv->bhv", h.q[:, t], state) * d_k**-0.5)
    assert_close(torch.stack(outputs, 1), case.tensors["out.y"], RTOL, ATOL, "output")
    assert_close(state, case.tensors["out.final_state"], RTOL, ATOL, "final state")


def test_linear_attention_is_the_ratio_of_sums():
    torch.manual_seed(0)
    x = torch.randn(2, 11, 8, dtype=torch.float64)
    for bidirectional in (False, True):
        mixer = create_mixer("linear_attention", 8, num_heads=2, bidirectional=bidirectional).double()
        q, k, v = (p(x).unflatten(-1, (2, 4)) for p in (mixer.q_proj, mixer.k_proj, mixer.v_proj))
        q, k = (torch.nn.functional.elu(t) + 1 for t in (q, k))
        scores = torch.einsum("bihd,bjhd->bhij", q, k)
        scores = scores if bidirectional else scores.tril()
        weights = scores / (scores.sum(-1, keepdim=True) + 1e-6)
        assert_near(mixer(x), mixer.o_proj(torch.einsum("bhij,bjhd->bihd", weights, v).flatten(2)))


def test_decays_of_retention_and_lightning():
    like = torch.zeros(1, dtype=torch.float64)
    decay = create_mixer("retnet", 8, num_heads=4)._constant_decay(like).exp()
    assert_near(decay, torch.tensor([1 - 2.0**-n for n in (5, 6, 7, 8)], dtype=torch.float64))
    first = create_mixer("lightning_attention", 8, layer=LayerContext(0, 4))._constant_decay(like)
    last = create_mixer("lightning_attention", 8, layer=LayerContext(3, 4))._constant_decay(like)
    assert_near(first, -torch.tensor([2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8], dtype=torch.float64) * (1 + 1e-5))
    assert last.abs().max() < 1e-5, "the last layer hardly forgets"


def test_the_lower_bound_of_hgrn2_rises_with_the_layer():
    for index, bound in ((0, 0.05), (3, 0.75)):
        mixer = create_mixer("hgrn2", 8, lower_bound=True, layer=LayerContext(index, 4))
        assert mixer.lower_bound_logit.sigmoid().mean().item() == pytest.approx(bound)
        h = mixer._heads(torch.full((1, 1, 24), -50.0), torch.zeros(1, 1, 8), None)
        assert h.log_decay.exp().min().item() == pytest.approx(bound), "what a closed gate keeps"


def test_initial_values():
    torch.manual_seed(0)
    retnet = create_mixer("retnet", 64)
    bound = 2**-2.5 * math.sqrt(6 / (64 + 64))
    assert 0.95 * bound < retnet.q_proj.weight.abs().max() <= bound
    assert create_mixer("lightning_attention", 64).q_proj.weight.std().item() == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("retnet", {"expand_k": 0.5}, "an even number and a base above 0"),
        ("simple_gla", {"num_kv_heads": 3}, "num_kv_heads that divides num_heads"),
        ("hgrn2", {"num_heads": 3}, "multiples of the heads"),
        ("lightning_attention", {"activation": "elu"}, "activation 'elu'"),
        ("linear_attention", {"feature_map": "exp"}, "feature_map 'exp'"),
        ("linear_attention", {"feature_map": "identity"}, "pass normalize=False, output_norm=True"),
    ],
)
def test_options_out_of_range_raise(name, options, message):
    with pytest.raises(ValueError, match=message):
        create_mixer(name, 8, **options)


@pytest.mark.parametrize(
    ("original", "options"),
    [
        (LAYERS["hgrn2"], {"norm_eps": 1e-6}),
        (f"{FLA}:LinearAttention", {"norm_q": True}),
        (f"{FLA}:LinearAttention", {"feature_map": "hedgehog"}),
        (LIGHTNING, {"layer_idx": 0, "hidden_act": "tanh"}),
        (LIGHTNING, {}),
    ],
)
def test_options_of_the_original_that_were_not_checked_raise(original, options):
    with pytest.raises(ValueError, match=r"not supported|did you mean|known|no layer_idx"):
        from_original(original, {}, hidden_size=8, **options)


def test_gelu_is_another_function_in_retnet_than_in_simple_gla():
    weights = {f"{n}_proj.weight": torch.zeros(8, 8) for n in "qkvgo"} | {"g_norm.weight": torch.ones(2)}
    common = {"hidden_size": 8, "num_heads": 4, "expand_v": 1.0, "gate_fn": "gelu", "use_short_conv": False}
    assert from_original(LAYERS["retnet"], weights, **common).gate_activation == "gelu"
    weights |= {"gk_proj.weight": torch.zeros(4, 8), "gk_proj.bias": torch.zeros(4)}
    assert from_original(LAYERS["simple_gla"], weights, **common).gate_activation == "gelu_tanh"


@pytest.mark.parametrize("variant", ["parallel", "parallel_odd"])
def test_golden_retention_of_torchscale(variant):
    """The parallel form; its recurrent and chunked forms differ from it, but for the norm, in what they divide by."""
    owner, case = load_variant("scan/retnet_torchscale", "parallel"), load_variant("scan/retnet_torchscale", variant)
    params = {n.removeprefix("retention."): t for n, t in owner.group("param").items() if n.startswith("retention.")}
    hyper = {name: owner.meta[name] for name in ("embed_dim", "value_dim")} | {"num_heads": owner.meta["heads"]}
    imported = Imported("microsoft/torchscale:MultiScaleRetention", params, hyper)
    x = case.tensors["in.x"].double().requires_grad_()
    y = imported(x)
    assert_close(y, case.tensors["out.y"], *FLOAT32_RATES, "output")
    (y * case.tensors["cot.y"]).sum().backward()
    assert_close(x.grad, case.tensors["grad.in.x"], *FLOAT32_RATES, "gradient of the input")
    want = {n.removeprefix("retention."): t for n, t in case.group("grad.param").items()}
    check_gradients(imported, want, *FLOAT32_RATES)
