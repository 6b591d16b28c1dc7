"""Checkpoints in processes that never import seqconv, the code that is written for them, and model cards."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import config, language_model, prompts
from transformers import AutoModel, AutoModelForCausalLM

import seqconv
from seqconv import (
    SeqConvConfig,
    SeqConvForCausalLM,
    SeqConvForSequenceClassification,
    SeqConvModel,
    SeqConvVisionConfig,
)
from seqconv.hf import AUTO, VISION_AUTO
from seqconv.hf.saving.remote import SOURCE
from seqconv.hf.tokenizer import byte_tokenizer

ROOT = Path(__file__).parents[2]


@pytest.fixture
def saved(tmp_path):
    folder = tmp_path / "model"
    language_model(dtype=torch.float32, vocab_size=len(byte_tokenizer())).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def python(tmp_path):
    """Run code in a process of its own, where only ``path`` is added to what can be imported."""

    def run(code, *path):
        environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
        environment |= {"PYTHONPATH": os.pathsep.join(map(str, path)), "HF_HOME": str(tmp_path)}
        command = [sys.executable, "-W", "ignore", "-c", code]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)

    return run


LOADS = """
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, pipeline
options = {"trust_remote_code": True}
assert AutoConfig.from_pretrained(FOLDER, **options).auto_map
model = AutoModelForCausalLM.from_pretrained(FOLDER, **options)
assert type(model).__module__ == "seqconv.hf.tasks.language"
assert AutoModelForSequenceClassification.from_pretrained(FOLDER, num_labels=3, **options).num_labels == 3
write = pipeline("text-generation", model=FOLDER, **options)
print(repr(write("abc", max_new_tokens=4, do_sample=False, return_full_text=False)[0]["generated_text"]))
model.save_pretrained("again")
"""
PIPELINE = """
from transformers import pipeline
write = pipeline("text-generation", model=FOLDER, trust_remote_code=True)
print(repr(write("abc", max_new_tokens=4, do_sample=False, return_full_text=False)[0]["generated_text"]))
"""


@pytest.mark.parametrize(
    "code", [pytest.param(LOADS, id="Auto classes"), pytest.param(PIPELINE, id="pipeline", marks=pytest.mark.slow)]
)
def test_a_checkpoint_loads_without_an_import_of_seqconv(saved, python, code, tmp_path):
    done = python(f"FOLDER = {str(saved)!r}{code}", ROOT, ROOT / "kernels")
    assert done.returncode == 0, done.stderr
    model, tokenizer = SeqConvForCausalLM.from_pretrained(saved), byte_tokenizer()
    ids = tokenizer("abc", return_tensors="pt").input_ids
    written = model.generate(ids, max_new_tokens=4, do_sample=False)[0, ids.shape[1] :]
    assert done.stdout.strip() == repr(tokenizer.decode(written, skip_special_tokens=True))
    if code is LOADS:
        files = {path.name for path in (tmp_path / "again").iterdir()}
        assert files == {
            path.name for path in saved.iterdir() if "tokenizer" not in path.name and "jinja" not in path.name
        }
        assert (tmp_path / "again/modeling_seqconv.py").read_text() == SOURCE


EVERY = """
import sys, transformers
for auto, kind in AUTO.items():
    model = getattr(transformers, auto).from_pretrained(f"{FOLDER}/{auto}", trust_remote_code=True)
    assert type(model).__name__ == kind, auto
    base = transformers.AutoModel.from_pretrained(f"{FOLDER}/{auto}", trust_remote_code=True)
    print(auto, type(base).__name__, sum(p.sum().item() for p in base.parameters()))
"""
MODALITIES = {"Image": "image", "Video": "video", "Audio": "audio", "CTC": "audio"}


def test_every_head_loads_without_an_import_of_seqconv(python, tmp_path):
    want = {}
    for auto, name in AUTO.items():
        modality = next((kind for word, kind in MODALITIES.items() if word in auto), None)
        model = getattr(seqconv, name)(config(modality=modality, image_size=8))
        model.save_pretrained(tmp_path / "saved" / auto)
        want[auto] = sum(p.sum().item() for p in (model if auto == "AutoModel" else model.model).parameters())
    (tmp_path / "saved").rename(tmp_path / "moved")
    done = python(f"AUTO, FOLDER = {AUTO!r}, {str(tmp_path / 'moved')!r}{EVERY}", ROOT, ROOT / "kernels")
    assert done.returncode == 0, done.stderr
    found = dict(line.split(" SeqConvModel ") for line in done.stdout.splitlines())
    assert {auto: float(total) for auto, total in found.items()} == pytest.approx(want)


VISION = """
import transformers
for auto in AUTO:
    model = getattr(transformers, auto).from_pretrained(f"{FOLDER}/{auto}", trust_remote_code=True)
    print(auto, type(model).__name__, sum(p.sum().item() for p in model.parameters()))
