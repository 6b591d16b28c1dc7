"""Mamba against the original: outputs, gradients, prompts, steps, states; its parameters and its errors."""

import pytest
import torch

from golden_cases import assert_close
from scan_modules import ATOL, RTOL, check_layer, import_variant, prefill_then_step
from seqconv import create_mixer
from seqconv.build import build_backbone
from seqconv.interop import from_original
from seqconv.interop.state_space.mamba import MAMBA, MAMBA_NAMES
from tolerances import assert_near

FOLDER = "scan/mamba1_module"


@pytest.mark.parametrize("variant", ["v0", "v1"])
def test_golden_outputs_and_gradients(variant):
    case, imported = import_variant(MAMBA, FOLDER, variant, variant)
    check_layer(case, imported)


@pytest.mark.parametrize("variant", ["v0", "v1"])
def test_golden_prompt_and_steps(variant):
    case, imported = import_variant(MAMBA, FOLDER, f"{variant}_prefill_step", variant)
    x = case.tensors["in.u"].double()
    y, after_prompt, end = prefill_then_step(imported, x, case.meta["prefill_len"])
    assert_close(y, case.tensors["out.y"], RTOL, ATOL, "output")
    for state, suffix in ((after_prompt, "_prefill"), (end, "")):
        check_state(state, case, suffix)


def test_golden_prompt_shorter_than_the_convolution():
    case, imported = import_variant(MAMBA, FOLDER, "tiny_prompt_shorter_than_conv", "v1")
    y, state, _ = prefill_then_step(imported, case.tensors["in.u"].double(), 2)
    assert_close(y, case.tensors["out.y"], RTOL, ATOL, "output")
    check_state(state, case, "")


def check_state(state, case, suffix):
    """The original keeps one more input than the convolution can still reach, channels first."""
    assert_close(state.ssm, case.tensors[f"out.ssm_state{suffix}"], RTOL, ATOL, f"state{suffix}")
    conv = case.tensors[f"out.conv_state{suffix}"][..., 1:].mT
    assert_close(state.conv, conv, RTOL, ATOL, f"inputs of the convolution{suffix}")


@pytest.mark.parametrize("name", MAMBA_NAMES)
def test_every_name_of_the_original_is_read(name):
    source, _ = import_variant(MAMBA, FOLDER, "v0", "v0")
    module = from_original(name, source.group("param"), **source.meta["cfg"], use_fast_path=False, layer_idx=3)
    x = source.tensors["in.u"]
    assert_near(module(x), source.tensors["out.y"].float())


@pytest.mark.parametrize("parameter_norm", ["plain", "weighted"])
def test_the_parameter_norm_makes_the_dynamics_independent_of_scale(parameter_norm):
    torch.manual_seed(0)
    mixer = create_mixer("mamba", 8, d_state=4, parameter_norm=parameter_norm).double()
    with torch.no_grad():
        u = torch.randn(1, 5, 16, dtype=torch.float64)
        before = mixer._selection(u)
        mixer.x_proj.weight.mul_(1000.0)
        after = mixer._selection(u)
    for name, a, b in zip(("time step", "B", "C"), before, after, strict=True):
        assert b.abs().max() < 2 * a.abs().max() + 4, name


def test_initial_time_steps_lie_in_their_range():
    torch.manual_seed(0)
    mixer = create_mixer("mamba", 64, dt_min=0.01, dt_max=0.05, dt_init_floor=0.02)
    dt = torch.nn.functional.softplus(mixer.dt_bias)
    assert dt.min() >= 0.02 - 1e-6
    assert dt.max() <= 0.05 + 1e-6
    constant = create_mixer("mamba", 64, dt_init="constant", dt_scale=0.5)
    torch.testing.assert_close(constant.dt_proj.weight, torch.full((128, 4), 0.25))
    torch.testing.assert_close(mixer.A_log.exp(), torch.arange(1.0, 17).expand(128, 16))


def test_the_critical_parameters_are_marked():
    mixer = create_mixer("mamba", 8)
    for parameter in (mixer.A_log, mixer.D, mixer.dt_bias):
        assert parameter._optim == {"weight_decay": 0.0}
        assert parameter._no_weight_decay
    assert not hasattr(mixer.in_proj.weight, "_no_weight_decay")


@pytest.mark.parametrize("name", ["mamba", "mamba2"])
def test_output_projections_shrink_with_the_depth_of_the_stack(name):
    """``rescale_prenorm_residual`` of state-spaces/mamba: by the root of what is added to the stream in all."""

    def bound(**options):
        backbone = build_backbone(64, 6, [name], **options)
        return max(block.mixer.out_proj.weight.abs().max().item() for block in backbone.layers)

    torch.manual_seed(0)
    alone = create_mixer(name, 64).out_proj.weight.abs().max().item()
    assert bound() == pytest.approx(alone / 6**0.5, rel=0.01)
    assert bound(mlp="gelu") == pytest.approx(alone / 12**0.5, rel=0.01)


def test_float32_dynamics_inside_a_bfloat16_mixer():
    torch.manual_seed(0)
    mixer = create_mixer("mamba", 8, d_state=4)
    x = torch.randn(2, 20, 8)
    want = mixer(x)
    mixer.bfloat16()
    for parameter in (mixer.A_log, mixer.D, mixer.dt_bias):
        assert parameter.dtype == torch.float32
    got = mixer(x.bfloat16())
    assert got.dtype == torch.bfloat16
    assert_near(got, want)
    assert mixer.prefill(x.bfloat16())[1].ssm.dtype == torch.float32


def test_errors_name_the_remedy():
    with pytest.raises(ValueError, match=r"dt_init 'constnt'.*did you mean 'constant'"):
        create_mixer("mamba", 8, dt_init="constnt")
    with pytest.raises(ValueError, match=r"parameter_norm 'weigted'.*did you mean 'weighted'"):
        create_mixer("mamba", 8, parameter_norm="weigted")
    with pytest.raises(ValueError, match=r"d_state=0.*Remedy: raise the sizes"):
        create_mixer("mamba", 8, d_state=0)
    with pytest.raises(ValueError, match=r"dt_min=0.2, dt_max=0.1.*Remedy"):
        create_mixer("mamba", 8, dt_min=0.2)
    with pytest.raises(ValueError, match=r"width=0.*Remedy"):
        create_mixer("mamba", 8, d_conv=0)
    source, _ = import_variant(MAMBA, FOLDER, "v0", "v0")
    with pytest.raises(ValueError, match=r"hyper-parameter 'd_stat'.*did you mean 'd_state'"):
        from_original(MAMBA, source.group("param"), d_model=12, d_stat=4)
    with pytest.raises(ValueError, match=r"no d_model.*Remedy"):
        from_original(MAMBA, source.group("param"))
    with pytest.raises(ValueError, match=r"without 'in_proj.bias'.*Remedy"):
        from_original(MAMBA, source.group("param"), **source.meta["cfg"], bias=True)
