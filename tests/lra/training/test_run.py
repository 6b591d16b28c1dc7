"""Runs: one folder with everything, in any precision, compiled, tracked; budgets; and the demonstration's judgement."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

import lra.demo
from lra.demo import check_accuracy, check_reload, run_demo
from lra.models.build import build_model, parameter_groups
from lra.models.pairs import PairClassifier
from lra.recipes.catalog import create_recipe
from lra.recipes.recipe import Recipe
from lra.tasks import create_task
from lra.tasks.retrieval import FILES
from lra.training.budget import fit, parse_budget, seconds_per_step
from lra.training.evaluation import evaluate
from lra.training.metrics import read_lines
from lra.training.run import run
from tiny_run import SMALL, tiny


def test_a_run_notes_all_that_it_depends_on(finished, root):
    about = json.loads((finished.folder / "run.json").read_text())
    assert Recipe(**about["recipe"]) == tiny()
    assert about["data"]["fingerprint"] == create_task("listops-small", tiny().task_options).load(root).fingerprint
    assert about["data"]["sizes"] == SMALL
    assert {"torch", "transformers", "seqconv"} <= set(about["versions"])
    assert about["parameters"]["all"] == sum(p.numel() for p in finished.model.parameters())
    assert 0 < about["parameters"]["with own learning rate"] < about["parameters"]["all"]
    lines = read_lines(finished.folder / "metrics.jsonl")
    assert [line["step"] for line in lines if "eval_accuracy" in line] == [2, 4]
    assert all(line["cpu_s"] >= 0 for line in lines)


def test_the_result_holds_accuracies_and_of_baselines(finished):
    result = json.loads((finished.folder / "result.json").read_text())
    assert result["accuracy"] == finished.accuracy
    assert set(result["accuracy"]) == {"val", "test"}
    assert result["baselines"]["test"]["chance"] == 0.1
    assert sum(map(sum, result["confusion"])) == SMALL["test"]
    right = sum(row[label] for label, row in enumerate(result["confusion"]))
    assert right / SMALL["test"] == pytest.approx(result["accuracy"]["test"])


def test_checkpoints_load_through_auto_classes(finished, root):
    data = create_task("listops-small", tiny().task_options).load(root)
    check_reload(finished, data)
    last = AutoModelForSequenceClassification.from_pretrained(finished.folder / "last")
    assert last.config.num_labels == 10
    bias = list(finished.model.parameters())[-1]
    before = bias.detach().clone()
    with torch.no_grad():
        bias.add_(1e-3)
    with pytest.raises(ValueError, match=r"reload: received logits that differ by .*; wanted the same logits"):
        check_reload(finished, data)
    with torch.no_grad():
        bias.copy_(before)


def test_parameter_groups_follow_the_recipe(root):
    recipe = tiny(lr=0.02, special_lr=5e-4)
    data = create_task("listops-small", recipe.task_options)
    data.prepare(root, quiet=True)
    model = build_model(recipe, data.load(root))
    groups = parameter_groups(model, recipe)
    special = {id(p) for p in model.parameters() if getattr(p, "_optim", {}).get("lr") is not None}
    assert special
    for group in groups:
        for parameter in group["params"]:
            assert group["lr"] == (5e-4 if id(parameter) in special else 0.02)
            if id(parameter) in special:
                assert group["weight_decay"] == 0.0


def test_tokens_are_classified_too(root, tmp_path):
    changes = {"task.train": 64, "task.val": 16, "task.test": 16, "task.length": 8, "d_model": 8, "n_layers": 1}
    recipe = create_recipe("parity", "s4d").override(
        {"mixer.d_state": 4, "steps": 2, "eval_every": 2, "batch_size": 16, "warmup_steps": 1, **changes}
    )
    result = run(recipe, tmp_path / "run", data_root=root, quiet=True)
    assert 0 <= result.accuracy["test"] <= 1
    model = AutoModelForTokenClassification.from_pretrained(result.folder / "best")
    assert model(torch.zeros(1, 8, dtype=torch.int64)).logits.shape == (1, 8, 2)


def test_a_checkpoint_is_measured_again_as_it_was(finished, root):
    for split in ("val", "test"):
        assert evaluate(finished.folder, split, data_root=root, quiet=True) == finished.accuracy[split]
    assert 0 <= evaluate(finished.folder, "test", "last", data_root=root, quiet=True) <= 1
    with pytest.raises(ValueError, match=r"split 'tset'; wanted one of .*did you mean 'test'"):
        evaluate(finished.folder, "tset", data_root=root)
    with pytest.raises(ValueError, match=r"checkpoint 'lats'; wanted one of .*did you mean 'last'"):
        evaluate(finished.folder, "test", "lats", data_root=root)


def losses(folder: Path) -> list[float]:
    """Logged training losses."""
    return [line["loss"] for line in read_lines(folder / "metrics.jsonl") if "loss" in line]


def test_accumulated_batches_train_as_whole_ones(root, tmp_path):
    """With nothing that depends on a batch as a whole: norms of tokens, padding masked."""
    runs = [
        run(tiny(accumulate=n, norm="layer"), tmp_path / str(n), data_root=root, quiet=True, track=["tensorboard"])
        for n in (1, 2)
    ]
    assert losses(tmp_path / "1") == pytest.approx(losses(tmp_path / "2"), abs=1e-5)
    for one, two in zip(runs[0].model.parameters(), runs[1].model.parameters(), strict=True):
        assert torch.allclose(one, two, atol=1e-4)


def test_a_tracker_gets_the_losses(root, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(tiny(), tmp_path / "run", data_root=root, quiet=True, track=["tensorboard"])
    (events,) = (tmp_path / "run").glob("**/events.out.tfevents.*")
    tracked = EventAccumulator(str(events))
    tracked.Reload()
    assert [event.value for event in tracked.Scalars("train/loss")] == pytest.approx(losses(tmp_path / "run"), rel=1e-6)
    assert [event.step for event in tracked.Scalars("eval/accuracy")] == [2, 4]


def test_mixed_precision_keeps_wide_parameters(root, tmp_path):
    result = run(tiny(precision="bfloat16"), tmp_path / "run", data_root=root, quiet=True)
    assert all(p.dtype == torch.float32 for p in result.model.parameters())
    wide = run(tiny(), tmp_path / "wide", data_root=root, quiet=True)
    assert losses(tmp_path / "run") == pytest.approx(losses(tmp_path / "wide"), abs=0.05)
    assert losses(tmp_path / "run") != losses(tmp_path / "wide")
    assert not torch.equal(*(next(iter(each.model.parameters())) for each in (result, wide)))


COMPILED = """
import sys
from functools import partial
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from lra.training.run import run
from tiny_run import tiny
from lra.training import trainer
trainer.TrainingArguments = partial(trainer.TrainingArguments, torch_compile_backend="aot_eager")
run(tiny(compile=True, steps=2), Path(sys.argv[2]), data_root=Path(sys.argv[3]), quiet=True)
"""


@pytest.mark.timeout(900)  # half a minute of processor time; more on a busy machine
def test_a_compiled_run_is_loaded_without_compiling(root, tmp_path):
    """In a process of its own: the check of shapes at run time, which tests install, cannot be compiled.

    The graphs are captured and differentiated as ever, and run without generated code, which takes minutes to make.
    """
    plain = run(tiny(steps=2), tmp_path / "plain", data_root=root, quiet=True)
    arguments = [str(Path(__file__).parents[1]), str(tmp_path / "run"), str(root)]
    environment = os.environ | {"PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", COMPILED, *arguments], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    assert losses(tmp_path / "run") == pytest.approx(losses(plain.folder), abs=1e-4)
    best = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "best")
    for (name, tensor), reference in zip(best.state_dict().items(), plain.model.state_dict().values(), strict=True):
        assert torch.allclose(tensor, reference, atol=1e-3), name
    measured = json.loads((tmp_path / "run" / "result.json").read_text())["accuracy"]["val"]
    assert evaluate(tmp_path / "run", "val", data_root=root, quiet=True) == pytest.approx(measured, abs=0.02)


def test_pairs_are_read_by_two_towers(tmp_path):
    lines = [f"{i % 2}.0\ta\tb\ttext {i}\tanother one {i % 3}\n" for i in range(24)]
    (tmp_path / "source").mkdir()
    for name in FILES.values():
        (tmp_path / "source" / name).write_text("".join(lines))
    sizes = {"d_model": 8, "n_layers": 1, "steps": 2, "eval_every": 2, "batch_size": 8, "warmup_steps": 1}
    recipe = create_recipe("retrieval", "s4d").override(
        {"task.source": str(tmp_path / "source"), "mixer.d_state": 4, "mask_padding": "everywhere", **sizes}
    )
    result = run(recipe, tmp_path / "run", data_root=tmp_path / "data", quiet=True)
    model = PairClassifier.from_pretrained(result.folder / "best").eval()
    data = create_task("retrieval", recipe.task_options).load(tmp_path / "data")
    batch = data.collate([data.splits["test"][index] for index in range(4)])
    with torch.no_grad():
        logits = model(**batch).logits
        longer = {"input_ids": 0, "attention_mask": 0}
        padded = {
            n: torch.nn.functional.pad(v, (0, 5), value=longer[n]) if n in longer else v for n, v in batch.items()
        }
        assert torch.allclose(model(**padded).logits, logits, atol=1e-5)
        swapped = model(**{n: v.flip(1) if n in longer else v for n, v in batch.items()}).logits
    assert logits.shape == (4, 2)
    assert not torch.allclose(swapped, logits, atol=1e-5)
    with pytest.raises(ValueError, match=r"input_ids of shape \(4, 9\); wanted \(batch, 2, length\)"):
        model(torch.zeros(4, 9, dtype=torch.int64), torch.ones(4, 9, dtype=torch.int64))


def test_a_warm_up_may_rise_with_a_power(root, tmp_path):
    """MEGA's on Path-X: the square of the share of the warm-up that is done, then as without."""
    recipe = tiny(steps=8, warmup_steps=4, eval_every=8, schedule="linear", lr=0.01)
    rates = []
    for power in (1, 2):
        run(replace(recipe, warmup_power=power), tmp_path / str(power), data_root=root, quiet=True)
        lines = read_lines(tmp_path / str(power) / "metrics.jsonl")
        rates.append({line["step"]: line["learning_rate"] for line in lines if "learning_rate" in line})
    assert rates[0] == {s: pytest.approx(0.01 * min((s - 1) / 4, (9 - s) / 4)) for s in rates[0]}
    assert rates[1] == {s: pytest.approx(0.01 * (((s - 1) / 4) ** 2 if s < 5 else (9 - s) / 4)) for s in rates[0]}


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("10m", 600), ("1.5h", 5400)])
def test_budgets_are_read(text, seconds):
    assert parse_budget(text) == seconds


