"""MEGA and its moving average: the numbers of the original, and what padding, chunks and options promise."""

import pytest
import torch

from golden_cases import Imported, assert_close, check_gradients, load_case
from seqconv import create_mixer
from seqconv.attention import View
from seqconv.interop import from_original
from seqconv.mixers.attention.mega import Mega
from tolerances import assert_near

EMA_CASES = ["mega_ema", "mega_ema_bidirectional"]
BLOCK_CASES = ["mega_block_causal", "mega_block_laplace_chunk", "mega_block_relu2_nochunk", "mega_block_softmax"]
CASES = [*EMA_CASES, *BLOCK_CASES, "mega_encoder_layer"]
MASKED = [name for name in CASES if name != "mega_block_causal"]


def tolerance(name):
    return (1e-9, 1e-10) if name in EMA_CASES else (1e-8, 1e-9)


@pytest.mark.parametrize("name", CASES)
def test_outputs_and_gradients_of_the_original(name):
    case = load_case(name)
    imported = Imported(case.meta["original"], case.group("param"), case.hyper)
    x = case.tensors["in.x"].clone().requires_grad_()
    y = imported(x.transpose(0, 1)).transpose(0, 1)
    assert_close(y, case.tensors["out.y"], *tolerance(name), "y")
    (y * case.tensors["cot.y"]).sum().backward()
    wanted = case.group("grad")
    assert_close(x.grad, wanted.pop("in.x"), *tolerance(name), "gradient of the input")
    check_gradients(imported, wanted, *tolerance(name))


@pytest.mark.parametrize("name", MASKED)
def test_real_tokens_of_a_padded_batch_are_those_of_the_original(name):
    case = load_case(name)
    module = from_original(case.meta["original"], case.group("param"), **case.hyper)
    mask = ~case.tensors["in.padding_mask"]
    y = module(case.tensors["in.x"].transpose(0, 1), mask=mask)
    assert_close(y[mask], case.tensors["out.y_masked"].transpose(0, 1)[mask], *tolerance(name), "y")


@pytest.mark.parametrize("name", ["mega_ema", "mega_block_causal"])
def test_steps_of_the_original(name):
    case = load_case(name)
    mixer = from_original(case.meta["original"], case.group("param"), **case.hyper)
    x, state = case.tensors["in.x"], mixer.init_state(case.hyper["B"])
    for t, (x_t, want) in enumerate(zip(x, case.tensors["out.y_step"], strict=True)):
        y_t, state = mixer.step(x_t, state)
        assert_close(y_t, want, *tolerance(name), f"step {t}")


@pytest.mark.parametrize("name", EMA_CASES)
def test_kernels_of_the_moving_average(name):
    case = load_case(name)
    mixer = from_original(case.meta["original"], case.group("param"), **case.hyper)
    parts = [f for f in (mixer.convolution.filter, mixer.convolution.backward) if f is not None]
    got = torch.cat([part(case.hyper["L"]) for part in parts])
    assert_close(got, case.tensors["out.k"], *tolerance(name), "kernel")


def test_states_of_the_moving_average():
    case = load_case("mega_ema")
    mixer = from_original(case.meta["original"], case.group("param"), **case.hyper)
    x = case.tensors["in.x"].transpose(0, 1)
    first, state = mixer.prefill(x[:, :13])
    second, state = mixer.prefill(x[:, 13:], state)
    want = case.tensors["out.y_two_chunks"].transpose(0, 1)
    assert_close(torch.cat([first, second], dim=1), want, 1e-9, 1e-10, "two chunks")
    hidden = state.hidden.hidden * mixer.convolution.filter.entry()
    assert_close(hidden, case.tensors["out.state_final"], 1e-9, 1e-10, "state")


@pytest.mark.parametrize("name", [*BLOCK_CASES, "mega_encoder_layer"])
def test_position_bias_of_the_original(name):
    case = load_case(name)
    module = from_original(case.meta["original"], case.group("param"), **case.hyper)
    mega = module if isinstance(module, Mega) else module.mixer
    want = case.tensors["out.rel_bias"]
    index = torch.arange(len(want))
    view = View(False, None, index[None, None], index - index[:, None], len(want))
    assert_close(mega.rel_pos_bias(view)[0, 0], want, 1e-8, 1e-9, "bias")


