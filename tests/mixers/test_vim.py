"""Vim's block: the numbers of the original, and both versions by two scans."""

import pytest
import torch

from golden_cases import assert_close
from scan_modules import check_layer, import_variant
from seqconv import create_mixer, from_original
from seqconv.mixers.state_space import vim
from seqconv.mixers.state_space.vim import Vim
from seqconv_kernels import selective_scan
from tolerances import assert_near

ORIGINAL = "hustvl/Vim:Mamba"


@pytest.mark.parametrize("variant", ["bimamba_v2_div0", "bimamba_v2_div1"])
def test_outputs_and_gradients_of_the_original(variant):
    check_layer(*import_variant(ORIGINAL, "scan/vim", variant, variant))


def version_1_weights(d=6, inner=12, n=3, rank=2, taps=4):
    shapes = {
        "in_proj.weight": (2 * inner, d), "out_proj.weight": (d, inner), "conv1d.weight": (inner, 1, taps),
        "conv1d.bias": (inner,), "x_proj.weight": (rank + 2 * n, inner), "dt_proj.weight": (inner, rank),
        "dt_proj.bias": (inner,), "A_log": (inner, n), "A_b_log": (inner, n), "D": (inner,),
    }  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(*shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}


def test_version_1_shares_all_but_the_decay():
    """``bimamba_inner_ref``: the reversed scan reads the convolved inputs of the forward direction."""
    w = version_1_weights()
    mixer = from_original(ORIGINAL, w, d_model=6, d_state=3, dt_rank=2, bimamba_type="v1", if_divide_out=True)
    x = torch.randn(2, 7, 6, dtype=torch.float64)
    u, z = (x @ w["in_proj.weight"].T).chunk(2, -1)
    padded = torch.nn.functional.pad(u.mT, (3, 0))
    u = torch.nn.functional.conv1d(padded, w["conv1d.weight"], w["conv1d.bias"], groups=12).mT
    u = torch.nn.functional.silu(u)
    low, B, C = (u @ w["x_proj.weight"].T).split([2, 3, 3], -1)
    inputs = [u, low @ w["dt_proj.weight"].T, B, C, z]

    def scan(A_log, u, delta, B, C, z):
        bias = w["dt_proj.bias"]
        return selective_scan(u, delta, -A_log.exp(), B, C, w["D"], z, delta_bias=bias, delta_softplus=True)

    y = scan(w["A_log"], *inputs) + scan(w["A_b_log"], *(t.flip(1) for t in inputs)).flip(1)
    assert_close(mixer(x), y @ w["out_proj.weight"].T, 1e-10, 1e-12)


def test_reversing_the_sequence_exchanges_the_directions():
    torch.manual_seed(0)
    mixer, swapped = (create_mixer("vim", 8, d_state=3).double() for _ in range(2))
    exchanged = {
        name: tensor.flip(0) if name in ("A_log", "D", "dt_bias") else tensor
        for name, tensor in mixer.state_dict().items()
    }
    order = {"conv1d.0": "conv1d.1", "conv1d.1": "conv1d.0", "selection.0": "selection.1", "selection.1": "selection.0"}
    for name in list(exchanged):
        for old, new in order.items():
            if name.startswith(old):
                exchanged[name] = mixer.state_dict()[name.replace(old, new)]
    swapped.load_state_dict(exchanged)
    x = torch.randn(2, 9, 8, dtype=torch.float64)
    assert_close(swapped(x.flip(1)).flip(1), mixer(x), 1e-10, 1e-12)


@pytest.mark.parametrize("halve", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_segments_in_inference_equal_the_whole(halve, dtype, monkeypatch):
    torch.manual_seed(0)
    mixer, x = create_mixer("vim", 8, d_state=3, halve=halve).to(dtype), torch.randn(2, 37, 8, dtype=dtype)
    mask = torch.ones(2, 37, dtype=torch.bool)
    mask[0, :5] = mask[1, 20:] = False
    monkeypatch.setattr(vim, "SEGMENT", 8)
    called = []
    monkeypatch.setattr(Vim, "_in_segments", lambda *a, run=Vim._in_segments: called.append(a) or run(*a))
    for given in (None, mask):
        want = mixer(x, mask=given).detach()
        assert not called
        with torch.no_grad():
            assert_near(mixer(x, mask=given), want, dtype=dtype)
        assert called.pop()
    mixer.out_proj.register_forward_hook(lambda module, args, output: called.append(output))
    with torch.no_grad():
        assert_near(mixer(x), mixer(x))
    assert [y.shape for y in called] == 2 * [x.shape]


def test_errors_say_what_to_do():
    cases = {
        r"version 'v3'.*one of": lambda: Vim(4, version="v3"),
        r"d_state=0.*Remedy": lambda: Vim(4, d_state=0),
        r"bimamba_type='none'.*state-spaces/mamba": lambda: from_original(ORIGINAL, {}, d_model=4, bimamba_type="none"),
        r"init_layer_scale=0.1": lambda: from_original(
            ORIGINAL, {}, d_model=4, bimamba_type="v2", init_layer_scale=0.1
        ),
    }
    for pattern, use in cases.items():
        with pytest.raises(ValueError, match=pattern):
            use()