@pytest.mark.parametrize("text", ["10", "ten minutes", "0m", "-5m"])
def test_wrong_budgets_are_rejected(text):
    with pytest.raises(ValueError, match=r"--budget: .* a time such as 90s, 10m or 1.5h"):
        parse_budget(text)


def test_a_budget_cuts_the_steps_and_says_so():
    full = create_recipe("listops", "s4d")
    cut = fit(full, seconds=600, per_step=0.5)
    assert (cut.steps, cut.warmup_steps, cut.eval_every) == (1080, 14, 270)
    assert cut.reduced
    assert "80,000 steps cut to 1,080 by a budget of 600 s" in cut.source
    assert fit(full, seconds=1e9, per_step=0.5) == full
    with pytest.raises(ValueError, match=r"10 s for steps of 9.0 s; wanted time for two steps"):
        fit(full, seconds=10, per_step=9)


def test_steps_are_timed(root):
    assert 0 < seconds_per_step(tiny(), root) < 60


def test_the_demonstration_runs_and_checks(root, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(lra.demo, "create_recipe", lambda task, mixer: tiny())
    monkeypatch.setattr(lra.demo, "create_task", lambda task: create_task(task, tiny().task_options))
    monkeypatch.setattr(lra.demo, "MIXERS", ("s4d",))
    with pytest.raises(ValueError, match=r"demo with s4d: received \d+\.\d % on validation; wanted more than 33 %"):
        run_demo(tmp_path, root, quiet=True)
    assert (tmp_path / "report.html").exists()
    output = capsys.readouterr().out
    assert "same logits" in output
    assert "root operator" in output
    check_accuracy(0.331)
    with pytest.raises(ValueError, match="the convolution, its kernel or the optimiser groups are broken"):
        check_accuracy(0.33)
