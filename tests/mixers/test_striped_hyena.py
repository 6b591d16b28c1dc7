"""StripedHyena: the numbers of the original, its layouts, and what it could not run."""

import pytest
import torch

from golden_cases import Imported, assert_close, check_gradients, load_case
from seqconv import create_mixer
from seqconv.blocks import BlockState
from seqconv.filters.state_space.pole_residue import PoleResidueFilter
from seqconv.interop import from_original
from seqconv.layers.norms import create_norm
from seqconv.mixers.convolution.gated.striped_hyena import GatedModalConvolution

RTOL, ATOL = 1e-9, 1e-10
CASES = ["stripedhyena_filter", "stripedhyena_block"]
FILTER, BLOCK = (f"togethercomputer/stripedhyena:{name}" for name in ("ParallelHyenaFilter", "ParallelGatedConvBlock"))
SIZES = {"hidden_size": 6, "state_size": 3}


def inner(module):
    return module if isinstance(module, GatedModalConvolution) else module.mixer.gated_conv


def first_state(module, batch, dtype=torch.float64):
    if isinstance(module, GatedModalConvolution):
        return module.init_state(batch, torch.device("cpu"), dtype)
    return module.init_state(batch)


def random_signal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def original_weights(hidden, d_state, systems, heads=1):
    """The tensors of a filter of the original."""
    width = 3 * hidden
    return {
        "short_filter_weight": random_signal(width, 1, 3, seed=1),
        "short_filter_bias": random_signal(width, seed=2),
        "D": random_signal(hidden, seed=3),
        "poles": 0.6 * torch.tanh(random_signal(systems, d_state, 1, 2, seed=4)),
        "residues": random_signal(systems, d_state, 1, 2, seed=5),
    }


@pytest.mark.parametrize("name", CASES)
def test_outputs_and_gradients_of_the_original(name):
    case = load_case(name)
    imported = Imported(case.meta["original"], case.group("param"), case.hyper)
    u = case.tensors["in.u"].clone().requires_grad_()
    y = imported(u)
    assert_close(y, case.tensors["out.y"], RTOL, ATOL, "y")
    loss = (y * case.tensors["cot.y"]).sum()
    assert_close(loss, case.tensors["out.loss"], RTOL, ATOL, "loss")
    loss.backward()
    wanted = case.group("grad")
    assert_close(u.grad, wanted.pop("in.u"), RTOL, ATOL, "gradient of the input")
    assert set(wanted) == set(imported.leaves)
    check_gradients(imported, wanted, RTOL, ATOL)


def mixer_state(state):
    """The state of the mixer, in a block's state or by itself."""
    return state.mixer if isinstance(state, BlockState) else state


@pytest.mark.parametrize("name", CASES)
def test_filters_states_and_steps_of_the_original(name):
    case = load_case(name)
    module, u = from_original(case.meta["original"], case.group("param"), **case.hyper), case.tensors["in.u"]
    taps = inner(module).convolution.filter(u.shape[1])
    assert_close(taps, case.tensors["out.h"][0], RTOL, ATOL, "taps")
    split = case.meta["prefill_length"]
    y, state = module.prefill(u[:, :split], first_state(module, len(u)))
    outputs, short, hidden = [y], mixer_state(state).short, mixer_state(state).long[0].hidden.hidden
    assert_close(hidden, case.complex("out.iir_state_after_prefill_fft"), RTOL, ATOL, "state after the prompt")
    want = case.tensors["out.fir_state_after_prefill_fft"].mT
    if name == "stripedhyena_block":  # seqconv has x2, x1 and v apart, the original head after head
        want = want.unflatten(-1, (case.hyper["heads"], 3, -1)).transpose(-2, -3).flatten(-3)
    assert_close(short, want, RTOL, ATOL, "inputs of the short filter")
    for t in range(split, u.shape[1]):
        y_t, state = module.step(u[:, t], state)
        outputs.append(y_t[:, None])
    assert_close(torch.cat(outputs, 1), case.tensors["out.y_prefill_then_steps_fft"], RTOL, ATOL, "steps")
    final = mixer_state(state).long[0].hidden.hidden
    assert_close(final, case.complex("out.iir_state_final_fft"), RTOL, ATOL, "last state")


@pytest.mark.parametrize("name", CASES)
def test_float32_is_as_close_as_the_original_in_float32(name):
    case = load_case(name)
    params = {key: value.float() for key, value in case.group("param").items()}
    module, u = from_original(case.meta["original"], params, **case.hyper), case.tensors["in.u"].float()
    assert_close(module(u), case.tensors["out32.y"], 1e-4, 1e-5, "y")
    assert_close(inner(module).convolution.filter(u.shape[1]), case.tensors["out32.h"][0], 1e-4, 1e-5, "taps")


