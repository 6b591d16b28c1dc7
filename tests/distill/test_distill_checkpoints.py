"""Checkpoints of other projects, and models with their layers, are distilled like any other."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from golden_cases import GOLDEN
from seqconv import SeqConvConfig, SeqConvForCausalLM
from seqconv.cli.app import app
from seqconv.convolution.replacement import long_convolutions
from seqconv.distill import distill
from seqconv.filters.state_space.modal import ModalFilter
from seqconv.interop import load_checkpoint

HYENA_DNA = GOLDEN / "hyenadna_checkpoint"


def run(*arguments):
    return CliRunner().invoke(app, ["distill", *(str(a) for a in arguments)])


def test_a_folder_of_hyena_dna_is_distilled_by_the_command(tmp_path):
    out = tmp_path / "out"
    result = run(HYENA_DNA, "-o", out, "--order", 32, "--no-plots")
    assert result.exit_code == 0, result.output
    assert result.stdout.strip().splitlines()[-1] == "2 of 2 convolutions, 12 of 12 channels distilled"
    model = AutoModelForCausalLM.from_pretrained(out)
    assert model.model.backbone.state_kind == "constant"
    expected = load_file(HYENA_DNA / "expected.safetensors")
    ids, want = expected["in.ids"], expected["out.logits"]
    difference = (model(ids).logits - want).norm() / want.norm()
    assert difference < 1e-3, "34 taps are nearly a recurrence of order 32"
    low = distill(load_checkpoint(HYENA_DNA), 2).model
    assert difference < (low(ids).logits - want).norm() / want.norm()
    tokens = model.generate(ids[:, :5], max_new_tokens=6, do_sample=False, eos_token_id=None)
    assert torch.equal(tokens, expected["out.greedy"])


def test_a_folder_without_a_tokenizer_cannot_be_calibrated(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("ACGT" * 100)
    result = run(HYENA_DNA, "-o", tmp_path / "out", "--order", 4, "--calibrate", text)
    assert result.exit_code == 1
    assert "without tokenizer_config.json" in result.stderr
    assert not (tmp_path / "out").exists()


EVO = [["striped_hyena", {"d_state": 8}], "attention", ["striped_hyena", {"d_state": 8}]]
EVO2 = [
    ["striped_hyena2", {"operator": "short"}],
    ["striped_hyena2", {"operator": "medium", "width": 40}],
    ["striped_hyena2", {"operator": "long"}],
    "attention",
]


@pytest.mark.parametrize(("layers", "places"), [(EVO, 2), (EVO2, 1)], ids=["evo", "evo2"])
def test_layers_of_striped_hyena_and_evo_are_reduced_between_attention(layers, places, tmp_path):
    torch.manual_seed(0)
    config = SeqConvConfig(vocab_size=12, d_model=16, n_layers=len(layers), layer_pattern=layers)
    model = SeqConvForCausalLM(config).double().eval()
    found = long_convolutions(model)
    done = distill(model, 4, length=64, recurrent=True, method="kung-varpro")
    assert len(done.certificates) == len([c for c in found.values() if c.state_kind != "none"]) >= places
    assert all(isinstance(c.filter, ModalFilter) for c in long_convolutions(done.model).values())
    assert all((c.order <= 4).all() for c in done.certificates.values())
    ids = torch.arange(24)[None] % 12
    want, got = model(ids).logits, done.model(ids).logits
    assert 0 < (got - want).norm() / want.norm() < 0.3
    done.model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded(ids).logits, got)
    tokens = loaded.generate(ids, max_new_tokens=9, do_sample=False)
    assert torch.equal(tokens, loaded.generate(ids, max_new_tokens=9, do_sample=False, use_cache=False))
