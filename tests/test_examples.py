"""The scripts of examples/ run, in a small form."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from typer.testing import CliRunner

from seqconv import list_mixers
from seqconv.cli import app

EXAMPLES = Path(__file__).parents[1] / "examples"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_is_tested():
    tested = {"compare_mixers", "import_original", "train_causal_lm"}
    assert {path.stem for path in EXAMPLES.glob("*.py")} == tested


def test_compare_mixers_has_a_row_for_each(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    load("compare_mixers").main(d_model=8, length=32, pattern="*")
    table = capsys.readouterr().out
    for name in list_mixers():
        assert f"│ {name} " in table


def test_import_original_compares_outputs(capsys):
    load("import_original").main()
    assert "prefill and steps: largest difference" in capsys.readouterr().out


@pytest.mark.parametrize("mixer", ["mamba", "hyena"])
def test_a_trained_language_model_is_generated_from_by_the_command(mixer, tmp_path, capsys):
    sizes = {"steps": 4, "length": 32, "batch_size": 2, "width": 8, "layers": 2, "characters": 5000}
    text = load("train_causal_lm").main(mixer=mixer, out=tmp_path / "lm", **sizes)
    assert text.startswith("def ")
    result = CliRunner().invoke(
        app, ["generate", str(tmp_path / "lm"), "--prompt", "def ", "--max-new-tokens", "5", "--temperature", "1"]
    )
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("def ")
    assert len(result.stdout) > len("def ")
