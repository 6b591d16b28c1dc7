"""Blocks and backbones: their equations, their identities, and every error."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from seqconv.backbone import Backbone
from seqconv.blocks import Block, BlockState
from seqconv.build import build_backbone, build_block
from seqconv.layers.channel_mix import CHANNEL_MIXES, create_channel_mix
from seqconv.layers.mlp import GATED, MLP, PLAIN
from seqconv.layers.norms import NORMS, create_norm
from seqconv.layers.residual import RESIDUALS, Dropout, DropPath, create_residual
from seqconv.types import LayerContext
from small_mixers import CumulativeSum, GatedSum, SharedValueSum, SumState

PER_TOKEN = ["layer", "layer_scalar", "rms", "scale", "batch", "none"]


def tokens(batch=2, length=9, d_model=6):
    torch.manual_seed(0)
    return torch.randn(batch, length, d_model, dtype=torch.float64)


def backbone(**options):
    torch.manual_seed(1)
    blocks = [Block(CumulativeSum(6), layer=LayerContext(i, 3), **options) for i in range(3)]
    made = Backbone(blocks, norm="rms").double()
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.5)
    return made


@pytest.mark.parametrize("name", PER_TOKEN)
def test_norm_is_of_each_token_alone(name):
    norm, x = create_norm(name, 6).double().eval(), tokens()
    assert norm.per_token
    torch.testing.assert_close(norm(x[:, 4]), norm(x)[:, 4])


def test_norms_against_torch():
    x = tokens()
    want = {
        "layer": nn.LayerNorm(6).double()(x),
        "layer_scalar": (x - x.mean(-1, keepdim=True)) / x.std(-1, correction=0, keepdim=True),
        "rms": nn.RMSNorm(6, eps=1e-5).double()(x),
        "scale": x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt(),
        "batch": nn.BatchNorm1d(6).double()(x.mT).mT,
        "instance": nn.InstanceNorm1d(6).double()(x.mT).mT,
        "group": nn.GroupNorm(1, 6).double()(x.mT).mT,
        "prep_batch": nn.LayerNorm(6).double()(x),  # at the beginning of training
        "none": x,
    }
    assert set(want) == set(NORMS)
    for name, value in want.items():
        torch.testing.assert_close(create_norm(name, 6).double()(x), value, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("name", list(NORMS))
def test_norm_leaves_padding_out(name):
    x, mask = tokens(1), torch.ones(1, 9, dtype=torch.bool)
    mask[:, :4] = False
    norm = create_norm(name, 6).double().train()
    torch.testing.assert_close(norm(x, mask)[:, 4:], create_norm(name, 6).double().train()(x[:, 4:]))


def test_unmasked_batch_norm_counts_padding():
    x, mask = tokens(1), torch.ones(1, 9, dtype=torch.bool)
    mask[:, :4] = False
    norm = create_norm("batch", 6, masked=False).double().train()
    torch.testing.assert_close(norm(x, mask), nn.BatchNorm1d(6).double()(x.mT).mT)


def test_group_norm_with_groups():
    x = tokens()
    torch.testing.assert_close(create_norm("group", 6, groups=3).double()(x), nn.GroupNorm(3, 6).double()(x.mT).mT)


def test_residuals():
    x, y = tokens(), tokens().flip(0)
    close = torch.testing.assert_close
    close(create_residual("sum", 6, alpha=0.5, beta=2.0)(x, y), 0.5 * x + 2 * y)
    close(create_residual("none", 6)(x, y), y)
    layer_scale = create_residual("affine", 6, beta=1e-2, per_channel=True).double()
    assert layer_scale.weight.shape == (6,)
    close(layer_scale(x, y), x + 1e-2 * y, rtol=1e-6, atol=1e-6)
    close(create_residual("affine", 6, depth=4, power=0.5).double()(x, y), x + 0.5 * y)
    close(create_residual("decay", 6, depth=4)(x, y), 0.75**0.5 * x + 0.5 * y)
    close(create_residual("decay", 6, depth=4, l2=False)(x, y), 0.5 * x + 0.5 * y)
    for elementwise in (True, False):
        highway = create_residual("highway", 6, elementwise=elementwise, scaling=1.5).double()
        wy = y * highway.layer.weight if elementwise else highway.layer(y)
        r = torch.sigmoid(highway.stream(x) + wy)
        close(highway(x, y), 1.5 * (1 - r) * x + r * wy)


def test_dropout_kinds():
    torch.manual_seed(0)
    ones = torch.ones(50, 7, 40)
    tied, path = Dropout(0.5, tied=True)(ones), DropPath(0.25)(ones)
    assert (tied == tied[:, :1]).all()
    assert set(tied.unique().tolist()) == {0.0, 2.0}
    assert (path == path[:, :1, :1]).all()
    assert abs(float((path == 0).float().mean()) - 0.25) < 0.2
    assert Dropout(0.5).eval()(ones) is ones


@pytest.mark.parametrize("kind", [*PLAIN, *GATED])
def test_mlp_is_its_equation(kind):
    mlp, x = MLP(6, kind=kind, hidden=5).double(), tokens()
    up = mlp.up(x)
    hidden = PLAIN[kind](up) if kind in PLAIN else GATED[kind](up[..., :5]) * up[..., 5:]
    torch.testing.assert_close(mlp(x), mlp.down(hidden))


def channel_mix(kind="rwkv7", **options):
    torch.manual_seed(2)
    made = create_channel_mix(kind, 6, hidden=5, **options).double().eval()
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.5)
    return made


def test_rwkv7_channel_mix_is_its_equation():
    mix, x = channel_mix(), tokens()
    before = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1)
    k = torch.relu((x + mix.x_k * (before - x)) @ mix.key.weight.mT) ** 2
    torch.testing.assert_close(mix(x), k @ mix.value.weight.mT)


def test_rwkv7_channel_mix_starts_as_in_the_original():
    for index, power in ((0, 1.0), (1, 0.5**4)):
        mix = create_channel_mix("rwkv7", 6, hidden=5, layer=LayerContext(index, 2))
        torch.testing.assert_close(mix.x_k.detach(), 1 - (torch.arange(6) / 6) ** power)
        assert not mix.value.weight.any()
        assert 0.15 < mix.key.weight.abs().max() < 0.5 * 6**-0.5
        assert [name for name, _ in mix.named_parameters()] == ["x_k", "key.weight", "value.weight"]


@pytest.mark.parametrize("kind", CHANNEL_MIXES)
def test_a_channel_mix_with_a_state_keeps_the_contract_of_mixers(kind):
    mix, x = channel_mix(kind), tokens(2, 9)
    want = mix(x)
    first, state = mix.prefill(x[:, :4])
    outputs = [first]
    for t in range(4, 9):
        y_t, state = mix.step(x[:, t], state)
        outputs.append(y_t[:, None])
    torch.testing.assert_close(torch.cat(outputs, 1), want)
    cu_seqlens = torch.tensor([0, 1, 9])
    torch.testing.assert_close(mix(x[:1], cu_seqlens=cu_seqlens), torch.cat([mix(x[:1, :1]), mix(x[:1, 1:])], 1))
    mask = torch.tensor([[False] * 3 + [True] * 6])
    y, state = mix.prefill(x[:1].masked_fill(~mask[..., None], 7.0), mask=mask)
    torch.testing.assert_close(y[:, 3:], mix(x[:1, 3:]))
    torch.testing.assert_close(mix.step(x[:1, 0], state)[0], mix(torch.cat([x[:1, 3:], x[:1, :1]], 1))[:, -1])


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", CHANNEL_MIXES)
def test_padding_and_packing_of_a_backbone_with_stateful_channel_mixes(kind, side):
    model, x = backbone(mlp=kind).eval(), tokens(1)
    mask = torch.tensor([[False] * 3 + [True] * 9])
    filler = torch.full((1, 3, 6), 7.0, dtype=x.dtype)
    padded = torch.cat([filler, x], 1)
    if side == "right":
        mask, padded = mask.flip(1), torch.cat([x, filler], 1)
    torch.testing.assert_close(model(padded, mask=mask)[mask][None], model(x))
    packed = model(x, cu_seqlens=torch.tensor([0, 4, 9]))
    torch.testing.assert_close(packed, torch.cat([model(x[:, :4]), model(x[:, 4:])], 1))


def test_a_block_carries_both_states():
    block, x = Block(CumulativeSum(6), mlp="rwkv7").double().eval(), tokens()
    _, state = block.prefill(x)
    assert (type(state.mixer).__name__, type(state.mlp).__name__) == ("SumState", "TokenShiftState")
    assert (block.causal, block.state_kind) == (True, "constant")
    assert type(block.init_state(2).mlp) is type(state.mlp)
    alone = Block(None, d_model=6, mlp="rwkv7").double()
    y, state = alone.prefill(x)
    torch.testing.assert_close(y, alone(x))
    assert state.mixer is None


def sharing_backbone():
    """A layer that shares nothing, two that share the first one's values, and the second again."""
    torch.manual_seed(1)
    mixers = [CumulativeSum(6), SharedValueSum(6), SharedValueSum(6), CumulativeSum(6), SharedValueSum(6)]
    made = Backbone([Block(mixer, mlp="gelu") for mixer in mixers]).double()
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.5)
    return made.eval()


