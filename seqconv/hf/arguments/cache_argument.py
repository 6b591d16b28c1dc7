"""The name of the cache among arguments and outputs: ``cache`` since transformers 5.24, ``past_key_values`` before.

Models here take either name, in every version; outputs and ``generate`` use the one of the version that is installed.

Source: ``modeling_outputs.py`` and ``generation/utils.py`` of transformers 5.23.0 and 5.24.0.
"""

from typing import Any

import transformers
from packaging.version import Version

from seqconv_kernels._core.errors import argument_error

FORMER, CURRENT = "past_key_values", "cache"
CACHE = CURRENT if Version(transformers.__version__).release >= (5, 24) else FORMER
"""The name that the installed version uses, by its number: importing outputs for their fields would load much code."""


def given_cache(model: str, past_key_values: Any, arguments: dict[str, Any]) -> Any:
    """The cache that a call was given under either name; taken out of ``arguments``.

    Raises:
        ValueError: both names hold one.
    """
    cache = arguments.pop(CURRENT, None)
    if cache is not None and past_key_values is not None:
        remedy = f"pass {CURRENT} alone"
        raise argument_error(model, f"{CURRENT} and {FORMER}", "one of them: they name the same", remedy)
    return past_key_values if cache is None else cache
