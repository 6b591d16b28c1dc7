"""Names of the parameters of a backbone inside a model of transformers that renames its own.

Readers of DETR and its relatives rename ``out_proj`` of the attention of older checkpoints to ``o_proj``, wherever it
occurs in the model: a backbone's ``out_proj`` would be left out of what is loaded. Renamings of a class of models
inside another follow those of the outer one; this one gives the backbone its names again. Files are not changed.
"""

from typing import Any

from torch import nn
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import WeightRenaming, WeightTransform

OUTER, OWN = "o_proj", "out_proj"
PATTERN, REPLACEMENT = rf"\.{OUTER}\.", f".{OWN}."

_CALLED_AS_OUTER: set[str] = set()
"""Names with ``o_proj`` that the backbones built last do have: a model is built just before its checkpoint is read."""


class OwnNames(WeightRenaming):
    """``o_proj`` to ``out_proj`` in a backbone inside another model, unless the backbone has the former."""

    __slots__ = ()

    def __init__(self, source_patterns: Any = PATTERN, target_patterns: Any = REPLACEMENT) -> None:
        super().__init__(source_patterns, target_patterns)

    def rename_source_key(self, source_key: str) -> tuple[str, str | None]:
        """As in transformers; nothing is renamed in a backbone by itself."""
        matched = self._scoped_match(source_key) if self.scope_prefix else None
        if matched is None or matched[1] in _CALLED_AS_OUTER:
            return source_key, None
        renamed: tuple[str, str | None] = super().rename_source_key(source_key)
        return renamed

    def reverse_transform(self) -> WeightTransform:
        """Nothing: names are saved as they are."""
        return OwnNames()


def keep_own_names(backbone: nn.Module) -> None:
    """Let the checkpoints of outer models find the parameters of this backbone."""
    names = list(backbone.state_dict())
    _CALLED_AS_OUTER.difference_update(name.replace(f".{OWN}.", f".{OUTER}.") for name in names if f".{OWN}." in name)
    _CALLED_AS_OUTER.update(name for name in names if f".{OUTER}." in name)
    register_checkpoint_conversion_mapping(type(backbone).__name__, [OwnNames()], overwrite=True)
