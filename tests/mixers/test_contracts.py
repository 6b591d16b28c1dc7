"""The contracts that no single mixer tests: states, registry, packing, filters, importers."""

import copy
from dataclasses import fields
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from seqconv import Mixer, State, create_mixer, list_mixers, mixer_config, register, registry
from seqconv.build import build_backbone
from seqconv.convolution.long_convolution import LongConvolution
from seqconv.filters import DiagonalSSM, Filter, Recurrence
from seqconv.interop import from_original, importer, list_originals
from seqconv.interop.importer import Importer
from seqconv.packing import pack, unpack
from seqconv.parameters import KeepFloat32, parameter_groups, restore_optimizer_options, set_optimizer_options
from seqconv.state import state_class
from seqconv.types import LayerContext
from seqconv_kernels._core.errors import argument_error, unknown_name
from small_mixers import CumulativeSum


@state_class
class Inner(State):
    shared: Tensor
    rows: Tensor
    batch_free: ClassVar[frozenset[str]] = frozenset({"shared"})


@state_class
class Outer(State):
    layers: tuple[Inner, ...]
    seen: Tensor
    ring: Tensor
    growing: ClassVar[frozenset[str]] = frozenset({"ring"})


def make_state(batch: int = 3) -> Outer:
    inner = [Inner(torch.ones(5), torch.arange(batch * 2.0).reshape(batch, 2) + i) for i in range(2)]
    return Outer(tuple(inner), torch.arange(batch), torch.zeros(batch, 4))


def test_a_state_selects_rows_and_leaves_shared_tensors_alone():
    state = make_state()
    chosen = state.select(torch.tensor([2, 0]))
    assert chosen.batch_size == 2
    assert chosen.layers[1].rows.tolist() == [[5.0, 6.0], [1.0, 2.0]]
    assert chosen.layers[0].shared is state.layers[0].shared
    assert state.repeat_interleave(2).seen.tolist() == [0, 0, 1, 1, 2, 2]


def test_a_state_is_a_pytree_with_comparable_sizes():
    state = make_state()
    doubled = pytree.tree_map(lambda t: 2 * t, state)
    assert isinstance(doubled, Outer)
    assert doubled.layers[0].shared.sum() == 10
    assert state.sizes() == {
        "layers.0.shared": (5,), "layers.0.rows": (2,), "layers.1.shared": (5,), "layers.1.rows": (2,), "seen": (),
    }  # fmt: skip


def test_a_state_moves_floats_only_and_copies_deeply():
    state = make_state()
    moved = state.to(torch.float64)
    assert (moved.ring.dtype, moved.seen.dtype) == (torch.float64, torch.int64)
    copy = state.clone()
    copy.ring += 1
    assert state.ring.sum() == 0


def test_registering_a_name_twice_raises():
    assert "hyena" in list_mixers()
    with pytest.raises(ValueError, match=r"register: received the name 'hyena' a second time.*Remedy"):
        register("hyena")(Mixer)


def test_a_config_is_the_signature():
    config = mixer_config("hyena")
    assert config(order=3).order == 3
    assert list_mixers("s4*") == sorted(n for n in list_mixers() if n.startswith("s4"))


class PartlyWide(KeepFloat32):
    """One parameter and one buffer that stay in float32, one parameter that does not."""

    def __init__(self):
        super().__init__()
        self.rate, self.weight = nn.Parameter(torch.full((3,), 1 / 3)), nn.Parameter(torch.ones(3))
        self.register_buffer("times", torch.full((2,), 1 / 3))
        self.keep_float32("rate", "times")
        set_optimizer_options(self, "rate", lr=1e-4, weight_decay=0.0)


