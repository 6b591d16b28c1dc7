"""The short convolution of LFM2: golden values, states and gradients; biases and padding."""

import torch

from golden_cases import Imported, assert_close, check_gradients, load_case
from scan_modules import prefill_then_step
from seqconv import create_mixer
from seqconv.interop import from_original
from tolerances import assert_near

TOLERANCE = (1e-8, 1e-9)


def imported_case():
    case = load_case("lfm2_short_conv")
    return case, Imported(case.meta["original"], case.group("param"), case.hyper)


def test_golden_outputs_and_gradients():
    case, imported = imported_case()
    x = case.tensors["in.x"].clone().requires_grad_()
    y = imported(x)
    assert_close(y, case.tensors["out.y"], *TOLERANCE, "output")
    (y * case.tensors["cot.y"]).sum().backward()
    want = case.group("grad")
    assert_close(x.grad, want.pop("in.x"), *TOLERANCE, "gradient of the input")
    check_gradients(imported, want, *TOLERANCE)


def test_golden_prefill_steps_and_states():
    case, imported = imported_case()
    prompt = case.hyper["prefill_length"]
    y, after_prompt, _ = prefill_then_step(imported, case.tensors["in.x"], prompt)
    assert_close(y[:, :prompt], case.tensors["out.y"][:, :prompt], *TOLERANCE, "prefill")
    assert_close(y[:, prompt:], case.tensors["out.y_step"], *TOLERANCE, "steps")
    want = case.tensors["out.state_conv_after_prefill"][..., 1:]  # the original keeps a column that no output reads
    assert_close(after_prompt.conv.mT, want, *TOLERANCE, "conv")


def test_one_option_of_the_original_sets_all_biases():
    """Against transformers' own layer."""
    from transformers.models.lfm2.modeling_lfm2 import Lfm2Config, Lfm2ShortConv

    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "conv_L_cache": 4, "conv_bias": True}
    config = Lfm2Config(**sizes, num_hidden_layers=1, layer_types=["conv"])
    original, x = Lfm2ShortConv(config, 0).double(), torch.randn(2, 9, 8, dtype=torch.float64)
    layer = from_original("huggingface/transformers:Lfm2ShortConv", original.state_dict(), **sizes)
    with torch.no_grad():
        assert_near(layer(x), original(x))


def test_biases_at_padding_do_not_enter_the_convolution():
    torch.manual_seed(0)
    mixer = create_mixer("gated_short_conv", 8, bias=True).double()
    x = torch.randn(1, 9, 8, dtype=torch.float64)
    mask = torch.tensor([[False] * 4 + [True] * 5])
    assert_near(mixer(x, mask=mask)[:, 4:], mixer(x[:, 4:]))
