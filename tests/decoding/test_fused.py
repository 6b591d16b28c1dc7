"""A token through a list of ops equals layers called one by one, and runs only where nothing else takes part."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrize import register_parametrization

import seqconv
from seqconv.build import build_backbone
from seqconv.decoding import fused
from seqconv_kernels._core import native
from seqconv_kernels.token_program import TokenProgram
from tolerances import assert_near

pytestmark = pytest.mark.skipif(native.unavailable() is not None, reason=str(native.unavailable()))
WIDTH = 16
CASES = {
    "mamba": ("mamba", {"norm": "rms"}),
    "mamba, norms of its parameters": (("mamba", {"parameter_norm": "weighted", "bias": True, "d_conv": 2}), {}),
    "attention": (("attention", {"num_heads": 2}), {"mlp": "gelu"}),
    "attention, shared keys": (
        ("attention", {"num_heads": 4, "num_kv_heads": 2, "rotary_dim": 2, "scale": 0.3, "qkv_bias": True}),
        {"mlp": "swiglu", "norm": "rms", "norm_options": {"unit_offset": True}},
    ),
    "norms after layers": ("mamba", {"mlp": "relu2", "norm_placement": "post"}),
    "no norms": (
        ("attention", {"num_heads": 2, "rotary": False, "o_bias": True}),
        {"mlp": "geglu_tanh", "norm": "none"},
    ),
}


def backbone(case="mamba", layers=2):
    spec, options = CASES[case]
    torch.manual_seed(0)
    return build_backbone(WIDTH, layers, [spec], **options).eval()


def tokens(dtype=torch.float32, rows=2):
    return torch.randn(rows, 12, WIDTH, generator=torch.Generator().manual_seed(1)).to(dtype)


@pytest.fixture
def lists(monkeypatch):
    """Kinds of ops in every list that is run."""
    seen = []
    run = TokenProgram.run

    def count(self):
        seen.append(len(self._words))
        run(self)

    monkeypatch.setattr(TokenProgram, "run", count)
    return seen


@torch.no_grad()
def decode(model, x, prefill=5, clone=False):
    """Outputs after a prefill, one token after the other, and the last state."""
    _, state = model.prefill(x[:, :prefill])
    ys = []
    for t in range(prefill, x.shape[1]):
        y, state = model.step(x[:, t], state.clone() if clone else state)
        ys.append(y)
    return torch.stack(ys, 1), state


def called_one_by_one(model, x):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fused, "unsupported_reason", lambda x: "not now")
        return decode(model, x)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_list_equals_calls(case, dtype, lists):
    model, x = backbone(case).to(dtype), tokens(dtype)
    y, state = decode(model, x)
    assert len(lists) == x.shape[1] - 5 - 1  # the first step checks the state
    want, after = called_one_by_one(model, x)
    assert y.dtype == dtype
    assert_near(y, want, dtype=dtype)
    for got, wanted in zip(state._leaves(), after._leaves(), strict=True):
        assert got.tensor.dtype == wanted.tensor.dtype
        assert_near(got.tensor, wanted.tensor, dtype=dtype)
    exact = copy.deepcopy(model).double()
    assert_near(y, called_one_by_one(exact, x.double())[0], dtype=dtype)


def test_int8_weights(lists):
    model = seqconv.quantize(backbone("attention, shared keys"))
    y, _ = decode(model, tokens())
    assert lists
    assert_near(y, called_one_by_one(model, tokens())[0])


def test_padded_rows_and_copied_states():
    model, x = backbone("attention"), tokens()
    mask = torch.ones(2, 5, dtype=torch.bool)
    mask[1, :3] = False
    want = model(x[1:, 3:])[:, -1]
    with torch.no_grad():
        _, state = model.prefill(x[:, :5], mask=mask)
        for t in range(5, 12):
            y, state = model.step(x[:, t], state)
        assert_near(y[1:], want)
    assert_near(decode(model, x, clone=True)[0], decode(model, x)[0])


def test_a_cache_grows_in_place_and_a_copy_is_apart():
    model, x = backbone("attention"), tokens()
    with torch.no_grad():
        _, state = decode(model, x)
        before = state.clone()
        _, after = model.step(x[:, 0], state)
        assert after.layers[0].mixer.key.data_ptr() == state.layers[0].mixer.key.data_ptr()
        y, _ = model.step(x[:, 1], before.clone())
        model.step(x[:, 2], after)
        assert torch.equal(model.step(x[:, 1], before)[0], y)


class Adapter(nn.Module):
    """A linear layer and a product of low rank, as LoRA has it."""

    def __init__(self, base):
        super().__init__()
        self.base, self.down, self.up = (
            base,
            nn.Linear(WIDTH, 2, bias=False),
            nn.Linear(2, base.out_features, bias=False),
        )

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


class Doubled(nn.Module):
    """A parametrisation."""

    def forward(self, weight):
        return 2 * weight


def set_hook(mixer):
    mixer.in_proj.register_forward_hook(lambda module, args, y: 2 * y)


def set_hook_before(mixer):
    mixer.register_forward_pre_hook(lambda module, args: None)


def set_adapter(mixer):
    mixer.in_proj = Adapter(mixer.in_proj)


def set_parametrisation(mixer):
    register_parametrization(mixer.out_proj, "weight", Doubled())


def set_forward(mixer):
    forward = mixer.x_proj.forward
    mixer.x_proj.forward = lambda x: 2 * forward(x)


def set_class(mixer):
    mixer.out_proj.__class__ = type(
        "ShardedLinear", (type(mixer.out_proj),), {"forward": lambda self, x: 0 * nn.Linear.forward(self, x)}
    )


def set_step(mixer):
    step = type(mixer)._step
    mixer.__class__ = type("OtherMamba", (type(mixer),), {"_step": lambda self, x, state: step(self, x, state)})


CHANGES = [set_hook, set_hook_before, set_adapter, set_parametrisation, set_forward, set_class, set_step]


@pytest.mark.parametrize("change", CHANGES)
def test_what_takes_part_in_a_layer_acts_there_and_other_layers_stay_in_the_list(change, lists):
    model, x = backbone(layers=3), tokens()
    change(model.blocks[1].mixer)
    y, _ = decode(model, x)
    assert len(lists) == 2 * (x.shape[1] - 5 - 1)
    with torch.no_grad():
        assert_near(y, model(x)[:, 5:])


def test_a_hook_of_a_block_and_one_of_all_modules_are_called(lists):
    model, x, calls = backbone(), tokens(), []
    model.blocks[0].register_forward_hook(lambda *_: calls.append("block"))
    decode(model, x)
    assert len(calls) == 1 + x.shape[1] - 5
    del lists[:]
    handle = nn.modules.module.register_module_forward_hook(lambda *_: calls.append("any"))
    decode(model, x)
    handle.remove()
    assert not lists
    assert calls.count("any") > 7 * 2 * x.shape[1] / 2


def test_an_adapter_set_in_the_middle_of_a_generation_acts_at_once():
    model, x = backbone(), tokens()
    _, state = decode(model, x)
    with torch.no_grad():
        before, _ = model.step(x[:, 0], state.clone())
        model.blocks[0].mixer.in_proj = Adapter(model.blocks[0].mixer.in_proj)
        y, _ = model.step(x[:, 0], state.clone())
        fresh = state.clone().map(torch.Tensor.double)
        assert_near(y, model.double().step(x[:, 0].double(), fresh)[0].float())
    assert (y - before).abs().max() > 1e-3


def test_gradients_and_profilers_see_modules(lists):
    model, x = backbone(), tokens()
    _, state = decode(model, x)
    del lists[:]
    y, state = model.step(x[:, 0].requires_grad_(), state)
    y.sum().backward()
    with torch.no_grad(), torch.profiler.profile() as profile:
        model.step(x[:, 1], state.detach())
    assert not lists
    assert any(event.key == "aten::rms_norm" or "norm" in event.key for event in profile.key_averages())