"""


def test_every_model_of_maps_loads_without_an_import_of_seqconv(python, tmp_path):
    options = {"mixer": "gnconv", "dims": [8, 16], "depths": [1, 1]}
    want, autos = {}, [auto for auto in VISION_AUTO if auto != "AutoBackbone"]  # reads names of the Hub alone
    for auto in autos:
        sizes = {"num_channels": 1 if "Audio" in auto else 3, "num_labels": 2, "backbone_options": options}
        model = getattr(seqconv, VISION_AUTO[auto])(SeqConvVisionConfig(backbone_name="hierarchical", **sizes))
        model.save_pretrained(tmp_path / auto)
        want[f"{auto} {type(model).__name__}"] = sum(p.sum().item() for p in model.parameters())
    done = python(f"AUTO, FOLDER = {autos!r}, {str(tmp_path)!r}{VISION}", ROOT, ROOT / "kernels")
    assert done.returncode == 0, done.stderr
    found = dict(line.rsplit(" ", 1) for line in done.stdout.splitlines())
    assert {name: float(total) for name, total in found.items()} == pytest.approx(want)


PLAIN = (
    "from transformers import AutoModelForCausalLM\nAutoModelForCausalLM.from_pretrained({!r}, trust_remote_code={})"
)

HIDDEN = """
import sys
class NoSeqconv:
    def find_spec(self, name, path=None, target=None):
        if name == "seqconv":
            raise ModuleNotFoundError(f"No module named {name!r}")
sys.meta_path.insert(0, NoSeqconv())
"""


def test_without_the_flag_transformers_asks_for_it(saved, python):
    done = python(PLAIN.format(str(saved), False), ROOT, ROOT / "kernels")
    assert done.returncode != 0
    assert "Please pass the argument `trust_remote_code=True`" in done.stderr
    assert "out of date" not in done.stderr


def test_without_the_package_the_error_says_how_to_install_it(saved, python, tmp_path):
    """A finder that finds no seqconv makes the environment one without it, whatever is installed here."""
    done = python(HIDDEN + PLAIN.format(str(saved), True), tmp_path)
    assert done.returncode != 0
    assert "Run `pip install seqconv`" in done.stderr


def test_every_class_and_every_saved_configuration_is_named(tmp_path):
    SeqConvConfig().save_pretrained(tmp_path)
    names = json.loads((tmp_path / "config.json").read_text())["auto_map"]
    assert names["AutoConfig"] == "modeling_seqconv.SeqConvConfig"
    assert names["AutoModelForCausalLM"] == "modeling_seqconv.SeqConvForCausalLM"
    space: dict = {}
    exec((tmp_path / "modeling_seqconv.py").read_text(), space)
    assert space["__getattr__"]("SeqConvModel") is SeqConvModel


def test_a_class_of_seqconv_registered_again_is_named_and_not_copied(saved, tmp_path):
    SeqConvForCausalLM.register_for_auto_class("AutoModelForCausalLM")
    SeqConvConfig.register_for_auto_class()
    with pytest.raises(ValueError, match="not a valid auto class"):
        SeqConvForCausalLM.register_for_auto_class("AutoModelForNothing")
    model = AutoModelForCausalLM.from_pretrained(saved)
    model.save_pretrained(tmp_path / "again")
    assert [path.name for path in (tmp_path / "again").glob("*.py")] == ["modeling_seqconv.py"]
    assert isinstance(AutoModel.from_pretrained(tmp_path / "again"), SeqConvModel)


OWN = """
from seqconv import SeqConvForCausalLM

class Counting(SeqConvForCausalLM):
    def count(self):
        return 42
"""
SAVES = """
from tiny_model import Counting
from seqconv import SeqConvConfig
Counting.register_for_auto_class("AutoModelForCausalLM")
Counting(SeqConvConfig(vocab_size=17, hidden_size=8, num_hidden_layers=1)).save_pretrained("mine")
"""
READS = """
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
for folder in ("mine", "again"):
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    assert (type(model).__name__, model.count()) == ("Counting", 42)
    model.save_pretrained("again")
AutoModelForSequenceClassification.from_pretrained("mine", trust_remote_code=True).save_pretrained("plain")
"""


def test_a_class_of_the_user_travels_with_its_code(python, tmp_path):
    (tmp_path / "code").mkdir()
    (tmp_path / "code/tiny_model.py").write_text(OWN)
    for code, path in ((SAVES, [tmp_path / "code"]), (READS, [])):
        done = python(code, ROOT, ROOT / "kernels", *path)
        assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "again").glob("*.py")} == {"modeling_seqconv.py", "tiny_model.py"}
    assert {path.name for path in (tmp_path / "plain").glob("*.py")} == {"modeling_seqconv.py"}
    names = json.loads((tmp_path / "plain/config.json").read_text())["auto_map"]
    assert names["AutoModelForCausalLM"] == "modeling_seqconv.SeqConvForCausalLM"


def test_the_model_card_describes_the_model(tmp_path):
    options = {"layer_pattern": ["hyena", ["attention", {"window": 4}]], "training_data": "Letters drawn at random."}
    model = SeqConvForSequenceClassification(config(num_hidden_layers=2, mixer="s4d", mixer_options=None, **options))
    model.save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text()
    for words in (
        "library_name: transformers",
        "pipeline_tag: text-classification",
        "- hyena",
        "`attention` in 1 of 2",
    ):
        assert words in card
    parameters = sum(p.numel() for p in model.parameters())
    for words in ("2 layers of width 8", f"{parameters:,} parameters", "Letters drawn"):
        assert words in card
    assert "Poli et al. 2023: https://arxiv.org/abs/2302.10866" in card
    assert "from transformers import AutoModelForSequenceClassification" in card
    assert str(tmp_path) not in card
    language_model().save_pretrained(tmp_path)
    assert "AutoModelForCausalLM" in (tmp_path / "README.md").read_text(), "an old card of another model"
    (tmp_path / "README.md").write_text("My own words")
    model.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "My own words"
    again = SeqConvForSequenceClassification.from_pretrained(tmp_path)
    torch.testing.assert_close(again(prompts()).logits, model.eval()(prompts()).logits)
