"""Log-linear attention: the original's numbers, the layer written out, levels beyond the last, memories, errors."""

import math

import pytest
import torch
import torch.nn.functional as F

from golden_cases import assert_close, load_case
from seqconv import create_mixer
from seqconv.interop import from_original
from seqconv.mixers.linear_attention import fenwick
from tolerances import assert_near

TOLERANCE = (1e-8, 1e-9)
ORIGINAL = "fla-org/flash-linear-attention:LogLinearMamba2"


def from_zero(q, k, v, g, scales):
    memory = v.new_zeros(v.shape[0], v.shape[2], scales.shape[-1] - 1, q.shape[-1], v.shape[-1])
    position = torch.arange(q.shape[1]).expand(q.shape[0], -1)
    return fenwick.log_linear_attention(
        q, k, v, g, scales, memory, position, torch.zeros(q.shape[0], dtype=torch.int64)
    )


def buckets(i):
    """The Fenwick tree of [0, i): (level, first, end) of its buckets, the largest first."""
    start = 0
    for bit in reversed(range(i.bit_length())):
        if i >> bit & 1:
            yield bit + 1, start, start + (1 << bit)
            start += 1 << bit


def written_out(q, k, v, g, scales):
    """The sum over the buckets of each token's tree."""
    last, rows = scales.shape[-1] - 1, []
    for i in range(q.shape[1]):
        o = scales[:, i, :, 0, None] * (q[:, i] * k[:, i]).sum(-1)[:, None, None] * v[:, i]
        for level, start, end in buckets(i):
            for j in range(start, end):
                weight = scales[:, i, :, min(level, last)] * g[:, j + 1 : i + 1].sum(1).exp()
                o = o + (weight * (q[:, i] * k[:, j]).sum(-1)[:, None])[..., None] * v[:, j]
        rows.append(o)
    return torch.stack(rows, dim=1)


def test_golden_outputs_and_gradients():
    case = load_case("log_linear_scan")
    given = {name: case.tensors[f"in.{name}"].clone().requires_grad_() for name in ("q", "k", "v", "g", "level_scales")}
    o, _ = from_zero(*given.values())
    assert_close(o, case.tensors["out.o"], *TOLERANCE, "output")
    (o * case.tensors["cot.o"]).sum().backward()
    for name, tensor in given.items():
        assert_close(tensor.grad, case.tensors[f"grad.in.{name}"], *TOLERANCE, f"gradient of {name}")


@pytest.mark.parametrize("levels", [2, 4, 7])
@pytest.mark.parametrize("chunk", [5, 64])
def test_any_number_of_levels_and_any_chunk(monkeypatch, levels, chunk):
    monkeypatch.setattr(fenwick, "CHUNK", chunk)
    torch.manual_seed(levels)
    q, k, v = torch.randn(2, 37, 3), torch.randn(2, 37, 3), torch.randn(2, 37, 2, 4)
    tensors = [t.double() for t in (q, k, v, -torch.rand(2, 37, 2) / 4, torch.rand(2, 37, 2, levels))]
    assert_near(from_zero(*tensors)[0], written_out(*tensors))


def test_memories_are_those_of_the_buckets():
    torch.manual_seed(0)
    k, v, g = torch.randn(1, 13, 3).double(), torch.randn(1, 13, 1, 2).double(), -torch.rand(1, 13, 1).double()
    _, memory = from_zero(k, k, v, g, torch.ones(1, 13, 1, 5).double())
    assert [level for level, *_ in buckets(13)] == [4, 3, 1]
    want = torch.zeros_like(memory)
    for level, start, end in buckets(13):
        for j in range(start, end):
            want[0, 0, level - 1] += g[0, j + 1 :].sum().exp() * k[0, j, :, None] * v[0, j, 0]
    assert_near(memory, want)


