"""Gated linear attention against the original: outputs, gradients, padding, packing; its options and refusals."""

import pytest
import torch

from golden_cases import assert_close
from scan_modules import ATOL, RTOL, check_layer, import_variant
from seqconv import create_mixer
from seqconv.interop import from_original
from seqconv.interop.gla import NAMES, ORIGINAL
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


def test_query_heads_of_a_group_share_a_state():
    torch.manual_seed(0)
    grouped = create_mixer("gla", 16, num_heads=4, num_kv_heads=2).double().eval()
    full = create_mixer("gla", 16, num_heads=4).double().eval()

    def repeat(weight):
        return weight.unflatten(0, (2, -1)).repeat_interleave(2, dim=0).flatten(0, 1)

    ours = grouped.state_dict()
    shared = ("k_proj.weight", "v_proj.weight", "decay_up.weight", "decay_up.bias")
    full.load_state_dict({k: repeat(v) if k in shared else v for k, v in ours.items()})
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
        mixer.decay_up.bias.fill_(-50.0)
    assert (mixer._log_decay(torch.randn(1, 3, 8)) == -0.25).all()


def test_a_feature_map_that_is_not_zero_at_zero_keeps_padding_out():
    torch.manual_seed(0)
    mixer = create_mixer("gla", 8, feature_map="sigmoid", use_short_conv=True, conv_bias=True).double().eval()
    x = torch.randn(1, 9, 8, dtype=torch.float64)
    mask = torch.tensor([[False] * 4 + [True] * 5])
    assert_near(mixer(x, mask=mask)[:, 4:], mixer(x[:, 4:]))


def test_refusals_name_the_remedy():
    with pytest.raises(ValueError, match=r"num_heads=4, num_kv_heads=3.*Remedy: change num_kv_heads"):
        create_mixer("gla", 8, num_kv_heads=3)
    with pytest.raises(ValueError, match=r"4 key and 8 value channels for 3 heads.*Remedy"):
        create_mixer("gla", 8, num_heads=3)
    with pytest.raises(ValueError, match=r"activation 'slu'.*did you mean 'silu'"):
        create_mixer("gla", 8, gate_fn="slu")
    source, _ = import_variant(ORIGINAL, FOLDER, "gla", "gla")
    with pytest.raises(ValueError, match=r"hyper-parameter 'n_heads'.*did you mean 'num_heads'"):
        from_original(ORIGINAL, source.group("param"), hidden_size=32, n_heads=4)
