"""``seqconv distill``, and the checkpoints it writes."""

import pytest
import torch
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from seqconv import SeqConvConfig, SeqConvForCausalLM
from seqconv.cli.app import app
from seqconv.distill import distill
from seqconv.distill.checkpoint import load_certificates, save_distilled
from seqconv.hf.tokenizer import byte_tokenizer


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("hyena")
    tokenizer = byte_tokenizer()
    config = SeqConvConfig(
        vocab_size=len(tokenizer), d_model=8, n_layers=2, mixer="hyena", mixer_options={"l_max": 64, "emb_dim": 3}
    )
    SeqConvForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def run(*arguments):
    return CliRunner().invoke(app, ["distill", *(str(a) for a in arguments)])


def test_a_distilled_checkpoint_loads_through_the_auto_class(checkpoint, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("def convolve(u, h): return sum(h[s] * u[t - s] for s in range(t + 1))\n" * 8)
    out = tmp_path / "distilled"
    result = run(checkpoint, "-o", out, "--order", 8, "--calibrate", text)
    assert result.exit_code == 0, result.output
    assert "KL per token: predicted" in result.output
    rows = [line for line in result.output.splitlines() if "mixer" in line]
    assert len(rows) == 2, "a row for each filter, not for each channel"
    assert {"certificates.safetensors", "distillation.json", "distillation.txt"} <= {p.name for p in out.iterdir()}
    assert len(list((out / "plots").iterdir())) == 2
    original = AutoModelForCausalLM.from_pretrained(checkpoint)
    loaded = AutoModelForCausalLM.from_pretrained(out)
    assert original.model.backbone.state_kind == "growing"
    assert loaded.model.backbone.state_kind == "constant"
    ids = torch.arange(40)[None]
    want = distill(original, 8).model(input_ids=ids).logits
    torch.testing.assert_close(loaded(input_ids=ids).logits, want)
    tokens = loaded.generate(ids, max_new_tokens=5, do_sample=False)
    without = loaded.generate(ids, max_new_tokens=5, do_sample=False, use_cache=False)
    assert tokens.tolist() == without.tolist()


def test_certificates_are_read_back(checkpoint, tmp_path):
    distilled = distill(AutoModelForCausalLM.from_pretrained(checkpoint), tolerance=0.1)
    save_distilled(distilled, tmp_path / "out")
    read = load_certificates(tmp_path / "out")
    assert read.keys() == distilled.certificates.keys()
    for name, certificate in distilled.certificates.items():
        assert str(read[name]) == str(certificate)
        assert read[name].met.dtype == torch.bool
    with pytest.raises(ValueError, match=r"without certificates\.safetensors.*Remedy"):
        load_certificates(checkpoint)


def test_an_interrupted_save_leaves_nothing(checkpoint, tmp_path, monkeypatch):
    distilled = distill(AutoModelForCausalLM.from_pretrained(checkpoint), 2)

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("seqconv.distill.checkpoint.save_file", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_distilled(distilled, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match=r"save_distilled: received Hyena.*Remedy"):
        save_distilled(distill(distilled.model.model.backbone.layers[0].mixer, 2, length=64, recurrent=True), tmp_path)


def test_an_interrupted_command_leaves_nothing(checkpoint, tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    for part in ("seqconv.distill.model.distill_filter", "seqconv.distill.checkpoint.save_file"):
        with monkeypatch.context() as patch:
            patch.setattr(part, interrupt)
            assert run(checkpoint, "-o", tmp_path / "out", "--order", 2).exit_code != 0
        assert list(tmp_path.iterdir()) == []


def test_requests_that_make_no_sense_are_refused(checkpoint, tmp_path):
    empty, short, out = tmp_path / "empty.txt", tmp_path / "short.txt", tmp_path / "out"
    empty.write_text("")
    short.write_text("def f(): pass")
    cases = [
        (["-o", out], "exactly one of them"),
        (["-o", out, "--order", 4, "--tolerance", 0.1], "exactly one of them"),
        (["-o", out, "--state-budget", 64], "pass calibration"),
        (["-o", out, "--order", 4, "--calibrate", tmp_path / "none.txt"], "no calibration file"),
        (["-o", out, "--order", 4, "--calibrate", empty], "the empty file"),
        (["-o", out, "--order", 4, "--calibrate", short], "13 calibration tokens"),
        (["-o", checkpoint, "--order", 4], "choose another -o"),
        (["-o", out, "--tolerance", 2], "between 0 and 1"),
    ]
    for arguments, message in cases:
        result = run(checkpoint, *arguments)
        assert result.exit_code == 1
        assert message in result.stderr
        assert not out.exists()
