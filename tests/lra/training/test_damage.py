"""Damaged run folders: checkpoints set aside, one clear error each, nothing lost; one process at a time."""

import json
import shutil
from pathlib import Path

import pytest

from lra.data.store import exclusive
from lra.training.checkpoints import damage_of
from lra.training.evaluation import evaluate
from lra.training.run import read_recipe, run
from tiny_run import assert_same

NEWEST, BEFORE = "checkpoints/checkpoint-4", "checkpoints/checkpoint-2"
DAMAGES = {
    "optimizer.pt": "remove",
    "scheduler.pt": "remove",
    "trainer_state.json": "truncate",
    "model.safetensors": "flip",
    "rng_state.pth": "remove",
    "config.json": "append",
    "training_args.bin": "truncate",
    "files.json": "empty",
}


def _damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    path.unlink()
    changed = {
        "truncate": content[: len(content) // 2],
        "flip": content[:-1] + bytes([content[-1] ^ 1]),
        "append": content + b" ",
        "empty": b"",
    }
    if how != "remove":
        path.write_bytes(changed[how])


def _copy(finished, tmp_path) -> Path:
    """A finished run as it was before it ended, in another place."""
    folder = tmp_path / "run"
    shutil.copytree(finished.folder, folder)
    (folder / "result.json").unlink()
    return folder


@pytest.mark.parametrize(("name", "how"), DAMAGES.items())
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_tried(finished, root, tmp_path, caplog, name, how):
    folder = _copy(finished, tmp_path)
    _damage(folder / NEWEST / name, how)
    assert_same(run(read_recipe(folder), folder, data_root=root, resume=True, quiet=True), finished)
    (warning,) = [record.getMessage() for record in caplog.records if "is damaged" in record.getMessage()]
    assert f"checkpoint-4 is damaged ({'an unreadable ' if name == 'files.json' else ''}" in warning
    assert name in warning
    assert (folder / "checkpoints/damaged-checkpoint-4").is_dir()
    assert damage_of(folder / NEWEST) is None


@pytest.mark.parametrize(("name", "how"), DAMAGES.items())
def test_without_an_intact_checkpoint_nothing_is_lost(finished, root, tmp_path, name, how):
    folder = _copy(finished, tmp_path)
    for checkpoint in (NEWEST, BEFORE):
        _damage(folder / checkpoint / name, how)
    before = sorted(path for path in folder.rglob("*") if path.is_file())
    with pytest.raises(ValueError, match=rf"resume .*checkpoint-4: .*{name}.*checkpoint-2: .*; wanted an intact"):
        run(read_recipe(folder), folder, data_root=root, resume=True, quiet=True)
    assert sorted(path for path in folder.rglob("*") if path.is_file()) == before


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("run.json", b"{", r"resume: received an unreadable .*run.json"),
        ("run.json", b"[]", r"resume: received .*run.json with a list; wanted a JSON object"),
        ("run.json", b"{}", r"resume: received .*run.json without a recipe"),
        ("run.json", b'{"recipe": {"name": "a"}}', r"without a recipe .*missing .*'task'"),
        ("metrics.jsonl", b'{"step": 1}\nnothing\n{"step": 2}\n', r"read .*metrics.jsonl: received line 2: b'nothing'"),
        ("metrics.jsonl", b'{"step": 1}\n\xff\n{"step": 2}\n', r"read .*metrics.jsonl: received line 2"),
        ("metrics.jsonl", b"{}\n", r"read .*metrics.jsonl: received line 1"),
    ],
)
def test_damaged_files_of_a_run_give_one_clear_error(finished, root, tmp_path, name, content, message):
    folder = _copy(finished, tmp_path)
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        run(read_recipe(folder), folder, data_root=root, resume=True, quiet=True)
    assert (folder / name).read_bytes() == content


@pytest.mark.parametrize(("name", "how"), [("model.safetensors", "flip"), ("config.json", "remove")])
def test_a_damaged_model_is_not_evaluated(finished, root, tmp_path, name, how):
    folder = _copy(finished, tmp_path)
    _damage(folder / "best" / name, how)
    with pytest.raises(ValueError, match=rf"evaluate: received .*best: .*{name}.*; wanted an intact checkpoint"):
        evaluate(folder, data_root=root, quiet=True)


def test_a_moved_run_does_not_read_from_its_old_place(finished, root, tmp_path):
    folder = _copy(finished, tmp_path)
    shutil.rmtree(folder / NEWEST)
    resumed = run(read_recipe(folder), folder, data_root=root, resume=True, quiet=True)
    state = json.loads((folder / NEWEST / "trainer_state.json").read_text())
    assert state["best_model_checkpoint"].startswith(str(folder))
    assert_same(resumed, finished)


def test_one_process_trains_in_a_folder(finished, root, tmp_path):
    folder = _copy(finished, tmp_path)
    with exclusive(folder), pytest.raises(ValueError, match=r"run: received .*, which another process trains in"):
        run(read_recipe(folder), folder, data_root=root, resume=True, quiet=True)
    assert not folder.with_name(f".{folder.name}.lock").exists()