@pytest.mark.parametrize("narrow", [torch.bfloat16, torch.float16])
def test_marked_parameters_and_their_gradients_stay_in_float32(narrow):
    module = PartlyWide()
    (module.rate * module.weight).sum().backward()
    gradient = module.rate.grad.clone()
    module.to(narrow)
    assert (module.rate.dtype, module.times.dtype, module.weight.dtype) == (torch.float32, torch.float32, narrow)
    assert torch.equal(module.rate, torch.full((3,), 1 / 3))
    assert torch.equal(module.rate.grad, gradient)
    assert module.weight.grad.dtype == narrow
    assert module.double().rate.dtype == torch.float64
    assert module.to(narrow).rate.dtype == torch.float64, "never rounded"


def test_parameters_built_in_half_precision_are_widened_where_they_are_marked():
    torch.set_default_dtype(torch.bfloat16)
    try:
        module = PartlyWide()
    finally:
        torch.set_default_dtype(torch.float32)
    assert (module.rate.dtype, module.weight.dtype) == (torch.float32, torch.bfloat16)


def test_optimizer_options_survive_parameters_that_are_replaced():
    module = copy.deepcopy(PartlyWide())
    assert not hasattr(module.rate, "_optim"), "a copied parameter is a new one"
    groups = {id(p): (g["lr"], g["weight_decay"]) for g in parameter_groups(module, lr=1e-2) for p in g["params"]}
    assert groups == {id(module.rate): (1e-4, 0.0), id(module.weight): (1e-2, 0.0)}
    module.rate = nn.Parameter(torch.ones(3, 3))
    restore_optimizer_options(module)
    assert module.rate._optim == {"lr": 1e-4, "weight_decay": 0.0}
    assert module.rate._no_weight_decay
    groups = parameter_groups(module, lr=1e-2, weight_decay=0.1)
    assert [g["weight_decay"] for g in groups if any(p is module.rate for p in g["params"])] == [0.0]


def test_only_mixers_that_ask_for_it_are_given_their_place_in_the_stack(monkeypatch):
    monkeypatch.setattr(registry._MIXERS, "entries", dict(registry._MIXERS.entries))

    @register("placed")
    class Placed(CumulativeSum):
        def __init__(self, d_model, *, gain: float = 1.0, layer: LayerContext | None = None):
            super().__init__(d_model)
            self.layer = layer

    monkeypatch.setattr(registry._MIXERS, "_configs", {})
    backbone = build_backbone(4, 3, ["placed", "s4d"])
    assert [backbone.blocks[i].mixer.layer for i in (0, 2)] == [LayerContext(0, 3), LayerContext(2, 3)]
    assert create_mixer("placed", 4).layer is None
    assert [f.name for f in fields(mixer_config("placed"))] == ["gain"]
    both = create_mixer("placed", 4, bidirectional=True, layer=LayerContext(1, 2))
    assert both.past.layer == both.future.layer == LayerContext(1, 2)


def test_unpack_and_pack_are_inverse():
    x = torch.randn(1, 11, 3)
    padded, mask = unpack(x, torch.tensor([0, 2, 3, 11]))
    assert padded.shape == (3, 8, 3)
    assert mask.sum(1).tolist() == [2, 1, 8]
    assert torch.equal(pack(padded, mask), x)


class Explicit(Filter):
    """Random taps, with or without an end."""

    def __init__(self, taps: Tensor, max_length: int | None) -> None:
        super().__init__(taps.shape[0], max_length=max_length)
        self.taps = torch.nn.Parameter(taps)

    def _taps(self, length: int) -> Tensor:
        return torch.nn.functional.pad(self.taps, (0, max(0, length - self.taps.shape[1])))[:, :length]

    def _recurrence(self) -> Recurrence | None:
        return None


def direct(u: Tensor, h: Tensor) -> Tensor:
    """Convolution by its definition."""
    y = torch.zeros_like(u)
    for s in range(min(h.shape[1], u.shape[1])):
        y[:, s:] += h[:, s] * u[:, : u.shape[1] - s]
    return y


