"""Ops of a token's list: each on every instruction set against its equation in float64; what is rejected."""

import math

import pytest
import torch
import torch.nn.functional as F

from seqconv_kernels._core import native
from seqconv_kernels.skinny_linear import quantize_rows
from seqconv_kernels.token_program import TokenProgram, Unfused, unsupported_reason
from seqconv_kernels.token_program.program import NOTHING
from tolerances import assert_near

ISAS = native.library().isas() if native.unavailable() is None else []
pytestmark = pytest.mark.skipif(native.unavailable() is not None, reason=str(native.unavailable()))
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
ROWS = 3
ACTIVATIONS = {
    "none": lambda x: x,
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "relu2": lambda x: F.relu(x).square(),
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}


@pytest.fixture(params=ISAS, autouse=True)
def isa(request):
    native.library().set_isa(request.param)
    yield request.param
    native.library().set_isa(ISAS[0])


@pytest.fixture
def normal():
    rng = torch.Generator().manual_seed(0)
    return lambda *size: torch.randn(*size, generator=rng)


def run(write, width, dtype=torch.float32):
    """Outputs (rows, width) of the ops that ``write(program, out)`` appends."""
    program, y = TokenProgram(ROWS), torch.full((ROWS, width), torch.nan, dtype=dtype)
    write(program, program.tensor_rows(y))
    program.run()
    return y


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 37, 64])
def test_norms(width, dtype, normal):
    x, weight, bias = (normal(*size).to(dtype) for size in ((ROWS, width), (width,), (width,)))
    x = x + 3
    wide, mean = x.double(), x.double().mean(-1, keepdim=True)
    rms = wide * (wide.square().mean(-1, keepdim=True) + 0.1).rsqrt()
    centred = (wide - mean) * ((wide - mean).square().mean(-1, keepdim=True) + 0.1).rsqrt()
    wanted = {
        ("copy", None, None, False): wide,
        ("rms", weight, None, False): rms * weight.double(),
        ("rms", weight, bias, True): rms * (1 + weight.double()) + bias.double(),
        ("layer", weight, bias, False): centred * weight.double() + bias.double(),
    }
    for (kind, w, b, offset), want in wanted.items():

        def write(program, out, kind=kind, w=w, b=b, offset=offset):
            rows = program.tensor_rows(x)
            program.norm(rows, out, width, kind, w, b, eps=0.1, unit_offset=offset)

        got = run(write, width, dtype)
        assert_near(got, want, dtype=dtype)


@pytest.mark.parametrize("weights", [*DTYPES, torch.int8])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_projections(activation, weights, normal):
    x, weight, bias, residual = normal(ROWS, 70), normal(45, 70) * 0.3, normal(45), normal(ROWS, 45)
    scale = None
    if weights is torch.int8:
        weight, scale = quantize_rows(weight, group_size=35)
        values = weight.double() * scale.double().repeat_interleave(35, 1)
    else:
        weight = weight.to(weights)
        values = weight.double()

    def write(program, out):
        join = program.tensor_rows(residual)
        program.linear(program.tensor_rows(x), out, weight, bias, scale, residual=join, activation=activation)

    want = residual.double() + ACTIVATIONS[activation](F.linear(x.double(), values, bias.double()))
    assert_near(run(write, 45), want)
    gates = normal(ROWS, 45)
    want = ACTIVATIONS[activation](gates.double()) * residual.double()
    rows = lambda p, out: p.gate(p.tensor_rows(gates), p.tensor_rows(residual), out, 45, activation=activation)  # noqa: E731
    assert_near(run(rows, 45), want)


def test_gelu_keeps_its_tail(normal):
    x = torch.linspace(-5, 5, 41).expand(ROWS, 41).contiguous()
    ones = torch.ones_like(x)
    got = run(lambda p, out: p.gate(p.tensor_rows(x), p.tensor_rows(ones), out, 41, activation="gelu"), 41)
    assert (got - F.gelu(x.double())).abs().max() < 5e-7


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("taps", [1, 4])
def test_short_convolutions(taps, dtype, normal):
    x, state = normal(ROWS, 53), normal(ROWS, taps - 1, 53).to(dtype)
    weight, bias = normal(53, taps).to(dtype), normal(53).to(dtype)
    inputs = torch.cat([state.double(), x.double()[:, None]], dim=1)
    want = F.silu((inputs * weight.double().T).sum(1) + bias.double())
    after = state.clone()
    got = run(lambda p, out: p.conv(p.tensor_rows(x), out, p.state(after), weight, bias, activation="silu"), 53)
    assert_near(got, want)
    assert torch.equal(after, inputs[:, 1:].to(dtype))
    older = normal(ROWS, 53, 2).to(dtype)  # channels before taps, and more inputs than taps need
    after = torch.cat([older, state.mT], dim=2).contiguous()
    kept = torch.cat([older, inputs.to(dtype).mT], dim=2)[..., 1:]
    got = run(lambda p, out: p.conv(p.tensor_rows(x), out, p.state(after).mT, weight, bias, activation="silu"), 53)
    assert_near(got, want)
    assert torch.equal(after, kept)


