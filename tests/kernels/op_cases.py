"""One call of every op, as a function of the batch and the length: what tests over all ops share.

Those of an op are in ``calls/<its folder>.py``.
"""

from importlib import import_module
from pathlib import Path
from typing import Any

from call_case import Case, complex_normal, normal

__all__ = ["CASES", "STEPS", "Case", "complex_normal", "normal"]


def _gather(table: str) -> dict[str, Case]:
    modules: list[Any] = [
        import_module(f"calls.{path.stem}") for path in sorted(Path(__file__).parent.glob("calls/*.py"))
    ]
    return {name: case for module in modules for name, case in getattr(module, table, {}).items()}


CASES = _gather("CASES")
STEPS = _gather("STEPS")
