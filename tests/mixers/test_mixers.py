"""What holds for every registered mixer: a new mixer is tested by registering it."""

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.initialization import meta_device_safe_creation_ops

from mixer_cases import (
    BATCH,
    BIDIRECTIONAL,
    D_MODEL,
    LENGTH,
    build,
    causal,
    each_causal_default,
    each_default,
    each_name,
    each_representative,
    every,
    inputs,
    label,
    run_in_pieces,
)
from seqconv import Mixer, create_mixer
from seqconv.state import InitialState
from tolerances import RELATIVE, assert_near


@every
def test_output_has_the_shape_and_dtype_of_the_input(case):
    mixer = build(case)
    for dtype in (torch.float64, torch.bfloat16, torch.float32):  # straight from the widest to the narrowest
        y = mixer.to(dtype)(inputs(5, dtype=dtype))
        assert y.shape == (BATCH, 5, D_MODEL)
        assert y.dtype == dtype
        assert y.isfinite().all()


@each_causal_default
def test_a_state_in_another_dtype_continues_the_sequence(case):
    mixer, x = build(case, torch.float32), inputs(dtype=torch.float32)
    y, state = mixer.prefill(x[:, :20])
    want, _ = mixer.step(x[:, 20], state.clone())
    exact, _ = mixer.step(x[:, 20], state.clone().to(torch.float64).to(torch.float32))
    torch.testing.assert_close(exact, want, rtol=0, atol=0)
    rounded, _ = mixer.step(x[:, 20], state.to(torch.bfloat16))
    assert rounded.dtype == y.dtype
    assert_near(rounded.to(torch.bfloat16), want)


@each_default
def test_autocast_takes_wide_and_narrow_inputs(case):
    mixer, x = build(case, torch.float32), inputs(dtype=torch.float32)
    want = mixer(x)
    with torch.autocast("cpu", torch.bfloat16):
        for dtype in (torch.float32, torch.bfloat16):
            y = mixer(x.to(dtype))
            assert (y - want).norm() < RELATIVE[torch.bfloat16] * want.norm()
            if mixer.causal:
                _, state = mixer.prefill(x[:, :20].to(dtype))
                y_t, _ = mixer.step(x[:, 20].to(dtype), state)
                assert (y_t - want[:, 20]).norm() < RELATIVE[torch.bfloat16] * want[:, 20].norm()
    y.float().square().sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in mixer.parameters())


@causal
def test_forward_equals_prefill_equals_steps(case):
    mixer, x = build(case), inputs(65)
    state, outputs = mixer.init_state(BATCH), []
    for t in range(x.shape[1]):
        y, state = mixer.step(x[:, t], state)
        outputs.append(y)
    steps = torch.stack(outputs, dim=1)
    for length in (1, 2, LENGTH, 65):
        want = mixer(x[:, :length])
        assert_near(mixer.prefill(x[:, :length])[0], want, what=f"prefill of {length} tokens")
        assert_near(steps[:, :length], want, what=f"{length} steps")


@causal
def test_any_split_gives_the_same_result(case):
    mixer, x = build(case), inputs()
    want = mixer(x)
    for cuts in ([1], [36], [16], [5, 6, 7, 20], [3, 19, 32], [8, 16, 24, 32]):
        assert_near(run_in_pieces(mixer, x, cuts)[0], want, what=f"split at {cuts}")


@causal
def test_no_output_depends_on_a_later_input(case):
    mixer, x = build(case), inputs()
    changed = x.clone()
    changed[:, 20:, ::2] += 1
    assert_near(mixer(changed)[:, :20], mixer(x)[:, :20], what="outputs before the change")


@every
def test_outputs_depend_on_inputs_before(case):
    mixer, x = build(case), inputs()
    changed = x.clone()
    changed[:, 17, ::2] += 1
    difference = (mixer(changed) - mixer(x)).abs().amax((0, 2))
    assert (difference[18:21] > 1e-9).any(), "no sequence mixing"


@every
def test_padding_changes_nothing(case):
    mixer, lengths = build(case), (LENGTH, 11)
    x = inputs()
    alone = [mixer(x[i : i + 1, :n]) for i, n in enumerate(lengths)]
    for side in ("right", "left"):
        padded, mask = torch.full_like(x, 7.0), torch.zeros(BATCH, LENGTH, dtype=torch.bool)
        for i, n in enumerate(lengths):
            where = slice(0, n) if side == "right" else slice(LENGTH - n, LENGTH)
            padded[i, where], mask[i, where] = x[i, :n], True
        y = mixer(padded, mask=mask)
        for i in range(BATCH):
            assert_near(y[i : i + 1, mask[i]], alone[i], what=f"{side} padding, row {i}")
        assert (y[~mask] == 0).all()