@pytest.mark.parametrize("d_state", [3, 16, 40])
def test_selective_scans(d_state, normal):
    channels = 21
    u, delta, z = (normal(ROWS, channels) for _ in range(3))
    BC, A_log, h = normal(ROWS, 2 * d_state), normal(channels, d_state), normal(ROWS, channels, d_state)
    bias, D = normal(channels), normal(channels)
    step = F.softplus(delta.double() + bias.double())
    B, C = BC.double().chunk(2, dim=1)
    decay = torch.exp(-step[..., None] * A_log.double().exp())
    want_h = decay * h.double() + (step * u.double())[..., None] * B[:, None]
    want = ((want_h * C[:, None]).sum(-1) + D.double() * u.double()) * F.silu(z.double())
    after = h.clone()

    def write(program, out):
        rows = [program.tensor_rows(t) for t in (u, delta)]
        both = program.tensor_rows(BC)
        places = (both, both.columns(d_state), program.tensor_rows(z), out)
        program.scan(*rows, *places, A_log, bias, D, program.state(after))

    assert_near(run(write, channels), want)
    assert_near(after, want_h)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("heads", "groups", "head_dim", "rotary"), [(4, 2, 24, 24), (2, 2, 64, 8), (3, 1, 5, 0)])
@pytest.mark.parametrize("past", [0, 37])
def test_attention(past, heads, groups, head_dim, rotary, dtype, normal):
    qkv = normal(ROWS, (heads + 2 * groups) * head_dim)
    cache = [normal(ROWS, past + 4, groups, head_dim).to(dtype)[:, : past + 1] for _ in range(2)]
    tokens, scale = torch.tensor([past, past // 2, 0]), 0.7 * head_dim**-0.5
    q, k, v = qkv.double().view(ROWS, -1, head_dim).split([heads, groups, groups], dim=1)
    rates = 100.0 ** -(torch.arange(rotary // 2).double() / max(rotary // 2, 1))
    angle = (tokens[:, None].double() / 2 * rates)[:, None]

    def turn(x):
        a, b, rest = x.split([rotary // 2, rotary // 2, head_dim - rotary], dim=-1)
        return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin(), rest], dim=-1)

    q, k = turn(q), turn(k)
    keys, values = (torch.cat([t[:, :past].double(), own[:, None]], 1) for t, own in zip(cache, (k, v), strict=True))
    keys, values = (t.to(dtype).double().repeat_interleave(heads // groups, dim=2) for t in (keys, values))
    scores = torch.einsum("bhd,bshd->bhs", q, keys) * scale
    hidden = torch.arange(past + 1) < past - tokens[:, None]
    weights = scores.masked_fill(hidden[:, None], -math.inf).softmax(-1)
    want = torch.einsum("bhs,bshd->bhd", weights, values).flatten(1)

    def write(program, out):
        options = {"heads": heads, "rotary_dim": rotary, "base": 100.0, "scaling": 2.0, "scale": scale}
        program.attention(program.tensor_rows(qkv), out, *cache, tokens, **options)

    assert_near(run(write, heads * head_dim), want, dtype=dtype)
    assert_near(cache[0][:, past], k, dtype=dtype)
    assert_near(cache[1][:, past], v, dtype=dtype)


def test_neither_threads_nor_the_order_of_items_change_a_bit(normal):
    x, weight = normal(ROWS, 256), normal(3000, 256)
    before, results = torch.get_num_threads(), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(run(lambda p, out: p.linear(p.tensor_rows(x), out, weight, activation="silu"), 3000))
    torch.set_num_threads(before)
    assert all(torch.equal(results[0], y) for y in results)


def test_what_the_kernels_do_not_serve_is_unfused(normal):
    program, x = TokenProgram(ROWS), normal(ROWS, 8)
    rows = program.tensor_rows(x)
    wrong = {
        "float64": lambda: program.linear(rows, rows, normal(8, 8).double()),
        "int8 without scales": lambda: program.linear(rows, rows, normal(8, 8).to(torch.int8)),
        "transposed": lambda: program.linear(rows, rows, normal(8, 8).T),
        "bias of another size": lambda: program.linear(rows, rows, normal(8, 8), normal(7)),
        "state of another size": lambda: program.conv(
            rows, rows, normal(ROWS, 2, 8), normal(8, 4), None, activation="none"
        ),
        "many taps": lambda: program.conv(rows, rows, normal(ROWS, 19, 8), normal(8, 20), None, activation="none"),
        "a rounded decay": lambda: program.scan(
            rows, rows, rows, rows, NOTHING, rows, normal(8, 4).bfloat16(), None, None, normal(ROWS, 8, 4)
        ),
        "strided": lambda: program.tensor_rows(normal(8, ROWS).T),
    }
    for write in wrong.values():
        mark = program.mark()
        with pytest.raises(Unfused):
            write()
        program.cut(mark)
    program.run()


def test_no_list_where_something_sees_every_call(normal):
    x = normal(ROWS, 8)
    assert "gradients" in str(unsupported_reason(x))
    with torch.no_grad():
        assert unsupported_reason(x) is None
        assert "rows" in str(unsupported_reason(normal(9, 8)))
        assert "plain" in str(unsupported_reason(x.double()))
        with torch.profiler.profile():
            assert "profiler" in str(unsupported_reason(x))
        with torch.autocast("cpu", torch.bfloat16):
            assert "autocast" in str(unsupported_reason(x))


def test_the_extension_checks_what_it_is_told(normal):
    x, weight = normal(1, 8), normal(4, 8)
    program = TokenProgram(1)
    program.linear(program.tensor_rows(x), program.tensor_rows(torch.empty(1, 4)), weight)
    words = program._words
    call = native.library().token_program
    call(words, [], 1, 1)
    for wrong in (words[:-1], [*words, 0], [9, *words[1:]], [words[0], 0, *words[2:]], [*words[:-1], 8]):
        with pytest.raises(ValueError, match="token_program: an op, a dtype, a size or an address"):
            call(wrong, [], 1, 1)
    with pytest.raises(ValueError, match="token_program"):
        call(words, [1.0], 1, 1)
