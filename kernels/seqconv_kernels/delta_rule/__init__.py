"""Linear attention that corrects what it stored, the delta rule: see :mod:`.api`."""

from .api import delta_rule, delta_rule_step

__all__ = ["delta_rule", "delta_rule_step"]
