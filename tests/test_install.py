"""The package installs: plain, editable, and where the compiler fails.

The editable install is looked at where the tests run from one; the others need a network and are run by
pytest -m install.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from importlib.metadata import distribution
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

FACTS = """
import json, seqconv, seqconv_kernels
from seqconv_kernels._core import native
print(json.dumps({"seqconv": seqconv.__file__, "kernels": seqconv_kernels.__file__, "native": native.unavailable()}))
"""

EVERYTHING_RUNS = (ROOT / "tests" / "smoke.py").read_text(encoding="utf-8")


class Environment:
    """A virtual environment that sees the packages installed here, but not this installation of seqconv."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
        self.python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
        packages = subprocess.run(
            [self.python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip
        Path(packages, "installed_here.pth").write_text(sysconfig.get_path("purelib"))

    def install(self, *arguments: str, **environment: str) -> None:
        command = [sys.executable, "-m", "pip", "--python", str(self.python), "install", "--quiet", "--no-deps"]
        done = subprocess.run(
            [*command, "--ignore-installed", *arguments], cwd=self.folder, capture_output=True, text=True,
            env=os.environ | environment, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr

    def run(self, code: str) -> str:
        done = subprocess.run([self.python, "-P", "-c", code], cwd=self.folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    return Environment(tmp_path / "venv")


def built_files() -> set[Path]:
    return {path for folder in ("seqconv", "kernels", "lra") for path in (ROOT / folder).rglob("*.so")}


def has_compiler() -> bool:
    return any(shutil.which(name) for name in ("c++", "g++", "clang++"))


@pytest.mark.install
@pytest.mark.timeout(900)
def test_a_plain_install_holds_everything(environment):
    # Half of the instruction sets: the editable install, which the tests run from, compiles all of them.
    environment.install(str(ROOT), "--config-settings=cmake.define.SEQCONV_AVX512=OFF")
    facts = json.loads(environment.run(FACTS))
    assert all(Path(facts[name]).is_relative_to(environment.folder) for name in ("seqconv", "kernels"))
    assert (facts["native"] is None) == has_compiler(), facts["native"]
    command = environment.python.with_name("seqconv")
    listed = subprocess.run([command, "list"], cwd=environment.folder, capture_output=True, text=True, check=True)
    assert "hyena" in listed.stdout


def test_an_editable_install_uses_the_sources(tmp_path):
    origin = json.loads(distribution("seqconv").read_text("direct_url.json") or "{}")
    if not origin.get("dir_info", {}).get("editable"):
        pytest.skip("the tests do not run from an editable install")
    command = [sys.executable, "-P", "-c", FACTS]
    facts = json.loads(subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout)
    assert facts["seqconv"] == str(ROOT / "seqconv" / "__init__.py")
    assert facts["kernels"] == str(ROOT / "kernels" / "seqconv_kernels" / "__init__.py")
    assert (facts["native"] is None) == has_compiler(), facts["native"]
    assert not built_files(), "an editable install must not build into the sources"


@pytest.mark.install
@pytest.mark.timeout(900)
def test_an_install_whose_compiler_fails_runs_everything_on_references(environment):
    environment.install(str(ROOT), CXX=shutil.which("false") or "false")
    assert "C++ compiler" in json.loads(environment.run(FACTS))["native"]
    mixers, taken = environment.run(EVERYTHING_RUNS).split(maxsplit=1)
    assert int(mixers) >= 10
    assert "'cpu'" not in taken
