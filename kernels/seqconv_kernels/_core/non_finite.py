"""Values that are not finite in sums over time that multiply them by zeros: transforms, masked matrix products.

They reach the outputs of their own row and channel from their own time on, and no earlier one.
"""

import torch
from torch import Tensor


def set_apart(x: Tensor, time: int) -> tuple[Tensor, Tensor]:
    """``x`` with zeros for its values that are not finite, and zeros that are NaN from such a value on along ``time``.

    The latter are added to what is computed from the former: ``0 x`` is NaN where x is not finite, and so are its sums.
    """
    return torch.where(x.isfinite(), x, 0.0), (0.0 * x).cumsum(time)