def test_shared_values_are_those_of_the_first_layer_that_has_them():
    model, x = sharing_backbone(), tokens()
    assert model.shares_values
    x = model.blocks[0](x)
    shared = {}
    y, shared = model.blocks[1](x, shared=shared)
    first = model.blocks[1].mixer.weight * model.blocks[1].mixer_norm(x)
    torch.testing.assert_close(shared["value"], first)
    z, after = model.blocks[2](y, shared=shared)
    assert not after, "the block set none"
    inner = model.blocks[2].mixer.weight * model.blocks[2].mixer_norm(y)
    mixed = y + (inner + first).cumsum(1)
    torch.testing.assert_close(z, mixed + model.blocks[2].mlp(model.blocks[2].mlp_norm(mixed)))


def test_shared_values_agree_in_every_form():
    model, x = sharing_backbone(), tokens()
    want = model(x)
    first, state = model.prefill(x[:, :4])
    outputs = [first]
    for t in range(4, 9):
        y_t, state = model.step(x[:, t], state)
        outputs.append(y_t[:, None])
    torch.testing.assert_close(torch.cat(outputs, 1), want)
    packed = model(x[:1], cu_seqlens=torch.tensor([0, 4, 9]))
    torch.testing.assert_close(packed, torch.cat([model(x[:1, :4]), model(x[:1, 4:])], 1))
    mask = torch.tensor([[False] * 3 + [True] * 9])
    padded = torch.cat([torch.full((1, 3, 6), 7.0, dtype=x.dtype), x[:1]], 1)
    torch.testing.assert_close(model(padded, mask=mask)[:, 3:], want[:1])
    torch.testing.assert_close(model.prefill(padded, mask=mask)[0][:, 3:], want[:1])


