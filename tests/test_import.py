"""Importing the packages is quick and does nothing: no optional package, no compiling, no probing of devices."""

import json
import re
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest

from seqconv.hf import MODELS

ROOT = Path(__file__).parents[1]
PATHS = f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'kernels')!r}]\n"

TIMED = """
import time, torch, transformers
start = time.process_time()
import seqconv
print(time.process_time() - start)
"""

WATCHED = """
import json, subprocess, torch, transformers
before, called = set(sys.modules), []
torch.compile = lambda *a, **k: called.append("torch.compile")
subprocess.Popen.__init__ = lambda self, *a, **k: called.append(f"subprocess {a}")
torch.cuda.is_available = lambda: called.append("torch.cuda.is_available")
import seqconv, seqconv_kernels
print(json.dumps({"loaded": sorted(set(sys.modules) - before), "called": called}))
"""


def python(code: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *options, "-c", PATHS + code]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT / "tests")


def slowest(importtime: str) -> str:
    """The modules that ``import seqconv`` spent most of its own time in."""
    rows = re.findall(r"import time:\s+(\d+) \|\s+(\d+) \|( +)(\S+)", importtime)
    end = next(i for i, row in enumerate(rows) if row[2:] == (" ", "seqconv"))
    start = max(i for i, row in enumerate(rows[:end]) if row[2:] == (" ", "transformers"))
    spent = sorted(((int(own), name) for own, _, _, name in rows[start + 1 : end + 1]), reverse=True)
    return ", ".join(f"{name} {own / 1e3:.0f} ms" for own, name in spent[:10])


def test_import_costs_at_most_a_second_beyond_torch_and_transformers():
    """In processor time, which other work on the machine does not change much."""
    runs = [python(TIMED, "-X", "importtime")]
    if float(runs[0].stdout) > 1.0:
        runs += [python(TIMED, "-X", "importtime") for _ in range(2)]
    assert median(float(run.stdout) for run in runs) <= 1.0, slowest(runs[0].stderr)


@pytest.fixture(scope="module")
def needs_dispatcher() -> dict[str, list[str]]:
    return json.loads(python(WATCHED).stdout)


def test_import_compiles_nothing_and_probes_nothing(needs_dispatcher):
    assert needs_dispatcher["called"] == []


def test_import_loads_no_optional_package_and_nothing_heavy(needs_dispatcher):
    optional = {"triton", "mamba_ssm", "causal_conv1d", "fla", "datasets", "accelerate", "matplotlib", "tensorboard"}
    tools = {"typer", "rich", "lra", "pytest", "scipy", "seqconv_kernels._native"}
    assert not {name for name in needs_dispatcher["loaded"] if name in optional | tools}


def test_import_loads_no_importer_of_an_original(needs_dispatcher):
    loaded = [name for name in needs_dispatcher["loaded"] if name.startswith("seqconv.interop.")]
    assert set(loaded) <= {"seqconv.interop.importer"}


def test_names_of_the_front_door():
    """At most 25, each with what it is called in its own module; model classes not among them are found too."""
    import seqconv

    assert len(seqconv.__all__) <= 25
    assert set(seqconv.__all__) <= set(dir(seqconv))
    for name in {*seqconv.__all__, *MODELS} - {"distill"}:
        assert getattr(seqconv, name).__name__ == name
    with pytest.raises(AttributeError, match=r"'seqconv' has no attribute 'Nothing'"):
        seqconv.Nothing  # noqa: B018


def test_every_registered_class_is_a_name_of_the_package_of_mixers():
    from seqconv import list_mixers, mixers
    from seqconv.registry import mixer_entry

    for name in list_mixers():
        mixer = mixer_entry(name).mixer
        if mixer.__module__.startswith("seqconv."):
            assert getattr(mixers, mixer.__name__) is mixer
    for name in ("Mambo", "Tensor", "_private"):
        with pytest.raises(AttributeError, match=rf"no attribute '{name}'.*list_mixers"):
            getattr(mixers, name)


LAZY = """
import json
import seqconv
parts = ("mixers", "filters", "interop", "distill", "hf.model", "hf.tasks", "cli")
early = [name for name in sys.modules if name.startswith(tuple(f"seqconv.{part}" for part in parts))]
from seqconv.mixers import Mamba
files = [name for name, module in sys.modules.items() if not hasattr(module, "__path__")]
one = sorted(name for name in files if name.startswith("seqconv.mixers.") and name.count(".") > 2)
from seqconv.mixers import GatedLinearAttention, S4D, StripedHyena
mixers, same = sorted(seqconv.list_mixers()), seqconv.create_mixer("mamba", 8).__class__ is Mamba
# Python sets the name of a package to the module whenever one of its modules is imported: it stays a function.
from seqconv import create_mixer, distill
import torch
assert distill(create_mixer("hyena", 2, l_max=16), order=4).model.state_kind == "constant"
from seqconv.distill import distill as function
import seqconv.distill.certificates.certificate
assert distill.distill is function and seqconv.distill is distill
from seqconv.cli.stub import stubs
stale = [str(path) for path, text in stubs().items() if path.read_text() != text]
print(json.dumps([early, one, mixers, same, stale]))
"""


@pytest.fixture(scope="module")
def used() -> list:
    """What one process finds that imports names one after the other."""
    return json.loads(python(LAZY).stdout)


def test_names_are_imported_at_their_first_use(used):
    early, one, mixers, same, _ = used
    assert early == []
    assert one == ["seqconv.mixers.state_space.mamba"]
    assert {"gla", "mamba", "tcnca"} <= set(mixers)
    assert same


def test_the_stubs_hold_what_is_registered(used):
    """Mend with ``python -m seqconv.cli.stub``."""
    assert used[-1] == []
