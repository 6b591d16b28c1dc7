"""Hyena: the numbers of the originals, and the right thing where they are defective."""

import copy
import math

import pytest
import torch

from golden_cases import Imported, assert_close, check_gradients, load_case
from seqconv import create_mixer
from seqconv.convolution.blockwise import convolve_blocks, convolve_circular
from seqconv.filters.implicit.hyena import HyenaFilter
from seqconv.interop import from_original

RTOL, ATOL = 1e-9, 1e-10
CASES = ["hyena_order2", "hyena_order3", "hyena_order3_standalone", "hyena_order_ffn", "hyenadna_bidirectional"]


@pytest.mark.parametrize("name", CASES)
def test_outputs_filters_and_gradients_of_the_originals(name):
    case = load_case(name)
    imported = Imported(case.meta["original"], case.group("param"), case.hyper)
    u = case.tensors["in.u"].clone().requires_grad_()
    y = imported(u)
    assert_close(y, case.tensors["out.y"], RTOL, ATOL, "y")
    (y * case.tensors["cot.y"]).sum().backward()
    wanted = case.group("grad")
    assert_close(u.grad, wanted.pop("in.u"), RTOL, ATOL, "gradient of the input")
    check_gradients(imported, wanted, RTOL, ATOL)


def random_signal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("length", "blocks"), [(12, 1), (7, 1), (12, 2), (12, 4), (15, 3)])
@pytest.mark.parametrize("delayed", [False, True])
def test_the_circular_defects_are_their_equation(length, blocks, delayed):
    v, taps, skip = random_signal(2, length, 3), random_signal(3, length, seed=1), random_signal(3, seed=2)
    block = length // blocks
    size, delay = 2 * block, block // 2 if delayed else 0
    want = skip * v
    for start in range(0, length, block):
        for t in range(block):
            for s in range(min(size, length)):
                place = (t - s - delay) % size
                if place < block:
                    want[:, start + t] += taps[:, s] * v[:, start + place]
    assert_close(convolve_circular(v, taps, skip, blocks, delayed=delayed), want, RTOL, ATOL)


def test_blocks_do_not_depend_on_each_other_and_begin_with_the_first_token():
    v, mask = random_signal(2, 11, 3), torch.ones(2, 11, dtype=torch.bool)
    mask[0, :5] = False
    v[0, :5] = 0
    got = convolve_blocks(v, lambda rows: rows.cumsum(1), 4, mask)
    for row, first in ((0, 5), (1, 0)):
        for start in range(first, 11, 4):
            assert_close(got[row, start : start + 4], v[row, start : start + 4].cumsum(0), RTOL, ATOL)


def test_blocks_of_the_originals_wrap_around_and_those_of_seqconv_do_not():
    case = load_case("hyena_order_ffn")
    hyper = case.hyper | {"num_blocks": 3}
    wrapping = from_original(case.meta["original"], case.group("param"), **hyper)
    mixer = create_mixer("hyena", 6, l_max=30, order=3, filter_order=8, num_blocks=3, w=2.0, post_order_ffn=True,
                         outer_mixing=True).double()  # fmt: skip
    mixer.load_state_dict(wrapping.state_dict())
    x = case.tensors["in.u"]
    later = x.clone()
    later[:, 9] += 1

    def dependence_at(mixer, t):
        return (mixer(later) - mixer(x))[:, t].abs().max()

    assert dependence_at(wrapping, 0) > 1e-6
    assert dependence_at(mixer, 8) < 1e-12
    assert dependence_at(mixer, 9) > 1e-6
    assert_close(mixer(x)[:, :10], mixer(x[:, :10]), RTOL, ATOL)
    assert not wrapping.causal
    assert not mixer.causal


def test_an_imported_causal_operator_has_no_circle_and_no_limits():
    case = load_case("hyena_order3")
    mixer = from_original(case.meta["original"], case.group("param"), **case.hyper)
    x = random_signal(1, 40, 6)
    padded, mask = torch.cat([x.new_zeros(1, 3, 6), x], dim=1), torch.arange(43)[None] >= 3
    assert_close(mixer(padded, mask=mask)[:, 3:], mixer(x), RTOL, ATOL)
    assert_close(mixer.prefill(x)[0], mixer(x), RTOL, ATOL)


