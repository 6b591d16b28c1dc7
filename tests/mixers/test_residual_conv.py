"""Inkling-2's short convolutions: the numbers of the original, steps, masks, errors."""

import pytest
import torch

from golden_cases import Imported, assert_close, check_gradients, load_case
from seqconv import create_mixer
from seqconv.interop import from_original
from seqconv.mixers.convolution.residual_conv import ResidualShortConvolution

TOLERANCE = (1e-8, 1e-9)
STATIC = "huggingface/transformers:Inkling2ShortConvolution"
FORMS = ["dynamic", "static"]


def imported_case(form):
    case = load_case("inkling2_dynamic_conv")
    params, hyper = case.group("param"), case.hyper
    if form == "static":
        own = {name.removeprefix("static."): t for name, t in params.items() if name.startswith("static.")}
        return case, Imported(STATIC, own, {name: hyper[name] for name in ("hidden_size", "conv_kernel_size")})
    own = {name: t for name, t in params.items() if not name.startswith("static.")}
    return case, Imported(case.meta["original"], own, hyper)


def test_golden_outputs_and_gradients():
    case = load_case("inkling2_dynamic_conv")
    x, u = (case.tensors[f"in.{name}"].clone().requires_grad_() for name in ("x", "dynamic_input"))
    loss, imported = torch.zeros((), dtype=torch.float64), {form: imported_case(form)[1] for form in FORMS}
    for form, layer in imported.items():
        y = layer(x, u) if form == "dynamic" else layer(x)
        assert_close(y, case.tensors[f"out.y_{form}"], *TOLERANCE, form)
        loss = loss + (y * case.tensors[f"cot.y_{form}"]).sum()
    loss.backward()
    want = case.group("grad")
    assert_close(x.grad, want.pop("in.x"), *TOLERANCE, "gradient of x")
    assert_close(u.grad, want.pop("in.dynamic_input"), *TOLERANCE, "gradient of the second input")
    static = {name: want.pop(name) for name in list(want) if name.startswith("static.")}
    check_gradients(imported["static"], static, *TOLERANCE, rename=lambda name: name.removeprefix("static."))
    check_gradients(imported["dynamic"], want, *TOLERANCE)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("prompt", [0, 2, 7])
def test_golden_outputs_in_steps(form, prompt):
    case, imported = imported_case(form)
    layer, x, u = imported.module, case.tensors["in.x"], case.tensors["in.dynamic_input"]
    layer.load_state_dict(imported.weights)
    state, outputs = layer.init_state(x.shape[0], x.device, x.dtype), []
    if prompt:
        y, state = layer(x[:, :prompt], u[:, :prompt], state)
        outputs.append(y)
    for t in range(prompt, x.shape[1]):
        y, state = layer(x[:, t], u[:, t], state)
        outputs.append(y[:, None])
    assert_close(torch.cat(outputs, dim=1), case.tensors[f"out.y_{form}"], *TOLERANCE, "outputs")


@pytest.mark.parametrize("form", FORMS)
def test_a_mask_hides_tokens_from_the_convolution_and_leaves_their_residual_connection(form):
    case, imported = imported_case(form)
    layer, x, u = imported.module, case.tensors["in.x"], case.tensors["in.dynamic_input"]
    layer.load_state_dict(imported.weights)
    mask = torch.ones(x.shape[:2], dtype=torch.bool)
    mask[0, :3] = False
    taps = 4 * (2 if form == "dynamic" else 1)
    hidden = layer(torch.where(mask[..., None], x, 0), u)
    want = hidden + torch.where(mask[..., None], 0, x) / (taps + 1) ** 0.5
    assert_close(layer(x, u, mask=mask), want, *TOLERANCE)


def test_the_original_reads_its_hyper_parameters():
    case = load_case("inkling2_dynamic_conv")
    own = {name: t for name, t in case.group("param").items() if not name.startswith("static.")}
    layer = from_original(case.meta["original"], own, **case.hyper)
    assert (layer.width, layer.num_heads, layer.channels) == (4, 2, 8)


def test_static_taps_start_at_zero_where_tokens_add_their_own():
    assert (create_mixer("residual_conv", 8).conv.weight == 0).all()
    assert (create_mixer("residual_conv", 8, dynamic=False).conv.weight != 0).all()


def test_sizes_out_of_range_raise():
    for use in (
        lambda: create_mixer("residual_conv", 8, num_heads=3),
        lambda: create_mixer("residual_conv", 8, d_conv=0),
        lambda: ResidualShortConvolution(8, 4, inputs=0),
    ):
        with pytest.raises(ValueError, match=r"sizes of at least 1, num_heads that divide the channels.*Remedy"):
            use()