@pytest.mark.parametrize(("split", "systems"), [(True, 4), (False, 4), (True, 2), (False, 1)])
def test_layouts_and_groups_are_their_definition(split, systems):
    hidden, heads, length = 4, 2, 7
    weights, u = original_weights(hidden, 2, systems), random_signal(2, length, 3 * hidden)
    hyper = {"hidden_size": hidden, "state_size": 2, "heads": heads, "column_split_hyena": split}
    module = from_original(FILTER, weights, **hyper)
    padded = torch.cat([u.new_zeros(2, 2, 3 * hidden), u], 1)
    taps = weights["short_filter_weight"][:, 0]
    z = sum(taps[:, k] * padded[:, k : k + length] for k in range(3)) + weights["short_filter_bias"]
    of_head = [z[..., h * 6 + 2 * part : h * 6 + 2 * part + 2] for part in range(3) for h in range(heads)]
    x2, x1, v = torch.cat(of_head, -1).chunk(3, -1) if split else z.chunk(3, -1)
    poles, residues = (torch.view_as_complex(weights[name][:, :, 0]) for name in ("poles", "residues"))
    want = weights["D"] * x1 * v
    for c in range(hidden):
        system = c // (hidden // systems)
        for t in range(length):
            for s in range(t + 1):
                tap = (residues[system] * poles[system] ** (t - s)).sum().real
                want[:, t, c] += tap * (x1 * v)[:, s, c]
    assert_close(module(u), x2 * want, RTOL, ATOL)
    explicit = from_original(FILTER, weights, **hyper, hyena_filter_groups=hidden // systems)
    assert torch.equal(explicit(u), module(u))


def test_padding_before_the_filter_alone_changes_nothing():
    module = from_original(FILTER, original_weights(6, 3, 6), **SIZES)
    u, mask = random_signal(1, 9, 18), torch.arange(12)[None] >= 3
    padded = torch.cat([u.new_zeros(1, 3, 18), u], 1)
    assert_close(module(padded, mask=mask)[:, 3:], module(u), RTOL, ATOL)
    y, _ = module.prefill(padded, first_state(module, 1), mask=mask)
    assert_close(y[:, 3:], module(u), RTOL, ATOL)


def test_l_max_cuts_the_parallel_form_alone():
    whole, u = from_original(FILTER, original_weights(6, 3, 6), **SIZES), random_signal(2, 9, 18)
    cut = GatedModalConvolution(6, d_state=3, heads=SIZES.get("heads", 1), l_max=4).to(u.dtype)
    cut.load_state_dict({k.replace("filter.", "filter.inner."): v for k, v in whole.state_dict().items()})
    taps = cut.convolution.filter(9)
    assert (taps[:, 4:] == 0).all()
    assert_close(taps[:, :4], whole.convolution.filter(4), RTOL, ATOL)
    assert_close(cut(u[:, :4]), whole(u[:, :4]), RTOL, ATOL)
    assert (cut(u) - whole(u)).abs().max() > 1e-3
    assert_close(cut.prefill(u, first_state(cut, 2))[0], whole(u), RTOL, ATOL)


def test_the_mlp_is_gated_by_its_first_map_and_of_the_width_of_the_original():
    case = load_case("stripedhyena_block")
    weights, x = case.group("param"), random_signal(1, 3, 8)
    hyper = case.hyper | {"mlp_activation": "gelu"}
    mlp = from_original(BLOCK, weights, **hyper).mlp
    gate, value = x @ weights["mlp.l1.weight"].T, x @ weights["mlp.l2.weight"].T
    want = (torch.nn.functional.gelu(gate) * value) @ weights["mlp.l3.weight"].T
    assert_close(mlp(x), want, RTOL, ATOL)
    wide = {name: random_signal(64, 8) for name in ("mlp.l1.weight", "mlp.l2.weight")}
    wide["mlp.l3.weight"] = random_signal(8, 64)
    assert from_original(BLOCK, weights | wide, **case.hyper | {"inner_mlp_size": None}).mlp.down.in_features == 64


def test_the_norm_adds_eps_outside_the_root():
    norm, x = create_norm("rms", 4, eps=0.5, eps_outside=True).double(), random_signal(2, 3, 4)
    x[0, 0] = 0
    x.requires_grad_()
    y = norm(x)
    assert_close(y, x / (x.square().mean(-1, keepdim=True).sqrt() + 0.5), RTOL, ATOL)
    y.sum().backward()
    assert x.grad.isfinite().all()


def test_new_filters_have_unit_gain_and_poles_on_the_ring():
    torch.manual_seed(0)
    filter = PoleResidueFilter(256, d_state=4, r_min=0.7, r_max=0.95)
    radius = torch.view_as_complex(filter.poles).abs()
    assert radius.min() >= 0.7
    assert radius.max() <= 0.95
    assert filter(400).square().sum(1).mean().item() == pytest.approx(1.0, abs=0.15)


def test_errors_say_what_to_do():
    weights = original_weights(6, 3, 6)

    def read(**hyper):
        return from_original(FILTER, weights, **SIZES | hyper)

    block = load_case("stripedhyena_block")
    cases = {
        r"hyena_filter_groups=2.*square root.*Remedy": lambda: read(hyena_filter_groups=2),
        r"hyena_filter_groups=0.*Remedy": lambda: read(hyena_filter_groups=0),
        r"short_filter_bias=False.*Remedy": lambda: read(short_filter_bias=False),
        r"4 heads.*divisor of hidden_size=6": lambda: read(heads=4),
        r"num_filters=4.*divisor of hidden_size=6": lambda: read(num_filters=4),
        r"'recurence'.*did you mean 'recurrence'": lambda: read(prefill="recurence"),
        r"'state_sizes'.*did you mean 'state_size'": lambda: read(state_sizes=3),
        r"mlp_activation 'relu'": lambda: from_original(
            BLOCK, block.group("param"), **block.hyper | {"mlp_activation": "relu"}
        ),
        r"n_ssm=3.*divisor of 4.*Remedy": lambda: create_mixer("striped_hyena", 4, n_ssm=3),
        r"d_state=0.*Remedy": lambda: create_mixer("striped_hyena", 4, d_state=0),
        r"r_max=1\.0.*inside the unit circle": lambda: PoleResidueFilter(2, r_max=1.0),
        r"heads=3.*channels=4": lambda: GatedModalConvolution(4, heads=3),
    }
    for pattern, use in cases.items():
        with pytest.raises(ValueError, match=pattern):
            use()
