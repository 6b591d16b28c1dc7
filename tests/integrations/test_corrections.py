"""Where transformers itself is wrong: seqconv is right, and transformers is seen to be wrong."""

import pytest
import torch
from safetensors.torch import load_file
from tiny_families import RELEASE, build, chunks, tokens
from transformers import AutoModelForCausalLM, DynamicCache

import seqconv
from golden_cases import GOLDEN
from tolerances import assert_near

pytestmark = pytest.mark.filterwarnings("default")  # transformers warns of its own deprecations


def wrong(got, want):
    """Farther away than rounding explains."""
    return (got - want).abs().max() > 1e-2 * want.abs().max()


@pytest.mark.parametrize("family", ["mamba", "falcon_mamba", "jamba", "zamba", "recurrent_gemma", "minimax"])
@torch.no_grad()
def test_a_prompt_in_two_chunks(family):
    if family == "recurrent_gemma" and RELEASE < (5, 23):
        pytest.skip("its layers are not given the cache")
    model, ids = build(family), tokens()
    mask = torch.ones_like(ids)
    want = model(ids, use_cache=False).logits
    assert wrong(chunks(model, ids, mask, (11, 10)), want)
    with seqconv.accelerate(model):
        assert_near(chunks(model, ids, mask, (11, 10)), want)


@pytest.mark.parametrize(
    ("family", "option"),
    [
        ("mamba", "use_bias"),
        ("mamba2", "use_bias"),
        ("bamba", "mamba_proj_bias"),
        ("lfm2", "conv_bias"),
        ("zaya", "attention_bias"),
    ],
)
@torch.no_grad()
def test_left_padding_after_a_biased_projection(family, option):
    model, ids = build(family, **{option: True}), tokens()
    for module in model.modules():
        for name in ("in_proj", "q_proj", "k_proj"):
            if getattr(getattr(module, name, None), "bias", None) is not None:
                getattr(module, name).bias.add_(0.5)
        if hasattr(module, "temp"):
            module.temp.add_(1)  # attention sees no keys at the scale 0 of its initialisation
    padded = torch.cat([torch.zeros_like(ids[:, :6]), ids], 1)
    mask = (padded > 0).long()
    want = model(ids, use_cache=False).logits
    assert wrong(model(padded, attention_mask=mask, use_cache=False).logits[:, 6:], want)
    with seqconv.accelerate(model):
        assert_near(model(padded, attention_mask=mask, use_cache=False).logits[:, 6:], want)
        if family != "lfm2":
            short = torch.cat([torch.zeros_like(ids[:, :6]), ids[:, :2]], 1)  # fewer real tokens than taps
            want = model.generate(ids[:, :2], max_new_tokens=6, do_sample=False)
            got = model.generate(short, attention_mask=(short > 0).long(), max_new_tokens=6, do_sample=False)
            assert torch.equal(got[:, 6:], want)


@pytest.mark.parametrize(
    ("family", "limits"),
    [
        ("mamba2", {"time_step_limit": (0.5, 0.6)}),
        ("bamba", {"time_step_limit": (0.5, 0.6)}),
        ("zamba2", {"time_step_min": 0.6}),
        ("nemotron_h", {"time_step_min": 0.6}),
    ],
)
@torch.no_grad()
def test_time_steps_are_clamped_in_single_steps_too(family, limits):
    model, ids = build(family, **limits), tokens(batch=1)
    mask = torch.ones_like(ids)
    want = model(ids, use_cache=False).logits
    assert wrong(chunks(model, ids, mask, (15, 1, 1, 1, 1, 1, 1)), want)
    with seqconv.accelerate(model):
        assert_near(chunks(model, ids, mask, (15, 1, 1, 1, 1, 1, 1)), want)