def test_long_convolution_is_the_definition_in_both_directions():
    torch.manual_seed(0)
    u, past, future, skip = torch.randn(2, 19, 3), torch.randn(3, 8), torch.randn(3, 8), torch.randn(3)
    u, past, future, skip = (t.double() for t in (u, past, future, skip))
    want = direct(u, past) + skip * u
    torch.testing.assert_close(LongConvolution(Explicit(past, 8))(u, skip=skip), want)
    backward = direct(u.flip(1), future).flip(1)
    for lag in (0, 1):
        both = LongConvolution(Explicit(past, 8), backward=Explicit(future, 8), backward_lag=lag)
        ahead = torch.nn.functional.pad(backward, (0, 0, 0, lag))[:, lag:]
        torch.testing.assert_close(both(u, skip=skip), want + ahead)


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("max_length", [None, 1, 20])
def test_the_state_of_an_endless_filter_without_recurrence_gains_taps(smooth, max_length):
    torch.manual_seed(0)
    conv = LongConvolution(Explicit(torch.randn(3, 700).double(), None), smooth=smooth)
    u, state = torch.randn(1, 700, 3).double(), conv.init_state(1, max_length)
    first, state = conv.prefill(u[:, :10], state)
    steps = []
    for t in range(10, 300):
        y_t, state = conv.step(u[:, t], state)
        steps.append(y_t)
    last, _ = conv.prefill(u[:, 300:], state)
    torch.testing.assert_close(torch.cat([first, torch.stack(steps, 1), last], 1), conv(u))


@pytest.mark.parametrize("complex_poles", [False, True])
@pytest.mark.parametrize("head", [None, 1, 3])
def test_a_diagonal_recurrence_has_its_impulse_response(complex_poles, head):
    torch.manual_seed(0)
    poles = torch.rand(4, 5, dtype=torch.float64)
    poles = poles * torch.exp(3j * torch.rand(4, 5, dtype=torch.float64)) if complex_poles else poles
    ssm = DiagonalSSM(poles - 1, torch.randn_like(poles), None if head is None else torch.randn(4, head).double())
    u = torch.randn(2, 23, 4, dtype=torch.float64)
    want = direct(u, ssm.impulse_response(23))
    first, state = ssm.prefill(u[:, :9], ssm.init_state(2))
    second, state = ssm.prefill(u[:, 9:21], state)
    steps = []
    for t in (21, 22):
        y, state = ssm.step(u[:, t], state)
        steps.append(y)
    torch.testing.assert_close(torch.cat([first, second, torch.stack(steps, 1)], 1), want)


def test_errors_have_one_shape():
    assert str(argument_error("op", "a", "b", "c")) == "op: received a; wanted b. Remedy: c."
    assert "did you mean 'mamba'" in str(unknown_name("op", "mixer", "mmba", ["mamba", "gla"]))
    assert "take one of the known names" in str(unknown_name("op", "mixer", "zzz", ["mamba", "gla"]))


def test_importers_report_unknown_missing_left_over_and_misshapen(monkeypatch):
    name = "tests/linear:Linear"
    assert name not in list_originals()
    linear = Importer(
        build=lambda d: torch.nn.Linear(d, d),
        convert=lambda w, hyper: {"weight": w.take("w"), "bias": w.take("b")},
    )
    monkeypatch.setitem(importer._IMPORTERS, name, linear)
    good = {"w": torch.zeros(3, 3, dtype=torch.float64), "b": torch.ones(3, dtype=torch.float64)}
    module = from_original(name, good, d=3)
    assert module(torch.zeros(1, 3, dtype=torch.float64)).tolist() == [[1.0, 1.0, 1.0]]
    assert not module.training
    with pytest.raises(ValueError, match=r"original 'tests/linear:Linaer'.*did you mean 'tests/linear:Linear'"):
        from_original("tests/linear:Linaer", good, d=3)
    with pytest.raises(ValueError, match=r"without 'b'.*Remedy: pass the layer's own state_dict"):
        from_original(name, {"w": good["w"]}, d=3)
    with pytest.raises(ValueError, match=r"unexpected tensors extra.*Remedy"):
        from_original(name, {**good, "extra": good["w"]}, d=3)
    with pytest.raises(ValueError, match=r"size mismatch.*Remedy: check the hyper-parameters"):
        from_original(name, good, d=4)