def gradients(model, x, state=None):
    """Of the input and of the parameters, by a backward pass as trainers run it."""
    model.zero_grad()
    x = x.detach().requires_grad_()
    (model(x) if state is None else model(x, state)[0]).square().sum().backward()
    return [x.grad, *(p.grad.clone() for p in model.parameters())]


@pytest.mark.parametrize("reentrant", [None, False, True])
def test_gradients_of_shared_values_survive_checkpointing(reentrant):
    model, x = sharing_backbone().train(), tokens()
    want = gradients(model, x)
    model.gradient_checkpointing = True
    if reentrant is not None:  # as transformers sets it
        model._gradient_checkpointing_func = partial(checkpoint, use_reentrant=reentrant)
    torch.testing.assert_close(gradients(model, x), want)


def test_gradients_of_states_survive_reentrant_checkpointing():
    model, x = backbone().train(), tokens()

    def two_chunks():
        return gradients(model, x[:, 4:], model.prefill(x[:, :4])[1])

    want = two_chunks()
    model.gradient_checkpointing = True
    model._gradient_checkpointing_func = partial(checkpoint, use_reentrant=True)
    torch.testing.assert_close(two_chunks(), want)


@pytest.mark.parametrize("placement", ["pre", "post"])
def test_block_is_its_equation(placement):
    x = tokens()
    block = Block(CumulativeSum(6), norm_placement=placement, mlp="gelu", norm="rms").double()
    one, two = block.mixer_norm, block.mlp_norm
    if placement == "pre":
        h = x + block.mixer(one(x))
        want = h + block.mlp(two(h))
    else:
        h = one(x + block.mixer(x))
        want = two(h + block.mlp(h))
    torch.testing.assert_close(block(x), want)


def test_mixer_with_its_own_residual():
    x = tokens()
    block = Block(GatedSum(6), norm="scale", mlp="relu", mlp_hidden=5, dropout=0.5).double().eval()
    y = block.mixer(x)
    torch.testing.assert_close(block(x), y + block.mlp(block.mlp_norm(y)))
    assert [n for n, _ in block.named_parameters() if n.startswith(("mixer_", "mlp_"))] == ["mlp_norm.weight"]


