"""Convolutions where some channels have a recurrence and the others are convolved exactly online."""

import pytest
import torch
from torch import Tensor, nn

from seqconv import create_mixer
from seqconv.convolution.long_convolution import LongConvolution, convolve
from seqconv.convolution.mixed import MixedState
from seqconv.convolution.replacement import modal_sizes, place_modal_filters, replace_filter
from seqconv.filters.base import Filter
from seqconv.filters.implicit.hyena import HyenaFilter
from seqconv.filters.mixed import MixedFilter
from seqconv.filters.state_space.modal import ModalFilter
from seqconv.filters.state_space.s4 import S4Filter
from tolerances import assert_near

EXACT = [0, 1, 2, 4, 7, 8]
"""Of 9 channels: all of the first stage of three, some of the others."""


def modal(channels: int) -> ModalFilter:
    poles = torch.polar(torch.rand(channels, 3, dtype=torch.float64) * 0.9, torch.rand(channels, 3).double())
    residues = torch.randn(channels, 3, dtype=torch.complex128)
    return ModalFilter(poles, residues, torch.randn(channels, 2).double()).double()


def mixed(exact: Filter) -> MixedFilter:
    return MixedFilter(exact, modal(exact.channels - len(EXACT)), EXACT).double()


def signal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def direct(u: Tensor, taps: Tensor, skip: Tensor) -> Tensor:
    y = skip * u
    for s in range(u.shape[1]):
        y[:, s:] += taps[:, s] * u[:, : u.shape[1] - s]
    return y


def test_each_channel_has_the_response_of_its_kind():
    torch.manual_seed(0)
    exact = HyenaFilter(9, l_max=20).double()
    filter = mixed(exact)
    h = filter(30)
    assert torch.equal(h[EXACT, :20], exact(20)[EXACT])
    assert (h[EXACT, 20:] == 0).all()
    assert torch.equal(h[[3, 5, 6]], filter.modal(30))
    assert filter.recurrence() is None


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("kind", ["hyena", "s4"])
def test_whole_sequences_prefill_and_steps_agree_in_every_stage_and_head(kind, smooth):
    torch.manual_seed(0)
    exact = HyenaFilter(9, l_max=20) if kind == "hyena" else S4Filter(9, d_state=4)
    whole = LongConvolution(mixed(exact.double()), stages=3, heads=2, smooth=smooth)
    assert whole.state_kind == "growing"
    u, skip = signal(2, 30, 6), signal(6)
    states = whole.init_states(2, 4)
    assert [type(s) is MixedState for s in states] == [False, True, True], "all channels of the first stage are exact"
    for stage, (kernel, state) in enumerate(zip(whole.kernels(30), states, strict=True)):
        want = direct(u, whole.filter(30)[3 * stage : 3 * stage + 3].detach().repeat(2, 1), skip)
        assert_near(convolve(u, kernel, skip=skip), want, what="forward")
        y, after = whole.prefill(u[:, :3], state, stage=stage, skip=skip)
        outputs = [y]
        for t in range(3, 12):
            y_t, after = whole.step(u[:, t], after, stage=stage, skip=skip)
            outputs.append(y_t[:, None])
        y, after = whole.prefill(u[:, 12:], after, stage=stage, skip=skip)
        assert_near(torch.cat([*outputs, y], dim=1), want, what=f"stage {stage} from its state")


def test_gradients_reach_both_kinds_through_a_state():
    torch.manual_seed(0)
    whole = LongConvolution(mixed(HyenaFilter(9, l_max=20).double()))
    u = signal(1, 12, 9)
    parameters = dict(whole.named_parameters())
    want = torch.autograd.grad(whole(u).square().sum(), list(parameters.values()), allow_unused=True)
    first, state = whole.prefill(u[:, :7], whole.init_state(1))
    rest, _ = whole.prefill(u[:, 7:], state)
    got = torch.autograd.grad(torch.cat([first, rest], 1).square().sum(), list(parameters.values()), allow_unused=True)
    for name, a, b in zip(parameters, got, want, strict=True):
        assert a is not None, name
        assert a.abs().max() > 0, name
        assert_near(a, b, what=name)


def test_a_mixer_takes_the_filter_and_its_rows_can_be_selected():
    torch.manual_seed(0)
    mixer = create_mixer("sgconv", 9, l_max=16).double()
    replace_filter(mixer, "convolution", mixed(mixer.convolution.filter))
    x = signal(3, 40, 9)
    first, state = mixer.prefill(x[:, :17])
    state = state.select(torch.tensor([2, 0]))
    steps = []
    for t in range(17, 40):
        y, state = mixer.step(x[[2, 0], t], state)
        steps.append(y)
    assert_near(torch.cat([first[[2, 0]], torch.stack(steps, 1)], 1), mixer(x)[[2, 0]])
    with pytest.raises(ValueError, match=r"sgconv.step: received .*Remedy"):
        mixer.step(x[:, 0], create_mixer("sgconv", 9, l_max=16).double().init_state(3))


def test_a_place_is_made_for_a_checkpoint():
    torch.manual_seed(0)
    mixer = create_mixer("sgconv", 9, l_max=16).double()
    replace_filter(mixer, "convolution", mixed(mixer.convolution.filter))
    sizes = modal_sizes(mixer)
    assert sizes == {"convolution": [3, 2, EXACT]}
    fresh = create_mixer("sgconv", 9, l_max=16)
    place_modal_filters(fresh, sizes)
    fresh.double().load_state_dict(mixer.state_dict())
    assert torch.equal(fresh(signal(1, 20, 9)), mixer(signal(1, 20, 9)))
    with torch.device("meta"):
        empty = create_mixer("sgconv", 9, l_max=16)
        place_modal_filters(empty, sizes)
    empty.to_empty(device="cpu")
    for part in empty.modules():
        if isinstance(part, nn.Module) and hasattr(part, "reset_parameters"):
            part.reset_parameters()
    assert torch.equal(empty.convolution.filter.distilled, torch.tensor([3, 5, 6]))


@pytest.mark.parametrize(("channels", "exact"), [(2, [0, 1]), (3, [1, 0, 2, 4, 7, 8]), (3, [0, 1, 2, 4, 7, 9])])
def test_channels_that_do_not_fit_raise(channels, exact):
    with pytest.raises(ValueError, match=r"MixedFilter: received exact_channels=.*ascending channels"):
        MixedFilter(HyenaFilter(9, l_max=20), modal(channels), exact)


def test_states_of_other_widths_and_kinds_raise():
    torch.manual_seed(0)
    whole = LongConvolution(mixed(HyenaFilter(9, l_max=20).double()))
    narrow = LongConvolution(HyenaFilter(9, l_max=20).double())
    with pytest.raises(ValueError, match=r"LongConvolution.step: received MixedState"):
        whole.step(signal(2, 8), whole.init_state(2))
    with pytest.raises(ValueError, match=r"LongConvolution.prefill: received FractalState of 2 rows"):
        whole.prefill(signal(3, 4, 9), whole.init_state(2))
    with pytest.raises(ValueError, match=r"LongConvolution.step: received MixedState"):
        narrow.step(signal(2, 9), whole.init_state(2))