def test_bidirectional_is_a_two_sided_filter():
    torch.manual_seed(0)
    mixer = create_mixer("hyena", 4, l_max=20, bidirectional=True, in_proj_bias=False).double()
    x = random_signal(2, 13, 4)
    (gate, other), v, _ = mixer._project(x, None)
    v = v * other
    past, future = mixer.convolution.filter(13).chunk(2)
    want = mixer.D[0] * v
    for t in range(13):
        for s in range(13):
            taps = past[:, t - s] if s <= t else future[:, s - t - 1]
            want[:, t] += taps * v[:, s]
    assert_close(mixer(x), mixer.out_proj(want * gate), RTOL, ATOL)


def test_the_filter_is_its_equation():
    torch.manual_seed(0)
    filter = HyenaFilter(4, l_max=9, groups=2, emb_dim=5, filter_order=3, num_inner_mlps=1, w=2.0, shift=0.1).double()
    got = filter(12)
    assert (got[:, 9:] == 0).all()
    assert_close(filter(4), got[:, :4], RTOL, ATOL)
    for t in range(9):
        angles = [2 * math.pi * t / 9 * f for f in (1e-4, 1.0)]
        e = torch.tensor([t / 8, *map(math.cos, angles), *(-math.sin(a) for a in angles)]).double()
        for layer in filter.network.layers[:-1]:
            e = torch.sin(filter.frequency * (layer.weight @ e + layer.bias))
        rates = torch.tensor([math.log(0.01) / 1.5, math.log(0.01) / 0.3] * 2).double()
        want = (filter.network.layers[-1].weight @ e) * (torch.exp(rates * t / 8) + 0.1)
        assert_close(got[:, t], want, 1e-5, 1e-6, f"tap {t}")


def original_filter(params, *, modulate, normalized):
    """``HyenaFilter.filter`` in src/models/sequence/hyena.py of HazyResearch/safari at 02220c69 and of hyena-dna at
    d553021b: the network, then ``modulation``, then ``h / torch.norm(h, dim=-1, p=1, keepdim=True)``.
    """
    network = {k.removeprefix("filter_fn.implicit_filter."): v for k, v in params.items() if "implicit_filter" in k}
    h = params["filter_fn.pos_emb.z"][0]
    for layer in range(0, 6, 2):
        h = torch.sin(network["1.freq"] * (h @ network[f"{layer}.weight"].T + network[f"{layer}.bias"]))
    h = h @ network["6.weight"].T
    if modulate:
        h = h * torch.exp(-params["filter_fn.pos_emb.t"][0] * params["filter_fn.modulation.deltas"][0].abs())
    return (h / h.abs().sum(-1, keepdim=True) if normalized else h).T


@pytest.mark.parametrize("original", ["HazyResearch/safari:HyenaOperator", "HazyResearch/hyena-dna:HyenaOperator"])
@pytest.mark.parametrize("modulate", [True, False])
@pytest.mark.parametrize("normalized", [True, False])
def test_the_originals_normalise_their_filters_after_the_modulation(original, modulate, normalized):
    case = load_case("hyena_order2")
    params = case.group("param")
    mixer = from_original(original, params, **case.hyper, modulate=modulate, normalized=normalized)
    want = original_filter(params, modulate=modulate, normalized=normalized)
    assert_close(mixer.convolution.filter(32), want, RTOL, ATOL)


def test_the_standalone_file_never_reads_its_option_to_normalise():
    """standalone_hyena.py of HazyResearch/safari at 02220c69: ``HyenaFilter.filter`` ends with the modulation."""
    case = load_case("hyena_order3_standalone")
    plain, normalized = (
        from_original(case.meta["original"], case.group("param"), **case.hyper, normalized=flag)
        for flag in (False, True)
    )
    assert torch.equal(plain(case.tensors["in.u"]), normalized(case.tensors["in.u"]))


def test_options_of_the_filter_reach_it_through_the_importer():
    case = load_case("hyena_order2")
    got = from_original(case.meta["original"], case.group("param"), **case.hyper, bias=False, modulation_lr=1e-4)
    assert got.D is None
    assert got.convolution.filter.decays._optim == {"lr": 1e-4, "weight_decay": 0.0}
    params = {k: v for k, v in case.group("param").items() if "implicit_filter" not in k}
    params["filter_fn.implicit_filter.0.weight"] = random_signal(6, 5)
    linear = from_original("HazyResearch/hyena-dna:HyenaOperator", params, **case.hyper, linear_mixer=True)
    z = params["filter_fn.pos_emb.z"][0]
    window = torch.exp(-linear.convolution.filter.times[:, None] * linear.convolution.filter.decays.abs())
    assert_close(linear.convolution.filter(32), ((z @ random_signal(6, 5).T) * window).T, RTOL, ATOL)


