"""Models per task: what they compute, their losses, padding, packing, and that saving changes nothing."""

import copy

import pytest
import torch
import torch.nn.functional as F
from tiny import VOCAB, config, each_default, each_representative, language_model, left_padded, prompts, token_model

from seqconv import (
    SeqConvForAudioClassification,
    SeqConvForCausalLM,
    SeqConvForImageClassification,
    SeqConvForMaskedLM,
    SeqConvForSequenceClassification,
    SeqConvForTokenClassification,
    SeqConvModel,
)


def made(model, **options):
    torch.manual_seed(0)
    return model(config(**options)).eval().double()


def image(batch=2, size=8, channels=3):
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def enable_checkpointing(model):
    """Under the name of transformers' newer releases where there is one; the older name warns there."""
    enable = "activation_checkpointing_enable"
    getattr(model, enable if hasattr(model, enable) else "gradient_checkpointing_enable")()


def tensors(model):
    """Parameters and all buffers, those that are not saved among them."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


@each_default
def test_saving_and_loading_changes_nothing(tmp_path, case):
    torch.manual_seed(0)
    model = SeqConvModel(config(case[0], mixer_options=case[1])).eval()
    ids = prompts()
    want = model(ids).last_hidden_state
    assert want.isfinite().all()
    model.save_pretrained(tmp_path)
    read = SeqConvModel.from_pretrained(tmp_path)
    loaded, saved = tensors(read), tensors(model)
    assert loaded.keys() == saved.keys()
    assert [name for name in loaded if not torch.equal(loaded[name], saved[name])] == []
    torch.testing.assert_close(read(ids).last_hidden_state, want)
    marks = {n: getattr(p, "_optim", None) for n, p in model.named_parameters()}
    assert {n: getattr(p, "_optim", None) for n, p in read.named_parameters()} == marks


@each_representative
def test_every_mixer_trains_under_gradient_checkpointing(mixer):
    torch.manual_seed(0)
    model = token_model(mixer).double().train()
    ids = prompts()
    model(ids, labels=ids).loss.backward()
    want = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    assert len(want) == len(list(model.parameters())), "a parameter without a gradient"
    model.zero_grad()
    enable_checkpointing(model)
    model(ids, labels=ids).loss.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, want[name], msg=lambda m, name=name: f"{name}: {m}")


@each_representative
def test_every_mixer_classifies_both_ways_around(mixer):
    model = made(SeqConvForSequenceClassification, mixer=mixer, bidirectional=True, num_labels=3)
    assert not model.model.causal
    with torch.no_grad():
        for parameter in model.parameters():  # some mixers start with output projections of zero
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    ids = prompts(length=4)  # within the reach of two convolutions over three tokens
    changed = ids.clone()
    changed[:, -1] = (changed[:, -1] + 1) % VOCAB
    before = model.model(ids).last_hidden_state[:, 0]
    assert (before - model.model(changed).last_hidden_state[:, 0]).abs().max() > 0
    assert model(ids).logits.shape == (2, 3)


def test_checkpointing_is_switched_by_transformers():
    model = made(SeqConvForImageClassification, image_size=8).train()
    enable_checkpointing(model)
    assert model.model.backbone.gradient_checkpointing
    model(image(), labels=torch.tensor([0, 1])).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_loading_in_another_dtype(tmp_path, dtype):
    model = language_model(dtype=torch.float32)
    model.save_pretrained(tmp_path)
    read = SeqConvForCausalLM.from_pretrained(tmp_path, dtype=dtype)
    assert read.dtype == dtype
    assert read(prompts()).logits.dtype == dtype
    near = {torch.bfloat16: 0.3, torch.float16: 0.05, torch.float64: 1e-4}[dtype]
    want = model(prompts()).logits
    assert (read(prompts()).logits.float() - want).abs().max() < near * want.abs().max()


def test_shards_and_device_maps(tmp_path):
    model = language_model(dtype=torch.float32)
    model.save_pretrained(tmp_path, max_shard_size="1KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    for options in ({}, {"device_map": "cpu"}, {"device_map": {"": "cpu"}}):
        read = SeqConvForCausalLM.from_pretrained(tmp_path, **options)
        torch.testing.assert_close(read(prompts()).logits, model(prompts()).logits, rtol=0, atol=0)


def test_tied_embeddings(tmp_path):
    tied, apart = language_model(dtype=torch.float32), language_model(dtype=torch.float32, tie_word_embeddings=False)
    assert tied.lm_head.weight is tied.model.embed_tokens.weight
    assert apart.lm_head.weight is not apart.model.embed_tokens.weight
    for model in (tied, apart):
        model.save_pretrained(tmp_path)
        read = SeqConvForCausalLM.from_pretrained(tmp_path)
        assert (read.lm_head.weight is read.model.embed_tokens.weight) == (model is tied)
        torch.testing.assert_close(read(prompts()).logits, model(prompts()).logits, rtol=0, atol=0)
    tied.resize_token_embeddings(VOCAB + 3)
    assert tied(prompts()).logits.shape[-1] == VOCAB + 3
    assert tied.lm_head.weight is tied.model.embed_tokens.weight


def test_a_backbone_loads_into_a_model_with_another_head(tmp_path):
    model = language_model(dtype=torch.float32)
    model.save_pretrained(tmp_path)
    read = SeqConvForSequenceClassification.from_pretrained(tmp_path, num_labels=4)
    for name, value in model.model.state_dict().items():
        torch.testing.assert_close(read.model.state_dict()[name], value, rtol=0, atol=0)
    assert read.classifier.output.weight.isfinite().all()
    assert read.classifier.output.weight.std() > 0


def test_losses_of_language_models():
    ids = prompts()
    labels = ids.clone()
    labels[0, :3] = -100
    causal = made(SeqConvForCausalLM)
    out = causal(ids, labels=labels)
    want = F.cross_entropy(out.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    torch.testing.assert_close(out.loss, want, check_dtype=False)
    counted = causal(ids, labels=labels, num_items_in_batch=torch.tensor(100)).loss
    torch.testing.assert_close(counted * 100, want * int((labels[:, 1:] != -100).sum()), check_dtype=False)
    masked = made(SeqConvForMaskedLM, bidirectional=True)
    out = masked(ids, labels=labels)
    want = F.cross_entropy(out.logits.flatten(0, 1), labels.flatten())
    torch.testing.assert_close(out.loss, want, check_dtype=False)


def test_losses_of_classifiers():
    ids, mean = prompts(3), torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    model = made(SeqConvForSequenceClassification, num_labels=4)
    out = model(ids, labels=torch.tensor([0, 3, 1]))
    torch.testing.assert_close(out.loss, F.cross_entropy(out.logits, torch.tensor([0, 3, 1])), check_dtype=False)
    assert model.config.problem_type == "single_label_classification"
    several = made(SeqConvForSequenceClassification, num_labels=4, problem_type="multi_label_classification")
    labels = torch.randint(0, 2, (3, 4)).double()
    out = several(ids, labels=labels)
    torch.testing.assert_close(out.loss, F.binary_cross_entropy_with_logits(out.logits, labels), check_dtype=False)
    number = made(SeqConvForSequenceClassification, num_labels=1)
    out = number(ids, labels=mean)
    torch.testing.assert_close(out.loss, F.mse_loss(out.logits[:, 0], mean), check_dtype=False)
    tags = made(SeqConvForTokenClassification, num_labels=4, bidirectional=True)
    labels = torch.randint(0, 4, ids.shape)
    labels[0, 2:] = -100
    out = tags(ids, labels=labels)
    torch.testing.assert_close(out.loss, F.cross_entropy(out.logits.mT, labels), check_dtype=False)


@pytest.mark.parametrize("pooling", ["mean", "last", "first", "max", "cls-first", "cls-middle", "cls-last"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_classifiers_see_no_padding(pooling, side):
    kind, _, position = pooling.partition("-")
    options = {"pooling": kind, "cls_position": position or "last", "bidirectional": True, "num_labels": 3}
    model = made(SeqConvForSequenceClassification, position_embedding="sinusoidal", **options)
    ids, mask = left_padded(7, 4, 1)
    if side == "right":
        ids, mask = ids.flip(1), mask.flip(1)
    got = model(ids, attention_mask=mask).logits
    for row in range(3):
        alone = model(ids[row][mask[row].bool()][None]).logits
        torch.testing.assert_close(got[row : row + 1], alone, msg=lambda m, row=row: f"row {row}: {m}")


def test_pooling_is_what_its_name_says():
    model = made(SeqConvForSequenceClassification, pooling="mean")
    ids, mask = left_padded(7, 4)
    hidden = model.model(ids, attention_mask=mask).last_hidden_state
    real = hidden[1, 3:]
    for kind, want in (("mean", real.mean(0)), ("last", real[-1]), ("first", real[0]), ("max", real.amax(0))):
        model.pooling.kind = kind
        torch.testing.assert_close(model.pooling(hidden, mask.bool())[1], want)


def test_padding_may_count_as_tokens_in_the_mixers():
    ids, mask = left_padded(7, 4)
    everywhere = made(SeqConvForSequenceClassification)
    pooling = made(SeqConvForSequenceClassification, mask_padding="pooling")
    unmasked = everywhere.model(ids).last_hidden_state[1, 3:].mean(0)
    torch.testing.assert_close(pooling(ids, attention_mask=mask).logits[1], everywhere.classifier(unmasked))
    assert (pooling(ids, attention_mask=mask).logits - everywhere(ids, attention_mask=mask).logits)[1].abs().max() > 0


def test_packed_sequences_are_separate():
    model = made(SeqConvForCausalLM)
    ids = prompts(1, 9)
    bounds = torch.tensor([0, 4, 9], dtype=torch.int32)
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4]])
    want = torch.cat([model(ids[:, :4]).logits, model(ids[:, 4:]).logits], 1)
    for packed in ({"cu_seqlens": bounds}, {"cu_seq_lens_q": bounds}, {"position_ids": positions}):
        torch.testing.assert_close(model(ids, **packed).logits, want)
    placed = made(SeqConvForCausalLM, position_embedding="sinusoidal")
    want = torch.cat([placed(ids[:, :4]).logits, placed(ids[:, 4:]).logits], 1)
    torch.testing.assert_close(placed(ids, cu_seqlens=bounds).logits, want)
    parts = [model(ids[:, s], labels=ids[:, s]).loss for s in (slice(0, 4), slice(4, 9))]
    for packed in ({"cu_seqlens": bounds}, {"cu_seq_lens_q": bounds}, {"position_ids": positions}):
        torch.testing.assert_close(model(ids, labels=ids, **packed).loss, (3 * parts[0] + 4 * parts[1]) / 7)


def test_embeddings_instead_of_tokens_and_hidden_states():
    model = made(SeqConvForCausalLM)
    ids = prompts()
    want = model(ids, output_hidden_states=True)
    got = model(inputs_embeds=model.model.embed_tokens(ids))
    torch.testing.assert_close(got.logits, want.logits)
    assert len(want.hidden_states) == 3
    torch.testing.assert_close(model.lm_head(want.hidden_states[-1]), want.logits)
    kept = model(ids, logits_to_keep=2).logits
    torch.testing.assert_close(kept, want.logits[:, -2:])
    as_tuple = model(ids, use_cache=False, return_dict=False)
    assert isinstance(as_tuple, tuple)
    torch.testing.assert_close(as_tuple[0], want.logits)


def test_learned_positions_count_real_tokens():
    model = made(SeqConvModel, position_embedding="learned", max_position_embeddings=7, embedding_norm=True)
    ids, mask = left_padded(7, 4)
    got = model(ids, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(got[1:, 3:], model(ids[1:, 3:]).last_hidden_state)
    with pytest.raises(ValueError, match=r"position 7; wanted positions below 7. Remedy: raise max_position"):
        model(prompts(1, 8))


@pytest.mark.parametrize(("norm", "options"), [("rms", {"eps": 0.5, "unit_offset": True}), ("layer", {"eps": 0.5})])
def test_the_norm_after_the_embeddings_has_the_options_of_the_other_norms(norm, options):
    model = made(SeqConvModel, norm=norm, norm_options=options, embedding_norm=True)
    first = model.backbone.layers[0].mixer_norm
    model.embedding_norm.load_state_dict(first.state_dict())
    x = torch.randn(2, 3, model.config.hidden_size, dtype=first.weight.dtype)
    assert model.embedding_norm.eps == 0.5
    assert torch.equal(model.embedding_norm(x), first(x))


def test_layer_patterns_make_hybrids():
    pattern = ["s4d", {"mixer": "none", "mlp": "swiglu", "norm": "rms"}, ["mamba", {"d_state": 3}]]
    model = made(SeqConvForCausalLM, layer_pattern=pattern, num_hidden_layers=4)
    names = [None if block.mixer is None else block.mixer.name for block in model.model.backbone.layers]
    assert names == ["s4d", None, "mamba", "s4d"]
    assert model(prompts()).logits.isfinite().all()


def test_images_by_patches_and_by_pixels():
    model = made(SeqConvForImageClassification, image_size=8, patch_size=4, num_labels=3, position_embedding="learned")
    x = image()
    assert model(pixel_values=x).logits.shape == (2, 3)
    embed = model.model.embed_pixels
    weight = embed.projection.weight.view(8, 3, 4, 4)
    want = F.conv2d(x, weight, embed.projection.bias, stride=4).flatten(2).mT
    torch.testing.assert_close(embed(x), want)
    pixels = made(SeqConvForImageClassification, image_size=8, patch_size=1, num_channels=1, num_labels=3)
    assert pixels.model.embed_pixels(x[:, :1]).shape == (2, 64, 8)
    assert pixels(pixel_values=x[:, :1], labels=torch.tensor([0, 2])).loss.isfinite()
    with pytest.raises(ValueError, match=r"pixel_values of shape \(2, 3, 8, 8\); wanted \(batch, 1, 8, 8\)"):
        pixels(pixel_values=x)


def test_sound_by_frames_and_by_features():
    options = {"frame_size": 6, "frame_stride": 3, "num_labels": 3}
    model = made(SeqConvForAudioClassification, **options)
    sound = torch.randn(3, 30, dtype=torch.float64)
    mask = torch.ones(3, 30, dtype=torch.long)
    mask[1, 14:] = 0
    mask[2, 4:] = 0
    sound = sound * mask
    got = model(input_values=sound, attention_mask=mask).logits
    for row, samples in enumerate((30, 14, 4)):
        alone = model(input_values=sound[row : row + 1, :samples]).logits
        torch.testing.assert_close(got[row : row + 1], alone, msg=lambda m, row=row: f"row {row}: {m}")
    features = made(SeqConvForAudioClassification, audio_input="features", num_audio_features=5, num_labels=3)
    assert features(input_values=torch.randn(2, 9, 5).double(), labels=torch.tensor([0, 1])).loss.isfinite()
    with pytest.raises(ValueError, match=r"samples padded on the left.*padding_side = 'right'"):
        model(input_values=sound, attention_mask=mask.flip(1))
    with pytest.raises(ValueError, match=r"input_values of shape \(3, 30\); wanted \(batch, frames, 5\)"):
        features(input_values=sound)
    with pytest.raises(ValueError, match=r"wanted \(batch, samples\)\. Remedy: .*set audio_input='features'"):
        model(input_values=sound[..., None])


def test_fresh_weights_have_the_size_they_should():
    torch.manual_seed(0)
    model = SeqConvForCausalLM(config(hidden_size=64, vocab_size=500, initializer_range=0.03))
    assert float(model.lm_head.weight.detach().std()) == pytest.approx(0.03, rel=0.02)
    pixels = SeqConvForImageClassification(config(hidden_size=64, patch_size=4, initializer_range=0.03))
    assert float(pixels.model.embed_pixels.projection.weight.detach().std()) == pytest.approx(48**-0.5, rel=0.05)
    assert float(pixels.classifier.output.weight.detach().std()) == pytest.approx(0.03, rel=0.3)


def test_a_hidden_layer_in_the_classifier():
    model = made(SeqConvForSequenceClassification, classifier_hidden=5, num_labels=3)
    assert model.classifier.hidden.out_features == 5
    assert model(prompts()).logits.shape == (2, 3)


@pytest.mark.usefixtures("unannotated")
def test_compiled_whole():
    model = made(SeqConvForCausalLM, mlp="swiglu")
    ids, mask = left_padded(7, 4)
    want = model(ids, attention_mask=mask, use_cache=False).logits
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(ids, attention_mask=mask, use_cache=False).logits, want)


def test_deep_copies_compute_the_same():
    model = made(SeqConvForCausalLM)
    torch.testing.assert_close(copy.deepcopy(model)(prompts()).logits, model(prompts()).logits)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, r"received no input; wanted input_ids or inputs_embeds"),
        ({"pixel_values": torch.zeros(1, 3, 32, 32)}, r"received pixel_values; wanted input_ids or inputs_embeds"),
        ({"input_ids": prompts(), "inputs_embeds": torch.zeros(2, 7, 8)}, r"input_ids and inputs_embeds"),
        ({"input_ids": prompts() + VOCAB}, r"token ids from \d+ to \d+; wanted ids from 0 to 16.*tokenizer"),
        ({"input_ids": prompts() - VOCAB}, r"token ids from -\d+ to"),
        ({"input_ids": prompts().float()}, r"dtype torch.float32; wanted integers of shape \(batch, length\)"),
        ({"input_ids": prompts()[0]}, r"shape \(7,\)"),
        ({"input_ids": prompts()[:, :0]}, r"length 0"),
        ({"input_ids": prompts(), "attention_mask": torch.ones(2, 1, 7, 7)}, r"attention_mask of rank 4"),
        ({"input_ids": prompts(), "attention_mask": torch.ones(2, 9)}, r"attention_mask of shape \(2, 9\)"),
        ({"input_ids": prompts(), "atention_mask": None}, r"'atention_mask'.*did you mean 'attention_mask'"),
    ],
)
def test_errors(arguments, message):
    model = made(SeqConvModel)
    with pytest.raises(ValueError, match=message):
        model(**arguments)
