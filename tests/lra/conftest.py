"""Data and a finished run, made once per module."""

import pytest

from lra.training.run import run
from tiny_run import tiny


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def finished(root, tmp_path_factory):
    return run(tiny(), tmp_path_factory.mktemp("runs") / "s4d", data_root=root, quiet=True)
