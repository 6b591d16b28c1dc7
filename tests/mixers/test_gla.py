"""Gated linear attention against the original: outputs, gradients, padding, packing; its options and errors."""

import pytest
import torch
import torch.nn.functional as F

from golden_cases import assert_close
from scan_modules import ATOL, RTOL, check_layer, import_variant
from seqconv import create_mixer
from seqconv.interop import from_original
from seqconv.interop.linear_attention.gla import NAMES, ORIGINAL
from seqconv.layers.activations import ACTIVATIONS
from tolerances import assert_near

FOLDER = "scan/fla_layers"
each_layer = pytest.mark.parametrize("layer", ["gla", "gla_gqa_conv_clamp"])


@each_layer
def test_golden_outputs_and_gradients(layer):
    case, imported = import_variant(ORIGINAL, FOLDER, layer, layer)
    check_layer(case, imported, grad_rtol=1e-6)


@each_layer
def test_golden_left_padding(layer):
    case, imported = import_variant(ORIGINAL, FOLDER, f"{layer}_left_padding", layer)
    x, mask = case.tensors["in.hidden_states"].double(), case.tensors["const.attention_mask"].bool()
    assert not mask.all()
    assert_close(imported(x, mask=mask), case.tensors["out.y"], RTOL, ATOL, "output")


@each_layer
def test_golden_packed_sequences(layer):
    case, imported = import_variant(ORIGINAL, FOLDER, f"{layer}_cu_seqlens", layer)
    x = case.tensors["in.hidden_states"].double()
    y = imported(x, cu_seqlens=case.tensors["const.cu_seqlens"])
    assert_close(y, case.tensors["out.y"], RTOL, ATOL, "output")


@pytest.mark.parametrize("name", NAMES)
def test_every_name_of_the_original_is_read(name):
    source, _ = import_variant(ORIGINAL, FOLDER, "gla", "gla")
    module = from_original(name, source.group("param"), **source.meta["cfg"], mode="fused_recurrent", layer_idx=1)
    assert_near(module(source.tensors["in.hidden_states"]), source.tensors["out.y"].float())


