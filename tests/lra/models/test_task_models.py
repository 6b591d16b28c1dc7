"""Models that only these tasks need: what they compute, and that Auto classes of transformers load them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoModelForTimeSeriesPrediction
from transformers import AutoModelForTokenClassification as AutoModelForTokens

from lra.models.autoencoder import AutoEncoder, sinusoids
from lra.models.configuration import AutoEncoderConfig, PairConfig, SignalConfig
from lra.models.pairs import PairClassifier
from lra.models.regression import SignalRegressor
from lra.recipes.catalog import create_recipe
from lra.training.run import run

SMALL = {"hidden_size": 8, "num_hidden_layers": 1, "mixer": "s4d", "mixer_options": {"d_state": 4}, "num_labels": 3}
SIGNAL = {**SMALL, "modality": "audio", "frame_size": 1, "frame_stride": 1}


@pytest.mark.parametrize("comparison", ["s4", "mega", "jax"])
def test_pairs_are_compared_and_loaded(tmp_path, comparison):
    torch.manual_seed(0)
    model = PairClassifier(PairConfig(**SMALL, vocab_size=20, comparison=comparison)).eval()
    ids, mask = torch.randint(0, 20, (4, 2, 9)), torch.ones(4, 2, 9, dtype=torch.long)
    mask[1, 0, 5:] = 0
    with torch.no_grad():
        logits = model(ids, mask).logits
        features = [model.pooling(model.model(ids[:, i], mask[:, i]).last_hidden_state, mask[:, i] > 0) for i in (0, 1)]
        a, b = features
        wanted = {"s4": [a, b, a - b, a * b], "mega": [b, a], "jax": [a, b]}[comparison]
        assert torch.allclose(logits, model.compare(torch.cat(wanted, 1)), atol=1e-6)
    assert sum(isinstance(layer, torch.nn.Linear) for layer in model.compare) == (3 if comparison == "jax" else 2)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert type(loaded) is PairClassifier
    assert loaded.config.comparison == comparison
    with torch.no_grad():
        assert torch.equal(loaded(ids, mask).logits, logits)


def test_the_auto_encoder_sees_the_last_state_exclusive(tmp_path):
    torch.manual_seed(0)
    model = AutoEncoder(AutoEncoderConfig(**SMALL | {"mixer_options": {"d_state": 4}}, vocab_size=20)).eval()
    ids = torch.randint(0, 20, (2, 7))
    labels = torch.randint(0, 3, (2, 7))
    labels[0, :3] = -100
    with torch.no_grad():
        given = model(ids, labels=labels)
        last = model.model(ids).last_hidden_state[:, -1]
        alone = torch.stack([model.decoder(last + row) for row in sinusoids(7, 8)], 1)
    assert given.logits.shape == (2, 7, 3)
    assert torch.allclose(given.logits, alone, atol=1e-6)
    chosen = torch.log_softmax(alone, -1).gather(2, labels.clamp(min=0)[..., None])[..., 0]
    assert given.loss.item() == pytest.approx(-chosen[labels >= 0].mean().item(), rel=1e-5)
    assert len(sinusoids(50, 8).unique(dim=0)) == 50
    model.save_pretrained(tmp_path)
    loaded = AutoModelForTokens.from_pretrained(tmp_path).eval()
    assert type(loaded) is AutoEncoder
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, given.logits)


@pytest.mark.parametrize(("readout", "labels", "shape"), [("every", 1, (2, 30)), ("last", 5, (2, 5))])
def test_signals_are_answered_with_numbers(tmp_path, readout, labels, shape):
    torch.manual_seed(0)
    model = SignalRegressor(SignalConfig(**SIGNAL | {"num_labels": labels}, readout=readout)).eval()
    signal, wanted = torch.randn(2, 30), torch.randn(shape)
    with torch.no_grad():
        given = model(signal, labels=wanted)
    assert given.logits.shape == shape
    assert given.loss.item() == pytest.approx(((given.logits - wanted) ** 2).mean().item(), rel=1e-5)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForTimeSeriesPrediction.from_pretrained(tmp_path).eval()
    assert type(loaded) is SignalRegressor
    with torch.no_grad():
        assert torch.equal(loaded(signal).logits, given.logits)


def test_a_fresh_process_loads_a_checkpoint_after_importing_lra(tmp_path):
    PairClassifier(PairConfig(**SMALL, vocab_size=20)).save_pretrained(tmp_path)
    script = "import lra, sys\nassert 'lra.models.pairs' not in sys.modules\n"
    script += "from transformers import AutoModelForSequenceClassification as Auto\n"
    script += f"print(type(Auto.from_pretrained({str(tmp_path)!r})).__name__)"
    paths = [str(Path(__file__).parents[3] / part) for part in ("", "kernels")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "PairClassifier"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PairConfig(**SMALL, comparison="s5"), r"PairConfig: .*comparison.*'s5'"),
        (lambda: SignalConfig(**SIGNAL, readout="all"), r"SignalConfig: .*readout.*'all'"),
        (lambda: PairClassifier(PairConfig(**SMALL, pooling="cls")), r"PairClassifier: received pooling='cls'"),
        (lambda: AutoEncoder(AutoEncoderConfig(**SMALL | {"hidden_size": 7})), r"hidden_size=7; wanted an even one"),
        (lambda: SignalRegressor(SignalConfig(**SMALL, modality="text")), r"modality='text'; wanted modality 'audio'"),
    ],
)
def test_impossible_models_are_rejected(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("task", "options", "auto"),
    [
        ("mad-compression", {}, AutoModelForTokens),
        ("signal-delay", {"task.length": 64, "task.lag": 8}, AutoModelForTimeSeriesPrediction),
        ("signal-reconstruct", {"task.length": 64, "task.memory": 8}, AutoModelForTimeSeriesPrediction),
    ],
)
def test_runs_train_and_save_them(tmp_path, task, options, auto):
    sizes = {"task.train": 32, "task.val": 16, "task.test": 16, "d_model": 8, "n_layers": 1, "mixer.d_state": 4}
    training = {"steps": 2, "eval_every": 1, "batch_size": 16, "warmup_steps": 1}
    recipe = create_recipe(task, "s4d").override({**sizes, **training, **options})
    result = run(recipe, tmp_path / "run", data_root=tmp_path / "data", quiet=True)
    assert result.accuracy["test"] <= 1
    assert type(auto.from_pretrained(result.folder / "best")) is type(result.model)
