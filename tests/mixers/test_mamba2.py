"""Mamba-2 against the original: outputs, gradients, packing, prompts, steps, states; its options and errors."""

from itertools import pairwise

import pytest
import torch

from golden_cases import assert_close, check_gradients
from scan_modules import ATOL, RTOL, check_layer, import_variant, prefill_then_step
from seqconv import create_mixer
from seqconv.interop import from_original
from seqconv.interop.state_space.mamba import MAMBA2, MAMBA2_NAMES
from tolerances import assert_near

FOLDER = "scan/mamba2_module"


@pytest.mark.parametrize("variant", ["v0", "v1", "v2", "v3"])
def test_golden_outputs_and_gradients(variant):
    case, imported = import_variant(MAMBA2, FOLDER, variant, variant)
    check_layer(case, imported)


@pytest.mark.parametrize("variant", ["v0", "v1", "v2"])
def test_golden_prompt_and_steps(variant):
    case, imported = import_variant(MAMBA2, FOLDER, f"{variant}_prefill_step", variant)
    y, after_prompt, end = prefill_then_step(imported, case.tensors["in.u"].double(), case.meta["prefill_len"])
    assert_close(y, case.tensors["out.y"], RTOL, ATOL, "output")
    for state, suffix in ((after_prompt, "_prefill"), (end, "")):
        check_state(state, case, suffix)


def check_state(state, case, suffix):
    """The original keeps one more input than the convolution can still reach, channels first."""
    assert_close(state.ssm, case.tensors[f"out.ssm_state{suffix}"], RTOL, ATOL, f"state{suffix}")
    conv = case.tensors[f"out.conv_state{suffix}"][..., 1:].mT
    assert_close(state.conv, conv, RTOL, ATOL, f"inputs of the convolution{suffix}")


def bounds_of(index):
    """Boundaries of the runs of equal numbers."""
    changes = (index[0].diff() != 0).nonzero().flatten() + 1
    return torch.tensor([0, *changes.tolist(), index.shape[1]])


def test_golden_packed_sequences():
    case, imported = import_variant(MAMBA2, FOLDER, "v0_seq_idx", "v0")
    check_layer(case, imported, cu_seqlens=bounds_of(case.tensors["const.seq_idx"]))
    check_gradients(imported, case.group("grad.param"), RTOL, 1e-9)


def test_golden_states_of_packed_sequences():
    case, imported = import_variant(MAMBA2, FOLDER, "v0_cu_seqlens_prefill", "v0")
    bounds, x = case.tensors["const.cu_seqlens"], case.tensors["in.u"].double()
    assert torch.equal(bounds.long(), bounds_of(case.tensors["const.seq_idx"]))
    assert_close(imported(x, cu_seqlens=bounds), case.tensors["out.y"], RTOL, ATOL, "output")
    states = [prefill_then_step(imported, x[:, a:b], int(b - a))[1] for a, b in pairwise(bounds.tolist())]
    assert_close(torch.cat([s.ssm for s in states]), case.tensors["out.ssm_state"], RTOL, ATOL, "states")
    want = case.tensors["out.conv_state"][..., 1:].mT
    assert_close(torch.cat([s.conv for s in states]), want, RTOL, ATOL, "inputs of the convolution")


@pytest.mark.parametrize("name", MAMBA2_NAMES)
def test_every_name_of_the_original_is_read(name):
    source, _ = import_variant(MAMBA2, FOLDER, "v3", "v3")
    module = from_original(name, source.group("param"), **source.meta["cfg"], use_mem_eff_path=False, layer_idx=0)
    assert_near(module(source.tensors["in.u"]), source.tensors["out.y"].float())


def test_channels_outside_the_scan_form_a_gated_mlp():
    """Identities that the registry's examples leave out: their state sizes must change with the width."""
    torch.manual_seed(0)
    mixer = create_mixer("mamba2", 8, d_ssm=8, head_dim=4, d_state=4).double().eval()
    x = torch.randn(2, 9, 8, dtype=torch.float64)
    want = mixer(x)
    state, outputs = mixer.init_state(2), []
    for t in range(9):
        y, state = mixer.step(x[:, t], state)
        outputs.append(y)
    assert_near(torch.stack(outputs, 1), want)
    with torch.no_grad():
        mixer.out_proj.weight[:, 8:] = 0
    changed = x.clone()
    changed[:, 3] += 1
    assert_near(mixer(changed)[:, 4:], mixer(x)[:, 4:], what="the gated MLP mixes no tokens")


def test_limits_of_the_time_step_hold_in_every_form():
    torch.manual_seed(0)
    mixer = create_mixer("mamba2", 8, d_state=4, dt_limit=(0.2, 0.2)).double().eval()
    with torch.no_grad():
        mixer.in_proj.weight[-1:] = 100.0
    x = torch.randn(1, 6, 8, dtype=torch.float64)
    y, state = mixer.prefill(x[:, :5])
    last, _ = mixer.step(x[:, 5], state)
    assert_near(torch.cat([y, last[:, None]], 1), mixer(x))


def test_initial_values_lie_in_their_ranges():
    torch.manual_seed(0)
    mixer = create_mixer("mamba2", 512, head_dim=8, A_init_range=(2.0, 3.0), conv_init=0.01, dt_min=0.01, dt_max=0.05)
    assert mixer.A_log.exp().min() >= 2
    assert mixer.A_log.exp().max() <= 3
    assert mixer.conv1d.weight.abs().max() <= 0.01
    dt = torch.nn.functional.softplus(mixer.dt_bias)
    assert dt.min() >= 0.0099
    assert dt.max() <= 0.0501
    assert create_mixer("mamba2", 48).head_dim == 32


def test_the_critical_parameters_are_marked():
    mixer = create_mixer("mamba2", 8)
    for parameter in (mixer.A_log, mixer.D, mixer.dt_bias):
        assert parameter._optim == {"weight_decay": 0.0}
        assert parameter._no_weight_decay


def test_errors_name_the_remedy():
    with pytest.raises(ValueError, match=r"head_dim=3.*change head_dim or num_groups"):
        create_mixer("mamba2", 8, head_dim=3)
    with pytest.raises(ValueError, match=r"num_groups=3.*change head_dim or num_groups"):
        create_mixer("mamba2", 8, head_dim=4, num_groups=3)
    with pytest.raises(ValueError, match=r"d_ssm=32.*Remedy: correct the sizes"):
        create_mixer("mamba2", 8, d_ssm=32)
    with pytest.raises(ValueError, match=r"16 channels in 3 groups.*Remedy"):
        create_mixer("mamba2", 8, norm_groups=3)
    source, _ = import_variant(MAMBA2, FOLDER, "v0", "v0")
    with pytest.raises(ValueError, match=r"hyper-parameter 'head_dim'.*did you mean 'headdim'"):
        from_original(MAMBA2, source.group("param"), d_model=16, head_dim=4)