@pytest.mark.parametrize(
    "options",
    [{"norm": n, "mlp": "swiglu", "norm_placement": p} for n in PER_TOKEN for p in ("pre", "post")]
    + [{"residual": r, "mlp": "gelu"} for r in RESIDUALS]
    + [{"mlp": kind, "mlp_bias": bias} for kind in CHANNEL_MIXES for bias in (None, True)],
    ids=lambda o: "-".join(map(str, o.values())),
)
def test_forward_prefill_and_steps_agree(options):
    model, x = backbone(**options).eval(), tokens()
    want = model(x)
    whole, _ = model.prefill(x)
    first, state = model.prefill(x[:, :4])
    outputs = [first]
    for t in range(4, 9):
        y_t, state = model.step(x[:, t], state)
        outputs.append(y_t[:, None])
    torch.testing.assert_close(whole, want)
    torch.testing.assert_close(torch.cat(outputs, 1), want)


def test_hooks_of_blocks_mixers_and_networks_fire_in_every_form():
    model, x, fired = backbone(mlp="gelu").eval(), tokens(), []
    parts = {"": model, "block": model.blocks[1], "mixer": model.blocks[1].mixer, "norm": model.blocks[1].mixer_norm}
    for name, part in (parts | {"mlp": model.blocks[1].mlp}).items():
        part.register_forward_hook(lambda module, args, output, name=name: fired.append(name))
    inside = ["norm", "mixer", "mlp", "block", ""]
    model(x)
    _, state = model.prefill(x)
    for t in range(2):
        _, state = model.step(x[:, t], state)
    assert fired == inside * 4


def test_a_step_without_a_state_starts_from_the_initial_one():
    model, x = backbone(mlp="gelu").eval(), tokens()
    for part in (model, model.blocks[0]):
        first, state = part.step(x[:, 0])
        torch.testing.assert_close(torch.stack([first, part.step(x[:, 1], state)[0]], 1), part(x[:, :2]))


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(side):
    model, x = backbone(norm="batch", mlp="gelu", norm_placement="post").train(), tokens(1)
    want = model(x)
    filler = torch.full((1, 3, 6), float("nan"), dtype=x.dtype)
    mask = torch.tensor([[False] * 3 + [True] * 9])
    padded = torch.cat([filler, x], 1)
    if side == "right":
        mask, padded = mask.flip(1), torch.cat([x, filler], 1)
    y = backbone(norm="batch", mlp="gelu", norm_placement="post").train()(padded.nan_to_num(), mask=mask)
    torch.testing.assert_close(y[mask][None], want)
    assert not y[~mask].any()


def test_packed_sequences_are_separate():
    model, x = backbone(mlp="gelu").eval(), tokens(1)
    y = model(x, cu_seqlens=torch.tensor([0, 4, 9]))
    torch.testing.assert_close(y, torch.cat([model(x[:, :4]), model(x[:, 4:])], 1))


def test_gradient_checkpointing_gives_the_same_gradients():
    x = tokens().requires_grad_()
    model = backbone(mlp="gelu").train()
    mask = torch.ones(2, 9, dtype=torch.bool)
    want = torch.autograd.grad(model(x, mask=mask).square().sum(), [x, *model.parameters()])
    model.gradient_checkpointing = True
    got = torch.autograd.grad(model(x, mask=mask).square().sum(), [x, *model.parameters()])
    torch.testing.assert_close(got, want)


def test_hidden_states_are_inputs_of_blocks_and_the_output():
    model, x = backbone().eval(), tokens()
    y, seen = model(x, output_hidden_states=True)
    assert len(seen) == 4
    torch.testing.assert_close(seen[0], x)
    torch.testing.assert_close(seen[1], model.blocks[0](x))
    torch.testing.assert_close(seen[-1], y)


def test_state_selects_rows():
    model, x = backbone().eval(), tokens(3)
    _, state = model.prefill(x)
    y, _ = model.step(x[[2, 0], 0], state.select(torch.tensor([2, 0])))
    want, _ = model.step(x[:, 0], model.prefill(x)[1])
    torch.testing.assert_close(y, want[[2, 0]])


def test_mlp_layers_alone_and_patterns():
    pattern = ["none", {"mixer": "none", "mlp": "relu", "mlp_hidden": 3, "norm": "rms"}]
    model = build_backbone(6, 3, pattern, mlp="gelu", drop_path=0.2)
    assert [b.mlp.kind for b in model.blocks] == ["gelu", "relu", "gelu"]
    assert [b.drop_path.p for b in model.blocks] == pytest.approx([0, 0.1, 0.2])
    assert model.blocks[1].mlp.up.out_features == 3
    x = tokens().float()
    y, state = model.eval().prefill(x[:, :5])
    torch.testing.assert_close(y, model(x)[:, :5])
    assert state.layers == (BlockState(None),) * 3
    constant = build_backbone(6, 2, ["none"], mlp="gelu", drop_path=0.2, drop_path_schedule="constant")
    assert [b.drop_path.p for b in constant.blocks] == [0.2, 0.2]


