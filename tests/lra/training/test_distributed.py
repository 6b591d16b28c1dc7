"""Two processes on the processor (gloo): the same training as in one, every sample counted once, one writer."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from distributed_worker import same
from lra.training.distributed import check_processes
from lra.training.metrics import read_lines
from lra.training.run import run
from tiny_run import tiny

pytestmark = pytest.mark.timeout(900)  # one start of three processes; half a minute of processor time


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Runs of two processes, and the same run in this one; the data is made by the first of the two."""
    folder, data = tmp_path_factory.mktemp("runs"), tmp_path_factory.mktemp("data")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [str(Path(__file__).parents[1] / "distributed_worker.py"), str(folder), str(data)]
    environment = os.environ | {"PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-4000:]
    assert [path.name.partition("-")[0] for path in data.glob("[!.]*")] == ["listops"]
    run(same(), folder / "alone", data_root=data, quiet=True)
    return folder


def _losses(folder):
    return [(line["step"], line["loss"]) for line in read_lines(folder / "metrics.jsonl") if "loss" in line]


@pytest.mark.parametrize("kind", ["ddp", "paused", "fsdp", "fsdp-paused"])
def test_two_processes_train_as_one(both, kind):
    alone, found = load_file(both / "alone/last/model.safetensors"), load_file(both / kind / "last/model.safetensors")
    for name, tensor in alone.items():
        assert torch.allclose(found[name], tensor, atol=1e-4), name
    if "paused" not in kind:  # a log restarts at a pause
        assert _losses(both / kind) == [(step, pytest.approx(loss, abs=1e-4)) for step, loss in _losses(both / "alone")]


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_every_sample_is_counted_once(both, kind):
    """70 and 64 rows over two processes; the last batch is not full."""
    alone, found = (json.loads((both / name / "result.json").read_text()) for name in ("alone", kind))
    assert sum(map(sum, found["confusion"])) == 64
    assert found["confusion"] == alone["confusion"]
    assert found["accuracy"] == alone["accuracy"]
    assert found["spent"]["processes"] == 2


@pytest.mark.parametrize("pair", [("ddp", "paused"), ("fsdp", "fsdp-paused")])
def test_paused_and_resumed_is_the_same_to_the_bit(both, pair):
    whole, resumed = (load_file(both / name / "last/model.safetensors") for name in pair)
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())
    found = json.loads((both / "found.json").read_text())
    assert found["resumed"] == found["ddp"]
    assert found["fsdp-resumed"] == found["fsdp"]
    assert found["again"]["val"] == found["ddp"]["val"]


def test_one_process_writes(both):
    assert [line["step"] for line in read_lines(both / "ddp" / "metrics.jsonl") if "eval_accuracy" in line] == [2, 4]
    assert json.loads((both / "ddp" / "run.json").read_text())["hardware"]["processes"] == "2"
    assert {path.name for path in (both / "ddp").iterdir()} == {
        "run.json", "metrics.jsonl", "result.json", "artifacts.npz", "checkpoints", "best", "last"
    }  # fmt: skip


def test_what_processes_cannot_share_is_rejected(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ValueError, match=r"batch_size=16, accumulate=1 on 3 processes; wanted a batch_size that"):
        check_processes(tiny())
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"parallel=fsdp with 2 processes on the processor; .*take parallel=ddp"):
        check_processes(tiny(parallel="fsdp"))
    with pytest.raises(ValueError, match=r"parallel 'fdsp'; wanted one of ddp, fsdp.*did you mean 'fsdp'"):
        tiny(parallel="fdsp")