def test_learning_rates_travel_with_the_parameters():
    filter = HyenaFilter(2, l_max=8, lr=1e-3, lr_pos_emb=1e-5, modulation_lr=1e-4)
    assert filter.positions._optim == {"lr": 1e-5, "weight_decay": 0.0}
    assert filter.decays._optim == {"lr": 1e-4, "weight_decay": 0.0}
    assert filter.network.layers[0].weight._optim == {"lr": 1e-3, "weight_decay": 0.0}
    assert not isinstance(HyenaFilter(2, l_max=8, lr_pos_emb=0.0).positions, torch.nn.Parameter)


def test_filters_stay_in_float32_under_autocast():
    mixer = create_mixer("hyena", 8, l_max=16, w=14.0, emb_dim=33)
    want = mixer.convolution.filter(16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = mixer.convolution.filter(16)
        y = mixer(torch.randn(1, 16, 8))
    assert got.dtype == torch.float32
    assert torch.equal(got, want)
    assert y.dtype == torch.bfloat16


def test_filters_stay_in_float32_when_the_mixer_is_converted():
    torch.manual_seed(0)
    mixer = create_mixer("hyena", 8, l_max=256, w=14.0, emb_dim=33)
    want = mixer.convolution.filter(256)
    for dtype in (torch.bfloat16, torch.float16):
        half = copy.deepcopy(mixer).to(dtype)
        assert torch.equal(half.convolution.filter(256), want)
        assert half.out_proj.weight.dtype == dtype
        assert half(torch.randn(1, 9, 8, dtype=dtype)).dtype == dtype
    assert copy.deepcopy(mixer).double().convolution.filter(256).dtype == torch.float64
    torch.set_default_dtype(torch.bfloat16)
    try:
        built = create_mixer("hyena", 8, l_max=256, w=14.0, emb_dim=33)
    finally:
        torch.set_default_dtype(torch.float32)
    assert built.out_proj.weight.dtype == torch.bfloat16
    assert torch.equal(built.convolution.filter.positions, mixer.convolution.filter.positions)


def test_errors_say_what_to_do():
    circle = create_mixer("hyena", 4, l_max=12, num_blocks=3, circular=True)
    x = torch.zeros(2, 12, 4)
    params = load_case("hyena_order2").group("param")
    safari = "HazyResearch/safari:HyenaOperator"
    hyper = {"d_model": 6, "l_max": 32}
    deeper = hyper | {"num_inner_mlps": 3}
    cases = {
        r"order=1.*order >= 2.*Remedy": lambda: create_mixer("hyena", 4, order=1),
        r"num_heads=3.*a divisor of 4.*Remedy": lambda: create_mixer("hyena", 4, num_heads=3),
        r"num_blocks=5.*a divisor of 12.*Remedy": lambda: create_mixer("hyena", 4, l_max=12, num_blocks=5),
        r"emb_dim=4.*odd.*Remedy": lambda: create_mixer("hyena", 4, emb_dim=4),
        r"option 'normalise'.*did you mean 'normalize'": lambda: create_mixer("hyena", 4, normalise=True),
        r"filter_cls='other'.*'hyena-filter'": lambda: from_original(safari, params, **hyper, filter_cls="other"),
        r"outer_mixing with dropout.*Remedy: pass dropout=0.0": lambda: from_original(
            safari, params, **hyper, outer_mixing=True, dropout=0.1
        ),
        r"10 tokens.*multiple of num_blocks=3.*circular=False": lambda: circle(x[:, :10]),
        r"12 tokens with padding.*unpadded": lambda: circle(x, mask=torch.ones(2, 12).bool()),
        r"num_heads=2.*the original fails": lambda: from_original(safari, params, **hyper, num_heads=2),
        r"'filter_ordr'.*did you mean 'filter_order'": lambda: from_original(safari, params, **hyper, filter_ordr=4),
        r"without 'filter_fn.implicit_filter.6.bias'": lambda: from_original(safari, params, **deeper),
    }  # fmt: skip
    for pattern, use in cases.items():
        with pytest.raises(ValueError, match=pattern):
            use()
