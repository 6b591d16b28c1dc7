"""Training of EcoFormer's hash functions: the original's result, a whole model in order, the callback, errors."""

from itertools import pairwise

import pytest
import torch
from torch import nn
from transformers import Trainer, TrainingArguments

from golden_cases import load_case
from seqconv import SeqConvVisionConfig, SeqConvVisionForImageClassification
from seqconv.hf.vision.hash_callback import HashTraining
from seqconv.vision import create_mixer_2d
from seqconv.vision.mixers.attention.hash_training import train_hash, train_hashes
from seqconv.vision.mixers.attention.hashed import HashedAttention
from tolerances import assert_near


@pytest.fixture
def golden():
    case = load_case("vision/ecoformer_hash_training")
    o, t = case.hyper, case.tensors
    layer = HashedAttention(o["dim"], num_heads=o["num_heads"], num_bits=o["nbits"], num_anchors=o["m"], bias=True)
    layer.double()
    layer.hash_weight.copy_(t["param.A"])
    with torch.no_grad():
        layer.qk_proj.weight.copy_(t["param.to_qk.weight"])
        layer.qk_proj.bias.copy_(t["param.to_qk.bias"])
    return layer, t, {"top_k": o["topk"], "steps": o["iteration_n"], "lr": o["learning_rate"]}


def test_weights_means_and_codes_are_those_of_the_original(golden):
    layer, t, options = golden
    before = {name: p.clone() for name, p in layer.named_parameters()}
    losses = train_hash(layer, t["in.x"], anchors=t["in.anchor"][0], **options)
    assert_near(layer.hash_weight, t["out.A"])
    assert_near(layer.mean, t["out.mvec"][0, :, 0])
    assert torch.equal(layer.anchors, t["in.anchor"][0])
    assert torch.equal(layer._codes(layer.unit_vectors(t["in.x"])), t["out.y"])
    assert len(losses) == layer.num_bits
    assert (t["out.A"] != t["param.A"]).any(), "the descent was never better"
    assert all(torch.equal(p, before[name]) and p.grad is None for name, p in layer.named_parameters())


def test_anchors_are_tokens_of_the_first_image(golden):
    layer, t, options = golden
    train_hash(layer, t["in.x"], generator=torch.Generator().manual_seed(3), **options)
    first = layer.unit_vectors(t["in.x"])[0]
    chosen = [(first[0] == anchor).all(-1).nonzero().item() for anchor in layer.anchors[0]]
    assert len(set(chosen)) == layer.anchors.shape[1]
    assert torch.equal(first[:, chosen], layer.anchors)


def test_codes_agree_more_where_attention_is_high_after_training():
    torch.manual_seed(0)
    layer, x = HashedAttention(16, num_heads=2, num_bits=12, num_anchors=10), torch.randn(2, 40, 16)

    def agreement():
        unit = layer.unit_vectors(x)
        codes, scores = layer._codes(unit), unit @ unit.mT
        return torch.corrcoef(torch.stack([(codes @ codes.mT).flatten(), scores.flatten()]))[0, 1].item()

    train_hash(layer, x, top_k=8, steps=0)  # anchors and means alone
    without = agreement()
    train_hash(layer, x, top_k=8, lr=0.5)
    assert agreement() > without + 0.05


def test_layers_of_a_model_are_trained_one_after_the_other():
    def build():
        torch.manual_seed(0)
        options = {"num_heads": 2, "num_bits": 5, "num_anchors": 6}
        return nn.Sequential(*(create_mixer_2d("hashed", 8, **options) for _ in range(2)))

    x, options = torch.randn(2, 4, 5, 8), {"top_k": 3, "lr": 0.1, "steps": 20}
    model, by_hand = build(), build()
    torch.manual_seed(1)
    losses = train_hashes(model, x, **options)
    assert list(losses) == ["0.attention", "1.attention"]
    torch.manual_seed(1)
    inputs = x
    for mixer in by_hand:
        train_hash(mixer.attention, inputs.flatten(1, 2), **options)
        inputs = mixer(inputs).detach()
    assert all(torch.equal(t, by_hand.state_dict()[name]) for name, t in model.state_dict().items())
    fixed = {name: t.clone() for name, t in model.state_dict().items()}
    model(x)
    assert all(torch.equal(t, fixed[name]) for name, t in model.state_dict().items()), "a later call trains nothing"


def test_the_callback_trains_at_the_first_batch_of_epochs(tmp_path):
    torch.manual_seed(0)
    backbone = {"mixer": "hashed", "d_model": 8, "depth": 1, "image_size": 16, "patch_size": 4}
    backbone["mixer_options"] = {"num_heads": 2, "num_bits": 4, "num_anchors": 5}
    config = SeqConvVisionConfig(backbone_name="plain_2d", backbone_options=backbone, num_labels=2)
    model = SeqConvVisionForImageClassification(config)
    data = [{"pixel_values": torch.randn(3, 16, 16), "labels": i % 2} for i in range(4)]
    arguments = TrainingArguments(
        str(tmp_path), per_device_train_batch_size=2, num_train_epochs=3, report_to=[], save_strategy="no", use_cpu=True
    )
    counts, (layer,) = [], [m for m in model.modules() if isinstance(m, HashedAttention)]

    class Counting(HashTraining):
        def on_step_end(self, args, state, control, **kwargs):
            super().on_step_end(args, state, control, **kwargs)
            counts.append(layer.anchors.clone())

    callback = Counting(interval=2, top_k=3, steps=5)
    Trainer(model, arguments, train_dataset=data, callbacks=[callback]).train()
    changed = [not torch.equal(a, b) for a, b in pairwise(counts)]
    assert changed == [False, False, False, True, False], "epochs 0 and 2 alone train, at their first step"
    assert [len(losses) for losses in callback.losses.values()] == [4]
    assert not layer._forward_pre_hooks


def test_bad_calls_raise(unannotated):
    layer, x = HashedAttention(8, num_heads=2, num_anchors=6), torch.randn(1, 12, 8)
    cases = {
        r"x of shape \(1, 5, 8\).*of 10 tokens or more": lambda: train_hash(layer, x[:, :5]),
        r"x of shape \(1, 5, 8\), top_k=2.*of 6 tokens or more": lambda: train_hash(layer, x[:, :5], top_k=2),
        r"x of shape \(0, 12, 8\)": lambda: train_hash(layer, x[:0]),
        r"anchors of shape \(6, 4\).*\(2, 6, 4\)": lambda: train_hash(layer, x, anchors=torch.randn(6, 4)),
        r"lr=0": lambda: train_hash(layer, x, lr=0.0),
        r"not finite.*lower lr": lambda: train_hash(layer, x * float("nan")),
        r"a Linear without any": lambda: train_hashes(nn.Linear(2, 2), x),
    }
    for pattern, use in cases.items():
        with pytest.raises(ValueError, match=pattern):
            use()
