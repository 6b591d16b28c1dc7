"""The Auto classes of transformers know the models, without their code being imported beforehand."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from tiny import config

import seqconv
from seqconv.hf import AUTO, MODELS

ROOT = Path(__file__).parents[2]
MODALITIES = {"Image": "image", "Video": "video", "Audio": "audio", "CTC": "audio"}
"""Words in the names of Auto classes, and the inputs of their models; the others read text."""


@pytest.mark.parametrize("auto", AUTO)
def test_every_task_has_its_auto_class(tmp_path, auto):
    wanted = getattr(seqconv, AUTO[auto])
    modality = next((m for word, m in MODALITIES.items() if word in auto), None)
    made = getattr(transformers, auto).from_config(config(modality=modality))
    assert type(made) is wanted
    made.save_pretrained(tmp_path)
    read = getattr(transformers, auto).from_pretrained(tmp_path)
    assert type(read) is wanted
    assert isinstance(transformers.AutoConfig.from_pretrained(tmp_path), seqconv.SeqConvConfig)


def test_stand_ins_are_what_they_stand_for():
    model = seqconv.SeqConvModel(config())
    stand_in = transformers.AutoModel._model_mapping[seqconv.SeqConvConfig]
    assert isinstance(model, stand_in)
    assert issubclass(seqconv.SeqConvModel, stand_in)
    assert not isinstance(torch.nn.Linear(1, 1), stand_in)
    assert type(stand_in(config())) is seqconv.SeqConvModel
    assert stand_in.__name__ == "SeqConvModel"


def test_registering_twice_does_nothing_more():
    before = transformers.AutoModelForCausalLM.from_config(config())
    seqconv.hf.register_auto_classes()
    assert type(transformers.AutoModelForCausalLM.from_config(config())) is type(before)


def test_importing_loads_no_modelling_code():
    code = f"""
import sys; sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "kernels")!r}]
import transformers
transformers.AutoModel
before = set(sys.modules)
import seqconv
light = {{"transformers.feature_extraction_utils", "transformers.models.auto.feature_extraction_auto"}}
heavy = [n for n in set(sys.modules) - before - light if n.startswith("transformers.")]
loaded = [n for n in sys.modules if n in {[f"seqconv.hf.{m}" for m in MODELS.values()]!r}]
print(heavy + loaded)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_unknown_names_raise():
    with pytest.raises(AttributeError, match="no attribute 'SeqConvForNothing'"):
        seqconv.SeqConvForNothing  # noqa: B018
