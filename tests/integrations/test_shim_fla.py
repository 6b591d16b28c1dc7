"""seqconv.integrations.fla: golden numbers of the original, plain loops, packed and reversed sequences, pools."""

import itertools
import json

import pytest
import torch
import torch.nn.functional as F
from plain_loops import convolution, linear_attention
from scan_cases import assert_same, check_golden, values_and_gradients

from golden_cases import GOLDEN, load_variant
from seqconv.integrations import fla
from seqconv.integrations.fla.modules import norm_layers
from tolerances import assert_near

HEADS_FIRST = ("retention", "delta_rule", "rwkv6", "rwkv7", "dplr", "iplr")
"""Golden cases whose references take (batch, heads, length, width)."""
LENGTH, HEADS, D_K, D_V = 7, 2, 3, 4


def draw(*shape, generator=torch.Generator().manual_seed(0)):
    return torch.rand(*shape, generator=generator, dtype=torch.float64) * 2 - 1


def golden_call(case, family, kind):
    """The function of fla that a golden case is of, by the names of the case."""
    function = getattr(fla, f"{kind}_{family}")
    swap = (lambda t: t.transpose(1, 2)) if family.removesuffix("_delta_rule") in HEADS_FIRST else (lambda t: t)
    swap = (lambda t: t.transpose(1, 2)) if case.name.split("/")[-1].startswith(HEADS_FIRST) else swap
    names = {"alpha": "a", "beta": "b"} if family in ("dplr_delta_rule", "iplr_delta_rule") else {}
    names |= {"q": "r"} if family.startswith("rwkv") else {}
    names |= {"gk": "g"} if function is fla.chunk_gla else {}
    bounds = {"cu_seqlens": case.tensors["const.cu_seqlens"]} if "const.cu_seqlens" in case.tensors else {}
    v_first = family == "rwkv7"

    def call(initial_state=None, u=None, **tokens):
        tokens = {names.get(name, name): swap(t) for name, t in tokens.items()}
        tokens |= {} if u is None else {"u": u}
        if family == "rwkv7":
            tokens["w"], tokens["scale"] = -tokens["w"].exp(), 1.0
        state = initial_state.mT if initial_state is not None and v_first else initial_state
        if family != "retention" or initial_state is not None:
            tokens["initial_state"] = state
        if family == "linear_attn":
            o, _ = function(**tokens, normalize=True)
            return {"y": o}
        o, last = function(**tokens, output_final_state=True, **bounds)
        return {"y": swap(o), "final_state": last.mT if v_first else last}

    return call


FAMILIES = {
    "gla": "gla", "simple_gla": "simple_gla", "retention": "retention", "delta_rule": "delta_rule",
    "gated_delta_rule": "gated_delta_rule", "kda": "kda", "rwkv6": "rwkv6", "rwkv7": "rwkv7",
    "dplr": "dplr_delta_rule", "iplr": "iplr_delta_rule", "hgrn": "hgrn", "linear_attn": "linear_attn",
}  # fmt: skip
GOLDEN_CASES = [
    (name, FAMILIES[max((f for f in FAMILIES if name.startswith(f)), key=len)])
    for name in json.loads((GOLDEN / "scan/fla_ops/case.json").read_text())["variants"]
    if name.startswith(tuple(FAMILIES)) and not name.startswith("hgrn2")
]


@pytest.mark.parametrize("kind", ["chunk", "fused_recurrent"])
@pytest.mark.parametrize(("variant", "family"), GOLDEN_CASES)
def test_golden_numbers_and_gradients(variant, family, kind):
    case = load_variant("scan/fla_ops", variant)
    check_golden(case, golden_call(case, family, kind))


BOUNDS = torch.tensor([0, 3, 3, 7, 7])
"""Four sequences, the second and the last of which are empty."""


def tokens(batch, *names):
    shapes = {"beta": (HEADS,), "g": (HEADS,), "v": (HEADS, D_V), "gv": (HEADS, D_V)}
    found = {name: draw(batch, LENGTH, *shapes.get(name, (HEADS, D_K))) for name in names}
    return {n: -t.abs() if n in ("g", "gk", "gv", "w") else t.abs() if n == "beta" else t for n, t in found.items()}


