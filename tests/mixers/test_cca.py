"""Compressed convolutional attention: golden values and gradients, steps, the first tokens, errors."""

import pytest
import torch

from golden_cases import Imported, assert_close, check_gradients, load_case
from scan_modules import prefill_then_step
from seqconv import create_mixer
from seqconv.interop import from_original
from tolerances import assert_near

TOLERANCE = (1e-8, 1e-9)


def imported_case():
    case = load_case("zaya_cca")
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


@pytest.mark.parametrize("prompt", [1, 2, 6])
def test_golden_outputs_in_steps(prompt):
    case, imported = imported_case()
    y, _, _ = prefill_then_step(imported, case.tensors["in.x"], prompt)
    assert_close(y, case.tensors["out.y"], *TOLERANCE, "outputs")


def test_golden_values():
    case, imported = imported_case()
    imported.module.load_state_dict(imported.weights)
    x = case.tensors["in.x"]
    with torch.no_grad():
        projected = torch.cat([imported.module._no_projections(x), imported.module._project(x, None)], dim=1)
        position = torch.arange(x.shape[1])[None]
        _, _, v = imported.module._heads(projected, x, torch.zeros_like(x[:, 0]), position)
    assert_close(v, case.tensors["out.v"], *TOLERANCE, "values")


def test_attention_is_uniform_at_first():
    torch.manual_seed(0)
    mixer = create_mixer("cca", 8, num_heads=2).double()
    x = torch.randn(1, 5, 8, dtype=torch.float64)
    before = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], dim=1)
    v = torch.cat([mixer.v_proj_current(x), mixer.v_proj_delayed(before)], dim=-1)
    mean = v.cumsum(1) / torch.arange(1, 6, dtype=torch.float64)[:, None]
    assert_near(mixer(x), mixer.o_proj(torch.cat([mean, mean], dim=-1)))  # two query heads share the only value head


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 3}, "num_heads that divide d_model"),
        ({"num_heads": 4, "num_kv_heads": 3}, "num_kv_heads that divide num_heads"),
        ({"d_conv": 0}, "at least one tap"),
        ({"num_heads": 4, "num_kv_heads": 1, "head_dim": 3}, "an even number of channels"),
        ({"rotary_dim": 1}, "an even number of channels"),
    ],
)
def test_options_out_of_range_raise(options, message):
    with pytest.raises(ValueError, match=message):
        create_mixer("cca", 8, **options)


def test_a_rotation_that_was_not_checked_raises():
    rope = {"hybrid": {"rope_type": "yarn", "rope_theta": 1e4}}
    with pytest.raises(ValueError, match=r"its default rotation"):
        from_original("huggingface/transformers:ZayaAttention", {}, hidden_size=8, head_dim=4, rope=rope)
