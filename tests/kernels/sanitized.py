"""``python tests/kernels/sanitized.py FOLDER``: the tests of the kernels on the extension in another folder.

For a build with the sanitizers of the compiler. What starts a compiler, takes a million steps, or calls an
implementation in Python alone is left out.
"""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

OPS = Path(__file__).parents[2] / "kernels" / "seqconv_kernels"
LEFT_OUT = "not compil and not export and not opcheck and not million and not transforms and not long"

IN_PYTHON = {"reference", "chunked", "gathered"}
"""Implementations without C++."""


class OnlyNative:
    """A plugin that leaves out what is parametrized with an implementation in Python."""

    @staticmethod
    def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
        """Deselects by the parameter: names of tests that compare with the reference contain its word."""
        chosen = {item: getattr(item, "callspec", None) for item in items}
        left_out = [item for item, call in chosen.items() if call and call.params.get("implementation") in IN_PYTHON]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]


def main(folder: str) -> int:
    """Exit status of the tests."""
    (path,) = Path(folder).glob("_native*.so")
    spec = spec_from_file_location("seqconv_kernels._native", path)
    assert spec is not None
    assert spec.loader is not None
    sys.modules[spec.name] = module = module_from_spec(spec)
    spec.loader.exec_module(module)
    # A folder of C++ belongs to each of these ops; where its tests have a file of their own, that one is taken.
    # The package is not imported here: pytest warns of plugins that were imported before it, and warnings are errors.
    here, folders = Path(__file__).parent, OPS.glob("*/cpu")
    names = [folder.parent.name.lstrip("_") for folder in sorted(folders)]
    candidates = [(here / f"test_{name}_cpu.py", here / f"test_{name}.py") for name in names]
    files = [str(next(filter(Path.exists, paths))) for paths in candidates if any(map(Path.exists, paths))]
    files += [str(here / "test_storage_cpu.py"), str(here / "test_decoding_ops.py")]
    # Uncaptured: a sanitizer ends the process, and what it has to say would go with it.
    return pytest.main([*files, "-k", LEFT_OUT, "-p", "no:cacheprovider", "--capture=no"], plugins=[OnlyNative])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
