"""``seqconv convert``: what is written, in which dtype, verified against the original, whole or not at all."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3NextForCausalLM
from typer.testing import CliRunner

from foreign_checkpoints import assert_same_function, saved_mamba
from foreign_models import small_model
from golden_cases import GOLDEN
from seqconv.cli.app import app
from seqconv.hf.tokenizer import byte_tokenizer
from seqconv.interop.conversion import convert
from seqconv.interop.importer import Weights


def run(*arguments):
    return CliRunner().invoke(app, ["convert", *(str(a) for a in arguments)])


@pytest.fixture
def original(tmp_path):
    """A Mamba of transformers with a tokenizer and a generation configuration, and its folder."""
    model = saved_mamba(tmp_path / "mamba")
    model.generation_config.update(max_new_tokens=7)
    model.generation_config.save_pretrained(tmp_path / "mamba")
    byte_tokenizer().save_pretrained(tmp_path / "mamba")
    return model, tmp_path / "mamba"


def test_everything_is_written_and_loads_by_the_auto_classes(original, tmp_path):
    model, folder = original
    dest = tmp_path / "made"
    result = run(folder, dest, "--verify")
    assert result.exit_code == 0, result.output
    assert "logits as the original's" in result.stdout
    parameters = sum(p.numel() for p in model.parameters())
    assert f"mamba: {parameters:,} parameters in float32, with its tokenizer, written to {dest}" in result.stdout
    names = {path.name for path in dest.iterdir()}
    assert {"config.json", "model.safetensors", "generation_config.json", "tokenizer.json", "README.md"} <= names
    assert json.loads((dest / "config.json").read_text())["model_type"] == "seqconv"
    again = AutoModelForCausalLM.from_pretrained(dest).eval()
    assert_same_function(again, model)
    assert again.generation_config.max_new_tokens == 7
    assert AutoTokenizer.from_pretrained(dest)("né").input_ids == [110, 195, 169]
    assert "`mamba`" in (dest / "README.md").read_text()
    assert str(tmp_path) not in (dest / "README.md").read_text() + (dest / "config.json").read_text()


def test_a_name_of_the_configuration_may_be_ignored(original, tmp_path):
    _, folder = original
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"a_new_option": 1}))
    result = run(folder, tmp_path / "made", "--no-tokenizer")
    assert result.exit_code == 1
    assert "a_new_option" in result.stderr
    result = run(folder, tmp_path / "made", "--no-tokenizer", "--ignore-option", "a_new_option")
    assert result.exit_code == 0, result.output


def test_the_dtype_of_weights_may_be_another_one(original, tmp_path):
    _, folder = original
    result = run(folder, tmp_path / "made", "--dtype", "bfloat16", "--no-tokenizer", "--verify")
    assert result.exit_code == 0, result.output
    assert "in bfloat16, without a tokenizer" in result.stdout
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "made")
    assert model.get_input_embeddings().weight.dtype == torch.bfloat16
    assert model.model.backbone.layers[0].mixer.A_log.dtype == torch.float32
    assert not (tmp_path / "made/tokenizer.json").exists()


def test_verifying_leaves_half_precision_weights_as_they_were(tmp_path):
    model = small_model(Qwen3NextForCausalLM, tmp_path / "float32", num_experts=2, num_experts_per_tok=1, head_dim=8,
                        moe_intermediate_size=8, shared_expert_intermediate_size=8, linear_key_head_dim=8,
                        linear_value_head_dim=8, linear_num_key_heads=2, linear_num_value_heads=2)  # fmt: skip
    model.bfloat16().save_pretrained(tmp_path / "model")
    for name, verify in (("plain", False), ("verified", True)):
        written = convert(tmp_path / "model", tmp_path / name, verify=verify)
        assert written.dtype == torch.bfloat16
    a, b = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("plain", "verified"))
    assert a == b


def test_originals_that_transformers_lacks_are_converted_but_not_verified(tmp_path):
    folder = GOLDEN / "scan/fla_gla_checkpoint/ckpt"
    result = run(folder, tmp_path / "made", "--verify")
    assert result.exit_code == 1
    assert "which transformers cannot load" in result.stderr
    assert "Remedy: leave out verify" in result.stderr
    assert not (tmp_path / "made").exists()
    assert run(folder, tmp_path / "made").exit_code == 0


def test_a_wrong_import_is_found_and_nothing_is_written(original, tmp_path, monkeypatch):
    _, folder = original
    take = Weights.take
    monkeypatch.setattr(Weights, "take", lambda w, name: take(w, name) * (2 if name == "D" else 1))
    with pytest.raises(ValueError, match=r"logits that differ from the original's by .*Remedy"):
        convert(folder, tmp_path / "made", verify=True)
    assert not (tmp_path / "made").exists()


def test_a_save_that_fails_leaves_nothing(original, tmp_path, monkeypatch):
    _, folder = original

    def fail(*_, **__):
        raise OSError("no space")

    monkeypatch.setattr("transformers.PreTrainedTokenizerFast.save_pretrained", fail)
    with pytest.raises(OSError, match="no space"):
        convert(folder, tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_errors_say_what_to_do(original, tmp_path):
    _, folder = original
    assert "choose another" in run(folder, folder).stderr
    assert "no such folder" in run(tmp_path / "nowhere", tmp_path / "made").stderr
    assert "one of float64, float32" in run(folder, tmp_path / "made", "--dtype", "half").stderr
    assert run(folder, tmp_path / "made").exit_code == 0
    assert "a checkpoint of seqconv" in run(tmp_path / "made", tmp_path / "again").stderr
    (folder / "tokenizer.json").write_text("{")
    result = run(folder, tmp_path / "other")
    assert "--no-tokenizer" in result.stderr
    assert not (tmp_path / "other").exists()
    assert run(folder, tmp_path / "other", "--no-tokenizer").exit_code == 0
