"""Distilling every mixer that holds a long convolution: a new one is tested by registering it."""

import zlib

import pytest
import torch
from torch import Tensor

from representatives import defaults
from seqconv import Mixer, create_mixer, list_mixers
from seqconv.convolution.replacement import long_convolutions
from seqconv.distill import distill
from seqconv.filters.state_space.modal import ModalFilter
from seqconv.registry import mixer_entry

D_MODEL, LENGTH = 8, 33


def build(name: str, options: dict) -> Mixer:
    torch.manual_seed(zlib.crc32(name.encode()))
    mixer = create_mixer(name, D_MODEL, **options).eval()
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return mixer.double()


def _label(case) -> str:
    name, options = case
    return name + ("[" + ",".join(f"{k}={v}" for k, v in options.items()) + "]" if options else "")


EVERY = [(name, dict(options)) for name in list_mixers() for options in ({}, *mixer_entry(name).examples)]
EVERY = [case for i, case in enumerate(EVERY) if case not in EVERY[:i]]
CONVOLUTIONAL = [
    case
    for case in EVERY
    if (mixer := build(*case)).causal and any(c.state_kind != "none" for c in long_convolutions(mixer).values())
]
convolutional = pytest.mark.parametrize("case", CONVOLUTIONAL, ids=_label)


def inputs(length: int = LENGTH) -> Tensor:
    return torch.randn(2, length, D_MODEL, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_every_family_of_long_convolutions_is_covered():
    assert {name for name, _ in CONVOLUTIONAL} >= {"ema", "hyena", "mega", "multihyena", "s4", "s4d", "sgconv"}


@convolutional
def test_a_distilled_mixer_is_near_and_decodes_with_a_constant_state(case):
    original = build(*case)
    distilled = distill(original, 8, length=LENGTH, method="kung-varpro", fir_head=8, recurrent=True)
    model = distilled.model
    assert isinstance(model, Mixer)
    assert all(isinstance(c.filter, ModalFilter) for c in long_convolutions(model).values() if c.state_kind != "none")
    assert all(c.state_kind != "growing" for c in long_convolutions(model).values())
    want, got = original(inputs()), model(inputs())
    # Or near filter by filter: projections may cancel most of the outputs of large filters.
    filters_near = all(c.l2.norm() <= 0.3 * c.norm_l2.norm() for c in distilled.certificates.values())
    assert filters_near or (got - want).norm() <= 0.3 * want.norm()
    first, state = model.prefill(inputs()[:, :20])
    steps = []
    for t in range(20, LENGTH):
        y, state = model.step(inputs()[:, t], state)
        steps.append(y)
    # Large residues that cancel amplify the rounding of the state, which its certificate bounds.
    rounding = max(float(c.rounding.max()) for c in distilled.certificates.values())
    atol = max(1e-7, min(4 * rounding, 1e-4))
    torch.testing.assert_close(torch.cat([first, torch.stack(steps, 1)], 1), got, rtol=1e-7, atol=atol)


@pytest.mark.parametrize("case", defaults(CONVOLUTIONAL, _label))
def test_the_error_of_a_low_order_is_certified(case):
    """Filter by filter; what the taps of the distilled mixer differ by is what its certificate says."""
    original = build(*case)
    distilled = distill(original, 2, length=LENGTH, recurrent=True)
    after = long_convolutions(distilled.model)
    for name, certificate in distilled.certificates.items():
        filter = long_convolutions(original)[name].filter
        reach = min(LENGTH, filter.max_length or LENGTH)
        error = filter(reach) - after[name].filter(reach)
        torch.testing.assert_close(certificate.l2, error.norm(dim=1), rtol=1e-6, atol=1e-12)
        assert (certificate.order <= 2).all()
        assert (torch.fft.rfft(error, n=1024).abs().amax(1) <= certificate.hinf_bound).all()
