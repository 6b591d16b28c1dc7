"""Other people's tools on seqconv models, with the real packages: ``make test-ecosystem`` installs them and runs this.

Each test is skipped, with the reason, where its package is missing. ``ECOSYSTEM_TABLE`` names a page that versions and
results are written into.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from seqconv import (
    SeqConvConfig,
    SeqConvForCausalLM,
    SeqConvForSequenceClassification,
    SeqConvForVideoClassification,
    SeqConvModel,
)
from seqconv.hf.tokenizer import byte_tokenizer

pytestmark = [
    pytest.mark.ecosystem,
    pytest.mark.filterwarnings("default"),  # what other packages warn of is not for this project to mend
]
TOKENIZER = byte_tokenizer()
MIXERS = ("mamba", "mamba2", "gla", "hyena", "s4d", "attention")
every_mixer = pytest.mark.parametrize("mixer", MIXERS)


def build(mixer="mamba", kind=SeqConvForCausalLM, **options):
    torch.manual_seed(0)
    sizes = {"vocab_size": len(TOKENIZER), "hidden_size": 32, "num_hidden_layers": 2}
    return kind(SeqConvConfig(mixer=mixer, **sizes, **options)).eval()


def tokens():
    return torch.randint(0, 256, (2, 9), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def saved(tmp_path):
    """A function that saves a model with the tokenizer and gives the folder."""

    def save(**options):
        build(**options).save_pretrained(tmp_path / "model")
        TOKENIZER.save_pretrained(tmp_path / "model")
        return str(tmp_path / "model")

    return save


@every_mixer
@pytest.mark.parametrize("start", [True, "pissa", "olora"])
def test_peft_changes_nothing_at_first_and_merges_to_the_same(mixer, start):
    peft = pytest.importorskip("peft")
    model, ids = build(mixer), tokens()
    want = model(ids).logits
    adapted = peft.get_peft_model(
        model, peft.LoraConfig(target_modules="all-linear", r=2, init_lora_weights=start)
    ).eval()
    torch.testing.assert_close(adapted(ids).logits, want, rtol=1e-4, atol=1e-4)
    adapters = {name: p for name, p in adapted.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for p in adapters.values():
            p.add_(0.1)
    changed = adapted(ids).logits
    changed.square().sum().backward()
    assert [name for name, p in adapters.items() if p.grad is None or not p.grad.any()] == []
    assert not torch.allclose(changed, want, atol=1e-3)
    torch.testing.assert_close(adapted.merge_and_unload()(ids).logits, changed, rtol=1e-3, atol=1e-3)


def arguments(kind, folder, **options):
    """Options of a trainer of trl: two steps on the processor."""
    quiet = {"output_dir": str(folder), "report_to": [], "use_cpu": True, "bf16": False, "max_steps": 2}
    return kind(**quiet, per_device_train_batch_size=2, **options)


@every_mixer
def test_peft_in_the_default_trainer_decays_the_weights_alone(mixer, tmp_path):
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(build(mixer), peft.LoraConfig(target_modules="all-linear", r=2)).requires_grad_()
    settings = transformers.TrainingArguments(str(tmp_path), weight_decay=0.1, report_to=[], use_cpu=True)
    groups = transformers.Trainer(model, settings).create_optimizer().param_groups
    decayed = {id(p) for group in groups if group["weight_decay"] > 0 for p in group["params"]}
    names = [name for name, p in model.named_parameters() if id(p) in decayed]
    assert any("lora_A" in name or "out_proj" in name for name in names)
    assert not [n for n in names if n.endswith(("A_log", "dt_bias", "inv_dt", "A_real", "A_imag", "frequency", "bias"))]


@pytest.mark.parametrize("mixer", ["mamba", "hyena"])
def test_trl_sft_trains_a_folder(saved, tmp_path, mixer):
    trl, datasets = pytest.importorskip("trl"), pytest.importorskip("datasets")
    data = datasets.Dataset.from_dict({"text": ["hello world " * 4] * 8})
    options = arguments(trl.SFTConfig, tmp_path / "out", learning_rate=1e-2)
    trainer = trl.SFTTrainer(model=saved(mixer=mixer), train_dataset=data, args=options)
    before = trainer.model.lm_head.weight.detach().clone()
    assert 0 < trainer.train().training_loss < 7
    assert not torch.equal(trainer.model.lm_head.weight, before)


@pytest.mark.parametrize("mixer", ["mamba", "gla", "hyena", "attention"])
def test_trl_sft_keeps_packed_documents_apart(saved, tmp_path, mixer):
    """One step of gradient descent on packed documents changes the weights as on padded ones."""
    trl, datasets = pytest.importorskip("trl"), pytest.importorskip("datasets")
    data = datasets.Dataset.from_dict({"text": ["a b c " * n for n in (4, 1, 3, 2, 5)]})
    folder = saved(mixer=mixer)

    def trained(rows, **options):
        quiet = {"output_dir": str(tmp_path / "out"), "report_to": [], "use_cpu": True, "bf16": False, "max_steps": 1}
        step = {"optim": "sgd", "learning_rate": 1.0, "max_grad_norm": 0.0, "lr_scheduler_type": "constant"}
        sizes = {"per_device_train_batch_size": rows, "max_length": 40, "gradient_checkpointing": False}
        config = trl.SFTConfig(**quiet, **step, **sizes, logging_steps=1, **options)
        trainer = trl.SFTTrainer(model=folder, train_dataset=data, args=config)
        seen = sum(len(row["input_ids"]) for row in trainer.train_dataset)
        loss = trainer.train().training_loss
        return loss, seen, len(trainer.train_dataset), dict(trainer.model.named_parameters())

    want = trained(len(data))
    rows = trained(1, packing=True)[2]
    assert rows < len(data), "several documents in a row"
    got = trained(rows, packing=True)
    assert got[:2] == (pytest.approx(want[0], rel=1e-4), want[1])
    torch.testing.assert_close(got[3], want[3], rtol=1e-3, atol=1e-5)


def test_trl_dpo_starts_at_the_reference(saved, tmp_path):
    trl, datasets = pytest.importorskip("trl"), pytest.importorskip("datasets")
    data = datasets.Dataset.from_dict({"prompt": ["a "] * 4, "chosen": ["yes"] * 4, "rejected": ["no"] * 4})
    trainer = trl.DPOTrainer(model=saved(), train_dataset=data, args=arguments(trl.DPOConfig, tmp_path / "out"))
    assert trainer.train().training_loss == pytest.approx(0.693147, abs=1e-2)


def test_trl_reward(saved, tmp_path):
    trl, datasets = pytest.importorskip("trl"), pytest.importorskip("datasets")
    data = datasets.Dataset.from_dict({"chosen": ["yes please"] * 4, "rejected": ["no"] * 4})
    head = {"kind": SeqConvForSequenceClassification, "pooling": "last", "num_labels": 1, "pad_token_id": 257}
    options = arguments(trl.RewardConfig, tmp_path / "out")
    trainer = trl.RewardTrainer(model=saved(**head), train_dataset=data, args=options)
    assert 0 < trainer.train().training_loss < 3


def test_trl_grpo(saved, tmp_path):
    trl, datasets = pytest.importorskip("trl"), pytest.importorskip("datasets")
    data = datasets.Dataset.from_dict({"prompt": ["a "] * 4})
    options = arguments(trl.GRPOConfig, tmp_path / "out", num_generations=2, max_completion_length=4)

    def reward(completions, **_):
        return [float(len(set(text))) for text in completions]

    trainer = trl.GRPOTrainer(model=saved(), reward_funcs=reward, train_dataset=data, args=options)
    assert abs(trainer.train().training_loss) < 1


def test_lm_evaluation_harness_scores_as_the_model_does(saved):
    harness = pytest.importorskip("lm_eval.models.huggingface")
    instance = pytest.importorskip("lm_eval.api.instance").Instance
    folder = saved()
    pairs = [("ab", "cd"), ("abcdef", "g")]
    requests = [instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]
    scorer = harness.HFLM(pretrained=folder, trust_remote_code=True, device="cpu", batch_size=2, dtype="float32")
    got = [score for score, _ in scorer.loglikelihood(requests)]
    model = SeqConvForCausalLM.from_pretrained(folder)
    for score, (context, continuation) in zip(got, pairs, strict=True):
        ids = TOKENIZER(context + continuation, return_tensors="pt").input_ids
        logs = model(ids).logits.log_softmax(-1)[0, :-1].gather(-1, ids[0, 1:, None])[:, 0]
        assert score == pytest.approx(logs[len(context) - 1 :].sum().item(), rel=1e-4)


def test_sentence_transformers_embeds_padded_texts_as_alone(saved):
    pytest.importorskip("sentence_transformers")
    from sentence_transformers import SentenceTransformer, models

    words = models.Transformer(saved(kind=SeqConvModel, bidirectional=True))
    encoder = SentenceTransformer(modules=[words, models.Pooling(32)], device="cpu")
    together, alone = encoder.encode(["a", "abcdefg"]), encoder.encode(["a"])
    torch.testing.assert_close(torch.from_numpy(together[:1]), torch.from_numpy(alone), rtol=1e-4, atol=1e-5)


@every_mixer
def test_torchao_int8_weights(mixer):
    quantization = pytest.importorskip("torchao.quantization")
    model, ids = build(mixer), tokens()
    want = model(ids).logits
    quantization.quantize_(model, quantization.Int8WeightOnlyConfig())
    got = model(ids).logits
    assert not torch.equal(got, want)
    assert (got - want).norm() < 0.05 * want.norm()
    assert model.generate(ids, max_new_tokens=3, do_sample=False).shape == (2, 12)


@every_mixer
def test_accelerate_prepares_and_trains(mixer):
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True)
    model, ids = build(mixer).train(), tokens()
    model, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), lr=1e-2))
    losses = []
    for _ in range(5):
        loss = model(ids, labels=ids).loss
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@pytest.mark.slow
def test_accelerate_launch_trains_as_one_process_does(tmp_path):
    """On processors ``accelerate launch`` starts one process by itself; more are torchrun's to start."""
    pytest.importorskip("accelerate")
    script = str(Path(__file__).with_name("launched_training.py"))
    launch = ["accelerate.commands.launch", "--cpu", "--num_processes", "1", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    for count, command in ((1, launch), (2, ["torch.distributed.run", "--standalone", "--nproc_per_node", "2"])):
        arguments = [script, str(count), str(tmp_path / str(count))]
        done = subprocess.run([sys.executable, "-m", *command, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    one, two = (SeqConvForCausalLM.from_pretrained(tmp_path / str(count)).state_dict() for count in (1, 2))
    torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-6)


@pytest.fixture(scope="module", autouse=True)
def offline():
    """Everything here is on this machine: no tool may look for anything on the network."""
    before = os.environ.get("HF_HUB_OFFLINE")
    os.environ["HF_HUB_OFFLINE"] = "1"
    yield
    os.environ.pop("HF_HUB_OFFLINE") if before is None else os.environ.update(HF_HUB_OFFLINE=before)


def test_av_reads_films_for_the_pipeline_of_video_classification(tmp_path):
    av = pytest.importorskip("av")
    from transformers.models.videomae.image_processing_pil_videomae import VideoMAEImageProcessorPil

    sizes = {"image_size": 16, "patch_size": 8, "num_frames": 4, "num_labels": 3}
    model = build("s4d", SeqConvForVideoClassification, **sizes)
    model.save_pretrained(tmp_path)
    processor = VideoMAEImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    processor.save_pretrained(tmp_path)
    film = str(tmp_path / "film.mp4")
    with av.open(film, "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for shade in range(0, 240, 30):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), shade, dtype=np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with av.open(film) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)][:4]
    want = model(**processor(frames, return_tensors="pt")).logits[0].softmax(-1)
    found = transformers.pipeline("video-classification", str(tmp_path), device="cpu")(film)
    scores = {item["label"]: item["score"] for item in found}
    assert scores == pytest.approx({f"LABEL_{i}": score for i, score in enumerate(want.tolist())}, abs=1e-6)
