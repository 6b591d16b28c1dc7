"""Methods that find poles in one go, without refinement, by name."""

from collections.abc import Callable

from torch import Tensor

from .aaa import aaa
from .poles import balanced, era, prony

POLES: dict[str, Callable[[Tensor, int], Tensor]] = {"balanced": balanced, "era": era, "aaa": aaa, "prony": prony}
"""From responses after the head and an order to poles that are closed under conjugation."""
