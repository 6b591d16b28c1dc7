"""Linear attention with a diagonal plus low-rank transition, the generalised delta rule: see :mod:`.api`."""

from .api import dplr_delta_rule, dplr_delta_rule_step

__all__ = ["dplr_delta_rule", "dplr_delta_rule_step"]
