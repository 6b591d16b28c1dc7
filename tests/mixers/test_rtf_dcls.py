"""RTF and DCLS: the numbers of their originals, and what their filters promise."""

import pytest
import torch
import torch.nn.functional as F

from golden_cases import Imported, assert_close, check_gradients, load_case
from seqconv import create_mixer
from seqconv.filters.explicit.dcls import DCLSFilter
from seqconv.filters.state_space.rtf import RTFFilter
from seqconv.interop import from_original

RTOL, ATOL = 1e-9, 1e-10
RTF, DCLS = "athms/mad-lab:RTF", "K-H-Ismail/Dilated-Convolution-with-Learnable-Spacings-PyTorch:Dcls1d"


def test_outputs_kernels_and_gradients_of_rtf():
    case = load_case("rtf")
    imported = Imported(case.meta["original"], case.group("param"), case.hyper)
    assert_close(imported(case.tensors["in.u"]), case.tensors["out.y"], RTOL, ATOL, "y")
    layer = imported.module
    weights = {name.removeprefix("filter."): tensor for name, tensor in imported.weights.items()}
    k = torch.func.functional_call(layer.filter, weights, (case.hyper["L"],))
    assert_close(k, case.tensors["out.k"][0], RTOL, ATOL, "kernel")
    (k * case.tensors["cot.k"][0]).sum().backward()
    check_gradients(imported, case.group("grad"), RTOL, ATOL)


def test_rtf_steps_by_the_recurrence_of_its_kernel():
    case = load_case("rtf")
    layer = from_original(case.meta["original"], case.group("param"), **case.hyper)
    c = layer.filter.recurrence().C[:, :-1]
    assert_close(c, case.tensors["out.c_transposed_solve"], RTOL, ATOL, "c")
    u, state = case.tensors["in.u"], layer.init_state(2)
    ys, prompt = [], 9
    y, state = layer.prefill(u[:, :prompt], state)
    for t in range(prompt, u.shape[1]):
        y_t, state = layer.step(u[:, t], state)
        ys.append(y_t)
    assert_close(torch.cat([y, torch.stack(ys, dim=1)], dim=1), case.tensors["out.y"], RTOL, ATOL, "steps")


@pytest.mark.parametrize("l_max", [20, 21])
def test_rtf_is_the_folded_response_of_its_polynomials(l_max):
    torch.manual_seed(0)
    filter = RTFFilter(4, l_max=l_max, d_state=3, denominators=2, init="montel").double()
    points = l_max + l_max % 2
    a, b = filter.a.repeat_interleave(2, 0), filter.b
    h = torch.zeros(4, 60 * points, dtype=torch.float64)
    for t in range(1, h.shape[1]):
        h[:, t] = b[:, t - 1] if t <= 3 else 0
        for i in range(min(t, 3)):
            h[:, t] -= a[:, i] * h[:, t - 1 - i]
    want = h.unflatten(1, (60, points)).sum(1)
    want[:, 0] += filter.h_0
    assert_close(filter(l_max), want[:, :l_max], RTOL, ATOL)
    longer = filter(l_max + 15)
    assert_close(longer[:, :l_max], want[:, :l_max], RTOL, ATOL, "continued")


@pytest.mark.parametrize("name", ["dcls1d_gauss", "dcls1d_max", "dcls1d_v1"])
def test_outputs_kernels_and_gradients_of_dcls(name):
    case = load_case(name)
    imported = Imported(case.meta["original"], case.group("param"), case.hyper)
    x = case.tensors["in.x"].clone().requires_grad_()
    y = imported(x.transpose(1, 2)).transpose(1, 2)
    assert_close(y, case.tensors["out.y"], RTOL, ATOL, "y")
    (y * case.tensors["cot.y"]).sum().backward()
    wanted = case.group("grad")
    assert_close(x.grad, wanted.pop("in.x"), RTOL, ATOL, "gradient of the input")
    check_gradients(imported, wanted, RTOL, ATOL)
    layer = from_original(case.meta["original"], case.group("param"), **case.hyper)
    kernel = case.tensors["out.kernel"].flatten(0, 1)
    assert_close(layer.filter(kernel.shape[1]).flip(-1), kernel, RTOL, ATOL, "kernel")


def test_a_tap_between_two_lags_is_shared_out_by_its_distance():
    filter = DCLSFilter(1, kernel_count=2, span=6, version="v0").double()
    filter.weight.data.copy_(torch.tensor([[2.0, -1.0]]))
    filter.position.data.copy_(torch.tensor([[1.25, 4.0]]))
    assert_close(filter(8)[0], torch.tensor([0, 1.5, 0.5, 0, -1, 0, 0, 0]).double(), RTOL, ATOL)
    filter.position.data.copy_(torch.tensor([[-9.0, 9.0]]))
    filter.clamp_positions()
    assert filter.position.tolist() == [[-1.0, 5.0]]


def test_the_mixer_is_causal_with_a_window_of_inputs():
    torch.manual_seed(0)
    mixer = create_mixer("dcls", 4, span=20, kernel_count=3).double()
    x = torch.randn(1, 50, 4, dtype=torch.float64)
    taps = mixer.convolution.filter(20).flip(-1)
    want = F.conv1d(F.pad(x.transpose(1, 2), (19, 0)), taps[:, None], mixer.bias, groups=4).transpose(1, 2)
    assert_close(mixer(x), mixer.out_proj(want), RTOL, ATOL)
    _, state = mixer.prefill(x)
    assert state.past.shape == (1, 19, 4)
    assert mixer.state_kind == "window"


def test_errors_say_what_to_do():
    small = {"in_channels": 2, "out_channels": 2, "kernel_count": 2}
    hyper = {"d_model": 4, "state_size": 2, "trunc_len": 8}
    cases = {
        r"d_state=64.*l_max=32.*d_state < l_max": lambda: create_mixer("rtf", 4, l_max=32),
        r"denominators=3.*divide the channels": lambda: create_mixer("rtf", 4, denominators=3),
        r"init 'montell'.*did you mean 'montel'": lambda: create_mixer("rtf", 4, init="montell"),
        r"version 'gaus'.*did you mean 'gauss'": lambda: create_mixer("dcls", 4, version="gaus"),
        r"span=0.*at least 1": lambda: create_mixer("dcls", 4, span=0),
        r"bidirectional=True.*create_mixer": lambda: from_original(RTF, {}, **hyper, bidirectional=True),
        r"stride=2.*stride=1": lambda: from_original(DCLS, {}, **small, stride=2),
    }
    for pattern, use in cases.items():
        with pytest.raises(ValueError, match=pattern):
            use()
