"""How a checkpoint loads by itself, in a process that never imports seqconv: ``auto_map`` and a file of code.

``AutoModel….from_pretrained(folder, trust_remote_code=True)`` runs :data:`SOURCE`, which is written next to the
configuration. It imports the installed package, so the code of the model is never copied; where the package is
missing, transformers reads the import and says ``pip install seqconv``. transformers 5.23 loads no plugin or entry
point by itself, so that without the flag ``import seqconv`` is what registers the models.
"""

import os
from pathlib import Path

MODULE = "modeling_seqconv"
SOURCE = '''"""The models of this checkpoint are those of the installed package: pip install seqconv."""

from seqconv import hf


def __getattr__(name):
    return getattr(hf, name)
'''

_ALSO: dict[str, dict[str, str]] = {}


def register_for(configuration: str, auto_class: str, model: str) -> None:
    """Let checkpoints of a configuration name ``model`` for an Auto class beyond those that seqconv registers."""
    _ALSO.setdefault(configuration, {})[auto_class] = model


def auto_map(*configurations: str) -> dict[str, str]:
    """Auto classes of transformers and what they build for a class of configurations, as ``config.json`` has it.

    The class is the first of the names that seqconv registers: that of a subclass is followed by those of its bases.
    """
    from .. import AUTO, VISION_AUTO

    registered = {"SeqConvConfig": AUTO, "SeqConvVisionConfig": VISION_AUTO}
    configuration = next(name for name in configurations if name in registered)
    named = {"AutoConfig": configuration, **registered[configuration], **_ALSO.get(configuration, {})}
    return {auto: f"{MODULE}.{name}" for auto, name in named.items()}


def write_module(folder: str | os.PathLike[str]) -> None:
    """Write the file that :func:`auto_map` names."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    (Path(folder) / f"{MODULE}.py").write_text(SOURCE)