def truncated(**options):
    torch.manual_seed(0)
    return create_mixer("ema", 4, d_state=3, truncation=7, **options).double()


def test_truncation_cuts_the_response_and_the_steps_follow():
    x = torch.randn(2, 30, 4, dtype=torch.float64)
    cut, whole = truncated(), create_mixer("ema", 4, d_state=3).double()
    whole.load_state_dict(cut.state_dict())
    changed = x.clone()
    changed[:, 5] += 1
    difference = (cut(changed) - cut(x)).abs().amax((0, 2))
    assert (difference[5:12] > 0).all()
    assert difference[12:].max() < 1e-12
    assert_near(cut.prefill(x)[0], cut(x))
    original = truncated(untruncated_steps=True)
    assert_near(original(x), cut(x), what="parallel form")
    assert_near(original.prefill(x)[0], whole(x), what="steps of the original")


def test_slow_decays_keep_their_digits_in_float32():
    mixer = create_mixer("ema", 2, d_state=2)
    with torch.no_grad():
        mixer.convolution.filter.alpha.fill_(-16.0)
    exact = create_mixer("ema", 2, d_state=2).double()
    exact.load_state_dict(mixer.state_dict())
    assert_near(mixer.convolution.filter(20000), exact.convolution.filter(20000), dtype=torch.float32)


def test_chunks_bound_what_attention_sees():
    """With an average of nothing, no output depends on another chunk."""
    torch.manual_seed(0)
    mixer = create_mixer("mega", 4, attention_chunk_size=5, d_state=2, bidirectional=True).double()
    with torch.no_grad():
        for part in (mixer.memory.convolution.filter, mixer.memory.convolution.backward):
            part.gamma.zero_()
        for linear in (mixer.v_proj, mixer.mx_proj, mixer.h_proj):
            linear.weight.mul_(30)
    x = torch.randn(1, 13, 4, dtype=torch.float64)
    changed = x.clone()
    changed[:, 7, 0] += 1
    differs = ((mixer(changed) - mixer(x)).abs().amax((0, 2)) > 1e-9).nonzero().flatten().tolist()
    assert differs == [5, 6, 7, 8, 9]


@pytest.mark.parametrize("attention", ["softmax", "laplace"])
def test_counting_padding_moves_the_chunks_as_in_the_original(attention):
    torch.manual_seed(0)
    options = {"attention_chunk_size": 4, "d_state": 2, "attention": attention}
    plain, counting = (create_mixer("mega", 4, **options, count_padding=c).double() for c in (False, True))
    with torch.no_grad():
        for linear in (plain.v_proj, plain.mx_proj, plain.h_proj):
            linear.weight.mul_(30)
    counting.load_state_dict(plain.state_dict())
    x = torch.randn(1, 11, 4, dtype=torch.float64)
    mask = torch.arange(11)[None] >= 2
    alone = plain(x[:, 2:])
    assert_near(plain(x, mask=mask)[:, 2:], alone, what="chunks from the first token")
    got = counting(x, mask=mask)
    assert (got[:, 2:] - alone).abs().max() > 1e-3
    assert_near(counting.prefill(x, mask=mask)[0], got, what="chunks from the first column")
    first, state = counting.prefill(x[:, :7], mask=mask[:, :7])
    assert_near(torch.cat([first, counting.prefill(x[:, 7:], state)[0]], dim=1), got, what="two chunks")


def test_the_cache_holds_no_more_than_a_chunk():
    mixer = create_mixer("mega", 8, attention_chunk_size=6)
    assert mixer.state_kind == "window"
    assert create_mixer("mega", 8).state_kind == "growing"
    _, state = mixer.prefill(torch.randn(2, 40, 8))
    assert state.cache.key.shape[1] == 5


