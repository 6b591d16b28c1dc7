"""Transformer-XL, Galerkin and Fourier attention: golden values and gradients, segments, sums, errors."""

import pytest
import torch
from torch import nn

from golden_cases import Imported, assert_close, check_gradients, load_case
from seqconv import create_mixer
from seqconv.interop import from_original
from tolerances import assert_near

TOLERANCE = (1e-8, 1e-9)
XL = "kimiyoung/transformer-xl:RelPartialLearnableMultiHeadAttn"
GALERKIN = "scaomath/galerkin-transformer:SimpleAttention"


def test_golden_transformer_xl_with_a_memory():
    """The memory is the end of the segment before."""
    case = load_case("transformer_xl_attention")
    imported = Imported(XL, case.group("param"), case.hyper)
    w, mems = (case.tensors[f"in.{name}"].clone().requires_grad_() for name in ("w", "mems"))
    before = torch.randn(len(w) - len(mems), *w.shape[1:], dtype=torch.float64)
    y = imported(torch.cat([before, mems, w]).transpose(0, 1)).transpose(0, 1)[len(w) :]
    assert_close(y, case.tensors["out.y"], *TOLERANCE, "output")
    (y * case.tensors["cot.y"]).sum().backward()
    want = case.group("grad")
    assert_close(w.grad, want.pop("in.w"), *TOLERANCE, "gradient of the input")
    assert_close(mems.grad, want.pop("in.mems"), *TOLERANCE, "gradient of the memory")
    check_gradients(imported, want, *TOLERANCE)


def test_a_token_attends_to_its_segment_and_the_memory_before_it():
    mixer = create_mixer("transformer_xl", 8, num_heads=2, segment_length=4, mem_length=3).double()
    x = torch.randn(1, 14, 8, dtype=torch.float64, requires_grad=True)
    for token, first in ((3, 0), (4, 1), (7, 1), (8, 5), (13, 9)):
        (gradient,) = torch.autograd.grad(mixer(x)[0, token].sum(), x)
        reached = gradient[0].abs().amax(-1).nonzero().flatten().tolist()
        assert reached == list(range(first, token + 1))


class WithCoordinates(nn.Module):
    """The layer at given coordinates of the tokens."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x, coordinate):
        return self.layer.attend(x, coordinate, None)


@pytest.mark.parametrize("kind", ["galerkin", "fourier", "linear"])
def test_golden_attention_without_softmax(kind):
    case = load_case(f"galerkin_attention_{kind}")
    imported = Imported(GALERKIN, case.group("param"), case.hyper)
    given = {name: t.requires_grad_() for name, t in case.group("in").items()}
    weights = {f"layer.{name}": t for name, t in imported.weights.items()}
    arguments = (given["x"], given["pos"][..., 0] if "pos" in given else None)
    y = torch.func.functional_call(WithCoordinates(imported.module), weights, arguments)
    assert_close(y, case.tensors["out.y"], *TOLERANCE, "output")
    (y * case.tensors["cot.y"]).sum().backward()
    want = case.group("grad")
    for name, tensor in given.items():
        assert_close(tensor.grad, want.pop(f"in.{name}"), *TOLERANCE, f"gradient of {name}")
    check_gradients(imported, want, *TOLERANCE)
    if "pos" not in given:
        assert_close(imported(given["x"]), y, *TOLERANCE, "the layer itself")


@pytest.mark.parametrize("kind", ["galerkin", "fourier"])
def test_the_last_token_of_the_causal_form_is_that_of_the_bidirectional_one(kind):
    torch.manual_seed(0)
    causal = create_mixer("galerkin_attention", 8, kind=kind, num_heads=2, init_gain=1.0).double()
    whole = create_mixer("galerkin_attention", 8, kind=kind, num_heads=2, bidirectional=True).double()
    whole.load_state_dict(causal.state_dict())
    x = torch.randn(2, 11, 8, dtype=torch.float64)
    assert_near(causal(x)[:, -1], whole(x)[:, -1])
    assert_near(causal(x)[:, 4], whole(x[:, :5])[:, -1])


def test_coordinates_run_from_0_to_1_over_the_real_tokens():
    torch.manual_seed(0)
    mixer = create_mixer("galerkin_attention", 8, num_heads=2, bidirectional=True, positions=True).double()
    x = torch.randn(1, 6, 8, dtype=torch.float64)
    mask = torch.tensor([[False, True, True, True, True, True]])
    assert_near(mixer(x, mask=mask)[:, 1:], mixer(x[:, 1:]))
    assert_near(mixer(x), mixer.attend(x, torch.linspace(0, 1, 6, dtype=torch.float64)[None], None))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("transformer_xl", {"num_heads": 3}, "heads that divide it or a head_dim"),
        ("transformer_xl", {"segment_length": 0}, "a segment of at least 1"),
        ("galerkin_attention", {"kind": "softmax"}, "kind 'softmax'"),
        ("galerkin_attention", {"kind": "linear"}, "pass bidirectional=True"),
        ("galerkin_attention", {"positions": True}, "pass bidirectional=True"),
        ("galerkin_attention", {"num_heads": 3}, "heads that divide the width"),
    ],
)
def test_options_out_of_range_raise(name, options, message):
    with pytest.raises(ValueError, match=message):
        create_mixer(name, 8, **options)


@pytest.mark.parametrize(
    ("original", "options"),
    [
        (XL, {"d_head": 4, "ext_len": 3}),
        (GALERKIN, {"norm_type": "instance"}),
        (GALERKIN, {"attention_type": "softmax"}),
        (GALERKIN, {"pos_dim": 2}),
    ],
)
def test_options_of_the_originals_that_were_not_checked_raise(original, options):
    with pytest.raises(ValueError, match=r"no extended context|not supported|attention_type 'softmax'"):
        from_original(original, {}, d_model=8, n_head=2, **options)
