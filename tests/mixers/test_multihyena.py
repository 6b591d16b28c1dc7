"""MultiHyena: the numbers of the original, and its place between Hyena and linear attention."""

import pytest
import torch

from golden_cases import Imported, assert_close, check_gradients, load_case
from seqconv import create_mixer
from seqconv.interop import from_original

RTOL, ATOL = 1e-9, 1e-10


def test_outputs_filters_and_gradients_of_the_original():
    case = load_case("multihead_hyena")
    imported = Imported(case.meta["original"], case.group("param"), case.hyper)
    u = case.tensors["in.u"].clone().requires_grad_()
    y = imported(u)
    assert_close(y, case.tensors["out.y"], RTOL, ATOL, "y")
    (y * case.tensors["cot.y"]).sum().backward()
    wanted = case.group("grad")
    assert_close(u.grad, wanted.pop("in.u"), RTOL, ATOL, "gradient of the input")
    check_gradients(imported, wanted, RTOL, ATOL)
    mixer = from_original(case.meta["original"], case.group("param"), **case.hyper)
    assert_close(mixer.convolution.filter(29)[None], case.tensors["out.k"], RTOL, ATOL, "taps")
    assert_close(mixer(u.detach()), case.tensors["out.y"], RTOL, ATOL, "y of the loaded module")


def test_the_original_repeats_a_narrow_projection():
    case = load_case("multihead_hyena")
    params = case.group("param")
    narrow = {k: (v[:6] if k.startswith("in_proj") else v) for k, v in params.items()}
    wide = {k: (v[:6].repeat(4, *[1] * (v.dim() - 1)) if k.startswith("in_proj") else v) for k, v in params.items()}
    hyper = {k: v for k, v in case.hyper.items() if k != "proj_groups"}
    got = from_original(case.meta["original"], narrow, **hyper)
    want = from_original(case.meta["original"], wide, **hyper, proj_groups=1)
    u = case.tensors["in.u"]
    assert_close(got(u), want(u), RTOL, ATOL)


def test_one_channel_per_head_is_hyena_of_order_two():
    torch.manual_seed(0)
    multi = create_mixer("multihyena", 6, num_heads=6, l_max=20, filter_order=8).double()
    plain = create_mixer("hyena", 6, l_max=20, filter_order=8).double()
    own = multi.state_dict()
    plain.load_state_dict(own | {"D": own["D"][None]})
    x = torch.randn(2, 25, 6, dtype=torch.float64)
    assert_close(multi(x), plain(x), RTOL, ATOL)


def test_outer_products_are_convolved_with_the_filter_of_their_head():
    torch.manual_seed(0)
    mixer = create_mixer("multihyena", 6, num_heads=2, l_max=9).double()
    x = torch.randn(1, 9, 6, dtype=torch.float64)
    q, v, k = mixer.short_conv(mixer.in_proj(x))[0].unflatten(-1, (3, 2, 3)).unbind(2)
    taps, want = mixer.convolution.filter(9), torch.zeros(1, 9, 2, 3, dtype=torch.float64)
    for t in range(9):
        sums = mixer.D[:, None, None] * k[0, t, :, :, None] * v[0, t, :, None, :]
        for s in range(t + 1):
            sums = sums + taps[:, t - s, None, None] * k[0, s, :, :, None] * v[0, s, :, None, :]
        want[0, t] = torch.einsum("hi,hij->hj", q[0, t], sums)
    assert_close(mixer(x), mixer.out_proj(want.flatten(2)), RTOL, ATOL)


def test_errors_say_what_to_do():
    original, params = "athms/mad-lab:MultiHeadHyenaOperator", load_case("multihead_hyena").group("param")
    cases = {
        r"num_heads=3.*a divisor of 8.*Remedy": lambda: create_mixer("multihyena", 8, num_heads=3),
        r"order=3.*order=2.*Remedy": lambda: from_original(original, params, dim=8, max_length=29, order=3),
        r"'haeds'.*did you mean 'heads'": lambda: from_original(original, params, dim=8, max_length=29, haeds=2),
        r"without 'long_conv.filter.implicit_filter.0.weight'": lambda: from_original(original, {}, dim=8),
    }
    for pattern, use in cases.items():
        with pytest.raises(ValueError, match=pattern):
            use()
