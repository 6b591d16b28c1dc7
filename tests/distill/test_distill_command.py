"""``seqconv distill``, and the checkpoints it writes."""

import re

import pytest
import torch
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from seqconv import SeqConvConfig, SeqConvForCausalLM
from seqconv.cli.app import app
from seqconv.cli.distill import print_summary
from seqconv.convolution.replacement import long_convolutions
from seqconv.distill import DistilledModel, distill, distill_filter
from seqconv.distill.checkpoint import load_certificates, save_distilled
from seqconv.filters.mixed import MixedFilter
from seqconv.hf.tokenizer import byte_tokenizer


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("hyena"), n_layers=2, l_max=64, emb_dim=3)


@pytest.fixture(scope="module")
def rough(tmp_path_factory):
    """With filters of full rank, none of which order 64 describes."""
    return saved(tmp_path_factory.mktemp("rough"), n_layers=1, l_max=200, emb_dim=33, w=10.0)


def saved(folder, n_layers, **options):
    torch.manual_seed(0)
    tokenizer = byte_tokenizer()
    config = SeqConvConfig(
        vocab_size=len(tokenizer), d_model=8, n_layers=n_layers, mixer="hyena", mixer_options=options
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
    read = byte_tokenizer()(text.read_text(), return_tensors="pt")["input_ids"]  # one row of 512
    want = distill(original, 8, calibration=read[:, :512]).model(input_ids=ids).logits
    torch.testing.assert_close(loaded(input_ids=ids).logits, want)
    tokens = loaded.generate(ids, max_new_tokens=5, do_sample=False)
    without = loaded.generate(ids, max_new_tokens=5, do_sample=False, use_cache=False)
    assert tokens.tolist() == without.tolist()


def test_channels_within_the_tolerance_are_distilled_and_the_others_stay_exact(rough, tmp_path):
    before = AutoModelForCausalLM.from_pretrained(rough)
    (found,) = distill(before, 64, fir_head=1, method="kung-varpro").certificates.values()
    tolerance = float((found.hinf_bound / found.norm_hinf).sort().values[3:5].mean())
    out = tmp_path / "mixed"
    result = run(rough, "-o", out, "--tolerance", tolerance, "--fir-head", 1, "--strict")
    assert result.exit_code == 1, "strict: not every channel is distilled"
    last = re.fullmatch(r"0 of 1 convolutions, (\d) of 8 channels distilled", result.stdout.strip().splitlines()[-1])
    assert last
    assert 4 <= int(last[1]) < 8
    assert len(list((out / "plots").iterdir())) == 1
    loaded = AutoModelForCausalLM.from_pretrained(out)
    (convolution,) = long_convolutions(loaded).values()
    assert isinstance(convolution.filter, MixedFilter)
    assert len(convolution.filter.exact_channels) == 8 - int(last[1])
    ids = torch.arange(40)[None]
    want = before(input_ids=ids).logits
    assert 0 < (loaded(input_ids=ids).logits - want).abs().max() < 0.5 * want.abs().max()
    tokens = loaded.generate(ids, max_new_tokens=9, do_sample=False)
    assert tokens.tolist() == loaded.generate(ids, max_new_tokens=9, do_sample=False, use_cache=False).tolist()
    loaded.save_pretrained(tmp_path / "again")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "again")
    assert torch.equal(again(input_ids=ids).logits, loaded(input_ids=ids).logits)


def test_nothing_is_written_where_nothing_was_distilled(rough, tmp_path):
    out, options = tmp_path / "out", ("--tolerance", 1e-6, "--fir-head", 1)
    result = run(rough, "-o", out, *options)
    assert result.exit_code == 0, result.output
    assert not out.exists()
    assert "nothing is written" in result.output
    assert result.stdout.strip().splitlines()[-1] == "0 of 1 convolutions, 0 of 8 channels distilled"
    assert run(rough, "-o", out, *options, "--write-unchanged", "--no-plots").exit_code == 0
    same, before = (AutoModelForCausalLM.from_pretrained(folder) for folder in (out, rough))
    assert all(torch.equal(a, b) for a, b in zip(same.parameters(), before.parameters(), strict=True))


def test_a_channel_of_zeros_has_no_relative_error(capsys):
    certificate = distill_filter(torch.zeros(2, 20), 4).certificate
    print_summary(DistilledModel(torch.nn.Identity(), {"convolution": certificate}, ()))
    assert "worst relative error 0" in capsys.readouterr().out


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


def test_requests_that_make_no_sense_raise(checkpoint, tmp_path):
    empty, short, out = tmp_path / "empty.txt", tmp_path / "short.txt", tmp_path / "out"
    empty.write_text("")
    short.write_text("def f(): pass")
    cases = [
        (["-o", out], "exactly one of them"),
        (["-o", out, "--order", 4, "--tolerance", 0.1], "exactly one of them"),
        (["-o", out, "--state-budget", 64], "pass --calibrate FILE"),
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
