"""Runs that end early: killed, paused, diverged, out of disk space; and what a resumed run makes of them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification

import lra.training.trainer
from lra.training.checkpoints import last_checkpoint
from lra.training.metrics import read_lines
from lra.training.run import Paused, read_recipe, run, run_for
from tiny_run import assert_same, tiny

KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from transformers import TrainerCallback
import lra.training.run, lra.training
sys.path.insert(0, sys.argv[1])
from tiny_run import tiny

def die():
    os.kill(os.getpid(), signal.SIGKILL)

class Kill(TrainerCallback):
    def on_step_end(self, args, state, control, **_):
        if state.global_step == 3:
            die()

save = torch.save
def torn(value, path, *args, **kwargs):
    save(value, path, *args, **kwargs)
    if "checkpoint-4" in str(path):
        os.truncate(path, os.path.getsize(path) // 2)
        die()

if sys.argv[4] == "between":
    lra.training.trainer.StopAtNaN = Kill
else:
    torch.save = torn
lra.training.run.run(tiny(accumulate=int(sys.argv[5])), Path(sys.argv[2]), data_root=Path(sys.argv[3]), quiet=True)
"""


@pytest.mark.parametrize(("when", "accumulate"), [("between", 2), ("while writing", 1)])
def test_a_killed_run_resumes_to_the_same_bits(finished, root, tmp_path, when, accumulate):
    """SIGKILL after step 3 (checkpoint at 2), or while the checkpoint of step 4 is written."""
    if accumulate > 1:
        finished = run(tiny(accumulate=accumulate), tmp_path / "whole", data_root=root, quiet=True)
    folder = tmp_path / "run"
    _killed(folder, root, when, accumulate)
    assert last_checkpoint(folder).name == "checkpoint-2"
    assert (folder / "checkpoints" / "checkpoint-4").exists() == (when == "while writing")
    with pytest.raises(ValueError, match=r"run: received a run in .*; wanted a new folder.*python -m lra resume"):
        run(tiny(), folder, data_root=root, quiet=True)
    resumed = run(read_recipe(folder), folder, data_root=root, resume=True, quiet=True)
    assert_same(resumed, finished)


def _killed(folder: Path, root: Path, when: str, accumulate: int) -> None:
    """Run until SIGKILL."""
    arguments = [str(Path(__file__).parents[1]), str(folder), str(root), when, str(accumulate)]
    environment = {
        "PYTHONPATH": ":".join(sys.path),
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
        "PATH": os.environ["PATH"],
    }
    killed = subprocess.run([sys.executable, "-c", KILLED, *arguments], env=environment, capture_output=True)
    assert killed.returncode == -9, killed.stderr.decode()


def test_a_run_killed_after_its_last_step_takes_no_step_more(finished, root, tmp_path):
    """Between the checkpoint of the last step and the result, where a large test split takes minutes."""
    folder = tmp_path / "run"
    shutil.copytree(finished.folder, folder)
    (folder / "result.json").unlink()
    resumed = run(tiny(), folder, data_root=root, resume=True, quiet=True)
    assert_same(resumed, finished)
    assert max(line["step"] for line in read_lines(folder / "metrics.jsonl")) == 4
    assert last_checkpoint(folder).name == "checkpoint-4"


def test_a_run_pauses_when_its_time_is_up_and_goes_on(finished, root, tmp_path):
    folder, pieces = tmp_path / "run", []
    while not pieces or isinstance(pieces[-1], Paused):
        pieces.append(run_for(tiny(), folder, 0.0, data_root=root, resume=bool(pieces), quiet=True))
    assert [(piece.step, piece.steps) for piece in pieces[:-1]] == [(1, 4), (2, 4), (3, 4)]
    assert pieces[-1].accuracy == finished.accuracy
    for found, reference in zip(pieces[-1].model.parameters(), finished.model.parameters(), strict=True):
        assert torch.equal(found, reference)
    spent = [line["wall_s"] for line in read_lines(folder / "metrics.jsonl")]
    assert spent == sorted(spent)


def test_resume_rejects_a_changed_recipe_and_an_empty_folder(finished, root, tmp_path):
    with pytest.raises(ValueError, match=r"a changed recipe: lr=0.5 \(was 0.004\).*start a new run with --out"):
        run(tiny(lr=0.5), finished.folder, data_root=root, resume=True)
    with pytest.raises(ValueError, match=r"resume: received no run.json in"):
        run(tiny(), tmp_path, data_root=root, resume=True)


