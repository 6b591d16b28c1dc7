"""StripedHyena 2: the numbers of vortex and savanna, and decoding after prompts of any length."""

import pytest
import torch

from golden_cases import Imported, assert_close, check_gradients, load_case
from seqconv import create_mixer
from seqconv.filters.explicit.taps import TapsFilter
from seqconv.filters.state_space.real_modal import FactoredModalFilter
from seqconv.interop import from_original

RTOL, ATOL = 1e-8, 1e-9
CASES = ["sh2_short_explicit", "sh2_medium", "sh2_long_implicit"]
CASCADE = "Zymrael/vortex:HyenaCascade"


@pytest.mark.parametrize("name", CASES)
def test_outputs_states_steps_and_gradients_of_the_original(name):
    case = load_case(name)
    imported = Imported(case.meta["original"], case.group("param"), case.hyper)
    u = case.tensors["in.u"].clone().requires_grad_()
    y = imported(u)
    assert_close(y, case.tensors["out.y"], RTOL, ATOL, "y")
    (y * case.tensors["cot.y"]).sum().backward()
    wanted = case.group("grad")
    assert_close(u.grad, wanted.pop("in.u"), RTOL, ATOL, "gradient of the input")
    check_gradients(imported, wanted, RTOL, ATOL)
    layer, prompt = from_original(CASCADE, case.group("param"), **case.hyper), case.hyper["prefill_length"]
    u = case.tensors["in.u"]
    _, state = layer.prefill(u[:, :prompt], layer.init_state(len(u), u.device, u.dtype))
    assert_close(state.short.transpose(1, 2), case.tensors["out.state_fir"], RTOL, ATOL, "short state")
    if name == "sh2_long_implicit":
        assert_close(state.long[0].hidden.hidden, case.tensors["out.state_iir"], RTOL, ATOL, "long state")
        assert_close(layer.convolution.filter(u.shape[1]), case.tensors["out.filter"][0], RTOL, ATOL, "filter")
    else:
        want = case.tensors["out.state_fir_inner"]
        assert_close(state.long[0].past.transpose(1, 2), want, RTOL, ATOL, "inner state")
    steps = []
    for t in range(prompt, u.shape[1]):
        y_t, state = layer.step(u[:, t], state)
        steps.append(y_t)
    assert_close(torch.stack(steps, dim=1), case.tensors["out.y_step"], RTOL, ATOL, "steps")


@pytest.mark.parametrize("prompt", [1, 2, 3, 5, 6, 7])
@pytest.mark.parametrize("name", CASES)
def test_steps_after_prompts_shorter_than_the_filters_are_the_convolution(name, prompt):
    case = load_case(name)
    layer, u = from_original(CASCADE, case.group("param"), **case.hyper), case.tensors["in.u"][:, :16]
    want = layer(u)
    _, state = layer.prefill(u[:, :prompt], layer.init_state(len(u), u.device, u.dtype))
    for t in range(prompt, 16):
        y_t, state = layer.step(u[:, t], state)
        assert_close(y_t, want[:, t], RTOL, ATOL, f"token {t}")


@pytest.mark.parametrize("layout", [{"interleave": True}, {"column_split_hyena": True}, {"hyena_flip_x1x2": True}, {}])
def test_layouts_of_the_projections(layout):
    case = load_case("sh2_short_explicit")
    plain = case.hyper | {"interleave": False, "column_split_hyena": False, "hyena_flip_x1x2": False}
    params, u = case.group("param"), case.tensors["in.u"]
    D, heads = case.hyper["hidden_size"], case.hyper["num_attention_heads"]
    order = torch.arange(3 * D)
    if layout.get("interleave"):
        order = order.view(D, 3).T.flatten()
    if layout.get("column_split_hyena"):
        order = order.view(heads, 3, -1).transpose(0, 1).flatten()
    if layout.get("hyena_flip_x1x2"):
        order = order.view(3, D)[[1, 0, 2]].flatten()
    got = from_original(CASCADE, params, **(plain | layout))(u)
    moved = params | {"short_filter_weight": params["short_filter_weight"][order]}
    assert_close(got, from_original(CASCADE, moved, **plain)(u[..., order]), RTOL, ATOL)


@pytest.mark.parametrize("name", ["sh2_medium_filter", "sh2_long_filter"])
def test_filters_of_the_training_code(name):
    case = load_case(name)
    imported = Imported(case.meta["original"], case.group("param"), case.hyper)
    h = imported(case.hyper["L"])
    assert_close(h, case.tensors["out.h"], RTOL, ATOL, "h")
    (h * case.tensors["cot.h"]).sum().backward()
    check_gradients(imported, case.group("grad"), RTOL, ATOL)


def test_initial_values_are_those_of_the_training_code():
    torch.manual_seed(0)
    medium = TapsFilter(64, width=128, decay="normal", small_init=True)
    assert abs(medium.weight.std().item() / (1e-5 * 128**-0.5) - 1) < 0.03
    assert_close(medium.window[:, -1].log().neg().log10(), torch.linspace(-1, 2, 64), 1e-3, 1e-3)
    long = FactoredModalFilter(64, d_state=16)
    assert (long.q == long.q[:1]).all()
    assert abs(long.R.std().item() * 4 - 1) < 0.05
    assert 0.001 <= long.dt.min() < long.dt.max() <= 0.1
    assert long.dt._no_weight_decay
    assert (long.recurrence().poles < 1).all()


def test_states_and_errors():
    kinds = {"short": "window", "medium": "window", "long": "constant"}
    for operator, kind in kinds.items():
        assert create_mixer("striped_hyena2", 8, operator=operator).state_kind == kind
    hyper = load_case("sh2_long_implicit").hyper
    short = load_case("sh2_short_explicit").hyper
    cases = {
        r"operator 'shor'.*did you mean 'short'": lambda: create_mixer("striped_hyena2", 8, operator="shor"),
        r"groups=3.*groups that divide": lambda: create_mixer("striped_hyena2", 8, operator="short", groups=3),
        r"decay 'storng'.*did you mean 'strong'": lambda: create_mixer(
            "striped_hyena2", 8, operator="medium", decay="storng"
        ),
        r"d_state=0.*at least one pole": lambda: create_mixer("striped_hyena2", 8, d_state=0),
        r"groups=3.*repeats the wrong axis": lambda: from_original(CASCADE, {}, **(hyper | {"groups": 3})),
        r"groups=1.*fails in its forward": lambda: from_original(CASCADE, {}, **(short | {"groups": 1})),
        r"no L.*pass L": lambda: from_original("Zymrael/savanna:ImplicitRealModalFilter", {}, d_model=4, order=2),
    }
    for pattern, use in cases.items():
        with pytest.raises(ValueError, match=pattern):
            use()
