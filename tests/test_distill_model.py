"""Distilling mixers and models: what is replaced, what is kept, what is refused."""

import copy

import pytest
import torch

from seqconv import create_mixer
from seqconv.distill import distill
from seqconv.filters.modal import ModalFilter
from seqconv.replacement import long_convolutions, modal_sizes, place_modal_filters


def mixer(name: str = "sgconv", **options):
    torch.manual_seed(0)
    return create_mixer(name, 4, **options).double().eval()


def inputs(length: int = 64) -> torch.Tensor:
    return torch.randn(2, length, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_a_distilled_mixer_keeps_everything_but_its_filter():
    original = mixer(l_max=64)
    before = copy.deepcopy(original.state_dict())
    original.prefill(inputs())
    distilled = distill(original, 32, dtype=torch.float64)
    assert original.state_kind == "growing"
    assert distilled.model.state_kind == "constant"
    assert all(torch.equal(before[k], v) for k, v in original.state_dict().items())
    error = (distilled.model(inputs()) - original(inputs())).abs().max()
    assert 0 < error < 1
    _, state = distilled.model.prefill(inputs(40))
    last, _ = distilled.model.step(inputs(41)[:, 40], state)
    assert last.shape == (2, 4)
    (certificate,) = distilled.certificates.values()
    assert str(certificate) in str(distilled)


def test_more_order_means_less_error_down_to_none():
    original = mixer(l_max=64)
    errors = [
        (distill(original, d, dtype=torch.float64).model(inputs()) - original(inputs())).norm() for d in (4, 16, 62)
    ]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-6 * want.norm()


def test_a_convolution_that_misses_the_tolerance_keeps_its_filter():
    original = mixer(l_max=256)
    distilled = distill(original, tolerance=1e-6)
    assert distilled.kept == tuple(distilled.certificates)
    assert "kept exact" in str(distilled)
    torch.testing.assert_close(distilled.model(inputs()), original(inputs()), rtol=0, atol=0)


def test_room_is_made_for_a_checkpoint_of_modal_filters():
    distilled = distill(mixer(l_max=64), 6, dtype=torch.float64).model
    fresh = mixer(l_max=64)
    place_modal_filters(fresh, modal_sizes(distilled))
    fresh = fresh.double()
    fresh.load_state_dict(distilled.state_dict())
    torch.testing.assert_close(fresh(inputs()), distilled(inputs()), rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"modal filter at 'nowhere'.*Remedy"):
        place_modal_filters(fresh, {"nowhere": [2, 1]})


def test_filters_with_a_recurrence_are_left_alone_unless_asked_for():
    for name in ("s4d", "mamba"):
        with pytest.raises(ValueError, match=r"distill: received a model with.*recurrent=True"):
            distill(mixer(name), 4)
    reduced = distill(mixer("s4d"), 4, length=128, recurrent=True).model
    assert all(isinstance(c.filter, ModalFilter) for c in long_convolutions(reduced).values())
    with pytest.raises(ValueError, match=r"a filter without end.*pass length"):
        distill(mixer("s4d"), 4, recurrent=True)