class PoisonWeights(lra.training.trainer.StopAtNaN):
    """A parameter that is no number any more, after step 3."""

    def on_step_end(self, args, state, control, model=None, **_):
        if state.global_step == 3:
            list(model.parameters())[-1].data.fill_(torch.nan)


class PoisonEvaluation(lra.training.trainer.StopAtNaN):
    """Weights that only an evaluation meets."""

    def on_step_end(self, args, state, control, model=None, **_):
        if state.global_step == 4:
            list(model.parameters())[-1].data.fill_(torch.nan)


@pytest.mark.parametrize(
    ("poison", "message"),
    [
        (PoisonWeights, r"train: received a gradient of nan at step 4; wanted finite numbers.*checkpoint-2 is kept"),
        (PoisonEvaluation, r"train: received eval_loss nan at step 4; wanted finite numbers.*checkpoint-2 is kept"),
    ],
)
def test_numbers_that_are_not_finite_stop_the_run_and_keep_the_checkpoint(root, tmp_path, monkeypatch, poison, message):
    monkeypatch.setattr(lra.training.trainer, "StopAtNaN", poison)
    with pytest.raises(ValueError, match=message):
        run(tiny(), tmp_path / "run", data_root=root, quiet=True)
    kept = last_checkpoint(tmp_path / "run")
    assert kept.name == "checkpoint-2"
    model = AutoModelForSequenceClassification.from_pretrained(kept)
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_a_checkpoint_begins_only_where_it_has_space(finished, root, tmp_path, monkeypatch):
    usage, folder = shutil.disk_usage, tmp_path / "run"

    def full(path):
        written = (folder / "checkpoints" / "checkpoint-2").exists()
        return usage(path)._replace(free=2000) if "checkpoints" in str(path) and written else usage(path)

    monkeypatch.setattr(shutil, "disk_usage", full)
    message = r"write a checkpoint: received a full disk at .*\(0.0 MB free, .* needed\); wanted space for it.*"
    with pytest.raises(ValueError, match=message + r"checkpoint-2 is intact; free some space.*python -m lra resume"):
        run(tiny(), folder, data_root=root, quiet=True)
    monkeypatch.undo()
    assert_same(run(tiny(), folder, data_root=root, resume=True, quiet=True), finished)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the device that is always full")
@pytest.mark.parametrize("file", ["optimizer.pt", "trainer_state.json"])
def test_a_disk_that_fills_up_while_writing_leaves_the_last_checkpoint(finished, root, tmp_path, file):
    """The operating system itself rejects the writes of the second checkpoint."""
    folder = tmp_path / "run"
    begun = folder / "checkpoints" / "checkpoint-4"

    class Fill(lra.training.trainer.StopAtNaN):
        def on_step_begin(self, args, state, control, **_):
            if state.global_step == 3:
                begun.mkdir()
                (begun / file).symlink_to("/dev/full")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lra.training.trainer, "StopAtNaN", Fill)
        with pytest.raises(ValueError, match=r"write a checkpoint: received a full disk at .*checkpoint-2 is intact"):
            run(tiny(), folder, data_root=root, quiet=True)
    assert_same(run(tiny(), folder, data_root=root, resume=True, quiet=True), finished)


def test_the_log_of_a_resumed_run_is_that_of_a_whole_one(root, tmp_path):
    """Checkpoints at steps 11 and 14, logs every second step: a mean loss never spans a checkpoint."""
    recipe = tiny(steps=14, eval_every=11)
    whole = run(recipe, tmp_path / "whole", data_root=root, quiet=True)
    shutil.copytree(whole.folder, tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut/checkpoints/checkpoint-14")
    run(recipe, tmp_path / "cut", data_root=root, resume=True, quiet=True)
    logged = []
    for name in ("whole", "cut"):
        lines = read_lines(tmp_path / name / "metrics.jsonl")
        logged.append(
            [{k: v for k, v in line.items() if not k.endswith(("_s", "_per_second", "time"))} for line in lines]
        )
    assert logged[0] == logged[1]
    losses = [line["loss"] for line in logged[0] if "loss" in line]
    assert [line["step"] for line in logged[0] if "loss" in line] == [2, 4, 6, 8, 10, 11, 12, 14]
    steps = [2, 2, 2, 2, 2, 1, 1, 2]
    assert logged[0][-1]["train_loss"] == pytest.approx(sum(map(float.__mul__, losses, map(float, steps))) / 14)