def layer_parameters(hidden, heads, head_dim, state, taps=4, bias=True, conv_bias=False):
    generator = torch.Generator().manual_seed(1)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64) * 0.4

    inner, channels = heads * head_dim, heads * head_dim + 2 * state
    p = {
        "in_proj.weight": draw(inner + channels + heads * 16, hidden), "out_proj.weight": draw(hidden, inner),
        "conv1d.weight": draw(channels, 1, taps), "norm.weight": 1 + draw(inner), "dt_bias": draw(heads),
        "A_log": draw(heads), "D": draw(heads), "L": draw(heads, 15),
    }  # fmt: skip
    p |= {"in_proj.bias": draw(p["in_proj.weight"].shape[0]), "out_proj.bias": draw(hidden)} if bias else {}
    return p | ({"conv1d.bias": draw(channels)} if conv_bias else {}), draw(2, 11, hidden)


@pytest.mark.parametrize("switches", [{}, {"bias": False, "conv_bias": True, "taps": 3}])
def test_the_layer_is_the_one_of_the_original(switches):
    heads, head_dim, state = 3, 4, 5
    p, x = layer_parameters(6, heads, head_dim, state, **switches)
    zero = torch.zeros(1).double()
    z, inputs, dt, dl = (x @ p["in_proj.weight"].T + p.get("in_proj.bias", zero)).split([12, 22, 3, 45], dim=-1)
    taps = p["conv1d.weight"][:, 0]
    convolved = sum(F.pad(inputs, (0, 0, j, 0))[:, :11] * taps[:, -1 - j] for j in range(taps.shape[1]))
    u, B, C = F.silu(convolved + p.get("conv1d.bias", zero)).split([12, state, state], dim=-1)
    u, dt = u.unflatten(-1, (heads, head_dim)), F.softplus(dt + p["dt_bias"])
    scales = F.softplus(p["L"] * dl.unflatten(-1, (heads, 15)))
    y = written_out(C, B, u * dt[..., None], -p["A_log"].exp() * dt, scales) + p["D"][:, None] * u
    y = y.flatten(-2) * F.silu(z)
    y = y * (y.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * p["norm.weight"]
    want = y @ p["out_proj.weight"].T + p.get("out_proj.bias", zero)
    given = {"bias": "use_bias", "conv_bias": "use_conv_bias", "taps": "conv_kernel"}
    options = {given[name]: value for name, value in switches.items()}
    layer = from_original(
        ORIGINAL, p, num_heads=heads, head_dim=head_dim, hidden_size=6, state_size=state, **options
    )  # fmt: skip
    assert_near(layer(x), want)


def test_equal_weights_of_all_levels_are_mamba2():
    torch.manual_seed(0)
    layer = create_mixer("log_linear_mamba2", 8, d_state=4, head_dim=4, num_levels=3, bias=False).double()
    plain = create_mixer("mamba2", 8, d_state=4, head_dim=4, conv_bias=False).double()
    with torch.no_grad():
        layer.L.zero_()
        own = layer.state_dict()
        own["in_proj.weight"] = own["in_proj.weight"][: plain.in_proj.weight.shape[0]]
        plain.load_state_dict({name: own[name] for name in plain.state_dict()})
        factor = math.log(2)  # λ = softplus(0), which the norm takes out again
        layer.D.mul_(factor)
        layer.norm.eps *= factor**2
        x = torch.randn(2, 30, 8, dtype=torch.float64)
        assert_near(layer(x), plain(x))


def test_errors_say_what_to_do():
    p, _ = layer_parameters(6, 3, 4, 5)
    sizes = {"num_heads": 3, "head_dim": 4, "hidden_size": 6, "state_size": 5}
    with pytest.raises(ValueError, match=r"head_dim that divides d_inner, two levels or more.*Remedy"):
        create_mixer("log_linear_mamba2", 8, num_levels=1)
    for option in ({"n_groups": 3}, {"rmsnorm": False}, {"norm_before_gate": True}, {"dt_limit": (0.0, 1.0)}):
        with pytest.raises(ValueError, match=r"import a layer of the default"):
            from_original(ORIGINAL, p, **sizes, **option)
    with pytest.raises(ValueError, match=r"heads that make up expand times hidden_size"):
        from_original(ORIGINAL, p, **(sizes | {"num_heads": 2}))