@torch.no_grad()
def test_a_step_of_several_rows_of_rwkv():
    model, ids = build("rwkv"), tokens()
    want = model(ids, use_cache=False).logits
    mask, lengths = torch.ones_like(ids), (18, 1, 1, 1)
    assert wrong(chunks(model, ids, mask, lengths)[:, : want.shape[1]], want)
    with seqconv.accelerate(model):
        assert_near(chunks(model, ids, mask, lengths), want)


def test_any_length_in_the_training_mode_of_xlstm_and_chunks_in_half_precision():
    model, ids = build("xlstm", mode="train", chunk_size=8), tokens()
    with pytest.raises(ValueError, match="not divisible by chunk size"):
        model(ids)
    whole = build("xlstm")(ids, use_cache=False).logits
    with seqconv.accelerate(model):
        assert_near(model(ids, use_cache=False).logits, whole)
    assert_near(build("xlstm", chunk_size=8)(ids, use_cache=False).logits, whole)
    half = build("xlstm", chunk_size=8, dtype=torch.bfloat16)
    with pytest.raises(RuntimeError, match="same dtype"):
        half(ids, use_cache=False)
    rounding = (build("xlstm", dtype=torch.bfloat16)(ids, use_cache=False).logits - whole).abs().mean()
    with seqconv.accelerate(half):
        assert (half(ids, use_cache=False).logits - whole).abs().mean() < 1.5 * rounding


@pytest.mark.parametrize("family", ["mamba", "falcon_mamba", "jamba"])
@torch.no_grad()
def test_what_wraps_the_projection_of_time_steps_acts(family):
    model, ids = build(family), tokens()
    plain = model(ids, use_cache=False).logits
    for module in model.modules():
        if hasattr(module, "dt_proj"):
            module.dt_proj = Adapted(module.dt_proj)
    assert torch.equal(model(ids, use_cache=False).logits, plain)
    with seqconv.accelerate(model):
        got = model(ids, use_cache=False).logits
        assert_near(chunks(model, ids, torch.ones_like(ids), (15, 5, 1)), got)
    for module in model.modules():
        if hasattr(module, "dt_proj"):
            adapted = module.dt_proj
            adapted.inner.weight += adapted.change
            module.dt_proj = adapted.inner
    assert wrong(got, plain)
    assert_near(got, model(ids, use_cache=False).logits)


def turns(model, rows, lengths, right):
    """Logits of each row, fed turn by turn: of both rows together, the shorter one padded."""
    recurrent = model.config.model_type in ("mamba", "mamba2")
    name, cache, mask, done = "cache_params" if recurrent else "past_key_values", None, rows[0].new_zeros(2, 0), [0, 0]
    found = [[], []]
    for pair in lengths:
        ids, positions, real = torch.zeros(3, 2, max(pair), dtype=torch.long)
        for row, length in enumerate(pair):
            place = slice(0, length) if right else slice(max(pair) - length, None)
            ids[row, place] = rows[row][done[row] : done[row] + length]
            positions[row, place], real[row, place] = torch.arange(done[row], done[row] + length), 1
        mask = torch.cat([mask, real], 1)
        given = {name: cache, "attention_mask": real if model.config.model_type == "mamba" else mask}
        out = model(ids, use_cache=True, **given, **({} if recurrent else {"position_ids": positions}))
        cache = getattr(out, name)
        for row, length in enumerate(pair):
            found[row].append(out.logits[row][real[row].bool()])
            done[row] += length
    return [torch.cat(logits) for logits in found]


@pytest.mark.parametrize("right", [False, True], ids=["left", "right"])
@pytest.mark.parametrize("family", ["mamba", "mamba2", "jamba", "qwen3_next", "lfm2", "zaya"])
@torch.no_grad()
def test_turns_of_several_rows_each_padded_by_itself(family, right):
    model, rows = build(family), [tokens(1, 19, seed=1)[0], tokens(1, 13, seed=2)[0]]
    lengths = ((9, 6), (7, 4), (2, 2), (1, 1))
    want = [model(ids[None], use_cache=False).logits[0] for ids in rows]
    assert wrong(turns(model, rows, lengths, right)[1], want[1])
    with seqconv.accelerate(model):
        for got, expected in zip(turns(model, rows, lengths, right), want, strict=True):
            assert_near(got, expected)