def loop(inputs, state, part, **options):
    """The plain loop on one row, whose decay per head becomes one per channel."""
    g = inputs.get("g")
    decay = inputs.get("gk", inputs.get("w"))
    if g is not None:
        decay = g[..., None].expand(-1, -1, -1, D_K) + (0 if decay is None else decay)
    names = {"q": "r"} if "r" in inputs else {}
    row = lambda t: None if t is None else t[0, part]  # noqa: E731
    extra = {name: row(inputs[name]) for name in ("gv", "beta", "a", "b") if name in inputs}
    q, k, v = (row(inputs[names.get(name, name)]) for name in ("q", "k", "v"))
    return linear_attention(q, k, v, gk=row(decay), state=state, **extra, **options)


DIRECTIONS = {
    "gla": ("q", "k", "v", "gk"),
    "gla with gv": ("q", "k", "v", "gk", "gv"),
    "gla with gv alone": ("q", "k", "v", "gv"),
    "simple_gla": ("q", "k", "v", "g"),
    "dplr_delta_rule": ("q", "k", "v", "a", "b", "gk"),
    "rwkv6": ("r", "k", "v", "w"),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", DIRECTIONS)
def test_both_directions_packed_and_empty_sequences(name, reverse, packed):
    function = getattr(fla, f"fused_recurrent_{name.split()[0]}")
    inputs = tokens(1, *DIRECTIONS[name])
    rows = len(BOUNDS) - 1 if packed else 1
    states = draw(rows, HEADS, D_K, D_V)
    bonus = {"u": draw(HEADS, D_K)} if name == "rwkv6" else {}
    options = {"cu_seqlens": BOUNDS} if packed else {}
    o, last = function(**inputs, **bonus, initial_state=states, output_final_state=True, reverse=reverse, **options)
    bounds = BOUNDS.tolist() if packed else [0, LENGTH]
    for row, (first, end) in enumerate(itertools.pairwise(bounds)):
        if first == end:
            assert torch.equal(last[row], states[row])
            continue
        part = list(range(first, end))[:: -1 if reverse else 1]
        want, state = loop(inputs, states[row], part, **bonus)
        assert_near(o[0, part], want, what=f"sequence {row}")
        assert_near(last[row], state, what=f"state {row}")
    if packed:  # without initial states those of empty sequences are zero
        _, last = function(**inputs, **bonus, output_final_state=True, **options)
        assert not last[[1, 3]].any()


V_FIRST = {
    "chunk_gla": ("q", "k", "v", "g"),
    "fused_recurrent_gla": ("q", "k", "v", "gk"),
    "chunk_simple_gla": ("q", "k", "v", "g"),
    "fused_recurrent_retention": ("q", "k", "v"),
    "chunk_gated_delta_rule": ("q", "k", "v", "g", "beta"),
    "fused_recurrent_gated_delta_rule": ("q", "k", "v", "g", "beta"),
    "chunk_kda": ("q", "k", "v", "g", "beta"),
    "fused_recurrent_kda": ("q", "k", "v", "g", "beta"),
}


@pytest.mark.parametrize("name", V_FIRST)
def test_states_with_the_values_first(name):
    function, inputs = getattr(fla, name), tokens(2, *V_FIRST[name])
    if name in ("chunk_gla", "chunk_kda", "fused_recurrent_kda"):
        inputs["g"] = -draw(2, LENGTH, HEADS, D_K).abs()
    state = draw(2, HEADS, D_K, D_V)
    o, last = function(**inputs, initial_state=state, output_final_state=True)
    other, turned = function(**inputs, initial_state=state.mT, output_final_state=True, state_v_first=True)
    assert_near(other, o)
    assert_near(turned.mT, last)
    assert function(**inputs)[1] is None


def test_the_older_name_of_the_layout_of_states():
    inputs, state = tokens(1, "q", "k", "v", "gk"), draw(1, HEADS, D_V, D_K)
    with pytest.warns(DeprecationWarning, match="transpose_state_layout"):
        o, _ = fla.fused_recurrent_gla(**inputs, initial_state=state, transpose_state_layout=True)
    assert_near(o, fla.fused_recurrent_gla(**inputs, initial_state=state.mT)[0])
    with pytest.raises(ValueError, match="state_v_first and transpose_state_layout"):
        fla.fused_recurrent_gla(**inputs, state_v_first=True, transpose_state_layout=True)


@pytest.mark.parametrize("both", [False, True])
def test_constant_decays_alone_and_with_others(both):
    inputs = tokens(1, "q", "k", "v", *(["g"] if both else []))
    gamma = -draw(HEADS).abs()
    for function in (fla.chunk_simple_gla, fla.fused_recurrent_simple_gla, fla.fused_chunk_simple_gla):
        o, last = function(**inputs, g_gamma=gamma, output_final_state=True, cu_seqlens=BOUNDS)
        for row in (0, 2):
            part = slice(BOUNDS[row], BOUNDS[row + 1])
            constant = {**inputs, "g": inputs.get("g", 0) + gamma.expand(1, LENGTH, HEADS)}
            want, state = loop(constant, None, part)
            assert_near(o[0, part], want)
            assert_near(last[row], state)


def test_decays_of_retention_and_lightning_attention():
    inputs = tokens(1, "q", "k", "v")
    heads = torch.arange(HEADS, dtype=torch.float64)
    for kind in ("chunk", "fused_recurrent", "fused_chunk", "parallel"):
        decay = (1 - 2 ** (-5 - heads)).log().expand(1, LENGTH, HEADS)
        o, _ = getattr(fla, f"{kind}_retention")(**inputs)
        assert_near(o[0], loop({**inputs, "g": decay}, None, slice(None))[0])
    for kind in ("chunk", "fused_recurrent"):
        decay = (-(8 / HEADS) * (1 - 3 / 8) * heads).expand(1, LENGTH, HEADS)
        o, _ = getattr(fla, f"{kind}_lightning_attn")(**inputs, layer_idx=3, num_layers=8)
        assert_near(o[0], loop({**inputs, "g": decay}, None, slice(None))[0])


@pytest.mark.parametrize("gated", [False, True])
def test_attention_weights_give_the_output(gated):
    inputs = tokens(2, "q", "k", "v", *(["g"] if gated else []))
    for function in (fla.parallel_simple_gla, *([] if gated else [fla.parallel_retention])):
        o, weights = function(**inputs, output_attentions=True)
        assert not weights.triu(1).any()
        assert_near(torch.einsum("bhts,bshv->bthv", weights, inputs["v"]), o)
        assert function(**inputs)[1] is None


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_normalised_linear_attention_goes_on_from_its_state(reverse, packed):
    inputs = {name: t.abs() for name, t in tokens(1, "q", "k", "v").items()}
    rows = len(BOUNDS) - 1 if packed else 1
    states, keys = draw(rows, HEADS, D_K, D_V), draw(rows, 1, HEADS, D_K).abs()
    o, (last, total) = fla.fused_recurrent_linear_attn(
        **inputs, initial_state=(states, keys), output_final_state=True, reverse=reverse, normalize=True,
        cu_seqlens=BOUNDS if packed else None,
    )  # fmt: skip
    for row in (0, 2) if packed else (0,):
        part = list(range(BOUNDS[row], BOUNDS[row + 1])) if packed else list(range(LENGTH))
        part = part[:: -1 if reverse else 1]
        want, state = loop(inputs, states[row], part)
        sums = inputs["k"][0, part].cumsum(0) + keys[row]
        want = want / ((inputs["q"][0, part] * D_K**-0.5 * sums).sum(-1, keepdim=True) + 1e-10)
        assert_near(o[0, part], want)
        assert_near(last[row], state)
        assert_near(total[row, 0], sums[-1])
    alone, (none, total) = fla.chunk_linear_attn(**inputs)
    assert none is None
    assert_near(total[0, 0], inputs["k"][0].sum(0))
    assert_near(alone, fla.fused_recurrent_linear_attn(**inputs, normalize=True)[0])


@pytest.mark.parametrize("decay", ["g", "gk", "gv", "g gk gv", ""])
def test_every_decay_of_the_recurrent_delta_rule(decay):
    inputs = tokens(1, "q", "k", "v", "beta", *decay.split())
    state = draw(1, HEADS, D_K, D_V)
    o, last = fla.fused_recurrent_gated_delta_rule(**inputs, initial_state=state, output_final_state=True)
    want, after = loop(inputs, state[0], slice(None))
    assert_near(o[0], want)
    assert_near(last[0], after)
    plain = lambda **inputs: tuple(  # noqa: E731
        t[None] for t in loop({k: t for k, t in inputs.items() if k != "state"}, inputs["state"][0], slice(None))
    )
    shim = lambda state, **inputs: fla.fused_recurrent_gated_delta_rule(  # noqa: E731
        **inputs, initial_state=state, output_final_state=True
    )
    inputs["state"] = state
    assert_same(values_and_gradients(shim, inputs), values_and_gradients(plain, inputs))


@pytest.mark.parametrize("bound", [None, -3.0])
@pytest.mark.parametrize("kind", ["chunk", "fused_recurrent"])
def test_gates_sigmoids_and_norms_of_kda(kind, bound):
    inputs = {**tokens(1, "q", "k", "v"), "beta": draw(1, LENGTH, HEADS), "g": draw(1, LENGTH, HEADS, D_K)}
    A_log, bias = draw(HEADS), draw(HEADS * D_K)
    o, _ = getattr(fla, f"{kind}_kda")(
        **inputs, A_log=A_log, dt_bias=bias, use_gate_in_kernel=True, use_qk_l2norm_in_kernel=True, lower_bound=bound,
        use_beta_sigmoid_in_kernel=True, allow_neg_eigval=True, scale=0.7,
    )  # fmt: skip
    g, rate = inputs["g"] + bias.view(HEADS, D_K), A_log.exp()[:, None]
    g = -rate * F.softplus(g) if bound is None else bound * torch.sigmoid(rate * g)
    unit = {name: t / (t.square().sum(-1, keepdim=True) + 1e-6).sqrt() for name, t in inputs.items() if name in "qk"}
    want = {**inputs, **unit, "beta": 2 * inputs["beta"].sigmoid(), "gk": g}
    del want["g"]
    assert_near(o[0], loop(want, None, slice(None), scale=0.7)[0])


@pytest.mark.parametrize("kind", ["chunk", "fused_recurrent"])
def test_gates_sigmoids_and_groups_of_the_gated_delta_rule(kind):
    """Four value heads for two of the keys."""
    inputs = tokens(1, "q", "k")
    v, g, beta, A_log, bias = (draw(1, LENGTH, 4, D_V), draw(1, LENGTH, 4), draw(1, LENGTH, 4), draw(4), draw(4))
    o, _ = getattr(fla, f"{kind}_gated_delta_rule")(
        **inputs, v=v, g=g, beta=beta, A_log=A_log, dt_bias=bias, use_gate_in_kernel=True,
        use_beta_sigmoid_in_kernel=True,
    )  # fmt: skip
    decay = -A_log.exp() * F.softplus(g + bias)
    wide = {name: t.repeat_interleave(2, dim=2) for name, t in inputs.items()}
    want = {**wide, "v": v, "beta": beta.sigmoid(), "g": decay}
    assert_near(o[0], loop(want, None, slice(None))[0])


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("v_first", [False, True])
def test_states_before_the_chunks(packed, v_first):
    inputs = {**tokens(1, "q", "k", "v", "beta"), "g": -draw(1, LENGTH, HEADS, D_K).abs()}
    bounds = torch.tensor([0, 3, 7]) if packed else None
    states = draw(2 if packed else 1, HEADS, D_K, D_V)
    o, _, before = fla.chunk_kda(
        **inputs, initial_state=states.mT if v_first else states, return_intermediate_states=True, chunk_size=2,
        cu_seqlens=bounds, state_v_first=v_first,
    )  # fmt: skip
    want = []
    for row, (first, end) in enumerate([(0, 3), (3, 7)] if packed else [(0, 7)]):
        for start in range(first, end, 2):
            part = slice(first, start)
            gk = {"gk" if name == "g" else name: t for name, t in inputs.items()}
            want.append(states[row] if start == first else loop(gk, states[row], part)[1])
    want = torch.stack(want)[None]
    assert_near(before.mT if v_first else before, want)
    assert_near(o, fla.chunk_kda(**inputs, initial_state=states, cu_seqlens=bounds)[0])


@pytest.mark.parametrize("v_first", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_pool_of_states_and_accepted_tokens(v_first, dtype):
    """Three sequences of 2, 1 and 2 tokens; the second is not there, the third goes on from its first token."""
    bounds = torch.tensor([0, 2, 3, 5])
    inputs = {name: t[:, :5] for name, t in tokens(1, "q", "k", "v", "beta").items()}
    inputs["g"] = -draw(1, 5, HEADS, D_K).abs()
    pool = draw(8, HEADS, D_K, D_V).to(dtype)
    before, given = pool.clone(), pool.mT.contiguous() if v_first else pool
    rows = torch.tensor([[3, 1], [-1, -1], [6, 4]])
    o, last = fla.fused_recurrent_kda_fwd(
        **inputs, initial_state=given, cu_seqlens=bounds, ssm_state_indices=rows, state_v_first=v_first,
        num_accepted_tokens=torch.tensor([2, 1, 1]),
    )  # fmt: skip
    assert last is given
    after = given.mT if v_first else given
    gk = {"gk" if name == "g" else name: t for name, t in inputs.items()}
    for sequence, start in ((0, 1), (2, 6)):
        for token in range(2):
            part = slice(bounds[sequence], bounds[sequence] + token + 1)
            want, state = loop(gk, before[start], part)
            assert_near(after[rows[sequence, token]], state, dtype=dtype)
            assert_near(o[0, part], want, dtype=dtype)
    assert not o[0, 2].any()
    untouched = [0, 2, 5, 7]
    assert torch.equal(after[untouched], before[untouched])


@pytest.mark.parametrize("v_first", [False, True])
def test_a_pool_of_the_gated_delta_rule(v_first):
    """The keywords of vLLM's function of this name: as Kimi Delta Attention with one decay for all channels."""
    inputs, pool = tokens(1, "q", "k", "v", "g", "beta"), draw(5, HEADS, D_K, D_V)
    pools = [pool.mT.contiguous() if v_first else pool.clone() for _ in range(2)]
    rows = {"ssm_state_indices": torch.tensor([[2, 0, 4, 1, -1, -1, -1], [-1] * 7]), "state_v_first": v_first}
    rows |= {"num_accepted_tokens": torch.tensor([3, 1]), "cu_seqlens": torch.tensor([0, 4, 7])}
    o, last = fla.fused_recurrent_gated_delta_rule(**inputs, initial_state=pools[0], **rows)
    assert last is pools[0]
    wide = inputs | {"g": inputs["g"][..., None].expand(-1, -1, -1, D_K)}
    want, _ = fla.fused_recurrent_kda_fwd(**wide, initial_state=pools[1], **rows)
    assert_near(o, want)
    assert_near(*pools)
    with pytest.raises(ValueError, match="gv with ssm_state_indices"):
        fla.fused_recurrent_gated_delta_rule(**inputs, gv=decay_of_values(), initial_state=pools[0], **rows)


def decay_of_values():
    return -draw(1, LENGTH, HEADS, D_V).abs()


def test_one_row_of_the_pool_per_sequence():
    inputs = {**tokens(3, "q", "k", "v", "beta"), "g": -draw(3, LENGTH, HEADS, D_K).abs()}
    pool = draw(5, HEADS, D_K, D_V)
    before = pool.clone()
    o, _ = fla.fused_recurrent_kda_fwd(**inputs, initial_state=pool, ssm_state_indices=torch.tensor([4, 0, 2]))
    want, last = fla.fused_recurrent_kda(**inputs, initial_state=before[[4, 0, 2]], output_final_state=True)
    assert_near(o, want)
    assert_near(pool[[4, 0, 2]], last)
    assert torch.equal(pool[[1, 3]], before[[1, 3]])
    out, states = torch.empty_like(inputs["v"]), before[:3].clone()
    o, last = fla.fused_recurrent_kda_fwd(**inputs, initial_state=states, out=out)
    assert o is out
    assert last is states
    assert_near(o, fla.chunk_kda(**inputs, initial_state=before[:3])[0])


@pytest.mark.parametrize("unit", [False, True])
def test_comba_reads_the_state_before_its_decay(unit):
    inputs = tokens(1, "q", "k", "v", "p", "g", "beta")
    for function in (fla.chunk_comba, fla.fused_recurrent_comba):
        o, last = function(**inputs, output_final_state=True, use_qk_l2norm_in_kernel=unit)
        q, k, p = inputs["q"], inputs["k"], inputs["p"]
        if unit:
            q, k, p = (t / (t.square().sum(-1, keepdim=True) + 1e-6).sqrt() for t in (q, k, p))
        write = inputs["beta"][..., None] * k
        want, state = loop(
            {"q": q, "k": write, "v": inputs["v"], "a": -p, "b": write, "g": inputs["g"]}, None, slice(None)
        )
        assert_near(o[0], want)
        assert_near(last[0], state)


def test_what_is_not_served_raises_with_its_name():
    inputs = tokens(1, "q", "k", "v", "g", "beta")
    gla = tokens(1, "q", "k", "v", "gk")
    calls = {
        "cp_context": lambda: fla.chunk_gated_delta_rule(**inputs, cp_context=object()),
        "head_first": lambda: fla.chunk_simple_gla(inputs["q"], inputs["k"], inputs["v"], head_first=True),
        "offsets": lambda: fla.fused_recurrent_gla(**gla, offsets=BOUNDS),
        "output_attentions with cu_seqlens": lambda: fla.parallel_retention(
            inputs["q"], inputs["k"], inputs["v"], output_attentions=True, cu_seqlens=BOUNDS
        ),
        "allow_neg_eigval alone": lambda: fla.chunk_gated_delta_rule(**inputs, allow_neg_eigval=True),
        "use_gate_in_kernel without A_log": lambda: fla.chunk_gated_delta_rule(**inputs, use_gate_in_kernel=True),
        "beta per channel": lambda: fla.chunk_comba(
            inputs["q"], inputs["k"], inputs["v"], None, inputs["g"], draw(1, LENGTH, HEADS, D_V)
        ),
        "inplace_final_state alone": lambda: fla.fused_recurrent_kda_fwd(**{**inputs, "g": gla["gk"]}),
        "no weight": lambda: fla.causal_conv1d(draw(1, 3, 2)),
        "5 initial states for 4 sequences": lambda: fla.chunk_kda(
            **{**inputs, "g": gla["gk"]}, initial_state=draw(5, HEADS, D_K, D_V), cu_seqlens=BOUNDS
        ),
    }
    for name, call in calls.items():
        with pytest.raises(ValueError, match=name):
            call()


@pytest.mark.parametrize("packed", [False, True])
def test_the_convolution_and_its_states(packed):
    channels, width = 3, 4
    x, weight, bias, residual = (
        draw(1, LENGTH, channels),
        draw(channels, width),
        draw(channels),
        draw(1, LENGTH, channels),
    )
    states = draw(4 if packed else 1, channels, width)
    y, last = fla.causal_conv1d(
        x, weight, bias, residual, states, output_final_state=True, activation="swish",
        cu_seqlens=BOUNDS if packed else None,
    )  # fmt: skip
    for row in (0, 2) if packed else (0,):
        part = slice(BOUNDS[row], BOUNDS[row + 1]) if packed else slice(None)
        own = x[0, part].mT
        want = convolution(own, weight, bias, states[row, :, 1:], silu=True).mT
        assert_near(y[0, part], want + residual[0, part])
        assert_near(last[row], torch.cat([states[row], own], dim=1)[:, -width:])


def test_the_layer_of_the_convolution():
    """Its prefill, its steps in place, its mask; parameters as torch's own layer."""
    torch.manual_seed(0)
    layer = fla.ShortConvolution(3, 4, bias=True, dtype=torch.float64)
    assert set(layer.state_dict()) == {"weight", "bias"}
    x = draw(2, 9, 3)
    whole, _ = layer(x)
    mask = torch.tensor([[1] * 9, [0] * 2 + [1] * 7])
    masked, _ = layer(x, mask=mask)
    want = F.silu(F.conv1d((x * mask[..., None]).mT, layer.weight, layer.bias, padding=3, groups=3)[..., :9]).mT
    assert_near(masked, want)
    y, cache = layer(x[:, :6], output_final_state=True)
    steps = [y]
    for t in range(6, 9):
        given = cache
        y, cache = layer(x[:, t : t + 1], cache=given, output_final_state=True)
        assert cache is given
        steps.append(y)
    assert_near(torch.cat(steps, dim=1), whole)
    first, none = layer.step(x[:, :1], None, None)
    assert none is None
    assert_near(first, whole[:, :1])
    with pytest.raises(ValueError, match="mask and cu_seqlens"):
        layer(x[:1], mask=mask[:1], cu_seqlens=torch.tensor([0, 9]))


def test_sequences_by_index_and_backend():
    """fla's CUDA backend keeps the sequences of ``seq_idx`` apart, its Triton backend does not look at it."""
    x, index = draw(1, LENGTH, 3), torch.tensor([[0] * 3 + [1] * 4])
    layer = fla.ShortConvolution(3, 4, dtype=torch.float64, backend="cuda")
    apart = torch.cat([layer(x[:, :3])[0], layer(x[:, 3:])[0]], dim=1)
    assert_near(layer(x, seq_idx=index)[0], apart)
    layer.backend = "triton"
    assert_near(layer(x, seq_idx=index)[0], layer(x)[0])


def normed(total, norm, groups=1):
    """In plain torch."""
    parts = total.unflatten(-1, (groups, -1))
    parts = parts if norm.is_rms_norm else parts - parts.mean(-1, keepdim=True)
    y = (parts * (parts.square().mean(-1, keepdim=True) + norm.eps).rsqrt()).flatten(-2)
    y = y if norm.weight is None else y * norm.weight
    return y if norm.bias is None else y + norm.bias


def layer_of(kind, *sizes, **options):
    layer = getattr(norm_layers, kind)(*sizes, dtype=torch.float64, **options)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    return layer


@pytest.mark.parametrize("activation", ["swish", "sigmoid"])
@pytest.mark.parametrize(
    ("kind", "options"), [("RMS", {}), ("Layer", {"bias": True}), ("Layer", {}), ("RMS", {"elementwise_affine": False})]
)
def test_gated_norms(kind, options, activation):
    x, g, residual = draw(2, 5), draw(2, 5), draw(2, 5)
    norm = layer_of(f"Fused{kind}NormGated", 5, activation=activation, eps=1e-3, **options)
    y, total = norm(x, g, residual, prenorm=True)
    assert_near(total, x + residual)
    want = normed(total, norm) * g.sigmoid() * (g if activation == "swish" else 1)
    assert_near(y, want)
    assert_near(norm(x[:, None], g, residual[:, None])[:, 0], want)  # the gate's channels in fewer axes
    if activation == "swish" and not options:
        older = layer_of(f"Fused{kind}NormSwishGate", 5, eps=1e-3)
        older.load_state_dict(norm.state_dict())
        assert_near(older(x, g, residual), want)
        linear, weight = layer_of(f"Fused{kind}NormSwishGateLinear", 5, eps=1e-3), draw(3, 5)
        linear.load_state_dict(norm.state_dict())
        y, total = linear(x, g, weight, None, residual, True)
        assert_near(y, want @ weight.mT)
        assert_near(total, x + residual)
    with pytest.raises(ValueError, match="activation='gelu'"):
        fla.FusedRMSNormGated(5, activation="gelu")


@pytest.mark.parametrize(
    ("kind", "sizes", "groups"), [("RMSNorm", (6,), 1), ("LayerNorm", (6,), 1), ("GroupNorm", (2, 6), 2)]
)
def test_norms(kind, sizes, groups):
    x, residual, weight, bias = draw(2, 6), draw(2, 6), draw(3, 6), draw(3)
    norm = layer_of(kind, *sizes, bias=True, eps=1e-3)
    y, total = norm(x, residual, prenorm=True)
    assert_near(total, x + residual)
    assert_near(y, normed(total, norm, groups))
    linear = layer_of(f"{kind}Linear", *sizes, bias=True, eps=1e-3)
    linear.load_state_dict(norm.state_dict())
    assert_near(linear(x, weight, bias, residual), y @ weight.mT + bias)
    half = norm.bfloat16()(x.bfloat16(), prenorm=True, residual_in_fp32=True)
    assert [t.dtype for t in half] == [torch.bfloat16, torch.float32]
    assert_near(fla.L2Norm()(x), x / (x.square().sum(-1, keepdim=True) + 1e-6).sqrt())
    with pytest.raises(ValueError, match="hidden_size=6 and num_groups=4"):
        norm_layers.GroupNorm(4, 6)


@pytest.mark.slow
def test_compiled(unannotated):
    inputs = {name: t.float() for name, t in tokens(1, "q", "k", "v", "g", "beta").items()}

    def call(**inputs):
        o, last = fla.chunk_gated_delta_rule(
            **inputs, cu_seqlens=BOUNDS, output_final_state=True, use_qk_l2norm_in_kernel=True, state_v_first=True
        )
        return o, last, fla.fused_recurrent_simple_gla(inputs["q"], inputs["k"], inputs["v"], reverse=True)[0]

    for got, want in zip(torch.compile(call)(**inputs), call(**inputs), strict=True):
        assert_near(got, want)
