"""The seqconv command, through typer's runner."""

import inspect
import json
import shutil
from importlib.metadata import version

import pytest
import torch
from typer.testing import CliRunner

from seqconv import (
    SeqConvConfig,
    SeqConvForCausalLM,
    create_mixer,
    list_checkpoints,
    list_mixers,
    list_models,
    list_originals,
    mixer_config,
)
from seqconv.cli.app import app
from seqconv.cli.doctor import example_arguments, example_inputs, ops
from seqconv.hf.tokenizer import byte_tokenizer
from seqconv.vision import list_mixers_2d
from seqconv.vision.registry import mixer_2d_config
from seqconv.zoo import model_entry


@pytest.fixture
def run(monkeypatch):
    """Run a command line; lines wide enough that tables break no words."""
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *arguments: CliRunner().invoke(app, [str(a) for a in arguments])


def test_list_shows_every_mixer_with_its_state(run):
    result = run("list")
    assert result.exit_code == 0
    for name in list_mixers():
        row = next(line for line in result.stdout.splitlines() if f"│ {name} " in line)
        assert create_mixer(name, 8).state_kind in row


def test_list_takes_a_pattern(run):
    result = run("list", "mamba*")
    assert "│ mamba " in result.stdout
    assert "hyena" not in result.stdout


def test_list_of_one_mixer_shows_options_with_types_and_defaults(run):
    result = run("list", "hyena")
    assert result.exit_code == 0
    for option in mixer_config("hyena").__dataclass_fields__.values():
        row = next(line for line in result.stdout.splitlines() if f"│ {option.name} " in line)
        assert repr(option.default) in row
    assert "int | Literal[" in run("list", "mamba").stdout


def test_list_shows_the_published_models(run):
    result = run("list", "models", "vmamba*")
    row = next(line for line in result.stdout.splitlines() if "│ vmamba_tiny " in line)
    assert "82.6" in row
    assert "github.com/MzeroMiko/VMamba" in row
    assert "vim_tiny" not in result.stdout
    assert "did you mean 'vim_tiny'" in run("list", "models", "vim_tny").stderr
    assert "Remedy: write 'seqconv list models PATTERN'" in run("list", "mamba*", "x").stderr


def test_list_shows_2d_mixers_and_which_are_experimental(run):
    result = run("list", "2d")
    lines = [line for line in result.stdout.splitlines() if line.startswith("│ ")]
    assert [line.split()[1] for line in lines] == list_mixers_2d()
    assert [line.split()[1] for line in lines if "Experimental." in line] == ["hyper_kernel"]
    options = run("list", "2d", "hyper_kernel").stdout
    assert "│ statistics " in options
    assert "depends on the other images" in " ".join(options.split())
    assert "did you mean 'hashed'" in run("list", "2d", "hased").stderr


@pytest.mark.parametrize("columns", ["30", "80", None])
@pytest.mark.parametrize(
    "arguments", [("list", "models"), ("list",), ("list", "2d"), ("list", "hyena"), ("list", "2d", "hyper_kernel")]
)
def test_names_are_whole_at_any_width(monkeypatch, arguments, columns):
    """At 30 and 80 columns, and piped: there the rows are whole too."""
    if columns is None:
        monkeypatch.delenv("COLUMNS", raising=False)
    else:
        monkeypatch.setenv("COLUMNS", columns)
    shown = CliRunner().invoke(app, arguments).stdout
    config = mixer_2d_config("hyper_kernel") if "2d" in arguments else mixer_config("hyena")
    options = list(config.__dataclass_fields__)
    names = {("list", "models"): list_models(), ("list",): list_mixers(), ("list", "2d"): list_mixers_2d()}
    names = names.get(arguments, options)
    lines = [line.split("│")[1].strip() for line in shown.splitlines() if line.startswith("│")]
    assert [line for line in lines if line] == names
    assert "…" not in shown.replace("…`", "")  # as docstrings write it
    if columns is None:
        assert len(lines) == len(names)
    if arguments == ("list", "models") and columns is None:
        assert f" {model_entry(names[0]).source} " in shown


def test_list_shows_what_can_be_imported(run):
    assert run("list", "--originals").stdout.split("\n")[:-1] == list_originals()
    vmamba = run("list", "vmamba", "--originals").stdout.split()
    assert vmamba == [name for name in list_originals() if "vmamba" in name.lower()]
    assert "seqconv list: received 'nonsense'" in run("list", "nonsense", "--originals").stderr
    assert run("list", "--checkpoints").stdout.split() == list_checkpoints()


def test_version(run):
    assert run("--version").stdout.strip() == f"seqconv {version('seqconv')}"