@torch.no_grad()
def test_prompts_of_recurrent_gemma_begin_empty_and_scoring_leaves_them():
    """transformers keeps the states in the layers, where another prompt finds them."""
    model, ids = build("recurrent_gemma"), tokens()
    whole, first = model(ids, use_cache=False).logits, ids[:, -1:]
    want = model(first, use_cache=False).logits

    def prompt(tokens):
        return model(tokens, use_cache=True, past_key_values=DynamicCache(config=model.config)).logits

    def decoded():
        cache = DynamicCache(config=model.config)
        found = []
        for t in range(21):
            place = {"position_ids": torch.tensor([[t], [t]]), "past_key_values": cache}
            found.append(model(ids[:, t, None], use_cache=True, **place).logits)
            model(ids.flip(1), use_cache=False)
        return torch.cat(found, 1)

    prompt(ids)
    assert wrong(prompt(first), want)
    assert wrong(decoded(), whole)
    with seqconv.accelerate(model):
        prompt(ids)
        assert_near(prompt(first), want)
        assert_near(decoded(), whole)


@pytest.mark.parametrize("family", ["mamba", "qwen3_next", "xlstm"])
def test_gradients_pass_from_a_chunk_into_the_one_before(family):
    model, ids = build(family).train(), tokens(1)
    name = "past_key_values" if family == "qwen3_next" else "cache_params"

    def gradients(logits):
        model.zero_grad()
        torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:]).backward()
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    want = gradients(model(ids, use_cache=False).logits)
    with seqconv.accelerate(model):
        first = model(ids[:, :12], use_cache=True)
        last = model(ids[:, 12:], use_cache=True, **{name: getattr(first, name)})
        got = gradients(torch.cat([first.logits, last.logits], 1))
    for parameter, gradient in want.items():
        assert_near(got[parameter], gradient, what=parameter)


class Adapted(torch.nn.Module):
    """A linear layer with a term added, as adapters add one; its weight is that of the layer inside."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.change = inner, 0.3 * torch.randn_like(inner.weight)

    weight = property(lambda self: self.inner.weight)
    bias = property(lambda self: self.inner.bias)

    def forward(self, x):
        return self.inner(x) + x @ self.change.mT


GOLDEN_CHECKPOINTS = [
    "hf_bamba", "hf_falcon_mamba", "hf_jamba", "hf_mamba", "hf_mamba2", "hf_nemotron_h", "hf_qwen3_next",
    "hf_recurrent_gemma", "hf_zamba2",
]  # fmt: skip


@pytest.mark.parametrize("name", GOLDEN_CHECKPOINTS)
@torch.no_grad()
def test_checkpoints_with_stored_numbers(name):
    if name in ("hf_bamba", "hf_mamba2") and RELEASE < (5, 23):
        pytest.skip("the gated norm of several groups is another function there")
    folder = GOLDEN / "scan" / name
    model = AutoModelForCausalLM.from_pretrained(folder / "ckpt", dtype=torch.float32).eval()
    case, left = load_file(folder / "logits.safetensors"), load_file(folder / "left_padded.safetensors")
    with seqconv.accelerate(model):
        got = model(case["in.input_ids"], use_cache=False).logits
        assert_near(got, case["out.logits"].float())
        mask = left["in.attention_mask"]
        got = model(left["in.input_ids"], attention_mask=mask, use_cache=False).logits
        assert_near(got[mask.bool()], left["out.logits"].float()[mask.bool()])
        prompt = case["gen.prompt"]
        tokens = model.generate(prompt, max_new_tokens=20, do_sample=False, eos_token_id=None, pad_token_id=0)
        want = case.get("gen.full_recompute_tokens", case["gen.tokens"])
        assert torch.equal(tokens[:, -20:], want[:, -20:])
