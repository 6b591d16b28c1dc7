import jaxtyping
import pytest


@pytest.fixture
def unannotated():
    """Calls without the run-time check of annotations, so that the ops' own refusals are reached."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