def test_final_norm_follows_the_placement():
    for placement, name in (("pre", "RMSNorm"), ("post", "NoNorm")):
        model = build_backbone(6, 1, ["none"], mlp="gelu", norm="rms", norm_placement=placement)
        assert type(model.norm).__name__ == name
    assert type(build_backbone(6, 1, ["none"], mlp="gelu", final_norm=False).norm).__name__ == "NoNorm"
    model = build_backbone(6, 1, ["none"], mlp="gelu", norm_options={"eps": 0.5}, final_norm_options={"eps": 0.25})
    assert (model.layers[0].mlp_norm.eps, model.norm.eps) == (0.5, 0.25)


def test_norms_over_the_length_have_no_state():
    block = Block(CumulativeSum(6), norm="instance")
    assert (block.causal, block.state_kind) == (False, "none")
    with pytest.raises(ValueError, match=r"a norm with statistics over the length.*Remedy: take norm='layer'"):
        block.init_state(1)
    with pytest.raises(ValueError, match=r"cu_seqlens with a norm over the length.*Remedy: take norm='layer'"):
        block(tokens(1).float(), cu_seqlens=torch.tensor([0, 9]))
    with pytest.raises(ValueError, match=r"layers \[0\] that are not causal.*Remedy: build every layer causal"):
        Backbone([block]).init_state(1)
    with pytest.raises(ValueError, match=r"a final norm with statistics over the length"):
        Backbone([Block(CumulativeSum(6))], norm="group").init_state(1)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: create_norm("layr", 6), r"norm 'layr'.*did you mean 'layer'"),
        (lambda: create_norm("rms", 6, epsilon=1.0), r"option 'epsilon'.*did you mean 'eps'"),
        (lambda: create_norm("group", 6, groups=4), r"groups=4; wanted a divisor of d_model=6"),
        (lambda: create_residual("some", 6), r"residual 'some'.*did you mean 'sum'"),
        (lambda: create_residual("sum", 6, alfa=1.0), r"option 'alfa'.*did you mean 'alpha'"),
        (lambda: Dropout(1.5), r"dropout: received 1.5; wanted a probability in \[0, 1\)"),
        (lambda: DropPath(float("nan")), r"drop_path: received nan"),
        (lambda: MLP(6, kind="swigl", hidden=2), r"kind 'swigl'.*did you mean 'swiglu'"),
        (lambda: MLP(6, hidden=0), r"hidden=0; wanted at least 1"),
        (lambda: create_channel_mix("rwk7", 6, hidden=2), r"mlp 'rwk7'.*did you mean 'rwkv7'"),
        (lambda: create_channel_mix("rwkv7", 6, hidden=0), r"hidden=0; wanted at least 1"),
        (lambda: Block(None), r"no mixer, d_model=None and mlp='none'"),
        (lambda: Block(CumulativeSum(6), d_model=5), r"d_model=5 for a mixer of 6"),
        (lambda: Block(CumulativeSum(6), norm_placement="before"), r"norm_placement 'before'"),
        (lambda: Backbone([]), r"wanted at least one block"),
        (lambda: Backbone([Block(CumulativeSum(6)), Block(CumulativeSum(5))]), r"widths \[6, 5\]"),
        (lambda: build_backbone(6, 0, ["none"]), r"n_layers=0"),
        (lambda: build_backbone(6, 1, ["none"], mlp="gelu", drop_path_schedule="linea"), r"did you mean 'linear'"),
        (lambda: build_block(6, "none", mpl="gelu"), r"option 'mpl'.*did you mean 'mlp'"),
        (lambda: build_block(6, ("none", 3)), r"wanted a mixer name, \(name, options\), or a mapping"),
        (lambda: build_block(6, "atention"), r"mixer 'atention'"),
    ],
)
def test_errors(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_a_state_of_another_backbone_raises():
    x, model = tokens(), backbone()
    with pytest.raises(ValueError, match=r"2 layer states; wanted a BackboneState of 3 layers"):
        model.prefill(x, Backbone([Block(CumulativeSum(6)) for _ in range(2)]).double().init_state(2))
    with pytest.raises(ValueError, match=r"received SumState"):
        model.prefill(x, SumState(torch.zeros(2, 6)))
