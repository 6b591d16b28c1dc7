"""MultiresConv: the numbers of the original, and the tree as one impulse response."""

import pytest
import torch

from golden_cases import Imported, assert_close, check_gradients, load_case
from seqconv import create_mixer
from seqconv.filters.explicit.multires import MultiresFilter, daubechies
from seqconv.interop import from_original

RTOL, ATOL = 1e-9, 1e-10
LAYER, NET = "thjashin/multires-conv:MultiresLayer", "thjashin/multires-conv:MultiresNet"


@pytest.mark.parametrize("name", ["multires_fading", "multires_uniform", "multires_wavelet", "multires_net"])
def test_outputs_and_gradients_of_the_original(name):
    case = load_case(name)
    imported = Imported(case.meta["original"], case.group("param"), case.hyper)
    x = case.tensors["in.x"].clone().requires_grad_()
    y = imported(x.transpose(1, 2))
    y = y.transpose(1, 2) if y.dim() == 3 else y
    assert_close(y, case.tensors["out.y"], RTOL, ATOL, "y")
    (y * case.tensors["cot.y"]).sum().backward()
    wanted = case.group("grad")
    assert_close(x.grad, wanted.pop("in.x"), RTOL, ATOL, "gradient of the input")
    check_gradients(imported, wanted, RTOL, ATOL)


@pytest.mark.parametrize("name", ["multires_fading", "multires_uniform", "multires_wavelet"])
def test_the_impulse_response_of_the_original(name):
    case = load_case(name)
    mixer = from_original(case.meta["original"], case.group("param"), **case.hyper)
    want = case.tensors["out.impulse_response_linear"][0]
    assert_close(mixer.convolution.filter(want.shape[1]), want, RTOL, ATOL)


@pytest.mark.parametrize(
    "options",
    [{"levels": 3, "kernel_size": 3}, {"levels": 4, "kernel_size": 2, "tree": "uniform", "memory_size": 9},
     {"levels": 3, "kernel_size": 4, "tree": "uniform", "memory_size": 4}],
)  # fmt: skip
def test_no_tap_is_beyond_the_reach_and_the_last_one_is_used(options):
    torch.manual_seed(0)
    filter = MultiresFilter(2, l_max=1, **options).double()
    taps = filter(filter.max_length + 20)
    assert (taps[:, filter.max_length :] == 0).all()
    assert (taps[:, filter.max_length - 1] != 0).all()


def test_wavelets_start_the_tree_as_in_the_original():
    case = load_case("multires_wavelet")
    filter = MultiresFilter(4, l_max=1, levels=3, kernel_size=4, wavelet="db2")
    assert_close(filter.h0.flip(-1)[:, None], case.tensors["param_init.h0"], 1e-6, 1e-7)
    assert_close(filter.h1.flip(-1)[:, None], case.tensors["param_init.h1"], 1e-6, 1e-7)


@pytest.mark.parametrize("moments", [1, 2, 3, 6])
def test_wavelets_are_orthonormal_with_their_vanishing_moments(moments):
    h = daubechies(moments)
    assert h.shape == (2 * moments,)
    for shift in range(moments):
        product = (h[2 * shift :] * h[: len(h) - 2 * shift]).sum()
        assert_close(product, torch.tensor(float(shift == 0)).double(), 1e-9, 1e-9, f"shift {shift}")
    n = torch.arange(len(h)).double()
    for power in range(moments):
        alternating = ((-1) ** n * n**power * h).sum()
        assert_close(alternating, torch.zeros(()).double(), 0, 1e-6 * len(h) ** power, f"moment {power}")


def test_errors_say_what_to_do():
    cases = {
        r"kernel_size=1.*at least 2": lambda: create_mixer("multires", 4, kernel_size=1),
        r"tree 'fade'.*did you mean 'fading'": lambda: create_mixer("multires", 4, tree="fade"),
        r"memory_size=None.*uniform tree.*Remedy": lambda: create_mixer("multires", 4, tree="uniform"),
        r"wavelet='db3'.*'db2'.*kernel_size=4": lambda: create_mixer("multires", 4, kernel_size=4, wavelet="db3"),
        r"kernel_size=None.*taps of the wavelet": lambda: from_original(LAYER, {}, d_model=4, depth=2),
        r"neither a depth nor a length.*pass depth": lambda: from_original(LAYER, {}, d_model=4, kernel_size=2),
        r"encoder 'conv'.*linear": lambda: from_original(NET, {}, d_input=3, max_length=8, encoder="conv"),
    }
    for pattern, use in cases.items():
        with pytest.raises(ValueError, match=pattern):
            use()
