"""H3 and H3Conv: the numbers of the originals."""

import pytest
import torch

from golden_cases import Imported, assert_close, check_gradients, load_case
from seqconv import create_mixer
from seqconv.filters.explicit.shift import ShiftFilter
from seqconv.interop import from_original

RTOL, ATOL = 1e-8, 1e-9
SSM, CONV = "HazyResearch/safari:H3", "HazyResearch/safari:H3Conv"


@pytest.mark.parametrize("name", ["h3", "h3_heads", "h3_conv"])
def test_outputs_kernels_and_gradients_of_the_original(name):
    case = load_case(name)
    imported = Imported(case.meta["original"], case.group("param"), case.hyper)
    u = case.tensors["in.u"].clone().requires_grad_()
    y = imported(u)
    assert_close(y, case.tensors["out.y"], RTOL, ATOL, "y")
    (y * case.tensors["cot.y"]).sum().backward()
    wanted = case.group("grad")
    assert_close(u.grad, wanted.pop("in.u"), RTOL, ATOL, "gradient of the input")
    check_gradients(imported, wanted, RTOL, ATOL)
    mixer = from_original(case.meta["original"], case.group("param"), **case.hyper)
    length = u.shape[1]
    assert_close(mixer.key_convolution.filter(length), case.tensors["out.shift_kernel"][0], RTOL, ATOL, "shift kernel")
    assert_close(mixer.convolution.filter(length), case.tensors["out.ssm_kernel"][0], RTOL, ATOL, "long kernel")


def test_prefill_and_steps_of_the_original():
    case = load_case("h3")
    mixer = from_original(case.meta["original"], case.group("param"), **case.hyper)
    u, prompt = case.tensors["in.u"], case.meta["prefill_length"]
    _, state = mixer.prefill(u[:, :prompt])
    keys, hidden = state.key.past, state.outer.hidden.hidden
    assert keys.shape[1] == 7
    want = case.complex("out.state_ssm_after_prefill")
    space = mixer.convolution.filter.state_space()
    B = space.B * space.dt / (1 - space.dt * space.A / 2)
    # scaled by 1 / B here, for the residues hold it, and of the conjugate poles
    assert_close(torch.view_as_real(hidden * B), torch.view_as_real(want), RTOL, ATOL, "state")
    steps = []
    for t in range(prompt, u.shape[1]):
        y, state = mixer.step(u[:, t], state)
        steps.append(y)
    assert_close(torch.stack(steps, dim=1), case.tensors["out.y_step"], RTOL, ATOL, "steps")


def test_the_shift_filter_correlates_its_vectors():
    torch.manual_seed(0)
    filter = ShiftFilter(3, d_state=5).double()
    assert_close(filter(5), filter.C, RTOL, ATOL, "initial taps")
    filter.B.data.normal_()
    want = torch.stack([(filter.B[:, : 5 - t] * filter.C[:, t:]).sum(1) for t in range(5)], dim=1)
    assert_close(filter(7)[:, :5], want, RTOL, ATOL)
    assert (filter(7)[:, 5:] == 0).all()


def test_the_state_is_constant_or_grows_with_explicit_taps():
    assert create_mixer("h3", 8, d_state=4).state_kind == "constant"
    assert create_mixer("h3_conv", 8, l_max=16).state_kind == "growing"


def test_errors_say_what_to_do():
    cases = {
        r"head_dim=3.*a divisor of d_model=8.*Remedy": lambda: create_mixer("h3", 8, head_dim=3),
        r"measure 'legs'.*diag-legs": lambda: from_original(SSM, {}, d_model=4, measure="legs"),
        r"real_type 'relu'.*exp": lambda: from_original(SSM, {}, d_model=4, real_type="relu"),
        r"l_max=32.*Remedy: drop l_max": lambda: from_original(SSM, {}, d_model=4, l_max=32),
        r"head_dim=2.*the original fails": lambda: from_original(CONV, {}, d_model=4, l_max=8, head_dim=2),
        r"l_max=None.*a number of taps": lambda: from_original(CONV, {}, d_model=4),
    }
    for pattern, use in cases.items():
        with pytest.raises(ValueError, match=pattern):
            use()