@causal
def test_generation_after_left_padding_equals_generation_without(case):
    mixer, x, lengths, prompt = build(case), inputs(), (20, 7), 20
    padded, mask = torch.full_like(x[:, :prompt], 7.0), torch.zeros(BATCH, prompt, dtype=torch.bool)
    for i, n in enumerate(lengths):
        padded[i, prompt - n :], mask[i, prompt - n :] = x[i, :n], True
    y, state = mixer.prefill(padded, mask=mask)
    more, state = mixer.prefill(inputs(3), state)
    last, _ = mixer.step(inputs(1)[:, 0], state)
    for i, n in enumerate(lengths):
        whole = torch.cat([x[i, :n], inputs(3)[i], inputs(1)[i]])[None]
        want = mixer(whole)
        got = torch.cat([y[i, prompt - n :], more[i], last[i : i + 1]])[None]
        assert_near(got, want, what=f"row {i}")


@causal
def test_left_padding_in_the_first_of_two_chunks(case):
    """A row whose tokens only start in the second chunk."""
    mixer, x = build(case), inputs(12)
    mask = torch.ones(BATCH, 12, dtype=torch.bool)
    mask[0, :9] = False
    first, state = mixer.prefill(x[:, :6], mask=mask[:, :6])
    second, _ = mixer.prefill(x[:, 6:], state, mask=mask[:, 6:])
    got = torch.cat([first, second], dim=1)
    assert_near(got[:1, 9:], mixer(x[:1, 9:]), what="late row")
    assert_near(got[1:], mixer(x[1:]), what="full row")


@every
def test_packed_equals_separate(case):
    mixer, x = build(case), inputs(30, batch=1)
    cu_seqlens = torch.tensor([0, 1, 12, 30])
    want = torch.cat([mixer(x[:, a:b]) for a, b in ((0, 1), (1, 12), (12, 30))], dim=1)
    assert_near(mixer(x, cu_seqlens=cu_seqlens), want)


