"""TCN and TCNCA: reach, streaming with rings, the stripped variant, and what is shared with MEGA."""

import pytest
import torch

from seqconv import create_mixer
from tolerances import assert_near

SIZES = {
    "tree": ({"kernel_size": 3, "levels": 3}, 27),
    "overlapping": ({"kernel_size": 4, "dilation": 2, "levels": 3}, 22),
    "two blocks": ({"kernel_size": 3, "levels": 2, "blocks": 2}, 17),
    "same dilation": ({"kernel_size": 3, "dilation": 1, "levels": 4}, 9),
}


def build(name, **options):
    torch.manual_seed(0)
    return create_mixer(name, 4, **options).double().eval()


@pytest.mark.parametrize(("options", "reach"), SIZES.values(), ids=SIZES)
def test_an_output_depends_on_its_receptive_field_and_nothing_else(options, reach):
    mixer = build("tcn", **options)
    assert mixer.receptive_field == reach
    x = torch.randn(1, reach + 8, 4, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(mixer(x)[:, -1].sum(), x)
    seen = gradient[0].abs().amax(1) > 0
    assert seen.tolist() == [False] * 8 + [True] * reach


@pytest.mark.parametrize(("options", "reach"), SIZES.values(), ids=SIZES)
def test_the_state_is_one_vector_for_each_token_out_of_sight(options, reach):
    mixer = build("tcn", **options)
    _, state = mixer.prefill(torch.randn(2, 50, 4, dtype=torch.float64))
    assert sum(ring.shape[1] for ring in state.rings) == reach - 1
    assert mixer.state_kind == "constant"


def test_streams_longer_than_the_rings_stay_exact_across_prefills():
    mixer = build("tcn", kernel_size=3, levels=3, inner_activation="silu")
    x = torch.randn(2, 100, 4, dtype=torch.float64)
    with torch.no_grad():
        want, outputs = mixer(x), []
        y, state = mixer.prefill(x[:, :7])
        outputs.append(y)
        for t in range(7, 60):
            y, state = mixer.step(x[:, t], state)
            outputs.append(y[:, None])
        y, state = mixer.prefill(x[:, 60:95], state)
        outputs.append(y)
        for t in range(95, 100):
            y, state = mixer.step(x[:, t], state)
            outputs.append(y[:, None])
    assert_near(torch.cat(outputs, dim=1), want)


def test_bidirectional_is_one_network_for_each_direction():
    both, past, future = (
        build("tcn", bidirectional=True, plain=True),
        build("tcn", plain=True),
        build("tcn", plain=True),
    )
    with torch.no_grad():
        past.weight.copy_(both.weight[:1])
        future.weight.copy_(both.weight[1:])
    x = torch.randn(2, 30, 4, dtype=torch.float64)
    assert_near(both(x), past(x) + future(x.flip(1)).flip(1))


def test_the_network_alone_crosses_the_borders_of_chunks():
    mixer = build("tcnca", kernel_size=2, levels=2, attention_chunk_size=8)
    with torch.no_grad():
        for linear in (mixer.v_proj, mixer.mx_proj, mixer.h_proj):
            linear.weight.mul_(30)
    x = torch.randn(1, 24, 4, dtype=torch.float64)
    changed = x.clone()
    changed[:, 5, 0] += 1
    differs = ((mixer(changed) - mixer(x)).abs().amax((0, 2)) > 0).nonzero().flatten().tolist()
    # Its own chunk sees it by attention; the tokens after the border as far as the network reaches, and from there
    # on by attention to those.
    assert differs == list(range(5, 16))


def test_the_stripped_variant_is_its_equation():
    mixer = build("tcnca", kernel_size=3, levels=2, stripped=True, attention_chunk_size=None, position_bias="rotary")
    x = torch.randn(2, 15, 4, dtype=torch.float64)
    normed = torch.nn.functional.layer_norm(x, (4,))
    z = mixer.mx_proj(mixer.memory(normed))
    q, k = (z * mixer.qk_scale[i] + mixer.qk_shift[i] for i in range(2))
    index = torch.arange(15)
    half = index[:, None] * 10000.0 ** -(torch.arange(1, dtype=torch.float64))

    def turned(vector):
        first, second = vector.chunk(2)
        return torch.cat([first * half.cos() - second * half.sin(), second * half.cos() + first * half.sin()], dim=-1)

    assert len(mixer.rel_pos_bias.query) == 4 // 2
    scores = q @ k.transpose(1, 2) / 2**0.5 + turned(mixer.rel_pos_bias.query) @ turned(mixer.rel_pos_bias.key).T
    weights = scores.masked_fill(index > index[:, None], -torch.inf).softmax(-1)
    assert_near(mixer(x), x + mixer.h_proj(weights @ mixer.v_proj(normed)))
    assert mixer.memory.skip is None


def test_gates_and_attention_are_those_of_mega():
    torch.manual_seed(0)
    tcnca = create_mixer("tcnca", 4, kernel_size=2, levels=1, attention_chunk_size=5)
    mega = create_mixer("mega", 4, d_state=1, attention_chunk_size=5)
    shared = [name for name in mega.state_dict() if "memory" not in name]
    assert shared == [name for name in tcnca.state_dict() if "memory" not in name]


def test_errors_say_what_to_do():
    cases = {
        r"dilation=5 for kernel_size=3.*reach none.*lower dilation": {"kernel_size": 3, "dilation": 5},
        r"kernel_size=1.*at least 2": {"kernel_size": 1},
        r"levels=0.*correct the sizes": {"levels": 0},
        r"inner_activation 'sigmoid'.*one of relu, silu, tanh": {"inner_activation": "sigmoid"},
        r"option 'kernel_sise'.*did you mean 'kernel_size'": {"kernel_sise": 3},
    }
    for pattern, options in cases.items():
        for name in ("tcn", "tcnca"):
            with pytest.raises(ValueError, match=pattern):
                create_mixer(name, 8, **options)
    assert create_mixer("tcn", 8, kernel_size=3, dilation=5, levels=1).receptive_field == 3