def by_the_equation(x, weights, heads, kv_heads, conv, feature, gate, tau=16):
    """The layer token by token, from the original's tensors."""
    project = {n: x @ weights[f"{n}_proj.weight"].T for n in "qkv"}
    if conv:
        for n, t in project.items():
            taps, bias = weights[f"{n}_conv1d.weight"], weights[f"{n}_conv1d.bias"]
            padded = F.pad(t.mT, (taps.shape[-1] - 1, 0))
            project[n] = F.silu(F.conv1d(padded, taps, bias, groups=len(taps))).mT
    decay_logits = x @ weights["gk_proj.0.weight"].T @ weights["gk_proj.1.weight"].T + weights["gk_proj.1.bias"]
    decay = torch.sigmoid(decay_logits) ** (1 / tau)
    split = {n: t.unflatten(-1, (heads if n == "q" else kv_heads, -1)) for n, t in project.items()}
    q, v = feature(split["q"]), split["v"].repeat_interleave(heads // kv_heads, 2)
    k, a = (
        t.repeat_interleave(heads // kv_heads, 2) for t in (feature(split["k"]), decay.unflatten(-1, (kv_heads, -1)))
    )
    state, outputs = torch.zeros(len(x), heads, q.shape[-1], v.shape[-1], dtype=x.dtype), []
    for t in range(x.shape[1]):
        state = a[:, t, :, :, None] * state + k[:, t, :, :, None] * v[:, t, :, None]
        outputs.append(torch.einsum("bhkv,bhk->bhv", state, q[:, t]) * q.shape[-1] ** -0.5)
    o = torch.stack(outputs, 1)
    o = o * (o.square().mean(-1, keepdim=True) + 1e-5).rsqrt()
    o = (o * weights["g_norm.weight"] if "g_norm.weight" in weights else o).flatten(2)
    return (o if gate is None else o * gate(x @ weights["g_proj.weight"].T)) @ weights["o_proj.weight"].T


@pytest.mark.parametrize(
    ("options", "gate", "feature"),
    [
        ({"use_output_gate": False}, None, "identity"),
        ({"gate_fn": "relu", "feature_map": "gelu"}, "relu", "gelu_tanh"),
        ({"gate_fn": "sqrelu", "elementwise_affine": False}, "relu2", "identity"),
        (
            {"use_short_conv": True, "conv_size": 3, "conv_bias": True, "num_kv_heads": 1, "fuse_norm": False},
            "silu",
            "identity",
        ),
    ],
)
def test_options_without_golden_numbers_follow_the_equation(options, gate, feature):
    kv_heads, conv = options.get("num_kv_heads", 2), options.get("use_short_conv", False)
    key, value, rng = 4 * kv_heads, 4 * kv_heads, torch.Generator().manual_seed(0)
    shapes = {"q_proj.weight": (8, 8), "k_proj.weight": (key, 8), "v_proj.weight": (value, 8), "o_proj.weight": (8, 8)}
    shapes |= {"gk_proj.0.weight": (16, 8), "gk_proj.1.weight": (key, 16), "gk_proj.1.bias": (key,)}
    if options.get("elementwise_affine", True):
        shapes["g_norm.weight"] = (4,)
    if gate is not None:
        shapes["g_proj.weight"] = (8, 8)
    for part, width in zip("qkv", (8, key, value), strict=True):
        shapes |= {f"{part}_conv1d.weight": (width, 1, 3), f"{part}_conv1d.bias": (width,)} if conv else {}
    weights = {n: torch.randn(*size, generator=rng, dtype=torch.float64) for n, size in shapes.items()}
    module = from_original(ORIGINAL, weights, hidden_size=8, num_heads=2, expand_k=1, **options)
    x = torch.randn(2, 11, 8, generator=rng, dtype=torch.float64)
    act = None if gate is None else ACTIVATIONS[gate]
    assert_near(module(x), by_the_equation(x, weights, 2, kv_heads, conv, ACTIVATIONS[feature], act))


def test_query_heads_of_a_group_share_a_state():
    torch.manual_seed(0)
    grouped = create_mixer("gla", 16, num_heads=4, num_kv_heads=2).double().eval()
    full = create_mixer("gla", 16, num_heads=4).double().eval()

    def repeat(weight):
        return weight.unflatten(0, (2, -1)).repeat_interleave(2, dim=0).flatten(0, 1)

    weights = grouped.state_dict()
    shared = ("k_proj.weight", "v_proj.weight", "gk_proj.1.weight", "gk_proj.1.bias")
    full.load_state_dict({k: repeat(v) if k in shared else v for k, v in weights.items()})
    x = torch.randn(2, 9, 16, dtype=torch.float64)
    assert_near(grouped(x), full(x))
    assert grouped.init_state(1).memory.shape == (1, 2, 2, 4)
    assert full.init_state(1).memory.shape == (1, 4, 2, 4)


@pytest.mark.parametrize("name", ["gla", "mamba", "mamba2"])
def test_autocast_keeps_states_wide_and_outputs_close(name):
    torch.manual_seed(0)
    mixer, x = create_mixer(name, 16), torch.randn(2, 70, 16)
    want = mixer(x)
    with torch.autocast("cpu", torch.bfloat16):
        y = mixer(x)
        _, state = mixer.prefill(x[:, :20])
        y_t, _ = mixer.step(x[:, 20], state)
    assert y.dtype == torch.bfloat16
    assert all(leaf.tensor.dtype == torch.float32 for leaf in state._leaves())
    assert_near(y, want)
    assert_near(y_t, want[:, 20])
    y.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in mixer.parameters())


def test_the_decay_is_bounded_below():
    torch.manual_seed(0)
    mixer = create_mixer("gla", 8, gate_logit_normalizer=1, clamp_min=-0.25)
    with torch.no_grad():
        mixer.gk_proj[1].bias.fill_(-50.0)
    assert (mixer._log_decay(torch.randn(1, 3, 8)) == -0.25).all()


def test_a_feature_map_that_is_not_zero_at_zero_keeps_padding_out():
    torch.manual_seed(0)
    mixer = create_mixer("gla", 8, feature_map="sigmoid", d_conv=4, conv_bias=True).double().eval()
    x = torch.randn(1, 9, 8, dtype=torch.float64)
    mask = torch.tensor([[False] * 4 + [True] * 5])
    assert_near(mixer(x, mask=mask)[:, 4:], mixer(x[:, 4:]))


def test_errors_name_the_remedy():
    with pytest.raises(ValueError, match=r"num_heads=4, num_kv_heads=3.*Remedy: change num_kv_heads"):
        create_mixer("gla", 8, num_kv_heads=3)
    with pytest.raises(ValueError, match=r"4 key and 8 value channels for 3 heads.*Remedy"):
        create_mixer("gla", 8, num_heads=3)
    with pytest.raises(ValueError, match=r"activation 'slu'.*did you mean 'silu'"):
        create_mixer("gla", 8, gate_activation="slu")
    source, _ = import_variant(ORIGINAL, FOLDER, "gla", "gla")
    with pytest.raises(ValueError, match=r"hyper-parameter 'n_heads'.*did you mean 'num_heads'"):
        from_original(ORIGINAL, source.group("param"), hidden_size=32, n_heads=4)
