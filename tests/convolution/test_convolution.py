"""Long convolutions whose filter serves several stages and heads, whatever the filter decodes with."""

import pytest
import torch
from torch import Tensor

from seqconv import create_mixer
from seqconv.convolution.fractal import FractalState
from seqconv.convolution.long_convolution import LongConvolution, convolve
from seqconv.convolution.replacement import decode_smoothly, replace_filter
from seqconv.convolution.smooth import SmoothState
from seqconv.filters.implicit.hyena import HyenaFilter
from seqconv.filters.state_space.modal import ModalFilter
from tolerances import assert_near

HYENA = {"order": 3, "num_heads": 2, "l_max": 24, "filter_order": 8}
MULTI = {"num_heads": 4, "l_max": 24, "filter_order": 8}


def modal(channels: int) -> ModalFilter:
    """Random damped oscillations behind two exact taps."""
    poles = torch.polar(torch.rand(channels, 3, dtype=torch.float64) * 0.9, torch.rand(channels, 3).double())
    filter = ModalFilter(poles, torch.randn(channels, 3, dtype=torch.complex128), torch.randn(channels, 2).double())
    return filter.double()


def signal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", ["fractal", "smooth", "modal"])
def test_stages_and_heads_take_their_slices_of_one_filter(kind):
    torch.manual_seed(0)
    filter = modal(6) if kind == "modal" else HyenaFilter(6, l_max=20).double()
    whole = LongConvolution(filter, stages=2, heads=2, smooth=kind == "smooth")
    u, skip = signal(2, 30, 6), signal(6)
    for stage, (kernel, state) in enumerate(zip(whole.kernels(30), whole.init_states(2), strict=True)):
        taps = filter(30)[3 * stage : 3 * stage + 3].repeat(2, 1)
        want = skip * u
        for s in range(30):
            want[:, s:] += taps[:, s] * u[:, : 30 - s]
        assert_near(convolve(u, kernel, skip=skip), want, what="forward")
        first, after = whole.prefill(u[:, :11], state, skip=skip)
        steps = []
        for t in range(11, 30):
            y, after = whole.step(u[:, t], after, skip=skip)
            steps.append(y)
        assert_near(torch.cat([first, torch.stack(steps, dim=1)], dim=1), want, what=f"stage {stage} from its state")


def test_two_sided_filters_keep_their_future_in_the_second_half():
    filter = HyenaFilter(4, l_max=20).double()
    u, past, future = signal(1, 9, 2), *filter(9).detach().chunk(2)
    want = torch.zeros_like(u)
    for t in range(9):
        for s in range(9):
            want[:, t] += (past[:, t - s] if s <= t else future[:, s - t - 1]) * u[:, s]
    conv = LongConvolution(filter, two_sided=True)
    assert_near(conv(u), want)
    assert conv.state_kind == "none"


@pytest.mark.parametrize(("name", "options"), [("hyena", HYENA), ("multihyena", MULTI), ("sgconv", {"l_max": 16})])
def test_a_replaced_filter_changes_nothing_else(name, options):
    """Every convolutional mixer takes a recurrence in its filter's place, and then has a state of constant size."""
    torch.manual_seed(0)
    mixer = create_mixer(name, 8, **options).double()
    assert mixer.state_kind == "growing"
    replace_filter(mixer, "convolution", modal(mixer.convolution.filter.channels))
    assert mixer.state_kind == "constant"
    x = signal(2, 40, 8)
    first, state = mixer.prefill(x[:, :17])
    size = state.sizes()
    steps = []
    for t in range(17, 40):
        y, state = mixer.step(x[:, t], state)
        steps.append(y)
    assert state.sizes() == size
    assert_near(torch.cat([first, torch.stack(steps, dim=1)], dim=1), mixer(x))


def test_the_order_of_the_work_can_be_changed_for_a_whole_model():
    mixer = create_mixer("hyena", 4, l_max=40).double()
    x = signal(1, 50, 4)
    for smooth, kind in ((False, FractalState), (True, SmoothState), (False, FractalState)):
        decode_smoothly(mixer, smooth)
        first, state = mixer.prefill(x[:, :20])
        assert isinstance(state.long[0], kind)
        rest, state = mixer.prefill(x[:, 20:], state)
        assert_near(torch.cat([first, rest], dim=1), mixer(x))
    decode_smoothly(mixer)
    with pytest.raises(ValueError, match=r"hyena.step: received .*Remedy: pass what this mixer's init_state"):
        mixer.step(x[:, 0], state)
