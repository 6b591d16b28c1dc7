"""A state of another filter raises, in convolutions, recurrences and mixers alike."""

import pytest
import torch

from seqconv import create_mixer
from seqconv.convolution.long_convolution import LongConvolution
from seqconv.convolution.replacement import decode_smoothly, long_convolutions
from seqconv.distill import distill, distill_filter
from seqconv.filters.explicit.sgconv import SGConvFilter
from seqconv.filters.state_space.ema import EMAFilter
from seqconv.filters.state_space.modal import ModalFilter
from seqconv.filters.state_space.s4 import S4Filter


def modal(channels: int = 3, order: int = 4, head: int = 1) -> ModalFilter:
    generator = torch.Generator().manual_seed(0)
    return distill_filter(torch.randn(channels, 40, generator=generator), order, fir_head=head).filter


def online(channels: int = 3, smooth: bool = False) -> LongConvolution:
    return LongConvolution(SGConvFilter(channels, l_max=40), smooth=smooth)


OWN = {
    "modal": lambda: LongConvolution(modal()),
    "diagonal": lambda: LongConvolution(EMAFilter(3)),
    "dense": lambda: LongConvolution(S4Filter(3, d_state=4)),
    "fractal": online,
    "smooth": lambda: online(smooth=True),
}


@pytest.mark.parametrize("own", OWN)
def test_a_state_of_another_kind_of_filter_raises(own):
    conv = OWN[own]()
    u = torch.zeros(2, 5, 3)
    growing = own in ("fractal", "smooth")
    for other in OWN:
        state = OWN[other]().init_state(2, 40)
        if other == own or not (growing or other in ("fractal", "smooth")):
            conv.prefill(u, state)  # a state of a recurrence carries the recurrence that it continues
            continue
        for operation, x in (("prefill", u), ("step", u[:, 0])):
            wanted = "of 2 rows of width 3" if growing else "RecurrentState"
            message = rf"LongConvolution\.{operation}: received \w+State.*{wanted}.*Remedy: pass what init_state"
            with pytest.raises(ValueError, match=message):
                getattr(conv, operation)(x, state)


@pytest.mark.parametrize("own", OWN)
def test_a_state_of_another_width_or_batch_raises(own):
    conv = OWN[own]()
    state = conv.init_state(2, 40)
    for operation, rows, width in (("prefill", 2, 4), ("prefill", 3, 3), ("step", 2, 4), ("step", 1, 3)):
        x = torch.zeros(rows, *[5] * (operation == "prefill"), width)
        with pytest.raises(ValueError, match=rf"\.{operation}: received.*of 2 rows.*{rows} rows.*Remedy"):
            getattr(conv, operation)(x, state)


@pytest.mark.parametrize(("name", "other"), [("order", modal(order=8)), ("head", modal(head=3)), ("width", modal(1))])
def test_a_recurrence_rejects_the_hidden_state_of_another(name, other):
    recurrence, state = modal().recurrence(), other.recurrence().init_state(2)
    for operation, x in (("prefill", torch.zeros(2, 5, 3)), ("step", torch.zeros(2, 3))):
        message = rf"DiagonalSSM\.{operation}: received DiagonalState of 2 rows.*3 channels.*modes and 1 past.*Remedy"
        with pytest.raises(ValueError, match=message):
            getattr(recurrence, operation)(x, state)


@pytest.mark.parametrize("change", ["order", "head", "exact", "smooth"])
def test_a_mixer_rejects_the_state_of_one_with_another_filter(change):
    def build(order: int = 4, head: int = 1):
        torch.manual_seed(0)
        exact = create_mixer("hyena", 3, l_max=40)
        return exact if change in ("exact", "smooth") and order == 4 else distill(exact, order, fir_head=head).model

    own = build()
    other = build(8) if change in ("order", "exact") else build(head=3)
    if change == "smooth":
        other = build()
        decode_smoothly(other)
    for state in (other.init_state(2, max_length=40), other.prefill(torch.zeros(2, 4, 3))[1]):
        for operation, x in (("prefill", torch.zeros(2, 5, 3)), ("step", torch.zeros(2, 3))):
            message = rf"hyena\.{operation}: received HyenaState with sizes.*HyenaState with sizes.*Remedy: pass what"
            with pytest.raises(ValueError, match=message):
                getattr(own, operation)(x, state)


def test_a_state_made_before_a_distillation_raises_after_it():
    torch.manual_seed(0)
    exact = create_mixer("sgconv", 3, l_max=40)
    (name,) = long_convolutions(exact)
    _, state = exact.prefill(torch.zeros(1, 7, 3))
    distilled = distill(exact, 4).model
    assert long_convolutions(distilled)[name].state_kind == "constant"
    with pytest.raises(ValueError, match=r"sgconv\.step: received .*State with sizes.*Remedy"):
        distilled.step(torch.zeros(1, 3), state)