@pytest.mark.parametrize("command", ["list", "doctor", "generate", "distill", "convert"])
def test_help_texts_lose_no_words(run, command):
    """Typer reads brackets as markup where it can: every help text is printed as it is written."""
    shown = " ".join(run(command, "--help").stdout.split())
    [entry] = [c for c in app.registered_commands if c.name == command or c.callback.__name__ == command]
    for parameter in inspect.signature(entry.callback).parameters.values():
        [info] = parameter.annotation.__metadata__
        assert " ".join(info.help.split()) in shown


def test_list_of_a_misspelt_mixer_names_the_nearest(run):
    result = run("list", "hyenna")
    assert result.exit_code == 1
    assert "did you mean 'hyena'" in result.stderr


def test_doctor_covers_every_op(run):
    result = run("doctor", "--device", "cpu", "--json")
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert torch.__version__.startswith(report["versions"]["torch"])
    assert report["accelerate"]["transformers"] == "in the range"
    assert "qwen3_next" in report["accelerate"]["families served"]
    assert [choice["op"] for choice in report["ops"]] == sorted(ops())
    for choice in report["ops"]:
        names = [i.name for i in ops()[choice["op"]].op.implementations]
        assert choice["taken"] in names
        assert all(choice["unsupported"].values()), "unsupported without a reason"
        assert {choice["taken"], *choice["unsupported"]} <= set(names)


def test_doctor_prints_tables(run):
    result = run("doctor", "--device", "cpu", "--dtype", "float64")
    assert result.exit_code == 0
    assert "ops on cpu, float64" in result.stdout
    assert "selective_scan" in result.stdout
    assert "threads" in result.stdout


def test_doctor_says_why_a_device_or_dtype_is_impossible(run):
    result = run("doctor", "--device", "nonsense")
    assert result.exit_code == 1
    assert "a device of this machine" in result.stderr
    result = run("doctor", "--dtype", "float31")
    assert result.exit_code == 1
    assert "float64, float32, bfloat16, float16" in result.stderr


@pytest.mark.parametrize("name", sorted(ops()))
def test_the_example_call_is_one_that_the_op_supports(name):
    entry = ops()[name]
    assert entry.op.report(example_inputs(name, "cpu", torch.float32))["reference"] is None
    entry.function(**example_arguments(name, "cpu", torch.float32))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    tokenizer = byte_tokenizer()
    torch.manual_seed(0)
    config = SeqConvConfig(vocab_size=len(tokenizer), hidden_size=8, num_hidden_layers=1, mixer="s4d")
    SeqConvForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_generate_writes_the_models_own_greedy_continuation(run, checkpoint):
    result = run("generate", checkpoint, "--prompt", "abc", "--max-new-tokens", 6, "--dtype", "float64")
    assert result.exit_code == 0, result.stderr
    model, tokenizer = SeqConvForCausalLM.from_pretrained(checkpoint).double().eval(), byte_tokenizer()
    tokens = tokenizer("abc", return_tensors="pt").input_ids
    for _ in range(6):
        tokens = torch.cat([tokens, model(tokens).logits[:, -1:].argmax(-1)], dim=1)
    assert result.stdout.strip() == tokenizer.decode(tokens[0], skip_special_tokens=True).strip()


def test_generate_samples_by_the_seed(run, checkpoint):
    def sample(seed):
        arguments = ["--prompt", "abc", "--max-new-tokens", 12, "--temperature", 1.5, "--seed", seed]
        return run("generate", checkpoint, *arguments).stdout

    assert sample(1) == sample(1)
    assert sample(1) != sample(2)


def test_generate_rejects_an_empty_prompt(run, checkpoint):
    result = run("generate", checkpoint, "--prompt", "")
    assert result.exit_code == 1
    assert "an empty prompt" in result.stderr
    result = run("generate", checkpoint, "--prompt", "a", "--device", "nonsense")
    assert "seqconv generate: received device 'nonsense'" in result.stderr


def test_generate_says_what_is_wrong_with_damaged_weights(run, checkpoint, tmp_path):
    shutil.copytree(checkpoint, tmp_path / "damaged")
    weights = tmp_path / "damaged" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:200])
    result = run("generate", tmp_path / "damaged", "--prompt", "a")
    assert result.exit_code == 1
    assert "Remedy:" in result.stderr
    assert result.stdout == ""


def test_generate_rejects_a_folder_without_a_checkpoint(run, tmp_path):
    result = run("generate", tmp_path / "nowhere", "--prompt", "a")
    assert result.exit_code == 1
    assert "without config.json" in result.stderr
    (tmp_path / "config.json").write_text("{}")
    result = run("generate", tmp_path, "--prompt", "a")
    assert result.exit_code == 1
    assert "without tokenizer_config.json" in result.stderr
