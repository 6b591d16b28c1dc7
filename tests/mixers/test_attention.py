"""Attention: the definition, the three reaches, grouped heads, and that padding never makes a NaN."""

import math

import pytest
import torch

from seqconv import create_mixer
from seqconv.attention.rotary import rotate
from tolerances import assert_near

REACHES = [
    {},
    {"window": 4},
    {"attention_chunk_size": 5},
    {"window": 1},
    {"attention_chunk_size": 1},
    {"window": 40},
    {"attention_chunk_size": 40},
]


def build(**options):
    torch.manual_seed(0)
    mixer = create_mixer("attention", 8, num_heads=4, num_kv_heads=2, qkv_bias=True, o_bias=True, **options)
    return mixer.double().eval()


def sees(t, s, window=None, attention_chunk_size=None, bidirectional=False):
    if s > t and not bidirectional:
        return False
    if window is not None and abs(t - s) >= window:
        return False
    return attention_chunk_size is None or t // attention_chunk_size == s // attention_chunk_size


def by_definition(mixer, x, **reach):
    """Token by token and head by head."""
    (length, _), dim = x.shape, mixer.head_dim
    q, k, v = (p.view(length, -1, dim) for p in mixer.qkv_proj(x).split([4 * dim, 2 * dim, 2 * dim], dim=-1))
    rates = [10000 ** (-2 * i / dim) for i in range(dim // 2)]

    def turned(head, t):
        z = torch.complex(head[: dim // 2], head[dim // 2 :])
        return z * torch.tensor([complex(math.cos(t * r), math.sin(t * r)) for r in rates], dtype=torch.complex128)

    rows = []
    for t in range(length):
        heads = []
        for h in range(4):
            seen = [s for s in range(length) if sees(t, s, **reach)]
            scores = [(turned(q[t, h], t).conj() * turned(k[s, h // 2], s)).sum().real / math.sqrt(dim) for s in seen]
            weights = torch.stack(scores).softmax(0)
            heads.append(sum(w * v[s, h // 2] for w, s in zip(weights, seen, strict=True)))
        rows.append(torch.cat(heads))
    return mixer.o_proj(torch.stack(rows))


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("reach", REACHES, ids=str)
def test_outputs_are_the_definition(reach, bidirectional):
    mixer, x = build(**reach, bidirectional=bidirectional), torch.randn(1, 13, 8, dtype=torch.float64)
    want = by_definition(mixer, x[0], **reach, bidirectional=bidirectional)
    assert_near(mixer(x)[0], want)
    if not bidirectional:
        assert_near(mixer.prefill(x)[0][0], want)


@pytest.mark.parametrize("reach", REACHES, ids=str)
def test_the_cache_is_bounded_by_the_reach(reach):
    mixer = build(**reach)
    _, state = mixer.prefill(torch.randn(2, 30, 8, dtype=torch.float64))
    size = reach.get("window", reach.get("attention_chunk_size"))
    assert state.key.shape[1] == (30 if size is None else min(30, size - 1))
    assert mixer.state_kind == ("growing" if size is None else "window")


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("reach", REACHES[:3], ids=str)
def test_rows_of_padding_alone_make_no_nan(reach, bidirectional):
    mixer = build(**reach, bidirectional=bidirectional)
    x = torch.randn(3, 12, 8, dtype=torch.float64, requires_grad=True)
    mask = torch.ones(3, 12, dtype=torch.bool)
    mask[0], mask[1, :7], mask[2, 5:] = False, False, False
    y = mixer(x, mask=mask)
    y.sum().backward()
    assert y.isfinite().all()
    assert x.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in mixer.parameters())
    assert (x.grad[~mask] == 0).all()
    assert (y[~mask] == 0).all()
    if not bidirectional:
        left = mask.clone()
        left[2] = True
        got, state = mixer.prefill(x, mask=left)
        assert got.isfinite().all()
        assert state.tokens.tolist() == [0, 5, 12]
        assert mixer.step(x[:, 0], state)[0].isfinite().all()


def test_one_row_of_a_state_of_padding_alone_starts_afresh():
    mixer = build(attention_chunk_size=5)
    x = torch.randn(2, 20, 8, dtype=torch.float64)
    mask = torch.ones(2, 8, dtype=torch.bool)
    mask[0] = False
    _, state = mixer.prefill(x[:, :8], mask=mask)
    y, _ = mixer.prefill(x[:, 8:], state)
    assert_near(y[:1], mixer(x[:1, 8:]))
    assert_near(y[1:], mixer(x[1:])[:, 8:])


def test_rotated_scores_depend_on_the_distance_alone():
    q, k = torch.randn(2, 1, 1, 2, 6, dtype=torch.float64).unbind(0)

    def score(m, n):
        m, n = torch.tensor([[m]]), torch.tensor([[n]])
        return (rotate(q, m, 10000.0) * rotate(k, n, 10000.0)).sum(-1)

    assert_near(score(7, 3), score(1004, 1000))
    assert (score(7, 3) - score(7, 4)).abs().min() > 1e-3


def test_dropout_acts_in_training_alone():
    mixer, x = build(dropout=0.5), torch.randn(1, 9, 8, dtype=torch.float64)
    assert torch.equal(mixer(x), mixer(x))
    mixer.train()
    assert not torch.equal(mixer(x), mixer(x))


def test_errors_say_what_to_do():
    cases = {
        r"num_heads=3, num_kv_heads=3 for d_model=8.*Remedy": {"num_heads": 3},
        r"num_heads=4, num_kv_heads=3.*divide num_heads": {"num_heads": 4, "num_kv_heads": 3},
        r"heads of width 1.*rotary=False": {"num_heads": 8},
        r"window=3, attention_chunk_size=4.*one of them": {"window": 3, "attention_chunk_size": 4},
        r"window=0.*at least 1": {"window": 0},
        r"rotary_base=0.*positive": {"rotary_base": 0.0},
        r"attention dropout: received 2": {"dropout": 2.0},
        r"option 'num_head'.*did you mean 'num_heads'": {"num_head": 2},
    }
    for pattern, options in cases.items():
        with pytest.raises(ValueError, match=pattern):
            create_mixer("attention", 8, **options)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("reach", REACHES, ids=str)
def test_values_that_are_not_finite_reach_later_tokens_of_their_row_only(reach, bad):
    mixer, x = build(**reach), torch.randn(2, 20, 8, dtype=torch.float64)
    want, broken = mixer(x), x.clone()
    broken[0, 9, 3] = bad
    for y in (mixer(broken), mixer.prefill(broken)[0]):
        torch.testing.assert_close(y[1], want[1])
        torch.testing.assert_close(y[0, :9], want[0, :9])
        reached = [t for t in range(20) if t >= 9 and sees(t, 9, **reach)]
        assert y[0].isnan().any(-1).nonzero().flatten().tolist() == reached
