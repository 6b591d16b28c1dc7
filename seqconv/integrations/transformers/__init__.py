"""Models of transformers on seqconv's ops: :func:`accelerate`. Importing changes nothing.

transformers calls the kernels of ``mamba_ssm``, ``causal_conv1d`` and ``fla`` in some thirty families of models, and
falls back to loops in PyTorch where these packages are missing. :mod:`.functions` lists the kernels, :mod:`.patching`
where they are looked up, :mod:`.families` what was checked.
"""

from .acceleration import Acceleration, accelerate, active, overview
from .report import FamilyReport

__all__ = ["Acceleration", "FamilyReport", "accelerate", "active", "overview"]
