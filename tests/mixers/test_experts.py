"""The mixture of experts: its equation, the router's options, blocks and models that hold it."""

import pytest
import torch

from seqconv.blocks import Block
from seqconv.hf import SeqConvConfig, SeqConvForCausalLM
from seqconv.layers.channel_mix import create_channel_mix
from seqconv.layers.experts import MixtureOfExperts, Router
from tolerances import assert_near


def made(**options):
    torch.manual_seed(0)
    return MixtureOfExperts(8, hidden=6, **{"num_experts": 4, **options}).double().eval()


def inputs(*shape):
    return torch.randn(*shape, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


OPTIONS = [
    {},
    {"top_k": 1, "normalize": False, "expert": "relu2"},
    {"shared_hidden": 5, "shared_gate": True, "bias": True},
    {"score": "sigmoid", "correction": True, "num_groups": 2, "scale": 2.5, "latent": 3, "shared_hidden": 2},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_equation(options):
    """Token by token, with every expert's weight written out."""
    mix, x = made(**options), inputs(5)
    if options.get("correction"):
        mix.router.correction.copy_(torch.tensor([0.0, 0.7, -0.2, 0.1]))
    index, weights = mix.router(x)
    for t, token in enumerate(x.unbind()):
        logits = mix.router.proj(token)
        scores = logits.softmax(-1) if mix.router.score == "softmax" else logits.sigmoid()
        chosen = scores[index[t]]
        factor = options.get("scale", 1.0) / (chosen.sum() if options.get("normalize", True) else 1.0)
        assert_near(weights[t], chosen * factor)
        inner = token if mix.enter is None else mix.enter(token)
        y = sum(w * mix.experts[e](inner[None])[0] for e, w in zip(index[t].tolist(), weights[t], strict=True))
        y = y if mix.leave is None else mix.leave(y)
        if mix.shared is not None:
            y = y + mix.shared(token[None])[0] * (
                1 if mix.shared_gate is None else torch.sigmoid(mix.shared_gate(token))
            )
        assert_near(mix(x)[t], y)


def test_the_choice_is_corrected_and_kept_within_the_best_groups():
    router = Router(8, num_experts=6, top_k=2, score="sigmoid", correction=True, num_groups=3, top_groups=1).double()
    x = inputs(40)
    index, _ = router(x)
    scores = router.proj(x).sigmoid()
    best = scores.unflatten(-1, (3, 2)).sum(-1).argmax(-1)
    assert torch.equal(index.sort(-1).values, torch.stack([2 * best, 2 * best + 1], -1))
    router.correction.copy_(torch.tensor([0, 0, 3.0, 3.0, 0, 0]))
    index, weights = router(x)
    assert set(index.unique().tolist()) == {2, 3}
    assert_near(weights, scores.gather(1, index) / scores.gather(1, index).sum(-1, keepdim=True))


def test_all_experts_have_gradients_in_training():
    mix = made(num_experts=8, top_k=1).train()
    mix(inputs(1)).sum().backward()
    assert all(parameter.grad is not None for parameter in mix.experts.parameters())


def test_tokens_in_any_shape_and_none():
    mix, x = made(), inputs(2, 7)
    assert_near(mix(x), torch.stack([mix(row) for row in x]))
    assert mix(x[:, :0]).shape == (2, 0, 8)


def test_an_exported_program_computes_the_same():
    mix, x = made(shared_hidden=4), inputs(2, 5)
    dynamic = {"x": {1: torch.export.Dim("length", min=2, max=64)}}
    program = torch.export.export(mix, (x,), dynamic_shapes=dynamic).module()
    for length in (5, 9):
        assert_near(program(inputs(2, length)), mix(inputs(2, length)))


def test_corrections_stay_in_float32():
    mix = MixtureOfExperts(8, hidden=4, correction=True).bfloat16()
    assert mix.router.correction.dtype == torch.float32
    assert mix(inputs(3).bfloat16()).dtype == torch.bfloat16


def test_models_decode_save_and_load_with_experts(tmp_path):
    torch.manual_seed(0)
    options = {"num_experts": 4, "correction": True, "score": "sigmoid", "shared_hidden": 8}
    sizes = {"vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 2, "mlp_hidden": 8}
    config = SeqConvConfig(mixer="mamba", mlp="moe", mlp_options=options, **sizes)
    model, ids = SeqConvForCausalLM(config).eval(), torch.arange(18).view(2, 9)
    model.save_pretrained(tmp_path)
    again = SeqConvForCausalLM.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        whole = model(ids).logits
        assert torch.equal(again(ids).logits, whole)
        cache = model(ids[:, :5], use_cache=True).past_key_values
        torch.testing.assert_close(model(ids[:, 5:], past_key_values=cache).logits, whole[:, 5:])
    model.train()(ids, labels=ids).loss.backward()


def test_residuals_of_the_mlp_may_differ():
    block = Block(None, d_model=8, mlp="gelu", residual_options={"beta": 3.0}, mlp_residual_options={"alpha": 0.5})
    x = inputs(2, 3).float()
    torch.testing.assert_close(block(x), 0.5 * x + block.mlp(block.mlp_norm(x)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_expert": 3}, r"option 'num_expert'.*did you mean 'num_experts'"),
        ({"score": "softmin"}, r"score 'softmin'.*did you mean 'softmax'"),
        ({"top_k": 9}, r"top_k=9.*wanted top_k of at most 8.*Remedy"),
        ({"num_groups": 3}, r"num_groups that divides num_experts.*Remedy"),
        ({"shared_gate": True}, r"shared_gate without shared_hidden.*Remedy: give shared_hidden"),
    ],
)
def test_errors_say_what_to_do(options, message):
    with pytest.raises(ValueError, match=message):
        create_channel_mix("moe", 8, hidden=4, **options)


def test_other_kinds_take_no_options():
    with pytest.raises(ValueError, match="option 'top_k'"):
        create_channel_mix("swiglu", 8, hidden=4, top_k=2)
