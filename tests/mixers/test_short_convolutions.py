"""LightConv, DynamicConv and the periodic convolution: the numbers of their originals."""

import pytest
import torch

from golden_cases import Imported, assert_close, check_gradients, load_case
from seqconv import create_mixer
from seqconv.interop import from_original

RTOL, ATOL = 1e-9, 1e-10
LIGHT, DYNAMIC = ("facebookresearch/fairseq:" + name for name in ("LightweightConv1dTBC", "DynamicConv1dTBC"))


@pytest.mark.parametrize("name", ["lightconv", "dynamicconv", "decision_convformer", "decision_convformer_block"])
def test_outputs_and_gradients_of_the_original(name):
    case = load_case(name)

    def batch_first(t):
        return t.transpose(0, 1) if "conv1dTBC" in case.meta["original"].replace("Conv1d", "conv1d") else t

    imported = Imported(case.meta["original"], case.group("param"), case.hyper)
    x = case.tensors["in.x"].clone().requires_grad_()
    y = imported(batch_first(x))
    assert_close(y, batch_first(case.tensors["out.y"]), RTOL, ATOL, "y")
    (y * batch_first(case.tensors["cot.y"])).sum().backward()
    wanted = case.group("grad")
    assert_close(x.grad, wanted.pop("in.x"), RTOL, ATOL, "gradient of the input")
    check_gradients(imported, wanted, RTOL, ATOL)


@pytest.mark.parametrize("name", ["lightconv", "dynamicconv"])
def test_steps_of_the_original(name):
    case = load_case(name)
    layer, x = from_original(case.meta["original"], case.group("param"), **case.hyper), case.tensors["in.x"]
    state, steps = layer.init_state(x.shape[1], x.device, x.dtype), []
    for x_t in x:
        y, state = layer(x_t, state)
        steps.append(y)
    assert_close(torch.stack(steps), case.tensors["out.y_step"], RTOL, ATOL)


@pytest.mark.parametrize("name", ["lightconv", "dynamicconv"])
def test_a_smaller_left_padding_looks_ahead(name):
    case = load_case(name)
    params, x = case.group("param"), case.tensors["in.x"].transpose(0, 1)
    causal = from_original(case.meta["original"], params, **case.hyper)
    centred = from_original(case.meta["original"], params, **(case.hyper | {"padding_l": 2}))
    assert centred(x).shape == x.shape
    if name == "lightconv":
        longer = torch.cat([x, torch.zeros_like(x[:, :2])], dim=1)
        assert_close(centred(x), causal(longer)[:, 2:], RTOL, ATOL)
    else:
        taps = centred._taps(x)
        want = centred.bias.expand_as(x).clone()
        for t in range(19):
            for j in range(5):
                if 0 <= t - 2 + j < 19:
                    want[:, t] += taps[:, t, :, j].repeat_interleave(2, 1) * x[:, t - 2 + j]
        assert_close(centred(x), want, RTOL, ATOL)


def test_the_filters_take_turns_from_the_first_real_token():
    torch.manual_seed(0)
    mixer = create_mixer("periodic_conv", 4, period=3, width=2).double()
    x = torch.randn(1, 8, 4, dtype=torch.float64)
    want = torch.stack([
        mixer.bias[t % 3] + mixer.weight[t % 3, 0] * x[0, t] + (mixer.weight[t % 3, 1] * x[0, t - 1] if t else 0)
        for t in range(8)
    ])  # fmt: skip
    assert_close(mixer(x)[0], want, RTOL, ATOL)
    padded = torch.cat([torch.zeros_like(x[:, :2]), x], dim=1)
    mask = torch.arange(10)[None] >= 2
    y, state = mixer.prefill(padded, mask=mask)
    assert_close(y[:, 2:], mixer(x), RTOL, ATOL)
    assert state.position.tolist() == [8]


def test_two_kinds_of_tokens():
    case = load_case("decision_convformer")
    params = {k: v for k, v in case.group("param").items() if not k.startswith("act")}
    mixer = from_original(case.meta["original"], params, **(case.hyper | {"remove_act_embs": True}))
    assert mixer.period == 2


def test_errors_say_what_to_do():
    small = {"input_size": 4, "kernel_size": 3}
    cases = {
        r"num_heads=3.*a divisor of 8": lambda: create_mixer("lightconv", 8, num_heads=3),
        r"width=0.*at least one tap": lambda: create_mixer("dynamicconv", 8, width=0),
        r"width=4.*odd number": lambda: create_mixer("dynamicconv", 8, width=4, bidirectional=True),
        r"period=0.*at least 1": lambda: create_mixer("periodic_conv", 8, period=0),
        r"padding_l=None.*pass padding_l": lambda: from_original(LIGHT, {}, **small),
        r"in_proj=True.*drop them": lambda: from_original(DYNAMIC, {}, **small, padding_l=2, in_proj=True),
    }
    for pattern, use in cases.items():
        with pytest.raises(ValueError, match=pattern):
            use()