@pytest.mark.parametrize("norm", ["layer", "scale", "rms", "batch", "none"])
@pytest.mark.parametrize("prenorm", [True, False])
def test_every_norm_before_and_after(norm, prenorm):
    torch.manual_seed(0)
    mixer = create_mixer(
        "mega", 4, d_state=2, norm=norm, prenorm=prenorm, norm_affine=False, attention_chunk_size=3
    ).double()
    assert not [name for name in mixer.state_dict() if "norm" in name and "tokens" not in name]
    x = torch.randn(2, 8, 4, dtype=torch.float64)
    if not prenorm and norm in ("layer", "batch"):
        mean = mixer(x).mean(-1 if norm == "layer" else (0, 1))
        assert_near(mean, torch.zeros_like(mean))
    mixer.eval()
    assert_near(mixer.prefill(x)[0], mixer(x))


def test_dropout_acts_in_training_alone():
    torch.manual_seed(0)
    probabilities = {"dropout": 0.5, "attention_dropout": 0.5, "hidden_dropout": 0.5, "tie_dropout": True}
    mixer, x = create_mixer("mega", 8, **probabilities), torch.randn(2, 9, 8)
    assert not torch.equal(mixer(x), mixer(x))
    mixer.eval()
    assert torch.equal(mixer(x), mixer(x))


def test_hyper_parameters_by_the_names_of_the_layer():
    case = load_case("mega_encoder_layer")
    names = {"embed_dim": "embedding_dim", "hdim": "hidden_dim", "zdim": "z_dim", "ndim": "n_dim"}
    hyper = {names.get(k, k): v for k, v in case.hyper.items() if k != "causal"}
    module = from_original(case.meta["original"], case.group("param"), **hyper)
    y = module(case.tensors["in.x"].transpose(0, 1))
    assert_close(y, case.tensors["out.y"].transpose(0, 1), 1e-8, 1e-9)
    params = {k: v for k, v in case.group("param").items() if not k.startswith("nffn")}
    alone = from_original(case.meta["original"], params, **case.hyper | {"ffn_hidden_dim": None})
    assert alone.mlp is None


def test_errors_say_what_to_do():
    original = "facebookresearch/mega:MovingAverageGatedAttention"
    sizes = {"embed_dim": 6, "zdim": 4, "hdim": 10, "ndim": 3}
    x = torch.randn(1, 9, 8)
    cases = {
        r"attention 'sofmax'.*did you mean 'softmax'": lambda: create_mixer("mega", 8, attention="sofmax"),
        r"position_bias 'rotry'.*did you mean 'rotary'": lambda: create_mixer("mega", 8, position_bias="rotry"),
        r"d_k=3 for rotary.*even": lambda: create_mixer("mega", 8, position_bias="rotary", d_k=3),
        r"d_k=0.*Remedy: correct the widths": lambda: create_mixer("mega", 8, d_k=0),
        r"attention_chunk_size=0.*Remedy: set it to None": lambda: create_mixer("mega", 8, attention_chunk_size=0),
        r"truncation=0.*Remedy: correct the sizes": lambda: create_mixer("mega", 8, truncation=0),
        r"norm='group', which depends on the whole.*Remedy: take norm='layer'": lambda: create_mixer(
            "mega", 8, norm="group"
        ),
        r"attention_dropout: received 1.5": lambda: create_mixer("mega", 8, attention_dropout=1.5),
        r"9 tokens that attend.*max_positions=8.*attention_chunk_size": lambda: create_mixer(
            "mega", 8, max_positions=8
        )(x),
        r"norm_type 'layrnorm'.*did you mean 'layernorm'": lambda: from_original(
            original, {}, **sizes, norm_type="layrnorm"
        ),
        r"causal=True and bidirectional=True.*Remedy": lambda: from_original(
            original, {}, **sizes, causal=True, bidirectional=True
        ),
        r"hyper-parameter 'zdm'.*did you mean 'zdim'": lambda: from_original(original, {}, **sizes, zdm=3),
    }
    for pattern, use in cases.items():
        with pytest.raises(ValueError, match=pattern):
            use()