@causal
def test_gradients_through_a_split_equal_those_of_the_whole(case):
    mixer, x = build(case), inputs(20)
    weight = torch.randn(BATCH, 20, D_MODEL, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def gradients(split: bool) -> list[Tensor]:
        leaf = x.clone().requires_grad_()
        y = run_in_pieces(mixer, leaf, [7, 8, 15])[0] if split else mixer(leaf)
        leaves = [leaf, *mixer.parameters()]
        found = torch.autograd.grad((y * weight).sum(), leaves, allow_unused=True)
        return [torch.zeros_like(a) if g is None else g for a, g in zip(leaves, found, strict=True)]

    names = ["x", *dict(mixer.named_parameters())]
    for name, got, want in zip(names, gradients(True), gradients(False), strict=True):
        assert_near(got, want, what=f"gradient of {name}")


@each_causal_default
def test_forward_hooks_fire_in_every_form(case):
    """Code that is hooked to a module (sharding, offloading, adapters, probes) sees training and decoding alike."""
    mixer, x, seen = build(case), inputs(6), []
    mixer.register_forward_pre_hook(lambda module, args: seen.append(("before", args[0].dim())))
    mixer.register_forward_hook(lambda module, args, output: seen.append(("after", type(output))))
    mixer(x)
    _, state = mixer.prefill(x)
    for t in range(3):
        _, state = mixer.step(x[:, t], state)
    step = [("before", 2), ("after", tuple)]
    assert seen == [("before", 3), ("after", Tensor), ("before", 3), ("after", tuple), *step * 3]
    mixer.register_forward_hook(lambda module, args, output: (2 * output[0], output[1]))
    doubled, _ = mixer.prefill(x)
    assert_near(doubled, 2 * build(case)(x), what="a hook that changes outputs")


@each_causal_default
def test_a_step_without_a_state_starts_from_the_initial_one(case):
    mixer, x = build(case), inputs(2)
    first, state = mixer.step(x[:, 0])
    second, _ = mixer.step(x[:, 1], state)
    assert_near(torch.stack([first, second], 1), mixer(x))
    first, state = mixer(x[:, :1], InitialState(max_length=2))
    second, _ = mixer(x[:, 1], state)
    assert_near(torch.stack([first[:, 0], second], 1), mixer(x))


@every
def test_every_parameter_is_trained(case):
    mixer = build(case)
    (mixer(inputs()) ** 2).sum().backward()
    idle = [n for n, p in mixer.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert idle == []


@every
def test_bfloat16_and_float32_are_close_to_float64(case):
    mixer, x = build(case), inputs()
    want = mixer(x)
    for dtype in (torch.float32, torch.bfloat16):
        assert_near(copy.deepcopy(mixer).to(dtype)(x.to(dtype)), want, what=str(dtype))


@each_default
def test_save_and_load(case, tmp_path):
    mixer, x = build(case), inputs()
    save_file({k: v.contiguous().clone() for k, v in mixer.state_dict().items()}, tmp_path / "mixer.safetensors")
    torch.manual_seed(1)
    fresh = create_mixer(case[0], D_MODEL, **case[1]).to(torch.float64).eval()
    fresh.load_state_dict(load_file(tmp_path / "mixer.safetensors"))
    torch.testing.assert_close(fresh(x), mixer(x), rtol=0, atol=0)
    torch.testing.assert_close(copy.deepcopy(mixer)(x), mixer(x), rtol=0, atol=0)


@each_default
def test_the_seed_alone_decides_the_initial_values(case):
    drawn = []
    for _ in range(2):
        torch.manual_seed(3)
        drawn.append(create_mixer(case[0], D_MODEL, **case[1]).state_dict())
    assert all(torch.equal(drawn[0][k], drawn[1][k]) for k in drawn[0])


@each_default
def test_strided_inputs_and_empty_batches(case):
    mixer, x = build(case), inputs()
    strided = x.transpose(0, 1).contiguous().transpose(0, 1)
    assert_near(mixer(strided), mixer(x))
    assert mixer(x[:0]).shape == (0, LENGTH, D_MODEL)


@each_representative
def test_compiles_without_graph_breaks(case, unannotated):
    mixer, x = build(case), inputs(9)
    torch.compiler.reset()
    compiled = torch.compile(mixer, fullgraph=True, backend="aot_eager")
    assert_near(compiled(x), mixer(x))


@each_causal_default
def test_state_can_be_reordered_copied_moved_and_detached(case):
    mixer, x = build(case), inputs()
    _, state = mixer.prefill(x[:, :20])
    want, _ = mixer.prefill(x[:, 20:], state.clone())
    order = torch.tensor([1, 0, 1])
    got, _ = mixer.prefill(x[order][:, 20:], state.clone().select(order))
    assert_near(got, want[order], what="reordered")
    assert state.repeat_interleave(2).batch_size == 2 * BATCH
    got, _ = mixer.prefill(x[:, 20:], state.detach().to(torch.device("cpu")))
    assert_near(got, want, what="detached")


@causal
def test_constant_states_do_not_grow(case):
    mixer, x = build(case), inputs(65)
    if mixer.state_kind == "constant":
        short, long = mixer.prefill(x[:, :2])[1], mixer.prefill(x)[1]
        assert short.sizes() == long.sizes()
        assert all(not leaf.growing for leaf in long._leaves())
    assert mixer.state_kind in ("constant", "window", "growing")


@causal
def test_a_known_longest_context_changes_nothing(case):
    mixer, x = build(case), inputs()
    y, _ = mixer.prefill(x, mixer.init_state(BATCH, max_length=LENGTH))
    assert_near(y, mixer(x))


@pytest.mark.parametrize("case", BIDIRECTIONAL, ids=label)
def test_bidirectional_mixers_see_both_sides_and_has_no_state(case):
    mixer, x = build(case), inputs()
    assert not mixer.causal
    assert mixer.state_kind == "none"
    changed = x.clone()
    changed[:, 17, ::2] += 1
    difference = (mixer(changed) - mixer(x)).abs().amax((0, 2))
    assert difference[14:17].max() > 1e-9
    assert difference[18:21].max() > 1e-9
    for use in (lambda: mixer.prefill(x), lambda: mixer.init_state(1)):
        with pytest.raises(ValueError, match=r"not causal.*causal mixer.*Remedy"):
            use()


@each_name
def test_shapes_are_known_on_the_meta_device(name, unannotated):
    mixer, x = build((name, {})).to("meta"), inputs().to("meta")
    y = mixer(x)
    assert y.is_meta
    assert y.shape == x.shape


@each_name
def test_bad_input_raises_with_a_remedy(name, unannotated):
    mixer = build((name, {}))
    x = inputs()
    cases = {
        r"x of shape \(37, 8\).*\(batch, length, d_model\).*Remedy": lambda: mixer(x[0]),
        r"x of shape \(2, 37, 7\).*d_model=8.*Remedy": lambda: mixer(x[..., :7]),
        r"a sequence of length 0.*Remedy": lambda: mixer(x[:, :0]),
        r"dtype torch.float16.*Remedy": lambda: mixer(x.half()),
        r"dtype torch.int64.*Remedy": lambda: mixer(x.long()),
        r"x on meta.*Remedy": lambda: mixer(x.to("meta")),
        r"hole.*Remedy": lambda: mixer(x, mask=torch.tensor([[1, 0] + [1] * 35] * 2).bool()),
        r"mask of shape \(2, 5\).*Remedy": lambda: mixer(x, mask=torch.ones(2, 5).bool()),
        r"mask of dtype.*Remedy": lambda: mixer(x, mask=torch.ones(2, 37)),
        r"a mask and cu_seqlens.*Remedy": lambda: mixer(
            x[:1], mask=torch.ones(1, 37).bool(), cu_seqlens=torch.tensor([0, 37])
        ),
        r"cu_seqlens=\[0, 5, 5, 37\].*Remedy": lambda: mixer(x[:1], cu_seqlens=torch.tensor([0, 5, 5, 37])),
        r"cu_seqlens=\[0, 5\].*Remedy": lambda: mixer(x[:1], cu_seqlens=torch.tensor([0, 5])),
        r"batch of 2.*Remedy": lambda: mixer(x, cu_seqlens=torch.tensor([0, 37])),
        r"a state and cu_seqlens.*Remedy": lambda: mixer(x[:1], InitialState(), cu_seqlens=torch.tensor([0, 37])),
    }
    for pattern, use in cases.items():
        with pytest.raises(ValueError, match=f"{name}.forward: received .*{pattern}"):
            use()


@each_causal_default
def test_a_state_of_another_batch_or_mixer_is_rejected(case, unannotated):
    mixer, x = build(case), inputs()
    _, state = mixer.prefill(x)
    with pytest.raises(ValueError, match=r"a state of 2 rows for 1 inputs.*select"):
        mixer.step(x[:1, 0], state)
    other = create_mixer(case[0], 2 * D_MODEL, **case[1]).to(torch.float64)
    with pytest.raises(ValueError, match=r"sizes .*Remedy: pass what this mixer's init_state"):
        mixer.step(x[:, 0], other.init_state(BATCH))
    with pytest.raises(ValueError, match=r"padding on the right.*left"):
        mixer.prefill(x, mask=torch.tensor([[True] * 36 + [False]] * 2))
    with pytest.raises(ValueError, match=r"step: received a mask for a single token.*Remedy"):
        mixer(x[:, 0], InitialState(), mask=torch.ones(BATCH, 1).bool())
    with pytest.raises(ValueError, match=r"prefill: received x of shape \(2, 8\).*Remedy"):
        mixer.prefill(x[:, 0])
    with pytest.raises(ValueError, match=r"step: received x of shape \(2, 37, 8\).*Remedy"):
        mixer.step(x)
    with pytest.raises(ValueError, match=r"batch_size=-1.*Remedy"):
        mixer.init_state(-1)


def test_unknown_names_and_options_name_the_nearest():
    with pytest.raises(ValueError, match=r"mixer 'hyna'.*did you mean 'hyena'"):
        create_mixer("hyna", 8)
    with pytest.raises(ValueError, match=r"option 'ordr'.*did you mean 'order'"):
        create_mixer("hyena", 8, ordr=3)
    with pytest.raises(ValueError, match=r"d_model=0.*Remedy"):
        create_mixer("hyena", 0)
    for bad in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"dropout=.*Remedy: correct the configuration"):
            create_mixer("s4d", 8, dropout=bad)


def tensors(mixer: Mixer) -> dict[str, Tensor]:
    return dict([*mixer.named_parameters(), *mixer.named_buffers()])


def reset(mixer: Mixer) -> None:
    """Fill parameters and buffers with what no initial value is, then give every module its own, children first."""
    mixer.to_empty(device="cpu")
    for tensor in tensors(mixer).values():
        tensor.data.fill_(float("nan") if tensor.is_floating_point() else 77)
    mixer.apply(lambda m: m.reset_parameters() if hasattr(m, "reset_parameters") else None)


@every
def test_what_is_built_on_the_meta_device_starts_as_what_is_built(case):
    """With one seed, and in the contexts in which transformers builds models to load them."""
    torch.manual_seed(5)
    want = create_mixer(case[0], D_MODEL, **case[1])
    with torch.device("meta"), meta_device_safe_creation_ops():
        made = create_mixer(case[0], D_MODEL, **case[1])
    assert all(tensor.is_meta for tensor in tensors(made).values())
    torch.manual_seed(5)
    reset(made)
    assert tensors(made).keys() == tensors(want).keys()
    for name, tensor in tensors(want).items():
        assert tensor.dtype == tensors(made)[name].dtype, name
        assert torch.equal(tensors(made)[name], tensor), name


@every
def test_a_mixer_built_in_half_precision_has_the_dtypes_of_one_that_was_converted(case):
    """What stays in float32 does not pass through half precision when a model is built or loaded in it."""
    want = create_mixer(case[0], D_MODEL, **case[1]).to(torch.bfloat16)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"), meta_device_safe_creation_ops():
            made = create_mixer(case[0], D_MODEL, **case[1])
    finally:
        torch.set_default_dtype(torch.float32)
    for name, tensor in tensors(want).items():
        assert tensor.dtype == tensors(made)[name].dtype, name
