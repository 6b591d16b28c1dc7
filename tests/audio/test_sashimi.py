"""SaShiMi: the original's numbers, and decoding through the levels."""

import pytest
import torch

from golden_cases import Imported, assert_close, check_gradients, load_case
from seqconv import from_original
from seqconv.audio.build import build_sashimi
from seqconv.audio.sashimi import Sashimi
from seqconv.rows import join

ORIGINAL = "state-spaces/s4:Sashimi"
LENGTH, WIDTH = 29, 8
MIXERS = ("s4d", "hyena", "attention", "mamba")


def small(mixer="s4d", *, unet=False, pool=(2, 3), n_layers=1, bidirectional=False):
    torch.manual_seed(0)
    defaults = {"bidirectional": True} if bidirectional else {}
    built = build_sashimi(
        WIDTH, n_layers, [mixer], pool=pool, unet=unet, mlp="gelu", mlp_ratio=2.0, mixer_defaults=defaults
    )
    return built.double().eval()


def inputs(rows=3, length=LENGTH):
    return torch.randn(rows, length, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def close(got, want):
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


def steps(model, x, state=None):
    outputs = []
    for t in range(x.shape[1]):
        y, state = model.step(x[:, t], state)
        outputs.append(y)
    return torch.stack(outputs, 1), state


@pytest.mark.parametrize("name", ["sashimi_model", "sashimi_model_bidirectional"])
def test_outputs_and_gradients_of_the_original(name):
    case = load_case(f"vision/{name}")
    params = {k: v.double() if v.is_floating_point() else v for k, v in case.group("param").items()}
    imported = Imported(ORIGINAL, params, case.hyper)
    x = case.tensors["in.x"].double().requires_grad_()
    y = imported(x)
    want = case.tensors["out.y"]
    assert_close(y, want, 1e-9, 1e-9 * want.abs().max().item(), "outputs")
    (y * case.tensors["cot.y"]).sum().backward()
    gradients = case.group("grad")
    gradient = gradients.pop("in.x")
    assert_close(x.grad, gradient, 1e-6, 1e-6 * gradient.abs().max().item(), "gradient of the inputs")
    largest = max(t.abs().max().item() for t in gradients.values())
    check_gradients(imported, gradients, 1e-6, 1e-7 * largest)
    if "y_step" in case.group("out"):
        model = from_original(ORIGINAL, params, **case.hyper)
        assert_close(steps(model, x.detach())[0], case.tensors["out.y_step"], 1e-9, 1e-9, "steps")


def test_an_option_that_the_original_does_not_have_is_named():
    with pytest.raises(ValueError, match=r"did you mean 'dropout'"):
        from_original(ORIGINAL, {}, droput=0.1)


@pytest.mark.parametrize("unet", [False, True], ids=["plain", "unet"])
@pytest.mark.parametrize("mixer", MIXERS)
def test_steps_and_prefills_equal_the_whole_sequence(mixer, unet):
    model, x = small(mixer, unet=unet), inputs()
    y = model(x)
    close(steps(model, x)[0], y)
    parts, state = [], None
    for start, stop in ((0, 1), (1, 8), (8, 13), (13, LENGTH)):
        part, state = model.prefill(x[:, start:stop], state)
        parts.append(part)
    close(torch.cat(parts, 1), y)


@pytest.mark.parametrize("mixer", MIXERS)
def test_rows_at_different_places_of_their_chunks(mixer):
    model, x = small(mixer, unet=True), inputs()
    mask = torch.ones(3, LENGTH, dtype=torch.bool)
    mask[0, :5], mask[1, :13] = False, False
    y = model(x, mask=mask)
    for row, padding in ((0, 5), (1, 13)):
        close(y[row, padding:], model(x[row : row + 1, padding:])[0])
        assert not y[row, :padding].any()
    prompt, state = model.prefill(x[:, :20], mask=mask[:, :20])
    close(prompt, y[:, :20])
    later, state = steps(model, x[:, 20:25], state)
    close(later, y[:, 20:25])
    # Rows taken out of the batch, in another order, and a row that waits while others go on.
    order = torch.tensor([2, 0])
    close(model.prefill(x[order, 25:], state.clone().select(order))[0], y[order, 25:])
    turns = torch.tensor([[True] * 4, [False, False, True, True], [True] * 4])
    tokens = x[:, 25:].clone()
    tokens[1, 2:] = x[1, 25:27]
    second = model.prefill(tokens, state, mask=turns)[0]
    close(second[[0, 2]], y[[0, 2], 25:])
    close(second[1, 2:], y[1, 25:27])


def test_states_of_requests_are_joined():
    model, x = small("s4d"), inputs(2)
    first, second = model.prefill(x[:1, :7])[1], model.prefill(x[1:, :10])[1]
    state = join([torch.tensor([0]), torch.tensor([1])], [first, second])
    got = model.prefill(torch.stack([x[0, 7:17], x[1, 10:20]]), state)[0]
    close(got[0], model(x[:1])[0, 7:17])
    close(got[1], model(x[1:])[0, 10:20])


def test_states_inside_a_prefill():
    model, x = small("s4d"), inputs()
    y, _, (before, middle) = model.prefill(x, states_at=[0, 11])
    close(model.prefill(x[:, 11:], middle)[0], y[:, 11:])
    close(model.prefill(x, before)[0], y)


def test_outputs_depend_on_no_later_input():
    model, x = small("s4d", unet=True), inputs(1).requires_grad_()
    for t in (0, 7, 17):
        (grad,) = torch.autograd.grad(model(x)[0, t, 0], x)
        assert grad[0, : t + 1].abs().amax(-1).gt(0).all()
        assert (grad[0, t + 1 :].abs() < 1e-15).all()


def test_bidirectional_levels_leave_padding_out():
    model, x = small("s4d", unet=True, pool=(3,), bidirectional=True), inputs()
    mask = torch.ones(3, LENGTH, dtype=torch.bool)
    mask[0, :5], mask[1, 20:], mask[2, :3], mask[2, 22:] = False, False, False, False
    x[~mask] = torch.nan
    y = model(x, mask=mask)
    for row, start, stop in ((0, 5, LENGTH), (1, 0, 20), (2, 3, 22)):
        close(y[row, start:stop], model(x[row : row + 1, start:stop])[0])
    with pytest.raises(ValueError, match=r"Sashimi.init_state.*only those have a state.*bidirectional=False"):
        model.step(inputs()[:, 0])


def test_packed_sequences_are_apart():
    model, x = small("s4d"), inputs(1)
    y = model(x, cu_seqlens=torch.tensor([0, 7, 20, LENGTH]))
    for start, stop in ((0, 7), (7, 20), (20, LENGTH)):
        close(y[0, start:stop], model(x[:, start:stop])[0])


def test_gradients_through_a_prefill_equal_those_of_the_whole():
    model, x = small("s4d", unet=True), inputs().requires_grad_()
    (whole,) = torch.autograd.grad(model(x).square().sum(), x)
    first, state = model.prefill(x[:, :10])
    second, _ = model.prefill(x[:, 10:], state)
    (split,) = torch.autograd.grad(first.square().sum() + second.square().sum(), x)
    close(split, whole)


def test_building_on_the_meta_device_gives_what_the_constructor_gives():
    wanted = small("s4d", unet=True).float()
    with torch.device("meta"):
        model = build_sashimi(WIDTH, 1, ["s4d"], pool=(2, 3), unet=True, mlp="gelu", mlp_ratio=2.0)
    assert {n: t.shape for n, t in model.state_dict().items()} == {n: t.shape for n, t in wanted.state_dict().items()}
    assert all(hasattr(m, "reset_parameters") for m in model.modules() if [*m.parameters(False), *m.buffers(False)])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: build_sashimi(4, 0, ["s4d"], pool=(2,)), r"n_layers=0"),
        (lambda: build_sashimi(4, 1, ["s4d"], pool=()), r"0 pools"),
        (lambda: build_sashimi(4, 1, ["s4d"], pool=(0,)), r"pool=\[0\]"),
        (lambda: build_sashimi(4, 1, ["s4dd"], pool=(2,)), r"did you mean 's4d'"),
        (lambda: build_sashimi(4, 1, ["rwkv7"], pool=(2,)), r"layers that share values"),
        (lambda: Sashimi([], [], [[]], pool=(2,)), r"after 1 pools"),
        (lambda: small()(inputs()[..., :3]), r"\(batch, length, d_model\) with d_model=8"),
        (lambda: small()(inputs()[:, :0]), r"a sequence of length 0"),
        (lambda: small().step(inputs()[:, 0], small("s4d", unet=True).init_state(3)), r"a SashimiState of 3 stacks"),
        (lambda: small().step(inputs()[:, 0], small().init_state(2)), r"a state of 2 rows"),
    ],
)  # fmt: skip
def test_wrong_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
